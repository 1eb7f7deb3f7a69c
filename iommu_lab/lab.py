"""The lab: one machine under one kernel release, and every verb you can call on it.

A :class:`Lab` keeps every state it went through. A verb appends one; going back, comparing two
moments, or running the same verbs under another release is therefore only a matter of looking.

>>> lab = Lab(release="6.0", driver="exynos")
>>> lab.claim_dma_owner(0, "vfio")
0
>>> lab.belief(0).name, lab.hardware("dev0").kind.value, lab.hardware("dev0").domain
('UNMANAGED', 'table', 'blocking0')
>>> patched = lab.under("patch-v2")
>>> patched.belief(0).name, patched.hardware("dev0").kind.value
('BLOCKED', 'bypass')
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

from . import behaviours, core, dmaapi, pagetables
from .bootline import GivesDriver, make_kernel
from .domains import Domain, DomainType
from .drivers import Driver
from .drivers import rows as driver_rows
from .errors import ERRNOS, KernelCrash, NotInRelease, UnknownName, errno_name, refuse, unknown
from .hardware import Kind
from .machine import Device, Machine
from .releases import Release, releases
from .state import Event, Kernel, State, World
from .tables import READ, WRITE, Stale

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

__all__ = ["Lab", "Moment", "Step", "drivers", "in_hex", "releases"]

ALLOCATABLE = {
    "unmanaged": DomainType.UNMANAGED,
    "identity": DomainType.IDENTITY,
    "blocked": DomainType.BLOCKED,
    "dma": DomainType.DMA,
    "dma-fq": DomainType.DMA_FQ,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One verb as it was called: enough to call it again, under this release or another."""

    verb: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.verb}({', '.join(_show(a) for a in self.args)})"


FAILED = ("crash", "not in release", "unknown name", "refused")


@dataclass(frozen=True, slots=True)
class Moment:
    """The situation after a step: the state, what happened on the way, and what the verb said.

    ``result`` is the verb's value, or what :attr:`failure` says.
    """

    step: Step | None
    kernel: Kernel
    state: State
    events: tuple[Event, ...]
    result: Any = None

    @property
    def failure(self) -> str:
        """The errno's name when the kernel refused; "crash"; "not in release"; "unknown name" for
        what an earlier verb was refused; "refused" for what no caller can ask for; else "".
        """
        return str(self.result) if self.result in (*ERRNOS, *FAILED) else ""


@dataclass(frozen=True, slots=True)
class DeviceHardware:
    """What the IOMMU does with one device, for reading: see :class:`~iommu_lab.hardware.Entry`."""

    kind: Kind
    domain: str | None
    """The domain whose page table is walked, if any domain owns it."""
    table: str | None
    stale: tuple[Stale, ...]
    first: int
    last: int
    outside: str
    master: bool
    why: str


