"""Lesson 06: platform DMA, s390 then and now."""

from __future__ import annotations

from functools import cache

from ..domains import DomainType
from ..errors import KernelCrash
from ..hardware import Kind
from ..lab import Lab, Step, releases
from ..own import OwnDriver
from .feedback import Feedback, a_driver, exercise, listed, names, writes

PAGE = Step("dma_map", ("dev0", 0x8000_0000, 0x1000, "bidirectional"))


def _next_page(lab: Lab) -> str:
    """What becomes of the page that the kernel driver maps next: a verdict, or "crash"."""
    there = lab.replay([PAGE])
    iova = there.moments[-1].result
    return str(writes(there, "dev0", [iova]).verdict[0]) if isinstance(iova, int) else str(iova)


OPEN = {
    Kind.PLATFORM: "the platform has the device, and what the kernel maps next is in its reach",
    Kind.BYPASS: "the hardware is in bypass, and all of memory is in its reach",
    Kind.UNKNOWN: "the IOMMU is switched off, and nobody knows what that lets through",
    Kind.TABLE: "a page table is walked: the domain is not an empty one by what it is",
}


@exercise("a class of your own driver", a_driver)
def blocks_and_gives_back(answer: type[OwnDriver]) -> Feedback:
    """Is a claimed s390 device of 6.0 truly blocked, and does the kernel driver get it back?"""
    if answer.base != "s390":
        return Feedback(False, f'This is about s390; yours stands on {answer.base}: base = "s390".')
    lab = Lab("6.0", answer)
    for claim in ("claimed", "claimed again"):
        try:
            lab.claim_dma_owner(0, "vfio")
            if lab.belief(0) is not DomainType.BLOCKED:
                text = "it stands on an empty table that stands in: write a blocking method"
                return Feedback(False, f"Once {claim}, {text}.")
            if lab.hardware("dev0").kind is not Kind.BLOCKED:
                return Feedback(False, f"Once {claim}, {OPEN[lab.hardware('dev0').kind]}.")
            domain = lab.alloc_domain()
            lab.attach_device(domain, "dev0")
            if lab.hardware("dev0").domain != domain:
                return Feedback(False, f"Once {claim}, the owner's own domain is not walked.")
            lab.detach_device(domain, "dev0")
            if lab.hardware("dev0").kind is not Kind.BLOCKED:
                return Feedback(False, f"Detached by its owner, {OPEN[lab.hardware('dev0').kind]}.")
            lab.release_dma_owner(0)
        except (OSError, KernelCrash) as end:
            return Feedback(False, f"Once {claim}, the kernel ends with: {end}.")
        page = _next_page(lab)
        if page == "crash":
            text = "the kernel driver's next dma_map crashes: nobody gave the device back"
            return Feedback(False, f"Blocked, yes. Released, {text}. Which function may do that?")
        if lab.hardware("dev0").kind is not Kind.PLATFORM or page != "PLATFORM":
            kind = lab.hardware("dev0").kind.value
            return Feedback(False, f"Released, the hardware is {kind}: where is the platform?")
    return Feedback(True, "Two questions, two functions: one stops the device, one gives it back.")


@cache
def _after_removal() -> dict[str, tuple[Kind, Kind]]:
    """For every release: what an s390 device's hardware is at boot, and attached then removed."""
    found = {}
    for name in releases():
        lab = Lab(name, "s390")
        boot = lab.hardware("dev0").kind
        lab.attach_device(lab.alloc_domain(), "dev0")
        lab.remove("dev0")
        found[name] = boot, lab.hardware("dev0").kind
    return found


@exercise("a list of releases", names)
def first_half_alone(answer: frozenset[str]) -> Feedback:
    """In which releases has s390 a platform, and yet a removed device is left blocked?"""
    ends = _after_removal()
    right = {name for name, end in ends.items() if end == (Kind.PLATFORM, Kind.BLOCKED)}
    strange = answer - set(ends)
    if strange:
        return Feedback(False, f"il.releases() has no {listed(strange)}.")
    if answer == right:
        return Feedback(True, "The first half stood alone two years before it was named BLOCKED.")
    for name in sorted(answer - right):
        boot, end = ends[name]
        if boot is not Kind.PLATFORM:
            text = f"In {name} there is no platform left that could have the device"
        else:
            text = f"In {name} both steps run: the removed device is with the {end.value}"
        return Feedback(False, f"{text}.")
    return Feedback(False, f"Right so far; {len(right - answer)} more.")
