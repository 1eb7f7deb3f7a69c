"""Scale: traces that do not fit in memory, or on one machine.

A trace is one Parquet file or a folder of them, with the columns device (a name, or a number that
counts in the lab's devices), iova, size and write. It is cut into pieces of whole row groups. A
piece is read a batch at a time, judged, and written as one Parquet file of verdicts (``code``,
uint8) and addresses (``addr``, uint64), row for row.

What makes it safe to stop anywhere: a piece's file appears under its name only when it is whole,
carries its own summary, and is the same whoever writes it. So a run that was interrupted goes on
where it was, and a task that a cluster runs twice does no harm.

One process does it by itself; with a dask ``Client`` the same function runs on every worker, the
compiled tables being sent to each of them once. Only summaries come back.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from .dma import Checker
from .errors import unknown
from .verdict import Verdict

BATCH = 1 << 20
"""Rows in memory at a time."""
PIECE = 1 << 23
"""Rows after which a new piece begins, at the next row group."""
FIRST = 10
"""Faults of each kind that a summary keeps."""
COLUMNS = ("device", "iova", "size", "write")
SUMMARY = b"iommu_lab"
# Addresses share their high bytes and never repeat: split by byte they pack well, and quickly.
WRITTEN = {
    "compression": "lz4",
    "use_dictionary": ["code"],
    "column_encoding": {"addr": "BYTE_STREAM_SPLIT"},
}


class Piece(NamedTuple):
    """Row groups ``first`` up to ``after`` of one file, whose rows count from ``row`` on."""

    path: str
    first: int
    after: int
    row: int
    rows: int

    @property
    def name(self) -> str:
        return f"{Path(self.path).stem}-{self.first:05d}.parquet"


class Fault(NamedTuple):
    """A DMA that was stopped: where it is in the trace, and what it was."""

    file: str
    row: int
    device: str
    iova: int
    size: int
    write: bool
    fault_iova: int


@dataclass
class Summary:
    """How many of each verdict, and the first faults of each kind in the order of the trace."""

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)

    def add(self, other: Summary) -> None:
        self.rows += other.rows
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        for name, faults in other.faults.items():
            self.faults[name] = sorted([*self.faults.get(name, ()), *faults])[:FIRST]

    def to_json(self) -> str:
        ordered = {v.name: self.counts[v.name] for v in Verdict if v.name in self.counts}
        said = {"rows": self.rows, "counts": ordered, "faults": dict(sorted(self.faults.items()))}
        return json.dumps(said, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Summary:
        said = json.loads(text)
        faults = {name: [Fault(*f) for f in some] for name, some in said["faults"].items()}
        return cls(said["rows"], said["counts"], faults)


Progress = Callable[[int, int], None]
"""Called with the rows that are done and the rows of all."""


def pieces(trace: str | Path) -> list[Piece]:
    """The pieces of a trace, in order; ValueError where it is no trace."""
    import pyarrow.parquet as pq

    path = Path(trace)
    if not path.exists():
        raise ValueError(f"{path} does not exist; a trace is a Parquet file or a folder of them")
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no .parquet files")
    if len({file.stem for file in files}) < len(files):
        raise ValueError(f"{path} holds two files of one name")
    found = []
    for file in files:
        try:
            whole = pq.ParquetFile(file)
        except ValueError as error:  # as pyarrow.ArrowInvalid is
            raise ValueError(f"{file} is no Parquet file: {error}") from None
        for column in COLUMNS:
            if column not in whole.schema_arrow.names:
                raise ValueError(
                    f"{file} has no column {column!r}; a trace has {', '.join(COLUMNS)}"
                )
        sizes = [whole.metadata.row_group(g).num_rows for g in range(whole.num_row_groups)]
        first = row = rows = 0
        for group, size in enumerate(sizes):
            rows += size
            if rows >= PIECE or group + 1 == len(sizes):
                found.append(Piece(str(file.resolve()), first, group + 1, row, rows))
                first, row, rows = group + 1, row + rows, 0
    return found


def check_piece(
    piece: Piece,
    checker: Checker,
    out: str,
    batch: int = BATCH,
    threads: int | None = 1,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Judge one piece and leave its file in ``out``; the whole task, on any worker.

    Rows are read and written ``batch`` at a time, which shows in the file.

    ValueError with the file and the row for what is no access; then there is no file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    final = Path(out) / piece.name
    done = _summary_in(final)
    if done is not None:
        return done
    schema = pa.schema([("code", pa.uint8()), ("addr", pa.uint64())])
    # A name of its own, since the same task may be running elsewhere too.
    partial = final.with_name(f".{final.name}.{uuid4().hex}")
    summary, row = Summary(), piece.row
    try:
        sink = pq.ParquetWriter(partial, schema, **WRITTEN)
        with pq.ParquetFile(piece.path) as source, sink:
            groups = range(piece.first, piece.after)
            for rows in source.iter_batches(batch, row_groups=groups, columns=list(COLUMNS)):
                try:
                    columns = [_column(checker, rows, name) for name in COLUMNS]
                    code, addr = checker.check(*columns, threads=threads)
                except ValueError as error:
                    raise ValueError(f"{piece.path}: {_counted_from(row, error)}") from None
                sink.write_batch(pa.record_batch([code, addr], schema=schema))
                summary.add(_summary(checker, piece, row, columns, code, addr))
                row += len(code)
                if progress:
                    progress(len(code))
            sink.add_key_value_metadata({SUMMARY: summary.to_json()})
        os.replace(partial, final)
    finally:
        partial.unlink(missing_ok=True)
    return summary


def check_trace(
    checker: Checker,
    trace: str | Path,
    out: str | Path,
    *,
    client: Any = None,
    progress: Progress | None = None,
) -> Summary:
    """Judge a whole trace; verdicts stay in ``out``, the summary comes back.

    ``client`` is a dask client whose workers see ``trace`` and ``out`` under the same names. What
    an earlier run of the same checker and trace has left in ``out`` is not done again; another
    check's results there are refused.
    """
    waiting = pieces(trace)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; verdicts go into a folder")
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, checker, waiting)
    total = sum(piece.rows for piece in waiting)
    summary = Summary()

    def told(rows: int) -> None:
        if progress:
            progress(rows, total)

    done = _on_cluster if client is not None else _here
    for one in done(waiting, checker, str(folder.resolve()), client, told, summary):
        summary.add(one)
        told(summary.rows)
    for left_behind in folder.glob(".*.parquet.*"):  # by a worker that was killed
        left_behind.unlink(missing_ok=True)
    _write(folder / "summary.json", summary.to_json())
    return summary


def _here(
    waiting: list[Piece],
    checker: Checker,
    out: str,
    client: None,
    told: Callable[[int], None],
    summary: Summary,
) -> Iterator[Summary]:
    for piece in waiting:
        within = 0

        def batch_done(rows: int) -> None:
            nonlocal within
            within += rows
            told(summary.rows + within)

        yield check_piece(piece, checker, out, BATCH, None, batch_done)


def _on_cluster(
    waiting: list[Piece],
    checker: Checker,
    out: str,
    client: Any,
    told: Callable[[int], None],
    summary: Summary,
) -> Iterator[Summary]:
    distributed: Any = import_module("distributed")  # typed only in part
    sent = client.scatter(checker, broadcast=True, hash=False)
    # Not pure: a file may have gone since a result was remembered.
    tasks = client.map(check_piece, waiting, checker=sent, out=out, batch=BATCH, pure=False)
    try:
        for task in distributed.as_completed(tasks):
            yield task.result()
            task.release()
    finally:
        client.cancel(tasks)


def _column(checker: Checker, rows: Any, name: str) -> NDArray[Any]:
    """One column as numpy has it; nulls and names of devices are dealt with here."""
    import pyarrow as pa

    column = rows.column(name)
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(f"row {row}: {name} is missing")
    if name == "device" and not pa.types.is_integer(column.type):
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        number = {device: index for index, device in enumerate(checker.devices)}
        names = column.dictionary.to_pylist()
        index = np.array([number.get(device, len(number)) for device in names], np.uint32)
        of_row = index[column.indices.to_numpy(zero_copy_only=False)]
        strange = of_row == len(number)
        if strange.any():
            row = int(np.argmax(strange))
            raise ValueError(f"row {row}: {unknown('device', column[row].as_py(), number)}")
        return np.asarray(of_row)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _counted_from(row: int, error: ValueError) -> str:
    """What the checker says of a row of one batch, with the row's number in the file."""
    return re.sub(r"^row (\d+)", lambda found: f"row {row + int(found[1])}", str(error))


