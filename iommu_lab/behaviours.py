"""Behaviours: how each kind of driver programs the hardware.

The rows of ``data/drivers/drivers.csv`` name a behaviour by one word; here each word is a small
function that takes the workbench, a domain and a device and writes the hardware. What a word means,
with the kernel function it was read from, stands in ``data/drivers/behaviours.csv``.

Nothing here knows about groups' owners or releases' rules: that is the core's business. The one
question asked of the core is the driver's own, ``iommu_get_domain_for_dev``: what is attached now?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .domains import Domain, DomainType
from .errors import KernelCrash, refuse
from .hardware import BLOCK, BYPASS, TOP, Entry, Kind
from .pagetables import format_of, replay
from .state import World
from .tables import EMPTY

Attach = Callable[[World, Domain, str], None]
Leave = Callable[[World, str], None]


# -- domains ------------------------------------------------------------------------------------


def alloc(w: World, kind: DomainType, name: str) -> Domain | None:
    """A domain of this type from the driver, or None when the driver has none to give.

    BLOCKED and IDENTITY come without a page table unless the driver fakes them with one. Some
    drivers make a new object each time, others give out one object that all groups share.
    """
    driver = w.driver
    if kind not in driver.accepts:
        return None
    how = {DomainType.BLOCKED: driver.blocked, DomainType.IDENTITY: driver.identity}.get(kind)
    if kind is DomainType.PLATFORM:
        domain = Domain(f"{driver.name}.platform", kind, static=True)
    elif how in (None, "empty-table", "table-1to1"):
        domain = _paging(w, kind, name)
    elif driver.shares(kind):
        domain = Domain(f"{driver.name}.{kind.name.lower()}", kind, static=True)
    else:
        domain = Domain(name, kind)
    w.domains[domain.name] = domain
    return domain


def _paging(w: World, kind: DomainType, name: str) -> Domain:
    """A domain with a page table of its own, or with the one table of the whole machine."""
    driver = w.driver
    late = driver.aperture_set == "attach"
    table = "gart" if driver.boot == "gart-window" else name
    if table not in w.tables:
        w.tables[table] = EMPTY
    return Domain(
        name,
        kind,
        table=table,
        first=0 if late else driver.first,
        last=TOP if late else min(driver.last, _alloc_limit(w)),
        ready=format_of(w).before_map == "works",
        pgsizes=driver.unattached_pgsizes,
        count=1 if driver.attach == "counted" else 0,
    )


def _alloc_limit(w: World) -> int:
    """The last address that a new domain promises: some promise more than the hardware has."""
    return TOP if w.driver.aperture_set == "narrowed" else _hardware_limit(w)


def _hardware_limit(w: World) -> int:
    return int(2**w.kernel.machine.width) - 1


FOLLOWED = ("device", "device-warn", "unit")
"""Drivers that follow their record of a device's domain when the device leaves it."""


def free(w: World, domain: Domain) -> None:
    """``ops->free``: what becomes of the page table, and of whoever still walks it."""
    if domain.static:
        return
    if domain.freed:
        raise KernelCrash("iommu_domain_free", f"{domain.name} is freed a second time")
    if w.driver.own:
        w.notes.pop(memory_of_domain(domain.name), None)
    _free_what_was_left(w, domain)
    how = w.driver.free
    if how == "crash" and domain.ready and domain.table is not None:
        raise KernelCrash(w.driver.free_function, "it follows the pointer that it has just cleared")
    if w.driver.attach == "at-power-up" and domain.users:
        _leave_powered(w, domain, domain.users[0])
    del w.domains[domain.name]
    mapping = any(note.startswith("mapping") for note in w.where("notes", domain.name))
    if mapping or w.where("groups", domain.name, "domain", "default", "blocking"):
        w.domains[domain.name] = replace(domain, freed=True)
    on = w.where("devices", domain.name, "attached")
    for device in on:
        if how != "freed" or w.driver.keeps not in FOLLOWED:
            w.set_device(device, attached=None)
        elif w.driver.keeps == "unit":
            w.set_device(device, attached=f"the old {domain.name}")  # a new one may have its name
    if domain.table is None or how == "leaks":
        return
    if how in LEAVE and w.driver.attach != "at-power-up":
        for device in on if w.driver.keeps != "domain" else domain.users:
            LEAVE[how](w, device)
    for device in w.where("entries", domain.table, "table"):
        why = f"it walks the page table of {domain.name}, which is freed"
        w.program(device, Entry(Kind.UNKNOWN, why=why))
    w.drop("tables", domain.table)


