"""The search: every sequence of verbs up to a length, and the shortest one that ends badly.

States are values, so a breadth-first search over all verbs and arguments of a small closed world
(:mod:`~iommu_lab.closedworld`) visits each situation once. It ends with the shortest sequence for
each kind of :mod:`~iommu_lab.trouble`.

Nothing is tried twice: a verb is run once for each combination of the things that it looks at in a
state, and its effect on them is remembered (:mod:`~iommu_lab.statespace`). Names that play the same
part are taken in order (the second domain only after the first was used), which leaves out only
renamings of other sequences.

A finding is what the model does, from sources that were read; it is not a report of a bug in a
kernel.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from .bootline import GivesDriver
from .closedworld import Alike, alike_names, allowed, alphabet, opening
from .drivers import Driver
from .drivers import driver as find_driver
from .drivers import rows as driver_rows
from .errors import KernelCrash, unknown
from .hardware import Entry
from .lab import Lab, Step, perform
from .state import State, World
from .statespace import Node, Remembered, States, Watched, put
from .trouble import FINDINGS, LOOKS, Finding

if TYPE_CHECKING:
    import pandas as pd

DESIGNS = ("5.19", "6.0", "patch-v2", "plan", "6.3", "6.7", "6.12", "7.2")


@dataclass(frozen=True)
class Result:
    """What a search found, and how far it looked."""

    release: str
    driver: str
    arch: str
    findings: dict[str, Finding]
    depth: int
    """Every sequence up to this length was tried."""
    states: int
    verbs: int
    seconds: float
    start: Lab
    """The closed world before the first verb."""

    def __getitem__(self, kind: str) -> Finding | None:
        if kind not in FINDINGS:
            raise unknown("finding", kind, FINDINGS)
        return self.findings.get(kind)

    def after(self, kind: str) -> Lab:
        """The lab in which the steps of this finding were done, one by one.

        Raises ``LookupError`` when there is no such finding.
        """
        finding = self[kind]
        if finding is None:
            raise LookupError(f"no {kind} in any sequence of up to {self.depth} verbs")
        return self.start.replay(finding.steps)

    def __str__(self) -> str:
        found = [str(f) for f in sorted(self.findings.values(), key=lambda f: len(f.steps))]
        missing = [kind for kind in FINDINGS if kind not in self.findings]
        if missing:
            found.append(f"no {', no '.join(missing)} in any sequence of up to {self.depth} verbs")
        looked = f"{self.states:,} states, {self.verbs:,} verbs tried"
        return "\n".join([f"{self.driver} ({self.arch}) in {self.release}: {looked}", *found])

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class Place:
    """A state in the search, and which of the alike names were used on the way to it, as bits."""

    node: Node
    used: int


@dataclass(frozen=True, slots=True)
class Effect:
    """What a verb does to the parts that it looks at."""

    changes: tuple[tuple[int, str], ...]
    programmed: tuple[tuple[str, Entry], ...] = ()
    crash: KernelCrash | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """One verb tried in one state: what it did, and the new state that it led to.

    ``after`` is None for a crash, and when ``every`` step is visited, for a state seen before.
    """

    before: Place
    step: Step
    effect: Effect
    after: Place | None

    @property
    def result(self) -> Node:
        """The state after the verb, seen before or not."""
        return put(self.before.node, self.effect.changes)


class Walk:
    """Every verb in every state within ``depth`` verbs of the start, each state once.

    Iterating yields a :class:`Visit` for each crash and each new state, shortest ways first; with
    ``every`` also for each verb that writes to the hardware and leads to a state seen before. With
    ``alike`` empty no name is taken to be like another.
    """

    def __init__(
        self,
        lab: Lab,
        depth: int,
        seconds: float = 600.0,
        progress: Callable[[int, int, int], None] | None = None,
        *,
        every: bool = False,
        alike: tuple[Alike, ...] | None = None,
    ) -> None:
        self.lab = lab
        self.depth = depth
        self.seconds = seconds
        self.progress = progress
        self.every = every
        self.alike = alike_names(lab) if alike is None else alike
        self.states = States(lab)
        self.start = Place(self.states.start, 0)
        self.finished = 0
        """Every sequence up to this length has been tried."""
        self.verbs = 0
        self.spent = 0.0
        self._came: dict[Place, tuple[Place, Step] | None] = {self.start: None}
        self._used: dict[Node, list[int]] = {self.start.node: [0]}

    @property
    def seen(self) -> int:
        """How many different states were met so far."""
        return len(self._used)

    def remembered(self, ask: Callable[[Watched], Any]) -> Remembered:
        """A question to ask in many states of this walk."""
        return Remembered(self.states, ask)

    def state(self, place: Place) -> State:
        return self.states.state(place.node)

    def __iter__(self) -> Iterator[Visit]:
        verbs = [(s, self._effect(s), *self._uses(s)) for s in alphabet(self.lab)]
        ways: dict[int, list[tuple[Step, Remembered, int]]] = {}
        started = time.perf_counter()
        frontier = [self.start]
        for level in range(1, self.depth + 1):
            following: list[Place] = []
            for number, place in enumerate(frontier):
                if number % 256 == 0:
                    self.spent = time.perf_counter() - started
                    if self.spent > self.seconds:
                        return
                    if self.progress is not None:
                        self.progress(level, self.seen, len(frontier) - number)
                if place.used not in ways:
                    ways[place.used] = [
                        (s, effect, place.used | uses)
                        for s, effect, uses, after in verbs
                        if not after & ~place.used
                    ]
                self.verbs += len(ways[place.used])
                for step, effect_of, used in ways[place.used]:
                    effect: Effect = effect_of(place.node)
                    if effect.crash is not None:
                        yield Visit(place, step, effect, None)
                        continue
                    if effect.changes:
                        after = self._new(put(place.node, effect.changes), used)
                        if after is not None:
                            self._came[after] = (place, step)
                            following.append(after)
                            yield Visit(place, step, effect, after)
                            continue
                    if self.every and effect.programmed:
                        yield Visit(place, step, effect, None)
            self.finished = level
            self.spent = time.perf_counter() - started
            frontier = following
            if not frontier:
                self.finished = self.depth
                return

    def path(self, place: Place, *last: Step) -> tuple[Step, ...]:
        """The steps from the start to this place, and what comes after them."""
        steps: list[Step] = []
        while (before := self._came[place]) is not None:
            place, step = before
            steps.append(step)
        return (*reversed(steps), *last)

    def _new(self, node: Node, used: int) -> Place | None:
        """A new place, unless this state was met with at least these names used."""
        before = self._used.get(node)
        if before is None:
            self._used[node] = [used]
        elif any(used | other == other for other in before):
            return None
        else:
            before.append(used)
        return Place(node, used)

    def _effect(self, step: Step) -> Remembered:
        run = perform(step)

        def ask(world: Watched) -> Effect:
            if not allowed(world, step):
                return Effect(())
            try:
                run(world)
            except KernelCrash as crash:
                return Effect((), (), crash)
            except OSError:
                pass
            if step.verb == "advance":
                world.now_ms = 0.0  # nothing waits longer than one step, so time may start again
            return Effect(world.characters(), tuple(world.programmed))

        return self.remembered(ask)

    def _uses(self, step: Step) -> tuple[int, int]:
        """Which alike names a step uses, and which must have been used before it, as bits."""
        uses = after = bit = 0
        for names in self.alike:
            for place, name in enumerate(names):
                if any(type(arg) is not bool and arg in name for arg in step.args):
                    uses |= 1 << (bit + place)
                    if place:
                        after |= 1 << (bit + place - 1)
            bit += len(names)
        return uses, after


def shortest(
    release: str,
    driver: str | Driver | GivesDriver,
    arch: str | None = None,
    *,
    depth: int = 6,
    kinds: Iterable[str] = FINDINGS,
    seconds: float = 600.0,
    progress: Callable[[int, int, int], None] | None = None,
) -> Result:
    """The shortest sequence of verbs for each kind of finding, up to ``depth`` verbs.

    ``seconds`` is the budget: when it is spent the result says which depth was finished.
    ``progress`` is called with (depth, states so far, states to look at) now and then.
    """
    wanted = tuple(kinds)
    for kind in wanted:
        if kind not in FINDINGS:
            raise unknown("finding", kind, FINDINGS)
    lab = opening(release, driver, arch)
    walk = Walk(lab, depth, seconds, progress)
    looks = {
        kind: walk.remembered(_first_of(look)) for kind, look in LOOKS.items() if kind in wanted
    }
    found: dict[str, Finding] = {}

    def look_at(place: Place) -> None:
        for kind in list(looks):
            finding = looks[kind](place.node)
            if finding is not None:
                found[kind] = replace(finding, steps=walk.path(place))
                del looks[kind]

    look_at(walk.start)
    for visit in walk:
        if visit.after is not None:
            look_at(visit.after)
        elif "crash" in wanted and "crash" not in found and visit.effect.crash is not None:
            path = walk.path(visit.before, visit.step)
            found["crash"] = Finding("crash", path, str(visit.effect.crash))
        if len(found) == len(wanted):
            break
    return Result(
        release,
        lab.driver.name,
        lab.kernel.arch,
        {kind: found[kind] for kind in wanted if kind in found},
        walk.finished,
        walk.seen,
        walk.verbs,
        walk.spent,
        lab,
    )


def _first_of(look: Callable[[World], Iterator[Finding]]) -> Callable[[World], Finding | None]:
    return lambda world: next(look(world), None)


def shortest_leak(
    release: str,
    driver: str | Driver | GivesDriver,
    arch: str | None = None,
    *,
    depth: int = 6,
    **options: Any,
) -> Finding | None:
    """The shortest sequence after which a user-owned device reaches memory it was never given."""
    return shortest(release, driver, arch, depth=depth, kinds=("leak",), **options)["leak"]


# -- the whole table -------------------------------------------------------------------------------


def survey(
    releases: Iterable[str] = DESIGNS,
    drivers: Iterable[str] | None = None,
    *,
    depth: int = 4,
    seconds: float = 120.0,
    workers: int = 2,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Every driver under every release or design, on every architecture it is built for.

    A row a search: the shortest length of each finding (0 for none within ``depth``), its steps
    and what is wrong then, how far the search came, and its seconds.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    import pandas as pd

    jobs = [
        (release, name, arch, depth, seconds)
        for release in releases
        for name, arch in drivers_and_arches(release, drivers)
    ]
    rows = []
    # Fresh interpreters: a fork of a process that runs threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for row in pool.map(survey_row, jobs):
            rows.append(row)
            if progress is not None:
                progress(f"{len(rows)} of {len(jobs)}: {row['release']} {row['driver']}")
    return pd.DataFrame(rows)


def drivers_and_arches(
    release: str, drivers: Iterable[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Each driver of the release with each architecture it is built for."""
    for name in drivers if drivers is not None else (r["driver"] for r in driver_rows(release)):
        for arch in find_driver(name, release).arches:
            yield find_driver(name, release).name, arch