class Lab:
    """One machine, one IOMMU driver, one kernel release; verbs change it, and nothing is lost.

    ``arch`` defaults to the driver's usual one. ``cmdline`` understands ``iommu=pt``,
    ``iommu.passthrough=``, ``iommu.strict=``, ``intel_iommu=``, ``amd_iommu=``, ``iommu=off``,
    ``arm-smmu.disable_bypass=`` and ``arm-smmu-v3.disable_bypass=``; other words are kept and have
    no effect.

    A refusal of the kernel is raised as ``OSError`` with its errno; what would crash it as
    :class:`~iommu_lab.errors.KernelCrash`; a verb the release lacks as
    :class:`~iommu_lab.errors.NotInRelease`. A WARN is an event.
    """

    def __init__(
        self,
        release: str = "6.0",
        driver: str | Driver | GivesDriver = "s390",
        machine: Machine | None = None,
        cmdline: str = "",
        arch: str | None = None,
    ) -> None:
        kernel = make_kernel(release, driver, machine, cmdline, arch)
        state, events = core.boot(kernel)
        self._moments: tuple[Moment, ...] = (Moment(None, kernel, state, tuple(events)),)

    # -- looking ----------------------------------------------------------------------------

    @property
    def moments(self) -> tuple[Moment, ...]:
        """Every moment so far; the first is the boot."""
        return self._moments

    @property
    def state(self) -> State:
        return self._moments[-1].state

    @property
    def kernel(self) -> Kernel:
        return self._moments[-1].kernel

    @property
    def machine(self) -> Machine:
        return self.kernel.machine

    @property
    def release(self) -> Release:
        return self.kernel.release

    @property
    def driver(self) -> Driver:
        return self.kernel.driver

    @property
    def steps(self) -> tuple[Step, ...]:
        """The verbs that were called, in order."""
        return tuple(m.step for m in self._moments if m.step is not None)

    @property
    def devices(self) -> list[str]:
        """The names of the devices, in the order that the checker's indices follow."""
        return [d.name for d in self.machine.devices]

    def belief(self, group: int | str = 0) -> DomainType | None:
        """The type of the domain that the core thinks this group is attached to; None for NULL."""
        domain = self.believed_domain(group)
        return None if domain is None else domain.type

    def believed_domain(self, group: int | str = 0) -> Domain | None:
        """The domain that the core thinks this group is attached to; None for NULL.

        A group that is gone, because its devices are or their probe failed, has none either.
        """
        found = self.state.groups.get(self._group(group))
        return None if found is None or found.domain is None else self.state.domains[found.domain]

    def hardware(self, device: str = "dev0") -> DeviceHardware:
        """What the IOMMU does with this device's DMA now."""
        self._device(device)
        hardware = self.state.hardware
        entry = hardware.entries[device]
        owners = [d.name for d in self.state.domains.values() if d.table == entry.table]
        owner = None if entry.table is None else entry.table
        if owner not in owners:
            owner = owners[0] if owners and entry.table is not None else None
        return DeviceHardware(
            entry.kind,
            owner,
            entry.table,
            hardware.table_of(device).stale,
            entry.first,
            entry.last,
            entry.outside,
            hardware.master.get(device, True),
            entry.why,
        )

    def group_type(self, group: int | str = 0) -> str:
        """What ``/sys/kernel/iommu_groups/N/type`` reads: the type of the default domain."""
        number = self._group(group)
        if number not in self.state.groups:
            return "unknown"
        return core.group_type(World(self.kernel, self.state), number)

    def iova_to_phys(self, domain: str, iova: int) -> int:
        """``iommu_iova_to_phys``: 0 for a hole and for a blocking domain."""
        world = World(self.kernel, self.state)
        at = _address("iova", iova)
        try:
            return pagetables.iova_to_phys(world, self._domain(domain), at)
        except KernelCrash as crash:
            happened = [Event("crash", crash.function, domain=domain, iova=at, text=crash.reason)]
            self._append("iova_to_phys", (domain, at), self.state, happened, "crash")
            raise

    @property
    def events(self) -> pd.DataFrame:
        """What happened, a row an event: step, verb, kind, name, device, domain, addresses, text.

        Trace events carry the kernel's own names (include/trace/events/iommu.h).
        """
        import pandas as pd

        rows = [
            {
                "step": number,
                "verb": str(moment.step) if moment.step else "boot",
                "kind": event.kind,
                "name": event.name,
                "device": event.device,
                "domain": event.domain,
                "iova": event.iova,
                "size": event.size,
                "paddr": event.paddr,
                "text": event.text,
            }
            for number, moment in enumerate(self._moments)
            for event in moment.events
        ]
        columns = [
            "step",
            "verb",
            "kind",
            "name",
            "device",
            "domain",
            "iova",
            "size",
            "paddr",
            "text",
        ]
        # Addresses stay Python integers: as floats they would lose their low bits.
        return pd.DataFrame(rows, columns=columns, dtype=object).astype({"step": "int64"})

    def check(self, accesses: pd.DataFrame | Mapping[str, Any]) -> pd.DataFrame:
        """Which of these DMAs get through, judged by the hardware alone.

        In: columns ``device`` (name), ``iova``, ``size`` (bytes, at least 1), ``write`` (bool).
        Out: the same rows with ``verdict``, ``reached``, ``paddr``, ``fault_iova``, ``owner`` and
        ``why``. Addresses are numbers to calculate with; :func:`in_hex` writes them for reading.
        """
        import pandas as pd

        from .dma import Checker

        return Checker.from_lab(self).table(pd.DataFrame(accesses))

    # -- going back and across --------------------------------------------------------------

    def undo(self) -> Lab:
        """The lab before its last verb; the lab itself when there was none."""
        return self.at(max(0, len(self._moments) - 2))

    def at(self, step: int) -> Lab:
        """The lab as it was after this many verbs; 0 is the boot."""
        if not 0 <= step < len(self._moments):
            raise IndexError(f"steps go from 0 to {len(self._moments) - 1}, got {step}")
        return self._with(self._moments[: step + 1])

    def under(self, release: str) -> Lab:
        """The same machine and the same verbs under another release.

        Verbs that are refused, missing or fatal there are noted in ``events``, not raised.
        """
        boot = self._moments[0].kernel
        driver = boot.driver.maker or boot.driver.name
        lab = Lab(release, driver, boot.machine, boot.cmdline, boot.arch)
        return lab.replay(self.steps)

    def replay(self, steps: Iterable[Step]) -> Lab:
        """A new lab: this one after these verbs; what is refused is noted, not raised."""
        lab = self._with(self._moments)
        for step in steps:
            try:
                getattr(lab, step.verb)(*step.args)
            except (OSError, KernelCrash, NotInRelease):
                continue
            except ValueError as error:
                # It names what an earlier verb was refused here: the story goes on without it.
                note = Event("note", step.verb, text=str(error))
                result = "unknown name" if isinstance(error, UnknownName) else "refused"
                lab._append(step.verb, step.args, lab.state, [note], result)
        return lab

    def with_state(self, state: State) -> Lab:
        """The lab with another state after its last verb, for a question of "what if"."""
        return self._with((*self._moments[:-1], replace(self._moments[-1], state=state)))

    def _with(self, moments: Sequence[Moment]) -> Lab:
        lab = object.__new__(Lab)
        lab._moments = tuple(moments)
        return lab

    # -- domains and mappings ---------------------------------------------------------------

    def alloc_domain(self, kind: str = "unmanaged") -> str:
        """A new domain, by its name: "dom1" from the first call, "dom2" from the second, ….

        Where the driver gives out one static object, the name is a name for that. Raises
        ``OSError`` EOPNOTSUPP when the driver has no domain of this type to give.
        """
        if kind not in ALLOCATABLE:
            raise unknown("domain type", kind, ALLOCATABLE)
        return str(self._do("alloc_domain", (kind,)))

    def free_domain(self, domain: str) -> None:
        """``iommu_domain_free``: whoever still walks its page table walks freed memory."""
        self._domain(domain)
        self._do("free_domain", (domain,))

    def map(self, domain: str, iova: int, paddr: int, size: int, prot: str = "rw") -> int:
        """``iommu_map``: ``prot`` is "r", "w", "rw" or "" (no rights at all)."""
        self._domain(domain)
        _prot(prot)
        args = (domain, *_range(iova, size, paddr), prot)
        return int(self._do("map", args) or 0)

    def map_many(
        self,
        domain: str,
        iova: Iterable[int] | npt.ArrayLike,
        paddr: Iterable[int] | npt.ArrayLike,
        size: Iterable[int] | npt.ArrayLike,
        prot: str = "rw",
    ) -> int:
        """Many mappings in one verb; the bytes mapped.

        An error leaves the table as the same calls one by one would have left it. Columns of
        different lengths, or values that are no addresses, are refused before anything is mapped.
        """
        self._domain(domain)
        _prot(prot)
        columns = [
            _column(name, values)
            for name, values in (("iova", iova), ("paddr", paddr), ("size", size))
        ]
        lengths = {len(c) for c in columns}
        if len(lengths) > 1:
            raise ValueError(
                f"iova, paddr and size must have one length, got {[len(c) for c in columns]}"
            )
        if any(set(map(type, column)) - {int} for column in columns) or not _tame(*columns):
            for row, (i, p, n) in enumerate(zip(*columns, strict=True)):
                _range(i, n, p, row)
        return int(self._do("map_many", (domain, *map(tuple, columns), prot)))

    def unmap(self, domain: str, iova: int, size: int) -> int:
        """``iommu_unmap``: how many bytes the driver says are gone, which may not be ``size``."""
        self._domain(domain)
        at, _, length = _range(iova, size)
        return int(self._do("unmap", (domain, at, length)))

    # -- the core's verbs -------------------------------------------------------------------

    def attach_device(self, domain: str, device: str) -> int:
        """``iommu_attach_device``."""
        return int(self._core("attach_device", self._named(domain), self._device(device)))

    def detach_device(self, domain: str, device: str) -> None:
        """``iommu_detach_device``: returns nothing, whatever happens."""
        self._core("detach_device", self._named(domain), self._device(device))

    def attach_group(self, domain: str, group: int) -> int:
        """``iommu_attach_group``."""
        return int(self._core("attach_group", self._named(domain), self._group(group)))

    def detach_group(self, domain: str, group: int) -> None:
        """``iommu_detach_group``: ignores which domain is named."""
        self._core("detach_group", self._named(domain), self._group(group))

    def replace_domain(self, domain: str, group: int = 0) -> int:
        """``iommu_group_replace_domain`` (6.6 and later)."""
        return int(self._core("replace_domain", self._named(domain), self._group(group)))

    def claim_dma_owner(self, group: int, owner: str | None) -> int:
        """``iommu_group_claim_dma_owner`` (5.19 and later)."""
        return int(self._core("claim_dma_owner", self._group(group), _owner(owner)))

    def release_dma_owner(self, group: int) -> None:
        """``iommu_group_release_dma_owner`` (5.19 and later)."""
        self._core("release_dma_owner", self._group(group))

    def claim_device(self, device: str, owner: str | None) -> int:
        """``iommu_device_claim_dma_owner`` (6.2 and later)."""
        return int(self._core("claim_device", self._device(device), _owner(owner)))

    def release_device_owner(self, device: str) -> None:
        """``iommu_device_release_dma_owner`` (6.2 and later)."""
        self._core("release_device_owner", self._device(device))

    def use_default_domain(self, device: str) -> int:
        """``iommu_device_use_default_domain`` (5.19 and later)."""
        return int(self._core("use_default_domain", self._device(device)))

    def unuse_default_domain(self, device: str) -> None:
        """``iommu_device_unuse_default_domain`` (5.19 and later)."""
        self._core("unuse_default_domain", self._device(device))

    def set_group_type(self, group: int, word: str) -> int:
        """Write the group's ``type`` file: "identity", "DMA", "DMA-FQ" or "auto"."""
        return int(self._core("set_group_type", self._group(group), _text("type", word)))

    def bind(self, device: str, driver: str) -> int:
        """Bind a kernel driver, or ``vfio-pci``, to the device."""
        return int(self._core("bind", self._device(device), _text("driver", driver)))

    def unbind(self, device: str) -> int:
        """Unbind whatever driver is bound."""
        return int(self._core("unbind", self._device(device)))

    def probe(self, device: str) -> int:
        """The device appears again after :meth:`remove`."""
        return int(self._core("probe", self._device(device)))

    def remove(self, device: str) -> int:
        """The device is removed from its bus."""
        return int(self._core("remove", self._device(device)))

    def late_join(self, device: str, group: int = 0) -> int:
        """A device that did not exist at boot joins a group."""
        if _text("device", device) in self.devices:
            raise ValueError(f"a late joiner needs a new name, {device!r} exists")
        return int(self._do("late_join", (device, _number(group))))

    # -- the DMA API, time and the device itself --------------------------------------------

    def dma_map(self, device: str, paddr: int, size: int, direction: str = "bidirectional") -> int:
        """``dma_map_single``: the address a kernel driver would give its device."""
        self._device(device)
        if direction not in dmaapi.DIRECTIONS:
            raise unknown("direction", direction, dmaapi.DIRECTIONS)
        _, at, length = _range(0, size, paddr, least=1)
        return int(self._do("dma_map", (device, at, length, direction)))

    def dma_unmap(self, device: str, iova: int, size: int) -> None:
        """``dma_unmap_single``: strict at once, lazy with the IOTLB left to the flush queue."""
        self._device(device)
        at, _, length = _range(iova, size, least=1)
        self._do("dma_unmap", (device, at, length))

    def advance(self, ms: float) -> None:
        """Let time pass; flush queues that are due are flushed."""
        if isinstance(ms, bool) or not isinstance(ms, (int, float)) or not 0 <= ms < inf:
            raise ValueError(f"time only goes forward: ms is a number >= 0, got {ms!r}")
        self._do("advance", (float(ms),))

    def set_bus_master(self, device: str, on: bool) -> None:
        """The bus-master bit of PCI_COMMAND: without it the device makes no DMA at all."""
        if on not in (True, False):
            raise ValueError(f"the bus-master bit is on (True) or off (False), got {on!r}")
        self._do("set_bus_master", (self._device(device), bool(on)))

    def power_cycle(self, device: str) -> None:
        """The device's IOMMU goes to sleep and wakes, and its registers are rewritten."""
        self._do("power_cycle", (self._device(device),))

    def fail_next_attach(self, device: str, errno: str = "ENOMEM") -> None:
        """Make the driver's next attach of this device fail, to see what the core does then."""
        if errno not in ERRNOS:
            raise unknown("errno", errno, ERRNOS)
        self._do("fail_next_attach", (self._device(device), errno))

    # -- how a verb runs --------------------------------------------------------------------

    def _core(self, verb: str, *args: Any) -> Any:
        needs = core.NEEDS.get(verb)
        if needs is not None and self.release[needs[0]] not in needs[1]:
            text = f"{verb} is not in {self.release.name}"
            self._append(verb, args, self.state, [Event("note", verb, text=text)], "not in release")
            raise NotInRelease(text)
        return self._do(verb, args)

    def _do(self, verb: str, args: tuple[Any, ...]) -> Any:
        world = World(self.kernel, self.state)
        try:
            result = perform(Step(verb, args))(world)
        except OSError as error:
            world.event("errno", errno_name(error), text=str(error.strerror))
            self._append(verb, args, world.freeze(), world.events, errno_name(error), world.kernel)
            raise
        except KernelCrash as crash:
            happened = [*world.events, Event("crash", crash.function, text=crash.reason)]
            self._append(verb, args, self.state, happened, "crash")
            raise
        self._append(verb, args, world.freeze(), world.events, result, world.kernel)
        return result

    def _append(
        self,
        verb: str,
        args: tuple[Any, ...],
        state: State,
        events: list[Event],
        result: Any,
        kernel: Kernel | None = None,
    ) -> None:
        moment = Moment(Step(verb, args), kernel or self.kernel, state, tuple(events), result)
        self._moments = (*self._moments, moment)

    # -- names ------------------------------------------------------------------------------

    def _device(self, name: str) -> str:
        if name not in self.state.devices:
            raise unknown("device", name, self.devices)
        return name

    def _domain(self, name: str) -> Domain:
        found = self.state.domains.get(self.state.notes.get(_alias(name), name))
        if found is None:
            aliases = (n.removeprefix(ALIAS) for n in self.state.notes if n.startswith(ALIAS))
            raise unknown("domain", name, [*self.state.domains, *aliases])
        return found

    def _named(self, name: str) -> str:
        self._domain(name)
        return name

    def _group(self, group: int | str) -> int:
        """The number of a group that there is, or that there was: its devices still tell of it."""
        if isinstance(group, str):
            return self.state.devices[self._device(group)].group
        number = _number(group)
        known = sorted({at.group for at in self.state.devices.values()})
        if number not in known:
            raise unknown("group", number, known)
        return number

    def __repr__(self) -> str:
        return (
            f"Lab(release={self.release.name!r}, driver={self.driver.name!r}, "
            f"devices={self.devices}, step={len(self._moments) - 1})"
        )


