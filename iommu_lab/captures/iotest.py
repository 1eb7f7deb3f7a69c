"""What iotest's script would do to this machine: its verbs, one method each, as predictions.

``iotest`` is the program that wrote a transcript. A verb here does what that program does (open a
file, make an ioctl, tell the device to do DMA, look at the buffer afterwards), with the model in
the place of the kernel and :mod:`iommu_lab.captures.emulated` in the place of the machine;
what sysfs does to PCI functions is in :mod:`iommu_lab.captures.pci`. It reads steps alone; no
answer comes near it.

Where it stops: a verb whose answer the model does not know predicts nothing, and a comparison then
calls it not modelled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from .. import core, dmaapi
from ..errors import KernelCrash, errno_name, refuse
from ..iommufd import Context
from ..state import World
from ..tables import READ, WRITE
from ..vfio import (
    DMA_CC,
    NESTING,
    NOIOMMU,
    TYPE1,
    TYPE1V2,
    UNMAP_ALL,
    UPDATE_VADDR,
    Container,
    DeviceFile,
    OpenGroup,
    Vfio,
)
from . import topology
from .edulab import edulab
from .emulated import PAGE, Edu, Emulator, Memory, Setup
from .pci import MASTER_ON, MEMORY_ON, Pci, Place
from .predictions import Prediction, traced
from .transcript import Inputs, Step, number

PARAMETERS = {
    ("vfio", "enable_unsafe_noiommu_mode"): "switch",
    ("iommufd", "allow_unsafe_interrupts"): "switch",
    ("vfio_iommu_type1", "allow_unsafe_interrupts"): "switch",
    ("vfio_iommu_type1", "disable_hugepages"): "switch",
    ("vfio_iommu_type1", "dma_entry_limit"): "number",
    ("vfio_pci", "nointxmask"): "switch",
    ("vfio_pci", "disable_idle_d3"): "switch",
    ("vfio_pci", "enable_sriov"): "switch",
    ("vfio_pci", "disable_denylist"): "read-only",
    ("vfio_pci", "disable_vga"): "read-only",
}
"""Module parameters that have a file; those without a rule here change nothing that is seen."""
FILL, PRESET, READ_SLOT, MSI_SLOT = 0xCC, 0x5A, 2048, 3072
EDU_ID = "0x10000ed"
NOBODY = {"x86_64": "0x0", "arm64": "0xffffffff", "s390x": "0xffffffff"}
"""What a read gets where no device answers."""
BAR_SIZE = 0x100000
REGION0 = {topology.EDU: BAR_SIZE, topology.E1000: 0x20000}
"""The sizes of the first BARs that can be mapped from a device file."""
FIRST_BAR = {*REGION0, topology.ROOT_PORT, topology.HOT_PLUG_BRIDGE}
"""Functions that have a first BAR at all; the bridges' are small."""
FIRST_REGISTER = {topology.EDU: EDU_ID, topology.E1000: "0x140240"}
"""What iotest reads from a device it has just opened, and calls its id."""


@dataclass(slots=True)
class _Buffer:
    name: str
    pages: tuple[int, ...]


UNMAPPED = ("nowhere", 0)


@dataclass(slots=True)
class _Device:
    """What iotest keeps of a device, and what the device itself is."""

    bdf: str
    edu: Edu | None
    bar: Place | None = None
    """Its registers are mapped through sysfs, where they were then."""
    vfio_bar: bool = False
    open_in: OpenGroup | None = None
    file: DeviceFile | None = None
    preloaded: int | None = None
    """The seed of the pattern that its buffer was loaded with."""
    bound_id: int = 0


def pattern(index: int, seed: int) -> int:
    """The program's byte ``index`` of pattern ``seed``; never a value that means something else."""
    value = (seed * 37 + index * 7 + 1) & 0xFF
    return (value + 3) & 0xFF if value in (FILL, 0, PRESET) else value


def runs(classes: Iterable[str]) -> str:
    """Runs of equal letters: ``W[0..31] .[32..63]``."""
    said, start = [], 0
    letters = list(classes)
    for at in range(1, len(letters) + 1):
        if at == len(letters) or letters[at] != letters[start]:
            said.append(f"{letters[start]}[{start}..{at - 1}]")
            start = at
    return " ".join(said)


