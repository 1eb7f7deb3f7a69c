"""The kernel core: what each verb of ``drivers/iommu/iommu.c`` does, release by release.

Each function here is one verb of the core. It takes a :class:`~iommu_lab.state.World`, changes the
core's belief, calls the driver for the hardware, and raises the kernel's errno when it refuses. The
differences between releases are words in ``data/releases/rules.csv``; a function asks
``w.release["rule"]`` and never for a release by name.

Where the model stops: locking and concurrency, PASIDs, nested domains and page requests.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from . import behaviours
from .domains import Domain, DomainType
from .errors import KernelCrash, refuse
from .hardware import BYPASS, Entry, Hardware, Kind
from .machine import Device
from .pagetables import iommu_map, pgsizes
from .state import DeviceState, Group, Kernel, State, World
from .tables import READ, WRITE

MANAGES_DMA_ITSELF = ("vfio-pci", "vfio-platform", "pci-stub", "pcieport")
"""Drivers with ``driver_managed_dma``: binding them does not take the default domain."""


# -- probing -------------------------------------------------------------------------------------


def boot(kernel: Kernel) -> tuple[State, list[Any]]:
    """The state after boot: every device probed, every group with its default domain, if any."""
    hardware = Hardware(msi=kernel.machine.msi, width=kernel.machine.width)
    w = World(kernel, State(hardware=hardware))
    for device in kernel.machine.devices:
        w.devices[device.name] = DeviceState(device.group, driver=device.managed_by or None)
        w.master[device.name] = device.master_at_boot
        if device.name in kernel.machine.no_iommu:
            w.entries[device.name] = BYPASS
        else:
            behaviours.boot(w, device.name)
    w.events.clear()
    for number, devices in kernel.machine.groups.items():
        w.groups[number] = Group(number, ())
        for device in devices:
            _add_to_group(w, number, device)
        try:
            _set_default(w, number, scan=w.driver.boot_probe != "device")
        except OSError as error:
            w.warn("bus_iommu_probe", f"group {number}: {error.strerror}")
            for device in devices:
                _unprobe(w, number, device.name)
    for number, devices in kernel.machine.groups.items():
        for device in devices:
            if w.group_of(device.name) is None:
                continue
            _probe_finalize(w, device.name)
            if device.managed_by and device.managed_by not in MANAGES_DMA_ITSELF:
                w.set_group(number, owner_cnt=w.groups[number].owner_cnt + 1)
    return w.freeze(), w.events


def _add_to_group(w: World, number: int, device: Device) -> None:
    group = w.groups[number]
    w.set_group(number, devices=(*group.devices, device.name))
    _tell_added(w, number, device.name)


def _tell_added(w: World, number: int, device: str) -> None:
    w.event("trace", "add_device_to_group", device=device, text=f"groupID={number}")
    known = w.reserved(device)
    for region in w.device(device).reserved:
        if region.type.startswith("direct") and region not in known:
            text = f"{w.driver.name} in {w.release.name} reports no {region.type} region, so the"
            text = f"{text} core does not learn of {region.first:#x}..{region.last:#x}"
            w.event("note", "iommu_get_resv_regions", device=device, text=text)


def _global_type(w: World) -> DomainType:
    """``iommu_def_domain_type``: what the boot line and the configuration ask for."""
    if w.kernel.passthrough:
        return DomainType.IDENTITY
    if w.kernel.strict or w.release["flush_queue"] == "attribute":
        return DomainType.DMA
    return DomainType.DMA_FQ


def _request(w: World, device: Device) -> DomainType | None:
    """``iommu_get_def_domain_type``: what this device must have, if anything."""
    rule, untrusted = w.release["default.untrusted"], device.untrusted and device.pci
    if untrusted and (rule == "DMA" or (rule == "driver" and w.driver.asks_untrusted)):
        return DomainType.DMA
    if w.driver.default_domain is not None and w.release["default.static"] == "asks":
        return w.driver.default_domain
    return device.requires or w.driver.required_type


def _group_request(w: World, group: Group, target: DomainType | None = None) -> DomainType | None:
    """``iommu_get_default_domain_type``: one request for the whole group, or None for no request.

    ``target`` is what was written to the type file; a device that must have another is EINVAL.
    """
    folds = w.release["default.conflict"] == "identity"
    best = DomainType.IDENTITY if folds and w.kernel.arch == "arm32" else None
    conflict = False
    for device in group.devices:
        asks = _request(w, w.device(device))
        if asks is None or asks is best:
            continue
        if best is None:
            best = asks
        else:
            conflict = True
            text = f"{device} asks for {asks.name}, another of group {group.number} for {best.name}"
            w.warn("iommu_get_def_domain_type", text)
            best = asks if folds and asks is DomainType.IDENTITY else best
    if folds:
        best = _with_trust(w, group, best)
    elif conflict:
        strict = target is not None and w.release["default.fallback"] == "unless-required"
        best = best if strict else None
    if target is not None and best not in (None, target):
        raise refuse("EINVAL", f"a device of group {group.number} must have {best}")
    return target or best


def _with_trust(w: World, group: Group, best: DomainType | None) -> DomainType | None:
    """Since 6.7: what a kernel without dma-iommu and an untrusted device make of the request."""
    if not _has_dma_iommu(w):
        if best is DomainType.DMA:
            w.warn("iommu_get_default_domain_type", "this kernel has no DMA domains")
            raise refuse("EINVAL", f"group {group.number} asks for DMA, which this kernel has not")
        best = best or DomainType.IDENTITY
    for name in group.devices:
        device = w.device(name)
        if device.untrusted and device.pci:
            if best not in (None, DomainType.DMA):
                raise refuse("EINVAL", f"{name} is not trusted, and its driver asks for {best}")
            best = DomainType.DMA
    return best


def _has_dma_iommu(w: World) -> bool:
    """Without dma-iommu a DMA domain can't get its cookie, and is freed again."""
    return w.kernel.arch in w.release["dma_iommu"].split()