def drivers(release: str) -> pd.DataFrame:
    """Every driver of a release, a row a driver: what its detach does, and how we know.

    ``detach_dev`` and ``set_platform_dma_ops`` are the kernel functions, empty where there is none;
    ``effect`` is what the hardware does after them; ``inference`` says that the effect was read
    from the registers that are written and neither measured nor confirmed.
    """
    import pandas as pd

    table = pd.DataFrame(driver_rows(release)).rename(
        columns={
            "detach": "detach_dev",
            "set_platform": "set_platform_dma_ops",
            "leave": "effect",
            "url": "source",
        }
    )
    first = [
        "driver",
        "release",
        "detach_dev",
        "effect",
        "evidence",
        "source",
        "confidence",
        "inference",
    ]
    return table[[*first, *(c for c in table.columns if c not in first)]]


ADDRESSES = ("iova", "size", "paddr", "fault_iova")


def in_hex(table: pd.DataFrame) -> pd.DataFrame:
    """A table for reading: addresses and sizes as words in hex, and no word where there is none.

    >>> asked = {"device": "dev0", "iova": [0x1000], "size": [64], "write": [True]}
    >>> in_hex(Lab("6.0", "amd").check(asked)).loc[0, ["paddr", "fault_iova"]].to_list()
    ['', '0x1000']
    """
    import pandas as pd

    def word(value: Any) -> str:
        return "" if value is None or value is pd.NA else hex(value)

    there = [name for name in ADDRESSES if name in table.columns]
    return table.assign(**{name: [word(value) for value in table[name]] for name in there})


