"""The walk: every verb in every state within so many verbs of the start, shortest ways first.

States are values, so breadth first meets each situation once. Names that play the same part are
taken in order (the second domain only after the first was used), which leaves out only renamings of
other sequences.

Where it stops: it visits and judges nothing; what counts as trouble is asked by its callers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

from ..errors import KernelCrash
from ..hardware import Entry
from ..lab import Lab, Step, perform
from ..state import State
from .closed import Alike, alike_names, alphabet, may
from .memo import Answer, Remembered, Watched
from .nodes import Node, States, bits, put


class Place(NamedTuple):
    """A state in the search, and which of the alike names were used on the way to it, as bits."""

    node: Node
    used: int


@dataclass(frozen=True, slots=True)
class Effect:
    """What a verb does to the parts that it looks at."""

    changes: tuple[tuple[int, str], ...]
    programmed: tuple[tuple[str, Entry], ...] = ()
    crash: KernelCrash | None = None
    touched: int = 0
    """The places that it changes, as bits."""


class Visit(NamedTuple):
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


def check_budget(depth: object, seconds: object) -> None:
    """Raise ValueError unless a search can go so deep and take so long."""
    if not isinstance(depth, Integral) or depth < 1:
        raise ValueError(f"a search is 1 verb deep or more, a whole number: got {depth!r}")
    if not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ValueError(f"a search has a number of seconds, 0 or more: got {seconds!r}")


class _Ahead(NamedTuple):
    """A place to try every verb in, and what is known of them there from the place before.

    A verb that looked at nothing of what was ``touched`` on the way does the same as before.
    """

    place: Place
    touched: int
    before: list[Answer | None]


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
        check_budget(depth, seconds)
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
        steps = alphabet(self.lab)
        effects = [self._effect(step) for step in steps]
        uses = [self._uses(step) for step in steps]
        allowed: dict[int, list[tuple[int, int]]] = {}
        started = time.perf_counter()
        frontier = [_Ahead(self.start, 0, [None] * len(steps))]
        for level in range(1, self.depth + 1):
            following: list[_Ahead] = []
            for number, (place, touched, before) in enumerate(frontier):
                if number % 256 == 0:
                    self.spent = time.perf_counter() - started
                    if self.spent > self.seconds:
                        return
                    if self.progress is not None:
                        self.progress(level, self.seen, len(frontier) - number)
                if place.used not in allowed:
                    allowed[place.used] = [
                        (verb, place.used | used)
                        for verb, (used, after) in enumerate(uses)
                        if not after & ~place.used
                    ]
                self.verbs += len(allowed[place.used])
                answers = before.copy()
                for verb, used in allowed[place.used]:
                    answer = answers[verb]
                    if answer is None or answer.looked & touched:
                        answer = answers[verb] = effects[verb].at(place.node)
                    effect: Effect = answer.answer
                    if effect.crash is not None:
                        yield Visit(place, steps[verb], effect, None)
                        continue
                    if effect.changes:
                        after = self._new(put(place.node, effect.changes), used)
                        if after is not None:
                            self._came[after] = (place, steps[verb])
                            following.append(_Ahead(after, effect.touched, answers))
                            yield Visit(place, steps[verb], effect, after)
                            continue
                    if self.every and effect.programmed:
                        yield Visit(place, steps[verb], effect, None)
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
            if not may(world, step):
                return Effect(())
            try:
                run(world)
            except KernelCrash as crash:
                return Effect((), (), crash)
            except OSError:
                pass
            if step.verb == "advance":
                world.now_ms = 0.0  # nothing waits longer than one step, so time may start again
            changes = world.characters()
            touched = bits(place for place, _ in changes)
            return Effect(changes, tuple(world.programmed), None, touched)

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
