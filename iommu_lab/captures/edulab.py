"""edulab: the program of a kernel driver that uses the DMA API, as calls of the model.

The module runs it when it probes an edu device. Its lines are its program, the same at every boot,
so the program is written down here once and its results are predictions like any other.

edu does its DMA 100 ms after it was asked to. Between the two the program unmaps the buffer, which
tells a lazy unmap from a strict one: the queue that keeps an unmapped page in the IOTLB is flushed
10 ms after it was first used.

Where it stops: of a buffer that the boot line has copied (``swiotlb=force``) it knows that it is a
page elsewhere, not which of the pool's. And the delays are those that the program asks for: a guest
whose clock runs late may unmap after the DMA; what it then measures says nothing about unmapping.
"""

from __future__ import annotations

from typing import Protocol

from .. import dmaapi
from ..bootline import Words
from ..state import World
from .emulated import PAGE, Edu, Emulator, Memory

LENGTH, LOADED, UNTOUCHED = 64, 256, 0xCC
SETTLES_MS = 50.0


def pattern(index: int) -> int:
    """The program's byte ``index``."""
    return (index * 7 + 0x11) & 0xFF | 1


class Boot(Protocol):
    """Where the program runs: a kernel on a machine, and its log."""

    world: World
    iommu: Emulator
    memory: Memory

    def edu_of(self, bdf: str) -> Edu: ...

    def say(self, kind: str, key: str, value: str, *, optional: bool = False) -> None: ...