def survey_row(job: tuple[str, str, str, int, float]) -> dict[str, Any]:
    """One row of the table: release, driver, architecture, depth and budget in seconds."""
    release, name, arch, depth, seconds = job
    started = time.process_time()  # of this process alone, whatever else the machine does
    result = shortest(release, name, arch, depth=depth, seconds=seconds)
    took = time.process_time() - started
    row: dict[str, Any] = {"release": release, "driver": name, "arch": arch}
    for kind in FINDINGS:
        finding = result[kind]
        row[kind] = 0 if finding is None else len(finding.steps)
        row[f"{kind}_steps"] = "" if finding is None else "; ".join(map(str, finding.steps))
        row[f"{kind}_says"] = "" if finding is None else finding.says
    row |= {"depth": result.depth, "states": result.states, "verbs": result.verbs}
    return {**row, "seconds": round(took, 2)}


def say_progress(depth: int, states: int, left: int, to: TextIO | None = None) -> None:
    """One line that is written over: how deep the search is, and what is left at this depth."""
    says = f"depth {depth}: {states:,} states, {left:,} to look at"
    print(f"\r{says:<60}", end="", file=to or sys.stdout, flush=True)


def main(argv: Sequence[str]) -> int:
    """``iommu-lab search``: the shortest way to each kind of trouble, for one driver."""
    parser = argparse.ArgumentParser(
        prog="iommu-lab search",
        description="Try every sequence of verbs up to a length, and print the shortest bad ends.",
    )
    parser.add_argument("--release", default="6.0", help="a kernel release (6.0)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--driver", help="an IOMMU driver of that release")
    what.add_argument("--all", metavar="FILE", help="every driver and design, as a table (CSV)")
    parser.add_argument("--arch", help="an architecture it is built for, for example arm32")
    parser.add_argument("--depth", type=int, default=4, help="how many verbs at most (4)")
    parser.add_argument("--seconds", type=float, default=600.0, help="stop after this (600)")
    asked = parser.parse_args(argv)
    started = time.perf_counter()
    if asked.all:
        rows = survey(
            depth=asked.depth,
            seconds=asked.seconds,
            progress=lambda says: print(f"\r{says:<60}", end="", file=sys.stderr, flush=True),
        )
        rows.to_csv(asked.all, index=False, lineterminator="\n")
        took = time.perf_counter() - started
        print(f"\n{len(rows)} searches, {rows.verbs.sum():,} verbs, {took:.0f} s", file=sys.stderr)
        return 0

    show = partial(say_progress, to=sys.stderr) if sys.stderr.isatty() else None
    result = shortest(
        asked.release,
        asked.driver,
        asked.arch,
        depth=asked.depth,
        seconds=asked.seconds,
        progress=show,
    )
    if show is not None:
        print(file=sys.stderr)
    print(result)
    return 0
