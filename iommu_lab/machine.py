"""The machine: which devices exist, which share a group, and who owns the memory.

A machine does not change while verbs run; what changes is in :mod:`iommu_lab.state`. It can be made
by hand, or read from a real system's ``/sys/kernel/iommu_groups`` or from a listing of one.

Where the model stops: PCI topology is given as the groups that the kernel made of it, except in
:mod:`iommu_lab.captures`, which knows the topologies of the emulated machines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from .datafiles import datafile
from .domains import DomainType
from .hardware import TOP

RESERVED_TYPES = ("direct", "direct-relaxable", "reserved", "msi", "msi-sw")
X86_INTERRUPTS = (0xFEE0_0000, 0xFEEF_FFFF)


class Region(NamedTuple):
    """Physical memory from ``first`` to ``last`` (inclusive), and whose it is."""

    first: int
    last: int
    owner: str


class Reserved(NamedTuple):
    """A reserved IOVA region, ``first`` to ``last`` inclusive (iommu_get_resv_regions).

    ``type`` is one of direct, direct-relaxable, reserved, msi, msi-sw; sysfs prints both MSI kinds
    as "msi". A driver that can't report a type in some release leaves the core without it.
    """

    first: int
    last: int
    type: str


@dataclass(frozen=True, slots=True)
class Device:
    """One device as the bus presents it.

    ``requires`` is the domain type that its IOMMU driver asks for (``def_domain_type``);
    ``powered`` says whether its IOMMU is runtime-active, which some drivers look at.
    """

    name: str
    group: int = 0
    id: str = ""
    pci: bool = True
    untrusted: bool = False
    requires: DomainType | None = None
    powered: bool = True
    infra: bool = False
    """Behind MediaTek's infra M4U, whose enable bits are registers and not a copy in memory."""
    reserved: tuple[Reserved, ...] = ()
    master_at_boot: bool = True
    deferred: bool = False
    """Left translated by a kernel that crashed; only kdump kernels meet this."""
    listed: bool = False
    """Firmware lists it by its address as its IOMMU's (a VT-d unit's device scope)."""
    managed_by: str = ""
    """A kernel driver that is bound at boot and never leaves, as ``pcieport``."""


