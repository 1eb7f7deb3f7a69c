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
from .pagetables import format_of
from .state import World
from .tables import EMPTY

Attach = Callable[[World, Domain, str], None]
Leave = Callable[[World, str], None]


# -- domains ------------------------------------------------------------------------------------


def alloc(w: World, kind: DomainType, name: str) -> Domain | None:
    """A domain of this type from the driver, or None when the driver has none to give.

    BLOCKED and IDENTITY come without a page table unless the driver fakes them with one.
    """
    driver = w.driver
    if kind not in driver.accepts:
        return None
    how = {DomainType.BLOCKED: driver.blocked, DomainType.IDENTITY: driver.identity}.get(kind)
    if how not in (None, "empty-table", "table-1to1"):
        domain = Domain(f"{driver.name}.{kind.name.lower()}", kind, static=True)
    elif kind is DomainType.PLATFORM:
        domain = Domain(f"{driver.name}.platform", kind, static=True)
    else:
        late = driver.aperture_set == "attach"
        form = format_of(w)
        domain = Domain(
            name,
            kind,
            table=name,
            first=0 if late else driver.first,
            last=TOP if late else min(driver.last, _alloc_limit(w)),
            ready=form.before_map == "works",
            pgsizes=driver.unattached_pgsizes,
            count=1,
        )
        w.tables[name] = EMPTY
    w.domains[domain.name] = domain
    return domain


def _alloc_limit(w: World) -> int:
    """The last address that a new domain promises: some promise more than the hardware has."""
    return TOP if w.driver.aperture_set == "narrowed" else _hardware_limit(w)


def _hardware_limit(w: World) -> int:
    return int(2**w.kernel.machine.width) - 1


def free(w: World, domain: Domain) -> None:
    """``ops->free``: the page table's memory goes, whoever still walks it."""
    if domain.static:
        return
    del w.domains[domain.name]
    w.notes.pop(f"shared:{domain.name}", None)
    if domain.table is None or w.notes.get("shared-table") == domain.table:
        return
    for device, entry in list(w.entries.items()):
        if entry.table == domain.table:
            w.program(
                device,
                Entry(
                    Kind.UNKNOWN, why=f"it walks the page table of {domain.name}, which is freed"
                ),
            )
    w.tables.pop(domain.table, None)


def current(w: World, device: str) -> Domain | None:
    """``iommu_get_domain_for_dev``: what the core thinks is attached to the device's group."""
    group = w.group_of(device)
    return None if group is None else w.attached(group)


# -- attaching ----------------------------------------------------------------------------------


OWN = {DomainType.BLOCKED: "blocking", DomainType.IDENTITY: "identity"}
"""The name of a reader's own function for each static domain."""


def attach(w: World, domain: Domain, device: str) -> None:
    """``ops->attach_dev`` or, for a static domain, that domain's own attach.

    Raises the driver's errno. A driver that leaves the old domain first has done so by then.
    """
    own = w.driver.own_program(OWN.get(domain.type, "attach") if domain.static else "attach")
    if own is not None:
        _not_failing(w, device)
        own(w, domain, device)
    elif domain.static and domain.type is DomainType.BLOCKED:
        BLOCKED[w.driver.blocked](w, device)
    elif domain.static and domain.type is DomainType.IDENTITY:
        _not_failing(w, device)
        IDENTITY[w.driver.identity](w, device)
    elif domain.static:
        _attach_platform(w, device)
    else:
        ATTACH[w.driver.attach](w, domain, device)


def _not_failing(w: World, device: str) -> None:
    """An attach that was asked to fail fails here, after the driver has left the old domain."""
    errno = w.failing.pop(device, None)
    if errno:
        raise refuse(errno, f"attach of {device} was made to fail")


def into(w: World, domain: Domain, device: str) -> None:
    """Point the device at the domain's page table, finishing the domain if this is its first."""
    if not domain.ready:
        last = min(w.driver.last, _hardware_limit(w))
        domain = w.set_domain(domain.name, ready=True, first=w.driver.first, last=last)
        w.tables.setdefault(domain.table or domain.name, EMPTY)
    if w.driver.aperture_set == "narrowed":
        # Only now is it known which IOMMU walks the table: how wide it is, and its large pages.
        last = min(domain.last, _hardware_limit(w))
        domain = w.set_domain(domain.name, last=last, pgsizes=0)
    users = domain.users if device in domain.users else (*domain.users, device)
    w.set_domain(domain.name, users=users)
    for other in list(w.domains.values()):
        if other.name != domain.name and device in other.users and w.driver.attach != "one-device":
            w.set_domain(other.name, users=tuple(u for u in other.users if u != device))
    w.program(device, Entry(Kind.TABLE, domain.table, domain.first, domain.last))


