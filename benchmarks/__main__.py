"""The benchmark: one command prints one table.

python -m benchmarks            the table, in five minutes
python -m benchmarks --short    everything once and small: are all answers the same?
python -m benchmarks --grid     every M x D x pattern x layout, to find a cliff; five minutes
    --save                      also write what was found beside this file: results.md and .csv,
                                costs.csv and the README's table, or grid.md and .csv
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np

from iommu_lab.dma import Checker, Verdict
from iommu_lab.hardware import Hardware
from iommu_lab.machine import X86_INTERRUPTS
from iommu_lab.tables import Run as PageRun
from iommu_lab.trace import Replay

from . import approaches, saved, workload
from .approaches import NEEDS, missing, ours, ours_without_numba
from .measure import Entrant, Timing, agree, quartiles, round_robin
from .saved import Cost, Line, Spot, cost, table, unasked
from .workload import Trace

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
GRID = "python -m benchmarks --grid --save"
LEAST = 15  # millions a CPU-second, wherever one looks


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
        """One who is asked about the first ``rows`` of the trace, or about it again and again."""
        rows = rows or len(self.answers[0])
        trace = Trace(*(np.resize(column, rows) for column in self.trace))
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


def entrants(cell: Cell, pattern: str, m: int) -> Iterator[Entrant]:
    """Everybody who is asked in this cell, about the same rows; the Python loop about fewer."""
    compiled = find_spec("numba") is not None
    rows = len(cell.trace.iova)
    yield cell.entrant(OURS, ours(cell.checker))
    yield cell.entrant("iommu_lab, no numba", ours_without_numba(cell.checker))
    made: list[tuple[str, Callable[[], approaches.Run], int, bool]] = [
        ("numpy searchsorted", lambda: approaches.numpy_searchsorted(cell.checker), rows, True),
        ("pandas IntervalIndex", lambda: approaches.pandas_intervals(cell.checker), rows, True),
        ("duckdb ASOF", lambda: approaches.duckdb_asof(cell.checker), rows, False),
        ("polars join_asof", lambda: approaches.polars_asof(cell.checker), rows, False),
        ("python bisect loop", lambda: approaches.python_loop(cell.hardware), rows // 100, True),
    ]
    for name, prepare, rows, serial in made:
        if (name, pattern, m) in ASKED and not missing(name):
            yield cell.entrant(name, prepare(), rows, serial=serial)
    if compiled:
        yield from cell.limits()


def on_two_cores(cell: Cell) -> Iterator[Entrant]:
    """One core and two, apart from the others: idle threads of their engines take a core's time.

    Two threads take a millisecond to start, so the trace is a longer one.
    """
    rows = 10 * len(cell.trace.iova)
    yield cell.entrant(OURS, ours(cell.checker), rows)
    yield cell.entrant(TWO_CORES, ours(cell.checker, threads=2), rows, serial=False)


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
            str(m),
            name,
            str(timing.rows),
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


def compare(rounds: int, rows: int, cells: list[tuple[str, int]]) -> list[Line]:
    found: list[Line] = []
    for pattern, m in cells:
        found += compare_in(Cell(m, DEVICES, pattern, "spread", rows), pattern, m, rounds)
    return found


def compare_in(cell: Cell, pattern: str, m: int, rounds: int) -> list[Line]:
    two: list[Line] = []
    if find_spec("numba"):
        pair = list(on_two_cores(cell))
        agree(pair)
        _, *two = lines(pattern, m, round_robin(pair, rounds), rounds)
    racing = list(entrants(cell, pattern, m))
    agree(racing)
    one, *others = lines(pattern, m, round_robin(racing, rounds), rounds)
    print(f"{pattern}, {m} mappings: all {len(racing)} agree", flush=True)
    return [one, *two, *others]


def grid(rows: int, sizes: list[int], devices: list[int]) -> list[Spot]:
    """Every combination, against numpy, to see whether the rate falls off a cliff anywhere.

    Prints a dot for each that is done.
    """
    found = []
    for m, d, pattern, layout in product(
        sizes, devices, ("random", "sorted", "local"), ("spread", "clustered")
    ):
        cell = Cell(m, d, pattern, layout, rows)
        racing = [
            cell.entrant(OURS, ours(cell.checker)),
            cell.entrant("numpy searchsorted", approaches.numpy_searchsorted(cell.checker)),
        ]
        agree(racing)
        timed = round_robin(racing, 3)
        rate = float(np.median(timed[OURS].rates))
        ratio = float(np.median(timed[OURS].rates / timed["numpy searchsorted"].rates))
        found.append(Spot(str(m), str(d), pattern, layout, f"{rate:.0f}", f"{ratio:.1f}"))
        print(end=".", flush=True)
    print()
    return found


def slowest(found: list[Spot]) -> str:
    """The worst of the grid in words."""
    worst = min(found, key=lambda spot: float(spot.rate))
    return (
        f"Slowest: {worst.rate} M/s ({worst.mappings} mappings, {worst.devices} devices, "
        f"{worst.pattern}, {worst.layout}); at least {LEAST} is asked."
    )


def other_costs(m: int, rows: int) -> Iterator[Cost]:
    """What is paid besides the look-up."""
    made = workload.mappings(m, DEVICES)
    hardware = workload.hardware(made, DEVICES)
    Checker(hardware, hardware.entries)  # memory that was never touched is the machine's to find
    before = time.thread_time()
    checker = Checker(hardware, hardware.entries)
    took = time.thread_time() - before
    segments = sum(map(len, checker.partitions))
    yield cost("compile", segments / took / 1e6, "million segments a CPU-second", 1.5, least=True)

    some = workload.trace(rows, made, DEVICES)
    out = np.empty(rows, np.uint8), np.empty(rows, np.uint64)
    kernel = checker._kernel()
    if kernel is not None:
        index = kernel.args  # type: ignore[attr-defined]
        held = sum(a.nbytes for a in index) + sum(p.start.nbytes for p in checker.partitions)
        yield cost("index", held / segments, "bytes a segment", 150, least=False)
    run = ours(checker)
    run(some, *out)
    tracemalloc.start()
    run(some, *out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = 9 + peak / rows
    yield cost("memory besides the trace, answers included", held, "bytes a row", 16, least=False)

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
    name = f"toggle of one in {len(table_)} mappings"
    yield cost(name, float(np.median(toggled)), "ms of CPU", 20, least=False)
    yield unasked(f"{name}, on the wall", float(np.median(wall)), "ms")


def every_verdict(m: int, rows: int) -> Iterator[Cost]:
    """The rate where all that can become of a DMA does, and a tenth aims at the window."""
    made = workload.mappings(m, DEVICES)
    hardware = workload.every_verdict(workload.hardware(made, DEVICES))
    some = workload.trace(rows, made, DEVICES)
    low, high = X86_INTERRUPTS
    some.iova[::10] = np.random.default_rng(7).integers(low, high, len(some.iova[::10]), np.uint64)
    checker = Checker(hardware, hardware.entries)
    runs = [ours(checker), ours_without_numba(checker)]
    answers = [(np.empty(rows, np.uint8), np.empty(rows, np.uint64)) for _ in runs]
    racing = [
        Entrant(name, partial(run, some, *answer), rows, answer)
        for name, run, answer in zip((OURS, "numpy"), runs, answers, strict=True)
    ]
    agree(racing)
    met = set(np.unique(answers[0][0]).tolist())
    assert met == set(Verdict), f"no {', '.join(v.name for v in set(Verdict) - met)}"
    rate = float(np.median(round_robin(racing[:1], 5)[OURS].rates))
    unit = "million accesses a CPU-second"
    yield cost(f"every verdict, random, {m} mappings", rate, unit, LEAST, least=True)


def replayed(n: int, domains: int = 16) -> Iterator[Cost]:
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
        yield cost(f"replay, {mode}", rate, "million events a CPU-second", 15, least=True)


FIRST = """
import time, numpy as np
from iommu_lab.dma import Checker, Verdict
from iommu_lab.hardware import BYPASS, Frozen, Hardware
checker = Checker(Hardware(Frozen(a=BYPASS)), ["a"])
iova = np.arange(300_000, dtype=np.uint64)
cpu, wall = time.process_time(), time.perf_counter()
checker.check(0, iova, 8, True)
print(time.process_time() - cpu, time.perf_counter() - wall)
"""


def first_call() -> Iterator[Cost]:
    """In fresh processes, after one that has filled numba's cache."""
    took = [
        subprocess.run(
            [sys.executable, "-c", FIRST], capture_output=True, check=True
        ).stdout.split()
        for _ in range(4)
    ]
    cpu, wall = np.median(np.array(took[1:], float), axis=0).tolist()
    name = "first long trace in a process"
    yield cost(name, cpu, "s of CPU", 0.5, least=False, digits=2)
    yield unasked(f"{name}, on the wall", wall, "s")


