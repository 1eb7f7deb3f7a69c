"""Past memory and past one process: a long trace, two workers, and one of them killed.

python -m benchmarks.cluster             10^8 rows, in some minutes; 2.2 GB of disk for a while
python -m benchmarks.cluster --save      also write cluster.md, cluster.csv and docs/scale.md
python -m benchmarks.cluster --rows N    another length
    --folder DIR                         where the trace and the verdicts are made

The same trace is judged three times: by one process, by a dask LocalCluster of two workers with a
thread each, and by such a cluster one of whose workers is killed in the middle. The three have to
leave the same bytes. Half of the files are random and half local.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iommu_lab.dma import Checker
from iommu_lab.scale import Summary, check_trace, pieces

from . import saved, workload

COMMAND = "python -m benchmarks.cluster --save"
FILES, DEVICES, MAPPINGS = 25, 16, 100_000
BYTES_A_ROW = 22  # of disk: the trace, and the verdicts three times


class Way(NamedTuple):
    """One way to judge the trace, and what it took; all as text."""

    way: str
    rows: str
    wall: str  # seconds
    rate: str  # millions of rows a CPU-second; nothing where a process died with its count
    memory: str  # GB that one process held at most


saved.HEADS[Way] = "way|rows|wall, s|M rows a CPU-second|GB held at most"


def checker() -> Checker:
    made = workload.mappings(MAPPINGS, DEVICES)
    hardware = workload.hardware(made, DEVICES)
    return Checker(hardware, hardware.entries)


def make_trace(folder: Path, rows: int) -> None:
    """Files p000.parquet and so on, random ones and local ones in turn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    made = workload.mappings(MAPPINGS, DEVICES)
    for number in range(FILES):
        pattern = ("random", "local")[number % 2]
        some = workload.trace(rows // FILES, made, DEVICES, pattern, seed=number)
        columns = {**some._asdict(), "device": some.device.astype(np.uint16)}
        file = folder / f"p{number:03d}.parquet"
        pq.write_table(pa.table(columns), file, compression="lz4", use_dictionary=["size"])


def apart(run: Callable[..., Any], *about: Any) -> Any:
    """What a function says that runs in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(run, *about).result()


def one_process(trace: str, out: str) -> tuple[float, float, float]:
    """Seconds on the wall and of CPU, and gigabytes held at most; in a process of its own."""
    some = checker()
    wall, cpu = time.perf_counter(), time.process_time()
    check_trace(some, trace, out)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def two_workers(trace: Path, out: Path, kill: bool) -> tuple[float, float, Summary, float]:
    """Seconds on the wall and of the workers' CPU, and the part of the rows done at the kill."""
    import distributed

    some, killed = checker(), []

    def progress(done: int, total: int) -> None:
        if kill and not killed and done >= 0.4 * total:
            killed.append(done / total)
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as here,
        distributed.Client(here) as client,
    ):
        client.wait_for_workers(2)
        before = sum(client.run(time.process_time).values())
        wall = time.perf_counter()
        summary = check_trace(some, trace, out, client=client, progress=progress)
        wall = time.perf_counter() - wall
        cpu = sum(client.run(time.process_time).values()) - before
    return wall, cpu, summary, killed[0] if killed else 0.0


def same(one: Path, other: Path) -> None:
    """Raises where two folders do not hold the same bytes under the same names."""
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        raise AssertionError(f"{other.name} has other files than {one.name}")
    for name in names:
        if (one / name).read_bytes() != (other / name).read_bytes():
            raise AssertionError(f"{other.name}/{name} differs from {one.name}/{name}")


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.parquet"))


def run(folder: Path, rows: int, say: Callable[[str], None]) -> tuple[list[Way], list[str]]:
    """The three ways, and sentences about them."""
    trace, outs = folder / "trace", [folder / name for name in ("one", "two", "killed")]
    say(f"making {rows:,} rows in {FILES} files")
    make_trace(trace, rows)
    say("one process")
    wall, cpu, held = apart(one_process, str(trace), str(outs[0]))
    found = [Way("one process", str(rows), f"{wall:.1f}", f"{rows / cpu / 1e6:.1f}", f"{held:.2f}")]
    say("two workers")
    wall, cpu, first, _ = two_workers(trace, outs[1], kill=False)
    rate = f"{rows / cpu / 1e6:.1f}"
    found.append(Way("dask, two workers of one thread", str(rows), f"{wall:.1f}", rate, ""))
    say("two workers, one of them killed")
    wall, _, second, at = two_workers(trace, outs[2], kill=True)
    if not at or first != second:
        raise AssertionError("no worker was killed, or its rows were lost")
    found.append(Way(f"the same, a worker killed at {at:.0%}", str(rows), f"{wall:.1f}", "", ""))
    for other in outs[1:]:
        same(outs[0], other)
    told = [
        f"{len(pieces(trace))} pieces; the three ways left the same bytes.",
        f"A row is {size(trace) / rows:.1f} bytes in the trace and {size(outs[0]) / rows:.1f} in "
        "the verdicts.",
    ]
    return found, told


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "benchmarks.cluster", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rows", type=int, default=10**8)
    parser.add_argument("--folder", help="where to make the trace; a temp folder by default")
    parser.add_argument("--save", action="store_true", help="keep what was found in files")
    given = parser.parse_args(arguments)
    if given.rows < FILES:
        parser.error(f"--rows is {given.rows}; every one of {FILES} files needs one")
    rows = given.rows // FILES * FILES
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        free, needed = shutil.disk_usage(name).free, rows * BYTES_A_ROW
        if free < needed:
            print(f"{needed / 1e9:.1f} GB of disk are needed, {free / 1e9:.1f} are free; --folder?")
            return 2
        found, told = run(Path(name), rows, lambda what: print(f"- {what}", flush=True))
    where = saved.machine(load)
    text: list[Any] = [saved.table(found), " ".join(told), "\n".join(where)]
    print("\n\n".join(["", *text]))
    if given.save:
        saved.write("cluster", found)
        saved.page("cluster", "Past one process", [f"`{COMMAND}`", *text])
        saved.quote(saved.ROOT / "docs" / "scale.md", COMMAND, "\n\n".join(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
