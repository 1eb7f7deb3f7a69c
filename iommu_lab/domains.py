"""Domains: what the kernel core believes a device's DMA goes through.

A domain is a name, a type and, for the types that translate, the key of a page table that lives in
memory (see :mod:`iommu_lab.hardware`). Being attached to a domain is a belief of the core; what the
IOMMU does is another question, and this file does not answer it.

The type numbers are the kernel's own flag sums (include/linux/iommu.h, releases 5.15 to 7.2):
paging 1, DMA API 2, pass-through 4, flush queue 8, platform 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class DomainType(IntEnum):
    """The domain types under the kernel's names, with the kernel's values.

    >>> DomainType.DMA_FQ.paging, DomainType.DMA_FQ.dma_api, DomainType.IDENTITY.paging
    (True, True, False)
    """

    BLOCKED = 0
    UNMANAGED = 1
    DMA = 3
    IDENTITY = 4
    DMA_FQ = 11
    PLATFORM = 32

    def __str__(self) -> str:
        return self.name

    @property
    def paging(self) -> bool:
        """Does it have a page table that can be mapped into?"""
        return bool(self & 1)

    @property
    def dma_api(self) -> bool:
        """Is the page table filled by the DMA API (dma-iommu)?"""
        return bool(self & 2)

    @property
    def sysfs(self) -> str:
        """What ``/sys/kernel/iommu_groups/N/type`` prints (iommu_group_show_type)."""
        return _SYSFS[self]


_SYSFS = {
    DomainType.BLOCKED: "blocked",
    DomainType.UNMANAGED: "unmanaged",
    DomainType.DMA: "DMA",
    DomainType.IDENTITY: "identity",
    DomainType.DMA_FQ: "DMA-FQ",
    DomainType.PLATFORM: "platform",
}


@dataclass(frozen=True, slots=True)
class Domain:
    """One ``struct iommu_domain``, with what its driver keeps beside it.

    ``table`` is None for domains without a page table. ``first`` and ``last`` are the aperture,
    inclusive, once the driver has set it.
    """

    name: str
    type: DomainType
    table: str | None = None
    first: int = 0
    last: int = 2**64 - 1
    static: bool = False
    """One object shared by every group, as ``ops->blocked_domain`` is."""
    substitute: bool = False
    """An ordinary empty table that stands in for a blocking domain."""
    ready: bool = True
    """Whether the driver has finished it; some do so only at the first attach."""
    pgsizes: int = 0
    """Its own page sizes, where they differ from its driver's (intel, before an attach)."""
    users: tuple[str, ...] = ()
    """The devices the driver itself has on its list, in the order they came."""
    freed: bool = False
    """Freed while a group still points to it: whoever follows that pointer crashes."""
    count: int = 0
    """The driver's own reference count, where it keeps one (sun50i)."""