class _Edulab:
    """One probe of edulab: a device, a coherent buffer and a page."""

    def __init__(self, boot: Boot, bdf: str) -> None:
        self.boot = boot
        self.bdf = bdf
        self.edu = boot.edu_of(bdf)
        self.coherent, self.page = boot.memory.kernel_pages(2)
        self.bounced: dict[int, tuple[int, int, str]] = {}
        """Mappings that are copies: the copy's address, and what of which page it is of."""

    def say(self, key: str, value: str, *, optional: bool = False) -> None:
        self.boot.say("edulab", key, value, optional=optional)

    def wait(self, ms: float) -> None:
        dmaapi.advance(self.boot.world, ms)
        self.boot.iommu.settle(self.boot.world)

    @property
    def direct(self) -> bool:
        """Is the address that the device gets the physical one?"""
        world = self.boot.world
        return self.bdf not in world.devices or dmaapi.backing(world, self.bdf) is None

    def allocate(self, paddr: int, size: int = PAGE, direction: str = "bidirectional") -> int:
        """``dma_alloc_coherent``: the page may be anywhere, so that no copy is needed."""
        world = self.boot.world
        if self.bdf not in world.devices:
            return paddr
        iova = dmaapi.dma_map(world, self.bdf, paddr, size, direction)
        self.boot.iommu.settle(world)
        return iova

    def map(self, paddr: int, size: int = PAGE, direction: str = "from_device") -> int:
        iova = self.allocate(paddr, size, direction)
        if not (self.direct and Words.of(self.boot.world.kernel.cmdline).bounces):
            return iova
        # swiotlb_map: the device gets a copy, and the driver's own page is left alone until unmap.
        (copy,) = self.boot.memory.kernel_pages(1)
        self.boot.memory.copy(paddr, copy, size)
        self.bounced[copy] = paddr, size, direction
        return copy

    def unmap(self, iova: int, size: int = PAGE) -> None:
        if iova in self.bounced:
            paddr, size, direction = self.bounced.pop(iova)
            if direction != "to_device":
                self.boot.memory.copy(iova, paddr, size)
        elif self.bdf in self.boot.world.devices:
            dmaapi.dma_unmap(self.boot.world, self.bdf, iova, size)
            self.boot.iommu.settle(self.boot.world)

    def fill(self, paddr: int) -> None:
        self.boot.memory.fill((paddr,), UNTOUCHED)

    def finish(self, iova: int) -> None:
        """The device's DMA, at the end of its delay."""
        boot = self.boot
        self.edu.write_memory(boot.world, boot.iommu, boot.memory, iova, 0, LENGTH)

    def verdict(self, label: str, paddr: int, *, optional: bool = False) -> None:
        got = self.boot.memory.read(paddr, LENGTH)
        landed = sum(byte == pattern(i) for i, byte in enumerate(got))
        outcome = "LANDED" if landed == LENGTH else "PARTIAL" if landed else "BLOCKED"
        self.say(label, f"{outcome} landed={landed}/{LENGTH}", optional=optional)

    def write_and_look(self, label: str, iova: int, page: int, at: int = 0) -> None:
        self.fill(page)
        self.wait(Edu.DELAY_MS)
        self.finish(iova)
        self.verdict(label, page + at)

    def unmap_before_dma(self, label: str, iova: int, lead: float) -> None:
        """Kick, unmap ``lead`` ms before the DMA, and look."""
        self.fill(self.page)
        # The long lead sleeps, and a sleep ends later than it was asked to.
        before = Edu.DELAY_MS - lead - (10 if lead > 10 else 0)
        self.wait(before)
        self.unmap(iova)
        self.wait(Edu.DELAY_MS - before)
        self.finish(iova)
        self.wait(5)
        self.verdict(label, self.page)

    def run(self) -> None:
        self.say("dma_set_mask_and_coherent", "rc=0")
        coherent = self.allocate(self.coherent)
        self.say("coherent", f"same={int(coherent == self.coherent)}")
        for i in range(LOADED):
            self.boot.memory.write(self.coherent + i, [pattern(i)])
        self.wait(Edu.DELAY_MS)
        boot = self.boot
        self.edu.read_memory(boot.world, boot.iommu, boot.memory, coherent, 0, LOADED)
        self.write_and_look("X01-coherent-write", coherent, self.coherent)

        iova = self.map(self.page)
        self.say("map_single FROM_DEVICE", f"same={int(iova == self.page)}")
        self.write_and_look("X02-mapped-from-device-write", iova, self.page)
        # Asked only when the two addresses are neighbours, which the allocators decide.
        self.fill(self.coherent)
        self.wait(Edu.DELAY_MS)
        self.finish(coherent)
        label = "X03-overrun-to-next-iova-page-is-the-coherent-buffer"
        self.verdict(label, self.coherent, optional=True)

        for label, lead in (
            ("X04a-unmap-3ms-before-dma", 3),
            ("X04b-unmap-30ms-before-dma", 30),
            ("X04c-unmap-8ms-before-dma", 8),
        ):
            if not label.startswith("X04a"):
                iova = self.map(self.page)
                self.wait(Edu.DELAY_MS)
                self.finish(iova)
            self.unmap_before_dma(label, iova, lead)
        self.wait(SETTLES_MS)
        self.write_and_look("X05-100ms-after-unmap", iova, self.page)

        iova = self.map(self.page, PAGE, "to_device")
        self.write_and_look("X06-mapped-to-device-but-device-writes", iova, self.page)
        self.unmap(iova)
        self.wait(SETTLES_MS)

        iova = self.map(self.page + 0x100, LENGTH)
        beyond = iova - iova % PAGE + 0x800
        self.write_and_look("X07-same-page-outside-64B-mapping", beyond, self.page, 0x800)
        second = self.map(self.page)
        same = second == iova - iova % PAGE
        self.say("second map of the page", "the same IOVA" if same else "another IOVA")
        self.unmap(iova, LENGTH)
        self.wait(SETTLES_MS)
        self.write_and_look("X08-second-mapping-survives-first-unmap", second, self.page)
        first = iova - iova % PAGE
        self.write_and_look("X09-first-iova-after-its-unmap", first, self.page)
        self.unmap(second)
        self.wait(SETTLES_MS)
        self.write_and_look("X10-raw-physical-address", self.page, self.page)
        self.unmap(self.map(self.page))
        self.unmap(coherent)
        self.wait(SETTLES_MS)


def edulab(boot: Boot, bdf: str) -> None:
    """The probe of edulab on this device."""
    _Edulab(boot, bdf).run()
