"""The search: every sequence of verbs up to a length, and the shortest one that ends badly.

States are values, so a breadth-first search over all verbs and arguments of a small closed world
visits each situation once. It ends with the shortest sequence for each of five findings:

* **leak**: a user-owned device reaches memory that its user was never given;
* **disagreement**: the core believes one thing and the hardware does another;
* **crash**: the kernel would follow a NULL pointer, hit a BUG or never return;
* **lost**: a kernel driver is bound, nobody attached a domain of their own, and the address that
  the DMA API gives is dead;
* **undecided**: a user-owned device is in a hardware state that nobody has described.

The closed world: two devices in one group and one apart (three apart where the driver gives each
device a group of its own), one more that may come late, two domains, two pages of the user's, one
owner, and one kernel driver with one buffer that it maps once at a time.

Nothing is tried twice: a verb is run once for each combination of the things that it looks at in a
state, and its effect on them is remembered. Names that play the same part are taken in order (the
second domain only after the first was used), which leaves out only renamings of other sequences.

Callers keep their contracts: the DMA API is called by a bound kernel driver, nobody frees a domain
that the core believes attached, gives back a default domain that nobody uses, or releases what
nobody claimed. No failure of memory or of a driver is injected. ``map_many`` does what ``map``
does, and binding ``vfio-pci`` does nothing to the IOMMU core.

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
from numbers import Integral
from typing import TYPE_CHECKING, Any, TextIO

from . import core, dmaapi
from .behaviours import STAYS_LISTED
from .bootline import GivesDriver, to_driver
from .domains import Domain, DomainType
from .drivers import Driver
from .drivers import driver as find_driver
from .drivers import rows as driver_rows
from .errors import KernelCrash, unknown
from .hardware import Entry, Frozen, Kind
from .lab import Lab, Step, perform
from .machine import Device, Machine, Region
from .reach import reach, undecided
from .state import Group, Kernel, State, World

if TYPE_CHECKING:
    import pandas as pd

FINDINGS = ("leak", "disagreement", "crash", "lost", "undecided")
DESIGNS = ("5.19", "6.0", "patch-v2", "plan", "6.3", "6.7", "6.12", "7.2")

OWNER, KERNEL_DRIVER = "user", "kernel-driver"
PAGE = 4096
USER_PAGES = (0x9000_0000, 0x9000_1000)
KERNEL_BUFFER = 0x8000_0000
IOVA = 0x10_0000
MEMORY = (
    Region(0x0000_0000, 0x3FFF_FFFF, "kernel"),
    Region(KERNEL_BUFFER, KERNEL_BUFFER + PAGE - 1, "driver buffer"),
    Region(USER_PAGES[0], USER_PAGES[1] + PAGE - 1, "user"),
)
DEVICES = ("dev0", "dev1", "dev2")
LATE = "dev3"
DOMAINS = ("dom1", "dom2")


@dataclass(frozen=True, slots=True)
class Finding:
    """The shortest way to one kind of trouble: the steps, and a sentence for what is wrong."""

    kind: str
    steps: tuple[Step, ...]
    says: str
    device: str = ""
    iova: int | None = None
    paddr: int | None = None

    def __str__(self) -> str:
        calls = "\n".join(f"  {n}. {step}" for n, step in enumerate(self.steps, 1))
        count = f"{len(self.steps)} step{'s' if len(self.steps) != 1 else ''}"
        return f"{self.kind} after {count}:\n{calls}\n  {self.says}"

    __repr__ = __str__


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


def closed_world(grouping: str) -> Machine:
    """Two devices in one group and one apart; three apart where the driver never shares a group."""
    shared = (0, 0, 1) if grouping != "own" else (0, 1, 2)
    devices = tuple(Device(name, group) for name, group in zip(DEVICES, shared, strict=True))
    return Machine(devices=devices, memory=MEMORY)


def opening(release: str, driver: str | Driver | GivesDriver, arch: str | None = None) -> Lab:
    """The closed world before the first verb: three devices and two empty domains.

    A driver that has no UNMANAGED domain to give starts without domains.
    """
    row = to_driver(driver, release)
    lab = Lab(release, row, machine=closed_world(row.grouping_on(arch or row.arch)), arch=arch)
    if DomainType.UNMANAGED in row.accepts:
        for _ in DOMAINS:
            lab.alloc_domain("unmanaged")
    return lab


def iovas(driver: Driver) -> tuple[int, int]:
    """Two neighbouring pages inside the driver's aperture."""
    first = max(IOVA, driver.first)
    return first, first + PAGE


