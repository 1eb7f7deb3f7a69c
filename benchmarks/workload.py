"""The work that is timed: page tables and accesses, the same for every approach.

M mappings of 1 to 16 pages lie over min(D, M) domains of D devices. Three in ten touch their
neighbour, some of those are physically contiguous too, and one in five is read-only; each device
has the interrupt window of x86 and 48 address bits. Accesses are 4 to 4096 bytes, one in twenty is
up to 128 KiB, and one in twenty addresses strays; about three in ten cross a page boundary. What is
drawn depends on the seed alone.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iommu_lab.hardware import BLOCK, BYPASS, Entry, Frozen, Hardware, Kind
from iommu_lab.machine import X86_INTERRUPTS
from iommu_lab.tables import READ, WRITE, PageTable, Stale
from iommu_lab.trace import Do, Events

PAGE = np.uint64(12)
SIZES = np.array([4, 64, 64, 128, 256, 512, 1500, 1500, 4096, 4096], np.uint32)


class Mappings(NamedTuple):
    """M rows, sorted by domain and IOVA; ``begin`` has where each domain's rows begin, and M."""

    begin: NDArray[np.int64]
    iova: NDArray[np.uint64]
    size: NDArray[np.uint64]
    paddr: NDArray[np.uint64]
    prot: NDArray[np.uint8]


class Trace(NamedTuple):
    """N accesses, 17 bytes each."""

    device: NDArray[np.uint32]
    iova: NDArray[np.uint64]
    size: NDArray[np.uint32]
    write: NDArray[np.bool_]


