"""The contracts: what a blocking domain and a switch of domains owe, held against one driver.

While a group is claimed no DMA of it may get through; during a switch a device may reach the old
domain, the new one or nothing. Each is tried over every order of verbs up to a depth, and the
answer is either what was tried or the shortest sequence that breaks it. One driver at a time, and
all states of it: the search looks for leaks of every kind, this asks for one promise.

Where this stops: at the depth and the seconds it was given, which the answer names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from .bootline import GivesDriver, to_driver
from .drivers import Driver
from .hardware import Entry, Frozen, Hardware, Kind
from .lab import Lab
from .reach import reach
from .search import IOVA, PAGE, USER_PAGES, Finding, Place, Walk, opening
from .state import World


@dataclass(frozen=True, slots=True)
class Contract:
    """Does a claimed group keep its promise? Truthy when it holds; else the counterexample.

    Neither when the promise was never given: no state was met in which it would have been owed.
    """

    driver: str
    release: str
    arch: str
    holds: bool
    tried: str
    """What was asked, unless there is a counterexample."""
    counterexample: Finding | None = None

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        what = f"{self.driver} ({self.arch}) in {self.release}"
        if self.counterexample is not None:
            return f"{what} does not hold.\n{self.counterexample}"
        return f"{what} {'holds' if self.holds else 'was never put to it'}:\n  {self.tried}"

    __repr__ = __str__


def verify_blocking(
    driver: str | Driver | GivesDriver,
    release: str = "6.0",
    arch: str | None = None,
    *,
    depth: int = 4,
    dmas: int = 1_000_000,
    seconds: float = 60.0,
    seed: int = 7,
) -> Contract:
    """While a group is claimed and on its blocking domain, no DMA of it may get through.

    Every order of verbs up to ``depth`` is tried; in each state where the core believes a claimed
    group blocked, its devices are asked with ``dmas`` random and boundary accesses altogether, by
    the vectorised checker. The first state that lets one through is the shortest counterexample;
    the boundary accesses come first, so that a door that stands open ends the search at once.
    """
    _check_count(dmas)
    lab = opening(release, to_driver(driver, release), arch)
    walk = Walk(lab, depth, seconds)
    blocked = walk.remembered(lambda world: tuple(_believed_blocked(world)))
    asked_of: dict[tuple[str, Hardware], Place] = {}
    failed = Contract(lab.driver.name, release, lab.kernel.arch, False, "")
    asked = 0
    for visit in walk:
        if visit.after is None:
            continue
        for device, hardware in blocked(visit.after.node):
            if (device, hardware) not in asked_of:
                asked_of[device, hardware] = visit.after
                edges = _accesses(hardware, device, 0, seed)
                finding = _gets_through(lab, hardware, device, edges)
                if finding is not None:
                    steps = walk.path(visit.after)
                    return replace(failed, counterexample=replace(finding, steps=steps))
    each = max(1, dmas // max(1, len(asked_of)))
    for (device, hardware), place in asked_of.items():
        accesses = _accesses(hardware, device, each, seed)
        asked += len(accesses[0])
        finding = _gets_through(lab, hardware, device, accesses)
        if finding is not None:
            return replace(failed, counterexample=replace(finding, steps=walk.path(place)))
    if not asked_of:
        never = f"no claimed group is believed blocked, {_how_far(walk)}"
        return replace(failed, tried=never)
    tried = f"{asked:,} DMAs in {len(asked_of)} different states of the hardware, {_how_far(walk)}"
    return replace(failed, holds=True, tried=tried)


def _check_count(dmas: object) -> None:
    if not isinstance(dmas, Integral) or dmas < 0:
        raise ValueError(f"dmas is how many to make, a whole number: got {dmas!r}")


def _gets_through(
    lab: Lab, hardware: Hardware, device: str, accesses: tuple[Any, Any, Any]
) -> Finding | None:
    """The first of these accesses of a device that should be blocked and is not."""
    import numpy as np

    from .dma import Checker, Verdict

    entry = hardware.entries[device]
    if entry.kind is Kind.UNKNOWN:
        return Finding("undecided", (), f"{device} is believed blocked; {entry.why}", device)
    iova, size, write = accesses
    code, address = Checker(hardware, [device], lab.machine.memory).check(
        np.zeros(len(iova), np.uint32), iova, size, write
    )
    passed = np.isin(code, [v for v in Verdict if v.passes] + [Verdict.PARTIAL])
    if not passed.any():
        return None
    row = int(passed.argmax())
    paddr = int(address[row])
    says = (
        f"{device} is believed blocked; its {'write to' if write[row] else 'read of'} "
        f"{int(iova[row]):#x} reaches {paddr:#x}, memory of {lab.machine.owner_at(paddr)}"
    )
    return Finding("leak", (), says, device, int(iova[row]), paddr)


def _how_far(walk: Walk) -> str:
    return (
        f"after every order of up to {walk.finished} verbs "
        f"({walk.verbs:,} verbs in {walk.seen:,} states)"
    )


def verify_transition(
    driver: str | Driver | GivesDriver,
    release: str = "6.0",
    arch: str | None = None,
    *,
    depth: int = 3,
    seconds: float = 60.0,
) -> Contract:
    """During a switch a device may reach the old domain, the new one, or nothing at all.

    The rule is the comment in ``__iommu_group_set_domain`` (6.0); every translation entry that is
    written during a verb is looked at, not only the last one.
    """
    lab = opening(release, to_driver(driver, release), arch)
    walk = Walk(lab, depth, seconds, every=True)
    written = 0
    for visit in walk:
        if visit.effect.crash is not None or not visit.effect.programmed:
            continue
        before, after = walk.states.world(visit.before.node), walk.states.world(visit.result)
        written += len(visit.effect.programmed)
        for device, entry in visit.effect.programmed:
            at = before.devices.get(device)
            ends = [w.entries[device] for w in (before, after) if device in w.entries]
            if at is None or not at.present or any(_same(entry, end) for end in ends):
                continue
            if entry.kind is Kind.UNKNOWN or _reaches(after, device, entry):
                says = f"{device} passes through {entry.kind.value} during the last step"
                path = walk.path(visit.before, visit.step)
                finding = Finding("transition", path, says, device)
                return Contract(lab.driver.name, release, lab.kernel.arch, False, "", finding)
    tried = f"{written:,} writes to the hardware, {_how_far(walk)}"
    return Contract(lab.driver.name, release, lab.kernel.arch, written > 0, tried)


def _same(one: Entry, other: Entry) -> bool:
    return replace(one, why="") == replace(other, why="")


def _reaches(world: World, device: str, entry: Entry) -> bool:
    """Would the device reach anything if this entry stood?"""
    table = None if entry.table is None else world.tables.get(entry.table)
    tables = {} if table is None else {str(entry.table): table}
    hardware = Hardware(Frozen({device: entry}), Frozen(tables))
    return next(reach(hardware, device), None) is not None


def _believed_blocked(world: World) -> Iterator[tuple[str, Hardware]]:
    """The devices of claimed groups that the core believes on their blocking domain."""
    for group in world.groups.values():
        if group.owner is not None and group.domain is not None and group.domain == group.blocking:
            for device in group.devices:
                yield device, world.hardware_of(device)


def _accesses(hardware: Hardware, device: str, count: int, seed: int) -> tuple[Any, Any, Any]:
    """Boundary accesses around all that the table maps, then random ones, of less than a page each.

    As columns (iova, size, write); never fewer than the boundaries, whatever the ``count``.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    entry = hardware.entries[device]
    edges = {0, PAGE, IOVA, *USER_PAGES, 2**32 - PAGE, 2**32, 2**48, 2**63, 2**64 - PAGE}
    edges |= {entry.first, entry.last, max(entry.first - 1, 0), min(entry.last + 1, 2**64 - 1)}
    for run in hardware.table_of(device):
        edges |= {run.iova, run.end - 1, run.end, run.paddr, max(run.iova - 1, 0)}
    random = rng.integers(0, 2**64, max(0, count - len(edges)), dtype=np.uint64)
    random >>= rng.integers(0, 52, len(random), dtype=np.uint64)
    iova = np.concatenate([np.array(sorted(edges), dtype=np.uint64), random])
    # How many bytes follow the first: what is left of all 2**64 would not fit in 64 bits.
    rest = rng.integers(0, PAGE - 1, len(iova), dtype=np.uint64)
    rest = np.minimum(rest, np.uint64(2**64 - 1) - iova)
    return iova, rest + np.uint64(1), rng.integers(0, 2, len(iova)).astype(bool)