def alphabet(lab: Lab) -> tuple[Step, ...]:
    """Every verb of the face that this release has, with every argument of the closed world."""
    machine = lab.machine
    devices = [d.name for d in machine.devices]
    groups = sorted({d.group for d in machine.devices})
    domains = [name for name in DOMAINS if name in lab.state.domains]
    verbs: list[Step] = []
    for domain in domains:
        for device in devices:
            verbs += [
                Step("attach_device", (domain, device)),
                Step("detach_device", (domain, device)),
            ]
        for group in groups:
            verbs += [
                Step(verb, (domain, group))
                for verb in ("attach_group", "detach_group", "replace_domain")
            ]
        for iova, paddr in zip(iovas(lab.driver), USER_PAGES, strict=True):
            verbs += [
                Step("map", (domain, iova, paddr, PAGE, "rw")),
                Step("unmap", (domain, iova, PAGE)),
            ]
        verbs.append(Step("free_domain", (domain,)))
    for group in groups:
        verbs += [
            Step("claim_dma_owner", (group, OWNER)),
            Step("release_dma_owner", (group,)),
            *(Step("set_group_type", (group, word)) for word in core.WRITABLE),
        ]
    for device in devices:
        verbs += [
            Step("claim_device", (device, OWNER)),
            Step("release_device_owner", (device,)),
            Step("use_default_domain", (device,)),
            Step("unuse_default_domain", (device,)),
            Step("bind", (device, KERNEL_DRIVER)),
            Step("unbind", (device,)),
            Step("remove", (device,)),
            Step("probe", (device,)),
            Step("dma_map", (device, KERNEL_BUFFER, PAGE, "bidirectional")),
            Step("set_bus_master", (device, True)),
            Step("set_bus_master", (device, False)),
            Step("power_cycle", (device,)),
        ]
    for device in devices:
        mapped = lab.replay([Step("dma_map", (device, KERNEL_BUFFER, PAGE, "bidirectional"))])
        address = mapped.moments[-1].result  # the one that the driver gets each time, or an errno
        if isinstance(address, int):
            verbs.append(Step("dma_unmap", (device, address, PAGE)))
    joins = len(groups) if lab.driver.grouping_on(lab.kernel.arch) == "own" else groups[0]
    verbs += [Step("late_join", (LATE, joins)), Step("advance", (dmaapi.FLUSH_MS,))]
    return tuple(v for v in verbs if _has(lab.kernel, v.verb))


def _has(kernel: Kernel, verb: str) -> bool:
    needs = core.NEEDS.get(verb)
    return needs is None or kernel.release[needs[0]] in needs[1]


# -- what a caller may do --------------------------------------------------------------------------


def _there(w: World, step: Step) -> bool:
    """Do the domain and the group that a step names exist, and may a caller do this now?"""
    first = step.args[0] if step.args else None
    if first in DOMAINS and first not in w.domains:
        return False
    group = _group(step)
    if group is not None and group not in w.groups and step.verb != "late_join":
        return False
    if step.verb == "late_join":
        return LATE not in w.devices
    if step.verb == "free_domain":
        return all(first not in (g.domain, g.default, g.blocking) for g in w.groups.values())
    if step.verb == "release_dma_owner":
        return group is not None and w.groups[group].owner is not None
    if step.verb == "release_device_owner":
        mine = w.group_of(str(first))
        return mine is not None and mine.owner is not None
    if step.verb == "unuse_default_domain":
        return _users(w, str(first)) > 0
    if step.verb == "use_default_domain":
        return _users(w, str(first)) == 0
    if step.verb in ("dma_map", "dma_unmap"):
        bound = w.devices[str(first)].driver == KERNEL_DRIVER
        return bound and _buffer_is_mapped(w, str(first)) == (step.verb == "dma_unmap")
    return True


