"""Trouble: when does a state count as a finding, and how is it said?

One small function for each kind, and each judges by the whole state: what was believed, what the
hardware was told, and which memory the user was given. A crash is no state, so the walk sees it
where it happens. A user-owned device that reaches nothing is well, whatever the core believes.

Where it stops: it says what is wrong with one state, and knows nothing of how one came there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .. import core, dmaapi
from ..domains import DomainType
from ..errors import KernelCrash
from ..hardware import Entry, Kind
from ..lab import Step
from ..reach import reach, undecided
from ..state import Group, World
from .closed import DOMAINS, KERNEL_BUFFER, PAGE, USER_PAGES

FINDINGS = ("leak", "disagreement", "crash", "lost", "undecided")


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