# -- verbs that the core has no function for -------------------------------------------------------


def _alloc_domain(w: World, kind: str) -> str:
    # Counted by the call, so that a name means the same call under every release.
    number = int(w.notes.get("domains-made", 0)) + 1
    w.notes["domains-made"] = number
    name = f"dom{number}"
    found = behaviours.alloc(w, ALLOCATABLE[kind], name)
    if found is None:
        raise refuse("EOPNOTSUPP", f"{w.driver.name} has no {kind} domain in {w.release.name}")
    if found.name != name:
        w.notes[_alias(name)] = found.name
    return name


ALIAS = "alias:"


def _alias(name: str) -> str:
    """Under which note a second name for a static domain stands."""
    return f"{ALIAS}{name}"


def _map(w: World, domain: str, iova: int, paddr: int, size: int, prot: str) -> int:
    pagetables.iommu_map(w, w.domains[domain], iova, paddr, size, _prot(prot))
    w.event("trace", "map", domain=domain, iova=iova, size=size, paddr=paddr)
    return 0


def _map_many(
    w: World,
    domain: str,
    iova: tuple[int, ...],
    paddr: tuple[int, ...],
    size: tuple[int, ...],
    prot: str,
) -> int:
    rows = list(zip(iova, paddr, size, strict=True))
    done = pagetables.map_many(w, w.domains[domain], rows, _prot(prot))
    w.event("trace", "map", domain=domain, text=f"{len(rows)} mappings", size=done)
    return done


