"""The state space: states as strings, and questions asked once for all states that agree in them.

Every thing that was met in some state has a place in the string and its value a character there, so
that two states are compared as fast as two strings. A question about a state is run on a workbench
that notes what it looks at, and is not run again in a state that has the same things there.

The one choice a reader would question: which parts of a state count (:data:`KEPT`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from .behaviours import STAYS_LISTED
from .domains import Domain
from .drivers import Driver
from .hardware import Frozen
from .lab import Lab
from .state import Kernel, State, World

Node = str
"""A state as a string: the character at each place is the number of what stands there. The first is
the kernel; then comes a place for each thing that any state has, or ``ABSENT`` where it has not."""

KEPT = ("groups", "devices", "domains", "entries", "tables", "notes", "iovas")
"""The parts by which states differ here. Whoever drives a device can let it be bus master, so the
bit says nothing about what may be reached, and states that differ in it alone are one."""

ABSENT = "\0"
WIDTH = 160
KERNEL: tuple[str, Any] = ("kernel", None)


class States:
    """Every thing that was met in some state, numbered, and the way back to the state itself."""

    def __init__(self, lab: Lab, users: bool | None = None) -> None:
        self._opening = lab.state
        self.users_matter = users_matter(lab.driver) if users is None else users
        self._places: dict[tuple[str, Any], int] = {}
        self._keys: dict[str, list[Any]] = {name: [] for name in (KERNEL[0], *KEPT)}
        self._things: list[list[Any]] = []
        self._numbers: list[dict[Any, str]] = []
        self._depend_on_all: list[Remembered] = []
        start = [self.number(KERNEL, lab.kernel)]
        for name in KEPT:
            start += [self.number((name, key), t) for key, t in lab.state.part(name).items()]
        self.start = put(ABSENT * WIDTH, start)

    def place(self, of: tuple[str, Any]) -> int:
        """Where in the string this thing of a part stands."""
        place = self._places.get(of)
        if place is None:
            place = self._places[of] = len(self._things)
            if place == WIDTH:
                raise ValueError(f"a state has at most {WIDTH} things, and {of} is one more")
            self._keys[of[0]].append(of[1])
            self._things.append([None])
            self._numbers.append({None: ABSENT})
            for remembered in self._depend_on_all:
                remembered.forget()  # it looked at all things there were, and now there is another
            self._depend_on_all.clear()
        return place

    def keys(self, name: str) -> list[Any]:
        """The names of a part's things, those that a state may lack included."""
        return self._keys[name]

    def number(self, of: tuple[str, Any], thing: Any) -> tuple[int, str]:
        """The place of a thing, and the character that stands for its value."""
        place = self.place(of)
        if isinstance(thing, Domain) and thing.users:
            thing = replace(thing, users=tuple(sorted(thing.users)) if self.users_matter else ())
        numbers, things = self._numbers[place], self._things[place]
        character = numbers.get(thing)
        if character is None:
            character = numbers[thing] = chr(len(things))
            things.append(thing)
        return place, character

    def at(self, node: Node, place: int) -> Any:
        return self._things[place][ord(node[place])]

    def kernel(self, node: Node) -> Kernel:
        kernel: Kernel = self.at(node, 0)
        return kernel

    def part(self, node: Node, name: str) -> dict[Any, Any]:
        found = ((key, self.at(node, self._places[name, key])) for key in self._keys[name])
        return {key: thing for key, thing in found if thing is not None}

    def depends_on_all(self, remembered: Remembered) -> None:
        self._depend_on_all.append(remembered)

    def state(self, node: Node) -> State:
        return self._opening.having({name: Frozen(self.part(node, name)) for name in KEPT})

    def world(self, node: Node) -> World:
        """A workbench with the state of this node on it."""
        return World(self.kernel(node), self.state(node))

    def watched(self, node: Node) -> Watched:
        return Watched(self, node, self._opening)


def users_matter(driver: Driver) -> bool:
    """Does this driver ever ask which devices a domain has? Where not, states may differ in it."""
    asks = ("one-device", "at-power-up", "one-domain", "bypass-first")
    listed = driver.keeps in STAYS_LISTED or driver.pagetable == "virtio"
    return driver.attach in asks or listed or bool(driver.own)


def put(node: Node, characters: Iterable[tuple[int, str]]) -> Node:
    """The node with these characters at their places."""
    pieces, at = [], 0
    for place, character in sorted(characters):
        pieces += [node[at:place], character]
        at = place + 1
    return "".join([*pieces, node[at:]])


