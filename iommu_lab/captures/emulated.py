"""What the emulated machine does: QEMU's IOMMUs, its bus, and the edu device on it.

The model judges a DMA by what the driver programmed. An emulator adds limits of its own, and they
belong here, in a profile with a name, and never in a rule about the kernel: how wide the IOMMU is,
what it keeps cached, where its page walk wraps, what a faulting read returns. Read from QEMU 7.2
(hw/i386/intel_iommu.c, hw/i386/amd_iommu.c, hw/arm/smmuv3.c, hw/virtio/virtio-iommu.c,
hw/s390x/s390-pci-bus.c, hw/misc/edu.c) and held against transcripts.

Memory is kept byte by byte, since a transcript's outcomes speak of the bytes of one buffer: a DMA
that reaches other memory counts as blocked there. A byte that nobody wrote is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from .. import core
from ..bootline import Words, make_kernel
from ..drivers import Driver
from ..drivers import driver as find_driver
from ..errors import KernelCrash, refuse
from ..hardware import Entry, Kind
from ..machine import X86_INTERRUPTS, Device, Machine, Reserved
from ..releases import release as find_release
from ..state import DeviceState, Kernel, World
from ..tables import READ, WRITE
from .kernels import Build
from .topology import HOT_PLUG_BRIDGE, Bus, Function

PAGE = 4096
MSI = Reserved(*X86_INTERRUPTS, "msi")
HYPERTRANSPORT = Reserved(0xFD_0000_0000, 0xFF_FFFF_FFFF, "reserved")
FLOPPY = Reserved(0, 2**24 - 1, "direct-relaxable")
"""What CONFIG_INTEL_IOMMU_FLOPPY_WA keeps mapped for an ISA bridge."""
SOFTWARE_MSI = Reserved(0x800_0000, 0x80F_FFFF, "msi-sw")
VIRTIO = "1af4:"
ITS = Reserved(0x809_0000, 0x809_FFFF, "msi")


@dataclass(frozen=True, slots=True)
class Profile:
    """One emulated IOMMU, by the name that transcripts give it."""

    driver: str
    width: int = 64
    caching_mode: bool = False
    remaps_interrupts: bool = True
    coherent: bool = False
    """Can it enforce snooping for a domain? (``enforce_cache_coherency``)"""
    described_by_firmware: bool = False
    """Found through firmware tables (OF, VIOT): see the rule ``probe.firmware``."""
    strangers: str = "bypass"
    """DMA of a device that no driver configured while the IOMMU is on: "bypass" or "fault"."""
    sticky_passthrough: bool = False
    """A device once seen in pass-through stays there, whatever its entry says later."""
    wraps: bool = False
    """The page walk ignores address bits above the table's top level."""
    shadow: bool = False
    """It translates only by entries that the guest refreshed since the table was registered."""
    window: tuple[int, int] | None = None
    """The addresses that a function may use at all, whatever its table says."""
    by_own_address: bool = False
    """It knows a function by its own address only, and none behind a conventional bridge."""
    early_numbers: bool = False
    """It takes a function's bus number before the firmware gives one: every bus is bus 0 to it."""
    interrupts_read: str = "zeros"
    """What a read of the interrupt window gets: "zeros", or the "apic" which lies there."""


PROFILES = {
    "none": Profile("", remaps_interrupts=False, interrupts_read="apic"),
    "intel": Profile("intel", 39, caching_mode=True, strangers="fault"),
    "intelnocm": Profile("intel", 39, strangers="fault"),
    "intel48": Profile("intel", 48, caching_mode=True, strangers="fault"),
    # QEMU 7.2 does not act on the invalidation of a PASID entry, so it goes on as before.
    "intelsm": Profile("intel", 48, caching_mode=True, strangers="fault", sticky_passthrough=True),
    "amd": Profile(
        "amd",
        caching_mode=True,
        coherent=True,
        wraps=True,
        strangers="fault",
        early_numbers=True,
    ),
    "amdnoir": Profile(
        "amd",
        caching_mode=True,
        coherent=True,
        wraps=True,
        strangers="fault",
        remaps_interrupts=False,
        early_numbers=True,
    ),
    "virtio": Profile(
        "virtio",
        remaps_interrupts=False,
        described_by_firmware=True,
        by_own_address=True,
        interrupts_read="apic",
    ),
    "smmuv3": Profile("arm-smmu-v3", 48, described_by_firmware=True, strangers="fault"),
    # It ends where a guest of 512 MiB has as many addresses as memory (zpci_dma_init_device).
    "zpci": Profile("s390", shadow=True, window=(2**32, 2**32 + 2**29 - 1)),
}
APIC_VERSION = 3
APIC_REGISTERS = {APIC_VERSION: 0x50014}
"""Of the 16-byte slots of the local APIC: those that are not zero after reset, as far as seen."""
REGISTERS = range(0x1000_0000, 0x1010_0000)
"""Where an arm64 kernel puts the first edu's registers: the board's PCI window begins there."""
STARTING_LEVELS = 3
"""Levels of an AMD page table before it grows; each translates nine bits (PAGE_MODE_3_LEVEL)."""