def _free_what_was_left(w: World, domain: Domain) -> None:
    """Records that :func:`release` could not take off the domain's list go with it (domain_exit).

    Each is told to the device that it points to, and that may be gone.
    """
    for device in [d for d in w.devices if w.notes.get(f"left:{d}") == domain.name]:
        if not w.devices[device].present or f"orphan:{device}" in w.notes:
            raise KernelCrash(
                "__dmar_remove_one_dev_info",
                f"{device} is gone, and a record of {domain.name} still points to it",
            )
        del w.notes[f"left:{device}"]
        w.program(device, replace(BLOCK, why=f"it goes with {domain.name}"))


def current(w: World, device: str) -> Domain | None:
    """``iommu_get_domain_for_dev``: what the core thinks is attached to the device's group."""
    group = w.group_of(device)
    return None if group is None else w.attached(group)


# -- attaching ----------------------------------------------------------------------------------


OWN = {DomainType.BLOCKED: "blocking", DomainType.IDENTITY: "identity"}
"""The name of a reader's own function for each type that has no page table."""


def attach(w: World, domain: Domain, device: str) -> None:
    """``ops->attach_dev`` of the domain: that of its type, or the driver's for page tables.

    Raises the driver's errno. A driver that leaves the old domain first has done so by then.
    """
    if domain.freed:
        raise _after_free(w, domain.name)
    if f"left:{device}" in w.notes:
        _attach_over_what_was_left(w, domain, device)
        return
    plain = domain.table is None
    own = w.driver.own_program(OWN.get(domain.type, "") if plain else "attach")
    if own is not None:
        _not_failing(w, device)
        own(w, domain, device)
        old = w.domains.get(w.devices[device].attached or "")
        if plain and old is not None:
            _unlist(w, old, device)
    elif not plain:
        ATTACH[w.driver.attach](w, domain, device)
    elif domain.type is DomainType.BLOCKED:
        BLOCKED[w.driver.blocked](w, device)
    elif domain.type is DomainType.IDENTITY:
        _not_failing(w, device)
        IDENTITY[w.driver.identity](w, device)
    else:
        _attach_platform(w, device)
    if plain:
        _record(w, device, None if domain.type is DomainType.BLOCKED else domain.name)


def _attach_over_what_was_left(w: World, domain: Domain, device: str) -> None:
    """An old record with the device's address counts as its domain (dmar_insert_one_dev_info)."""
    left = w.notes[f"left:{device}"]
    if left != domain.name:
        raise refuse("EBUSY", f"a record of {device} on {left} was left behind")
    w.notes.pop(f"orphan:{device}", None)
    _record(w, device, domain.name)


def _record(w: World, device: str, domain: str | None) -> None:
    """What the driver itself has on record for the device, and for those it is switched with."""
    for name in w.switched_with(device):
        if w.devices[name].attached != domain:
            w.set_device(name, attached=domain)


def recorded(w: World, device: str) -> Domain | None:
    """The domain that the driver has on record for the device, whatever the core believes."""
    name = w.devices[device].attached
    if name is not None and (name not in w.domains or w.domains[name].freed):
        raise _after_free(w, name)
    return None if name is None else w.domains[name]


def _after_free(w: World, domain: str) -> KernelCrash:
    return KernelCrash(w.driver.body or w.driver.free_function, f"{domain} is freed and followed")


def _not_failing(w: World, device: str) -> None:
    """An attach that was asked to fail fails here, after the driver has left the old domain."""
    errno = w.failing.pop(device, None)
    if errno:
        raise refuse(errno, f"attach of {device} was made to fail")


def write(w: World, device: str, entry: Entry) -> None:
    """A register that a reader's driver writes; its copy, which comes back with power, follows."""
    _end_platform(w, device)
    for name in w.switched_with(device):
        w.notes.pop(f"pending:{name}", None)
    w.program(device, entry)


def enter(w: World, domain: Domain, device: str) -> None:
    """Into the domain as a reader's driver does it, with the records that its base's attach keeps.

    No write comes before the last one: what stands in between is the reader's to say.
    """
    _end_platform(w, device)
    old = w.domains.get(w.devices[device].attached or "")
    how = w.driver.attach
    unit = how == "bypass-first" and w.driver.grouping == "unit"
    again = old is not None and old.name == domain.name and (unit or how == "counted")
    if how == "counted":
        domain = w.set_domain(domain.name, count=domain.count + 1)
        if old is not None and not again and not w.set_domain(old.name, count=old.count - 1).count:
            _record(w, device, None)
    elif how in ("shared-table", "first-table"):
        w.notes[_register(w, device)] = domain.table
    elif how == "at-power-up":
        _power(w, device, 1)
    elif how == "leaves-first" and old is not None:
        _drop(w, old, device)
    elif how == "bypass-first" and old is not None and not again:
        if old.type.paging:
            _forget_clients(w, old, device)
        _drop(w, w.domains[old.name], device)
    if again:
        w.program(device, Entry(Kind.TABLE, domain.table, *_walked(w, domain)))
    else:
        into(w, w.domains[domain.name], device)


