"""The order of attachlab's calls: its four sequences, and what comes before and after them.

A step's name is the same on every kernel (A01…A18 detach, B01…B14 claim, C00…C22 maps, G00…G12
group), so that two releases can be laid side by side. Where a later call hangs on what an earlier
one returned, it hangs here on what the model returned.

Where it stops: calls that were left out of a kernel's build, because it has no such function, are
left out here by the same test of its version.
"""

from __future__ import annotations

from collections.abc import Callable

from ..tables import READ, WRITE
from . import topology
from .attachlab import HUGE, NO_DRIVER, UNTOUCHED, Attachlab, Device
from .attachlog import sequences
from .emulated import PAGE

RNG = "1af4:1044"
MOST_DEVICES = 2
MARK = 0x33
CRASHES_S390_API = 5
ZERO_SIZE, BEYOND, STRADDLE, NOTHING_THERE, TOP, OUTSIDE_S390 = 1, 2, 3, 4, 6, 7


def module(lab: Attachlab) -> None:
    """The module is inserted: it takes its devices and runs the sequences asked for."""
    lab.listing("pci")
    devices = [f.name for f in lab.setup.bus.functions.values() if f.id in (topology.EDU, RNG)]
    if lab.driver == NO_DRIVER:
        devices.sort(key=lambda name: lab.setup.bus.functions[name].id == RNG)
    for name in devices:
        if len(lab.devices) < MOST_DEVICES:
            lab.take(name)
    if lab.driver != NO_DRIVER:
        lab.say("call", "pci_register_driver", f"rc=0 devices={len(lab.devices)}")
    if lab.devices:
        _run(lab, lab.devices[0])
    else:
        lab.say("call", "no group", "no device")
    lab.say("call", "insmod", "rc=0")
    lab.listing("after")


def _run(lab: Attachlab, device: Device) -> None:
    grouped = lab.grouped(device) is not None
    if not grouped:
        lab.say("call", "no group", "no iommu group")
    lab.boot_domain(device)
    if not grouped:
        _without_group(lab, device)
        return
    for name in sequences(lab.inputs.arguments["seq"], SEQUENCES):
        SEQUENCES[name](lab, device)


def _without_group(lab: Attachlab, device: Device) -> None:
    lab.dma(device, "N00-no-group", "phys-of-P", lab.P, lab.P)
    d1 = lab.alloc_domain("N00", "D1")
    if d1 is not None:
        lab.attach(device, "N00", d1)
    lab.show_domain(device, "N00")


# -- attach and detach ---------------------------------------------------------------------------


def detach(lab: Attachlab, device: Device) -> None:
    """A01…A18: attach and detach, of a device and of its group; the wrong domain, twice, mixed."""
    d1, d2 = lab.alloc_domain("A00", "D1"), lab.alloc_domain("A00", "D2")
    if d1 is None or d2 is None:
        return
    api = _before_attach(lab, device, d1)
    ring = device.ring_iova
    _attached(lab, device, d1, d2, api)
    _detached(lab, device, d1, d2, api, ring)
    _by_group(lab, device, d1, d2)
    lab.api_map_ring(device, "A17")
    lab.full_set(device, "A17-end", lab.api_map(device, "A17", lab.S))
    lab.unmap("A18", "cleanup", d1, lab.T)
    lab.unmap("A18", "cleanup", d2, lab.T)
    if device.rng is not None:
        lab.unmap("A18", "ring", d1, lab.R)
        lab.unmap("A18", "ring", d2, lab.R)
    lab.free_domain(d1)
    lab.free_domain(d2)


def _before_attach(lab: Attachlab, device: Device, d1: str) -> int:
    api = 0
    lab.api_map_ring(device, "A01")
    if device.rng is not None:
        lab.api_map(device, "A01-spacer", lab.P)
    if lab.use_api:
        api = lab.api_map(device, "A01", lab.S)
    lab.old_api_iova = api
    lab.full_set(device, "A01-before", api)
    lab.map("A02", "never-attached", d1, lab.T, lab.P)
    lab.to_phys("A02", "never-attached", d1, lab.T)
    lab.unmap("A02", "never-attached", d1, lab.T)
    return api


