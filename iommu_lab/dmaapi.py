"""The DMA API: how a kernel driver gets an address that its device may use.

Which table the mapping goes into is decided by the group's *default* domain (dma-iommu), by 32-bit
Arm's mapping, by the platform (s390 up to 6.6, powerpc), or by nobody (direct: the address is the
physical one). That the device may be attached elsewhere at this moment is not asked:
iommu_get_dma_domain in drivers/iommu/dma-iommu.c (5.10 to 7.2). Intel's own mapping of 5.10 asks,
and crashes.

Unmapping is strict or lazy. Lazy takes the entry out of the table at once and leaves the IOTLB to a
queue that is flushed after 10 ms or when 255 entries wait (queue_iova, iommu_dma_init_fq; 6.0). On
s390 it leaves the IOTLB until the addresses have gone once around (dma_alloc_address; 6.0).

Where the model stops: one CPU, so one queue a domain; every device can address 64 bits; no bounce
buffers; the caches of freed addresses, which may give back another free address of the same size.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from . import core
from .domains import Domain, DomainType
from .errors import KernelCrash, refuse
from .hardware import Kind
from .pagetables import iommu_map, iommu_unmap, pgsizes
from .state import Iovas, World
from .tables import READ, WRITE, PageTable, Run, Stale

PAGE = 4096
FLUSH_MS = 10.0
FLUSH_ENTRIES = 255
BELOW_4G = 2**32 - 1
CACHED_PAGES = 32
"""Allocations of fewer pages are rounded up to a power of two (alloc_iova_fast)."""
ARM_ALIGNMENT = 8
"""CONFIG_ARM_DMA_IOMMU_ALIGNMENT: the largest alignment of 32-bit Arm's allocator, as an order."""

DIRECTIONS = {
    "to_device": READ,
    "from_device": WRITE,
    "bidirectional": READ | WRITE,
}


def backing(w: World, device: str) -> Domain | str | None:
    """Where a DMA-API mapping of this device goes: a domain, a platform table's name, or None.

    None means direct: the address is the physical address.
    """
    group = w.group_of(device)
    if group is None:
        # Its probe failed: the platform, if there is one, was never asked to give it up.
        entry = w.entries.get(device)
        return entry.table if entry is not None and entry.kind is Kind.PLATFORM else None
    default = None if group.default is None else w.domains[group.default]
    if default is not None and default.type.dma_api:
        return default
    mapping = w.notes.get(f"mapping:{device}")
    if mapping is not None:
        return w.domains[str(mapping)]
    if w.driver.boot == "platform-table" or w.driver.leave.startswith("platform"):
        return _platform(w, device)
    return None


def _platform(w: World, device: str) -> str:
    entry = w.entries[device]
    if entry.kind is Kind.PLATFORM and entry.table is not None:
        return entry.table
    if w.driver.leave == "platform-new-table":
        raise KernelCrash(
            "dma_alloc_address",
            f"{device} is attached elsewhere, so the platform has no bitmap of its addresses",
        )
    return f"{device}.platform"