def forget(w: World, domain: Domain, device: str) -> None:
    """What the base's detach does to its records, after a reader's detach has written."""
    if w.driver.attach == "counted":
        w.set_domain(domain.name, count=max(0, domain.count - 1))
        _record(w, device, None)
    elif w.driver.keeps != "count" or domain.count:
        _forget(w, domain, device)
    if w.driver.attach == "at-power-up":
        _power(w, device, -1)


def _end_platform(w: World, device: str) -> None:
    """The platform's own table, if the device is on it, is freed with its addresses."""
    entry = w.entries[device]
    if entry.kind is Kind.PLATFORM and entry.table is not None:
        w.tables.pop(entry.table, None)
        w.iovas.pop(entry.table, None)


def memory_of_device(device: str) -> str:
    """The note in which a reader's driver remembers something of a device."""
    return f"own:device:{device}"


def memory_of_domain(domain: str) -> str:
    """The note in which a reader's driver remembers something of a domain."""
    return f"own:domain:{domain}"


STAYS_LISTED = ("domain", "list", "programmed")
"""Drivers that take a device off a domain's list only in their detach function."""


def into(w: World, domain: Domain, device: str) -> None:
    """Point the device at the domain's page table, finishing the domain if this is its first."""
    domain = _listed(w, domain, device)
    w.program(device, Entry(Kind.TABLE, domain.table, *_walked(w, domain)))


def _walked(w: World, domain: Domain) -> tuple[int, int]:
    """First and last address that the hardware looks up: an aperture that is left zero limits none.

    The address of mtk_v1's table is all that its hardware is told.
    """
    if w.driver.aperture_set == "never":
        return 0, TOP
    return _in_range(w, domain.first, domain.last)


def _in_range(w: World, first: int, last: int) -> tuple[int, int]:
    """The addresses that the hardware also takes from a device (zpci_register_ioat)."""
    if not w.driver.dma_range:
        return first, last
    return max(first, w.driver.dma_range[0]), min(last, w.driver.dma_range[1])


def _listed(w: World, domain: Domain, device: str) -> Domain:
    """The domain, finished, with the device on the driver's records of it."""
    domain = _finished(w, domain)
    if not domain.users:
        replay(w, domain)
    users = domain.users if device in domain.users else (*domain.users, device)
    # An attach in place of another domain counts too; only detach counts down (tegra-smmu).
    count = domain.count + (w.driver.keeps == "count")
    domain = w.set_domain(domain.name, users=users, count=count)
    old = w.devices[device].attached
    if old in w.domains and old != domain.name and w.driver.keeps not in STAYS_LISTED:
        _unlist(w, w.domains[old], device)
    _record(w, device, domain.name)
    w.notes.pop(f"pending:{device}", None)
    return domain


def _finished(w: World, domain: Domain) -> Domain:
    """The domain with what only an attach can tell: its aperture and page sizes, or its table."""
    if not domain.ready:
        last = min(w.driver.last, _hardware_limit(w))
        domain = w.set_domain(domain.name, ready=True, first=w.driver.first, last=last, pgsizes=0)
        w.tables.setdefault(domain.table or domain.name, EMPTY)
    return narrowed(w, domain)


def narrowed(w: World, domain: Domain) -> Domain:
    """The domain with the width and the page sizes of the hardware, if it promised others."""
    if w.driver.aperture_set != "narrowed":
        return domain
    last = min(domain.last, _hardware_limit(w))
    return w.set_domain(domain.name, last=last, pgsizes=0)


def _unlist(w: World, domain: Domain, device: str) -> None:
    w.set_domain(domain.name, users=tuple(u for u in domain.users if u != device))


def attach_plain(w: World, domain: Domain, device: str) -> None:
    """The new entry takes the old one's place.

    A platform's own table is unregistered and freed first, and made anew when the attach fails.
    """
    entry = w.entries[device]
    platform = entry.kind is Kind.PLATFORM and entry.table is not None
    if platform:
        _end_platform(w, device)
        w.program(device, replace(BLOCK, why="no translation is registered"))
    try:
        _not_failing(w, device)
    except OSError:
        if platform:
            leave_platform(w, device)
        raise
    into(w, domain, device)