def _api_while_attached(lab: Attachlab, device: Device, step: str) -> None:
    safe = device.rng is None and lab.since(5, 19)
    if not safe and lab.danger != CRASHES_S390_API:
        return
    iova = lab.api_map(device, step, lab.Q)
    lab.show_domain(device, step)
    if not iova:
        return
    lab.dma(device, step, "dmaapi-iova->Q", iova, lab.Q)
    if device.rng is None:
        lab.api_unmap(device, iova)


def _attached(lab: Attachlab, device: Device, d1: str, d2: str, api: int) -> None:
    lab.attach(device, "A03", d1)
    _api_while_attached(lab, device, "A03-api-while-attached")
    lab.full_set(device, "A03-attached-D1-empty", api)
    lab.map_ring(device, "A04", d1)
    if device.rng is not None:
        lab.full_set(device, "A04-attached-D1-ring-only", api)
    lab.map("A05", "first-page", d1, lab.T, lab.P)
    lab.full_set(device, "A05-attached-D1-T-mapped", api)

    lab.attach(device, "A06-while-D1", d2)
    lab.attach(device, "A06-same-again", d1)
    lab.show_domain(device, "A06")
    lab.dma(device, "A06-after-busy", "T->P", lab.T, lab.P)
    lab.attach_group(device, "A06-while-D1", d2)
    lab.attach_group(device, "A06-same-again", d1)
    lab.show_domain(device, "A06b")
    lab.map_ring(device, "A07", d2)
    lab.map("A07", "other-page", d2, lab.T, lab.Q)

    lab.detach(device, "A08-wrong-domain-D2", d2)
    lab.show_domain(device, "A08")
    lab.dma(device, "A08-after-wrong-detach", "T->P", lab.T, lab.P)
    lab.dma(device, "A08-after-wrong-detach", "T->Q", lab.T, lab.Q)
    if lab.current(device) != d1:
        lab.attach(device, "A08-reattach", d1)


def _detached(lab: Attachlab, device: Device, d1: str, d2: str, api: int, ring: int) -> None:
    iova = api
    lab.detach(device, "A09", d1)
    lab.full_set(device, "A09-detached(ring=old-domain-iova)", api)
    if device.rng is not None:
        device.ring_iova = ring
        lab.full_set(device, "A09-detached(ring=old-api-iova)", api)
        device.ring_iova = device.ring
        lab.full_set(device, "A09-detached(ring=phys)", api)
    if device.rng is not None or lab.use_api:
        step = "A10-detached-new-api-mapping"
        lab.api_map_ring(device, "A10")
        iova = lab.api_map(device, "A10", lab.Q)
        lab.new_api_iova = iova
        lab.show_domain(device, "A10")
        lab.dma(device, step, "new-dmaapi-iova->Q", iova, lab.Q)
        lab.dma(device, step, "old-dmaapi-iova->S", api, lab.S)
        lab.dma(device, step, "T->P", lab.T, lab.P)
        lab.dma(device, step, "phys-of-P", lab.P, lab.P)
    lab.detach(device, "A11-nothing-attached", d1)
    lab.show_domain(device, "A11")
    lab.dma(device, "A11-after-idle-detach", "new-dmaapi-iova->Q", iova, lab.Q)
    lab.dma(device, "A11-after-idle-detach", "phys-of-P", lab.P, lab.P)

    lab.attach(device, "A12", d2)
    if device.rng is not None:
        device.ring_iova = lab.R
    lab.ensure_mapped(device, "A12", d2, lab.Q)
    lab.show_domain(device, "A12")
    lab.dma(device, "A12-attached-D2", "T->Q", lab.T, lab.Q)
    lab.dma(device, "A12-attached-D2", "T->P", lab.T, lab.P)
    lab.dma(device, "A12-attached-D2", "dmaapi-iova->Q", iova, lab.Q)