def _summary(
    checker: Checker,
    piece: Piece,
    row: int,
    columns: list[NDArray[Any]],
    code: NDArray[np.uint8],
    addr: NDArray[np.uint64],
) -> Summary:
    counts = np.bincount(code, minlength=len(Verdict))
    met = [Verdict(n) for n in np.flatnonzero(counts).tolist()]
    summary = Summary(len(code), {v.name: int(counts[v]) for v in met})
    device, iova, size, write = columns
    for verdict in met:
        if not verdict.passes:
            at = np.flatnonzero(code == verdict)[:FIRST].tolist()
            summary.faults[verdict.name] = [
                Fault(
                    Path(piece.path).name,
                    row + i,
                    checker.devices[int(device[i])],
                    int(iova[i]),
                    int(size[i]),
                    bool(write[i]),
                    int(addr[i]),
                )
                for i in at
            ]
    return summary


def _summary_in(path: Path) -> Summary | None:
    """The summary of a piece that is done; None where it is not."""
    import pyarrow.parquet as pq

    if not path.exists():
        return None
    return Summary.from_json(pq.read_metadata(path).metadata[SUMMARY])


def _claim(folder: Path, checker: Checker, waiting: list[Piece]) -> None:
    """Make sure that what is in ``folder`` belongs to this check and to no other."""
    digest = hashlib.sha256(
        repr((checker.devices, [p._replace(path="") for p in waiting])).encode()
    )
    digest.update(checker.which.tobytes())
    for partition in checker.partitions:
        digest.update(partition.start.tobytes() + partition.record.tobytes())
    for piece in waiting:
        seen = os.stat(piece.path)
        digest.update(f"{piece.name} {seen.st_size} {seen.st_mtime_ns}".encode())
    mark = folder / "check.json"
    said = json.dumps({"check": digest.hexdigest()})
    if mark.exists():
        if mark.read_text(encoding="utf-8") != said:
            raise ValueError(
                f"{folder} holds the results of another check; name a folder that is empty"
            )
    elif any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no results; name another folder")
    else:
        _write(mark, said)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{uuid4().hex}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