def attach_leaves_first(w: World, domain: Domain, device: str) -> None:
    """The old entry is taken away before the new one is written; a failure leaves it away."""
    locked = w.locked(device)
    if w.driver.attach_errno and domain.type is DomainType.UNMANAGED and locked:
        raise refuse(w.driver.attach_errno, f"{device} is locked to its firmware's direct regions")
    _leave_first(w, device, w.driver.leaves_on_release)
    if w.driver.aperture_set == "narrowed" and _highest(w, domain) > _hardware_limit(w):
        raise refuse(
            "EINVAL" if w.release["attach.misfit"] == "EINVAL" else "EFAULT",
            f"{domain.name} has a mapping beyond the {w.kernel.machine.width} bits of the hardware",
        )
    _not_failing(w, device)
    into(w, domain, device)


def _leave_first(w: World, device: str, how: str) -> None:
    """Leave the domain on record, if there is one, before the next is entered."""
    old = recorded(w, device)
    entry = w.entries[device]
    if entry.kind is Kind.PLATFORM and entry.table is not None:
        _end_platform(w, device)
        w.program(device, replace(BLOCK, why="no translation is registered"))
    elif old is not None:
        LEAVE[how](w, device)
        _drop(w, old, device)


def _drop(w: World, domain: Domain, device: str) -> None:
    """The driver takes the device off its records of the domain."""
    _record(w, device, None)
    _unlist(w, domain, device)


def _highest(w: World, domain: Domain) -> int:
    table = w.table(domain.table)
    return table[len(table) - 1].end - 1 if len(table) else 0


def attach_bypass_first(w: World, domain: Domain, device: str) -> None:
    """The old domain is left by switching translation off, then the new one is switched on."""
    old = recorded(w, device)
    if w.driver.grouping == "unit" and old is not None and old.name == domain.name:
        return
    if old is not None and old.type.paging:
        if w.device(device).powered:
            w.program(device, replace(BYPASS, why="between two domains"))
        _forget_clients(w, old, device)
        _drop(w, old, device)
    _not_failing(w, device)
    into(w, domain, device)


def _forget_clients(w: World, domain: Domain, device: str) -> None:
    """Leaving takes all units off the domain's list: the others stay off at their next power-up.

    So exynos_iommu_detach_device; rk_iommu_detach_device unlinks its own unit alone.
    """
    if w.driver.keeps == "unit":
        return
    for other in w.domains[domain.name].users:
        if other not in w.switched_with(device):
            why = "its unit was taken off the list when another device left, and was not resumed"
            w.notes[f"pending:{other}"] = replace(BYPASS, why=why)
    w.set_domain(domain.name, users=())


def attach_once(w: World, domain: Domain, device: str) -> None:
    """Only a domain's first attach writes the context bank; later ones say yes and do nothing."""
    _not_failing(w, device)
    if not domain.ready:
        into(w, domain, device)


def attach_one_device(w: World, domain: Domain, device: str) -> None:
    """The domain takes a single device, and counts it as attached until the driver's detach."""
    if domain.users:
        raise refuse(
            w.driver.attach_errno or "EBUSY",
            f"{domain.name} still counts {domain.users[0]} as attached",
        )
    _not_failing(w, device)
    into(w, domain, device)


def attach_at_power_up(w: World, domain: Domain, device: str) -> None:
    """One device a domain, and a unit that reads its table's address only when it gets power.

    Every attach takes a power reference. A domain attached over another is not what the unit walks
    until it has been down.
    """
    if domain.users:
        raise refuse(
            w.driver.attach_errno or "EBUSY",
            f"{domain.name} still counts {domain.users[0]} as attached",
        )
    _not_failing(w, device)
    domain = _listed(w, domain, device)
    entry = Entry(Kind.TABLE, domain.table, *_walked(w, domain))
    if _power(w, device, 1) == 1:
        w.program(device, entry)
    else:
        w.notes[f"pending:{device}"] = entry


def _power(w: World, device: str, change: int) -> int:
    """How many power references the device's unit has after this change."""
    place = f"power:{w.devices[device].group}"
    count = int(w.notes.get(place, 0)) + change
    if count > 0:
        w.notes[place] = count
    else:
        w.notes.pop(place, None)
    return count