def mappings(m: int, devices: int, layout: str = "spread", seed: int = 1) -> Mappings:
    """``layout`` is "spread", or "clustered": four clumps, 64 GiB apart, in every domain."""
    rng = np.random.default_rng(seed)
    domains = min(devices, m)
    domain = np.sort(np.arange(m) % domains)
    begin = np.searchsorted(domain, np.arange(domains + 1))
    pages = rng.integers(1, 17, m)
    touches = rng.random(m) < 0.3
    gap = np.where(touches, 0, rng.integers(1, 32, m))
    gap[begin[:-1]] = 16
    ends = np.cumsum(pages + gap)
    before = np.append(0, ends)[begin[:-1]]  # what earlier domains used up
    page = ends - pages - before[domain]
    low, high = (address >> 12 for address in X86_INTERRUPTS)
    page = np.where(page + pages > low, page + high + 64 - low, page)
    if layout == "clustered":
        rank = np.arange(m) - begin[domain]
        page = page + (rank * 4 // np.diff(begin)[domain] << 24)
    frame = rng.integers(1 << 20, 1 << 33, m)
    follows = touches & (rng.random(m) < 0.6)
    follows[begin[:-1]] = False
    for _ in range(7):  # short chains: each pass continues those that the last one placed
        rows = np.flatnonzero(follows)
        frame[rows] = frame[rows - 1] + pages[rows - 1]
    prot = np.where(rng.random(m) < 0.2, 1, 3).astype(np.uint8)
    iova, size, paddr = (column.astype(np.uint64) << PAGE for column in (page, pages, frame))
    return Mappings(begin, iova, size, paddr, prot)


def hardware(made: Mappings, devices: int) -> Hardware:
    domains = len(made.begin) - 1
    tables = {
        f"d{d}": page_table(made, slice(made.begin[d], made.begin[d + 1])) for d in range(domains)
    }
    entries = {f"dev{i}": Entry(Kind.TABLE, f"d{i % domains}") for i in range(devices)}
    return Hardware(Frozen(entries), Frozen(tables), msi=(X86_INTERRUPTS,), width=48)


def every_verdict(plain: Hardware) -> Hardware:
    """The same, with every way to pass or be stopped: see the verdicts' table.

    A quarter of the mappings lie over an older one that leads elsewhere, and behind a quarter of
    them there was one. Seven of the devices are on no page table, or behind a narrow window.
    """
    tables = plain.tables
    for name, table in plain.tables.items():
        runs = list(table)
        over = [Stale(r.iova, r.size, r.paddr + (1 << 44), 3, 0, 10) for r in runs[::4]]
        behind = [Stale(r.end, 4096, r.paddr, 3, 1, 10) for r in runs[1::4]]
        tables = tables.set(name, table.with_stale([*over, *behind]))
    entries = plain.entries
    for device, entry in (
        ("dev3", BLOCK),
        ("dev4", BYPASS),
        ("dev5", Entry(Kind.PLATFORM, "d5")),
        ("dev6", Entry(Kind.UNKNOWN)),
        ("dev7", Entry(Kind.TABLE, "d7", last=(1 << 20) - 1, outside="bypass")),
        ("dev9", Entry(Kind.TABLE, "d9", last=(1 << 20) - 1)),
    ):
        entries = entries.set(device, entry)
    return Hardware(entries, tables, Frozen(dev8=False), plain.msi, plain.width)


def page_table(made: Mappings, rows: slice) -> PageTable:
    table = PageTable()
    table.iova = array("Q", made.iova[rows].tobytes())
    table.size = array("Q", made.size[rows].tobytes())
    table.paddr = array("Q", made.paddr[rows].tobytes())
    table.prot = array("B", made.prot[rows].tobytes())
    table.shift = array("B", bytes([12]) * len(table.iova))
    return table


def trace(n: int, made: Mappings, devices: int, pattern: str = "random", seed: int = 2) -> Trace:
    """``pattern`` is "random", "sorted" (the same, by device and IOVA) or "local".

    In a local trace every device streams through its mappings in steps of 256 bytes, and devices
    take turns in bursts of eight accesses.
    """
    rng = np.random.default_rng(seed)
    domains = len(made.begin) - 1
    count = np.diff(made.begin)
    device = np.empty(n, np.uint32)
    iova = np.empty(n, np.uint64)
    top = int((made.iova + made.size).max())
    for at in range(0, n, 1 << 22):
        part = slice(at, min(n, at + (1 << 22)))
        row = np.arange(part.start, part.stop)
        if pattern == "local":
            who = row // 8 % devices
            step = row // (8 * devices) * 8 + row % 8
            domain = who % domains
            mapping = made.begin[domain] + step // 32 % count[domain]
            address = made.iova[mapping] + (step * 256).astype(np.uint64) % made.size[mapping]
        else:
            who = rng.integers(0, devices, len(row))
            domain = who % domains
            mapping = made.begin[domain] + (rng.random(len(row)) * count[domain]).astype(np.int64)
            offset = rng.random(len(row)) * made.size[mapping]
            address = made.iova[mapping] + offset.astype(np.uint64)
            stray = rng.random(len(row)) < 0.05
            address[stray] = rng.integers(0, 2 * top, int(stray.sum()), np.uint64)
        device[part], iova[part] = who, address
    size = SIZES[rng.integers(0, len(SIZES), n)]
    long = rng.random(n) < 0.05
    size[long] = rng.integers(4096, 131072, int(long.sum()))
    write = rng.random(n) < 0.5
    if pattern == "sorted":
        order = np.lexsort((iova, device))
        device, iova, size, write = device[order], iova[order], size[order], write[order]
    return Trace(device, iova, size, write)


def events(n: int, domains: int = 16, flush_every: int = 256, seed: int = 0) -> Events:
    """What a driver with streaming DMA does: map a buffer of 1 to 16 pages, use it, unmap it.

    Eight events a buffer, six of them DMA. One buffer in fifty is used once more after its unmap,
    and a flush comes every ``flush_every`` buffers. Device d is attached to domain d.
    """
    rng = np.random.default_rng(seed)
    buffer, step = np.divmod(np.arange(n // 8 * 8), 8)
    buffers = n // 8
    domain = rng.integers(0, domains, buffers)[buffer]
    length = rng.integers(1, 17, buffers).astype(np.uint64)[buffer] << PAGE
    base = ((1 << 20) - (buffer % 4096 + 1) * 16).astype(np.uint64) << PAGE
    frame = rng.integers(1 << 20, 1 << 30, buffers).astype(np.uint64)[buffer] << PAGE

    kind = np.choose(step, [Do.MAP, *[Do.DMA] * 6, Do.UNMAP]).astype(np.uint8)
    late = np.flatnonzero((step == 6) & (rng.random(len(step)) < 0.02))
    kind[late], kind[late + 1] = Do.UNMAP, Do.DMA
    kind[(step == 1) & (buffer % flush_every == 0)] = Do.FLUSH
    dma, to_map, flush = kind == Do.DMA, kind == Do.MAP, kind == Do.FLUSH
    offset = (rng.random(len(step)) * (length - np.uint64(64))).astype(np.uint64)
    size = np.where(dma, rng.choice([64, 256, 1500, 4096], len(step)).astype(np.uint64), length)
    rights = np.where(dma, rng.integers(0, 2, len(step)), np.where(to_map, READ | WRITE, 0))
    return Events(
        kind,
        domain.astype(np.uint32),
        np.where(flush, 0, np.where(dma, base + offset, base)).astype(np.uint64),
        np.where(flush, 0, size).astype(np.uint64),
        np.where(to_map, frame, 0).astype(np.uint64),
        rights.astype(np.uint8),
    )