def _group(step: Step) -> int | None:
    """The group that a step names; it may have died with its last device."""
    return next((a for a in step.args[:2] if type(a) is int and a < PAGE), None)


def _users(w: World, device: str) -> int:
    """How often ``use_default_domain`` was called for this device's group, kernel drivers apart."""
    group = w.group_of(device)
    if group is None or group.owner is not None:
        return 0
    return group.owner_cnt - sum(w.devices[d].driver is not None for d in group.devices)


def _buffer_is_mapped(w: World, device: str) -> bool:
    """Has the driver its one buffer mapped already?"""
    try:
        where = dmaapi.backing(w, device)
    except KernelCrash:
        return False
    if where is None:
        return False  # the address is the physical one, and nothing changes
    table = where if isinstance(where, str) else where.table
    return any(run.paddr == KERNEL_BUFFER for run in w.table(table))


# -- what counts as trouble ------------------------------------------------------------------------


def leaks(w: World) -> Iterator[Finding]:
    """A user-owned device reaches memory that its user was never given."""
    given = (USER_PAGES[0], USER_PAGES[1] + PAGE - 1)
    for device, group in _owned(w):
        for found in reach(w.hardware_of(device), device):
            if not given[0] <= found.first <= found.last <= given[1]:
                paddr = found.first if found.first < given[0] else max(found.first, given[1] + 1)
                owner = w.kernel.machine.owner_at(paddr)
                may = "reaches" if found.sure else "may reach, through a stale IOTLB entry,"
                yield Finding(
                    "leak",
                    (),
                    f"{device} of group {group.number}, owned by {group.owner!r}, {may} "
                    f"{paddr:#x}, memory of {owner}",
                    device,
                    found.iova + paddr - found.first,
                    paddr,
                )
                break


def disagreements(w: World) -> Iterator[Finding]:
    """The core believes one thing, the hardware does another."""
    for group in w.groups.values():
        if group.domain is None:
            continue
        domain = w.domains[group.domain]
        for device in group.devices:
            if w.devices[device].deferred:
                continue
            entry = w.entries[device]
            if domain.type is DomainType.BLOCKED or domain.substitute:
                agrees = entry.kind is not Kind.UNKNOWN
                agrees = agrees and next(reach(w.hardware_of(device), device), None) is None
                believed = "blocked"
            elif domain.type is DomainType.IDENTITY:
                agrees, believed = entry.kind is Kind.BYPASS, "in identity"
            elif domain.type.paging:
                agrees = entry.kind in (Kind.TABLE, Kind.PLATFORM) and entry.table == domain.table
                table = "" if domain.table == domain.name else f", whose table is {domain.table}"
                believed = f"attached to {domain.name}{table}"
            else:
                continue
            if not agrees:
                yield Finding(
                    "disagreement",
                    (),
                    f"the core believes {device} {believed}; the hardware has it {_is(entry)}",
                    device,
                )


def _is(entry: Entry) -> str:
    if entry.kind is Kind.UNKNOWN:
        return f"in a state that is unknown: {entry.why}"
    return f"on the table of {entry.table}" if entry.table else f"in {entry.kind.value}"


