"""The benchmark: one command prints one table.

python -m benchmarks            the table, in some minutes
python -m benchmarks --short    everything once and small: are all answers the same?
python -m benchmarks --grid     every M x D x pattern x layout, to find a cliff
python -m benchmarks --save     also write benchmarks/results.md and results.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iommu_lab.dma import Checker
from iommu_lab.hardware import Hardware
from iommu_lab.tables import Run as PageRun
from iommu_lab.trace import Replay

from . import approaches, workload
from .approaches import missing, ours, ours_without_numba
from .measure import Entrant, Timing, agree, quartiles, round_robin
from .workload import Trace

HERE = Path(__file__).parent
DEVICES = 16

# What is asked of a cell: the gate, which a busy machine has to pass as well, and the goal.
# Ratios are ours to theirs; for the two limits, ours as a share of them.
ASKED: dict[tuple[str, str, int], tuple[float, float]] = {
    ("numpy searchsorted", "random", 1000): (8, 8),
    ("numpy searchsorted", "random", 100_000): (6, 6),
    ("numpy searchsorted", "random", 1_000_000): (7, 7),
    ("numpy searchsorted", "local", 1000): (4, 4),
    ("numpy searchsorted", "local", 100_000): (4, 4),
    ("numpy searchsorted", "local", 1_000_000): (4, 4),
    ("pandas IntervalIndex", "random", 1000): (10, 10),
    ("pandas IntervalIndex", "random", 100_000): (6, 6),
    ("duckdb ASOF", "random", 1000): (20, 20),
    ("duckdb ASOF", "random", 100_000): (10, 10),
    ("duckdb ASOF", "random", 1_000_000): (8, 8),
    ("polars join_asof", "random", 1000): (15, 15),
    ("polars join_asof", "random", 100_000): (8, 8),
    ("polars join_asof", "random", 1_000_000): (5, 5),
    ("python bisect loop", "random", 1000): (50, 50),
    ("python bisect loop", "random", 100_000): (40, 40),
    ("limit: same bytes", "random", 1000): (0.10, 0.15),
    ("limit: same bytes", "local", 1000): (0.08, 0.15),
    ("limit: same bytes", "local", 100_000): (0.08, 0.15),
    ("limit: same bytes", "local", 1_000_000): (0.08, 0.15),
    ("limit: one gather", "random", 100_000): (0.17, 0.25),
    ("limit: one gather", "random", 1_000_000): (0.18, 0.25),
    ("two cores", "random", 1000): (1.4, 1.6),
    ("two cores", "random", 100_000): (1.6, 1.6),
    ("two cores", "random", 1_000_000): (1.6, 1.6),
    ("two cores", "local", 1000): (1.6, 1.6),
    ("two cores", "local", 100_000): (1.6, 1.6),
    ("two cores", "local", 1_000_000): (1.6, 1.6),
}
CELLS = [(pattern, m) for pattern in ("random", "local") for m in (1000, 100_000, 1_000_000)]

OURS, TWO_CORES = "iommu_lab", "two cores"


class Line(NamedTuple):
    """One line of the table."""

    pattern: str
    mappings: int
    approach: str
    rows: int
    rate: str  # millions a CPU-second: median, quartiles
    ratio: str
    gate: str
    goal: str
    met: str
    cores: str
    load: str


class Cell:
    """One piece of hardware, one trace, and everybody who answers it."""

    def __init__(self, m: int, devices: int, pattern: str, layout: str, rows: int) -> None:
        made = workload.mappings(m, devices, layout)
        self.hardware: Hardware = workload.hardware(made, devices)
        self.checker = Checker(self.hardware, self.hardware.entries)
        self.trace = workload.trace(rows, made, devices, pattern)
        self.answers = np.empty(rows, np.uint8), np.empty(rows, np.uint64)

    def entrant(
        self, name: str, run: approaches.Run, rows: int | None = None, *, serial: bool = True
    ) -> Entrant:
        rows = min(rows or len(self.answers[0]), len(self.answers[0]))
        trace = Trace(*(column[:rows] for column in self.trace))
        code, addr = np.empty(rows, np.uint8), np.empty(rows, np.uint64)
        return Entrant(name, lambda: run(trace, code, addr), rows, (code, addr), serial)

    def limits(self) -> Iterator[Entrant]:
        from . import limits

        code, addr = self.answers
        rows = len(code)
        yield Entrant(
            "limit: same bytes", lambda: limits.stream(self.trace, code, addr), rows, None
        )
        words = np.concatenate([p.record for p in self.checker.partitions]).reshape(-1)
        at = limits.gather_places(len(words) // 8, rows)
        yield Entrant("limit: one gather", lambda: limits.gather(words, at, addr), rows, None)


def entrants(cell: Cell, pattern: str, m: int, fewer: int) -> Iterator[Entrant]:
    """Everybody who is asked in this cell; ``fewer`` rows for those who are slower."""
    compiled = find_spec("numba") is not None
    yield cell.entrant(OURS, ours(cell.checker))
    if compiled:
        yield cell.entrant(TWO_CORES, ours(cell.checker, threads=2), serial=False)
    yield cell.entrant("iommu_lab, no numba", ours_without_numba(cell.checker), fewer)
    made: list[tuple[str, Callable[[], approaches.Run], int, bool]] = [
        (
            "numpy searchsorted",
            lambda: approaches.numpy_searchsorted(cell.checker),
            fewer,
            True,
        ),
        ("pandas IntervalIndex", lambda: approaches.pandas_intervals(cell.checker), fewer, True),
        ("duckdb ASOF", lambda: approaches.duckdb_asof(cell.checker), fewer, False),
        ("polars join_asof", lambda: approaches.polars_asof(cell.checker), fewer, False),
        ("python bisect loop", lambda: approaches.python_loop(cell.hardware), fewer // 50, True),
    ]
    for name, prepare, rows, serial in made:
        if (name, pattern, m) in ASKED and not missing(name):
            yield cell.entrant(name, prepare(), rows, serial=serial)
    if compiled:
        yield from cell.limits()


def lines(pattern: str, m: int, timed: dict[str, Timing], rounds: int) -> Iterator[Line]:
    ours_ = timed[OURS]
    for name, timing in timed.items():
        gate, goal = ASKED.get((name, pattern, m), (None, None))
        if rounds < 5:
            gate = goal = None  # too few to judge by
        ratio = ours_.rates / timing.rates
        if name == TWO_CORES:
            ratio = ours_.wall / timing.wall
        median = float(np.median(ratio))
        met = (
            "" if gate is None else "yes" if median >= goal else "gate" if median >= gate else "NO"
        )
        if name == TWO_CORES and timing.cores < 1.8:
            met = "not measured"
        yield Line(
            pattern,
            m,
            name,
            timing.rows,
            spread(timing.rates, 1),
            "" if name == OURS else spread(ratio, 3 if name.startswith("limit") else 2),
            "" if gate is None else f"{gate:g}",
            "" if goal is None else f"{goal:g}",
            met,
            f"{timing.cores:.2f}",
            f"{timing.load:.1f}",
        )


def spread(values: Any, digits: int) -> str:
    median, low, high = quartiles(values)
    return f"{median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def table(found: list[Line]) -> str:
    """The lines as Markdown."""
    head = (
        "| pattern | mappings | approach | rows | M/s a CPU-second | ours / theirs | gate | goal "
        "| met | cores | load |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *("| " + " | ".join(map(str, line)) + " |" for line in found)])


def compare(rounds: int, rows: int, fewer: int, cells: list[tuple[str, int]]) -> list[Line]:
    found: list[Line] = []
    for pattern, m in cells:
        cell = Cell(m, DEVICES, pattern, "spread", rows)
        racing = list(entrants(cell, pattern, m, fewer))
        agree(racing)
        found += lines(pattern, m, round_robin(racing, rounds), rounds)
        print(f"{pattern}, {m} mappings: all {len(racing)} agree", flush=True)
    return found


def grid(rows: int, sizes: list[int], devices: list[int]) -> list[str]:
    """Every combination, against numpy, to see whether the rate falls off a cliff anywhere.

    Prints a dot for each that is done.
    """
    found = ["| mappings | devices | pattern | layout | M/s a CPU-second | ours / numpy |"]
    found += ["|---|---|---|---|---|---|"]
    worst = (float("inf"), "")
    for m, d, pattern, layout in product(
        sizes, devices, ("random", "sorted", "local"), ("spread", "clustered")
    ):
        cell = Cell(m, d, pattern, layout, rows)
        racing = [
            cell.entrant(OURS, ours(cell.checker)),
            cell.entrant(
                "numpy searchsorted", approaches.numpy_searchsorted(cell.checker), rows // 5
            ),
        ]
        agree(racing)
        timed = round_robin(racing, 3)
        rate = float(np.median(timed[OURS].rates))
        ratio = float(np.median(timed[OURS].rates / timed["numpy searchsorted"].rates))
        found.append(f"| {m} | {d} | {pattern} | {layout} | {rate:.0f} | {ratio:.1f} |")
        worst = min(worst, (rate, f"{m} mappings, {d} devices, {pattern}, {layout}"))
        print(end=".", flush=True)
    return [*found, "", f"Slowest: {worst[0]:.0f} M/s ({worst[1]}); at least 15 is asked."]


def other_costs(m: int, rows: int) -> Iterator[str]:
    """What is paid besides the look-up."""
    made = workload.mappings(m, DEVICES)
    hardware = workload.hardware(made, DEVICES)
    Checker(hardware, hardware.entries)  # memory that was never touched is the machine's to find
    before = time.thread_time()
    checker = Checker(hardware, hardware.entries)
    took = time.thread_time() - before
    segments = sum(map(len, checker.partitions))
    yield f"compile: {segments / took / 1e6:.1f} million segments a CPU-second (1.5 is asked)"

    some = workload.trace(rows, made, DEVICES)
    out = np.empty(rows, np.uint8), np.empty(rows, np.uint64)
    kernel = checker._kernel()
    if kernel is not None:
        index = kernel.args  # type: ignore[attr-defined]
        held = sum(a.nbytes for a in index) + sum(p.start.nbytes for p in checker.partitions)
        yield f"index: {held / segments:.0f} bytes a segment (at most 150 is asked)"
    run = ours(checker)
    run(some, *out)
    tracemalloc.start()
    run(some, *out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    yield f"memory: {9 + peak / rows:.1f} bytes a row, the answer's nine included (16 is asked)"

    # A widget's toggle: unmap one of 100,000 mappings and ask about a thousand pages.
    made = workload.mappings(min(m, 100_000), 1)
    hardware = workload.hardware(made, 1)
    checker = Checker(hardware, hardware.entries)
    few = workload.trace(1000, made, 1)
    table_ = hardware.tables["d0"]
    row: PageRun = table_[len(table_) // 2]
    toggled, wall = [], []
    for _ in range(9):
        before, began = time.thread_time(), time.perf_counter()
        without = hardware.tables.set("d0", table_.clear(row.iova, row.size))
        changed = Hardware(hardware.entries, without, msi=hardware.msi, width=hardware.width)
        checker.renewed(changed).check(*few)
        toggled.append((time.thread_time() - before) * 1e3)
        wall.append((time.perf_counter() - began) * 1e3)
    yield (
        f"toggle of one in {len(table_)} mappings: {np.median(toggled):.1f} ms of CPU "
        f"(20 is asked), {np.median(wall):.1f} ms on the wall"
    )


def replayed(n: int, domains: int = 16) -> Iterator[str]:
    """Maps, unmaps, flushes and DMA in order of time."""
    happened = workload.events(n, domains)
    for lazy, mode in ((False, "strict"), (True, "lazy")):
        took = []
        for _ in range(4):
            replay = Replay(domains, domains, lazy=lazy, attached=range(domains))
            before = time.thread_time()
            replay.run(happened)
            took.append(time.thread_time() - before)
        rate = n / float(np.median(took[1:])) / 1e6
        yield f"replay, {mode}: {rate:.1f} million events a CPU-second (15 is asked)"


FIRST = """
import time, numpy as np
from iommu_lab.dma import Checker
from iommu_lab.hardware import BYPASS, Frozen, Hardware
checker = Checker(Hardware(Frozen(a=BYPASS)), ["a"])
iova = np.arange(300_000, dtype=np.uint64)
cpu, wall = time.process_time(), time.perf_counter()
checker.check(0, iova, 8, True)
print(time.process_time() - cpu, time.perf_counter() - wall)
"""


def first_call() -> str:
    """In fresh processes, after one that has filled numba's cache."""
    took = [
        subprocess.run(
            [sys.executable, "-c", FIRST], capture_output=True, check=True
        ).stdout.split()
        for _ in range(4)
    ]
    cpu, wall = np.median(np.array(took[1:], float), axis=0)
    return (
        f"first long trace in a process: {cpu:.2f} s of CPU (0.5 is asked), "
        f"{wall:.2f} s on the wall"
    )