def _by_group(lab: Attachlab, device: Device, d1: str, d2: str) -> None:
    lab.detach_group(device, "A13-wrong-domain-D1", d1)
    lab.show_domain(device, "A13")
    lab.dma(device, "A13-after-detach_group(wrong)", "T->Q", lab.T, lab.Q)
    lab.dma(device, "A13-after-detach_group(wrong)", "phys-of-P", lab.P, lab.P)
    if lab.current(device) == d2:
        lab.detach(device, "A13b", d2)

    lab.attach_group(device, "A14", d1)
    lab.show_domain(device, "A14")
    lab.to_phys("A14", "T", d1, lab.T)
    lab.dma(device, "A14-attach_group-D1", "T->P", lab.T, lab.P)
    if device.rng is not None:
        lab.remap(device, "A14", d1, lab.P)
        lab.dma(device, "A14-after-remap", "T->P", lab.T, lab.P)
    lab.attach(device, "A14-while-group-attached", d2)
    lab.detach_group(device, "A15", d1)
    lab.show_domain(device, "A15")
    lab.dma(device, "A15-detach_group", "T->P", lab.T, lab.P)
    lab.dma(device, "A15-detach_group", "phys-of-P", lab.P, lab.P)

    lab.attach(device, "A16-D1", d1)
    lab.detach_group(device, "A16-mixed", d1)
    lab.show_domain(device, "A16")
    if lab.current(device) == d1:
        lab.detach(device, "A16b", d1)


# -- who owns the DMA ----------------------------------------------------------------------------


def claim(lab: Attachlab, device: Device) -> None:
    """B01…B14: claim and release, with and without a domain, in odd orders."""
    if not lab.since(5, 19):
        lab.say("call", "B00 iommu_group_claim_dma_owner", "rc=not-in-this-kernel")
        return
    d1, d2 = lab.alloc_domain("B00", "D1"), lab.alloc_domain("B00", "D2")
    if d1 is None or d2 is None:
        return
    lab.api_map_ring(device, "B01")
    ring = device.ring_iova
    api = lab.api_map(device, "B01", lab.S)
    lab.old_api_iova = api
    lab.full_set(device, "B01-before", api)
    if not _claimed(lab, device, d1, d2, api):
        _attached_while_claimed(lab, device, d1, d2, api, ring)
        api = _released(lab, device, api)
    _claim_after_attach(lab, device, d1)
    _release_before_detach(lab, device, d1, api)
    _claim_without_attach(lab, device)
    _owner_null(lab, device)
    lab.unmap("B14", "cleanup", d1, lab.T)
    lab.unmap("B14", "cleanup", d2, lab.T)
    if device.rng is not None:
        lab.unmap("B14", "ring", d1, lab.R)
    lab.free_domain(d1)
    lab.free_domain(d2)


def _claimed(lab: Attachlab, device: Device, d1: str, d2: str, api: int) -> int:
    returned = lab.claim(device, "B02", "ownerA")
    lab.full_set(device, "B02-claimed", api)
    lab.show_claimed(device, "B02")
    if device.rng is not None:
        device.ring_iova = device.ring
        lab.dma(device, "B02-claimed(ring=phys)", "phys-of-P", lab.P, lab.P)
    lab.claim(device, "B03-same-owner", "ownerA")
    lab.claim(device, "B03-other-owner", "ownerB")
    lab.map("B04", "T-before-first-attach", d1, lab.T, lab.P)
    lab.map("B04", "T", d2, lab.T, lab.Q)
    return returned


def _attached_while_claimed(
    lab: Attachlab, device: Device, d1: str, d2: str, api: int, ring: int
) -> None:
    lab.attach(device, "B04-while-claimed", d1)
    lab.ensure_mapped(device, "B04", d1, lab.P)
    lab.full_set(device, "B04-claimed-attached-D1", api)
    lab.attach(device, "B05-second-while-claimed", d2)
    lab.claim(device, "B05-claim-while-attached", "ownerB")
    lab.detach(device, "B06-while-claimed", d1)
    lab.full_set(device, "B06-claimed-detached", api)
    if device.rng is not None:
        device.ring_iova = ring
        lab.dma(device, "B06-claimed-detached(ring=api)", "dmaapi-iova->S", api, lab.S)
        device.ring_iova = device.ring
        lab.dma(device, "B06-claimed-detached(ring=phys)", "phys-of-P", lab.P, lab.P)

    lab.attach_group(device, "B07-while-claimed", d1)
    if device.rng is not None:
        device.ring_iova = lab.R
    lab.ensure_mapped(device, "B07", d1, lab.P)
    lab.to_phys("B07", "T", d1, lab.T)
    lab.show_domain(device, "B07-attached")
    if device.rng is not None:
        lab.remap(device, "B07", d1, lab.P)
    lab.dma(device, "B07-claimed-attach_group", "T->P", lab.T, lab.P)
    lab.detach_group(device, "B07-while-claimed", d1)
    lab.show_domain(device, "B07")
    lab.dma(device, "B07-claimed-detach_group", "T->P", lab.T, lab.P)
    lab.dma(device, "B07-claimed-detach_group", "phys-of-P", lab.P, lab.P)