# -- the command -----------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """``iommu-lab check``: judge a trace under a scenario."""
    parser = argparse.ArgumentParser(
        prog="iommu-lab check",
        description="Judge every DMA of a trace by the hardware that a scenario ends in.",
        epilog="A trace is a Parquet file, or a folder of them, with the columns device (a name "
        "or a number), iova, size and write. Stopped runs go on where they were.",
    )
    parser.add_argument("scenario", help="a scenario file, TOML")
    parser.add_argument("trace", help="a Parquet file or a folder of them")
    parser.add_argument("-o", "--out", required=True, help="where the verdicts go, as Parquet")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=_one_or_more, help="run on so many processes of this machine"
    )
    where.add_argument("--scheduler", help="run on the dask cluster at this address")
    given = parser.parse_args(argv)
    try:
        from .scenario import Scenario

        checker = Checker.from_lab(Scenario.load(given.scenario).lab())
        bar = Bar()
        with _client(given.workers, given.scheduler) as client:
            summary = check_trace(checker, given.trace, given.out, client=client, progress=bar)
        bar.close()
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"iommu-lab check needs {error.name}: install iommu_lab[scale]", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        says = str(error)
        if isinstance(error, OSError) and error.filename:
            says = f"{error.filename}: {error.strerror}"
        print(f"iommu-lab check: {says}", file=sys.stderr)
        return 2
    print(report(summary))
    return 0


def _one_or_more(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"a number of workers is wanted, got {word!r}")
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} workers do nothing; one or more are needed")
    return number


def _client(workers: int | None, scheduler: str | None) -> Any:
    if workers is None and scheduler is None:
        return nullcontext()
    distributed: Any = import_module("distributed")

    if scheduler is not None:
        return distributed.Client(scheduler)
    return distributed.Client(n_workers=workers, threads_per_worker=1, dashboard_address=None)


def report(summary: Summary) -> str:
    """The summary for a person."""
    lines = [f"{summary.rows:,} accesses"]
    for verdict in Verdict:
        count = summary.counts.get(verdict.name, 0)
        if count:
            lines.append(f"{count:>16,}  {verdict.name}")
            lines += [
                f"{'':18}{f.file} row {f.row}: {f.device} "
                f"{'writes' if f.write else 'reads'} {f.size:#x} bytes at {f.iova:#x}"
                + (f", stopped at {f.fault_iova:#x}" if verdict is Verdict.PARTIAL else "")
                for f in summary.faults.get(verdict.name, [])[:3]
            ]
    return "\n".join(lines)


class Bar:
    """A progress bar on a terminal; silent where nobody watches."""

    def __init__(self) -> None:
        self.began = self.drawn = time.monotonic()
        self.shown = sys.stderr.isatty()

    def __call__(self, rows: int, total: int) -> None:
        now = time.monotonic()
        if not self.shown or (now - self.drawn < 0.1 and rows < total):
            return
        self.drawn = now
        rate = rows / max(now - self.began, 1e-9)
        part = rows / max(total, 1)
        left = (total - rows) / max(rate, 1e-9)
        print(
            f"\r[{'#' * int(30 * part):<30}] {part:4.0%}  {rows:,} rows, "
            f"{rate / 1e6:.1f} M/s, {left:.0f} s left ",
            end="",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        if self.shown:
            print(file=sys.stderr)