@dataclass(frozen=True)
class Setup:
    """The machine of a transcript: its bus, its emulated IOMMU, and the kernel that runs on it."""

    kernel: Kernel
    build: Build
    profile: Profile
    active: bool
    """Does the kernel drive the IOMMU at all?"""
    bus: Bus
    late: frozenset[str] = frozenset()
    """Functions that the IOMMU driver learns of only when a driver is offered them."""
    isolated: bool = False
    sticky: bool = False
    waiting: frozenset[str] = frozenset()
    """Functions whose IOMMU never came to be: their drivers are told to try again later."""


def setup(
    arch: str,
    iommu: str,
    build: Build,
    cmdline: str,
    found: tuple[Function, ...],
    *,
    inserts: bool = True,
) -> Setup:
    """Build the machine: every function, its group, its reserved regions.

    ``inserts``: does init insert the drivers of virtio that the kernel has as modules?
    """
    profile = PROFILES[iommu]
    words = Words.of(cmdline)
    active = _is_driven(iommu, build, words, inserts)
    virtio_pci = inserts or build.virtio_pci_built_in
    at_bind = find_release(build.release)["probe.firmware"] == "at-bind"
    # With a device tree the services are asked for after the bridges were set up.
    isolation = build.extended and not (arch == "arm64" and at_bind)
    bus = Bus((_with_driver(f, build, arch, virtio_pci) for f in found), isolation=isolation)
    strangers: set[str] = set()
    # A device tree names the IOMMU of each, built or not (of_iommu_configure).
    named = arch == "arm64" and profile.described_by_firmware and not active
    if active and profile.by_own_address:
        strangers = {f.name for f in found if bus.behind_old_bridge(f) is not None}
        bus = Bus(
            (replace(f, translated=f.translated and f.name not in strangers) for f in bus),
            isolation=isolation,
        )
        # One function whose attach fails takes the whole IOMMU away, if all are attached at once.
        active = at_bind or not strangers
        # So does VIOT (viot_dev_iommu_init).
        named = not active
    waiting = frozenset(f.name for f in found if f.translated) if named else frozenset()
    row = find_driver(profile.driver if active else _stand_in(arch), build.release)
    if profile.window is not None and row.aperture_set == "attach":
        row = replace(row, first=profile.window[0], last=profile.window[1])
    asked = list(bus)
    if active and profile.described_by_firmware and at_bind:
        # Drivers of bridges look at every bridge, and the AGP driver at the host's.
        asked = [f for f in bus if f.bridge or f.driver]
        asked += [f for f in bus if build.agp and _is_host(f)]
    late = frozenset(f.name for f in bus if f.translated and f not in asked)
    if active and row.name == "arm-smmu-v3":
        asked = _with_own_streams(bus, asked, build.release)
    groups = bus.groups(asked)
    devices = tuple(
        device_of(f, groups.get(f.name, 0), arch, profile, row)
        for f in bus
        if f.name not in late
        and (f.name not in strangers or not active)
        and (f in asked or not f.translated)
    )
    outside = tuple(d.name for d in devices if not active or d.name not in groups)
    machine = Machine(
        devices=devices,
        memory=(),
        msi=(X86_INTERRUPTS,) if arch == "x86_64" else (),
        width=profile.width,
        caching_mode=profile.caching_mode,
        no_iommu=outside,
    )
    kernel = make_kernel(build.release, row, machine, cmdline, arch)
    unmapped = words.has("intremap", "off") or words.options("nointremap")
    isolated = profile.remaps_interrupts and not unmapped
    # On the arm64 board the translater of messages keeps devices apart, whatever the IOMMU.
    isolated = isolated or arch == "arm64"
    scalable = words.chosen("intel_iommu", "sm_on", "sm_off", build.scalable_mode)
    sticky = profile.sticky_passthrough and scalable
    return Setup(kernel, build, profile, active, bus, late, isolated, sticky, waiting)