def hundred_million() -> Iterator[Cost]:
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
    name = "rate at 10^8 rows, as a share of that at 10^6"
    yield cost(name, rates[1] / rates[0], "", 0.8, least=True, digits=2)


READING = """A rate is the median of the rounds, with quartiles, in millions of accesses a
CPU-second of one core; a ratio is ours to theirs within a round, for a limit the share of it that
we reach. *gate* is what a busy machine has to pass as well, *goal* what a quiet one should reach;
*met* says `yes` for the goal, `gate` for the gate alone. Two cores are compared on the wall, and
`not measured` where the machine gave fewer than 1.8 to the run. Every approach has given the same
verdicts and addresses before it was timed. `benchmarks/attempts.md` says what was tried to come
closer to the limits."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("benchmarks", description="How fast is the checker?")
    parser.add_argument("--short", action="store_true", help="small, once: only compare answers")
    parser.add_argument("--grid", action="store_true", help="every combination of sizes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--save", action="store_true", help="keep what was found in files")
    given = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    gone = [f"{name} (no {' or '.join(missing(name))})" for name in NEEDS if missing(name)]
    if gone:
        print(f"left out: {', '.join(gone)}")
    compiled = find_spec("numba") is not None
    if not compiled:
        print("numba is not installed: iommu_lab answers with numpy, and no limit is measured")
    if given.save and (given.short or gone or not compiled):
        print("--save wants the whole run, with numba and with every approach", file=sys.stderr)
        return 2

    if given.grid:
        found = grid(1_000_000, [1, 10, 1000, 100_000, 1_000_000], [1, 16, 1024])
        where = saved.machine(load)
        text = [table(found), slowest(found), "\n".join(where)]
        print("\n\n".join(text))
        if given.save:
            saved.write("grid", found)
            saved.page("grid", "Is there a cliff?", [f"`{GRID}`", *text])
        return 0

    if given.short:
        lines_ = compare(1, 20_000, [("random", 1000), ("local", 1000)])
        costs = [*other_costs(2000, 20_000), *every_verdict(1000, 20_000), *replayed(20_000)]
        costs = [small._replace(met="") for small in costs]  # too small to judge by
        grid(5000, [1, 1000], [1, 16])
    else:
        lines_ = compare(given.rounds, 4_000_000, CELLS)
        costs = list(other_costs(1_000_000, 4_000_000))
        if compiled:
            costs += [*every_verdict(1000, 4_000_000), *every_verdict(100_000, 4_000_000)]
            costs += [*replayed(4_000_000), *first_call(), *hundred_million()]
    where = saved.machine(load)
    text = [table(lines_), table(costs), "\n".join(where)]
    print("\n\n".join(["", *text]))
    if given.save:
        saved.write("results", lines_)
        saved.write("costs", costs)
        saved.page("results", "How fast is it?", [f"`{saved.COMMAND}`", READING, *text])
        how_fast = saved.how_fast(lines_, where)
        saved.quote(saved.ROOT / "README.md", saved.COMMAND, how_fast)
    return 0


if __name__ == "__main__":
    sys.exit(main())
