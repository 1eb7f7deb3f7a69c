"""The closed world: which devices, domains, pages and verbs there are, and what a caller may do.

Two devices in one group and one apart, or three apart where the driver gives each device a group of
its own; one more that may come late; two domains, two pages of the user's, one owner, and one
kernel driver with one buffer that it maps once at a time. It is small on purpose: each name more
multiplies the states, and no finding that is known needs a third domain or page.

Where it stops: callers keep their contracts, and no failure of memory or of a driver is injected.
"""

from __future__ import annotations

from typing import Any

from .. import core, dmaapi
from ..bootline import GivesDriver, to_driver
from ..domains import DomainType
from ..drivers import Driver
from ..errors import KernelCrash
from ..lab import Lab, Step
from ..machine import Device, Machine, Region
from ..state import Kernel, World

OWNER, KERNEL_DRIVER = "user", "kernel-driver"
PAGE = 4096
USER_PAGES = (0x9000_0000, 0x9000_1000)
KERNEL_BUFFER = 0x8000_0000
IOVA = 0x10_0000
MEMORY = (
    Region(0x0000_0000, 0x3FFF_FFFF, "kernel"),
    Region(KERNEL_BUFFER, KERNEL_BUFFER + PAGE - 1, "driver buffer"),
    Region(USER_PAGES[0], USER_PAGES[1] + PAGE - 1, "user"),
)
DEVICES = ("dev0", "dev1", "dev2")
LATE = "dev3"
DOMAINS = ("dom1", "dom2")


def closed_world(grouping: str) -> Machine:
    """Two devices in one group and one apart; three apart where the driver never shares a group."""
    shared = (0, 0, 1) if grouping != "own" else (0, 1, 2)
    devices = tuple(Device(name, group) for name, group in zip(DEVICES, shared, strict=True))
    return Machine(devices=devices, memory=MEMORY)


def opening(release: str, driver: str | Driver | GivesDriver, arch: str | None = None) -> Lab:
    """The closed world before the first verb: three devices and two empty domains.

    A driver that has no UNMANAGED domain to give starts without domains.
    """
    row = to_driver(driver, release)
    lab = Lab(release, row, machine=closed_world(row.grouping_on(arch or row.arch)), arch=arch)
    if DomainType.UNMANAGED in row.accepts:
        for _ in DOMAINS:
            lab.alloc_domain("unmanaged")
    return lab


def iovas(driver: Driver) -> tuple[int, int]:
    """Two neighbouring pages inside the driver's aperture."""
    first = max(IOVA, driver.first)
    return first, first + PAGE


def alphabet(lab: Lab) -> tuple[Step, ...]:
    """Every verb of the face that this release has, with every argument of the closed world."""
    machine = lab.machine
    devices = [d.name for d in machine.devices]
    groups = sorted({d.group for d in machine.devices})
    domains = [name for name in DOMAINS if name in lab.state.domains]
    verbs: list[Step] = []
    for domain in domains:
        for device in devices:
            verbs += [
                Step("attach_device", (domain, device)),
                Step("detach_device", (domain, device)),
            ]
        for group in groups:
            verbs += [
                Step(verb, (domain, group))
                for verb in ("attach_group", "detach_group", "replace_domain")
            ]
        for iova, paddr in zip(iovas(lab.driver), USER_PAGES, strict=True):
            verbs += [
                Step("map", (domain, iova, paddr, PAGE, "rw")),
                Step("unmap", (domain, iova, PAGE)),
            ]
        verbs.append(Step("free_domain", (domain,)))
    for group in groups:
        verbs += [
            Step("claim_dma_owner", (group, OWNER)),
            Step("release_dma_owner", (group,)),
            *(Step("set_group_type", (group, word)) for word in core.WRITABLE),
        ]
    for device in devices:
        verbs += [
            Step("claim_device", (device, OWNER)),
            Step("release_device_owner", (device,)),
            Step("use_default_domain", (device,)),
            Step("unuse_default_domain", (device,)),
            Step("bind", (device, KERNEL_DRIVER)),
            Step("unbind", (device,)),
            Step("remove", (device,)),
            Step("probe", (device,)),
            Step("dma_map", (device, KERNEL_BUFFER, PAGE, "bidirectional")),
            Step("set_bus_master", (device, True)),
            Step("set_bus_master", (device, False)),
            Step("power_cycle", (device,)),
        ]
    for device in devices:
        mapped = lab.replay([Step("dma_map", (device, KERNEL_BUFFER, PAGE, "bidirectional"))])
        address = mapped.moments[-1].result  # the one that the driver gets each time, or an errno
        if isinstance(address, int):
            verbs.append(Step("dma_unmap", (device, address, PAGE)))
    joins = len(groups) if lab.driver.grouping_on(lab.kernel.arch) == "own" else groups[0]
    verbs += [Step("late_join", (LATE, joins)), Step("advance", (dmaapi.FLUSH_MS,))]
    return tuple(v for v in verbs if _has(lab.kernel, v.verb))