MEMORY = (
    Region(0x0000_0000, 0x3FFF_FFFF, "kernel"),
    Region(0x4000_0000, 0x7FFF_FFFF, "another VM"),
    Region(0x8000_0000, 0x8FFF_FFFF, "driver buffer"),
    Region(0x9000_0000, 0xBFFF_FFFF, "user process"),
    Region(0x1_0000_0000, 0x1_3FFF_FFFF, "another VM"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Devices with their groups, the physical memory map, and the bus's own limits.

    >>> Machine().devices[0].name, Machine().owner_at(0x4000_0000)
    ('dev0', 'another VM')
    """

    devices: tuple[Device, ...] = (Device("dev0"),)
    memory: tuple[Region, ...] = MEMORY
    msi: tuple[tuple[int, int], ...] = ()
    width: int = 64
    caching_mode: bool = False
    """An emulated IOMMU that caches misses (VT-d's CM, AMD's NpCache): lazy unmap is then off.

    AMD's driver of 5.10 alone stays lazy: see the rule ``amd.np_cache``.
    """
    no_iommu: tuple[str, ...] = ()
    """Devices behind a host bridge that bypasses the IOMMU: they are in no group."""
    windows: tuple[tuple[int, int], ...] = field(default=())
    """PCI host bridge windows, which dma-iommu keeps out of its own address space."""

    def __post_init__(self) -> None:
        names = [d.name for d in self.devices]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"device names must differ, got {name!r} twice")
        for region in self.memory:
            if not 0 <= region.first <= region.last <= TOP:
                raise ValueError(
                    f"a memory region needs 0 <= first <= last < 2**64, got {region.owner!r} "
                    f"first={region.first:#x}, last={region.last:#x}"
                )
        for low, high in pairwise(self.memory):
            if high.first <= low.last:
                raise ValueError(
                    f"memory regions must be in order and apart: {high.owner!r} starts at "
                    f"{high.first:#x}, before {low.owner!r} ends"
                )
        for device in self.devices:
            for region_ in device.reserved:
                if region_.type not in RESERVED_TYPES:
                    raise ValueError(
                        f"a reserved region is one of {', '.join(RESERVED_TYPES)}, "
                        f"got {region_.type!r} for {device.name}"
                    )

    @property
    def groups(self) -> dict[int, tuple[Device, ...]]:
        """The devices of each group, in the order they were added."""
        found: dict[int, list[Device]] = {}
        for device in self.devices:
            if device.name not in self.no_iommu:
                found.setdefault(device.group, []).append(device)
        return {number: tuple(devices) for number, devices in found.items()}

    def device(self, name: str) -> Device:
        return next(d for d in self.devices if d.name == name)

    def owner_at(self, paddr: int) -> str:
        """Whose memory is at this physical address; "nobody" outside the map."""
        return next((r.owner for r in self.memory if r.first <= paddr <= r.last), "nobody")

    def having(self, *names: str, group: int | None = None) -> Machine:
        """The same machine with other devices: all in one ``group``, or one group each.

        >>> [d.group for d in Machine().having("nic", "gpu").devices]
        [0, 1]
        """
        devices = tuple(
            Device(name, number if group is None else group) for number, name in enumerate(names)
        )
        return replace(self, devices=devices)

    @classmethod
    def default(cls, arch: str = "x86_64", driver: str = "intel") -> Machine:
        """A PC as Linux 6.1 grouped it: eight devices, four groups (data/groups/SOURCE.md).

        Under another ``arch`` or ``driver`` the layout is kept and what was reserved for their
        sake is left out: the x86 interrupt window, and the ISA bridge's region that
        intel_iommu_get_resv_regions adds.

        >>> {n: len(devices) for n, devices in Machine.default().groups.items()}
        {0: 1, 1: 1, 2: 3, 3: 3}
        """
        machine = cls.from_listing(datafile("groups", "q35-6.1.txt").read_text(encoding="utf-8"))
        kept = {"msi"} if arch == "x86_64" else set()
        if driver == "intel":
            kept.add("direct-relaxable")
        devices = tuple(
            replace(d, reserved=tuple(r for r in d.reserved if r.type in kept))
            for d in machine.devices
        )
        return replace(machine, devices=devices, msi=machine.msi if "msi" in kept else ())

    @classmethod
    def from_sysfs(cls, path: str | Path = "/sys/kernel/iommu_groups") -> Machine:
        """The groups of a real machine, from sysfs or from a copy of that tree.

        Raises ``FileNotFoundError`` when the path is not there and ``ValueError`` when it holds no
        group. Layout: iommu_group_create_file and iommu_group_show_resv_regions in
        drivers/iommu/iommu.c (5.10 to 7.2).
        """
        root = Path(path)
        if not root.is_dir():
            raise FileNotFoundError(f"no such folder of IOMMU groups: {root}")
        devices: list[Device] = []
        for folder in sorted((p for p in root.iterdir() if p.name.isdigit()), key=_number):
            regions = folder / "reserved_regions"
            lines = regions.read_text().splitlines() if regions.is_file() else []
            reserved = tuple(_reserved(line, str(regions)) for line in lines if line.strip())
            devices += [
                Device(
                    entry.name,
                    int(folder.name),
                    _device_id(entry),
                    pci=_is_bdf(entry.name),
                    reserved=reserved,
                )
                for entry in sorted((folder / "devices").iterdir())
            ]
        return cls._read(devices, str(root))

    @classmethod
    def from_listing(cls, text: str) -> Machine:
        """The groups of a real machine from ``GROUP`` lines, as transcripts have them.

        Other lines are passed over. A line reads ``GROUP 1 type=DMA
        devices=0000:00:03.0(1234:11e8,drv=-) resv=0x… 0x… msi;…``.
        """
        devices: dict[str, Device] = {}
        for line in text.splitlines():
            found = re.match(r"GROUP (\d+) type=(\S+) devices=(\S*)(?: resv=(.*))?$", line.strip())
            if not found:
                continue
            reserved = tuple(_reserved(r, line) for r in (found[4] or "").split(";") if r.strip())
            for name, ident, driver in re.findall(r"([^,(]+)\(([^,]*),drv=([^)]*)\)", found[3]):
                devices[name] = Device(
                    name,
                    int(found[1]),
                    ident,
                    pci=_is_bdf(name),
                    reserved=reserved,
                    managed_by="" if driver == "-" else driver,
                )
        return cls._read(list(devices.values()), "the listing")

    @classmethod
    def _read(cls, devices: list[Device], source: str) -> Machine:
        if not devices:
            raise ValueError(f"no IOMMU group with a device in {source}")
        windows = {(r.first, r.last) for d in devices for r in d.reserved if r.type == "msi"}
        return cls(devices=tuple(devices), msi=tuple(sorted(windows & {X86_INTERRUPTS})))


def _number(path: Path) -> int:
    return int(path.name)


def _is_bdf(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", name) is not None


def _device_id(entry: Path) -> str:
    try:
        return ":".join(
            (entry / part).read_text().strip().removeprefix("0x") for part in ("vendor", "device")
        )
    except OSError:
        return ""


def _reserved(line: str, where: str) -> Reserved:
    try:
        first, last, kind = line.split()
        return Reserved(int(first, 16), int(last, 16), kind)
    except ValueError:
        raise ValueError(
            f"a reserved region is 'first last type', got {line.strip()!r} in {where}"
        ) from None


def merged(regions: Iterable[Reserved]) -> tuple[Reserved, ...]:
    """A group's reserved regions, from those of its devices: sorted, equal ones once.

    iommu_insert_resv_region (drivers/iommu/iommu.c) merges overlapping regions of one type.
    """
    found: list[Reserved] = []
    for region in sorted(set(regions)):
        for i, other in enumerate(found):
            if (
                other.type == region.type
                and region.first <= other.last
                and other.first <= region.last
            ):
                found[i] = Reserved(
                    min(other.first, region.first), max(other.last, region.last), region.type
                )
                break
        else:
            found.append(region)
    return tuple(sorted(found))
