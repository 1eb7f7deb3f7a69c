"""PCI functions and their drivers: which are there, who drives them, and what sysfs makes of it.

iotest's scripts remove, rescan, bind and unbind by writing to sysfs. What the kernel does then
(drivers/base, drivers/pci, and the probes of the few drivers that a guest has) is here; what it
means to the IOMMU core is the core's business.

Where it stops: of a function's configuration space there is the command register, and of its
registers the place where they lie.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress

from .. import core, dmaapi
from ..domains import Domain
from ..errors import errno_name, refuse
from ..state import World
from ..vfio import Vfio
from . import topology
from .emulated import PAGE, Setup, appear

IO_ON, MEMORY_ON, MASTER_ON, NO_PIN = 1, 2, 4, 0x400
FIRMWARE_COMMAND = {"x86_64": 0x103, "arm64": 0, "s390x": 0}
"""PCI_COMMAND as the firmware leaves it: on a PC, I/O, memory and SERR are on."""
USED_BY_FIRMWARE = {"8086:2922"}
"""Functions that a PC's firmware looks for a disk on, which leaves them bus master."""
COMMAND_BITS = 0x507
MODULES = {"edulab": "edulab", "pci_stub": "pci-stub", "e1000": "e1000"}
"""The modules that a script may insert, and the drivers they bring."""
LOADED = ("vfio", "vfio_iommu_type1", "vfio-pci-core", "vfio-pci", "vfio_virqfd", "irqbypass")
DRIVES = {topology.EDU: ("edulab",), topology.E1000: ("e1000",)}
ENABLES_MASTER = ("edulab", "e1000")
ENABLE_NOTHING = ("vfio-pci", "pci-stub")
TAKE_MESSAGES = ("pcieport", "shpchp")
"""Drivers whose interrupts are messages, so that the device's pin is switched off."""
DOORBELL = 0x809_0000
"""Where QEMU's virt board has the translater of messages."""

Place = tuple[str, int]
"""Where a device's registers are: the bus's window, and a number in it, below zero by firmware."""