def _leave_powered(w: World, domain: Domain, device: str) -> None:
    """A power reference goes, and with the last one the unit; the domain's table is freed."""
    _forget(w, domain, device)
    for name in w.switched_with(device):
        w.notes.pop(f"pending:{name}", None)
    if _power(w, device, -1) <= 0:
        leave_bypass(w, device)
        return
    if w.entries[device].table == domain.table:
        why = f"it walks the page table of {domain.name}, which is freed"
        w.program(device, Entry(Kind.UNKNOWN, why=why))
    why = "no table was left to be read when its unit came back to power"
    w.notes[f"pending:{device}"] = replace(BYPASS, why=why)


def attach_shared_table(w: World, domain: Domain, device: str) -> None:
    """All domains of one IOMMU use the first one's page table; its address is written once.

    A group stands for an IOMMU here. A domain that has a table from another IOMMU keeps it.
    """
    _not_failing(w, device)
    written = w.notes.get(_register(w, device))
    if written is not None and not domain.ready:
        w.tables.pop(domain.table or "", None)
        domain = w.set_domain(domain.name, table=written)
    _into_what_is_written(w, domain, device)


def attach_first_table(w: World, domain: Domain, device: str) -> None:
    """Each domain has a table, and only the first one that was attached reaches the hardware."""
    _not_failing(w, device)
    _into_what_is_written(w, domain, device)


def _register(w: World, device: str) -> str:
    return f"base-register:{w.devices[device].group}"


def _into_what_is_written(w: World, domain: Domain, device: str) -> None:
    """Attach, and walk the table whose address the IOMMU's register got first."""
    written = w.notes.setdefault(_register(w, device), domain.table)
    domain = _listed(w, domain, device)
    w.program(device, Entry(Kind.TABLE, str(written), *_walked(w, domain)))


def attach_foreign_ignored(w: World, domain: Domain, device: str) -> None:
    """Any domain but the one that the driver made for itself is accepted and ignored."""
    _not_failing(w, device)
    if domain.name == w.notes.get("mapping"):
        into(w, domain, device)


def attach_one_domain(w: World, domain: Domain, device: str) -> None:
    """One domain at a time for the whole machine; attaching is book-keeping alone."""
    active = w.notes.get("active-domain")
    if active not in (None, domain.name):
        raise refuse(w.driver.attach_errno or "EBUSY", f"{active} is active on the whole machine")
    _not_failing(w, device)
    if w.devices[device].attached != domain.name:
        _record(w, device, domain.name)
        w.notes["active-domain"] = domain.name
        w.notes["active-devices"] = w.notes.get("active-devices", 0) + 1


def _leave_one_domain(w: World, device: str) -> None:
    """The domain is free for others once the count of devices is back at zero."""
    _record(w, device, None)
    w.notes["active-devices"] = w.notes.get("active-devices", 0) - 1
    if w.notes["active-devices"] == 0:
        w.notes.pop("active-domain", None)


def attach_identity_window(w: World, domain: Domain, device: str) -> None:
    """An UNMANAGED domain is a 1:1 window; the old entry is made invalid first."""
    w.program(device, replace(BLOCK, why="the old entry was made invalid"))
    _not_failing(w, device)
    _record(w, device, domain.name)
    w.program(
        device, Entry(Kind.BYPASS, first=0, last=w.driver.last, why="a 1:1 window with all rights")
    )


def attach_window_later(w: World, domain: Domain, device: str) -> None:
    """The old entry is made invalid; the new domain's windows are set up by calls of their own."""
    if w.devices[device].attached not in (None, domain.name):
        leave_invalidate(w, device)
    _not_failing(w, device)
    _record(w, device, domain.name)


def attach_frees_old(w: World, domain: Domain, device: str) -> None:
    """Written for pairs of attach and detach: the table of a domain it leaves is freed as if it
    were the platform's.
    """
    entry = w.entries[device]
    w.program(device, replace(BLOCK, why="no translation is registered"))
    if entry.kind is Kind.TABLE and entry.table is not None:
        w.warn("zpci_dma_exit_device", f"{device} is not with the platform; {entry.table} is freed")
    if entry.table is not None:
        w.tables[entry.table] = EMPTY
        w.iovas.pop(entry.table, None)
    try:
        _not_failing(w, device)
    except OSError:
        leave_platform(w, device)
        raise
    into(w, domain, device)


def attach_unknown_first(w: World, domain: Domain, device: str) -> None:
    """The unit is switched off and on again around the switch; what off means is not known."""
    if w.devices[device].attached == domain.name:
        return
    leave_unknown(w, device)
    _not_failing(w, device)
    into(w, domain, device)


