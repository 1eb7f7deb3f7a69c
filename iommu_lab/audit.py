"""The audit: the three steps of the mail, done for every driver by running the model.

The reply of 26 August 2022 asks three things of each driver. Is a default domain always *set*, so
that ``detach_dev`` can't be called? If so, does that function block, or bypass, or neither? If not,
it should be renamed to what it does. Nothing here is typed in: each answer is what the hardware of
a small lab does after the verbs have run, judged by the checker or by :mod:`iommu_lab.reach`.

Where the audit stops: it is as good as the driver rows; a row that is an inference makes an answer
that is an inference, and the table says so.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from . import behaviours
from .bootline import GivesDriver, to_driver
from .datafiles import datafile
from .domains import DomainType
from .drivers import Driver
from .drivers import rows as driver_rows
from .errors import KernelCrash, NotInRelease
from .hardware import Entry, Frozen, Hardware, Kind
from .lab import Lab
from .reach import reach
from .releases import release as find_release
from .releases import releases
from .search import IOVA, OWNER, PAGE, USER_PAGES, Finding, Place, Walk, opening
from .state import World

if TYPE_CHECKING:
    import pandas as pd

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


# -- where a device is -----------------------------------------------------------------------------


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
    if any(r.first == r.iova and r.last - r.first > 2**30 for r in reached):
        return "identity"
    table = None if left is None else lab.state.domains[left].table
    if entry.table is not None and entry.table == table:
        return "still translating"
    group = lab.state.groups.get(lab.state.devices[device].group)
    default = None if group is None or group.default is None else group.default
    mine = None if default is None else lab.state.domains[default].table
    if entry.table is not None and entry.table == mine:
        return "the kernel's domain"
    return "still translating" if reached else "blocked"


def after_leaving(release: str, driver: str | Driver, arch: str | None = None) -> str:
    """What the hardware does after the body of the driver's ``detach_dev``, whoever may call it.

    The driver is made to leave a domain with one page mapped, by its own function and without the
    core. "none" where the driver has no such function in this release.
    """
    lab = _attached(release, driver, arch)
    if lab.driver.leave in ("", "none"):
        return "none"
    domain = lab.believed_domain(0)
    if domain is None:
        return "none"
    world = World(lab.kernel, lab.state)
    behaviours.detach(world, domain, "dev0")
    return where(_frozen(lab, world), "dev0", domain.name)


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


def _frozen(lab: Lab, world: World) -> Lab:
    """The lab as if the world were its next moment."""
    return lab.with_state(world.freeze())


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


def table(release: str = "6.0") -> pd.DataFrame:
    """The audit of one release, a row a driver.

    ``offers`` is whether the driver can give a DMA domain, ``set_on`` the architectures on which a
    default domain is set, ``reachable`` whether the function is ever called on any of them,
    ``after`` what the hardware does after it. ``as_worded`` is the advice if offering counted as
    setting, which is how the mail and the merged series read it. Then what the patch would have
    made of a claim, the guesses of 2022, what was merged, and how sure the row is.
    """
    import pandas as pd

    history = verdicts()
    rows = []
    for row in driver_rows(release):
        name = row["driver"]
        found = to_driver(name, release)
        after = after_leaving(release, name)
        set_on = [arch for arch in found.arches if default_is_set(release, name, arch)]
        past = history.get(name, {})
        has_body = bool(found.detach or found.set_platform)
        offers = DomainType.DMA in found.accepts
        rows.append(
            {
                "driver": name,
                "function": found.detach or found.set_platform,
                "offers": offers,
                "set_on": " ".join(set_on),
                "not_set_on": " ".join(a for a in found.arches if a not in set_on),
                "reachable": has_body
                and any(detach_is_reachable(release, name, arch) for arch in found.arches),
                "after": after,
                "verdict": verdict(after, len(set_on) == len(found.arches), has_body),
                "as_worded": verdict(after, offers, has_body),
                "claim": after_claim(release, name),
                "claim_under_patch": patched_claim(name),
                "guess_2022_05": past.get("guess_2022_05", ""),
                "merged_6_3": past.get("merged_6_3", ""),
                "named_2023_to_2024": past.get("named_2023_to_2024", ""),
                "confidence": row["confidence"],
                "inference": row["inference"],
                "source": row["url"],
            }
        )
    return pd.DataFrame(rows)


def patched_claim(driver: str) -> str:
    """What a claim leads to under the patch of August 2022, on each architecture it differs on."""
    if not any(row["driver"] == driver for row in driver_rows("patch-v2")):
        return ""
    found = to_driver(driver, "patch-v2")
    ends = {arch: after_claim("patch-v2", driver, arch) for arch in found.arches}
    if len(set(ends.values())) == 1:
        return next(iter(ends.values()))
    return ", ".join(f"{arch}: {end}" for arch, end in ends.items())


def matrix(after: str = "leaving") -> pd.DataFrame:
    """Driver by release: where a device is after ``leaving``, ``detach`` or ``claim``.

    "leaving" is the driver's own function alone; "detach" is the core's verb, which prefers the
    default domain; "claim" is what a user of VFIO relies on. Empty where the driver is absent.
    """
    import pandas as pd

    ask = {"leaving": after_leaving, "detach": after_detach, "claim": after_claim}[after]
    columns = {}
    for release in releases():
        columns[release] = {
            row["driver"]: ask(release, row["driver"]) for row in driver_rows(release)
        }
    return pd.DataFrame(columns).fillna("")


# -- beside history --------------------------------------------------------------------------------


@cache
def verdicts() -> dict[str, dict[str, str]]:
    """What was said and done about each driver from 2022 on, from ``data/drivers/verdicts.csv``."""
    with open(datafile("drivers", "verdicts.csv"), newline="", encoding="utf-8") as file:
        return {row["driver"]: row for row in csv.DictReader(file)}


GUESSED = {"blocking": "blocked", "identity": "identity", "platform DMA ops": "platform"}
"""What a guess of May 2022 says in the words of :data:`ENDS`."""


def counts(release: str = "6.0") -> dict[str, int]:
    """The numbers of the thread, counted again over the drivers that have a ``detach_dev``.

    How many drivers' function leaves the device blocked, in identity, with the platform, in a
    window, still translating, unknown; and how many of the definite guesses of May 2022 came true.
    """
    ends = {
        row["driver"]: after_leaving(release, row["driver"])
        for row in driver_rows(release)
        if row["detach"]
    }
    found = {"drivers with detach_dev": len(ends)}
    for end in ("blocked", "identity", "platform", "window", "still translating", "unknown"):
        found[end] = sum(e == end for e in ends.values())
    right = wrong = 0
    for name, end in ends.items():
        guess = next(
            (means for word, means in GUESSED.items() if word in verdicts()[name]["guess_2022_05"]),
            None,
        )
        if guess is not None:
            right, wrong = right + (guess == end), wrong + (guess != end)
    return {**found, "guesses right": right, "guesses wrong": wrong}


# -- the blocking contract -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contract:
    """Does a claimed group keep its promise? Truthy when it holds; else the counterexample."""

    driver: str
    release: str
    arch: str
    holds: bool
    tried: str
    """What was asked, when it holds."""
    counterexample: Finding | None = None

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        if self.counterexample is None:
            return f"{self.driver} ({self.arch}) in {self.release} holds: {self.tried}"
        return (
            f"{self.driver} ({self.arch}) in {self.release} does not hold.\n{self.counterexample}"
        )

    __repr__ = __str__


def verify_blocking(
    driver: str | Driver | GivesDriver,
    release: str = "6.0",
    arch: str | None = None,
    *,
    depth: int = 4,
    dmas: int = 1_000_000,
    seconds: float = 60.0,
    seed: int = 7,
) -> Contract:
    """While a group is claimed and on its blocking domain, no DMA of it may get through.

    Every order of verbs up to ``depth`` is tried; in each state where the core believes a claimed
    group blocked, its devices are asked with ``dmas`` random and boundary accesses altogether, by
    the vectorised checker. The first state that lets one through is the shortest counterexample.
    """
    import numpy as np

    from .dma import Checker, Verdict

    lab = opening(release, to_driver(driver, release), arch)
    walk = Walk(lab, depth, seconds)
    blocked = walk.remembered(lambda world: tuple(_believed_blocked(world)))
    asked_of: dict[tuple[str, Hardware], Place] = {}
    for visit in walk:
        if visit.after is not None:
            for device, hardware in blocked(visit.after.node):
                asked_of.setdefault((device, hardware), visit.after)
    each = max(1, dmas // max(1, len(asked_of)))
    asked = 0
    failed = Contract(lab.driver.name, release, lab.kernel.arch, False, "")
    for (device, hardware), place in asked_of.items():
        entry = hardware.entries[device]
        if entry.kind is Kind.UNKNOWN:
            why = f"{device} is believed blocked; {entry.why}"
            return replace(
                failed, counterexample=Finding("undecided", walk.path(place), why, device)
            )
        iova, size, write = _accesses(hardware, device, each, seed)
        code, address = Checker(hardware, [device], lab.machine.memory).check(
            np.zeros(len(iova), np.uint32), iova, size, write
        )
        asked += len(iova)
        passed = np.isin(code, [v for v in Verdict if v.passes] + [Verdict.PARTIAL])
        if passed.any():
            row = int(passed.argmax())
            paddr = int(address[row])
            says = (
                f"{device} is believed blocked; its {'write to' if write[row] else 'read of'} "
                f"{int(iova[row]):#x} reaches {paddr:#x}, memory of {lab.machine.owner_at(paddr)}"
            )
            finding = Finding("leak", walk.path(place), says, device, int(iova[row]), paddr)
            return replace(failed, counterexample=finding)
    tried = f"{asked:,} DMAs in {len(asked_of)} different states of the hardware, {_how_far(walk)}"
    return replace(failed, holds=True, tried=tried)


def _how_far(walk: Walk) -> str:
    return (
        f"after every order of up to {walk.finished} verbs "
        f"({walk.verbs:,} verbs in {walk.seen:,} states)"
    )


def verify_transition(
    driver: str | Driver | GivesDriver,
    release: str = "6.0",
    arch: str | None = None,
    *,
    depth: int = 3,
    seconds: float = 60.0,
) -> Contract:
    """During a switch a device may reach the old domain, the new one, or nothing at all.

    The rule is the comment in ``__iommu_group_set_domain`` (6.0); every translation entry that is
    written during a verb is looked at, not only the last one.
    """
    lab = opening(release, to_driver(driver, release), arch)
    walk = Walk(lab, depth, seconds, every=True)
    for visit in walk:
        if visit.effect.crash is not None or not visit.effect.programmed:
            continue
        before, after = walk.states.world(visit.before.node), walk.states.world(visit.result)
        for device, entry in visit.effect.programmed:
            at = before.devices.get(device)
            ends = [w.entries[device] for w in (before, after) if device in w.entries]
            if at is None or not at.present or any(_same(entry, end) for end in ends):
                continue
            if entry.kind is Kind.UNKNOWN or _reaches(after, device, entry):
                says = f"{device} passes through {entry.kind.value} during the last step"
                path = walk.path(visit.before, visit.step)
                finding = Finding("transition", path, says, device)
                return Contract(lab.driver.name, release, lab.kernel.arch, False, "", finding)
    tried = f"every write to the hardware, {_how_far(walk)}"
    return Contract(lab.driver.name, release, lab.kernel.arch, True, tried)


def _same(one: Entry, other: Entry) -> bool:
    return replace(one, why="") == replace(other, why="")


def _reaches(world: World, device: str, entry: Entry) -> bool:
    """Would the device reach anything if this entry stood?"""
    table = None if entry.table is None else world.tables.get(entry.table)
    tables = {} if table is None else {str(entry.table): table}
    hardware = Hardware(Frozen({device: entry}), Frozen(tables))
    return next(reach(hardware, device), None) is not None


def _believed_blocked(world: World) -> Iterator[tuple[str, Hardware]]:
    """The devices of claimed groups that the core believes on their blocking domain."""
    for group in world.groups.values():
        if group.owner is not None and group.domain is not None and group.domain == group.blocking:
            for device in group.devices:
                yield device, world.hardware_of(device)


def _accesses(hardware: Hardware, device: str, count: int, seed: int) -> tuple[Any, Any, Any]:
    """Boundary accesses around everything that the table maps, then random ones of every length."""
    import numpy as np

    rng = np.random.default_rng(seed)
    entry = hardware.entries[device]
    edges = {0, PAGE, IOVA, *USER_PAGES, 2**32 - PAGE, 2**32, 2**48, 2**63, 2**64 - PAGE}
    edges |= {entry.first, entry.last, max(entry.first - 1, 0), min(entry.last + 1, 2**64 - 1)}
    for run in hardware.table_of(device):
        edges |= {run.iova, run.end - 1, run.end, run.paddr, max(run.iova - 1, 0)}
    random = rng.integers(0, 2**64, max(0, count - len(edges)), dtype=np.uint64)
    random >>= rng.integers(0, 52, len(random), dtype=np.uint64)
    iova = np.concatenate([np.array(sorted(edges), dtype=np.uint64), random])
    size = rng.integers(1, PAGE, len(iova), dtype=np.uint64)
    size = np.minimum(size, np.uint64(2**64 - 1) - iova + np.uint64(1))
    return iova, np.maximum(size, np.uint64(1)), rng.integers(0, 2, len(iova)).astype(bool)


def explain(release: str, driver: str) -> str:
    """The card of one driver: what its function does, who thought what, and where that was read."""
    found = to_driver(driver, release)
    row = next(r for r in driver_rows(release) if r["driver"] == found.name)
    past = verdicts().get(found.name, {})
    after = after_leaving(release, found.name)
    lines = [
        f"{found.name} in {release}: {row['source_file']}",
        f"  function   {found.detach or found.set_platform or 'none'}",
        f"  evidence   {row['evidence']}",
        f"  after it   {after}" + (" (inference)" if found.inference else ""),
        f"  a claim    {after_claim(release, found.name)}; "
        f"under the patch {patched_claim(found.name) or '-'}",
        f"  guessed    {past.get('guess_2022_05') or '-'} (May 2022)",
        f"  merged     {past.get('merged_6_3') or '-'} (6.3), "
        f"{past.get('named_2023_to_2024') or '-'} (6.7 and later)",
        f"  source     {row['url']} ({row['confidence']} confidence)",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """``iommu-lab audit``: print the audit of a release, the card of a driver, or a matrix."""
    parser = argparse.ArgumentParser(
        prog="iommu-lab audit",
        description="Put every driver of a release through the three steps that the mail asks for.",
    )
    parser.add_argument("--release", default="6.0", help="a kernel release (6.0)")
    parser.add_argument("--driver", help="the card of one driver, with its sources")
    parser.add_argument(
        "--matrix",
        choices=("leaving", "detach", "claim"),
        help="driver by release: where a device is after this",
    )
    asked = parser.parse_args(argv)
    if asked.driver:
        print(explain(asked.release, asked.driver))
    elif asked.matrix:
        print(matrix(asked.matrix).to_string())
    else:
        find_release(asked.release)
        columns = ["function", "set_on", "not_set_on", "reachable", "after", "verdict", "claim"]
        rows = table(asked.release).set_index("driver")
        print(rows[columns].replace("", "-").rename_axis(None).to_string())
    return 0