def _unmap(w: World, domain: str, iova: int, size: int) -> int:
    done, _ = pagetables.iommu_unmap(w, w.domains[domain], iova, size)
    w.event("trace", "unmap", domain=domain, iova=iova, size=size, text=f"unmapped={done:#x}")
    return done


def _late_join(w: World, device: str, group: int) -> int:
    core.add_device(w, Device(device, group))
    return core.probe(w, device)


def _free_domain(w: World, domain: str) -> None:
    core.domain_free(w, w.domains[domain])


def _set_bus_master(w: World, device: str, on: bool) -> None:
    w.master[device] = on


def _fail_next_attach(w: World, device: str, errno: str) -> None:
    w.failing[device] = errno


RUNS: dict[str, Callable[..., Any]] = {
    **core.VERBS,
    "alloc_domain": _alloc_domain,
    "free_domain": _free_domain,
    "map": _map,
    "map_many": _map_many,
    "unmap": _unmap,
    "late_join": _late_join,
    "dma_map": dmaapi.dma_map,
    "dma_unmap": dmaapi.dma_unmap,
    "advance": dmaapi.advance,
    "set_bus_master": _set_bus_master,
    "power_cycle": behaviours.power_cycle,
    "fail_next_attach": _fail_next_attach,
}
"""What each verb of the face does to a world; the search calls these without a Lab around them."""