def hundred_million() -> str:
    """The rate at 10**8 rows beside that at 10**6, on the same hardware and the same accesses."""
    cell = Cell(100_000, DEVICES, "random", "spread", 1_000_000)
    many = Trace(*(np.tile(column, 100) for column in cell.trace))
    rates = []
    for trace in (cell.trace, many):
        out = np.zeros(len(trace.iova), np.uint8), np.zeros(len(trace.iova), np.uint64)
        run = ours(cell.checker)
        run(trace, *out)
        took = []
        for _ in range(3):
            before = time.thread_time()
            run(trace, *out)
            took.append(time.thread_time() - before)
        rates.append(len(trace.iova) / float(np.median(took)) / 1e6)
    return (
        f"10^8 rows: {rates[1]:.0f} M/s, {rates[1] / rates[0]:.2f} of the {rates[0]:.0f} M/s "
        "at 10^6 (0.8 is asked)"
    )


def machine() -> list[str]:
    """Where this was measured: processor, load and versions."""

    def installed(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"no {name}"

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    names = ("numpy", "numba", "pandas", "duckdb", "polars", "pyarrow")
    return [
        f"- {model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        f"- Python {platform.python_version()}, {', '.join(map(installed, names))}",
        f"- load {', '.join(f'{x:.1f}' for x in os.getloadavg())} at the end",
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks", description="How fast is the checker?")
    parser.add_argument("--short", action="store_true", help="small, once: only compare answers")
    parser.add_argument("--grid", action="store_true", help="every combination of sizes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--save", action="store_true", help="write results.md and results.csv")
    given = parser.parse_args(arguments)
    for name in approaches.NEEDS:
        if missing(name):
            print(f"{name}: left out, since {' and '.join(missing(name))} is not installed")
    if find_spec("numba") is None:
        print("numba is not installed: iommu_lab answers with numpy, and no limit is measured")

    text: list[str]
    if given.short:
        found = compare(1, 20_000, 20_000, [("random", 1000), ("local", 1000)])
        text = [table(found), "", *other_costs(2000, 20_000), *replayed(20_000)]
        text += ["", *grid(5000, [1, 1000], [1, 16])]
    elif given.grid:
        found = []
        text = grid(1_000_000, [1, 10, 1000, 100_000, 1_000_000], [1, 16, 1024])
    else:
        found = compare(given.rounds, 4_000_000, 1_000_000, CELLS)
        text = [table(found), "", *(f"- {x}" for x in other_costs(1_000_000, 4_000_000))]
        if find_spec("numba") is not None:
            text += [f"- {x}" for x in replayed(4_000_000)]
            text += [f"- {first_call()}", f"- {hundred_million()}"]
    report = "\n".join(["", *text, "", *machine()])
    print(report)
    if given.save:
        name = "grid" if given.grid else "results"
        (HERE / f"{name}.md").write_text(f"# Measured\n{report}\n", encoding="utf-8")
        if found:
            with (HERE / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(Line._fields)
                writer.writerows(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