def _released(lab: Attachlab, device: Device, api: int) -> int:
    lab.release(device, "B08")
    lab.show_claimed(device, "B08")
    lab.api_map_ring(device, "B08")
    if device.rng is not None:
        lab.dma(device, "B08-released", "old-dmaapi-iova->S", api, lab.S)
        api = lab.api_map(device, "B08", lab.S)
    lab.full_set(device, "B08-released", api)
    lab.release(device, "B09-not-claimed")
    lab.show_domain(device, "B09")
    lab.dma(device, "B09", "phys-of-P", lab.P, lab.P)
    return api


def _claim_after_attach(lab: Attachlab, device: Device, d1: str) -> None:
    lab.attach(device, "B10", d1)
    if device.rng is not None:
        device.ring_iova = lab.R
    lab.ensure_mapped(device, "B10", d1, lab.P)
    if device.rng is not None:
        lab.remap(device, "B10", d1, lab.P)
    returned = lab.claim(device, "B10-claim-while-attached-unclaimed", "ownerA")
    lab.show_domain(device, "B10")
    lab.dma(device, "B10", "T->P", lab.T, lab.P)
    if not returned:
        lab.release(device, "B10")
    lab.detach(device, "B10", d1)
    lab.show_domain(device, "B10-detached")


def _release_before_detach(lab: Attachlab, device: Device, d1: str, api: int) -> None:
    if lab.claim(device, "B11", "ownerA"):
        return
    lab.attach(device, "B11", d1)
    if device.rng is not None:
        device.ring_iova = lab.R
        lab.remap(device, "B11", d1, lab.P)
    lab.dma(device, "B11-claimed-attached", "T->P", lab.T, lab.P)
    lab.release(device, "B11-while-attached")
    lab.show_domain(device, "B11")
    step = "B11-released-while-attached"
    lab.dma(device, step, "T->P", lab.T, lab.P)
    lab.dma(device, step, "phys-of-P", lab.P, lab.P)
    if device.rng is None:
        lab.dma(device, step, "dmaapi-iova->S", api, lab.S)
    lab.detach(device, "B11-late", d1)
    lab.show_domain(device, "B11-late")
    lab.dma(device, "B11-late-detach", "phys-of-P", lab.P, lab.P)


def _claim_without_attach(lab: Attachlab, device: Device) -> None:
    returned = lab.claim(device, "B12", "ownerB")
    lab.show_domain(device, "B12")
    if not returned:
        lab.release(device, "B12")
    lab.show_domain(device, "B12-released")
    lab.api_map_ring(device, "B12")
    lab.full_set(device, "B12-end", lab.api_map(device, "B12", lab.S))


def _owner_null(lab: Attachlab, device: Device) -> None:
    returned = lab.claim(device, "B13-owner-NULL", "NULL")
    lab.show_domain(device, "B13")
    lab.dma(device, "B13-owner-NULL", "phys-of-P", lab.P, lab.P)
    if returned:
        return
    lab.release(device, "B13-owner-NULL")
    lab.show_domain(device, "B13-after")
    lab.show_claimed(device, "B13")


# -- map, unmap, look up -------------------------------------------------------------------------


def maps(lab: Attachlab, device: Device) -> None:
    """C00…C22: what map, unmap and iova_to_phys return, and what a DMA then reaches."""
    good = lab.T + 0x8000000
    d3 = lab.alloc_domain("C00", "D3")
    if d3 is None:
        return
    lab.attach(device, "C00", d3)
    lab.map_ring(device, "C00", d3)
    lab.map("C00", "known-good-page", d3, good, lab.S)
    _looking_up(lab, device, d3)
    _unmapping(lab, device, d3)
    _mapping_over(lab, device, d3)
    _protection(lab, device, d3, good)
    _wrong_arguments(lab, d3)
    if not (device.rng is not None and lab.since(6, 7)) or lab.danger == OUTSIDE_S390:
        _end_of_aperture(lab, device, d3)
        _odd_addresses(lab, d3)
        _interrupt_window(lab, d3)
    _superpages(lab, device, d3)
    lab.dma(device, "C21-fault-handler-armed", "hole", lab.hole, lab.P)
    lab.detach(device, "C22", d3)
    lab.unmap("C22", "after-detach", d3, good)
    lab.show_domain(device, "C22")
    lab.free_domain(d3)


