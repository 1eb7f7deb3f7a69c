"""attachlab: a kernel module that calls the IOMMU core's own functions, as calls of the model.

Its program is the same on every kernel, so it is written down here: this file has the calls and
the DMAs, :mod:`iommu_lab.captures.sequences` what is called in which order. Each call is made in
the model, and what it returns is the prediction.

One DMA tells where it went: three pages (P, Q and S) are filled, the device writes 64 bytes, and
the page that should have them is looked at.

Where it stops: a function that would crash the kernel ends the program there. A kernel that lives
on kills insmod, and init goes on; one that does not says no more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .. import behaviours, core, dmaapi, pagetables
from ..domains import DomainType
from ..errors import KernelCrash, refuse
from ..hardware import Kind
from ..iommufd import aperture
from ..state import World
from ..tables import READ, WRITE
from . import topology
from .attachlog import STOPPED
from .emulated import PAGE, Edu, Emulator, Memory, Rng, Setup, appear
from .predictions import Prediction, Traced, traced
from .transcript import Inputs, number

LENGTH, LOADED, UNTOUCHED, PRESET, FIRST_READ = 64, 256, 0xCC, 0x5A, 0x80
HUGE = 2**21
SOMEWHERE = 0x7000_0000
"""Where the block of 2 MiB lies in a log that ends before it says so."""
FLAGS_SHOWN = ("attach_device_to_domain", "detach_device_from_domain")
NO_DRIVER, ORDINARY, MANAGES_DMA = 0, 1, 2


def pattern(index: int) -> int:
    """The module's byte ``index``."""
    return (index * 7 + 0x11) & 0xFF | 1


@dataclass(slots=True)
class Device:
    """One device that the module took."""

    number: int
    bdf: str
    edu: Edu | None
    rng: Rng | None
    ring: int = 0
    ring_iova: int = 0