def _with_driver(function: Function, build: Build, arch: str, virtio_pci: bool) -> Function:
    """A bridge with a hot-plug controller has a driver where firmware does not forbid it."""
    if virtio_pci and function.id.startswith(VIRTIO):
        return replace(function, driver="virtio-pci")
    native = build.shpc and arch == "arm64" and function.id == HOT_PLUG_BRIDGE
    return replace(function, driver="shpchp") if native else function


def _is_host(function: Function) -> bool:
    return function.id == "8086:29c0"


def _stand_in(arch: str) -> str:
    """Some driver of the architecture, for a kernel that drives no IOMMU."""
    return {"x86_64": "intel", "arm64": "arm-smmu-v3", "s390x": "s390"}[arch]


def _is_driven(iommu: str, build: Build, words: Words, inserts: bool) -> bool:
    profile = PROFILES[iommu]
    if not profile.driver:
        return False
    if profile.driver in ("intel", "amd") and words.stops_x86(find_release(build.release)):
        return False
    if profile.driver == "intel":
        return words.chosen("intel_iommu", "on", "off", build.intel_on)
    if profile.driver == "amd":
        return not words.has("amd_iommu", "off")
    if profile.driver == "virtio":
        return build.virtio_iommu and (inserts or build.virtio_iommu_built_in)
    return True


def device_of(
    function: Function, group: int, arch: str, profile: Profile, driver: Driver
) -> Device:
    """One function as the model's machine has it."""
    return Device(
        function.name,
        group,
        function.id,
        reserved=_reserved(function, arch, profile, driver),
        master_at_boot=False,
        # QEMU's table of VT-d lists every device, so that some can be left out.
        listed=profile.driver == "intel",
        managed_by=function.driver,
    )


def _reserved(
    function: Function, arch: str, profile: Profile, driver: Driver
) -> tuple[Reserved, ...]:
    """``get_resv_regions`` of the IOMMU's driver for this function."""
    if profile.driver == "intel":
        return (FLOPPY, MSI) if function.isa else (MSI,)
    if profile.driver == "amd":
        return (MSI, HYPERTRANSPORT)
    if profile.driver == "virtio":
        return (MSI,) if arch == "x86_64" else (ITS,)
    if profile.window is not None and driver.aperture_set == "alloc":
        # Since the aperture is that of the table, what lies outside the window is reserved.
        first, last = profile.window
        return (Reserved(0, first - 1, "reserved"), Reserved(last + 1, driver.last, "reserved"))
    return (SOFTWARE_MSI,) if profile.driver == "arm-smmu-v3" else ()


def appear(world: World, setup: Setup, function: Function) -> None:
    """The IOMMU's driver gets to know a function: into its group, a new one, or it refuses it."""
    name = function.name
    if name not in setup.late and not function.announced:
        # When a function is added, the scan of its slot has not yet told that it has neighbours.
        function = replace(function, multifunction=False)
    placed = {d: n for n, g in world.groups.items() for d in g.devices}
    group = setup.bus.group_for(function, placed)
    if name not in world.devices:
        kernel = world.kernel
        core.add_device(
            world, device_of(function, group, kernel.arch, setup.profile, kernel.driver)
        )
    world.devices[name] = DeviceState(group, present=False)
    rule = world.release["smmu.shared_stream"]
    others = _sharing(world, setup, function)
    if others and rule != "BUG":
        raise refuse(rule, f"{name} shares its stream's number with {others[0]}")
    if any(world.entries[other].kind is Kind.TABLE for other in others):
        # It is in its group by then, as sysfs shows afterwards.
        world.devices[name] = DeviceState(group)
        if group in world.groups:
            members = world.groups[group].devices
            world.set_group(group, devices=(*members, name))
        what = f"the entry of the stream that {name} shares with {others[0]} is in use"
        raise KernelCrash("arm_smmu_write_strtab_ent", what)
    core.probe(world, name)


