"""The approaches that are timed, each with the same question and the same answer.

Every approach is prepared for a piece of hardware and then called with a trace and two arrays for
the verdicts and addresses. All but one look up the checker's own segments, so that what differs is
the look-up alone. The Python loop is the exception: it walks the page tables with ``bisect`` and
knows nothing of segments, which makes it the slowest and the best witness.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iommu_lab import dma
from iommu_lab.dma import Checker, Verdict
from iommu_lab.hardware import Hardware
from iommu_lab.partition import CODE, DELTA, RUN_LAST, WORDS
from iommu_lab.tables import READ, WRITE

from .workload import PAGE, Trace

Run = Callable[[Trace, NDArray[np.uint8], NDArray[np.uint64]], None]

FAR = 2**63 - 1  # the last address that the engines with signed integers can name
PARTIAL = int(Verdict.PARTIAL)


@contextmanager
def numba_from(rows: int) -> Iterator[None]:
    """Move the border between numpy and the compiled kernel."""
    before, dma.FAST_ROWS = dma.FAST_ROWS, rows
    try:
        yield
    finally:
        dma.FAST_ROWS = before


def ours(checker: Checker, threads: int = 1) -> Run:
    """The checker with its compiled kernel."""

    def run(trace: Trace, code: NDArray[np.uint8], addr: NDArray[np.uint64]) -> None:
        with numba_from(0):
            checker.check(*trace, out=(code, addr), threads=threads)

    return run


def ours_without_numba(checker: Checker) -> Run:
    """The checker as it is where numba is missing."""

    def run(trace: Trace, code: NDArray[np.uint8], addr: NDArray[np.uint64]) -> None:
        with numba_from(len(code) + 1):
            checker.check(*trace, out=(code, addr))

    return run


class Segments:
    """All partitions as one sorted list, with the partition that each device has."""

    def __init__(self, checker: Checker) -> None:
        sizes = [len(p) for p in checker.partitions]
        self.begin = np.append(0, np.cumsum(sizes))
        self.number = np.repeat(np.arange(len(sizes)), sizes)
        self.start = np.concatenate([p.start for p in checker.partitions])
        self.words = np.concatenate([p.record for p in checker.partitions]).reshape(-1)
        self.of_device = checker.which.astype(np.int64)

    def judge(
        self,
        segment: NDArray[np.intp],
        trace: Trace,
        code: NDArray[np.uint8],
        addr: NDArray[np.uint64],
    ) -> None:
        """The verdicts, once each access has found its segment."""
        at = segment * (2 * WORDS) + trace.write * WORDS
        last = trace.iova + trace.size - np.uint64(1)
        run_last = self.words[at + RUN_LAST]
        through = last <= run_last
        code[:] = np.where(through, self.words[at + CODE], PARTIAL)
        addr[:] = np.where(through, trace.iova + self.words[at + DELTA], run_last + np.uint64(1))

    def frame(self) -> dict[str, NDArray[Any]]:
        """The same as columns of a table, for engines that have signed integers."""
        record = np.minimum(self.words, np.uint64(FAR)).astype(np.int64).reshape(-1, 2 * WORDS)
        delta = self.words.reshape(-1, 2 * WORDS).view(np.int64)  # a difference: may be negative
        columns = {"part": self.number, "start": self.start.astype(np.int64)}
        for way, offset in (("r", 0), ("w", WORDS)):
            columns[f"delta_{way}"] = delta[:, offset + DELTA]
            columns[f"run_last_{way}"] = record[:, offset + RUN_LAST]
            columns[f"code_{way}"] = record[:, offset + CODE].astype(np.uint8)
        return columns

    def asked(self, trace: Trace) -> dict[str, NDArray[Any]]:
        iova = trace.iova.astype(np.int64)
        return {
            "id": np.arange(len(iova)),
            "part": self.of_device[trace.device],
            "iova": iova,
            "last": iova + trace.size - 1,
            "write": trace.write,
        }


def numpy_searchsorted(checker: Checker) -> Run:
    """One search over keys that join partition and page; chunks that stay in the cache."""
    segments = Segments(checker)
    place = np.uint64(45)
    keys = (segments.number.astype(np.uint64) << place) | (segments.start >> PAGE)
    part = segments.of_device.astype(np.uint64) << place

    def run(trace: Trace, code: NDArray[np.uint8], addr: NDArray[np.uint64]) -> None:
        for at in range(0, len(code), 1 << 16):
            rows = slice(at, at + (1 << 16))
            some = Trace(*(column[rows] for column in trace))
            found = np.searchsorted(keys, part[some.device] | (some.iova >> PAGE), side="right")
            segments.judge(found - 1, some, code[rows], addr[rows])

    return run


def pandas_intervals(checker: Checker) -> Run:
    """An IntervalIndex for each partition."""
    import pandas as pd

    segments = Segments(checker)
    indexes = [
        pd.IntervalIndex.from_breaks(np.append(p.start.astype(np.int64), FAR), closed="left")
        for p in checker.partitions
    ]

    def run(trace: Trace, code: NDArray[np.uint8], addr: NDArray[np.uint64]) -> None:
        part = segments.of_device[trace.device]
        segment = np.empty(len(code), np.int64)
        for number, rows in pd.Series(part).groupby(part).indices.items():
            iova = trace.iova[rows].astype(np.int64)
            segment[rows] = indexes[number].get_indexer(iova) + segments.begin[number]
        segments.judge(segment, trace, code, addr)

    return run


def duckdb_asof(checker: Checker) -> Run:
    """An ASOF join, in the order of the question."""
    import duckdb
    import pyarrow as pa

    segments = Segments(checker)
    base = duckdb.connect(config={"threads": 2})
    base.register("columns", pa.table(segments.frame()))
    base.execute("CREATE TABLE segments AS SELECT * FROM columns")

    def run(trace: Trace, code: NDArray[np.uint8], addr: NDArray[np.uint64]) -> None:
        base.register("asked", pa.table(segments.asked(trace)))
        told = base.execute(
            """
            WITH met AS (
              SELECT id, iova, last, if(write, delta_w, delta_r) AS delta,
                     if(write, run_last_w, run_last_r) AS run_last,
                     if(write, code_w, code_r) AS code
              FROM asked ASOF JOIN segments
                ON asked.part = segments.part AND asked.iova >= segments.start)
            SELECT id, if(last <= run_last, code, 5::UTINYINT) AS code,
                   if(last <= run_last, iova + delta, run_last + 1) AS addr FROM met
            """
        ).fetchnumpy()
        code[told["id"]] = told["code"]
        addr[told["id"]] = told["addr"].view(np.uint64)

    return run


def polars_asof(checker: Checker) -> Run:
    """A backward join_asof by partition."""
    import polars as pl

    segments = Segments(checker)
    frame = pl.DataFrame(segments.frame()).with_columns(iova=pl.col("start")).sort("iova").lazy()
    of_way = {
        name: pl.when("write").then(pl.col(f"{name}_w")).otherwise(pl.col(f"{name}_r"))
        for name in ("delta", "run_last", "code")
    }
    through = pl.col("last") <= of_way["run_last"]

    def run(trace: Trace, code: NDArray[np.uint8], addr: NDArray[np.uint64]) -> None:
        asked = pl.DataFrame(segments.asked(trace)).lazy().sort("iova")
        met = asked.join_asof(
            frame, on="iova", by="part", strategy="backward", check_sortedness=False
        )
        told = met.select(
            "id",
            code=pl.when(through).then(of_way["code"]).otherwise(PARTIAL),
            addr=pl.when(through)
            .then(pl.col("iova") + of_way["delta"])
            .otherwise(of_way["run_last"] + 1),
        ).collect()
        order = told["id"].to_numpy()
        code[order] = told["code"].to_numpy()
        addr[order] = told["addr"].to_numpy().view(np.uint64)

    return run


def python_loop(hardware: Hardware) -> Run:
    """Each access walked over the mappings of its page table; no numpy, no segments."""
    tables = []
    for device in hardware.entries:
        table = hardware.table_of(device)
        ends = [run.end for run in table]
        delta = [run.paddr - run.iova for run in table]
        tables.append((table.iova.tolist(), ends, delta, table.prot.tolist()))
    ((low, high),) = hardware.msi
    limit = 1 << hardware.width

    def one(device: int, iova: int, size: int, write: bool) -> tuple[int, int]:
        end = iova + size
        if low <= iova <= high:
            if not write:
                return Verdict.RESERVED, iova
            return (Verdict.MSI, iova) if end <= high + 1 else (Verdict.PARTIAL, high + 1)
        if iova >= limit:
            return Verdict.BEYOND_APERTURE, iova
        first, after, delta, prot = tables[device]
        right = WRITE if write else READ
        row = bisect_right(first, iova) - 1
        if row < 0 or iova >= after[row]:
            return Verdict.NOT_MAPPED, iova
        if not prot[row] & right:
            return Verdict.NO_PERMISSION, iova
        paddr = iova + delta[row]
        at = after[row]
        while at < end and row + 1 < len(first):
            row += 1
            if first[row] != at or not prot[row] & right:
                break
            at = after[row]
        stop = min(at, limit, low if iova < low else limit)
        return (Verdict.TRANSLATED, paddr) if end <= stop else (Verdict.PARTIAL, stop)

    def run(trace: Trace, code: NDArray[np.uint8], addr: NDArray[np.uint64]) -> None:
        rows = zip(*(column.tolist() for column in trace), strict=True)
        for at, (device, iova, size, write) in enumerate(rows):
            code[at], addr[at] = one(device, iova, size, write)

    return run


# What each needs besides numpy and pandas; an approach that is not installed is left out.
NEEDS = {"duckdb ASOF": ("duckdb", "pyarrow"), "polars join_asof": ("polars",)}


def missing(name: str) -> list[str]:
    return [module for module in NEEDS.get(name, ()) if find_spec(module) is None]