def _looking_up(lab: Attachlab, device: Device, d3: str) -> None:
    base = lab.T
    lab.map("C01", "plain", d3, base, lab.P)
    for why, iova in (
        ("start", base),
        ("plus-0x123", base + 0x123),
        ("last-byte", base + 0xFFF),
        ("next-page-hole", base + PAGE),
        ("far-hole", lab.hole + 0x40000000),
    ):
        lab.to_phys("C01", why, d3, iova)
    lab.dma(device, "C01", "T->P", base, lab.P)


def _unmapping(lab: Attachlab, device: Device, d3: str) -> None:
    base, block = lab.T, lab.block
    lab.unmap("C02", "hole-4K", d3, lab.hole)
    lab.unmap("C02", "hole-64K", d3, lab.hole, 0x10000)
    lab.unmap("C02", "size-0", d3, base, 0)
    lab.unmap("C02", "unaligned-iova", d3, base + 0x10)
    lab.unmap("C02", "unaligned-size", d3, base, 0x123)
    lab.dma(device, "C02", "T->P(still)", base, lab.P)

    lab.unmap("C03", "bigger-than-mapping-16K", d3, base, 0x4000)
    lab.to_phys("C03", "after", d3, base)
    lab.dma(device, "C03", "T->P", base, lab.P)
    lab.unmap("C03", "twice", d3, base)

    lab.map("C04", "at-T+4K-only", d3, base + PAGE, lab.P)
    lab.unmap("C04", "range-with-leading-hole-T..T+8K", d3, base, 0x2000)
    lab.to_phys("C04", "T+4K-after", d3, base + PAGE)
    lab.dma(device, "C04", "T+4K->P", base + PAGE, lab.P)
    lab.unmap("C04", "cleanup", d3, base + PAGE)

    lab.map("C05", "4-pages", d3, base, block, 0x4000)
    lab.unmap("C05", "page-2-of-4", d3, base + PAGE)
    lab.to_phys("C05", "page1", d3, base)
    lab.to_phys("C05", "page2", d3, base + PAGE)
    lab.to_phys("C05", "page3", d3, base + 0x2000)
    lab.unmap("C05", "all-4-with-a-hole", d3, base, 0x4000)
    lab.to_phys("C05", "page4-after", d3, base + 0x3000)
    lab.unmap("C05", "rest", d3, base + 0x2000, 0x2000)


def _mapping_over(lab: Attachlab, device: Device, d3: str) -> None:
    base = lab.T
    lab.map("C06", "first", d3, base, lab.P)
    lab.map("C06", "over-existing-other-page", d3, base, lab.Q)
    lab.to_phys("C06", "after", d3, base)
    lab.dma(device, "C06", "T->P", base, lab.P)
    lab.dma(device, "C06", "T->Q", base, lab.Q)
    lab.map("C06", "over-existing-same-page", d3, base, lab.Q)
    lab.unmap("C06", "once", d3, base)
    lab.to_phys("C06", "after-unmap", d3, base)
    lab.unmap("C06", "second-time", d3, base)
    lab.dma(device, "C06-unmapped", "T->P", base, lab.P)
    lab.dma(device, "C06-unmapped", "T->Q", base, lab.Q)

    lab.map("C07", "at-T+4K", d3, base + PAGE, lab.P)
    lab.map("C07", "8K-over-hole+existing", d3, base, lab.block, 0x2000)
    lab.to_phys("C07", "T", d3, base)
    lab.to_phys("C07", "T+4K", d3, base + PAGE)
    lab.unmap("C07", "cleanup", d3, base, 0x2000)
    lab.unmap("C07", "cleanup2", d3, base + PAGE)


