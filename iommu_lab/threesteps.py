"""The three steps of the mail, done for one driver by running the model.

The reply of 26 August 2022 asks three things of each driver. Is a default domain always *set*, so
that ``detach_dev`` can't be called? If so, does that function block, or bypass, or neither? If not,
it should be renamed to what it does. Nothing here is typed in: each answer is what the hardware of
a small lab does after the verbs have run, judged by the checker or by :mod:`iommu_lab.reach`.

Where this stops: an answer is as good as the driver's row; one that stands on an inference is an
inference, which the audit and the cards say.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from . import behaviours
from .drivers import Driver
from .errors import KernelCrash, NotInRelease
from .hardware import Kind
from .lab import Lab
from .reach import reach
from .search import IOVA, OWNER, PAGE, USER_PAGES
from .state import World

ENDS = (
    "blocked",
    "identity",
    "platform",
    "window",
    "still translating",
    "the kernel's domain",
    "unknown",
)
"""Where a device can be after it was detached, by what its DMA reaches."""

LARGE = 2**30
"""More than any window or buffer; a longer range that leads to itself is no mapping."""


def where(lab: Lab, device: str = "dev0", left: str | None = None) -> str:
    """Where a device is now, judged by what its DMA reaches; one of :data:`ENDS`.

    ``left`` is the domain it was detached from: reaching its pages is "still translating".
    """
    hardware = lab.state.hardware
    entry = hardware.entries[device]
    if entry.kind is Kind.UNKNOWN:
        return "unknown"
    if entry.kind is Kind.PLATFORM:
        return "platform"
    if entry.outside == "bypass":
        return "window"
    reached = list(reach(hardware, device))
    if any(r.first == r.iova and r.last - r.first > LARGE for r in reached):
        return "identity"
    table = None if left is None else lab.state.domains[left].table
    if entry.table is not None and entry.table == table:
        return "still translating"
    group = lab.state.groups.get(lab.state.devices[device].group)
    default = None if group is None else group.default
    mine = None if default is None else lab.state.domains[default].table
    if entry.table is not None and entry.table == mine:
        return "the kernel's domain"
    return "still translating" if reached else "blocked"


def after_leaving(release: str, driver: str | Driver, arch: str | None = None) -> str:
    """What the hardware does after the body of the driver's ``detach_dev``, whoever may call it.

    The driver is made to leave a domain with one page mapped, by its own function and without the
    core. "none" where the driver has no such function in this release, "unprobed" where its device
    gets no group at all.
    """
    lab = _attached(release, driver, arch)
    if lab.driver.leave in ("", "none"):
        return "none"
    if lab.state.devices["dev0"].group not in lab.state.groups:
        return "unprobed"
    domain = lab.believed_domain(0)
    if domain is None:
        return "none"
    world = World(lab.kernel, lab.state)
    behaviours.detach(world, domain, "dev0")
    return where(lab.with_state(world.freeze()), "dev0", domain.name)


def after_detach(release: str, driver: str | Driver, arch: str | None = None) -> str:
    """Where a device really is after ``iommu_detach_device``, the core included."""
    lab = _attached(release, driver, arch)
    domain = lab.believed_domain(0)
    if domain is None:
        return where(lab)
    try:
        lab.detach_device(domain.name, "dev0")
    except KernelCrash:
        return "crash"
    return where(lab, "dev0", domain.name)


def after_claim(release: str, driver: str | Driver, arch: str | None = None) -> str:
    """Where a device really is after its group was claimed: the isolation that VFIO relies on."""
    lab = Lab(release, driver, arch=arch)
    try:
        lab.claim_dma_owner(0, OWNER)
    except KernelCrash:
        return "crash"
    except NotInRelease:
        return "not in release"
    except OSError as error:
        return str(error.strerror).partition(":")[0]
    return where(lab)


def _attached(release: str, driver: str | Driver, arch: str | None) -> Lab:
    """A lab whose device is attached to a domain of ours, with a page mapped where it can be."""
    lab = Lab(release, driver, arch=arch)
    # A driver may have no domain of ours to give, refuse it, or hold no mapping; what it has stays.
    with suppress(OSError, KernelCrash):
        domain = lab.alloc_domain("unmanaged")
        lab.attach_device(domain, "dev0")
        lab.map(domain, max(IOVA, lab.state.domains[domain].first), USER_PAGES[0], PAGE)
    return lab


# -- the three steps -------------------------------------------------------------------------------


def default_is_set(release: str, driver: str | Driver, arch: str | None = None) -> bool:
    """Step 1: is a default domain *set* after the probe, not merely offered?"""
    return Lab(release, driver, arch=arch).state.groups[0].default is not None


def detach_is_reachable(release: str, driver: str | Driver, arch: str | None = None) -> bool:
    """Does the core ever call the function that leaves a domain? Tried, not concluded."""
    ways: tuple[tuple[tuple[str, tuple[Any, ...]], ...], ...] = (
        (("attach_device", ("dom1", "dev0")), ("detach_device", ("dom1", "dev0"))),
        (("attach_group", ("dom1", 0)), ("detach_group", ("dom1", 0))),
        (("claim_dma_owner", (0, OWNER)), ("release_dma_owner", (0,))),
        (
            ("claim_dma_owner", (0, OWNER)),
            ("attach_group", ("dom1", 0)),
            ("release_dma_owner", (0,)),
        ),
        (("bind", ("dev0", "kernel-driver")), ("unbind", ("dev0",))),
    )
    for way in ways:
        lab = Lab(release, driver, arch=arch)
        try:
            lab.alloc_domain("unmanaged")
        except OSError:
            continue
        for verb, args in way:
            try:
                getattr(lab, verb)(*args)
            except KernelCrash:
                return True
            except (OSError, NotInRelease):
                continue
        if any(e.kind == "driver" for m in lab.moments for e in m.events):
            return True
    return False


def verdict(after: str, always_set: bool, has_body: bool) -> str:
    """The mail's advice for one driver, from what was found out about it.

    Step 1 and 2: where a default domain is always set the function goes, and what it did gets its
    name if it has one: a blocking or an identity domain. Step 3: where it is needed it is renamed.
    """
    if not has_body:
        return "nothing to do"
    if not always_set:
        return "rename to set_platform_dma"
    return {
        "blocked": "real blocking domain",
        "identity": "identity domain",
        "unknown": "unknown",
    }.get(after, "delete")
