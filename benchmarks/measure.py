"""Timing on a machine that others use too.

Absolute rates move by a third with the neighbours' load; ratios within a round move by a tenth. So
every approach runs once a round, in one process, on the same arrays, and what is reported is the
median of the rounds' ratios, with quartiles. Serial code is timed by its thread's CPU clock: idle
worker threads of other libraries are charged to the process. Nothing is timed before it has given
the same verdicts and addresses as everything else in the cell.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Entrant(NamedTuple):
    """One approach in one cell."""

    name: str
    run: Callable[[], None]
    rows: int
    answers: tuple[NDArray[np.uint8], NDArray[np.uint64]] | None  # None for a limit
    serial: bool = True  # an engine with threads of its own is charged for all of them


class Timing(NamedTuple):
    """Seconds of each round: on the wall, and of the processor."""

    wall: NDArray[np.float64]
    cpu: NDArray[np.float64]
    rows: int
    load: float

    @property
    def rates(self) -> NDArray[np.float64]:
        """Millions of rows a CPU-second, by round."""
        return self.rows / self.cpu / 1e6

    @property
    def cores(self) -> float:
        return float(np.median(self.cpu / self.wall))


class Disagreement(Exception):
    """Two approaches gave different answers, so there is nothing to time."""


def agree(entrants: list[Entrant]) -> None:
    """Run everything once, which also warms it up, and compare all answers with the first's."""
    reference = entrants[0].answers
    assert reference is not None
    for entrant in entrants:
        if entrant.answers is None:
            entrant.run()
            continue
        code, addr = entrant.answers
        code[:], addr[:] = 255, 0
        entrant.run()
        for told, expected in zip(entrant.answers, reference, strict=True):
            # Some are asked about fewer rows, some about the same ones again and again.
            differs = told != np.resize(expected, len(told))
            if differs.any():
                row = int(np.argmax(differs))
                raise Disagreement(
                    f"{entrant.name} and {entrants[0].name} disagree in {int(differs.sum())} rows, "
                    f"first in row {row}: {told[row]}, not {expected[row % len(expected)]}"
                )


def round_robin(entrants: list[Entrant], rounds: int) -> dict[str, Timing]:
    """Every approach once a round. Call :func:`agree` before."""
    wall: dict[str, list[float]] = {e.name: [] for e in entrants}
    cpu: dict[str, list[float]] = {e.name: [] for e in entrants}
    load = []
    for _ in range(rounds):
        gc.collect()
        load.append(os.getloadavg()[0])
        for entrant in entrants:
            clock = time.thread_time if entrant.serial else time.process_time
            cpu_before, before = clock(), time.perf_counter()
            entrant.run()
            wall[entrant.name].append(time.perf_counter() - before)
            cpu[entrant.name].append(clock() - cpu_before)
    return {
        e.name: Timing(
            np.array(wall[e.name]), np.array(cpu[e.name]), e.rows, float(np.median(load))
        )
        for e in entrants
    }


def quartiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return median, low, high