def attach_plain(w: World, domain: Domain, device: str) -> None:
    """The new entry takes the old one's place; a platform's own table is unregistered and freed."""
    _leave_platform(w, device)
    _not_failing(w, device)
    into(w, domain, device)


def _leave_platform(w: World, device: str) -> None:
    """zpci_dma_exit_device: the platform's table is unregistered and its memory is freed."""
    entry = w.entries[device]
    if entry.kind is Kind.PLATFORM and entry.table:
        w.program(device, replace(BLOCK, why="no translation is registered"))
        w.tables.pop(entry.table, None)
        w.iovas.pop(entry.table, None)


def attach_leaves_first(w: World, domain: Domain, device: str) -> None:
    """The old entry is taken away before the new one is written; a failure leaves it away."""
    locked = any(r.type == "direct" for r in w.device(device).reserved)
    if w.driver.attach_errno and domain.type is DomainType.UNMANAGED and locked:
        raise refuse(w.driver.attach_errno, f"{device} is locked to its firmware's direct regions")
    _leave_platform(w, device)
    if current(w, device) is not None:
        LEAVE[w.driver.leaves_on_release](w, device)
    _not_failing(w, device)
    into(w, domain, device)


def attach_bypass_first(w: World, domain: Domain, device: str) -> None:
    """The old domain is left by switching translation off, then the new one is switched on."""
    if current(w, device) is not None and w.device(device).powered:
        w.program(device, replace(BYPASS, why="between two domains"))
    _not_failing(w, device)
    into(w, domain, device)


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


def attach_shared_table(w: World, domain: Domain, device: str) -> None:
    """All domains of one IOMMU use the first one's page table; its address is written once."""
    _not_failing(w, device)
    shared = w.notes.setdefault("shared-table", domain.table)
    if domain.table != shared:
        w.tables.pop(domain.table or "", None)
        domain = w.set_domain(domain.name, table=shared)
    into(w, domain, device)
    w.notes.pop(f"pending:{device}", None)


def attach_first_table(w: World, domain: Domain, device: str) -> None:
    """Each domain has a table, and only the first one that was attached reaches the hardware."""
    _not_failing(w, device)
    first = w.notes.setdefault("first-domain", domain.name)
    if domain.name == first:
        into(w, domain, device)
        return
    if not domain.ready:
        w.set_domain(domain.name, ready=True, first=w.driver.first, last=w.driver.last)
    if first in w.domains:
        into(w, w.domains[str(first)], device)


def attach_foreign_ignored(w: World, domain: Domain, device: str) -> None:
    """Any domain but the one that the driver made for itself is accepted and ignored."""
    _not_failing(w, device)
    if domain.name == w.notes.get(f"mapping:{device}"):
        into(w, domain, device)


def attach_one_domain(w: World, domain: Domain, device: str) -> None:
    """One domain at a time for the whole machine; attaching is book-keeping alone."""
    active = w.notes.get("active-domain")
    if active not in (None, domain.name):
        raise refuse(w.driver.attach_errno or "EBUSY", f"{active} is active on the whole machine")
    _not_failing(w, device)
    w.notes["active-domain"] = domain.name
    if device not in domain.users:
        w.set_domain(domain.name, users=(*domain.users, device))


def attach_identity_window(w: World, domain: Domain, device: str) -> None:
    """An UNMANAGED domain is a 1:1 window; the old entry is made invalid first."""
    if current(w, device) is not None:
        w.program(device, replace(BLOCK, why="the old entry was made invalid"))
    _not_failing(w, device)
    w.program(
        device, Entry(Kind.BYPASS, first=0, last=w.driver.last, why="a 1:1 window with all rights")
    )


def attach_window_later(w: World, domain: Domain, device: str) -> None:
    """The old entry is made invalid; the new domain's windows are set up by calls of their own."""
    if current(w, device) is not None:
        leave_invalidate(w, device)
    _not_failing(w, device)


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
    if current(w, device) is not None:
        leave_unknown(w, device)
    _not_failing(w, device)
    into(w, domain, device)


