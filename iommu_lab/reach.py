"""Reach: every piece of physical memory that a device's DMA can get at, walked entry by entry.

The readable counterpart of :mod:`iommu_lab.dma`: no arrays, one loop. The search uses it, since it
asks about millions of small states; the tests use it as a second opinion on the checker.

The bus-master bit is left out on purpose: whoever drives the device can set it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .hardware import TOP, Entry, Hardware, Kind
from .tables import READ, WRITE


class Reach(NamedTuple):
    """DMA to ``iova`` … gets to the physical memory ``first`` to ``last``; ``prot`` says how.

    ``sure`` is False for a translation that only the IOTLB may still hold.
    """

    iova: int
    first: int
    last: int
    prot: int
    sure: bool = True


def reach(hardware: Hardware, device: str) -> Iterator[Reach]:
    """What this device reaches; nothing for a blocked one. See :func:`undecided` for the rest."""
    entry = hardware.entries[device]
    if entry.kind is Kind.BYPASS:
        yield Reach(entry.first, entry.first, entry.last, READ | WRITE)
    if entry.outside == "bypass":
        if entry.first > 0:
            yield Reach(0, 0, entry.first - 1, READ | WRITE)
        if entry.last < TOP:
            yield Reach(entry.last + 1, entry.last + 1, TOP, READ | WRITE)
    if entry.kind in (Kind.TABLE, Kind.PLATFORM):
        table = hardware.table_of(device)
        for run in table:
            cut = _inside(entry, run.iova, run.size)
            if cut is not None:
                skip, size = cut
                yield Reach(
                    run.iova + skip, run.paddr + skip, run.paddr + skip + size - 1, run.prot
                )
        for old in table.stale:
            yield Reach(old.iova, old.paddr, old.paddr + old.size - 1, old.prot, sure=False)


def undecided(hardware: Hardware, device: str) -> bool:
    """Is this a state of the hardware that nobody has described?"""
    return hardware.entries[device].kind is Kind.UNKNOWN


def _inside(entry: Entry, iova: int, size: int) -> tuple[int, int] | None:
    """How many bytes of a run lie before the entry's window, and how many in it."""
    first, last = max(iova, entry.first), min(iova + size - 1, entry.last)
    return None if first > last else (first - iova, last - first + 1)
