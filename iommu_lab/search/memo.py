"""The memo: how is a question asked only once for all states in which it has the same answer?

A verb is run on a workbench that notes, in order, what it looks at. Whatever agrees in that gets
the same answer, for a verb can't depend on what it never looked at. Some looks are questions
themselves: is there such a thing, does this field have that value? Of those the answer counts and
not the thing, so that freeing a domain need not be tried anew for each state of each device that
was never on it.

Where it stops: an answer is a value; what it means, and which states there are, others know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..state import Has, World
from .nodes import ABSENT, KEPT, KERNEL, Node, States, bits

Question = Callable[[Any], bool]
"""What is asked of one thing, or of None where there is no such thing."""


def there(thing: object) -> bool:
    """Is there such a thing?"""
    return thing is not None


class Watched(World):
    """A workbench that notes, in order, which things of the state a verb looks at."""

    def __init__(self, states: States, node: Node) -> None:
        super().__init__(states.kernel(node), states.opening)
        self.looked_at: dict[tuple[int, Question | None], None] = {
            (states.place(KERNEL), None): None
        }
        """Places, and what was asked of the thing there; None where all of it was seen."""
        self.looked_at_all: dict[str, int] = {}
        self._states, self._node = states, node

    def __getattr__(self, name: str) -> Any:
        if name not in KEPT:
            return super().__getattr__(name)
        part = self.__dict__[name] = _WatchedPart(self._states, self._node, name, self)
        return part

    def where(self, part: str, value: object, *fields: str) -> list[Any]:
        watched: _WatchedPart = getattr(self, part)
        return watched.where(Has(value, fields))

    @property
    def overlooked(self) -> bool:
        """Has a part got a thing with a new name since all its things were looked at?"""
        return any(len(self._states.keys(n)) > many for n, many in self.looked_at_all.items())

    def characters(self) -> tuple[tuple[int, str], ...]:
        """What is different now: places, and what stands there.

        What was written unseen is different, since it may be in another state with this answer.
        """
        found = []
        if self.kernel is not self._states.kernel(self._node):
            found.append(self._states.number(KERNEL, self.kernel))
        for name in KEPT:
            part = self.__dict__.get(name)
            if part is not None:
                found += part.characters()
        return tuple(sorted(c for c in found if not self._is_known(*c)))

    def _is_known(self, place: int, character: str) -> bool:
        """Did the verb see that this stands there already?"""
        if character != self._node[place]:
            return False
        absent = character == ABSENT and (place, there) in self.looked_at
        return absent or (place, None) in self.looked_at


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
        self._world.looked_at[place, None] = None
        if self._node[place] != ABSENT:
            super().__setitem__(key, self._states.at(self._node, place))

    def _ask(self, key: Any, question: Question) -> bool:
        """Ask a thing something without looking at all of it."""
        if key in self._looked:
            return question(super().get(key))
        place = self._states.place((self._name, key))
        self._world.looked_at[place, question] = None
        return question(self._states.at(self._node, place))

    def _all(self) -> list[Any]:
        """The names of all things that there may be, those that came during this verb included."""
        keys = self._states.keys(self._name)
        self._world.looked_at_all.setdefault(self._name, len(keys))
        return [*keys, *(key for key in dict.__iter__(self) if key not in keys)]

    def _look_at_all(self) -> None:
        for key in self._all():
            self._look(key)

    def where(self, question: Question) -> list[Any]:
        return [key for key in self._all() if self._ask(key, question)]

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
        return self._ask(key, there)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.where(there))

    def __len__(self) -> int:
        return len(self.where(there))

    def keys(self) -> Any:
        return dict.fromkeys(self.where(there)).keys()

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
        self._look(key)
        if not super().__contains__(key):
            self[key] = default
        return super().__getitem__(key)

    def pop(self, key: Any, *default: Any) -> Any:
        self._look(key)
        if super().__contains__(key):
            self._mine.add(key)
        return super().pop(key, *default)

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        self._looked.add(key)
        self._mine.add(key)
        super().pop(key, None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, and the places that it depends on, as bits.

    A state that differs only in other places gets this answer too.
    """

    answer: Any
    looked: int


@dataclass(slots=True)
class Fork:
    """A look at one place, and where each thing that may stand there leads.

    Where a question was asked, all things with one answer lead to the same.
    """

    place: int
    question: Question | None
    things: list[Any]
    branches: dict[str, Fork | Answer] = field(default_factory=dict)
    answers: dict[bool, Fork | Answer] = field(default_factory=dict)

    def towards(self, node: Node) -> Fork | Answer | None:
        """Where this state leads, or None if nothing like it has come by."""
        character = node[self.place]
        found = self.branches.get(character)
        if found is None and self.question is not None:
            found = self.answers.get(self.question(self.things[ord(character)]))
            if found is not None:
                self.branches[character] = found
        return found

    def lead(self, node: Node, to: Fork | Answer) -> None:
        character = node[self.place]
        self.branches[character] = to
        if self.question is not None:
            self.answers[self.question(self.things[ord(character)])] = to


class Remembered:
    """A question about a world, asked once for each combination of the things that it looks at.

    What was asked is kept as a tree of forks: two states that go one way through the tree get one
    answer.
    """

    def __init__(self, states: States, ask: Callable[[Watched], Any]) -> None:
        self._states = states
        self._ask = ask
        self.forget()

    def forget(self) -> None:
        place = self._states.place(KERNEL)
        self._tree = Fork(place, None, self._states.things(place))

    def __call__(self, node: Node) -> Any:
        return self.at(node).answer

    def at(self, node: Node) -> Answer:
        """The answer in this state, with what it depends on."""
        here: Any = self._tree
        while here.__class__ is Fork:
            here = here.branches.get(node[here.place])
        return here or self._alike(node) or self._learn(node)

    def _alike(self, node: Node) -> Answer | None:
        """The answer of a state that differs in things of which only a question was asked."""
        here: Fork | Answer | None = self._tree
        while isinstance(here, Fork):
            here = here.towards(node)
        return here

    def _learn(self, node: Node) -> Answer:
        world = Watched(self._states, node)
        answer = self._ask(world)
        if world.overlooked:
            return Answer(answer, -1)  # all its things will be more the next time: ask again then
        here, (_, *rest) = self._tree, world.looked_at
        for place, question in rest:
            fork = here.towards(node)
            if fork is None:
                fork = Fork(place, question, self._states.things(place))
                here.lead(node, fork)
            if not isinstance(fork, Fork) or (fork.place, fork.question) != (place, question):
                raise AssertionError("a verb looked at a state in a different order this time")
            here = fork
        looked = bits(place for place, _ in world.looked_at)
        if world.looked_at_all:
            looked |= self._states.yet_to_come()
            self._states.on_a_new_name(self.forget)
        found = Answer(answer, looked)
        here.lead(node, found)
        return found
