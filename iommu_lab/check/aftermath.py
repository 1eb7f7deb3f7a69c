"""Lesson 08: what happened next, from 6.2 to 7.2."""

from __future__ import annotations

from functools import cache

from ..domains import DomainType
from ..drivers import driver, driver_names, rows
from ..errors import KernelCrash, errno_name
from ..hardware import Kind
from ..lab import Lab
from .feedback import Feedback, exercise, listed, names

NEWEST = "7.2"


def _after_detach(release: str, name: str) -> str:
    """Where a device of 32-bit Arm is after attach and detach: "dom1", another kind, an errno."""
    lab = Lab(release, name, arch="arm32")
    try:
        domain = lab.alloc_domain()
        lab.attach_device(domain, "dev0")
        lab.detach_device(domain, "dev0")
    except OSError as error:
        return errno_name(error)
    except KernelCrash:
        return "crash"
    there = lab.hardware("dev0")
    return there.domain or there.kind.value


@cache
def _both_sides() -> dict[str, tuple[str, str]]:
    """For each driver that 6.2 and 6.3 have for 32-bit Arm: where detach leaves a device."""
    both = {r["driver"] for r in rows("6.2")} & {r["driver"] for r in rows("6.3")}
    there = [n for n in both if all("arm32" in driver(n, r).arches for r in ("6.2", "6.3"))]
    return {n: (_after_detach("6.2", n), _after_detach("6.3", n)) for n in sorted(there)}


@exercise("a list of drivers", names)
def left_behind_by_6_3(answer: frozenset[str]) -> Feedback:
    """Which drivers of 32-bit Arm leave a detached device on the user's table since 6.3 only?"""
    ends = _both_sides()
    right = {n for n, (before, since) in ends.items() if before != "dom1" and since == "dom1"}
    if answer == right:
        return Feedback(
            True,
            f"{listed(right)}. One was reported in March 2023; of the other we know no report.",
        )
    strange = answer - set(driver_names())
    if strange:
        return Feedback(False, f"No release has a driver named {listed(strange)}.")
    for name in sorted(answer - right):
        if name not in ends:
            return Feedback(False, f"{name} is not built for 32-bit Arm in both, 6.2 and 6.3.")
        before, since = ends[name]
        if since == "EBUSY":
            text = "there the driver's own mapping is attached at boot, and you can't attach"
        elif before == "dom1":
            text = "in 6.2 the device stayed on the user's table too: nothing was lost"
        else:
            leaves = driver(name, "6.3").set_platform
            text = f"in 6.3 detach leaves the device in {since}, by {leaves}"
        return Feedback(False, f"{name}: {text}.")
    return Feedback(
        False, f"Right so far; {len(right - answer)} more. Do you ask for arch='arm32'?"
    )


@cache
def _on_the_way() -> dict[str, tuple[str, ...]]:
    """For each driver of the newest release: what its hardware is between two page tables."""
    found = {}
    for row in rows(NEWEST):
        name = row["driver"]
        lab = Lab(NEWEST, name)
        try:
            first, second = lab.alloc_domain(), lab.alloc_domain()
            lab.attach_device(first, "dev0")
            lab.replace_domain(second, 0)
        except OSError:
            continue
        kinds = [e.name for e in lab.moments[-1].events if e.kind == "hardware"]
        if lab.belief(0) is DomainType.UNMANAGED:
            found[name] = tuple(kinds)
    return found


@exercise("a list of drivers", names)
def open_on_the_way(answer: frozenset[str]) -> Feedback:
    """Which drivers of the newest release pass through bypass from one page table to the next?"""
    ways = _on_the_way()
    right = {name for name, way in ways.items() if Kind.BYPASS in way[:-1]}
    if answer == right:
        return Feedback(True, f"{listed(right)}: between two tables all of memory is in reach.")
    strange = answer - set(driver_names())
    if strange:
        return Feedback(False, f"No release has a driver named {listed(strange)}.")
    for name in sorted(answer - right):
        way = ways.get(name)
        if way is None:
            text = f"two page tables, one after the other, can't be attached in {NEWEST}"
        elif not way:
            text = "the second attach writes nothing at all: look at the lesson's mtk again"
        elif way[-1] == Kind.BYPASS:
            text = "bypass is not passed through here, it is where the way ends"
        elif Kind.BLOCKED in way:
            text = "in between the device is blocked, and that is allowed"
        elif Kind.UNKNOWN in way:
            text = "in between the unit is off, and nobody has said what that lets through"
        else:
            text = "the new table takes the old one's place, and nothing lies between"
        return Feedback(False, f"{name}: {text}.")
    return Feedback(False, f"Right so far; {len(right - answer)} more.")