def _protection(lab: Attachlab, device: Device, d3: str, good: int) -> None:
    base, far = lab.T, lab.T + 0x10000
    lab.map("C08", "prot-0", d3, base, lab.P, prot=0)
    lab.to_phys("C08", "after-prot-0", d3, base)
    lab.dma(device, "C08-prot-0", "T->P", base, lab.P)
    lab.dma_read(device, "C08-prot-0", "T", base, lab.P, good, lab.S)
    lab.unmap("C08", "cleanup", d3, base)

    lab.map("C09", "read-only", d3, base, lab.P, prot=READ)
    lab.dma(device, "C09-read-only", "T->P", base, lab.P)
    lab.dma_read(device, "C09-read-only", "T", base, lab.P, good, lab.S)
    lab.unmap("C09", "cleanup", d3, base)

    lab.map("C10", "write-only", d3, far, lab.P, prot=WRITE)
    lab.dma(device, "C10-write-only", "T->P", far, lab.P)
    lab.dma_read(device, "C10-write-only", "T", far, lab.P, good, lab.S)
    lab.unmap("C10", "cleanup", d3, far)


def _wrong_arguments(lab: Attachlab, d3: str) -> None:
    if lab.danger == ZERO_SIZE:
        lab.map("C11", "size-0", d3, lab.T, lab.P, 0)
    lab.map("C11", "unaligned-iova", d3, lab.T + 0x10, lab.P)
    lab.map("C11", "unaligned-pa", d3, lab.T, lab.P + 0x10)
    lab.map("C11", "unaligned-size", d3, lab.T, lab.P, 0x800)
    lab.to_phys("C11", "after-errors", d3, lab.T)


def _end_of_aperture(lab: Attachlab, device: Device, d3: str) -> None:
    _, end, _ = lab.geometry(d3)
    last = end // PAGE * PAGE
    if end in (0, 2**64 - 1):
        return
    refused = lab.map("C12", "last-page-of-aperture", d3, last, lab.P)
    lab.to_phys("C12", "last-page-of-aperture", d3, last)
    if not refused:
        if device.rng is None:
            lab.dma(device, "C12", "last-page->P", last, lab.P)
        lab.unmap("C12", "last-page", d3, last)
    refused = lab.map("C12", "one-page-beyond-aperture", d3, last + PAGE, lab.P)
    lab.to_phys("C12", "beyond", d3, last + PAGE)
    if not refused or lab.danger == BEYOND:
        lab.unmap("C12", "beyond", d3, last + PAGE)
    refused = lab.map("C12", "straddles-aperture-end", d3, last, lab.block, 0x2000)
    lab.to_phys("C12", "straddle-first-page", d3, last)
    if not refused or lab.danger == STRADDLE:
        lab.unmap("C12", "straddle-cleanup", d3, last, 0x2000)


def _odd_addresses(lab: Attachlab, d3: str) -> None:
    places = [("iova-0", 0), ("iova-2^51", 1 << 51), ("iova-2^39", 1 << 39)]
    if lab.danger == TOP:
        places.insert(1, ("top-of-64-bit", 2**64 - PAGE))
    for why, iova in places:
        if not lab.map("C13", why, d3, iova, lab.P):
            lab.to_phys("C13", why, d3, iova)
            lab.unmap("C13", why, d3, iova)
    if lab.danger == NOTHING_THERE:
        lab.unmap("C13", "nothing-there-2^51", d3, 1 << 51)


def _interrupt_window(lab: Attachlab, d3: str) -> None:
    window = 0xFEE00000
    lab.map("C14", "msi-window-0xfee00000", d3, window, lab.P)
    lab.to_phys("C14", "msi", d3, window)
    lab.unmap("C14", "msi", d3, window)