def attach_counted(w: World, domain: Domain, device: str) -> None:
    """A reference count that starts at one decides whether leaving touches the hardware."""
    domain = w.set_domain(domain.name, count=domain.count + 1)
    old = recorded(w, device)
    if old is not None and old.name == domain.name:
        return
    if old is not None:
        _leave_counted(w, old, device)
    _not_failing(w, device)
    into(w, w.domains[domain.name], device)


def attach_msm(w: World, domain: Domain, device: str) -> None:
    """Each attach makes a new page table and takes a context bank; the bank's number is kept.

    A device whose bank isn't number 0 can't attach again. A domain that was detached still has the
    IOMMU on its list; a second entry makes the list endless.
    """
    number = int(w.notes.get(f"tables:{domain.name}", 0)) + 1
    w.notes[f"tables:{domain.name}"] = number
    table = domain.name if number == 1 else f"{domain.name}#{number}"
    w.tables[table] = EMPTY
    domain = w.set_domain(domain.name, table=table, ready=True)
    bank = w.notes.get(f"bank:{device}")
    if bank:
        raise refuse("EEXIST", f"{device} already has context bank {bank}")
    _not_failing(w, device)
    banks = w.notes.get(f"banks:{device}", ())
    bank = next(b for b in range(len(banks) + 1) if b not in banks)
    w.notes[f"banks:{device}"] = (*banks, bank)
    w.notes[f"bank:{device}"] = bank
    if device in domain.users:
        w.notes[f"list:{domain.name}"] = "endless"
    into(w, domain, device)


def _leave_msm(w: World, domain: Domain, device: str) -> None:
    """The page table is freed while the context still walks it, then the context is reset."""
    w.program(device, Entry(Kind.UNKNOWN, why="it walks a page table that detach has just freed"))
    if w.notes.get(f"list:{domain.name}") == "endless":
        raise KernelCrash(
            w.driver.body, "the IOMMU is on the domain's list twice, and the walk never ends"
        )
    bank = w.notes.get(f"bank:{device}")
    w.notes[f"banks:{device}"] = tuple(b for b in w.notes[f"banks:{device}"] if b != bank)
    w.tables.pop(domain.table or "", None)
    w.set_domain(domain.name, ready=False)
    _record(w, device, None)
    leave_bypass(w, device)


def _attach_platform(w: World, device: str) -> None:
    """PLATFORM as default domain (6.7 and later): the platform's DMA ops get the device back."""
    old = current(w, device)
    if old is None:
        return
    if w.driver.leave == "invalidate":
        if old.type is DomainType.UNMANAGED:
            leave_invalidate(w, device)
    else:
        LEAVE[w.driver.leave](w, device)


ATTACH: dict[str, Attach] = {
    "plain": attach_plain,
    "leaves-first": attach_leaves_first,
    "bypass-first": attach_bypass_first,
    "once": attach_once,
    "one-device": attach_one_device,
    "at-power-up": attach_at_power_up,
    "shared-table": attach_shared_table,
    "first-table": attach_first_table,
    "foreign-ignored": attach_foreign_ignored,
    "one-domain": attach_one_domain,
    "identity-window": attach_identity_window,
    "window-later": attach_window_later,
    "frees-old": attach_frees_old,
    "unknown-first": attach_unknown_first,
    "counted": attach_counted,
    "msm": attach_msm,
}


# -- leaving ------------------------------------------------------------------------------------


def leave_block(w: World, device: str) -> None:
    w.program(device, BLOCK)


def leave_bypass(w: World, device: str) -> None:
    w.program(device, BYPASS)


def leave_platform(w: World, device: str) -> None:
    """The platform's DMA ops get the device back, with a new and empty table of their own."""
    w.program(device, replace(BLOCK, why="no translation is registered"))
    name = f"{device}.platform"
    w.tables[name] = EMPTY
    w.iovas.pop(name, None)
    w.program(
        device,
        Entry(
            Kind.PLATFORM,
            name,
            *_in_range(w, w.driver.first, w.driver.last),
            why="the platform's DMA ops have the device back",
        ),
    )


def leave_platform_table(w: World, device: str) -> None:
    """The platform's window is given back as it was (powerpc release_ownership)."""
    name = f"{device}.platform"
    w.tables.setdefault(name, EMPTY)
    w.program(
        device,
        Entry(
            Kind.PLATFORM,
            name,
            0,
            w.driver.last or 2**64 - 1,
            why="the platform's DMA ops have the device",
        ),
    )


def leave_keep(w: World, device: str) -> None:
    """A bit is cleared in memory; the register follows at the bus's next power cycle.

    On MediaTek's infra M4U the bit is the register (mtk_iommu_config).
    """
    if w.device(device).infra:
        w.program(device, BYPASS)
        return
    w.notes[f"pending:{device}"] = replace(BYPASS, why="rewritten when its bus came back to power")


