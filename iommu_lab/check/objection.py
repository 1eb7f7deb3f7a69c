"""Lesson 03: the patch and the objection."""

from __future__ import annotations

from functools import cache

from ..domains import DomainType
from ..drivers import driver
from ..errors import KernelCrash
from ..lab import Lab, drivers
from .feedback import Feedback, a_lab, exercise, names, writes


@cache
def _claimed_under_the_patch() -> dict[str, str]:
    """For the 64-bit Arm drivers: what a claim under patch-v2 leaves, in a word."""
    found = {}
    for name in drivers("patch-v2").driver:
        if "arm64" not in driver(name, "patch-v2").arches:
            continue
        lab = Lab("patch-v2", name, arch="arm64")
        try:
            lab.claim_dma_owner(0, "vfio")
        except (OSError, KernelCrash) as end:
            found[name] = "crash" if isinstance(end, KernelCrash) else "refused"
            continue
        believed = lab.belief(0)
        found[name] = (
            lab.hardware("dev0").kind.value if believed is DomainType.BLOCKED else "not BLOCKED"
        )
    return found


@exercise("a list of driver names", names)
def blocked_in_name_only(answer: frozenset[str]) -> Feedback:
    """Which 64-bit Arm drivers, claimed under patch-v2, are believed BLOCKED and are in bypass?"""
    ends = _claimed_under_the_patch()
    right = {name for name, end in ends.items() if end == "bypass"}
    if answer == right:
        return Feedback(True, "Each was really blocked by an empty table before the patch.")
    for name in sorted(answer - right):
        if name not in ends:
            return Feedback(False, f"{name} is not among the 64-bit Arm drivers.")
        said = {
            "crash": "the claim crashes, so nobody is left to believe anything",
            "refused": "the claim is refused",
            "blocked": "the hardware really blocks",
            "not BLOCKED": "the core does not think of BLOCKED, but of an empty table",
        }.get(ends[name], f"the hardware says {ends[name]}, not bypass")
        return Feedback(False, f"On {name} {said}.")
    return Feedback(False, f"Right so far; {len(right - answer)} more.")


@exercise("a Lab", a_lab)
def a_leak(answer: Lab) -> Feedback:
    """Is this group believed BLOCKED while its device writes to another VM's memory?"""
    if answer.release.name != "patch-v2":
        return Feedback(False, f"This Lab runs {answer.release.name}; the patch is in patch-v2.")
    if "dev0" not in answer.devices or not answer.hardware("dev0").master:
        return Feedback(False, "Leave the machine as it is, with dev0 able to make DMA.")
    believed = answer.belief("dev0")
    if believed is not DomainType.BLOCKED:
        name = "no domain" if believed is None else believed.name
        return Feedback(False, f"The core thinks of {name} here, not of BLOCKED: claim the group.")
    # Where the other VM's memory would be if nothing translated: that is what a bypass reaches.
    theirs = [r.first for r in answer.machine.memory if r.owner == "another VM"]
    if "another VM" not in set(writes(answer, "dev0", theirs).owner):
        kind = answer.hardware("dev0").kind.value
        return Feedback(False, f"The core says BLOCKED, but the hardware is {kind}; nothing leaks.")
    if answer.driver.name in ("exynos", "s390"):
        return Feedback(False, f"It leaks, but the lesson has shown {answer.driver.name}: another?")
    return Feedback(True, f"{answer.driver.name} is called blocked and writes to another VM.")