def attach_counted(w: World, domain: Domain, device: str) -> None:
    """A reference count that starts at one decides whether leaving touches the hardware."""
    domain = w.set_domain(domain.name, count=domain.count + 1)
    active = w.notes.get("active-domain")
    if active == domain.name:
        return
    if active is not None and active in w.domains:
        _leave_counted(w, w.domains[active], device)
    _not_failing(w, device)
    w.notes["active-domain"] = domain.name
    into(w, domain, device)


def attach_msm(w: World, domain: Domain, device: str) -> None:
    """Each attach takes a context bank; a device whose bank isn't number 0 can't attach again."""
    if w.notes.get(f"bank:{device}"):
        raise refuse("EEXIST", f"{device} already has context bank {w.notes[f'bank:{device}']}")
    _not_failing(w, device)
    banks = w.notes.get("banks", ())
    bank = next(b for b in range(len(banks) + 1) if b not in banks)
    w.notes["banks"] = (*banks, bank)
    w.notes[f"bank:{device}"] = bank
    into(w, domain, device)


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
            w.driver.first,
            w.driver.last,
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
    """No register is written now; what a later power cycle writes is only remembered."""
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
        w.notes.pop("active-domain", None)
        w.program(device, replace(BYPASS, why="the last reference went and the IOMMU was disabled"))


def detach(w: World, domain: Domain | None, device: str) -> None:
    """The body of the driver's old ``detach_dev``, under whatever name the release calls it.

    ``domain`` is what the caller hands over. Handed nothing, most drivers follow a NULL pointer.
    """
    driver = w.driver
    if domain is None:
        if driver.null_crash:
            raise KernelCrash(
                driver.body,
                "handed no domain, it follows a NULL pointer; with one it would have left the device "
                f"{SAYS[driver.leave]}",
            )
        return
    w.event("driver", driver.body, device=device, domain=domain.name)
    own = driver.own_program("detach")
    if own is not None:
        own(w, domain, device)
        return
    if driver.attach == "counted":
        if w.notes.get("active-domain") == domain.name:
            _leave_counted(w, domain, device)
        return
    if driver.attach == "one-device" and device not in domain.users:
        return
    if driver.attach == "one-domain":
        remaining = tuple(u for u in domain.users if u != device)
        w.set_domain(domain.name, users=remaining)
        if not remaining:
            w.notes.pop("active-domain", None)
    if driver.attach == "msm":
        w.notes["banks"] = tuple(
            b for b in w.notes.get("banks", ()) if b != w.notes.get(f"bank:{device}")
        )
    if not domain.static:
        _forget(w, domain, device)
    LEAVE[driver.leave](w, device)


def _forget(w: World, domain: Domain, device: str) -> None:
    """Take the device off the domain's list; some drivers throw the page table away with it."""
    w.set_domain(domain.name, users=tuple(u for u in domain.users if u != device))
    if w.driver.attach == "one-device" and domain.table:
        w.set_domain(domain.name, ready=False, first=0, last=2**64 - 1)
        w.tables[domain.table] = EMPTY


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
        raise KernelCrash(
            w.driver.body,
            "handed the static blocking object, it reads driver data beside an object without any",
        )
    detach(w, old, device)


def _identity_as_detach(w: World, device: str) -> None:
    """6.7 and later: the old detach body as the attach of an identity domain."""
    old = current(w, device)
    if old is not None and old.type is not DomainType.IDENTITY:
        detach(w, old, device)


BLOCKED: dict[str, Leave] = {
    "block": leave_block,
    "as-detach": _block_as_detach,
    "noop": leave_noop,
}
IDENTITY: dict[str, Leave] = {"bypass": leave_bypass, "as-detach": _identity_as_detach}


def boot(w: World, device: str) -> None:
    """What the hardware does with the device before anything is attached."""
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


def release(w: World, device: str) -> None:
    """``ops->release_device``: the device goes away from its IOMMU."""
    if w.driver.leaves_on_release != "keep":
        LEAVE[w.driver.leaves_on_release](w, device)
    if w.driver.attach == "one-device":
        return  # the domain goes on counting the device that is gone
    for domain in list(w.domains.values()):
        if device in domain.users:
            w.set_domain(domain.name, users=tuple(u for u in domain.users if u != device))


def power_cycle(w: World, device: str) -> None:
    """The device's bus goes to sleep and wakes: registers are rewritten from the driver's copy."""
    entry = w.notes.pop(f"pending:{device}", None)
    if entry is not None:
        w.program(device, entry)