def _with_own_streams(bus: Bus, asked: list[Function], release: str) -> list[Function]:
    """Of the functions that share a stream's number the first alone, as :func:`_sharing` says."""
    if find_release(release)["smmu.shared_stream"] == "BUG":
        return asked
    taken: set[str] = set()
    kept = []
    for function in asked:
        streams = bus.streams(function)
        if not function.translated or not taken & streams:
            kept.append(function)
            taken |= streams if function.translated else set()
    return kept


def _sharing(world: World, setup: Setup, function: Function) -> list[str]:
    """The devices whose stream number this one would have too, for a driver that minds.

    What is behind an old bridge has the bridge's number as well as its own, and to SMMUv3's driver
    a stream belongs to one device (arm_smmu_insert_master).
    """
    if world.driver.name != "arm-smmu-v3":
        return []
    mine = setup.bus.streams(function)
    known = {d for group in world.groups.values() for d in group.devices}
    others = (setup.bus.functions[name] for name in sorted(known - {function.name}))
    return [other.name for other in others if mine & setup.bus.streams(other)]


# -- memory --------------------------------------------------------------------------------


MEMORY_STARTS = {"x86_64": 0, "arm64": 2**30, "s390x": 0}
"""Where the boards' memory begins."""


class Memory:
    """Physical memory, a page at a time; a byte is None until somebody writes it."""

    def __init__(self, arch: str = "x86_64") -> None:
        self._pages: dict[int, list[int | None]] = {}
        self._next = 0x40_0000_0000
        self._next_low = MEMORY_STARTS[arch] + 0x600_0000

    def copy(self, source: int, target: int, length: int) -> None:
        self.write(target, self.read(source, length))

    def kernel_pages(self, count: int) -> tuple[int, ...]:
        """Addresses for new pages of the kernel, none beside another.

        They are in the low quarter of a guest's memory, as every transcript shows that names one;
        for a device of few address bits in pass-through that decides what it reaches.
        """
        first, self._next_low = self._next_low, self._next_low + 2 * PAGE * count
        return tuple(range(first, self._next_low, 2 * PAGE))

    def pages(self, count: int, first: int | None = None) -> tuple[int, ...]:
        """Addresses for new pages of a process, none beside another; the first may be known."""
        found = []
        for number in range(count):
            self._next += 2 * PAGE
            found.append(first if number == 0 and first is not None else self._next)
        return tuple(found)

    def read(self, paddr: int, length: int) -> list[int | None]:
        got: list[int | None] = []
        while len(got) < length:
            at = paddr + len(got)
            start = at % PAGE
            got += self._page(at)[start : start + length - len(got)]
        return got

    def write(self, paddr: int, data: Sequence[int | None]) -> None:
        done = 0
        while done < len(data):
            start = (paddr + done) % PAGE
            part = data[done : done + PAGE - start]
            self._page(paddr + done)[start : start + len(part)] = part
            done += len(part)

    def fill(self, pages: Iterable[int], byte: int) -> None:
        for page in pages:
            self._pages[page // PAGE] = [byte] * PAGE

    def _page(self, paddr: int) -> list[int | None]:
        number = paddr // PAGE
        if number not in self._pages:
            self._pages[number] = [None] * PAGE
        return self._pages[number]


# -- the IOMMU --------------------------------------------------------------------------------


@dataclass(slots=True)
class Emulator:
    """The emulated IOMMU's own memory, beside what the driver programmed into the world.

    Call :meth:`settle` after every verb: it is how an emulator that caches learns of a change.
    """

    setup: Setup
    seen: set[tuple[str, int]] = field(default_factory=set)
    """(table, page) that a device went through: those may still be in the IOTLB."""
    top: dict[str, int] = field(default_factory=dict)
    """The highest address that each table ever mapped."""
    stuck: set[str] = field(default_factory=set)
    registered: dict[str, str | None] = field(default_factory=dict)
    shadows: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    """Functions in an error state: an instruction that refreshes their translations is refused."""

    def settle(self, world: World) -> None:
        """Take notice of what the last verb did."""
        if self.setup.sticky:
            self.stuck |= {d for d, e in world.entries.items() if e.kind is Kind.BYPASS}
        if self.setup.profile.wraps:
            for name, table in world.tables.items():
                if len(table):
                    last = table[len(table) - 1]
                    self.top[name] = max(self.top.get(name, 0), last.end - 1)
        if self.setup.profile.shadow:
            self._follow(world)
        gone = set()
        for name, page in self.seen:
            kept = world.tables.get(name)
            if kept is None or (
                kept.lookup(page) is None
                and not any(s.iova <= page < s.iova + s.size for s in kept.stale)
            ):
                gone.add((name, page))
        self.seen -= gone

    def _follow(self, world: World) -> None:
        """zPCI: registering a table forgets everything; a refresh tells of its range's entries."""
        for device, entry in world.entries.items():
            name = entry.table
            if self.registered.get(device) != name:
                self.registered[device] = name
                self.shadows[device] = {}
                continue
            shadow = self.shadows.setdefault(device, {})
            if name is None:
                continue
            if entry.kind is Kind.PLATFORM:
                # The platform tells of each entry it makes, and of none that it takes away.
                for run in world.tables[name]:
                    self._refresh(world, shadow, name, run.iova, run.size)
                continue
            for event in world.events:
                if event.name in ("map", "unmap") and event.iova is not None:
                    domain = world.domains.get(event.domain)
                    table = event.domain if domain is None else domain.table
                    if table == name:
                        self._refresh(world, shadow, name, event.iova, event.size or 0)

    def refuses(self, world: World, domain: str) -> bool:
        """Would the machine refuse to refresh a translation of this domain?"""
        return any(world.devices[device].attached == domain for device in self.dead)

    def refresh(self, world: World, device: str) -> None:
        """The guest tells of its whole table (``flush_iotlb_all``)."""
        name = self.registered.get(device)
        if name is not None and name in world.tables:
            self.shadows[device] = {}
            for run in world.tables[name]:
                self._refresh(world, self.shadows[device], name, run.iova, run.size)

    def _refresh(
        self,
        world: World,
        shadow: dict[int, tuple[int, int]],
        name: str,
        iova: int,
        size: int,
    ) -> None:
        for page in range(iova, iova + size, PAGE):
            found = world.tables[name].lookup(page)
            if found is None:
                shadow.pop(page, None)
            else:
                shadow[page] = found

    def reach(self, world: World, device: str, iova: int, write: bool) -> tuple[str, int]:
        """Where an access within one page ends: "memory" at an address, "fault", "interrupt"."""
        if not world.master.get(device, False):
            return "fault", 0
        machine = world.kernel.machine
        if any(first <= iova <= last for first, last in machine.msi):
            return "interrupt", iova
        entry = self._entry(world, device)
        if entry is None:
            known = not self.setup.active or self.setup.profile.strangers == "bypass"
            return ("memory", iova) if known else ("fault", 0)
        if device in self.stuck:
            return "memory", iova
        if entry.kind is Kind.BYPASS:
            inside = entry.first <= iova <= entry.last
            return ("memory", iova) if inside else ("fault", 0)
        if entry.kind not in (Kind.TABLE, Kind.PLATFORM) or entry.table is None:
            return "fault", 0
        return self._walk(world, device, entry.table, iova, write)

    def _entry(self, world: World, device: str) -> Entry | None:
        """The translation that this function's requests get, by the number they carry."""
        bus = self.setup.bus
        function = bus.functions[device]
        bridge = bus.behind_old_bridge(function)
        if self.setup.profile.early_numbers and function.translated:
            carried = function.name if bridge is None else bus.carried_beyond(bridge)
            return world.entries.get(f"0000:00:{carried[-4:]}")
        names = [device]
        if bridge is not None:
            names += [f.name for f in bus if bus.behind_old_bridge(f) is bridge]
            names += [bridge.name] if bridge.express != "pci-bridge" else []
        return next((world.entries[n] for n in names if n in world.entries), None)

    def reads(self, how: str, at: int, size: int, memory: Memory) -> list[int | None]:
        """The bytes that a read gets which ended there (see :meth:`reach`)."""
        if how == "memory" and self.setup.kernel.arch == "arm64" and at in REGISTERS:
            # QEMU reads eight bytes at a time, and edu answers four at most below its DMA's words.
            return [0xFF] * size
        if how == "memory":
            return memory.read(at, size)
        got: list[int | None] = [0] * size
        if how == "interrupt" and self.setup.profile.interrupts_read == "apic":
            for i in range(size):
                word = APIC_REGISTERS.get((at + i) % PAGE >> 4, 0)
                got[i] = word >> 8 * ((at + i) % 4) & 0xFF
        return got

    def _walk(
        self, world: World, device: str, name: str, iova: int, write: bool
    ) -> tuple[str, int]:
        profile = self.setup.profile
        if profile.wraps:
            iova &= 2 ** self._bits(name) - 1
        if iova >= 2**profile.width:
            return "fault", 0
        if profile.window is not None and not profile.window[0] <= iova <= profile.window[1]:
            return "fault", 0
        page = iova - iova % PAGE
        table = world.tables.get(name)
        found = None if table is None else table.lookup(iova)
        if profile.shadow:
            kept = self.shadows.get(device, {}).get(page)
            found = None if kept is None else (kept[0] + iova % PAGE, kept[1])
        if found is None and table is not None and (name, page) in self.seen:
            for old in table.stale:
                if old.iova <= iova < old.iova + old.size:
                    found = old.paddr + iova - old.iova, old.prot
        if found is None or not found[1] & (WRITE if write else READ):
            return "fault", 0
        self.seen.add((name, page))
        return "memory", found[0]

    def _bits(self, name: str) -> int:
        levels = STARTING_LEVELS
        while self.top.get(name, 0) >= 2 ** (12 + 9 * levels):
            levels += 1
        return 12 + 9 * levels


# -- the device --------------------------------------------------------------------------------


class Edu:
    """QEMU's edu device: a buffer of 4 KiB and one DMA at a time, 100 ms after it was asked for."""

    DELAY_MS = 100.0

    def __init__(self, name: str, mask: int) -> None:
        self.name = name
        self.mask = mask
        self.buffer: list[int | None] = [0] * PAGE

    def write_memory(
        self, world: World, iommu: Emulator, memory: Memory, iova: int, slot: int, length: int
    ) -> None:
        """From the device's buffer to memory; what faults is lost, and the rest goes on."""
        for at, offset, size in self._pieces(iova, length):
            how, paddr = iommu.reach(world, self.name, at, True)
            if how == "memory":
                memory.write(paddr, self.buffer[slot + offset : slot + offset + size])

    def read_memory(
        self, world: World, iommu: Emulator, memory: Memory, iova: int, slot: int, length: int
    ) -> None:
        """From memory to the device's buffer; what faults reads as zeros."""
        for at, offset, size in self._pieces(iova, length):
            how, paddr = iommu.reach(world, self.name, at, False)
            got = iommu.reads(how, paddr, size, memory)
            self.buffer[slot + offset : slot + offset + size] = got

    def _pieces(self, iova: int, length: int) -> list[tuple[int, int, int]]:
        """(address, offset, size) of each page that a transfer touches."""
        iova &= self.mask
        pieces, done = [], 0
        while done < length:
            size = min(length - done, PAGE - (iova + done) % PAGE)
            pieces.append(((iova + done) % 2**64, done, size))
            done += size
        return pieces


class Rng:
    """QEMU's virtio-rng on zPCI, whose entropy is zeros: a DMA reads and writes its ring as well.

    A function whose DMA was stopped once is in an error state from then on: its registers read as
    ones, and the kernel can't change its translations (s390_pci_generate_error_event).
    """

    DONE, DEAD = 0xF, 0xFF
    AVAILABLE, USED = 0x100, 0x200

    def __init__(self, name: str) -> None:
        self.name = name

    def write_memory(
        self,
        world: World,
        iommu: Emulator,
        memory: Memory,
        ring: tuple[int, int],
        iova: int,
        length: int,
    ) -> tuple[int, int]:
        """How many buffers were used and the device's status; ``ring`` is its IOVA and address."""
        at, paddr = ring
        for offset, write in ((0, False), (self.AVAILABLE, False), (self.USED, True)):
            if self._goes(world, iommu, at + offset, write) is None:
                return 0, self.DEAD
        if self._goes(world, iommu, at, False) != paddr:
            return 0, self.DONE
        target = self._goes(world, iommu, iova, True)
        if target is None:
            return 0, self.DEAD
        memory.write(target, [0] * length)
        return 1, self.DONE

    def _goes(self, world: World, iommu: Emulator, iova: int, write: bool) -> int | None:
        how, paddr = iommu.reach(world, self.name, iova, write)
        if how != "memory":
            iommu.dead.add(self.name)
        return None if self.name in iommu.dead else paddr
