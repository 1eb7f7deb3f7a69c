"""Claims: what was said in the thread and after it, put to the model.

Each claim that the model can decide is a function here that runs verbs and looks; its name is the
claim's number in ``data/claims/claims.csv``, which has the claim in our words, who made it and
where, and what became of it. Claims that no model of this kind can decide (who wrote when, what a
PASID driver must know) stand in the table with the reason.

An answer is the model's, as good as the rows it ran on; an inference there is an inference here.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from . import audit
from .counts import COUNTS
from .datafiles import datafile
from .domains import DomainType
from .drivers import driver, rows
from .errors import KernelCrash, unknown
from .lab import Lab
from .machine import Device, Machine, Reserved

if TYPE_CHECKING:
    import pandas as pd

PAGE = 4096
OWNER = "vfio"


class Answer(NamedTuple):
    """Is the claim true in the model, and what was seen."""

    true: bool
    says: str


def _with_detach(release: str) -> dict[str, str]:
    """Where each driver that has a ``detach_dev`` in this release leaves a device."""
    return {
        r["driver"]: audit.after_leaving(release, r["driver"]) for r in rows(release) if r["detach"]
    }


def _claimed(release: str, name: str, arch: str | None = None) -> Lab:
    lab = Lab(release, name, arch=arch)
    lab.claim_dma_owner(0, OWNER)
    return lab


def _firmware_locked() -> Machine:
    region = Reserved(0x7000_0000, 0x7000_FFFF, "direct")
    return Machine(devices=(Device("dev0", reserved=(region,)),))


def c01() -> Answer:
    ends = _with_detach("6.1")
    blocked = [d for d, end in ends.items() if end == "blocked"]
    return Answer(
        len(blocked) == len(ends),
        f"{len(blocked)} of {len(ends)} leave the device blocked: {', '.join(blocked)}",
    )


def c02() -> Answer:
    owned = _claimed("6.1", "intel")
    domain = owned.alloc_domain()
    owned.attach_group(domain, 0)
    owned.detach_group(domain, 0)
    free = Lab("6.1", "intel")
    domain = free.alloc_domain()
    free.attach_group(domain, 0)
    free.detach_group(domain, 0)
    none = Lab("6.1", "s390")
    domain = none.alloc_domain()
    none.attach_group(domain, 0)
    none.detach_group(domain, 0)
    groups = [lab.state.groups[0] for lab in (owned, free, none)]
    blocking = groups[0].domain == groups[0].blocking
    default = groups[1].domain == groups[1].default
    return Answer(
        blocking and not default,
        f"with an owner {groups[0].domain}, without one {groups[1].domain}, "
        f"without a default domain {groups[2].domain}",
    )


def _never_called(name: str, arch: str) -> bool:
    return not audit.detach_is_reachable("6.1", name, arch)


def _drivers_and_arches(release: str) -> list[tuple[str, str]]:
    return [
        (r["driver"], arch)
        for r in rows(release)
        if r["detach"]
        for arch in driver(r["driver"], release).arches
    ]


def c03() -> Answer:
    set_ = [p for p in _drivers_and_arches("6.1") if audit.default_is_set("6.1", *p)]
    called = [p for p in set_ if not _never_called(*p)]
    return Answer(
        not called, f"{len(set_)} cases with a default domain set, called in {len(called)}"
    )


def c04() -> Answer:
    offer = [
        (name, arch)
        for name, arch in _drivers_and_arches("6.1")
        if DomainType.DMA in driver(name, "6.1").accepts
    ]
    called = [f"{n} on {a}" for n, a in offer if not _never_called(n, a)]
    return Answer(not called, f"of {len(offer)} that offer one it is called in {', '.join(called)}")


def c06() -> Answer:
    end = audit.after_leaving("6.0", "s390")
    return Answer(end == "blocked", f"the function leaves the device: {end}")


def c07() -> Answer:
    ends = {r["driver"]: audit.after_claim("patch-v2", r["driver"]) for r in rows("patch-v2")}
    without = [
        d for d in ends if driver(d, "6.0").detach and not audit.default_is_set("patch-v2", d)
    ]
    crash = [d for d in without if ends[d] == "crash"]
    return Answer(bool(crash), f"crash on claim: {', '.join(crash)} of {', '.join(without)}")


def c08() -> Answer:
    lab = Lab("patch-v2", "s390")
    domain = lab.alloc_domain()
    lab.attach_group(domain, 0)
    lab.detach_group(domain, 0)
    try:
        lab.detach_group(domain, 0)
    except KernelCrash as crash:
        return Answer(True, f"{crash.function}: {crash.reason}")
    return Answer(False, f"nothing: the group is on {lab.state.groups[0].domain}")


def c10() -> Answer:
    lab = Lab("5.15", "arm-smmu-v3")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    lab.free_domain(domain)
    kind, on = lab.hardware("dev0").kind, lab.hardware("dev0").domain
    return Answer(
        on == lab.state.groups[0].default, f"after the free the device is in {kind}: {on}"
    )


def c13() -> Answer:
    ends = {r["driver"]: audit.after_claim("5.19", r["driver"]) for r in rows("5.19")}
    open_ = {d: e for d, e in ends.items() if e != "blocked"}
    says = ", ".join(f"{d}: {e}" for d, e in open_.items())
    return Answer(not open_, f"blocked on {len(ends) - len(open_)} of {len(ends)}; not on {says}")


def c14() -> Answer:
    end = audit.after_claim("6.0", "tegra-gart")
    return Answer(end == "blocked", f"tegra-gart after a claim: {end}")


def c18() -> Answer:
    lab = Lab("6.2", "s390")
    domain = lab.alloc_domain()
    lab.fail_next_attach("dev0", "EIO")
    with suppress(OSError):
        lab.attach_device(domain, "dev0")
    kind = lab.hardware("dev0").kind
    return Answer(kind == "blocked", f"after a failed attach the hardware is: {kind}")


def c19() -> Answer:
    lab = Lab("6.3", "rockchip", arch="arm32")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    warned = any(e.kind == "warn" for m in lab.moments for e in m.events)
    kept = lab.hardware("dev0").domain == domain and lab.belief(0) is None
    return Answer(
        warned and kept,
        f"a WARN: {warned}; the core has no domain, the hardware is on "
        f"{lab.hardware('dev0').domain}",
    )


def c20() -> Answer:
    broken = [
        r["driver"]
        for r in rows("6.0")
        if DomainType.UNMANAGED in driver(r["driver"], "6.0").accepts
        and not audit.verify_transition(r["driver"], "6.0", depth=2)
    ]
    return Answer(not broken, f"kept by all but {', '.join(broken) or 'none'}")


def c28() -> Answer:
    lab = Lab("7.2", "intel", machine=_firmware_locked())
    lab.remove("dev0")
    kind = lab.hardware("dev0").kind
    return Answer(kind == "blocked", f"after the release the hardware is: {kind}")


def c29() -> Answer:
    lab = Lab("6.12", "intel", machine=_firmware_locked())
    try:
        lab.claim_dma_owner(0, OWNER)
    except OSError as error:
        return Answer(False, str(error.strerror))
    return Answer(True, "the claim succeeds")


def c32() -> Answer:
    missing = [r["driver"] for r in rows("7.2") if Lab("7.2", r["driver"]).belief(0) is None]
    lab = Lab("7.2", "intel")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    return Answer(
        bool(missing) or lab.belief(0) is None,
        f"groups without a domain after probing: {len(missing)}; after a detach: {lab.belief(0)}",
    )


def c33() -> Answer:
    lab = _claimed("7.2", "s390")
    kind = lab.hardware("dev0").kind
    return Answer(kind == "blocked", f"claimed under 7.2: core {lab.belief(0)}, hardware {kind}")


def c34() -> Answer:
    boots = {r: driver("s390", r).boot for r in ("6.6", "6.7", "6.12", "7.2")}
    says = ", ".join(f"{r}: {b}" for r, b in boots.items())
    return Answer(boots["6.12"] == "block" == boots["7.2"], f"before the first attach {says}")


def c36() -> Answer:
    right, wrong = (len(COUNTS[which]()) for which in ("right", "wrong"))
    return Answer(not wrong, f"{right} right, {wrong} wrong, by what the registers are told")


def c37() -> Answer:
    bypass, named, all_ = (COUNTS[which]() for which in ("bypass", "bypass-by-name", "drivers"))
    return Answer(
        len(bypass) * 2 > len(all_),
        f"{len(bypass)} of {len(all_)} bypass by what the registers "
        f"are told; {len(set(named) - set(bypass))} more were labelled identity in 6.7",
    )


def c38() -> Answer:
    kept = {d["driver"] for d in rows("6.3") if d["set_platform"] and not d["set_platform_arch"]}
    had = [r["driver"] for r in rows("6.2") if r["detach"]]
    gone = [name for name in had if name not in kept]
    back = [
        name
        for name in gone
        if driver(name, "7.2").blocked == "block" or driver(name, "7.2").identity == "as-detach"
    ]
    return Answer(not back, f"{len(back)} of {len(gone)} came back: {', '.join(back)}")


def c41() -> Answer:
    set_ = audit.default_is_set("6.1", "mtk_v1")
    offers = DomainType.DMA in driver("mtk_v1", "6.1").accepts
    return Answer(not (set_ and not offers), f"mtk_v1 offers one: {offers}; has one set: {set_}")


def c43() -> Answer:
    called = [
        f"{name} on {arch}"
        for name, arch in _drivers_and_arches("6.1")
        if audit.default_is_set("6.1", name, arch) and not _never_called(name, arch)
    ]
    lab = _claimed("6.1", "s390")
    inside = any(e.kind == "driver" for m in lab.moments for e in m.events)
    return Answer(
        bool(called) or inside,
        f"called to block on a claim: {inside}; called with a default domain set: {len(called)}",
    )


def c44() -> Answer:
    ends = {
        f"{d} {r}": audit.after_claim(r, d, "arm32" if d == "mtk_v1" else None)
        for d in ("mtk", "mtk_v1")
        for r in ("6.1", "7.2")
    }
    return Answer(
        all(e == "blocked" for e in ends.values()),
        ", ".join(f"{k}: {e}" for k, e in ends.items()),
    )


def c45() -> Answer:
    lab = _claimed("6.1", "fsl_pamu")
    claimed = audit.where(lab)
    lab.release_dma_owner(0)
    return Answer(claimed == "blocked", f"claimed: {claimed}; released: {audit.where(lab)}")


def c48() -> Answer:
    worse = []
    for row in rows("patch-v2"):
        name = row["driver"]
        for arch in driver(name, "patch-v2").arches:
            was, would = (audit.after_claim(r, name, arch) for r in ("6.0", "patch-v2"))
            if was == "blocked" and would != "blocked":
                worse.append(f"{name} on {arch}: {would}")
    return Answer(not worse, "; ".join(worse))


def c49() -> Answer:
    broken = [
        r["driver"]
        for r in rows("7.2")
        if DomainType.UNMANAGED in driver(r["driver"], "7.2").accepts
        and not audit.verify_transition(r["driver"], "7.2", depth=2)
    ]
    return Answer(not broken, f"not kept by {', '.join(broken)}")


def c50() -> Answer:
    lab = Lab("7.2", "sun50i")
    default = lab.state.groups[0].default
    lab.set_group_type(0, "identity")
    kind = lab.hardware("dev0").kind
    return Answer(
        kind == "bypass",
        f"the core believes {lab.belief(0)}; the hardware still has the table of {default}: {kind}",
    )


DECIDED: dict[str, Callable[[], Answer]] = {
    name.upper(): run
    for name, run in list(globals().items())
    if name[0] == "c" and name[1:].isdigit()
}
"""The claims that the model can decide, by number."""


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with open(datafile("claims", "claims.csv"), newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def table(*ids: str) -> pd.DataFrame:
    """Every claim, or those named, with the model's answer, computed now.

    The answer is "true", "false" or "not decided".
    Raises :class:`~iommu_lab.errors.UnknownName` for another id.
    """
    import pandas as pd

    for id_ in ids:
        if id_ not in {row["id"] for row in _rows()}:
            raise unknown("claim", id_, [row["id"] for row in _rows()])
    answered = []
    for row in (row for row in _rows() if not ids or row["id"] in ids):
        run = DECIDED.get(row["id"])
        answer = run() if run is not None else None
        model = "not decided" if answer is None else str(answer.true).lower()
        answered.append({**row, "model": model, "seen": "" if answer is None else answer.says})
    return pd.DataFrame(answered)