def perform(step: Step) -> Callable[[World], Any]:
    """The step as something to do to a world."""
    run, args = RUNS[step.verb], step.args

    def to(w: World) -> Any:
        real = (w.notes.get(_alias(a), a) if isinstance(a, str) else a for a in args)
        return run(w, *real)

    return to


# -- arguments -------------------------------------------------------------------------------------


def _show(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or value < 4096:
        return repr(value) if isinstance(value, str) else str(value)[:40]
    return hex(value)


def _where(row: int | None) -> str:
    return "" if row is None else f"row {row}: "


def _integer(name: str, value: Any, row: int | None) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{_where(row)}{name} must be an integer, got {value!r}") from None


def _address(name: str, value: Any, row: int | None = None) -> int:
    number = _integer(name, value, row)
    if not 0 <= number < 2**64:
        raise ValueError(f"{_where(row)}{name} needs 0 <= {name} < 2**64, got {number:#x}")
    return number


def _range(
    iova: Any, size: Any, paddr: Any = 0, row: int | None = None, *, least: int = 0
) -> tuple[int, int, int]:
    """A range of addresses, checked: where it starts on both sides, and its size in bytes."""
    at, to, length = (
        _address(name, value, row)
        for name, value in (("iova", iova), ("paddr", paddr), ("size", size))
    )
    if length < least:
        raise ValueError(f"{_where(row)}size needs at least {least} byte, got {length}")
    for name, first in (("iova", at), ("paddr", to)):
        if first + length > 2**64:
            raise ValueError(
                f"{_where(row)}a range may not wrap, got {name}={first:#x} size={length:#x}"
            )
    return at, to, length


def _tame(iova: list[int], paddr: list[int], size: list[int]) -> bool:
    """Is every row in range by a wide margin, so that no row has to be looked at alone?"""
    if not iova:
        return True
    low = min(map(min, (iova, paddr, size)))
    return low >= 0 and max(map(max, (iova, paddr, size))) < 2**62


def _number(value: Any) -> int:
    number = _integer("group", value, None)
    if number < 0:
        raise ValueError(f"a group's number is 0 or more, got {number}")
    return number


def _owner(value: Any) -> str | None:
    return None if value is None else _text("owner", value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} must be a word, got {value!r}")
    return value


def _column(name: str, values: Any) -> list[int]:
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise TypeError(f"{name} must be a column of integers, got {values!r}")
    return list(values)


PROT = {"": 0, "r": READ, "w": WRITE, "rw": READ | WRITE}


def _prot(word: str) -> int:
    if word not in PROT:
        raise ValueError(f"prot is one of 'r', 'w', 'rw' or '', got {word!r}")
    return PROT[word]
