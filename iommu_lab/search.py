"""The search: every sequence of verbs up to a length, and the shortest one that ends badly.

States are values, so a breadth-first search over all verbs and arguments of a small closed world
visits each situation once. It ends with the shortest sequence for each of five findings:

* **leak**: a user-owned device reaches memory that its user was never given;
* **disagreement**: the core believes one thing and the hardware does another;
* **crash**: the kernel would follow a NULL pointer, hit a BUG or never return;
* **lost**: a kernel driver is bound and the address the DMA API gives it is dead;
* **undecided**: a user-owned device is in a hardware state that nobody has described.

The closed world: two devices in one group and one apart (three apart where the driver gives each
device a group of its own), two domains, two pages of the user's, one
owner, one kernel driver with one buffer. Names that play the same part are taken in order (the
second domain only after the first was used), which leaves out only renamings of other sequences.

Where the search stops: one failure of memory or of a driver is never injected, and time passes only
by the verb ``advance``. A finding is what the model does, from sources that were read; it is not a
report of a bug in a kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import core, dmaapi
from .domains import DomainType
from .drivers import Driver
from .drivers import driver as find_driver
from .drivers import rows as driver_rows
from .errors import KernelCrash, unknown
from .hardware import Kind
from .lab import GivesDriver, Lab, Step, perform, to_driver
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
IOVAS = (0x10_0000, 0x10_1000)
MEMORY = (
    Region(0x0000_0000, 0x3FFF_FFFF, "kernel"),
    Region(KERNEL_BUFFER, KERNEL_BUFFER + PAGE - 1, "driver buffer"),
    Region(USER_PAGES[0], USER_PAGES[1] + PAGE - 1, "user"),
)
DEVICES = ("dev0", "dev1", "dev2")
DOMAINS = ("dom1", "dom2")

Looks = Callable[[World, State], Iterator["Finding"]]


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
        return f"{self.kind} after {len(self.steps)} steps:\n{calls}\n  {self.says}"


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

    def __getitem__(self, kind: str) -> Finding | None:
        if kind not in FINDINGS:
            raise unknown("finding", kind, FINDINGS)
        return self.findings.get(kind)

    def lab(self, kind: str) -> Lab:
        """The lab after the steps of a finding, to look at or to replay elsewhere."""
        finding = self[kind]
        if finding is None:
            raise ValueError(f"no {kind} was found up to depth {self.depth}")
        return opening(self.release, self.driver, self.arch).replay(finding.steps)


def closed_world(grouping: str) -> Machine:
    """Two devices in one group and one apart; three apart where the driver never shares a group."""
    shared = (0, 0, 1) if grouping != "own" else (0, 1, 2)
    devices = tuple(Device(name, group) for name, group in zip(DEVICES, shared, strict=True))
    return Machine(devices=devices, memory=MEMORY)


def opening(release: str, driver: str | Driver | GivesDriver, arch: str | None = None) -> Lab:
    """The closed world before the first verb: three devices and two empty domains."""
    row = to_driver(driver, release)
    lab = Lab(release, row, machine=closed_world(row.grouping), arch=arch)
    for _ in DOMAINS:
        lab.alloc_domain("unmanaged")
    return lab


def alphabet(kernel: Kernel) -> tuple[Step, ...]:
    """Every verb of the face that this release has, with every argument of the closed world."""
    devices = [d.name for d in kernel.machine.devices]
    groups = sorted({d.group for d in kernel.machine.devices})
    verbs: list[Step] = []
    for domain in DOMAINS:
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
        for iova, paddr in zip(IOVAS, USER_PAGES, strict=True):
            verbs += [
                Step("map", (domain, iova, paddr, PAGE, "rw")),
                Step("unmap", (domain, iova, PAGE)),
            ]
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
            Step("bind", (device, KERNEL_DRIVER)),
            Step("unbind", (device,)),
            Step("remove", (device,)),
            Step("probe", (device,)),
            Step("dma_map", (device, KERNEL_BUFFER, PAGE, "bidirectional")),
            Step("power_cycle", (device,)),
        ]
    return tuple(v for v in verbs if _has(kernel, v.verb))


def _has(kernel: Kernel, verb: str) -> bool:
    needs = core.NEEDS.get(verb)
    return needs is None or kernel.release[needs[0]] in needs[1]


# -- what counts as trouble ------------------------------------------------------------------------


def leaks(w: World, state: State) -> Iterator[Finding]:
    """A user-owned device reaches memory that its user was never given."""
    given = (USER_PAGES[0], USER_PAGES[1] + PAGE - 1)
    for device, group in _owned(state):
        for found in reach(state.hardware, device):
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


def disagreements(w: World, state: State) -> Iterator[Finding]:
    """The core believes one thing, the hardware does another."""
    for group in state.groups.values():
        if group.domain is None:
            continue
        domain = state.domains[group.domain]
        for device in group.devices:
            if state.devices[device].deferred:
                continue
            entry = state.hardware.entries[device]
            if domain.type is DomainType.BLOCKED or domain.substitute:
                agrees = next(reach(state.hardware, device), None) is None
                agrees = agrees and entry.kind is not Kind.UNKNOWN
                believed = "blocked"
            elif domain.type is DomainType.IDENTITY:
                agrees, believed = entry.kind is Kind.BYPASS, "identity"
            elif domain.type.paging:
                agrees = entry.kind in (Kind.TABLE, Kind.PLATFORM) and entry.table == domain.table
                believed = f"attached to {domain.name}"
            else:
                continue
            if not agrees:
                where = f"on {entry.table}" if entry.table else entry.kind.value
                yield Finding(
                    "disagreement",
                    (),
                    f"the core believes {device} {believed}; the hardware has it {where}",
                    device,
                )


def lost(w: World, state: State) -> Iterator[Finding]:
    """A kernel driver is bound and what the DMA API would give it does not get through."""
    for device, at in state.devices.items():
        if at.driver is None or at.driver in core.MANAGES_DMA_ITSELF or at.deferred:
            continue
        try:
            where = dmaapi.backing(w, device)
        except KernelCrash:
            continue
        entry = state.hardware.entries[device]
        if where is None:
            alive = any(
                r.first <= KERNEL_BUFFER <= r.last and r.iova - r.first == 0
                for r in reach(state.hardware, device)
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
                f"{device} is bound to {at.driver}, which gets {gets}; the hardware has it "
                f"{'on ' + entry.table if entry.table else entry.kind.value}",
                device,
            )


def undescribed(w: World, state: State) -> Iterator[Finding]:
    """A user-owned device is in a hardware state that nobody has described."""
    for device, group in _owned(state):
        if undecided(state.hardware, device):
            yield Finding(
                "undecided",
                (),
                f"{device}, owned by {group.owner!r}: {state.hardware.entries[device].why}",
                device,
            )


LOOKS: dict[str, Looks] = {
    "leak": leaks,
    "disagreement": disagreements,
    "lost": lost,
    "undecided": undescribed,
}


def _owned(state: State) -> Iterator[tuple[str, Group]]:
    for group in state.groups.values():
        if group.owner is not None:
            for device in group.devices:
                yield device, group


# -- the search itself -----------------------------------------------------------------------------

ALIKE = (("dom1", "dom2"), ("dev0", "dev1"), (IOVAS[0], IOVAS[1]))
"""Names that play the same part: the second is used only after the first."""

Node = tuple[State, int]
"""A state, and which of the alike names have been used on the way to it."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One verb tried in one state: what it did, and whether the state after it is new."""

    before: Node
    step: Step
    world: World
    after: Node | None
    crash: KernelCrash | None = None