def _alloc(w: World, kind: DomainType, name: str) -> Domain | None:
    """``__iommu_domain_alloc``: the driver's domain, tagged with the type the core asked for."""
    if kind.dma_api and not _has_dma_iommu(w):
        return None
    needs_capability = w.release["flush_queue"] == "capability"
    if kind is DomainType.DMA_FQ and needs_capability and not w.driver.deferred_flush:
        kind = DomainType.DMA
    return behaviours.alloc(w, kind, name)


def _alloc_default(w: World, group: Group, asked: DomainType | None) -> Domain | None:
    """``iommu_group_alloc_default_domain``, with the release's way of falling back to DMA.

    None means that the group can't have one; since 6.7 that is an error instead.
    """
    rule = w.release["default.fallback"]
    if rule == "mandatory" and w.driver.default_domain is not None:
        return _fixed_default(w, group, asked)
    kind = asked or _global_type(w)
    found = _of_type(w, group, kind)
    if found is None and kind is not DomainType.DMA and (asked is None or rule == "always"):
        found = _of_type(w, group, DomainType.DMA)
        if found is not None:
            text = f"group {group.number} can't have {kind.name} and gets DMA"
            w.event("note", "iommu_group_alloc_default_domain", text=text)
    if found is None and rule == "mandatory":
        raise refuse("EOPNOTSUPP", f"{w.driver.name} can't give group {group.number} {kind.name}")
    return found


def _fixed_default(w: World, group: Group, asked: DomainType | None) -> Domain:
    """``ops->default_domain`` of a driver that always has the same one."""
    kind = w.driver.default_domain
    assert kind is not None
    if asked is not None and not (asked is kind and w.release["default.static"] == "asks"):
        text = f"the default of group {group.number} is {kind.name} and {asked.name} is asked for"
        raise refuse("EINVAL", text)
    found = behaviours.alloc(w, kind, "")
    if found is None:
        found = Domain(f"{w.driver.name}.{kind.name.lower()}", kind, static=True)
        w.domains[found.name] = found
    return found


def _of_type(w: World, group: Group, kind: DomainType) -> Domain | None:
    """A new domain for a group's default, or since 6.5 the present one if it has the type."""
    present = None if group.default is None else w.domains[group.default]
    reuses = w.release["default.fallback"] != "always"
    if present is not None and present.type is kind and reuses:
        return present
    name = f"default{group.number}"
    return _alloc(w, kind, f"{name}.new" if name in w.domains else name)


def _set_default(w: World, number: int, *, scan: bool) -> None:
    """Give a freshly probed group its default domain and attach it.

    ``scan`` says that the group was found when a bus was scanned. Up to 6.4 firmware's direct
    regions are mapped before the attach then, and after it where a device is probed alone.
    """
    group = w.groups[number]
    domain = _alloc_default(w, group, _group_request(w, group))
    for device in group.devices:
        _latch_deferral(w, device)
    if domain is None:
        return
    w.set_group(number, default=domain.name)
    before = scan or w.release["direct.order"] == "before-attach"
    again = [d for d in group.devices if not before or not _direct_mappings(w, domain, d)]
    w.set_group(number, domain=domain.name)
    for device in group.devices:
        if w.devices[device].deferred:
            continue
        try:
            _attach_dev(w, w.domains[domain.name], device)
        except OSError as error:
            w.warn("iommu_probe_device", f"{device}: {error.strerror}")
            _unprobe(w, number, device)
    retried = w.release["direct.failure"] == "retried"
    for device in again if retried or not before else ():
        if w.group_of(device) is not None:
            _direct_mappings(w, w.domains[domain.name], device, fails=retried)