def dma_map(w: World, device: str, paddr: int, size: int, direction: str) -> int:
    """``dma_map_single``: the address to give to the device."""
    if direction not in DIRECTIONS:
        raise ValueError(f"a direction is one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if not w.devices[device].present:
        raise refuse("ENODEV", f"{device} is not there")
    core.deferred_attach(w, device)
    where = backing(w, device)
    if where is None:
        return paddr
    _not_elsewhere(w, device, "__intel_map_single")
    prot = DIRECTIONS[direction]
    granule = _granule(w, where)
    offset = paddr % granule
    length = _whole(offset + size, granule)
    if isinstance(where, str):
        first = _allocate_up(w, where, device, length)
        # A platform's entry can't be write-only: it is valid, and protected or not.
        run = Run(first, length, paddr - offset, 12, READ | (prot & WRITE))
        w.tables[where] = w.tables[where].insert(run)
        return first + offset
    name = where.name
    if _is_arm_mapping(w, where, device):
        first = _allocate_lowest(w, where, length)
    else:
        first = _allocate_down(w, where, device, length, granule)
    try:
        iommu_map(w, w.domains[name], first, paddr - offset, length, prot)
    except OSError:
        _free(w, name, first)
        raise
    if not w.driver.own_dma_ops:
        w.event("trace", "map", domain=name, iova=first, size=length, paddr=paddr - offset)
    return first + offset


def dma_unmap(w: World, device: str, iova: int, size: int) -> None:
    """``dma_unmap_single``: the entry goes now; the IOTLB now (strict) or later (lazy)."""
    where = backing(w, device)
    if where is None:
        return
    _not_elsewhere(w, device, "intel_unmap")
    granule = _granule(w, where)
    first = iova - iova % granule
    length = _whole(iova % granule + size, granule)
    if isinstance(where, str):
        table = w.tables[where]
        gone = table.inside(first, length)
        w.tables[where] = table.clear(first, length)
        if w.kernel.strict or w.driver.leave != "platform-new-table":
            _free(w, where, first)
        else:
            _keep_stale(w, where, gone, inf)
            _wait(w, where, first, None)
        return
    name = where.name
    done, gone = iommu_unmap(w, where, first, length)
    if not w.driver.own_dma_ops:
        text = f"unmapped={done:#x}"
        w.event("trace", "unmap", domain=name, iova=first, size=length, text=text)
    if done != length:
        w.warn("__iommu_dma_unmap", f"{length:#x} bytes were to go, {done:#x} went")
    if not lazy(w, where):
        _free(w, name, first)
        return
    if len(w.iovas.get(name, Iovas()).queued) >= FLUSH_ENTRIES:
        flush(w, name)
    timer = w.iovas.get(name, Iovas()).flush_ms
    timer = w.now_ms + FLUSH_MS if timer is None else timer
    _keep_stale(w, str(where.table), gone, timer)
    _wait(w, name, first, timer)


def _not_elsewhere(w: World, device: str, function: str) -> None:
    """A driver that maps itself takes the domain that is attached, and wants one of its own.

    Intel's finds no IOMMU behind any other domain and follows NULL (domain_get_iommu; 5.10).
    """
    group = w.group_of(device)
    attached = None if group is None else w.attached(group)
    if w.driver.own_dma_ops and attached is not None and not attached.type.dma_api:
        raise KernelCrash(function, f"{attached.name} is attached to {device}: it is no DMA domain")


def _granule(w: World, where: Domain | str) -> int:
    """The smallest page: what addresses are handed out by (iommu_dma_init_domain)."""
    if isinstance(where, str):
        return PAGE
    sizes = pgsizes(w, where)
    return max(sizes & -sizes, PAGE)


def _whole(size: int, granule: int) -> int:
    return -(-size // granule) * granule


# -- lazy unmap ------------------------------------------------------------------------------------


def lazy(w: World, domain: Domain) -> bool:
    """Does an unmap of this domain leave the IOTLB to the flush queue?"""
    if w.release["flush_queue"] == "attribute":
        told = not w.kernel.strict and w.driver.lazy_attribute
        group = next((g for g in w.groups.values() if g.default == domain.name), None)
        trusted = group is None or not any(w.device(d).untrusted for d in group.devices)
        return domain.type is DomainType.DMA and told and trusted
    return domain.type is DomainType.DMA_FQ


def flush(w: World, domain: str) -> None:
    """``fq_flush_iotlb``: the domain's IOTLB is flushed and the waiting addresses are freed."""
    at = w.domains.get(domain)
    table = domain if at is None else at.table
    if table is not None and w.table(table).stale:
        w.tables[table] = w.tables[table].with_stale(())
    iovas = w.iovas.get(domain)
    if iovas is not None and iovas.queued:
        waiting = {first for first, _ in iovas.queued}
        used = tuple(u for u in iovas.used if u[0] not in waiting)
        w.iovas[domain] = replace(iovas, used=used, queued=())


def advance(w: World, ms: float) -> None:
    """Let time pass; queues whose timer is due are flushed."""
    if not 0 <= ms < inf:
        raise ValueError(f"time only goes forward, got ms={ms}")
    w.now_ms += ms
    for name, iovas in list(w.iovas.items()):
        if iovas.flush_ms is not None and iovas.flush_ms <= w.now_ms:
            flush(w, name)
            w.iovas[name] = replace(w.iovas[name], flush_ms=None)


def _keep_stale(w: World, table: str, gone: list[Run], until_ms: float) -> None:
    stale = (Stale(r.iova, r.size, r.paddr, r.prot, w.now_ms, until_ms) for r in gone)
    kept: PageTable = w.table(table)
    w.tables[table] = kept.with_stale((*kept.stale, *stale))


def _wait(w: World, name: str, first: int, timer: float | None) -> None:
    iovas = w.iovas.get(name, Iovas())
    length = next((size for at, size in iovas.used if at == first), 0)
    w.iovas[name] = replace(iovas, queued=(*iovas.queued, (first, length)), flush_ms=timer)


# -- addresses -------------------------------------------------------------------------------------


def _allocate_down(w: World, domain: Domain, device: str, length: int, granule: int) -> int:
    """The highest free place: PCI devices below 4 GiB first; page 0 is never handed out."""
    group = w.group_of(device)
    assert group is not None
    taken = [(first, first + size - 1) for first, size in w.iovas.get(domain.name, Iovas()).used]
    regions = w.reserved_of(group.devices)
    taken += [(region.first, region.last) for region in regions if region.type != "msi-sw"]
    taken += w.kernel.machine.windows
    pages = length // granule
    align = granule << (pages - 1).bit_length()
    size = align if pages < CACHED_PAGES else length
    if w.driver.dma_range:  # what is outside is a reserved region of the device
        taken += [(0, w.driver.dma_range[0] - 1), (w.driver.dma_range[1] + 1, domain.last)]
    limits = [domain.last]
    if w.device(device).pci and domain.last > BELOW_4G:
        limits.insert(0, BELOW_4G)
    floor = max(domain.first, granule)
    for limit in limits:
        top = limit
        for first, last in [*sorted(taken, reverse=True), (-1, floor - 1)]:
            at = (top + 1 - size) // align * align
            if at > last and at + size - 1 <= top:
                _use(w, domain.name, at, size)
                return at
            top = min(top, first - 1)
    raise refuse("ENOMEM", f"no {pages} free pages are left in {domain.name}")


def _is_arm_mapping(w: World, domain: Domain, device: str) -> bool:
    return bool(w.notes.get(f"mapping:{device}") == domain.name)


def _allocate_lowest(w: World, domain: Domain, length: int) -> int:
    """32-bit Arm's allocator: the lowest free place, and address 0 is one (__alloc_iova)."""
    base, last = 0, BELOW_4G
    if domain.name == w.notes.get("mapping"):
        base, last = w.driver.arm_mapping
    align = PAGE << min(ARM_ALIGNMENT, (length // PAGE - 1).bit_length())
    at = base
    for first, size in w.iovas.get(domain.name, Iovas()).used:
        if first >= at + length:
            break
        at = -(-max(at, first + size) // align) * align
    if at + length - 1 > last:
        raise refuse("ENOMEM", f"no {length // PAGE} free pages are left in {domain.name}")
    _use(w, domain.name, at, length)
    return at


def _allocate_up(w: World, table: str, device: str, length: int) -> int:
    """The platform's allocator goes upwards, and from below again at the end.

    Lazy addresses come back only then, after a flush of everything (dma_alloc_address).
    """
    entry = w.entries[device]
    at = _above(w, table, max(w.iovas.get(table, Iovas()).next, entry.first), length)
    if at + length - 1 > entry.last:
        flush(w, table)
        at = _above(w, table, entry.first, length)
    if at + length - 1 > entry.last:
        raise refuse("ENOSPC", f"no {length // PAGE} free pages are left in {table}")
    _use(w, table, at, length)
    w.iovas[table] = replace(w.iovas[table], next=at + length)
    return at


def _above(w: World, name: str, start: int, length: int) -> int:
    """The first free place from here on."""
    for first, size in w.iovas.get(name, Iovas()).used:
        if first + size > start and first < start + length:
            start = first + size
    return start


def _use(w: World, name: str, first: int, size: int) -> None:
    iovas = w.iovas.get(name, Iovas())
    w.iovas[name] = replace(iovas, used=tuple(sorted((*iovas.used, (first, size)))))


def _free(w: World, name: str, first: int) -> None:
    iovas = w.iovas.get(name, Iovas())
    w.iovas[name] = replace(iovas, used=tuple(u for u in iovas.used if u[0] != first))