class IoTest:
    """One run of iotest on a machine; :meth:`run` gives the predictions of a script."""

    def __init__(self, setup: Setup, inputs: Inputs) -> None:
        self.setup = setup
        self.inputs = inputs
        state, _ = core.boot(setup.kernel)
        self.world = World(setup.kernel, state)
        self.iommu = Emulator(setup)
        self.memory = Memory(inputs.arch)
        self.vfio = Vfio(self.world, isolated=setup.isolated, coherent=setup.profile.coherent)
        self.iommufd: Context | None = None
        self.contexts = 0
        self.iommufd_unsafe = False
        for word in inputs.cmdline.split() if setup.build.iommufd else ():
            # Where all is built in, the boot line sets parameters; a module's insmod reads none.
            module, _, setting = word.partition(".")
            name, _, text = setting.partition("=")
            if (module.replace("-", "_"), name) in PARAMETERS:
                with suppress(OSError):
                    self._set_parameter(module.replace("-", "_"), name, text)
        self.numbers: dict[str, int] = {}
        """The objects of iommufd by their names in the script."""
        self.pci = Pci(setup, self.world, self.vfio, settle=self._sync, probed=self._probed)
        self.buffers: dict[str, _Buffer] = {}
        self.devices: dict[str, _Device] = {}
        self.edus = {
            f.name: Edu(f.name, f.mask)
            for f in setup.bus.functions.values()
            if f.id == topology.EDU
        }
        self.groups: dict[str, OpenGroup | None] = {}
        self.containers: dict[str, Container | None] = {}
        self.readback: tuple[int, _Buffer, int] | None = None
        self.seed = 0
        self.first_pages = self._known_pages(inputs.steps)
        self.vvar = self.memory.pages(1) if inputs.arch == "arm64" else ()
        self.step = 0
        self.said: list[Prediction] = []
        self.crashed: KernelCrash | None = None
        self._sync()

    def _known_pages(self, steps: Iterable[Step]) -> dict[str, int]:
        """Where a buffer's first page lies, as far as the script's lines tell."""
        return {s.args[1]: s.phys for s in steps if s.verb == "wphys" and s.phys is not None}

    # -- running ----------------------------------------------------------------------------

    def run(self, steps: Iterable[Step]) -> list[Prediction]:
        """The predictions of every step, up to one that would stop the kernel."""
        for step in steps:
            self.step = step.number
            self.world.events.clear()
            try:
                self._verb(step)
            except KernelCrash as crash:
                self.crashed = crash
                self.say("crash", "crash", crash.function)
                break
            self._trace()
        return self.said

    def _probed(self, bdf: str, driver: str) -> None:
        if driver == "edulab":
            edulab(self, bdf)

    def edu_of(self, bdf: str) -> Edu:
        return self.edus[bdf]

    def say(self, kind: str, key: str, value: str, *, optional: bool = False) -> None:
        self.said.append(Prediction(self.step, kind, key, value, optional))

    def control(self, key: str, value: str) -> None:
        self.say("control", key, value)

    def status(self, key: str, run: Callable[[], object], form: str = "{}") -> bool:
        """Do something the kernel may refuse, and predict what iotest prints of it."""
        try:
            run()
        except OSError as error:
            self.control(key, form.format(errno_name(error)))
            return False
        finally:
            self._sync()
        self.control(key, form.format("OK"))
        return True

    def _sync(self) -> None:
        for name, value in self.pci.command.items():
            self.world.master[name] = bool(value & MASTER_ON)
        self.iommu.settle(self.world)

    def _trace(self) -> None:
        events = [t for e in self.world.events if (t := traced(e, self.world)) is not None]
        if events and self.inputs.traced:
            self.said.append(Prediction(self.step, "trace", "trace", tuple(events)))

    def _verb(self, step: Step) -> None:
        method = getattr(self, f"do_{step.verb}", None)
        if method is not None:
            method(step, *step.args)

    # -- names ------------------------------------------------------------------------------

    def do_note(self, step: Step, *words: str) -> None:
        """A remark in the script."""

    def do_buf(self, step: Step, name: str, count: str, *_: str) -> None:
        pages = self.memory.pages(number(count), self.first_pages.get(name))
        self.memory.fill(pages, FILL)
        # iotest looks a name up from the start, so the first buffer of a name is the one.
        self.buffers.setdefault(name, _Buffer(name, pages))

    def do_dev(self, step: Step, name: str, bdf: str, *_: str) -> None:
        self.devices.setdefault(name, _Device(bdf, self.edus.get(bdf)))

    # -- PCI --------------------------------------------------------------------------------

    def do_bar(self, step: Step, name: str) -> None:
        device = self.devices[name]
        ident = self.setup.bus.functions[device.bdf].id if device.bdf in self.pci.present else ""
        if ident not in FIRST_BAR:
            self.control("bar", "ENOENT")
        elif REGION0.get(ident, 0) < BAR_SIZE:
            self.control("bar", "EINVAL")
        else:
            device.bar = self.pci.places[device.bdf]
            self.control("bar", "OK")
        if device.bar is not None:
            self.control("edu id", EDU_ID if self._decodes(device) else NOBODY[self.inputs.arch])

    def _decodes(self, device: _Device) -> bool:
        """Does the device answer where sysfs mapped it? One that was removed still does."""
        if device.bar == UNMAPPED:
            raise KernelCrash(
                "kernfs_drain_open_files", "iotest's mapping of the BAR is gone: SIGBUS"
            )
        return self.pci.is_decoding(device.bdf) and device.bar == self.pci.places.get(device.bdf)

    def _answers(self, device: _Device) -> bool:
        """Do its registers answer? Not with memory decoding off, nor at an address it has left."""
        return self.pci.is_decoding(device.bdf) if device.vfio_bar else self._decodes(device)

    def do_cmd(self, step: Step, name: str, value: str) -> None:
        device = self.devices[name]
        wanted = number(value) & 0xFFFF
        if device.bdf not in self.pci.present:
            self.control("PCI_COMMAND", "rc=-1 now=0x0")
            return
        self.pci.write_command(device.bdf, wanted)
        self._sync()
        self.control("PCI_COMMAND", f"rc=0 now={self.pci.command[device.bdf]:#x}")

    def do_showcmd(self, step: Step, name: str) -> None:
        value = self.pci.command.get(self.devices[name].bdf, 0)
        memory, master = int(bool(value & MEMORY_ON)), int(bool(value & MASTER_ON))
        self.control("PCI_COMMAND", f"{value:#x} (mem={memory} master={master})")

    def do_remove(self, step: Step, name: str) -> None:
        self.status("remove", lambda: self._remove(self.devices[name].bdf))

    def _remove(self, bdf: str) -> None:
        gone = self.pci.remove(bdf)
        if self.world.release["pci.removed_bar"] == "unmapped":
            for device in self.devices.values():
                if device.bdf in gone and device.bar is not None:
                    device.bar = UNMAPPED

    def do_rescan(self, step: Step) -> None:
        self.status("rescan", self.pci.rescan)

    # -- kernel drivers ---------------------------------------------------------------------

    def do_unbind(self, step: Step, name: str) -> None:
        self.status("unbind", lambda: self.pci.unbind(self.devices[name].bdf, must=True))

    def do_bind(self, step: Step, name: str, driver: str) -> None:
        bdf = self.devices[name].bdf
        if bdf in self.pci.present:
            self.pci.overrides[bdf] = driver
        self.status(f"bind {driver}", lambda: self.pci.bind(bdf, driver))

    def do_probe(self, step: Step, name: str, driver: str = "") -> None:
        bdf = self.devices[name].bdf
        if bdf not in self.pci.present:
            self.control("probe", "ENODEV")
            return
        self.pci.overrides[bdf] = driver
        self.status("probe", lambda: self.pci.offer(bdf, strict=True))

    def do_insmod(self, step: Step, path: str) -> None:
        self.status(f"insmod {path}", lambda: self.pci.insmod(path))

    # -- sysfs ------------------------------------------------------------------------------

    def do_write(self, step: Step, path: str, text: str) -> None:
        write = self._writer(path, text)
        if write is not None:
            self.status(f"write {path} {text}", write)

    def _writer(self, path: str, text: str) -> Callable[[], object] | None:
        """What writing this file does, or None when the model does not know."""
        device = re.match(r"/sys/bus/pci/devices/([^/]+)/(.+)$", path)
        driver = re.match(r"/sys/bus/pci/drivers/([^/]+)/(bind|unbind)$", path)
        group = re.match(r"/sys/kernel/iommu_groups/(\d+)/type$", path)
        if path == "/sys/bus/pci/rescan":
            return self.pci.rescan
        parameter = re.match(r"/sys/module/(\w+)/parameters/(\w+)$", path)
        if parameter:
            return lambda: self._set_parameter(parameter[1], parameter[2], text)
        if group:
            return lambda: self._write_type(int(group[1]), text)
        if driver and driver[2] == "bind":
            return lambda: self.pci.bind(text, driver[1])
        if driver:
            return lambda: self.pci.unbind_from(text, driver[1])
        if path == "/sys/bus/pci/drivers_autoprobe":
            return lambda: setattr(self.pci, "autoprobe", text[:1] != "0")
        known = re.match(r"/sys/bus/pci/drivers/([^/]+)/(new_id|remove_id)$", path)
        if known:
            return lambda: self.pci.change_table(known[1], text)
        if path == "/sys/bus/pci/drivers_probe":
            return lambda: self.pci.offer(text, strict=True)
        if device:
            return self._device_writer(device[1], device[2], text)
        return None

    def _set_parameter(self, module: str, name: str, text: str) -> None:
        build = self.setup.build
        loaded = {"iommufd": build.iommufd, "vfio": build.noiommu}.get(module, build.vfio)
        kind = PARAMETERS.get((module, name)) if loaded else None
        if kind is None:
            raise refuse("ENOENT", f"{module} has no parameter {name}")
        if kind == "read-only":
            raise refuse("EACCES", f"{name} can only be read")
        if kind == "number":
            if not re.fullmatch(r"0x[0-9a-fA-F]+|[0-9]+", text) or number(text) > 2**32 - 1:
                raise refuse("EINVAL", f"{name} is a number of 32 bits, got {text}")
            self.vfio.entry_limit = number(text)
            return
        words = {"1": True, "y": True, "on": True, "0": False, "n": False, "of": False}
        if self.world.release["kstrtobool"] == "t too":
            words |= {"t": True, "f": False}
        said = words.get(text.lower()[: 2 if text[:1] in "oO" else 1])
        if said is None:
            raise refuse("EINVAL", f"{name} is on or off, got {text}")
        if (module, name) == ("vfio", "enable_unsafe_noiommu_mode"):
            self.vfio.noiommu = said
        elif module == "iommufd":
            self.iommufd_unsafe = said
            if self.iommufd is not None:
                self.iommufd.unsafe = said
        elif name == "allow_unsafe_interrupts":
            self.vfio.unsafe = said

    def _device_writer(self, bdf: str, file: str, text: str) -> Callable[[], object] | None:
        if file == "remove":
            return lambda: self._remove(bdf)
        if file == "rescan":
            return self.pci.rescan
        if file == "driver/unbind":
            return lambda: self.pci.unbind(bdf, must=True)
        if file == "driver_override":
            return lambda: self._override(bdf, text)
        if file == "iommu_group/type":
            return lambda: self._write_type(self._group_number(bdf), text)
        return None

    def _override(self, bdf: str, driver: str) -> None:
        if bdf not in self.pci.present:
            raise refuse("ENOENT", f"{bdf} is not there")
        self.pci.overrides[bdf] = driver

    def _group_number(self, bdf: str) -> int:
        at = self.world.devices.get(bdf)
        group = None if at is None else self.world.group_of(bdf)
        if group is None:
            raise refuse("ENOENT", f"{bdf} is in no group")
        return group.number

    def _write_type(self, number_: int, word: str) -> None:
        if number_ not in self.world.groups:
            raise refuse("ENOENT", f"there is no group {number_}")
        core.set_group_type(self.world, number_, word)

    def do_gtype(self, step: Step, name: str, word: str | None = None) -> None:
        bdf = self.devices[name].bdf

        def now() -> str:
            try:
                return core.group_type(self.world, self._group_number(bdf))
            except OSError as error:
                return f"<{errno_name(error)}>"

        self.control("group type", now())
        if word is None:
            return
        try:
            self._write_type(self._group_number(bdf), word)
            said = "OK"
        except OSError as error:
            said = errno_name(error)
        self._sync()
        self.control(f"set type {word}", f"{said} now={now()}")

    def do_groups(self, step: Step) -> None:
        grouped: set[str] = set()
        for number_, group in sorted(self.world.groups.items()):
            grouped |= set(group.devices)
            devices = ",".join(
                f"{d}({self.world.device(d).id},drv={self.pci.bound.get(d, '-')})"
                for d in sorted(group.devices)
            )
            told = group.devices if self.setup.active else ()
            regions = ";".join(
                f"{r.first:#018x} {r.last:#018x} {r.type.removesuffix('-sw')}"
                for r in self.world.reserved_of(told)
            )
            kind = core.group_type(self.world, number_)
            self.say("group", f"GROUP {number_}", f"type={kind} devices={devices} resv={regions}")
        for name in sorted(self.pci.present - grouped):
            self.say("group", f"NOGROUP {name}", "no group")

    # -- VFIO: groups and containers ---------------------------------------------------------

    def do_container(self, step: Step, name: str) -> None:
        there = self.setup.build.vfio
        self.containers[name] = Container() if there else None
        self.control("container fd", "OK" if there else "ENOENT")

    def do_group(self, step: Step, name: str, device: str) -> None:
        try:
            number_ = self._group_number(self.devices[device].bdf)
        except OSError:
            number_ = -1
        self.groups[name] = None
        try:
            self.groups[name] = self.vfio.open_group(number_)
            said = "OK"
        except OSError as error:
            said = errno_name(error)
        self.control("open group", f"{number_} {said}")

    def _group(self, name: str) -> OpenGroup:
        group = self.groups[name]
        if group is None:
            raise refuse("EBADF", f"group {name} is not open")
        return group

    def _container(self, name: str) -> Container:
        container = self.containers[name]
        if container is None:
            raise refuse("EBADF", f"container {name} is not open")
        return container

    def do_gstatus(self, step: Step, name: str) -> None:
        try:
            group = self._group(name)
            self.vfio.known(group)
        except OSError as error:
            self.control("group status", f"{errno_name(error)} flags=0x0 viable=0 container_set=0")
            return
        viable, held = int(self.vfio.viable(group)), int(group.container is not None)
        flags = viable | held << 1
        self.control("group status", f"OK flags={flags:#x} viable={viable} container_set={held}")

    def do_setcontainer(self, step: Step, name: str, container: str) -> None:
        self.status(
            "SET_CONTAINER",
            lambda: self.vfio.set_container(self._group(name), self._container(container)),
        )

    def do_unsetcontainer(self, step: Step, name: str) -> None:
        self.status("UNSET_CONTAINER", lambda: self.vfio.unset_container(self._group(name)))

    def do_setiommu(self, step: Step, name: str, kind: str) -> None:
        self.status(
            f"SET_IOMMU({kind})",
            lambda: self.vfio.set_iommu(self._container(name), number(kind)),
        )

    def do_ext(self, step: Step, name: str) -> None:
        names = {
            "TYPE1": TYPE1,
            "TYPE1v2": TYPE1V2,
            "DMA_CC": DMA_CC,
            "NESTING": NESTING,
            "NOIOMMU": NOIOMMU,
            "UNMAP_ALL": UNMAP_ALL,
            "UPDATE_VADDR": UPDATE_VADDR,
        }
        container = self.containers[name]
        for word, code in names.items():
            answer = -1 if container is None else self.vfio.check_extension(container, code)
            self.control(f"ext {word}", str(answer))

    def do_info(self, step: Step, name: str) -> None:
        try:
            info = self.vfio.info(self._container(name))
        except OSError as error:
            self.control("INFO", f"{errno_name(error)} flags=0x0 pgsizes=0x0")
            return
        self.control("INFO", f"OK flags=0x3 pgsizes={info.pgsizes:#x}")
        self.control("cap 2", "ver=1")
        self.control("cap 3", f"ver=1 dma_avail={info.available}")
        ranges = " ".join(f"[{first:#x}-{last:#x}]" for first, last in info.usable)
        self.control("cap 1", f"ver=1 {ranges}")

    def do_getdev(self, step: Step, name: str, device_name: str) -> None:
        device = self.devices[device_name]
        said = self.status(
            "GET_DEVICE_FD",
            lambda: self.vfio.get_device(self._group(name), device.bdf),
        )
        if not said:
            device.open_in = device.file = None
            return
        device.open_in, device.file = self._group(name), None
        if device.open_in.devices.count(device.bdf) == 1:
            self.pci.enable(device.bdf)
        self.pci.command[device.bdf] |= MEMORY_ON | MASTER_ON
        self._sync()
        ident = self.setup.bus.functions[device.bdf].id
        size = REGION0.get(ident, 0)
        device.vfio_bar = size > 0
        self.control("region0", f"OK size={size:#x} mmap={'OK' if size else 'EINVAL(22)'}")
        if size:
            self.control("edu id", FIRST_REGISTER[ident])

    def do_closedev(self, step: Step, name: str) -> None:
        device = self.devices[name]
        device.vfio_bar = False
        group, device.open_in = device.open_in, None
        if group is not None:
            if group.devices.count(device.bdf) == 1:
                self.pci.disable(device.bdf)
            self.status("close dev", lambda: self.vfio.close_device(group, device.bdf))
        elif device.file is not None:
            file, device.file = device.file, None
            if file.context is not None:
                self.pci.disable(device.bdf)
            self.status("close dev", lambda: self.vfio.close_file(file))

    def do_closegroup(self, step: Step, name: str) -> None:
        self.status("close group", lambda: self.vfio.close_group(self._group(name)))
        del self.groups[name]

    def do_closecontainer(self, step: Step, name: str) -> None:
        # Groups hold a reference of their own: what is attached stays until they leave.
        self.status("close container", lambda: self._container(name))
        del self.containers[name]

    # -- VFIO: mappings ----------------------------------------------------------------------

    def _pages_from(self, name: str, offset: int, prot: str) -> tuple[int, ...]:
        """The pages of the process from this place on: its buffers lie one above the other."""
        buffers = list(self.buffers.values())
        at = next(i for i, b in enumerate(buffers) if b.name == name)
        onwards = buffers[at].pages[offset // PAGE :]
        for above in reversed(buffers[:at]):
            onwards += above.pages
        # On arm64 the first page of the kernel's own ([vvar]) comes next, and may be read.
        return onwards + self.vvar if "w" not in prot and "r" in prot else onwards

    def do_map(
        self, step: Step, name: str, iova: str, size: str, prot: str, buffer: str, offset: str
    ) -> None:
        at = number(offset)
        pages = self._pages_from(buffer, at, prot)
        self._map(
            lambda: self.vfio.map_dma(
                self._container(name),
                number(iova),
                number(size),
                rights(prot),
                pages,
                at % PAGE,
            ),
        )

    def _map(self, run: Callable[[], object]) -> None:
        try:
            run()
            said = "OK"
        except OSError as error:
            said = errno_name(error)
        self._sync()
        self.say("map", "MAP", said)

    def do_unmap(self, step: Step, name: str, iova: str, size: str, word: str = "") -> None:
        self._unmapped(
            size,
            lambda: self.vfio.unmap_dma(
                self._container(name), number(iova), number(size), word == "all"
            ),
        )

    def _unmapped(self, size: str, unmap: Callable[[], int]) -> None:
        """Unmap; the answer is written back on success alone, else the size asked for stands."""
        try:
            said = f"OK unmapped={unmap():#x}"
        except OSError as error:
            said = f"{errno_name(error)} unmapped={number(size):#x}"
        self._sync()
        self.say("unmap", "UNMAP", said)

    # -- iommufd -----------------------------------------------------------------------------

    def do_iommufd(self, step: Step) -> None:
        self.iommufd = None
        if self.setup.build.iommufd:
            self.contexts += 1
            self.iommufd = Context(
                self.world,
                f"iommufd{self.contexts}",
                isolated=self.setup.isolated,
                unsafe=self.iommufd_unsafe,
            )
        self.control("open /dev/iommu", "OK" if self.iommufd is not None else "ENOENT")

    def do_closeiommufd(self, step: Step) -> None:
        self.status("close iommufd", lambda: self._context().close())
        self.iommufd = None

    def _context(self) -> Context:
        if self.iommufd is None:
            raise refuse("EBADF", "/dev/iommu is not open")
        return self.iommufd

    def _number_of(self, name: str) -> int:
        """An object's number by its name in the script; a number stands for itself."""
        try:
            return self.numbers[name] if name in self.numbers else number(name) & 0xFFFFFFFF
        except ValueError:
            return 0

    def _numbered(self, key: str, word: str, run: Callable[[], int], otherwise: int = 0) -> int:
        """A call that answers with an object's number, or leaves there what it found."""
        found = otherwise
        try:
            found = run()
            said = "OK"
        except OSError as error:
            said = errno_name(error)
        self._sync()
        self.control(key, f"{said} {word}={found}")
        return found

    def do_cdev(self, step: Step, name: str) -> None:
        device = self.devices[name]
        # iotest keeps one file a device: what was open before stays open and out of reach.
        device.file = device.open_in = None
        files = self.setup.build.iommufd and self.vfio.devices
        if files and device.bdf not in self.vfio.devices:
            # The name of the file is empty, and what is opened the folder that it would be in.
            self.control("open device", "EISDIR")
        elif not files:
            self.control("open device", "ENOENT")
        else:
            self.status("open device", lambda: self._open_file(device))

    def _open_file(self, device: _Device) -> None:
        device.file = self.vfio.open_file(device.bdf)

    def _file(self, device: _Device) -> DeviceFile:
        if device.file is None and device.open_in is not None:
            raise refuse("ENOTTY", f"the file of {device.bdf} came from its group")
        if device.file is None:
            raise refuse("EBADF", f"{device.bdf} has no open file")
        return device.file

    def do_fbind(self, step: Step, name: str) -> None:
        device = self.devices[name]
        device.bound_id = self._numbered("BIND_IOMMUFD", "devid", lambda: self._bind(device))

    def _bind(self, device: _Device) -> int:
        if device.open_in is not None:
            raise refuse("EINVAL", f"the file of {device.bdf} came from its group")
        file = self._file(device)
        if self.iommufd is None:
            raise refuse("EBADF" if self.contexts else "EINVAL", "/dev/iommu is not open")
        found = self.vfio.bind_file(file, self.iommufd)
        self.pci.enable(device.bdf)
        return found

    def do_ioas(self, step: Step, name: str) -> None:
        found = self._numbered("IOAS_ALLOC", "id", lambda: self._context().alloc_space())
        self.numbers.setdefault(name, found)

    def do_hwpt(self, step: Step, name: str, device: str, parent: str) -> None:
        bound, space = self.devices[device].bound_id, self._number_of(parent)
        found = self._numbered(
            "HWPT_ALLOC", "id", lambda: self._context().alloc_table(bound, space)
        )
        self.numbers.setdefault(name, found)

    def do_fdestroy(self, step: Step, name: str) -> None:
        found = self._number_of(name)
        self.status(f"DESTROY {name}", lambda: self._context().destroy(found))

    def do_fattach(self, step: Step, name: str, target: str) -> None:
        device, found = self.devices[name], self._number_of(target)
        self._numbered(
            "ATTACH_IOMMUFD_PT",
            "pt",
            lambda: self.vfio.attach_file(self._file(device), found),
            found,
        )

    def do_fdetach(self, step: Step, name: str) -> None:
        device = self.devices[name]
        self.status("DETACH_IOMMUFD_PT", lambda: self.vfio.detach_file(self._file(device)))

    def do_fmap(
        self, step: Step, name: str, iova: str, size: str, prot: str, buffer: str, offset: str
    ) -> None:
        at = number(offset)
        pages = self._pages_from(buffer, at, prot)
        self._map(
            lambda: self._context().map(
                self._number_of(name),
                number(iova),
                number(size),
                rights(prot),
                pages,
                at % PAGE,
            ),
        )

    def do_funmap(self, step: Step, name: str, iova: str, size: str) -> None:
        found = self._number_of(name)
        self._unmapped(size, lambda: self._context().unmap(found, number(iova), number(size)))

    # -- DMA ---------------------------------------------------------------------------------

    def _ready(self, device: _Device) -> int:
        """What edu_dma answers before it starts: 0, -1 without a BAR, -2 when it reads all ones.

        Where nobody answers with zeros, iotest takes the registers for a device's that is done.
        """
        if device.bar is None and not device.vfio_bar:
            return -1
        dead = not self._answers(device)
        return -2 if dead and NOBODY[self.inputs.arch] == "0xffffffff" else 0

    def _to_memory(self, device: _Device, iova: int, slot: int, length: int) -> int:
        code = self._ready(device)
        if code == 0 and device.edu is not None and self._answers(device):
            dmaapi.advance(self.world, Edu.DELAY_MS)
            device.edu.write_memory(self.world, self.iommu, self.memory, iova, slot, length)
        return code

    def _to_device(self, device: _Device, iova: int, slot: int, length: int) -> int:
        code = self._ready(device)
        if code == 0 and device.edu is not None and self._answers(device):
            dmaapi.advance(self.world, Edu.DELAY_MS)
            device.edu.read_memory(self.world, self.iommu, self.memory, iova, slot, length)
        return code

    def _look(self, buffer: _Buffer) -> list[int | None]:
        return [byte for page in buffer.pages for byte in self.memory.read(page, PAGE)]

    def _put(self, buffer: _Buffer, offset: int, data: Sequence[int | None]) -> None:
        done = 0
        while done < len(data):
            page, at = divmod(offset + done, PAGE)
            part = data[done : done + PAGE - at]
            if page < len(buffer.pages):
                self.memory.write(buffer.pages[page] + at, part)
            done += len(part)

    def do_w(
        self,
        step: Step,
        name: str,
        iova: str,
        size: str,
        buffer: str,
        offset: str,
        label: str = "-",
    ) -> None:
        self._write(name, number(iova), number(size), self.buffers[buffer], number(offset))

    def do_wphys(self, step: Step, name: str, buffer: str, size: str, label: str = "-") -> None:
        found = self.buffers[buffer]
        if step.phys is not None and step.phys != found.pages[0]:
            found.pages = (step.phys, *found.pages[1:])
        self._write(name, found.pages[0], number(size), found, 0)

    def _write(self, name: str, iova: int, size: int, buffer: _Buffer, offset: int) -> None:
        device = self.devices[name]
        self.memory.fill(buffer.pages, FILL)
        code = self._to_memory(device, iova, 0, size)
        self.say("result", "RESULT", self._seen_in(device, buffer, offset, size, code))

    def _seen_in(self, device: _Device, buffer: _Buffer, offset: int, size: int, code: int) -> str:
        bytes_ = self._look(buffer)
        classes, landed, changed = [], 0, 0
        for index in range(size):
            at = offset + index
            if not 0 <= at < len(bytes_):
                classes.append("x")
                continue
            got = bytes_[at]
            want = 0 if device.preloaded is None else pattern(index, device.preloaded)
            classes.append("W" if got == want else "." if got == FILL else "?")
            landed += got == want
            changed += got != FILL
        low, high = max(offset, 0), min(max(offset + size, 0), len(bytes_))
        outside = len(bytes_) - (high - low)
        strays = outside - bytes_[:low].count(FILL) - bytes_[high:].count(FILL)
        if code:
            outcome = "DMA-ERR"
        elif changed == size:
            outcome = "LANDED" if landed == size else "LANDED(other-data)"
        elif changed == 0:
            outcome = "ELSEWHERE" if strays else "BLOCKED"
        else:
            outcome = "PARTIAL"
        return f"{outcome} landed={changed}/{size} strays={strays} map={runs(classes)} rc={code}"

    def do_rb(self, step: Step, iova: str, buffer: str, offset: str) -> None:
        self.readback = number(iova), self.buffers[buffer], number(offset)

    def do_preload(self, step: Step, name: str, iova: str, buffer: str, offset: str) -> None:
        self._preload(name, number(iova), self.buffers[buffer], number(offset))

    def do_preloadphys(self, step: Step, name: str, buffer: str) -> None:
        found = self.buffers[buffer]
        self._preload(name, found.pages[0], found, 0)

    def _preload(self, name: str, iova: int, buffer: _Buffer, offset: int) -> None:
        device = self.devices[name]
        self.seed += 1
        self._put(buffer, offset, [pattern(i, self.seed) for i in range(1024)])
        code = self._to_device(device, iova, 0, 1024)
        device.preloaded = None if code else self.seed
        self.control("PRELOAD", f"rc={code}")

    def do_slotzero(self, step: Step, name: str) -> None:
        self.devices[name].preloaded = None

    def do_r(
        self,
        step: Step,
        name: str,
        iova: str,
        size: str,
        buffer: str,
        offset: str,
        label: str = "-",
    ) -> None:
        if self.readback is None:
            return
        device, length = self.devices[name], number(size)
        back_iova, back, back_offset = self.readback
        self._put(back, back_offset, [PRESET] * length)
        codes = [self._to_device(device, back_iova, READ_SLOT, length)]
        self.seed += 1
        source = self.buffers.get(buffer) if buffer != "-" else None
        if source is not None:
            self._put(source, number(offset), [pattern(i, self.seed) for i in range(length)])
        codes.append(self._to_device(device, number(iova), READ_SLOT, length))
        self._put(back, back_offset, [FILL] * length)
        codes.append(self._to_memory(device, back_iova, READ_SLOT, length))
        got = self._look(back)[back_offset : back_offset + length]
        letters = {0: "0", PRESET: "=", 0xFF: "F", FILL: "!"}
        classes = [
            "D"
            if source is not None and byte == pattern(i, self.seed)
            else letters.get(byte, "?")
            if byte is not None
            else "?"
            for i, byte in enumerate(got)
        ]
        data = classes.count("D")
        if any(codes):
            outcome = "DMA-ERR"
        elif data == length:
            outcome = "GOT_DATA"
        elif data:
            outcome = "PARTIAL"
        else:
            kinds = {"0": "zeros", "=": "unchanged"}
            only = classes[0] if len(set(classes)) == 1 else ""
            outcome = f"BLOCKED({kinds.get(only, 'other')})"
        rc = ",".join(map(str, codes))
        self.say("result", "RESULT", f"{outcome} got={data}/{length} map={runs(classes)} rc={rc}")

    def do_msi(self, step: Step, name: str, iova: str, value: str, label: str = "-") -> None:
        device = self.devices[name]
        if self.readback is None:
            return
        back_iova, back, back_offset = self.readback
        word = list(number(value).to_bytes(8, "little")[:4])
        self._put(back, back_offset, list(word))
        first = self._to_device(device, back_iova, MSI_SLOT, 4)
        second = -1 if self._ready(device) == -1 else 0
        if self._ready(device) == 0:
            self._to_memory(device, number(iova), MSI_SLOT, 4)
        self.say("result", "RESULT", f"MSI-WRITE rc={first},{second}")

    def do_sleep(self, step: Step, ms: str) -> None:
        dmaapi.advance(self.world, float(number(ms)))

    do_settle = do_sleep


def rights(word: str) -> int:
    """READ and WRITE as a script writes them: "rw", "r", "w" or "-"."""
    return (READ if "r" in word else 0) | (WRITE if "w" in word else 0)
