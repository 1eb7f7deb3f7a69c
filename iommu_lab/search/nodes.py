"""Nodes: how is a state written as a string, and read back?

Each thing that was met in some state has a number, and a state is the string of the numbers. So a
state is compared, hashed and changed in a few places as fast as a string is, and a thing that many
states share is kept once. The string has a fixed width, so that a place means the same in each.

Where it stops: what a verb looks at, and what is remembered of it, is the memo's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ..behaviours import STAYS_LISTED
from ..domains import Domain
from ..drivers import Driver
from ..hardware import Frozen
from ..lab import Lab
from ..state import Kernel, State, World

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
        self.opening = lab.state
        self.users_matter = users_matter(lab.driver) if users is None else users
        self._places: dict[tuple[str, Any], int] = {}
        self._keys: dict[str, list[Any]] = {name: [] for name in (KERNEL[0], *KEPT)}
        self._things: list[list[Any]] = []
        self._numbers: list[dict[Any, str]] = []
        self._depend_on_all: set[Callable[[], None]] = set()
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
            for forget in self._depend_on_all:
                forget()  # it looked at all things there were, and now there is another
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

    def things(self, place: int) -> list[Any]:
        """What may stand at a place; the number of each is its index."""
        return self._things[place]

    def yet_to_come(self) -> int:
        """The places that things with new names will get, as bits: infinitely many."""
        return -1 << len(self._things)

    def on_a_new_name(self, forget: Callable[[], None]) -> None:
        """Call this once, when a thing turns up that no state had before."""
        self._depend_on_all.add(forget)

    def state(self, node: Node) -> State:
        return self.opening.having({name: Frozen(self.part(node, name)) for name in KEPT})

    def world(self, node: Node) -> World:
        """A workbench with the state of this node on it."""
        return World(self.kernel(node), self.state(node))


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


def bits(places: Iterable[int]) -> int:
    """A set of places as one number, so that two sets are compared by one ``&``."""
    found = 0
    for place in places:
        found |= 1 << place
    return found