class Attachlab:
    """One run of the module on a machine; :meth:`run` gives the predictions of a program."""

    def __init__(self, setup: Setup, inputs: Inputs) -> None:
        self.setup = setup
        self.inputs = inputs
        state, _ = core.boot(setup.kernel)
        self.world = World(setup.kernel, state)
        self.iommu = Emulator(setup)
        self.memory = Memory()
        words = inputs.arguments
        self.T, self.R = number(words["T"]), number(words["R"])
        self.only = [w for w in words.get("only", "").split("+") if w]
        self.danger, self.refresh = number(words["danger"]), number(words["refresh"]) != 0
        self.use_api = number(words["useapi"]) != 0
        self.driver = number(words["bind"])
        major, minor = inputs.uname.split(".")[:2]
        self.version = int(major), int("".join(c for c in minor[:2] if c.isdigit()))
        self.P, self.Q, self.S = self._pages("P", "Q", "S")
        self.block = inputs.pages.get("block", SOMEWHERE)
        self.names: dict[str | None, str] = {}
        """The module's names for domains, by the model's."""
        self.old_api_iova = 0
        self.new_api_iova = 0
        self.bound: dict[str, str] = {
            f.name: f.driver for f in setup.bus.functions.values() if f.driver
        }
        self.devices: list[Device] = []
        self.said: list[Prediction] = []
        self.crashed: KernelCrash | None = None
        self.iommu.settle(self.world)

    def _pages(self, *names: str) -> tuple[int, ...]:
        made = self.memory.pages(len(names))
        return tuple(self.inputs.pages.get(name, at) for name, at in zip(names, made, strict=True))

    def since(self, major: int, minor: int) -> bool:
        """Was the module compiled for this release or a later one?"""
        return self.version >= (major, minor)

    @property
    def older(self) -> bool:
        """Is the log, without a MACHINE line, an older build's? It did not look in every place."""
        return self.inputs.ran is not None

    @property
    def hole(self) -> int:
        return self.T + 0x100000

    # -- running ----------------------------------------------------------------------------

    def run(self, program: Callable[[Attachlab], None]) -> list[Prediction]:
        """The predictions of a program's calls, up to one that would stop the kernel."""
        self.world.events.clear()
        try:
            program(self)
        except KernelCrash as crash:
            self.crashed = crash
            self._before("the end")
            self.said.append(Prediction(0, "crash", "crash", crash.function))
            self._after_crash()
        return self.said

    def _after_crash(self) -> None:
        """What init says if the kernel lives on: the module's insmod was killed, and the list."""
        self.say("call", "insmod", STOPPED, optional=True)
        self.listing("after", optional=True)

    def say(
        self, kind: str, key: str, value: str, why: str = "", *, optional: bool = False
    ) -> None:
        self._before(key)
        self.said.append(Prediction(0, kind, key, value, optional, why))

    def _before(self, key: str) -> None:
        """What was traced since the last line stands in the log before this one."""
        events: list[Traced] = []
        for event in self.world.events:
            shown = traced(event, self.world) if event.name in FLAGS_SHOWN else None
            if shown is not None:
                events.append(shown)
        self.world.events.clear()
        if events:
            self.said.append(Prediction(0, "trace", f"before {key}", tuple(events)))

    def call(self, key: str, run: Callable[[], object], form: str = "rc={}", why: str = "") -> int:
        """Make a call that returns 0 or an errno, and say which."""
        try:
            run()
            returned = 0
        except OSError as error:
            returned = -(error.errno or 0)
        self.iommu.settle(self.world)
        self.say("call", key, form.format(returned), why)
        return returned

    # -- devices ----------------------------------------------------------------------------

    def listing(self, when: str, *, optional: bool = False) -> None:
        """The PCI functions as sysfs shows them."""
        for name in self.setup.bus.functions:
            words = []
            if name in self.bound:
                words.append(f"driver={self.bound[name]}")
            group = self._group(name)
            if group is not None:
                words.append(f"group={group} type={core.group_type(self.world, group)}")
            self.say("group", f"{when} {name}", " ".join(words), optional=optional)

    def known(self, bdf: str) -> bool:
        """Does the IOMMU core know of this function?"""
        return bdf in self.world.devices and self.world.devices[bdf].present

    def _group(self, bdf: str) -> int | None:
        if not self.known(bdf):
            return None
        group = self.world.group_of(bdf)
        return None if group is None else group.number

    def take(self, bdf: str) -> bool:
        """Take a device: by binding to it where the module is its driver."""
        function = self.setup.bus.functions[bdf]
        if self.driver != NO_DRIVER:
            if self.setup.active and function.translated and not self.known(bdf):
                with suppress(OSError):  # the IOMMU's driver may refuse it
                    appear(self.world, self.setup, function)
            managed = self.driver == MANAGES_DMA and self.since(5, 19)
            if self.known(bdf):
                # To the core, one driver that manages DMA itself is like another.
                name = core.MANAGES_DMA_ITSELF[0] if managed else "attachlab"
                try:
                    core.bind(self.world, bdf, name)
                except OSError:
                    return False
            self.bound[bdf] = "attachlab"
        self.world.master[bdf] = True
        self.iommu.settle(self.world)
        edu = Edu(bdf, function.mask) if function.id == topology.EDU else None
        device = Device(len(self.devices), bdf, edu, None if edu else Rng(bdf))
        group = self._group(bdf)
        bound = self.bound.get(bdf, "none")
        self.say(
            "call",
            f"dev{device.number}",
            f"{bdf} driver={bound} group={-1 if group is None else group}",
        )
        self.devices.append(device)
        if device.edu is not None:
            self._load(device, device.edu)
        else:
            self.say("call", "find virtio-rng", "rc=0")
            (device.ring,) = self.memory.pages(1)
        return True

    def _load(self, device: Device, edu: Edu) -> None:
        """The device loads the pattern from a coherent buffer, and writes it back to show it."""
        (buffer,) = self.memory.pages(1)
        iova = self._dma_map(device, buffer, "bidirectional")
        self.memory.write(buffer, [pattern(i) for i in range(LOADED)])
        self._wait()
        edu.read_memory(self.world, self.iommu, self.memory, iova, 0, LOADED)
        self.memory.fill((buffer,), UNTOUCHED)
        self._wait()
        edu.write_memory(self.world, self.iommu, self.memory, iova, 0, LENGTH)
        landed = self._arrived(device, buffer)
        self.say("dma", f"selftest dev{device.number}", f"landed={landed}/{LENGTH}")
        if self.known(device.bdf):
            dmaapi.dma_unmap(self.world, device.bdf, iova, PAGE)
            self.iommu.settle(self.world)

    def _wait(self) -> None:
        dmaapi.advance(self.world, Edu.DELAY_MS)
        self.iommu.settle(self.world)

    # -- domains ----------------------------------------------------------------------------

    def current(self, device: Device) -> str | None:
        """``iommu_get_domain_for_dev``, as the model's name of a domain."""
        if not self.known(device.bdf):
            return None
        found = behaviours.current(self.world, device.bdf)
        return None if found is None else found.name

    def name(self, domain: str | None) -> str:
        return "NULL" if domain is None else self.names.get(domain, "other")

    def show_domain(self, device: Device, step: str) -> None:
        domain = self.current(device)
        kind = 0 if domain is None else self.world.domains[domain].type
        key = f"{step} iommu_get_domain_for_dev dev{device.number}"
        self.say("call", key, f"is={self.name(domain)} type={kind:#x}", optional=self.older)
        if domain is not None and self.old_api_iova:
            key = f"{step} iommu_iova_to_phys current({self.name(domain)})"
            found = self._lookup(domain, self.old_api_iova)
            self.say("call", key, f"rc={found:#x}", "old DMA-API address", optional=self.older)
        if self.setup.profile.window is not None:
            self._show_zpci(device, step, self.setup.profile.window)

    def _show_zpci(self, device: Device, step: str, window: tuple[int, int]) -> None:
        """What s390's own structures hold, whatever the emulator has cached of it."""
        entry, at = self.world.entries.get(device.bdf), self.world.devices.get(device.bdf)
        name = None if entry is None else entry.table
        words = {"dma_table": name is not None}
        if not self.since(6, 7):
            words["bitmap"] = entry is not None and entry.kind is Kind.PLATFORM
        words["s390_domain"] = at is not None and at.attached is not None
        said = [f"{word}={'set' if is_set else 'NULL'}" for word, is_set in words.items()]
        said += [f"start_dma={window[0]:#x}", f"end_dma={window[1]:#x}"]
        self.say("call", f"{step} zpci", " ".join(said))
        if self.since(6, 7):
            return
        table = self.world.table(name)
        places = {"T": self.T, "oldapi": self.old_api_iova, "newapi": self.new_api_iova}
        found = [
            f"{word}={'-' if not iova else 'no' if table.lookup(iova) is None else 'VALID'}"
            for word, iova in places.items()
        ]
        self.say("call", f"{step} s390-table", " ".join(found))

    def _lookup(self, domain: str, iova: int) -> int:
        found = pagetables.iova_to_phys(self.world, self.world.domains[domain], iova)
        self.iommu.settle(self.world)
        return found

    def alloc_domain(self, step: str, name: str) -> str | None:
        world = self.world
        drives = self.setup.active and (
            not self.since(6, 11) or self._group(self.devices[0].bdf) is not None
        )
        found = behaviours.alloc(world, DomainType.UNMANAGED, name) if drives else None
        if self.since(6, 11):
            returned = "rc=0" if found is not None else "rc=-19"
            self.say("call", f"{step} iommu_paging_domain_alloc {name}", returned)
        else:
            returned = "rc=ptr" if found is not None else "rc=NULL"
            self.say("call", f"{step} iommu_domain_alloc {name}", returned)
        if found is None:
            return None
        self.names[found.name] = name
        self.say("domain", f"{step} domain {name}", self._described(found.name))
        return found.name

    def _described(self, name: str) -> str:
        first, last, forced = self.geometry(name)
        domain = self.world.domains[name]
        sizes = pagetables.pgsizes(self.world, domain)
        return (
            f"type={domain.type:#x} pgsize_bitmap={sizes:#x} "
            f"aperture={first:#x}..{last:#x} force={int(forced)}"
        )

    def geometry(self, name: str) -> tuple[int, int, bool]:
        """The aperture, which is all zeros until the driver has set it."""
        return aperture(self.world, self.world.domains[name])

    def free_domain(self, domain: str) -> None:
        core.domain_free(self.world, self.world.domains[domain])
        self.names.pop(domain, None)
        self.iommu.settle(self.world)

    def map(
        self,
        step: str,
        why: str,
        domain: str,
        iova: int,
        paddr: int,
        size: int = PAGE,
        prot: int = READ | WRITE,
    ) -> int:
        world = self.world

        def run() -> None:
            pagetables.iommu_map(world, world.domains[domain], iova, paddr, size, prot)
            if self.iommu.refuses(world, domain):
                pagetables.iommu_unmap(world, world.domains[domain], iova, size)
                raise refuse("EIO", f"{domain} has a function in an error state")
            world.event("trace", "map", domain=domain, iova=iova, size=size, paddr=paddr)

        key = f"{step} iommu_map {self.name(domain)}"
        return self.call(key, run, f"iova={iova:#x} size={size:#x} prot={prot} rc={{}}", why)

    def unmap(self, step: str, why: str, domain: str, iova: int, size: int = PAGE) -> int:
        world = self.world
        done, _ = pagetables.iommu_unmap(world, world.domains[domain], iova, size)
        self._corrupt(iova, done)
        if self.iommu.refuses(world, domain) and not self.since(6, 2):
            done = 0
        world.event("trace", "unmap", domain=domain, iova=iova, size=size)
        self.iommu.settle(world)
        key = f"{step} iommu_unmap {self.name(domain)}"
        self.say("call", key, f"iova={iova:#x} size={size:#x} rc={done:#x}", why)
        return done

    def _corrupt(self, iova: int, size: int) -> None:
        """A large page that the driver took for a page table has zeros where it cleared entries."""
        for event in self.world.events:
            if event.kind != "note" or event.paddr is None:
                continue
            entry = iova % HUGE // PAGE * 8
            end = PAGE if iova % HUGE + size >= HUGE else entry + size // PAGE * 8
            self.memory.write(event.paddr + entry, [0] * (end - entry))

    def to_phys(self, step: str, why: str, domain: str, iova: int) -> None:
        key = f"{step} iommu_iova_to_phys {self.name(domain)}"
        found = self._lookup(domain, iova)
        self.say("call", key, f"iova={iova:#x} rc={found:#x}", why, optional=self.older)

    # -- attaching --------------------------------------------------------------------------

    def attach(self, device: Device, step: str, domain: str) -> int:
        key = f"{step} iommu_attach_device {self.name(domain)},dev{device.number}"
        return self.call(key, lambda: self._attach(device, domain))

    def _attach(self, device: Device, domain: str) -> None:
        if not self.known(device.bdf):
            raise refuse("ENODEV", f"{device.bdf} is in no group")
        core.attach_device(self.world, domain, device.bdf)

    def attach_group(self, device: Device, step: str, domain: str) -> int:
        group = self._group(device.bdf)
        assert group is not None
        key = f"{step} iommu_attach_group {self.name(domain)}"
        return self.call(key, lambda: core.attach_group(self.world, domain, group))

    def detach(self, device: Device, step: str, domain: str) -> None:
        key = f"{step} iommu_detach_device {self.name(domain)},dev{device.number}"
        self._before(f"{key} enter")
        self.call(key, lambda: self._detach(device, domain), "rc=void")

    def _detach(self, device: Device, domain: str) -> None:
        if self.known(device.bdf):
            core.detach_device(self.world, domain, device.bdf)

    def detach_group(self, device: Device, step: str, domain: str) -> None:
        group = self._group(device.bdf)
        assert group is not None
        key = f"{step} iommu_detach_group {self.name(domain)}"
        self._before(f"{key} enter")
        self.call(key, lambda: core.detach_group(self.world, domain, group), "rc=void")

    def claim(self, device: Device, step: str, who: str) -> int:
        group = self._group(device.bdf)
        assert group is not None
        key = f"{step} iommu_group_claim_dma_owner {who}"
        self._before(f"{key} enter")
        owner = None if who == "NULL" else who
        return self.call(key, lambda: core.claim_dma_owner(self.world, group, owner))

    def release(self, device: Device, step: str) -> None:
        group = self._group(device.bdf)
        assert group is not None
        key = f"{step} iommu_group_release_dma_owner -"
        self._before(f"{key} enter")
        self.call(key, lambda: core.release_dma_owner(self.world, group), "rc=void")

    def show_claimed(self, device: Device, step: str) -> None:
        group = self._group(device.bdf)
        assert group is not None
        claimed = int(self.world.groups[group].owner_cnt > 0)
        self.say("call", f"{step} iommu_group_dma_owner_claimed", f"rc={claimed}")

    def claim_device(self, device: Device, step: str, who: str) -> int:
        key = f"{step} iommu_device_claim_dma_owner dev{device.number},{who}"
        return self.call(key, lambda: core.claim_device(self.world, device.bdf, who))

    def release_device(self, device: Device, step: str) -> None:
        key = f"{step} iommu_device_release_dma_owner dev{device.number}"
        self.call(key, lambda: core.release_device_owner(self.world, device.bdf), "rc=void")

    # -- the DMA API ------------------------------------------------------------------------

    def _dma_map(self, device: Device, paddr: int, direction: str) -> int:
        iova = paddr
        if self.known(device.bdf):
            iova = dmaapi.dma_map(self.world, device.bdf, paddr, PAGE, direction)
            if device.bdf in self.iommu.dead:
                dmaapi.dma_unmap(self.world, device.bdf, iova, PAGE)
                raise refuse("EIO", f"{device.bdf} is in an error state")
        self.iommu.settle(self.world)
        return iova

    def api_map(self, device: Device, step: str, page: int) -> int:
        """Map a page as a driver would; 0 when the API refuses."""
        iova, error = 0, 0
        try:
            iova = self._dma_map(device, page, "from_device")
        except OSError:
            error = -12
        same = int(iova == page and not error)
        self.say("call", f"{step} dma_map_single", f"same={same} err={error}")
        return iova

    def api_unmap(self, device: Device, iova: int) -> None:
        if self.known(device.bdf):
            dmaapi.dma_unmap(self.world, device.bdf, iova, PAGE)
        self.iommu.settle(self.world)

    def api_map_ring(self, device: Device, step: str) -> None:
        if device.rng is None:
            return
        error = 0
        try:
            device.ring_iova = self._dma_map(device, device.ring, "bidirectional")
        except OSError:
            device.ring_iova, error = 2**64 - 1, -12
        self.say("call", f"{step} dma_map_single(ring)", f"err={error}")

    def map_ring(self, device: Device, step: str, domain: str) -> None:
        if device.rng is not None:
            self.map(step, "ring", domain, self.R, device.ring)
            device.ring_iova = self.R

    def ensure_mapped(self, device: Device, step: str, domain: str, page: int) -> None:
        if device.rng is not None and not self._lookup(domain, self.R):
            self.map_ring(device, step, domain)
        if not self._lookup(domain, self.T):
            self.map(step, "T-after-attach", domain, self.T, page)

    def remap(self, device: Device, step: str, domain: str, page: int) -> None:
        self.unmap(step, "remap", domain, self.R)
        self.unmap(step, "remap", domain, self.T)
        self.ensure_mapped(device, step, domain, page)

    # -- DMA --------------------------------------------------------------------------------

    def _wanted(self, device: Device, step: str, what: str) -> bool:
        if self.inputs.ran is not None:
            return f"{device.number}:{step}:{what}" in self.inputs.ran
        return not self.only or any(word in f"{step}:{what}" for word in self.only)

    def _arrived(self, device: Device, page: int) -> int:
        got = self.memory.read(page, LENGTH)
        zeros = device.rng is not None
        return sum(byte == (0 if zeros else pattern(i)) for i, byte in enumerate(got))

    def dma(self, device: Device, step: str, what: str, iova: int, page: int) -> None:
        """The device writes to ``iova``; did the bytes get to ``page``?"""
        if not self._wanted(device, step, what):
            return
        self.memory.fill((self.P, self.Q, self.S), UNTOUCHED)
        key = f"{step} dma dev{device.number} {what}"
        if device.edu is not None:
            self._wait()
            device.edu.write_memory(self.world, self.iommu, self.memory, iova, 0, LENGTH)
            self.say("dma", key, f"landed={self._arrived(device, page)}/{LENGTH}")
            return
        assert device.rng is not None
        if self.refresh and self.current(device) is not None:
            self.iommu.refresh(self.world, device.bdf)
        used, status = device.rng.write_memory(
            self.world,
            self.iommu,
            self.memory,
            (device.ring_iova, device.ring),
            iova,
            LENGTH,
        )
        landed = self._arrived(device, page)
        self.say("dma", key, f"landed={landed}/{LENGTH} used={used} vstatus={status:#x}")

    def dma_read(
        self, device: Device, step: str, what: str, iova: int, source: int, good: int, page: int
    ) -> None:
        """The device reads ``iova``; what it got goes out through ``good``, mapped to ``page``."""
        edu = device.edu
        if edu is None or not self._wanted(device, step, what):
            return
        world, iommu, memory = self.world, self.iommu, self.memory
        memory.fill((page,), PRESET)
        self._wait()
        edu.read_memory(world, iommu, memory, good, 0, LENGTH)
        memory.write(source, [(FIRST_READ + i) & 0xFF for i in range(LENGTH)])
        self._wait()
        edu.read_memory(world, iommu, memory, iova, 0, LENGTH)
        memory.fill((page,), UNTOUCHED)
        self._wait()
        edu.write_memory(world, iommu, memory, good, 0, LENGTH)
        data = memory.read(page, LENGTH)
        got = sum(byte == (FIRST_READ + i) & 0xFF for i, byte in enumerate(data))
        key = f"{step} dmaread dev{device.number} {what}"
        self.say("dma", key, f"got={got}/{LENGTH} zeros={data.count(0)}")
        memory.write(page, [pattern(i) for i in range(LENGTH)])
        self._wait()
        edu.read_memory(world, iommu, memory, good, 0, LENGTH)

    def first_bytes(self, device: Device, step: str, page: int) -> None:
        self.say("dma", f"{step} first bytes", f"landed={self._arrived(device, page)}")

    def full_set(self, device: Device, step: str, api_iova: int) -> None:
        """The four places that tell blocked, identity, the DMA API's mapping and our own apart."""
        self.show_domain(device, step)
        self.dma(device, step, "T->P", self.T, self.P)
        if api_iova:
            self.dma(device, step, "dmaapi-iova->S", api_iova, self.S)
        self.dma(device, step, "phys-of-P", self.P, self.P)
        self.dma(device, step, "hole", self.hole, self.P)

    def boot_domain(self, device: Device) -> None:
        domain = self.current(device)
        self.names[domain] = "boot"
        kind = 0 if domain is None else self.world.domains[domain].type
        said = f"type={kind:#x}" + (" NULL" if domain is None else "")
        self.say("call", "boot domain", said)

    def grouped(self, device: Device) -> int | None:
        """The number of the device's group, or None."""
        return self._group(device.bdf)