def leave_noop(w: World, device: str) -> None:
    """Book-keeping only."""


def leave_unknown(w: World, device: str) -> None:
    w.program(
        device,
        Entry(
            Kind.UNKNOWN,
            why="the MMU is switched off, and nothing says whether that passes or stops DMA",
        ),
    )


def leave_invalidate(w: World, device: str) -> None:
    w.program(device, replace(BLOCK, why="the entry was made invalid"))


def leave_smmu(w: World, device: str) -> None:
    """A stream without a domain: stopped or let through, by the module parameter disable_bypass."""
    w.program(device, BLOCK if w.kernel.disable_bypass else BYPASS)


def leave_device_config(w: World, device: str) -> None:
    """The device decides by its own configuration what an endpoint without a domain may do."""
    w.program(device, BYPASS if w.kernel.device_bypass else BLOCK)


LEAVE: dict[str, Leave] = {
    "block": leave_block,
    "bypass": leave_bypass,
    "platform-new-table": leave_platform,
    "platform-table": leave_platform_table,
    "keep": leave_keep,
    "noop": leave_noop,
    "unknown": leave_unknown,
    "invalidate": leave_invalidate,
    "abort-or-bypass": leave_smmu,
    "device-config": leave_device_config,
    "none": leave_noop,
    "": leave_noop,
}


def _leave_counted(w: World, domain: Domain, device: str) -> None:
    count = domain.count - 1
    w.set_domain(domain.name, count=count)
    if count == 0:
        _record(w, device, None)
        w.program(device, replace(BYPASS, why="the last reference went and the IOMMU was disabled"))


def _is_on(w: World, domain: Domain, device: str) -> bool:
    """Will the driver's detach act on this domain and device? It asks its own records."""
    keeps, attached = w.driver.keeps, w.devices[device].attached
    if keeps == "count" and not domain.count:
        raise KernelCrash(
            w.driver.body, f"{domain.name} has no IOMMU yet, and its NULL is followed"
        )
    if keeps == "programmed" and not domain.ready and w.driver.attach == "once":
        w.warn(w.driver.body, f"{domain.name} was never attached")
    if keeps == "device-warn" and attached != domain.name:
        w.warn(w.driver.body, f"{device} is not on {domain.name}")
    return {
        "device": attached == domain.name,
        "unit": attached == domain.name,
        "device-any": attached is not None,
        "device-warn": attached is not None,
        "list": device in domain.users,
        "domain": device in domain.users,
        "programmed": domain.ready,
    }.get(keeps, True)


def detach(w: World, domain: Domain | None, device: str) -> None:
    """The body of the driver's old ``detach_dev``, under whatever name the release calls it.

    ``domain`` is what the caller hands over. Handed nothing, most drivers follow a NULL pointer.
    """
    driver = w.driver
    own = driver.own_program("detach")
    if domain is None and own is None:
        if driver.null_crash:
            would = f"with one it would have left the device {SAYS[driver.leave]}"
            text = f"handed no domain, it follows a NULL pointer; {would}"
            raise KernelCrash(driver.body, text)
        if driver.attach == "one-domain" and w.devices[device].attached is None:
            _leave_one_domain(w, device)
        return
    if domain is not None and domain.freed and driver.keeps != "device-any":
        raise _after_free(w, domain.name)
    name = "" if domain is None else domain.name
    w.event("driver", driver.body, device=device, domain=name)
    if own is not None:
        own(w, domain, device)
    elif domain is not None and _is_on(w, domain, device):
        _leave(w, domain, device)


def _leave(w: World, domain: Domain, device: str) -> None:
    driver = w.driver
    if driver.attach == "counted":
        _leave_counted(w, domain, device)
    elif driver.attach == "msm":
        _leave_msm(w, domain, device)
    elif driver.attach == "one-domain":
        _leave_one_domain(w, device)
    elif driver.attach == "at-power-up":
        _leave_powered(w, domain, device)
    else:
        _forget(w, domain, device)
        LEAVE[driver.leave](w, device)


def _forget(w: World, domain: Domain, device: str) -> None:
    """Take the device off the records; some drivers throw the page table away with it."""
    if domain.table is None:
        _record(w, device, None)
        return
    if w.driver.attach == "bypass-first":
        _forget_clients(w, domain, device)
    _drop(w, w.domains[domain.name], device)
    if w.driver.attach in ("one-device", "at-power-up"):
        w.set_domain(domain.name, ready=False)
        w.tables[domain.table] = EMPTY
    if w.driver.keeps == "count":
        count = domain.count - 1
        w.set_domain(domain.name, count=count, ready=count > 0)


