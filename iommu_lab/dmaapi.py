"""The DMA API: how a kernel driver gets an address that its device may use.

Which table the mapping goes into is decided by the group's *default* domain (dma-iommu), or by the
platform (s390 up to 6.6, powerpc), or by nobody (direct: the address is the physical one). That the
device may be attached elsewhere at this moment is not asked: iommu_get_dma_domain in
drivers/iommu/dma-iommu.c (5.10 to 7.2).

Unmapping is strict or lazy. Lazy takes the entry out of the table at once and leaves the IOTLB to a
queue that is flushed after 10 ms or when 255 entries wait (queue_iova, iommu_dma_init_fq; 6.0).

Where the model stops: one CPU, so one queue a domain; no bounce buffers; addresses are allocated
from the top down like the kernel's, without its per-CPU caches.
"""

from __future__ import annotations

from . import core
from .domains import Domain, DomainType
from .errors import KernelCrash, refuse
from .hardware import Kind
from .machine import reserved_of
from .pagetables import iommu_map, iommu_unmap
from .state import Iovas, World
from .tables import READ, WRITE, Run, Stale

PAGE = 4096
FLUSH_MS = 10.0
FLUSH_ENTRIES = 255
BELOW_4G = 2**32 - 1

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
        return None
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
    prot = DIRECTIONS[direction]
    offset = paddr % PAGE
    count = -(-(offset + size) // PAGE)
    where = backing(w, device)
    if where is None:
        return paddr
    if isinstance(where, str):
        first = _allocate_up(w, where, device, count)
        table = w.tables[where]
        # A platform's entry can't be write-only: it is valid, and protected or not.
        rights = READ | (prot & WRITE)
        w.tables[where] = table.insert(Run(first, count * PAGE, paddr - offset, 12, rights))
        return first + offset
    first = _allocate_down(w, where, device, count)
    iommu_map(w, w.domains[where.name], first, paddr - offset, count * PAGE, prot)
    w.event(
        "trace",
        "map",
        domain=where.name,
        iova=first,
        size=count * PAGE,
        paddr=paddr - offset,
    )
    return first + offset


def dma_unmap(w: World, device: str, iova: int, size: int) -> None:
    """``dma_unmap_single``: the entry goes now; the IOTLB now (strict) or later (lazy)."""
    where = backing(w, device)
    if where is None:
        return
    first = iova - iova % PAGE
    count = -(-(iova % PAGE + size) // PAGE)
    if isinstance(where, str):
        w.tables[where] = w.tables[where].clear(first, count * PAGE)
        _free(w, where, first, count)
        return
    done, gone = iommu_unmap(w, w.domains[where.name], first, count * PAGE)
    w.event(
        "trace",
        "unmap",
        domain=where.name,
        iova=first,
        size=count * PAGE,
        text=f"unmapped={done:#x}",
    )
    if done != count * PAGE:
        w.warn("__iommu_dma_unmap", f"{count * PAGE:#x} bytes were to go, {done:#x} went")
    if not lazy(w, where):
        _free(w, where.name, first, count)
        return
    iovas = w.iovas.get(where.name, Iovas())
    if len(iovas.queued) >= FLUSH_ENTRIES:
        flush(w, where.name)
        iovas = w.iovas[where.name]
    since = iovas.queued[0][2] if iovas.queued else w.now_ms
    table = w.table(where.table)
    stale = [Stale(r.iova, r.size, r.paddr, r.prot, w.now_ms, since + FLUSH_MS) for r in gone]
    if where.table is not None:
        w.tables[where.table] = table.with_stale((*table.stale, *stale))
    w.iovas[where.name] = Iovas(iovas.used, (*iovas.queued, (first, count, w.now_ms)), iovas.next)


def lazy(w: World, domain: Domain) -> bool:
    """Does an unmap of this domain leave the IOTLB to the flush queue?"""
    if w.release["flush_queue"] == "attribute":
        return domain.type is DomainType.DMA and not w.kernel.strict and w.driver.deferred_flush
    return domain.type is DomainType.DMA_FQ


def flush(w: World, domain: str) -> None:
    """``fq_flush_iotlb``: the domain's IOTLB is flushed and the waiting addresses are freed."""
    at = w.domains.get(domain)
    if at is not None and at.table is not None and w.table(at.table).stale:
        w.tables[at.table] = w.tables[at.table].with_stale(())
    iovas = w.iovas.get(domain)
    if iovas is None:
        return
    w.iovas[domain] = Iovas(iovas.used, (), iovas.next)
    for first, count, _ in iovas.queued:
        _free(w, domain, first, count)


def advance(w: World, ms: float) -> None:
    """Let time pass; queues whose 10 ms are over are flushed."""
    if ms < 0:
        raise ValueError(f"time only goes forward, got ms={ms}")
    w.now_ms += ms
    for name, iovas in list(w.iovas.items()):
        if iovas.queued and iovas.queued[0][2] + FLUSH_MS <= w.now_ms:
            flush(w, name)


# -- addresses -------------------------------------------------------------------------------------


def _allocate_down(w: World, domain: Domain, device: str, count: int) -> int:
    """The highest free place: PCI devices below 4 GiB first; page 0 is never handed out."""
    group = w.group_of(device)
    assert group is not None
    taken = [(f, f + n * PAGE - 1) for f, n in w.iovas.get(domain.name, Iovas()).used]
    regions = reserved_of(w.device(d) for d in group.devices)
    taken += [(region.first, region.last) for region in regions if region.type != "msi-sw"]
    taken += w.kernel.machine.windows
    size = count * PAGE
    align = PAGE << max(0, (count - 1).bit_length())
    for limit in sorted({min(domain.last, BELOW_4G), domain.last}):
        top = limit
        for first, last in [*sorted(taken, reverse=True), (-1, max(domain.first, PAGE) - 1)]:
            at = (top + 1 - size) // align * align
            if at > last and at + size - 1 <= top:
                _use(w, domain.name, at, count)
                return at
            top = min(top, first - 1)
    raise refuse("ENOMEM", f"no {count} free pages are left in {domain.name}")


def _allocate_up(w: World, table: str, device: str, count: int) -> int:
    """The platform's allocator goes upwards and starts again from below only at the end."""
    entry = w.entries[device]
    iovas = w.iovas.get(table, Iovas())
    at = max(iovas.next, entry.first)
    if at + count * PAGE - 1 > entry.last:
        raise refuse("ENOMEM", f"no {count} free pages are left in {table}")
    w.iovas[table] = Iovas(
        tuple(sorted((*iovas.used, (at, count)))), iovas.queued, at + count * PAGE
    )
    return at


def _use(w: World, name: str, first: int, count: int) -> None:
    iovas = w.iovas.get(name, Iovas())
    w.iovas[name] = Iovas(tuple(sorted((*iovas.used, (first, count)))), iovas.queued, iovas.next)


def _free(w: World, name: str, first: int, count: int) -> None:
    iovas = w.iovas.get(name, Iovas())
    w.iovas[name] = Iovas(
        tuple(u for u in iovas.used if u != (first, count)), iovas.queued, iovas.next
    )
