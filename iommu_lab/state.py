"""States: the whole situation at one moment, and the workbench on which a verb makes the next.

A :class:`State` is a frozen value and holds belief and hardware side by side, each in its own
fields. A verb takes a :class:`World` made from a state, changes it step by step as the kernel
would, and freezes it again. When the kernel refuses half-way, the world is frozen as it stands,
since that is what the kernel leaves behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from .domains import Domain
from .drivers import Driver
from .hardware import Entry, Frozen, Hardware
from .machine import Device, Machine, Reserved, merged
from .releases import Release
from .tables import EMPTY, PageTable


@dataclass(frozen=True)
class Kernel:
    """What stays fixed while verbs run: release, IOMMU driver, machine and boot line."""

    release: Release
    driver: Driver
    machine: Machine
    arch: str
    cmdline: str = ""
    passthrough: bool = False
    """Is the global default type IDENTITY (``iommu.passthrough=1``, ``iommu=pt``)?"""
    strict: bool = False
    """Is the IOTLB flushed before an unmapped address is given back?"""
    disable_bypass: bool = True
    """The SMMU drivers' module parameter: a stream without a domain is stopped."""
    device_bypass: bool = True
    """Does a virtio IOMMU let an endpoint without a domain through?"""


@dataclass(frozen=True, slots=True)
class Group:
    """``struct iommu_group``: what the core believes about devices that it can't tell apart.

    ``domain`` is the domain the core thinks is attached; None is the NULL domain of releases up to
    6.6, whose meaning only the driver knows.
    """

    number: int
    devices: tuple[str, ...]
    default: str | None = None
    blocking: str | None = None
    domain: str | None = None
    owner: str | None = None
    owner_cnt: int = 0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One device: whether it is there, which kernel driver is bound, and its deferred flag."""

    group: int
    driver: str | None = None
    present: bool = True
    deferred: bool = False
    attached: str | None = None
    """The domain that the IOMMU driver has on record for it, whatever the core believes."""


@dataclass(frozen=True, slots=True)
class Iovas:
    """The addresses that a DMA API has handed out of one address space."""

    used: tuple[tuple[int, int], ...] = ()
    """(first, bytes), sorted."""
    queued: tuple[tuple[int, int], ...] = ()
    """Unmapped and waiting for the IOTLB to be flushed: (first, bytes), in order."""
    flush_ms: float | None = None
    """When the flush queue's timer fires, if it is running."""
    next: int = 0
    """Where a platform's allocator looks first."""


@dataclass(frozen=True)
class State:
    """Belief (groups, devices, domains) and truth (hardware) at one moment."""

    groups: Frozen[int, Group] = field(default_factory=Frozen)
    devices: Frozen[str, DeviceState] = field(default_factory=Frozen)
    domains: Frozen[str, Domain] = field(default_factory=Frozen)
    hardware: Hardware = field(default_factory=Hardware)
    notes: Frozen[str, Any] = field(default_factory=Frozen)
    """What the IOMMU driver keeps for itself: shared tables, active domains, pending registers."""
    iovas: Frozen[str, Iovas] = field(default_factory=Frozen)
    failing: Frozen[str, str] = field(default_factory=Frozen)
    """Devices whose next attach is made to fail, with the errno."""
    now_ms: float = 0.0

    def part(self, name: str) -> Any:
        """One of :data:`PARTS`: a field of the state, or of its hardware."""
        return getattr(self.hardware if name in HARDWARE_PARTS else self, name)

    def having(self, parts: Mapping[str, Any]) -> State:
        """The same state with these parts in place of its own."""
        hardware = {name: parts[name] for name in HARDWARE_PARTS if name in parts}
        others = {name: part for name, part in parts.items() if name not in hardware}
        if hardware:
            others["hardware"] = replace(self.hardware, **hardware)
        return replace(self, **others)


HARDWARE_PARTS = ("entries", "tables", "master")
PARTS = ("groups", "devices", "domains", *HARDWARE_PARTS, "notes", "iovas", "failing", "now_ms")
"""What a state is made of, piece by piece, as a :class:`World` takes it apart."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: a trace event of the kernel, a warning, a refusal, a crash.

    ``kind`` is "trace", "warn", "errno", "crash", "hardware", "driver" or "note"; ``name`` is the
    kernel's own name for a trace event and the function for a warning or a crash.
    """

    kind: str
    name: str
    device: str = ""
    domain: str = ""
    iova: int | None = None
    size: int | None = None
    paddr: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Has:
    """A question about one thing of a state: is this value in one of its fields, or it itself?"""

    value: object
    fields: tuple[str, ...] = ()

    def __call__(self, thing: object) -> bool:
        """The answer; False for None, which stands for a thing that is not there."""
        if thing is None or not self.fields:
            return thing is not None and thing == self.value
        return any(getattr(thing, name) == self.value for name in self.fields)