def _latch_deferral(w: World, device: str) -> None:
    """A kdump kernel finds the device translated by the kernel that crashed, and leaves it so."""
    if w.driver.defers_attach and w.device(device).deferred:
        w.set_device(device, deferred=True)
        w.entries[device] = Entry(Kind.UNKNOWN, why="it uses the dead kernel's page table")


def _direct_mappings(w: World, domain: Domain, device: str, *, fails: bool = False) -> bool:
    """``iommu_create_device_direct_mappings``: firmware's regions, 1:1, into a DMA domain.

    Pages that are mapped already are passed over. Says whether it went well; ``fails`` lets the
    error through instead.
    """
    domain = w.domains[domain.name]
    if not domain.type.dma_api:
        return True
    page = pgsizes(w, domain) & -pgsizes(w, domain)
    for region in w.reserved(device):
        if not region.type.startswith("direct"):
            continue
        start = -(-region.first // page) * page
        stop = -(-(region.last + 1) // page) * page
        at = start
        for run in [*w.table(domain.table).inside(start, max(0, stop - start)), None]:
            size = (stop if run is None else run.iova) - at
            if size > 0:
                try:
                    iommu_map(w, w.domains[domain.name], at, at, size, READ | WRITE)
                except OSError as error:
                    if fails:
                        raise
                    text = f"{device}: {error.strerror}"
                    w.event("note", "iommu_create_device_direct_mappings", text=text)
                    return False
                w.event("trace", "map", domain=domain.name, iova=at, size=size, paddr=at)
            at = stop if run is None else run.end
    return True


def _probe_finalize(w: World, device: str) -> None:
    """``ops->probe_finalize``: some 32-bit Arm drivers attach every device to one ARM mapping."""
    if not w.driver.arm_mapping or w.kernel.arch != "arm32":
        return
    if "mapping" not in w.notes:
        if behaviours.alloc(w, DomainType.UNMANAGED, "mapping") is None:
            return
        w.notes["mapping"] = "mapping"
    w.notes[f"mapping:{device}"] = "mapping"
    try:
        attach_device(w, "mapping", device)
    except OSError as error:
        w.event("note", "arm_iommu_attach_device", device=device, text=str(error.strerror))


def _attach_dev(w: World, domain: Domain, device: str) -> None:
    """``__iommu_attach_device``: the driver's attach and its trace event."""
    behaviours.attach(w, w.domains[domain.name], device)
    if w.devices[device].deferred:
        w.set_device(device, deferred=False)
    w.event("trace", "attach_device_to_domain", device=device, domain=domain.name)


def _group(w: World, number: int) -> Group:
    """The group, unless it died with its last device or never came to be."""
    if number not in w.groups:
        raise refuse("ENODEV", f"there is no group {number}: no device of it is with the IOMMU")
    return w.groups[number]


# -- attaching -----------------------------------------------------------------------------------


def attach_device(w: World, domain: str, device: str) -> int:
    """``iommu_attach_device``: ENODEV without a group, EINVAL in a group of several devices."""
    group = w.group_of(device)
    if group is None:
        raise refuse("ENODEV", f"{device} is in no group")
    if len(group.devices) != 1:
        raise refuse("EINVAL", f"group {group.number} has {len(group.devices)} devices")
    return attach_group(w, domain, group.number)


def attach_group(w: World, domain: str, number: int) -> int:
    """``iommu_attach_group``: EBUSY when something else than the core's own domain is attached."""
    group = _group(w, number)
    if _busy(w, group):
        raise refuse("EBUSY", f"group {number} is attached to {group.domain}")
    return _attach_group(w, domain, number)


def _busy(w: World, group: Group) -> bool:
    if w.release["attach.busy"] == "not-default":
        return group.default is not None and group.domain != group.default
    return group.domain is not None and group.domain not in (group.default, group.blocking)


def _attach_group(w: World, domain: str, number: int) -> int:
    if w.release["attach.same_domain"] == "shortcut":
        return _set_domain(w, domain, number)
    group = w.groups[number]
    try:
        for device in group.devices:
            _attach_dev(w, w.domains[domain], device)
    except OSError:
        if w.release["attach.failure"] == "reattach-old":
            w.set_group(number, domain=None)
            with w.warning("__iommu_attach_group", "a device can't go back to its old domain"):
                _set_domain(w, group.domain, number)
        raise
    w.set_group(number, domain=domain)
    return 0


def replace_domain(w: World, domain: str, number: int) -> int:
    """``iommu_group_replace_domain``: attach without asking what is attached."""
    return _set_domain(w, domain, _group(w, number).number)


# -- the core's own switch -------------------------------------------------------------------------


def _set_domain(w: World, target: str | None, number: int, *, must: bool = False) -> int:
    """``__iommu_group_set_domain``: the one place where a group's domain changes."""
    group = w.groups[number]
    if target is None and w.release["set_null"] == "blocking":
        if group.domain is None:
            return 0
        target = _blocking(w, group)
    elif group.domain == target:
        return 0
    if target is None:
        return _set_null(w, number)
    failed: OSError | None = None
    for index, device in enumerate(group.devices):
        try:
            _set_device_domain(w, target, device, must=must)
        except OSError as error:
            if w.release["set_domain.failure"] == "first-error":
                raise
            failed = error
            if not must:
                _revert(w, number, group.devices[: index + 1])
                raise
    w.set_group(number, domain=target)
    if failed is not None:
        raise failed
    return 0


def _set_device_domain(w: World, target: str, device: str, *, must: bool) -> None:
    """``__iommu_device_set_domain``: one device, with the rules that look at the device."""
    group = w.group_of(device)
    assert group is not None
    domain = w.domains[target]
    if w.release["attach.direct_to_blocked"] == "EINVAL":
        blocks = domain.type is DomainType.BLOCKED or target == group.blocking
        if blocks and w.locked(device):
            raise refuse("EINVAL", f"{device} has firmware direct regions and can't be blocked")
    if w.devices[device].deferred and w.release["deferred"] == "latched-at-init":
        if target == group.default:
            return
        w.set_device(device, deferred=False)
    try:
        _attach_dev(w, domain, device)
    except OSError:
        tries = must and w.release["set_domain.failure"] == "must-succeed"
        if tries and group.blocking is not None and group.blocking != target:
            with suppress(OSError):
                _attach_dev(w, w.domains[group.blocking], device)
        raise


def _revert(w: World, number: int, devices: tuple[str, ...]) -> None:
    """Send the devices handled so far back to where the group still is."""
    old = w.groups[number].domain
    again = devices[:-1] if w.release["attach.revert"] == "not-the-failing" else devices
    for device in again:
        if old is None:
            if w.driver.set_platform_on(w.kernel.arch):
                behaviours.detach(w, behaviours.current(w, device), device)
        else:
            with w.warning("__iommu_group_set_domain_internal", f"{device} can't go back"):
                _set_device_domain(w, old, device, must=True)


def _set_null(w: World, number: int) -> int:
    """The NULL domain: what it means is the driver's secret, up to 6.6."""
    group = w.groups[number]
    how = w.release["set_null"]
    if how == "refused":
        w.warn("__iommu_group_set_domain_internal", "there is no NULL domain")
        raise refuse("EINVAL", "a group always has a domain")
    old = w.attached(group)
    if how == "set_platform":
        for device in group.devices:
            if w.driver.set_platform_on(w.kernel.arch):
                behaviours.detach(w, old, device)
            else:
                w.warn(
                    "iommu_group_do_set_platform_dma",
                    f"{w.driver.name} has no set_platform_dma_ops",
                )
        w.set_group(number, domain=None)
        return 0
    if not w.driver.detach:
        w.warn("__iommu_group_set_domain", f"{w.driver.name} has no detach_dev")
        raise refuse("EINVAL", f"{w.driver.name} has no detach_dev")
    for device in group.devices:
        _detach_dev(w, old, device)
    w.set_group(number, domain=None)
    return 0


def _detach_dev(w: World, domain: Domain | None, device: str) -> None:
    if w.devices[device].deferred:
        return
    behaviours.detach(w, domain, device)
    w.event(
        "trace",
        "detach_device_from_domain",
        device=device,
        domain="" if domain is None else domain.name,
    )


def _core_domain(w: World, number: int) -> None:
    """``__iommu_group_set_core_domain``: blocking while there is an owner, else the default."""
    group = w.groups[number]
    target = group.blocking if group.owner is not None else group.default
    with w.warning("__iommu_group_set_core_domain", "the default or blocking domain was refused"):
        _set_domain(w, target, number, must=True)


# -- detaching -----------------------------------------------------------------------------------


def detach_device(w: World, domain: str, device: str) -> None:
    """``iommu_detach_device``: has no result; a wrong domain is a WARN or goes unseen."""
    group = w.group_of(device)
    if group is None:
        return
    wrong = w.release["detach.wrong_domain"] == "warn" and group.domain != domain
    if wrong or len(group.devices) != 1:
        w.warn("iommu_detach_device", f"{device} is not alone on {domain}; nothing is done")
        return
    _detach(w, domain, group.number)


def detach_group(w: World, domain: str, number: int) -> None:
    """``iommu_detach_group``: whatever is attached goes, whichever domain was named."""
    _detach(w, domain, _group(w, number).number)


def _detach(w: World, domain: str, number: int) -> None:
    if w.release["detach.target"] == "core-domain":
        _core_domain(w, number)
        return
    group = w.groups[number]
    if group.default is None:
        if w.driver.detach:
            for device in group.devices:
                _detach_dev(w, w.domains[domain], device)
        w.set_group(number, domain=None)
    elif group.domain != group.default:
        with w.warning("__iommu_detach_group", "the default domain was refused"):
            for device in group.devices:
                _attach_dev(w, w.domains[group.default], device)
            w.set_group(number, domain=group.default)


# -- DMA ownership ---------------------------------------------------------------------------------


def claim_dma_owner(w: World, number: int, owner: str | None) -> int:
    """``iommu_group_claim_dma_owner``: EPERM when anybody has it, EBUSY when attached elsewhere."""
    group = _group(w, number)
    if owner is None and w.release["claim.null_owner"] == "refused":
        w.warn("iommu_group_claim_dma_owner", "an owner must be named")
        raise refuse("EINVAL", "an owner must be named")
    if group.owner_cnt:
        raise refuse("EPERM", f"group {number} has an owner or a driver: count {group.owner_cnt}")
    return _take(w, number, owner)


def claim_device(w: World, device: str, owner: str | None) -> int:
    """``iommu_device_claim_dma_owner``: the same owner may claim again, and is counted."""
    group = w.group_of(device)
    if owner is None:
        w.warn("iommu_device_claim_dma_owner", "an owner must be named")
        raise refuse("EINVAL", "an owner must be named")
    if group is None:
        raise refuse("ENODEV", f"{device} is in no group")
    if group.owner_cnt:
        if group.owner != owner:
            raise refuse("EPERM", f"group {group.number} belongs to {group.owner or 'a driver'}")
        w.set_group(group.number, owner_cnt=group.owner_cnt + 1)
        return 0
    return _take(w, group.number, owner)


def _take(w: World, number: int, owner: str | None) -> int:
    group = w.groups[number]
    if group.domain is not None and group.domain != group.default:
        raise refuse("EBUSY", f"group {number} is attached to {group.domain}")
    target = _blocking(w, group)
    _set_domain(w, target, number)
    w.set_group(number, owner=owner, owner_cnt=1)
    return 0


def _blocking(w: World, group: Group) -> str:
    """``__iommu_group_alloc_blocking_domain``: a true one, else an empty table that stands in."""
    group = w.groups[group.number]
    if group.blocking is not None:
        return group.blocking
    name = f"blocking{group.number}"
    found = _alloc(w, DomainType.BLOCKED, name)
    if found is None:
        found = _alloc(w, DomainType.UNMANAGED, name)
        if found is None:
            raise refuse("EINVAL", f"{w.driver.name} has neither a blocking nor an empty domain")
        found = w.set_domain(found.name, substitute=True)
    w.set_group(group.number, blocking=found.name)
    return found.name


def release_dma_owner(w: World, number: int) -> None:
    """``iommu_group_release_dma_owner``: back to the default, whatever is attached."""
    group = _group(w, number)
    if not group.owner_cnt or group.owner is None:
        w.warn("iommu_group_release_dma_owner", f"group {number} is not claimed")
        return
    w.set_group(number, owner=None, owner_cnt=0)
    with w.warning("iommu_group_release_dma_owner", "the default domain was refused"):
        _set_domain(w, group.default, number, must=True)


def release_device_owner(w: World, device: str) -> None:
    """``iommu_device_release_dma_owner``: the last of counted claims goes back to the default."""
    group = w.group_of(device)
    if group is None:
        return
    if group.owner_cnt > 1:
        w.set_group(group.number, owner_cnt=group.owner_cnt - 1)
    else:
        release_dma_owner(w, group.number)


def use_default_domain(w: World, device: str) -> int:
    """``iommu_device_use_default_domain``: what binding an ordinary driver asks for."""
    group = w.group_of(device)
    if group is None:
        return 0
    if group.default is None and w.release["bind.no_default"] == "EPROBE_DEFER":
        raise refuse("EPROBE_DEFER", f"group {group.number} has no default domain yet")
    if group.owner_cnt and (group.owner is not None or not _on_default(w, group)):
        raise refuse("EBUSY", f"group {group.number} is owned by {group.owner or 'somebody else'}")
    w.set_group(group.number, owner_cnt=group.owner_cnt + 1)
    return 0


def _on_default(w: World, group: Group) -> bool:
    if group.domain == group.default:
        return True
    if w.release["bind.default_test"] != "same-or-identity":
        return False
    both = [w.domains[d] for d in (group.domain, group.default) if d is not None]
    return len(both) == 2 and all(d.type is DomainType.IDENTITY for d in both)


def unuse_default_domain(w: World, device: str) -> None:
    """``iommu_device_unuse_default_domain``: count down; touches no domain."""
    group = w.group_of(device)
    if group is None:
        return
    if not group.owner_cnt:
        w.warn("iommu_device_unuse_default_domain", f"group {group.number} has no user")
        return
    w.set_group(group.number, owner_cnt=group.owner_cnt - 1)


# -- kernel drivers --------------------------------------------------------------------------------


def bind(w: World, device: str, driver: str) -> int:
    """Bind a kernel driver: its DMA set-up, then the default domain unless it needs none."""
    at = w.devices[device]
    if not at.present:
        raise refuse("ENODEV", f"{device} is not there")
    if at.driver is not None:
        raise refuse("EBUSY", f"{device} is bound to {at.driver}")
    _arm_mapping(w, device)
    counts = w.release["ownership"] != "none" and driver not in MANAGES_DMA_ITSELF
    if counts:
        try:
            use_default_domain(w, device)
        except OSError:
            _arm_teardown(w, device)
            raise
    w.set_device(device, driver=driver)
    if driver not in MANAGES_DMA_ITSELF:
        w.master[device] = True
    return 0


def unbind(w: World, device: str) -> int:
    """Unbind the kernel driver; its share of the default domain goes with it."""
    at = w.devices[device]
    if at.driver is None:
        raise refuse("ENODEV", f"{device} has no driver")
    if w.release["ownership"] != "none" and at.driver not in MANAGES_DMA_ITSELF:
        unuse_default_domain(w, device)
    _arm_teardown(w, device)
    w.set_device(device, driver=None)
    return 0


def _arm_mapping(w: World, device: str) -> None:
    """32-bit Arm attaches an UNMANAGED domain of its own (arm_setup_iommu_dma_ops)."""
    group = w.group_of(device)
    if w.kernel.arch != "arm32" or group is None or f"mapping:{device}" in w.notes:
        return
    name = f"mapping.{device}"
    if _alloc(w, DomainType.UNMANAGED, name) is None:
        return
    try:
        attach_device(w, name, device)
    except OSError as error:
        w.event("note", "arm_setup_iommu_dma_ops", device=device, text=str(error.strerror))
        domain_free(w, w.domains[name])
        return
    w.notes[f"mapping:{device}"] = name


def _arm_teardown(w: World, device: str) -> None:
    """``arm_teardown_iommu_dma_ops``: only what binding set up is taken down."""
    name = f"mapping.{device}"
    if w.notes.get(f"mapping:{device}") != name:
        return
    detach_device(w, name, device)
    del w.notes[f"mapping:{device}"]
    group = w.group_of(device)
    if group is not None and group.domain == name:
        raise KernelCrash(
            "arm_iommu_release_mapping",
            f"{device} could not leave {name}, which is freed: the core's pointer to it dangles",
        )
    domain_free(w, w.domains[name])


# -- freeing ---------------------------------------------------------------------------------------


def domain_free(w: World, domain: Domain) -> None:
    """``iommu_domain_free``: up to 6.6 the static object of the patch has no function to call."""
    always = w.release["domain_free"] == "unconditional"
    if domain.static and always and w.driver.blocked == "as-detach" and not domain.type:
        raise KernelCrash("iommu_domain_free", "the static domain has no free function")
    behaviours.free(w, domain)
    w.drop("iovas", domain.name)


# -- the type file ---------------------------------------------------------------------------------


WRITABLE = {
    "identity": DomainType.IDENTITY,
    "DMA": DomainType.DMA,
    "DMA-FQ": DomainType.DMA_FQ,
    "auto": None,
}


def group_type(w: World, number: int) -> str:
    """What ``/sys/kernel/iommu_groups/N/type`` reads: always the default domain's type."""
    default = w.groups[number].default
    return "unknown" if default is None else w.domains[default].type.sysfs


def set_group_type(w: World, number: int, word: str) -> int:
    """Write the group's type file: ``identity``, ``DMA``, ``DMA-FQ`` or ``auto``."""
    rule = w.release["type_file"]
    group = _group(w, number)
    if rule == "read-only":
        raise refuse("EACCES", "the type file can only be read in this release")
    if group.default is None and w.release["type_file.no_default"] == "first":
        raise refuse("EINVAL", f"group {number} has no default domain")
    if word not in WRITABLE:
        raise refuse("EINVAL", f"{word!r} is none of {', '.join(WRITABLE)}")
    if rule == "whole-group":
        _type_of_group(w, number, WRITABLE[word])
    else:
        _type_of_one_device(w, number, WRITABLE[word])
    return 0


def _is_dma_to_fq(w: World, group: Group, target: DomainType | None) -> bool:
    default = group.default
    return (
        target is DomainType.DMA_FQ
        and default is not None
        and w.domains[default].type is DomainType.DMA
    )


def _go_lazy(w: World, group: Group) -> None:
    """DMA to DMA-FQ happens in place: only the flush queue is added."""
    assert group.default is not None
    w.set_domain(group.default, type=DomainType.DMA_FQ)


def _type_of_group(w: World, number: int, target: DomainType | None) -> None:
    group = w.groups[number]
    if _is_dma_to_fq(w, group, target):
        _go_lazy(w, group)
        return
    if not group.devices or group.owner_cnt:
        raise refuse("EPERM", f"group {number} is empty, owned or has a driver")
    asked = _group_request(w, group, target)
    _new_default(w, number, asked)


def _type_of_one_device(w: World, number: int, target: DomainType | None) -> None:
    group = w.groups[number]
    if len(group.devices) != 1:
        raise refuse("EINVAL", f"group {number} has {len(group.devices)} devices")
    device = group.devices[0]
    bound = w.devices[device].driver
    if bound is not None and target is DomainType.DMA_FQ and group.default is None:
        raise KernelCrash("iommu_group_store_type", "the group has no default domain to look at")
    if bound is not None and not _is_dma_to_fq(w, group, target):
        raise refuse("EBUSY", f"{device} is bound to {bound}")
    if group.domain != group.default:
        raise refuse("EBUSY", f"group {number} is attached to {group.domain}")
    if group.default is None:
        raise refuse("EINVAL", f"group {number} has no default domain")
    asked = _group_request(w, group, target) or _global_type(w)
    if asked is DomainType.DMA_FQ and w.domains[group.default].type is DomainType.DMA:
        _go_lazy(w, group)
        return
    _new_default(w, number, asked)


def _new_default(w: World, number: int, asked: DomainType | None) -> None:
    """A new, empty default domain takes the old one's place; every IOVA of the old one is gone."""
    group = w.groups[number]
    assert group.default is not None
    old, by_core = w.domains[group.default], w.release["default.fallback"] == "always"
    if by_core and old.type is (asked or _global_type(w)):
        return
    found = _alloc_default(w, group, asked)
    if found is None:
        fails = "ENOMEM" if by_core else "ENODEV"
        raise refuse(fails, f"{w.driver.name} can't give a domain of the type asked for")
    if found.name == old.name:
        return
    try:
        again = [d for d in group.devices if not _direct_mappings(w, found, d, fails=by_core)]
        w.set_group(number, default=found.name)
        _enter_default(w, number, found.name)
        for device in again:
            _direct_mappings(w, found, device, fails=True)
    except OSError:
        if w.groups[number].domain == found.name and not by_core:
            with w.warning("iommu_setup_default_domain", "the old default was refused"):
                _set_domain(w, old.name, number, must=True)
        w.set_group(number, default=old.name, domain=old.name)
        domain_free(w, w.domains[found.name])
        raise
    domain_free(w, w.domains[old.name])
    for device in group.devices:
        _probe_finalize(w, device)


def _enter_default(w: World, number: int, name: str) -> None:
    """Attach the new default in the release's way: a device, a group that forgot, a switch."""
    how = w.release["type_file.attach"]
    if how == "switch":
        _set_domain(w, name, number)
        return
    if how == "group":
        # The core has made the group forget the old domain: what fails is sent to the new one.
        w.set_group(number, domain=name)
        _attach_group(w, name, number)
        return
    for device in w.groups[number].devices:
        _attach_dev(w, w.domains[name], device)
    w.set_group(number, domain=name)


# -- devices come and go ---------------------------------------------------------------------------


def remove(w: World, device: str) -> int:
    """The device leaves its bus: driver unbound, IOMMU driver's release, out of the group."""
    at = w.devices[device]
    if not at.present:
        raise refuse("ENODEV", f"{device} is not there")
    if at.driver is not None:
        unbind(w, device)
    group = w.group_of(device)
    if group is not None:
        in_use = group.owner_cnt or group.domain != group.default
        if w.release["empty_group"] != "unseen" and len(group.devices) == 1 and in_use:
            w.warn("iommu_release_device", f"the last device leaves group {group.number} in use")
        _release(w, device)
        _out_of_group(w, group.number, device)
    w.set_device(device, present=False, deferred=False)
    return 0


def _out_of_group(w: World, number: int, device: str) -> None:
    w.event("trace", "remove_device_from_group", device=device, text=f"groupID={number}")
    w.notes.pop(f"mapping:{device}", None)
    rest = tuple(d for d in w.groups[number].devices if d != device)
    w.set_group(number, devices=rest)
    if not rest:
        _empty(w, number)


def _release(w: World, device: str) -> None:
    """``release_domain`` first where the release has it, then the driver's release_device."""
    kind = w.driver.release_domain
    deferred = w.devices[device].deferred
    if w.release["release_domain"] == "yes" and kind is not None and not deferred:
        direct = w.locked(device)
        has_identity = DomainType.IDENTITY in w.driver.accepts
        if direct and has_identity and w.release["release_domain.direct"] == "identity":
            kind = DomainType.IDENTITY
        domain = behaviours.alloc(w, kind, f"release.{device}")
        if domain is not None:
            behaviours.attach(w, domain, device)
            behaviours.release(w, device, parked=True)
            return
    behaviours.release(w, device)


def _empty(w: World, number: int) -> None:
    """The group dies with its last device; its domains go with it."""
    group = w.groups.pop(number)
    for name in (group.default, group.blocking):
        if name is not None and name in w.domains:
            domain_free(w, w.domains[name])


def probe(w: World, device: str) -> int:
    """A device appears: into its group, or a new one, and onto the domain the release gives it."""
    at = w.devices[device]
    if at.present and w.group_of(device) is not None:
        raise refuse("EBUSY", f"{device} is there already")
    w.set_device(device, present=True, driver=None)
    if device in w.kernel.machine.no_iommu:
        return 0
    if device not in w.entries:
        behaviours.boot(w, device)
    number = at.group
    joins = number in w.groups
    try:
        if joins:
            _join(w, number, device)
        else:
            w.groups[number] = Group(number, ())
            _add_to_group(w, number, w.device(device))
            _set_default(w, number, scan=False)
    except OSError:
        _unprobe(w, number, device)
        raise
    if w.group_of(device) is None:
        raise refuse("ENODEV", f"{device} could not be attached, so its probe failed")
    _probe_finalize(w, device)
    return 0


def _unprobe(w: World, number: int, device: str) -> None:
    """A device whose probe failed stays on its bus, in no group."""
    behaviours.release(w, device)
    if device in w.groups[number].devices:
        _out_of_group(w, number, device)


def add_device(w: World, device: Device) -> None:
    """The bus has one device more; :func:`probe` makes it appear."""
    machine = replace(w.kernel.machine, devices=(*w.kernel.machine.devices, device))
    w.kernel = replace(w.kernel, machine=machine)
    w.devices[device.name] = DeviceState(device.group, present=False)
    w.master[device.name] = device.master_at_boot


def _join(w: World, number: int, device: str) -> None:
    """A device joins a group that exists, and that may be attached anywhere."""
    group = w.groups[number]
    rule = w.release["late_joiner"]
    if rule == "group-domain":
        _add_to_group(w, number, w.device(device))
        _latch_deferral(w, device)
        if group.default is not None:
            _direct_mappings(w, w.domains[group.default], device)
        if group.domain is not None:
            _set_device_domain(w, group.domain, device, must=False)
        return
    _enter_as_it_is(w, number, device)
    skips = w.devices[device].deferred
    owned = group.owner is not None and rule != "default"
    if group.default is not None and not owned:
        # Up to 6.1 a hot-added device is attached to the default even if its attach is deferred.
        if not skips or w.release["deferred"] == "asked":
            _attach_dev(w, w.domains[group.default], device)
        _direct_mappings(w, w.domains[group.default], device)


def _enter_as_it_is(w: World, number: int, device: str) -> None:
    """``iommu_group_add_device`` up to 6.4: attached where the group is, and only then in it."""
    group = w.groups[number]
    w.set_group(number, devices=(*group.devices, device))
    _latch_deferral(w, device)
    if group.domain is not None and not w.devices[device].deferred:
        try:
            _attach_dev(w, w.domains[group.domain], device)
        except OSError:
            w.set_group(number, devices=group.devices)
            raise
    _tell_added(w, number, device)


def deferred_attach(w: World, device: str) -> None:
    """``iommu_deferred_attach``: the first DMA-API mapping attaches a deferred device."""
    group = w.group_of(device)
    if group is not None and group.default is not None and w.devices[device].deferred:
        _attach_dev(w, w.domains[group.default], device)


VERBS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        attach_device,
        detach_device,
        attach_group,
        detach_group,
        replace_domain,
        claim_dma_owner,
        release_dma_owner,
        claim_device,
        release_device_owner,
        use_default_domain,
        unuse_default_domain,
        set_group_type,
        bind,
        unbind,
        probe,
        remove,
    )
}

NEEDS = {
    "claim_dma_owner": ("ownership", ("group", "device")),
    "release_dma_owner": ("ownership", ("group", "device")),
    "use_default_domain": ("ownership", ("group", "device")),
    "unuse_default_domain": ("ownership", ("group", "device")),
    "claim_device": ("ownership", ("device",)),
    "release_device_owner": ("ownership", ("device",)),
    "replace_domain": ("replace_domain", ("yes",)),
}
"""Verbs that a release may lack: the rule to look at, and the values under which it is there."""
