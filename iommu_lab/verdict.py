"""Verdicts: what became of one DMA, as one byte.

The numbers are fixed, because they are written to files and compared between runs. They are in an
order that means something: everything below 16 got through, and among those a greater number is
worse news. A DMA whose bytes pass in different ways is therefore given the greatest of their
numbers.
"""

from __future__ import annotations

from enum import IntEnum
from math import isinf

from .tables import Stale


class Verdict(IntEnum):
    """What became of a DMA; fits a ``uint8``.

    All bytes got through, from the expected to the alarming:

    ====  ===========  ==============================================================
    0     TRANSLATED   through the page table that the device's entry points to
    1     PLATFORM     through the platform's own table (arch DMA ops, such as s390's)
    2     IDENTITY     untranslated: the IOMMU stands aside
    3     MSI          a write to the interrupt window; it reaches no memory
    4     STALE        it *may* pass: only, or also, through an entry of the IOTLB that
                       the page table no longer has
    ====  ===========  ==============================================================

    Some bytes got through before the first fault:

    ====  ===============  ==========================================================
    5     PARTIAL          the reason is the fault at the first byte that stopped
    ====  ===============  ==========================================================

    Nothing got through; the fault is that of the first byte:

    ====  ===============  ==========================================================
    16    BLOCKED          the device's entry refuses every address
    17    NOT_MAPPED       a hole in the page table
    18    NO_PERMISSION    mapped, but not for this direction
    19    BEYOND_APERTURE  outside the range that the entry or the IOMMU answers for
    20    RESERVED         a read of the interrupt window; as the reason of a PARTIAL
                           also a DMA that runs into the window, or out of it
    21    MASTER_OFF       the device may not start DMA: its bus-master bit is clear
    22    UNKNOWN          nobody knows what the hardware does in this state
    ====  ===============  ==========================================================

    >>> max(Verdict.TRANSLATED, Verdict.STALE).name, Verdict.PARTIAL.passes
    ('STALE', False)
    """

    TRANSLATED = 0
    PLATFORM = 1
    IDENTITY = 2
    MSI = 3
    STALE = 4
    PARTIAL = 5
    BLOCKED = 16
    NOT_MAPPED = 17
    NO_PERMISSION = 18
    BEYOND_APERTURE = 19
    RESERVED = 20
    MASTER_OFF = 21
    UNKNOWN = 22

    @property
    def passes(self) -> bool:
        """Whether every byte got through (or may have, for STALE)."""
        return self < Verdict.PARTIAL

    @property
    def faults(self) -> bool:
        """Whether not a single byte got through."""
        return self > Verdict.PARTIAL


_SAYS = {
    Verdict.TRANSLATED: "the page table maps every byte with the right to {do} it",
    Verdict.PLATFORM: "the platform's own table maps every byte with the right to {do} it",
    Verdict.IDENTITY: "the IOMMU lets it through untranslated",
    Verdict.MSI: "a write to the interrupt window is an interrupt, whatever the tables say",
    Verdict.STALE: "it may pass through an IOTLB entry that has outlived its mapping",
    Verdict.BLOCKED: "the device's entry blocks every DMA",
    Verdict.NOT_MAPPED: "the page table has no entry there",
    Verdict.NO_PERMISSION: "the page is mapped without the right to {do} it",
    Verdict.BEYOND_APERTURE: "the address is outside the range that the IOMMU answers for",
    Verdict.RESERVED: "only a write that stays in the interrupt window may touch it",
    Verdict.MASTER_OFF: "the device's bus-master bit is off, so it starts no DMA",
    Verdict.UNKNOWN: "nobody knows what the hardware does with it",
}

# The verdicts that an entry gives by itself, so that its own reason belongs to the answer.
_BY_ENTRY = {Verdict.PLATFORM, Verdict.IDENTITY, Verdict.BLOCKED, Verdict.UNKNOWN}


def sentence(
    verdict: Verdict,
    reason: Verdict,
    *,
    write: bool,
    entry: str = "",
    stale: Stale | None = None,
) -> str:
    """Why a DMA met this verdict, for a person.

    ``reason`` differs from ``verdict`` for PARTIAL alone: it is the fault that stopped the rest.
    ``entry`` is what the driver says about the device's entry, ``stale`` the IOTLB entry meant.

    >>> sentence(Verdict.PARTIAL, Verdict.NO_PERMISSION, write=True)
    'stopped part-way: the page is mapped without the right to write it'
    """
    says = _SAYS[reason].format(do="write" if write else "read")
    if verdict is Verdict.PARTIAL:
        says = f"stopped part-way: {says}"
    if stale is not None:
        until = "until a flush" if isinf(stale.until_ms) else f"up to {stale.until_ms:g} ms"
        says += f" (unmapped at {stale.since_ms:g} ms, may be cached {until})"
    if entry and reason in _BY_ENTRY:
        says += f" ({entry})"
    return says