class World:
    """The workbench of one verb: a state taken apart, to be changed and frozen again.

    A part is taken apart when it is first touched.
    """

    groups: dict[int, Group]
    devices: dict[str, DeviceState]
    domains: dict[str, Domain]
    entries: dict[str, Entry]
    tables: dict[str, PageTable]
    master: dict[str, bool]
    notes: dict[str, Any]
    iovas: dict[str, Iovas]
    failing: dict[str, str]
    now_ms: float

    def __init__(self, kernel: Kernel, state: State) -> None:
        self.kernel = kernel
        self.events: list[Event] = []
        self.programmed: list[tuple[str, Entry]] = []
        self._was = state

    def __getattr__(self, name: str) -> Any:
        if name not in PARTS:
            raise AttributeError(f"a world has no {name!r}")
        part = self._was.part(name)
        mine = dict(part) if isinstance(part, Frozen) else part
        self.__dict__[name] = mine
        return mine

    def hardware_of(self, device: str) -> Hardware:
        """What there is on the workbench for this device's DMA to go through, and nothing else."""
        entry = self.entries[device]
        table = None if entry.table is None else self.tables.get(entry.table)
        return Hardware(
            Frozen({device: entry}),
            Frozen({} if table is None else {str(entry.table): table}),
            msi=self.kernel.machine.msi,
            width=self.kernel.machine.width,
        )

    def changes(self) -> dict[str, Any]:
        """The parts that are different now, frozen."""
        found: dict[str, Any] = {}
        for name in PARTS:
            if name in self.__dict__:
                was, now = self._was.part(name), self.__dict__[name]
                if was != now:
                    found[name] = Frozen(now) if isinstance(now, dict) else now
        return found

    def freeze(self) -> State:
        """The state as it stands now; parts that did not change stay the same objects."""
        changes = self.changes()
        return self._was.having(changes) if changes else self._was

    # -- looking things up ------------------------------------------------------------------

    @property
    def release(self) -> Release:
        return self.kernel.release

    @property
    def driver(self) -> Driver:
        return self.kernel.driver

    def device(self, name: str) -> Device:
        return self.kernel.machine.device(name)

    def reserved(self, device: str) -> tuple[Reserved, ...]:
        """``iommu_get_resv_regions``: the regions that the driver can tell the core of."""
        regions = self.device(device).reserved
        return tuple(r for r in regions if r.type in self.driver.reports)

    def reserved_of(self, devices: Iterable[str]) -> tuple[Reserved, ...]:
        """``iommu_get_group_resv_regions``: those of all these devices, merged."""
        return merged(region for device in devices for region in self.reserved(device))

    def locked(self, device: str) -> bool:
        """Does firmware need a direct region of this device, as far as the core is told?"""
        return any(region.type == "direct" for region in self.reserved(device))

    def group_of(self, device: str) -> Group | None:
        """The group a present device is in; None for a device that no IOMMU driver took."""
        at = self.devices[device]
        group = self.groups.get(at.group)
        return group if group is not None and device in group.devices else None

    def attached(self, group: Group) -> Domain | None:
        return None if group.domain is None else self.domains[group.domain]

    def where(self, part: str, value: object, *fields: str) -> list[Any]:
        """The names of a part's things that have this value in one of these fields.

        Without fields: those that are this value. A search can remember the answer of this, where
        it would have to remember every field that a loop came by.
        """
        has = Has(value, fields)
        return [name for name, thing in getattr(self, part).items() if has(thing)]

    # -- changing things --------------------------------------------------------------------

    def set_group(self, number: int, **changes: Any) -> Group:
        self.groups[number] = replace(self.groups[number], **changes)
        return self.groups[number]

    def set_device(self, name: str, **changes: Any) -> None:
        self.devices[name] = replace(self.devices[name], **changes)

    def set_domain(self, name: str, **changes: Any) -> Domain:
        self.domains[name] = replace(self.domains[name], **changes)
        return self.domains[name]

    def drop(self, part: str, name: str) -> None:
        """Take a thing of a part away if it is there, whatever it is."""
        things = getattr(self, part)
        if name in things:
            del things[name]

    def table(self, name: str | None) -> PageTable:
        return EMPTY if name is None else self.tables.get(name, EMPTY)

    def program(self, device: str, entry: Entry) -> None:
        """Write one device's translation entry; every write is an event, in order.

        An IOMMU with a single translation for all its devices switches them all.
        """
        for name in self.switched_with(device):
            if self.entries.get(name) != entry:
                self.entries[name] = entry
                self.programmed.append((name, entry))
                self.event("hardware", entry.kind.value, device=name, text=entry.why)

    def switched_with(self, device: str) -> tuple[str, ...]:
        """The devices whose translation changes when this one's is written, itself included."""
        if self.kernel.driver.grouping != "unit":
            return (device,)
        return tuple(self.where("devices", self.devices[device].group, "group"))

    # -- telling ----------------------------------------------------------------------------

    def event(self, kind: str, name: str, **detail: Any) -> None:
        self.events.append(Event(kind, name, **detail))

    def warn(self, function: str, text: str) -> None:
        """The kernel's WARN: it prints and goes on."""
        self.event("warn", function, text=text)

    @contextmanager
    def warning(self, function: str, text: str) -> Iterator[None]:
        """Turn a refusal inside into the kernel's WARN."""
        try:
            yield
        except OSError as error:
            self.warn(function, f"{text}: {error.strerror}")