class Watched(World):
    """A workbench that notes, in order, which things of the state a verb looks at."""

    def __init__(self, states: States, node: Node, opening: State) -> None:
        super().__init__(states.kernel(node), opening)
        self.looked_at: dict[int, None] = {states.place(KERNEL): None}
        self.looked_at_all: dict[str, int] = {}
        self._states, self._node = states, node

    def __getattr__(self, name: str) -> Any:
        if name not in KEPT:
            return super().__getattr__(name)
        part = self.__dict__[name] = _WatchedPart(self._states, self._node, name, self)
        return part

    @property
    def overlooked(self) -> bool:
        """Has a part got a thing with a new name since all its things were looked at?"""
        return any(len(self._states.keys(n)) > many for n, many in self.looked_at_all.items())

    def characters(self) -> tuple[tuple[int, str], ...]:
        """What is different now: places, and what stands there."""
        found = []
        if self.kernel is not self._states.kernel(self._node):
            found.append(self._states.number(KERNEL, self.kernel))
        for name in KEPT:
            part = self.__dict__.get(name)
            if part is not None:
                found += part.characters()
        same = {(place, self._node[place]) for place in self.looked_at}
        return tuple(sorted(c for c in found if c not in same))


class _WatchedPart(dict[Any, Any]):
    """One part on the workbench: a thing is taken out of the state when it is first looked at."""

    __slots__ = ("_looked", "_mine", "_name", "_node", "_states", "_world")

    def __init__(self, states: States, node: Node, name: str, world: Watched) -> None:
        super().__init__()
        self._states, self._node, self._name, self._world = states, node, name, world
        self._looked: set[Any] = set()
        self._mine: set[Any] = set()

    def _look(self, key: Any) -> None:
        if key in self._looked:
            return
        self._looked.add(key)
        place = self._states.place((self._name, key))
        self._world.looked_at[place] = None
        if self._node[place] != ABSENT:
            super().__setitem__(key, self._states.at(self._node, place))

    def _look_at_all(self) -> None:
        keys = self._states.keys(self._name)
        self._world.looked_at_all.setdefault(self._name, len(keys))
        for key in keys:
            self._look(key)

    def characters(self) -> Iterator[tuple[int, str]]:
        for key in self._mine:
            yield self._states.number((self._name, key), super().get(key))

    def __getitem__(self, key: Any) -> Any:
        self._look(key)
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self._look(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._look(key)
        return super().__contains__(key)

    def __iter__(self) -> Iterator[Any]:
        self._look_at_all()
        return super().__iter__()

    def __len__(self) -> int:
        self._look_at_all()
        return super().__len__()

    def keys(self) -> Any:
        self._look_at_all()
        return super().keys()

    def values(self) -> Any:
        self._look_at_all()
        return super().values()

    def items(self) -> Any:
        self._look_at_all()
        return super().items()

    def __setitem__(self, key: Any, thing: Any) -> None:
        self._looked.add(key)
        self._mine.add(key)
        super().__setitem__(key, thing)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return super().__getitem__(key)

    def pop(self, key: Any, *default: Any) -> Any:
        if key not in self:
            return super().pop(key, *default)
        thing = super().__getitem__(key)
        del self[key]
        return thing

    def __delitem__(self, key: Any) -> None:
        self._look(key)
        self._mine.add(key)
        super().__delitem__(key)


class Remembered:
    """A question about a world, asked once for each combination of the things that it looks at.

    What was asked is kept as a tree: each fork is a place in the state, each branch what may stand
    there. Two states that agree in everything on one way through the tree get one answer, for a
    verb can't depend on what it never looked at.
    """

    def __init__(self, states: States, ask: Callable[[Watched], Any]) -> None:
        self._states = states
        self._ask = ask
        self._tree: dict[str, Any] = {}
        self._first = states.place(KERNEL)

    def __call__(self, node: Node) -> Any:
        at = self._tree.get(node[self._first])
        while at.__class__ is tuple:
            at = at[1].get(node[at[0]])
        return self._learn(node) if at is None else at.answer

    def _learn(self, node: Node) -> Any:
        world = self._states.watched(node)
        answer = self._ask(world)
        if world.overlooked:
            return answer  # all its things will be more the next time: nothing to go by yet
        branches, (_, *rest) = self._tree, world.looked_at
        here = self._first
        for place in rest:
            fork = branches.setdefault(node[here], (place, {}))
            if fork[0] != place:
                raise AssertionError("a verb looked at a state in a different order this time")
            here, branches = fork
        branches[node[here]] = Answer(answer)
        if world.looked_at_all:
            self._states.depends_on_all(self)
        return answer

    def forget(self) -> None:
        self._tree.clear()


@dataclass(frozen=True, slots=True)
class Answer:
    answer: Any