SAYS = {
    "block": "blocked",
    "bypass": "in bypass, with all of memory in reach",
    "platform-table": "with the platform's own table",
    "platform-new-table": "with the platform's DMA ops, on a new and empty table",
    "keep": "translating as before",
    "noop": "as it was",
    "unknown": "with the MMU off, in a state that nobody has described",
    "invalidate": "blocked, its entry invalid",
    "none": "as it was",
}


# -- static domains, boot, release ---------------------------------------------------------------


def _block_as_detach(w: World, device: str) -> None:
    """The patch of August 2022: a blocking domain whose attach calls the old detach."""
    old = current(w, device)
    if old is not None and old.static:
        if w.driver.null_crash:
            text = "it reads driver data beside an object without any"
            raise KernelCrash(w.driver.body, f"handed the static blocking object, {text}")
        return  # the drivers that look into no domain have left theirs by now
    detach(w, old, device)


def _identity_as_detach(w: World, device: str) -> None:
    """6.7 and later: the old detach body as the attach of an identity domain."""
    own_record = w.driver.keeps in ("device", "unit")
    old = recorded(w, device) if own_record else current(w, device)
    if old is not None and old.type is not DomainType.IDENTITY:
        detach(w, old, device)


BLOCKED: dict[str, Leave] = {
    "block": leave_block,
    "as-detach": _block_as_detach,
    "noop": leave_noop,
}
IDENTITY: dict[str, Leave] = {"bypass": leave_bypass, "as-detach": _identity_as_detach}


def boot(w: World, device: str) -> None:
    """What the hardware does with the device before anything is attached.

    A device that comes late to a unit with one translation for all finds what the others have.
    """
    for other in w.switched_with(device):
        if other != device and other in w.entries:
            w.entries[device] = w.entries[other]
            if w.driver.keeps == "unit":
                w.set_device(device, attached=w.devices[other].attached)
            return
    how = w.driver.boot
    if how == "identity-window":
        entry = Entry(Kind.BYPASS, first=0, last=w.driver.last, why="a 1:1 window since boot")
    elif how == "gart-window":
        w.tables.setdefault("gart", EMPTY)
        entry = Entry(Kind.TABLE, "gart", w.driver.first, w.driver.last, outside="bypass")
    elif how == "mock":
        entry = Entry(Kind.UNKNOWN, why="a mock device in software makes no DMA")
    elif how == "platform-table" and w.driver.leave == "platform-new-table":
        leave_platform(w, device)
        return
    elif how in LEAVE:
        LEAVE[how](w, device)
        return
    else:
        raise ValueError(f"no boot behaviour named {how!r} for {w.driver.name}")
    w.program(device, entry)


def release(w: World, device: str, *, parked: bool = False) -> None:
    """``ops->release_device``: the device goes away from its IOMMU.

    A device that the core has ``parked`` on a release domain stays there: the driver then only
    gives up its own records (intel_iommu_release_device, amd_iommu_release_device; 7.2).

    A driver that has no domain on record for it has nothing to leave. Where the record is kept by
    the domain, it goes on counting a device that is gone; where by the unit, it stays (rk_iommu
    and sun50i_iommu have it in a struct that outlives every device).
    """
    of_unit = w.driver.keeps == "unit"
    old = None if of_unit else recorded(w, device)
    if _is_unfound(w, device):
        kept = f"left:{device}" in w.notes and old is None
        w.notes[f"orphan:{device}" if kept else f"left:{device}"] = old.name if old else "yes"
        return
    if old is not None and not parked and w.driver.leaves_on_release != "keep":
        LEAVE[w.driver.leaves_on_release](w, device)
    if old is not None and w.driver.keeps not in STAYS_LISTED:
        _drop(w, old, device)
    if not of_unit:
        w.set_device(device, attached=None)
    if w.driver.own:
        w.notes.pop(memory_of_device(device), None)


def _is_unfound(w: World, device: str) -> bool:
    """Is the device off its unit's list before the driver looks for its unit (device_to_iommu)?"""
    listed = w.driver.known_as == "intel" and w.device(device).listed
    known = f"left:{device}" in w.notes or w.devices[device].attached is not None
    return listed and known and w.release["intel.release"] == "finds-its-unit"


def power_cycle(w: World, device: str) -> None:
    """The device's bus goes to sleep and wakes: registers are rewritten from the driver's copy."""
    entry = w.notes.pop(f"pending:{device}", None)
    if entry is not None:
        w.program(device, entry)