def lost(w: World) -> Iterator[Finding]:
    """A kernel driver is bound and what the DMA API would give it does not get through."""
    if w.driver.boot == "mock":
        return  # a device in software makes no DMA that could get lost
    for device, at in w.devices.items():
        if at.driver is None or at.driver in core.MANAGES_DMA_ITSELF or at.deferred:
            continue
        group = w.group_of(device)
        if group is not None and group.domain in DOMAINS:
            continue  # somebody attached a domain of their own, and knows it
        try:
            where = dmaapi.backing(w, device)
        except KernelCrash:
            continue
        entry = w.entries[device]
        if where is None:
            alive = any(
                r.first <= KERNEL_BUFFER <= r.last and r.iova == r.first
                for r in reach(w.hardware_of(device), device)
            )
            gets = "the physical address"
        else:
            table = where if isinstance(where, str) else where.table
            alive = entry.table == table and entry.kind in (Kind.TABLE, Kind.PLATFORM)
            gets = f"addresses of {where if isinstance(where, str) else where.name}"
        if not alive and entry.kind is not Kind.UNKNOWN:
            yield Finding(
                "lost",
                (),
                f"{device} is bound to {at.driver}, which gets {gets}; "
                f"the hardware has it {_is(entry)}",
                device,
            )


def undescribed(w: World) -> Iterator[Finding]:
    """A user-owned device is in a hardware state that nobody has described."""
    if w.driver.boot == "mock":
        return
    for device, group in _owned(w):
        if undecided(w.hardware_of(device), device):
            why = w.entries[device].why
            yield Finding("undecided", (), f"{device}, owned by {group.owner!r}: {why}", device)


LOOKS: dict[str, Callable[[World], Iterator[Finding]]] = {
    "leak": leaks,
    "disagreement": disagreements,
    "lost": lost,
    "undecided": undescribed,
}


def _owned(w: World) -> Iterator[tuple[str, Group]]:
    for group in w.groups.values():
        if group.owner is not None:
            for device in group.devices:
                yield device, group


# -- states as strings -----------------------------------------------------------------------------

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


# -- the search itself -----------------------------------------------------------------------------


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


def check_budget(depth: object, seconds: object) -> None:
    """Raise ValueError unless a search can go so deep and take so long."""
    if not isinstance(depth, Integral) or depth < 1:
        raise ValueError(f"a search is 1 verb deep or more, a whole number: got {depth!r}")
    if not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ValueError(f"a search has a number of seconds, 0 or more: got {seconds!r}")


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
        verbs = [(s, self._effect(s), *self._uses(s)) for s in alphabet(self.lab)]
        allowed: dict[int, list[tuple[Step, Remembered, int]]] = {}
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
                if place.used not in allowed:
                    allowed[place.used] = [
                        (s, effect, place.used | uses)
                        for s, effect, uses, after in verbs
                        if not after & ~place.used
                    ]
                self.verbs += len(allowed[place.used])
                for step, effect_of, used in allowed[place.used]:
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
            if not _there(world, step):
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


Alike = tuple[frozenset[Any], ...]


def alike_names(lab: Lab) -> tuple[Alike, ...]:
    """Names that play the same part, in the order in which they are used; several for one thing.

    Domains and pages differ in nothing. Devices that share a group do, since a group's list has an
    order; devices that each have a group of their own do not. To a reader's driver that looks at
    names none but the pages are alike.
    """
    rows: list[list[tuple[Any, ...]]] = [[(iova,) for iova in iovas(lab.driver)]]
    if not lab.driver.sees_names:
        rows.insert(0, [(domain,) for domain in DOMAINS])
    if not lab.driver.sees_names and lab.driver.grouping_on(lab.kernel.arch) == "own":
        rows.append([(device.name, device.group) for device in lab.machine.devices])
    return tuple(tuple(frozenset(names) for names in row) for row in rows)


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
    wanted = (kinds,) if isinstance(kinds, str) else tuple(kinds)
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
    try:
        check_budget(asked.depth, asked.seconds)
        if asked.all:
            open(asked.all, "a").close()  # before the minutes of the search, and not after
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{asked.all}: {error.strerror}")
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