class Walk:
    """Every verb in every state within ``depth`` verbs of the start, each state once.

    Iterating yields a :class:`Visit` for each crash and each new state, shortest ways first.
    """

    def __init__(
        self,
        lab: Lab,
        depth: int,
        seconds: float = 600.0,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self.kernel = lab.kernel
        self.depth = depth
        self.seconds = seconds
        self.progress = progress
        self.start: Node = (lab.state, 0)
        self.finished = 0
        """Every sequence up to this length has been tried."""
        self.verbs = 0
        self.spent = 0.0
        self._came: dict[Node, tuple[Node, Step] | None] = {self.start: None}

    @property
    def states(self) -> int:
        return len(self._came)

    def __iter__(self) -> Iterator[Visit]:
        verbs = [(s, perform(s), _group(s), _uses(s)) for s in alphabet(self.kernel)]
        started = time.perf_counter()
        frontier = [self.start]
        for level in range(1, self.depth + 1):
            following: list[Node] = []
            for number, node in enumerate(frontier):
                if number % 256 == 0:
                    self.spent = time.perf_counter() - started
                    if self.spent > self.seconds:
                        return
                    if self.progress is not None:
                        self.progress(level, self.states, len(frontier) - number)
                state, used = node
                for step, run, group, (uses, after) in verbs:
                    if after & ~used or (group is not None and group not in state.groups):
                        continue
                    self.verbs += 1
                    w = World(self.kernel, state)
                    try:
                        run(w)
                    except KernelCrash as crash:
                        yield Visit(node, step, w, None, crash)
                        continue
                    except OSError:
                        pass
                    new = (w.freeze(), used | uses)
                    if new not in self._came:
                        self._came[new] = (node, step)
                        following.append(new)
                        yield Visit(node, step, w, new)
            self.finished = level
            self.spent = time.perf_counter() - started
            frontier = following
            if not frontier:
                self.finished = self.depth
                return

    def path(self, node: Node, *last: Step) -> tuple[Step, ...]:
        """The steps from the start to this node, and what comes after them."""
        steps: list[Step] = []
        while (before := self._came[node]) is not None:
            node, step = before
            steps.append(step)
        return (*reversed(steps), *last)


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
    found: dict[str, Finding] = {}
    _look(walk, walk.start, wanted, found)
    for visit in walk:
        if visit.crash is not None:
            if "crash" in wanted and "crash" not in found:
                path = walk.path(visit.before, visit.step)
                found["crash"] = Finding("crash", path, str(visit.crash))
        elif visit.after is not None:
            _look(walk, visit.after, wanted, found)
        if len(found) == len(wanted):
            break
    return Result(
        release,
        lab.driver.name,
        lab.kernel.arch,
        {kind: found[kind] for kind in wanted if kind in found},
        walk.finished,
        walk.states,
        walk.verbs,
        walk.spent,
    )


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


def _look(walk: Walk, node: Node, wanted: tuple[str, ...], found: dict[str, Finding]) -> None:
    w = World(walk.kernel, node[0])
    for kind in wanted:
        if kind not in found and kind in LOOKS:
            finding = next(LOOKS[kind](w, node[0]), None)
            if finding is not None:
                found[kind] = replace(finding, steps=walk.path(node))


def _group(step: Step) -> int | None:
    """The group that a step names; it may have died with its last device."""
    return next((a for a in step.args[:2] if isinstance(a, int) and a < PAGE), None)


def _uses(step: Step) -> tuple[int, int]:
    """Which of the alike names a step uses, and which must have been used before it, as bits."""
    uses = after = 0
    for bit, (first, second) in enumerate(ALIKE):
        if first in step.args:
            uses |= 1 << bit
        elif second in step.args:
            after |= 1 << bit
    return uses, after


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
    and what is wrong then, and how far the search came.
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
        for row in pool.map(_survey_row, jobs):
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


def _survey_row(job: tuple[str, str, str, int, float]) -> dict[str, Any]:
    release, name, arch, depth, seconds = job
    result = shortest(release, name, arch, depth=depth, seconds=seconds)
    row: dict[str, Any] = {"release": release, "driver": name, "arch": arch}
    for kind in FINDINGS:
        finding = result[kind]
        row[kind] = 0 if finding is None else len(finding.steps)
        row[f"{kind}_steps"] = "" if finding is None else "; ".join(map(str, finding.steps))
        row[f"{kind}_says"] = "" if finding is None else finding.says
    return {**row, "depth": result.depth, "states": result.states, "verbs": result.verbs}