def _superpages(lab: Attachlab, device: Device, d3: str) -> None:
    block = lab.block
    iova = -(-lab.T // HUGE) * HUGE + 0x1000000
    pages = range(block, block + HUGE, PAGE)
    lab.map("C15", "2M-aligned-2M", d3, iova, block, HUGE)
    lab.to_phys("C15", "start", d3, iova)
    lab.to_phys("C15", "+1M+0x123", d3, iova + 0x100123)
    lab.dma(device, "C15", "2M+0", iova, block)
    lab.first_bytes(device, "C15", block)

    lab.unmap("C16", "first-4K-of-2M", d3, iova)
    lab.to_phys("C16", "first-4K", d3, iova)
    lab.to_phys("C16", "second-4K", d3, iova + PAGE)
    lab.to_phys("C16", "last-4K", d3, iova + 0x1FF000)
    lab.memory.fill(pages, UNTOUCHED)
    lab.dma(device, "C16", "2M+0", iova, block)
    lab.dma(device, "C16", "2M+4K", iova + PAGE, block + PAGE)
    lab.dma(device, "C16", "2M+1M", iova + 0x100000, block + 0x100000)
    lab.unmap("C17", "whole-2M-after", d3, iova, HUGE)
    lab.to_phys("C17", "last-4K", d3, iova + 0x1FF000)

    lab.map("C18", "2M-again", d3, iova, block, HUGE)
    lab.memory.fill(pages, MARK)
    lab.unmap("C18", "4K-in-the-middle-of-2M", d3, iova + 0x100000)
    _say_changed_bytes(lab)
    lab.to_phys("C18", "first-4K", d3, iova)
    lab.to_phys("C18", "middle", d3, iova + 0x100000)
    lab.to_phys("C18", "last-4K", d3, iova + 0x1FF000)
    lab.unmap("C18", "whole-2M-after", d3, iova, HUGE)
    lab.unmap("C18", "second-half", d3, iova + 0x101000, 0xFF000)

    lab.map("C19", "2M-third", d3, iova, block, HUGE)
    lab.map("C19", "4K-over-superpage", d3, iova + PAGE, lab.P)
    lab.to_phys("C19", "+4K", d3, iova + PAGE)
    lab.to_phys("C19", "+8K", d3, iova + 0x2000)
    lab.unmap("C19", "whole", d3, iova, HUGE)
    lab.unmap("C19", "rest", d3, iova + 0x2000, 0x1FE000)

    lab.map("C20", "4K-first", d3, iova + 0x5000, lab.P)
    lab.map("C20", "2M-over-4K", d3, iova, block, HUGE)
    lab.to_phys("C20", "+0", d3, iova)
    lab.to_phys("C20", "+20K", d3, iova + 0x5000)
    lab.unmap("C20", "whole", d3, iova, HUGE)
    lab.unmap("C20", "rest", d3, iova + 0x5000, 0x1FB000)
    lab.unmap("C20", "rest2", d3, iova + 0x6000, 0x1FA000)


def _say_changed_bytes(lab: Attachlab) -> None:
    bytes_ = lab.memory.read(lab.block, HUGE)
    first = last = 0
    count = HUGE - bytes_.count(MARK)
    if count:
        changed = [i for i, byte in enumerate(bytes_) if byte != MARK]
        first, last = changed[0], changed[-1]
    lab.say("call", "C18 check-data", f"first={first:#x},last={last:#x} rc={count}")


# -- two devices --------------------------------------------------------------------------------


def group(lab: Attachlab, one: Device) -> None:
    """G00…G12: two devices. In one group, what is done to one is done to the other."""
    if len(lab.devices) < MOST_DEVICES:
        lab.say("call", "G00 groups", "need two devices")
        return
    other = lab.devices[1]
    together = lab.grouped(one) == lab.grouped(other)
    lab.say("call", "G00 groups", f"same-group={int(together)}")
    d1, d2 = lab.alloc_domain("G00", "D1"), lab.alloc_domain("G00", "D2")
    if d1 is None or d2 is None:
        return
    lab.map("G00", "T", d1, lab.T, lab.P)
    lab.map("G00", "T", d2, lab.T, lab.Q)
    api_of_one = lab.api_map(one, "G01", lab.S)
    api = lab.api_map(other, "G01", lab.S)
    lab.full_set(one, "G01-before", api_of_one)
    lab.full_set(other, "G01-before", api)
    lab.dma(one, "G01-sibling-iova", "dev1's-dmaapi-iova", api, lab.S)

    _each_to_its_own(lab, one, other, d1, d2, together)
    if together:
        _both_by_group(lab, one, other, d1, d2, api)
        if lab.since(5, 19):
            _by_owner(lab, one, other, d1, api)
        if lab.since(6, 6):
            _by_device_owner(lab, one, other)
    lab.unmap("G12", "cleanup", d1, lab.T)
    lab.unmap("G12", "cleanup", d2, lab.T)
    lab.free_domain(d1)
    lab.free_domain(d2)


def _each_to_its_own(
    lab: Attachlab, one: Device, other: Device, d1: str, d2: str, together: bool
) -> None:
    returned = lab.attach(one, "G02", d1)
    lab.attach(other, "G02", d2)
    lab.show_domain(one, "G02")
    lab.show_domain(other, "G02")
    lab.dma(one, "G02", "T->P", lab.T, lab.P)
    lab.dma(other, "G02", "T->Q", lab.T, lab.Q)
    lab.dma(other, "G02", "T->P", lab.T, lab.P)
    if together:
        return
    if not returned:
        lab.detach(one, "G02", d1)
    lab.detach(other, "G02", d2)


def _both_by_group(lab: Attachlab, one: Device, other: Device, d1: str, d2: str, api: int) -> None:
    lab.detach(one, "G03-not-attached", d1)
    lab.attach_group(one, "G04", d1)
    lab.show_domain(one, "G04")
    lab.show_domain(other, "G04")
    lab.dma(one, "G04-attach_group", "T->P", lab.T, lab.P)
    lab.dma(other, "G04-attach_group", "T->P", lab.T, lab.P)
    lab.dma(other, "G04-attach_group", "dmaapi-iova->S", api, lab.S)
    lab.dma(other, "G04-attach_group", "phys-of-P", lab.P, lab.P)

    lab.attach(other, "G05-while-group-attached", d2)
    lab.attach_group(other, "G05-second", d2)
    lab.detach(one, "G06-detach_device-in-2-device-group", d1)
    lab.show_domain(one, "G06")
    lab.dma(one, "G06", "T->P", lab.T, lab.P)
    lab.dma(other, "G06", "T->P", lab.T, lab.P)

    lab.detach_group(one, "G07", d1)
    lab.show_domain(one, "G07")
    lab.show_domain(other, "G07")
    lab.dma(one, "G07-detach_group", "T->P", lab.T, lab.P)
    lab.dma(other, "G07-detach_group", "T->P", lab.T, lab.P)
    lab.dma(other, "G07-detach_group", "dmaapi-iova->S", api, lab.S)
    lab.dma(other, "G07-detach_group", "phys-of-P", lab.P, lab.P)


def _by_owner(lab: Attachlab, one: Device, other: Device, d1: str, api: int) -> None:
    returned = lab.claim(one, "G08", "ownerA")
    lab.show_domain(other, "G08")
    lab.dma(one, "G08-claimed", "phys-of-P", lab.P, lab.P)
    lab.dma(other, "G08-claimed", "phys-of-P", lab.P, lab.P)
    lab.dma(other, "G08-claimed", "dmaapi-iova->S", api, lab.S)
    lab.claim(other, "G08-sibling-other-owner", "ownerB")

    lab.attach(one, "G09-attach_device-while-claimed", d1)
    lab.attach_group(one, "G09-attach_group-while-claimed", d1)
    lab.dma(other, "G09", "T->P", lab.T, lab.P)
    lab.detach_group(one, "G09", d1)
    lab.show_domain(other, "G09")
    lab.dma(other, "G09-detached-claimed", "phys-of-P", lab.P, lab.P)

    if not returned:
        lab.release(one, "G10")
    lab.show_domain(other, "G10")
    lab.dma(other, "G10-released", "phys-of-P", lab.P, lab.P)
    lab.dma(other, "G10-released", "dmaapi-iova->S", api, lab.S)


def _by_device_owner(lab: Attachlab, one: Device, other: Device) -> None:
    first = lab.claim_device(one, "G11", "ownerA")
    second = lab.claim_device(other, "G11", "ownerA")
    lab.show_domain(other, "G11")
    lab.dma(other, "G11-device-claims", "phys-of-P", lab.P, lab.P)
    lab.claim_device(other, "G11", "ownerB")
    if not first:
        lab.release_device(one, "G11")
        lab.show_domain(other, "G11-one-released")
        lab.dma(one, "G11-one-released", "phys-of-P", lab.P, lab.P)
    if not second:
        lab.release_device(other, "G11")
        lab.show_domain(other, "G11-both-released")
        lab.dma(one, "G11-both-released", "phys-of-P", lab.P, lab.P)


SEQUENCES: dict[str, Callable[[Attachlab, Device], None]] = {
    "group": group,
    "detach": detach,
    "claim": claim,
    "maps": maps,
}
"""The sequences in the order in which the module runs them, whatever its parameter's order."""