class Pci:
    """The PCI bus of one kernel; a refusal is an ``OSError`` with the errno that sysfs answers.

    ``settle`` is called when a command register has changed before others look on, ``probed`` with
    a function and the driver that took it.
    """

    def __init__(
        self,
        setup: Setup,
        world: World,
        vfio: Vfio,
        *,
        settle: Callable[[], None],
        probed: Callable[[str, str], None],
    ) -> None:
        self.setup, self.world, self.vfio = setup, world, vfio
        self._settle, self._probed = settle, probed
        self.autoprobe = True
        """Are new devices and new drivers brought together by themselves?"""
        self.command = {
            f.name: FIRMWARE_COMMAND[setup.kernel.arch]
            | (MASTER_ON if f.id in USED_BY_FIRMWARE else 0)
            for f in setup.bus.functions.values()
        }
        self.saved: dict[str, int] = {}
        self.overrides: dict[str, str] = {}
        self.drivers = {"vfio-pci"} if setup.build.vfio else set()
        if setup.build.iommufd:
            self.drivers.add("pci-stub")
        self.drivers |= {f.driver for f in setup.bus.functions.values() if f.driver}
        if setup.build.shpc:
            self.drivers.add("shpchp")
        self.present = set(setup.bus.functions)
        self.places: dict[str, Place] = {}
        for number_, function in enumerate(setup.bus.functions.values()):
            if setup.kernel.arch == "arm64":
                self._assign(function.name)
            else:
                self.places[function.name] = function.behind, -1 - number_
        self.bound: dict[str, str] = {
            f.name: f.driver for f in setup.bus if f.driver and f.name not in setup.waiting
        }
        """The kernel driver of each function, also of those that the IOMMU does not know."""
        for name, driver in self.bound.items():
            self._switch_on(name, driver)
        for function in setup.bus:
            tried = setup.build.shpc and function.name not in setup.waiting
            if tried and function.id == topology.HOT_PLUG_BRIDGE and setup.kernel.arch == "x86_64":
                # Its driver looks at it, and finds that firmware keeps it.
                self.command[function.name] |= MASTER_ON

    def write_command(self, bdf: str, value: int) -> None:
        """What is written to PCI_COMMAND sticks as far as the function has the bits."""
        self.command[bdf] = value & COMMAND_BITS

    def unbind(self, bdf: str, *, must: bool) -> None:
        """Take the driver away, if there is one; ``must`` there be (ENOENT)?"""
        driver = self.bound.get(bdf)
        if driver is None:
            if must:
                raise refuse("ENOENT", f"{bdf} has no driver")
            return
        if driver == "vfio-pci" and bdf in self.vfio.devices:
            self.vfio.unregister(bdf)
        if driver in (*ENABLES_MASTER, *TAKE_MESSAGES):
            # shpchp gives up its interrupt, and leaves the bridge switched on.
            self.command[bdf] &= ~(NO_PIN if driver == "shpchp" else MASTER_ON | NO_PIN)
        if bdf in self.world.devices:
            core.unbind(self.world, bdf)
        del self.bound[bdf]

    def bind(self, bdf: str, driver: str) -> None:
        """The driver's ``bind`` file (bind_store in drivers/base/bus.c)."""
        if driver not in self.drivers:
            raise refuse("ENOENT", f"there is no driver {driver}")
        old = self.world.release["bind.probe_error"] == "ENODEV"
        if bdf not in self.present:
            raise refuse("ENODEV", f"{bdf} is not there")
        if bdf in self.bound:
            raise refuse("ENODEV" if old else "EBUSY", f"{bdf} has a driver")
        if not self._matches(bdf, driver):
            raise refuse("ENODEV", f"{driver} does not drive {bdf}")
        try:
            self._probe(bdf, driver)
        except OSError as error:
            said = errno_name(error).replace("EPROBE_DEFER", "EAGAIN")
            raise refuse("ENODEV" if old else said, str(error)) from None

    def unbind_from(self, bdf: str, driver: str) -> None:
        """The driver's ``unbind`` file, which knows its own devices alone (unbind_store)."""
        if driver not in self.drivers:
            raise refuse("ENOENT", f"there is no driver {driver}")
        if self.bound.get(bdf) != driver:
            raise refuse("ENODEV", f"{bdf} is not bound to {driver}")
        self.unbind(bdf, must=True)

    def _matching(self, bdf: str) -> tuple[str, ...]:
        """The drivers that have this function in their tables."""
        function = self.setup.bus.functions[bdf]
        if function.driver:
            return (function.driver,)
        return ("shpchp",) if function.bridge else DRIVES.get(function.id, ())

    def _matches(self, bdf: str, driver: str) -> bool:
        """``pci_match_device``: an override is for its driver alone, and then for any device."""
        override = self.overrides.get(bdf, "")
        return override == driver if override else driver in self._matching(bdf)

    def _known(self, bdf: str) -> bool:
        """Does the IOMMU core know of this function?"""
        return bdf in self.world.devices and self.world.devices[bdf].present

    def _probe(self, bdf: str, driver: str) -> None:
        """``really_probe``: DMA set-up, then the driver's own probe; a failure undoes both."""
        function = self.setup.bus.functions[bdf]
        if bdf in self.setup.waiting:
            raise refuse("EPROBE_DEFER", f"the IOMMU of {bdf} is not there yet")
        if self.setup.active and function.translated and not self._known(bdf):
            # Without its IOMMU the device carries on (of_dma_configure_id).
            with suppress(OSError):
                appear(self.world, self.setup, function)
        known = self._known(bdf)
        if known:
            core.bind(self.world, bdf, driver)
        try:
            if driver == "vfio-pci":
                if function.bridge:
                    raise refuse("EINVAL", f"{bdf} is a bridge")
                if not known:
                    raise refuse("EINVAL", f"{bdf} has no IOMMU group that VFIO can use")
                self.vfio.register(bdf)
            elif driver == "shpchp" and driver != function.driver:
                raise refuse("ENODEV", f"firmware keeps the hot-plug controller of {bdf}")
            elif driver != "pci-stub" and driver not in self._matching(bdf):
                # Its probe has switched the device on before it looks, and off again.
                self.command[bdf] = self.command[bdf] & ~MASTER_ON | MEMORY_ON
                raise refuse("EIO", f"{driver} finds that {bdf} is not its kind of device")
        except OSError:
            if known:
                core.unbind(self.world, bdf)
            raise
        self.bound[bdf] = driver
        self._switch_on(bdf, driver)
        self._settle()
        if known:
            self.vfio.driver_bound(bdf, driver)
        self._probed(bdf, driver)

    def _switch_on(self, bdf: str, driver: str) -> None:
        """What a driver's probe does to its device (pci_enable_device, pci_set_master, MSI)."""
        function = self.setup.bus.functions[bdf]
        if driver in ENABLES_MASTER:
            self.command[bdf] |= MASTER_ON | MEMORY_ON
        elif driver in TAKE_MESSAGES:
            bare = self.setup.kernel.arch == "arm64" and function.id == topology.HOT_PLUG_BRIDGE
            self.command[bdf] |= MEMORY_ON if bare else MEMORY_ON | IO_ON
            silent = self.world.release["pcieport.upstream"] == "no service"
            if not (silent and function.express == "upstream"):
                self.command[bdf] |= MASTER_ON | NO_PIN
                self._map_doorbell(bdf)
        elif driver not in ENABLE_NOTHING:
            self.command[bdf] |= MASTER_ON
        if driver not in ENABLE_NOTHING:
            self._switch_bridges_on(function)

    def _switch_bridges_on(self, function: topology.Function) -> None:
        """``pci_enable_bridge``: whoever switches a device on switches on the way to it."""
        for bridge in self.setup.bus.path(function):
            self.command[bridge.name] |= MASTER_ON | MEMORY_ON

    def _map_doorbell(self, bdf: str) -> None:
        """A translated message needs its doorbell mapped, once a domain (iommu_dma_prepare_msi)."""
        software = self.setup.profile.driver == "arm-smmu-v3" and self._known(bdf)
        where = dmaapi.backing(self.world, bdf) if software else None
        if not isinstance(where, Domain):
            return
        table = self.world.table(where.table)
        if all(run.paddr != DOORBELL for run in table):
            dmaapi.dma_map(self.world, bdf, DOORBELL, PAGE, "from_device")

    def offer(self, bdf: str, *, strict: bool = False) -> None:
        """``device_attach``: the first driver that matches gets the device.

        A refusal of the IOMMU core is EINVAL for the writer of ``drivers_probe``; a driver's own is
        not told (bus_rescan_devices_helper, __device_attach_driver).
        """
        if bdf not in self.present:
            raise refuse("ENODEV", f"{bdf} is not there")
        if bdf in self.bound:
            return
        override = self.overrides.get(bdf, "")
        wanted = (override,) if override else self._matching(bdf)
        for driver in wanted:
            if driver not in self.drivers:
                continue
            try:
                self._probe(bdf, driver)
            except OSError as error:
                if strict and errno_name(error) in ("EBUSY", "EPROBE_DEFER"):
                    raise refuse("EINVAL", str(error)) from None
            return

    def insmod(self, path: str) -> None:
        found = re.match(r"/mods/([\w-]+)\.ko$", path)
        module = found[1] if found else ""
        if self.setup.build.iommufd:
            # A kernel with everything built in has no modules: the file is not there.
            raise refuse("EBADF", f"{path} does not exist")
        if module.replace("-", "_") in {m.replace("-", "_") for m in LOADED}:
            raise refuse("EEXIST", f"{module} is loaded already")
        driver = MODULES.get(module.replace("-", "_"))
        if driver is None:
            raise refuse("EBADF", f"{path} does not exist")
        if driver in self.drivers:
            raise refuse("EEXIST", f"{module} is loaded already")
        self.drivers.add(driver)
        for function in self.setup.bus if self.autoprobe else ():
            free = function.name in self.present and function.name not in self.bound
            if free and self._matches(function.name, driver):
                with suppress(OSError):
                    self._probe(function.name, driver)

    def change_table(self, driver: str, text: str) -> None:
        """``new_id`` and ``remove_id`` want a vendor and a device, and a script has one word."""
        missing = driver not in self.drivers
        raise refuse("ENOENT" if missing else "EINVAL", f"{driver} takes no {text}")

    def remove(self, bdf: str) -> list[str]:
        """The function's ``remove`` file; what was behind it goes first. Says what has gone."""
        if bdf not in self.present:
            raise refuse("ENOENT", f"{bdf} is not there")
        behind = [f.name for f in self.setup.bus if f.behind == bdf and f.name in self.present]
        for name in (*reversed(behind), bdf):
            self.unbind(name, must=False)
        gone = [name for function in behind for name in self.remove(function)]
        if bdf in self.world.devices and self.world.devices[bdf].present:
            core.remove(self.world, bdf)
        self.present.discard(bdf)
        self.overrides.pop(bdf, None)
        return [*gone, bdf]

    def rescan(self) -> None:
        for function in self.setup.bus.functions.values():
            if function.name in self.present:
                continue
            self.present.add(function.name)
            if self.setup.build.extended:
                self.setup.bus.added_late.add(function.name)
            self._assign(function.name)
            late = function.name in self.setup.late
            if function.translated and self.setup.active and not late:
                with suppress(OSError):
                    appear(self.world, self.setup, function)
            if self.autoprobe or self.world.release["pci.autoprobe"] == "for drivers alone":
                self.offer(function.name)

    def _assign(self, bdf: str) -> None:
        """The kernel's place for a function's registers: the lowest in its bus's window."""
        window = self.setup.bus.functions[bdf].behind
        used = {p for d, p in self.places.items() if d in self.present and d != bdf}
        number_ = next(n for n in range(len(used) + 1) if (window, n) not in used)
        self.places[bdf] = window, number_

    def is_decoding(self, bdf: str) -> bool:
        """Is memory decoding on, in the function and in each bridge on the way to it?"""
        function = self.setup.bus.functions.get(bdf)
        way = [] if function is None else [function, *self.setup.bus.path(function)]
        return bool(way) and all(self.command[f.name] & MEMORY_ON for f in way)

    def enable(self, bdf: str) -> None:
        """``vfio_pci_core_enable``: a close restores PCI_COMMAND without bus mastering."""
        self._switch_bridges_on(self.setup.bus.functions[bdf])
        self.command[bdf] = self.command[bdf] & ~MASTER_ON | MEMORY_ON
        self.saved[bdf] = self.command[bdf]

    def disable(self, bdf: str) -> None:
        """``vfio_pci_core_disable``: bus mastering goes, the rest is as it was on open."""
        self.command[bdf] = self.saved.pop(bdf, self.command[bdf]) & ~MASTER_ON