def _has(kernel: Kernel, verb: str) -> bool:
    needs = core.NEEDS.get(verb)
    return needs is None or kernel.release[needs[0]] in needs[1]


Alike = tuple[frozenset[Any], ...]


def alike_names(lab: Lab) -> tuple[Alike, ...]:
    """Names that play the same part, in the order in which they are used; several for one thing.

    Domains and pages differ in nothing. Devices that share a group do, since a group's list has an
    order; devices that each have a group of their own do not. To a reader's driver that looks at
    names none but the pages are alike.
    """
    rows: list[list[tuple[Any, ...]]] = [[(iova,) for iova in iovas(lab.driver)]]
    if not lab.driver.sees_names:
        rows.insert(0, [(domain,) for domain in DOMAINS])
    if not lab.driver.sees_names and lab.driver.grouping_on(lab.kernel.arch) == "own":
        rows.append([(device.name, device.group) for device in lab.machine.devices])
    return tuple(tuple(frozenset(names) for names in row) for row in rows)


# -- what a caller may do --------------------------------------------------------------------------


def may(w: World, step: Step) -> bool:
    """Do the domain and the group that a step names exist, and may a caller do this now?"""
    first = step.args[0] if step.args else None
    if first in DOMAINS and first not in w.domains:
        return False
    group = _group(step)
    if group is not None and group not in w.groups and step.verb != "late_join":
        return False
    if step.verb == "late_join":
        return LATE not in w.devices
    if step.verb == "free_domain":
        return not w.where("groups", first, "domain", "default", "blocking")
    if step.verb == "release_dma_owner":
        return group is not None and w.groups[group].owner is not None
    if step.verb == "release_device_owner":
        mine = w.group_of(str(first))
        return mine is not None and mine.owner is not None
    if step.verb == "unuse_default_domain":
        return _users(w, str(first)) > 0
    if step.verb == "use_default_domain":
        return _users(w, str(first)) == 0
    if step.verb in ("dma_map", "dma_unmap"):
        bound = w.devices[str(first)].driver == KERNEL_DRIVER
        return bound and _buffer_is_mapped(w, str(first)) == (step.verb == "dma_unmap")
    return True


def _group(step: Step) -> int | None:
    """The group that a step names; it may have died with its last device."""
    return next((a for a in step.args[:2] if type(a) is int and a < PAGE), None)


def _users(w: World, device: str) -> int:
    """How often ``use_default_domain`` was called for this device's group, kernel drivers apart."""
    group = w.group_of(device)
    if group is None or group.owner is not None:
        return 0
    return group.owner_cnt - sum(w.devices[d].driver is not None for d in group.devices)


def _buffer_is_mapped(w: World, device: str) -> bool:
    """Has the driver its one buffer mapped already?"""
    try:
        where = dmaapi.backing(w, device)
    except KernelCrash:
        return False
    if where is None:
        return False  # the address is the physical one, and nothing changes
    table = where if isinstance(where, str) else where.table
    return any(run.paddr == KERNEL_BUFFER for run in w.table(table))
