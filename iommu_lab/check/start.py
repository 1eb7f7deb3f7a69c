"""Lesson 00: a detached device is not a blocked device."""

from __future__ import annotations

from functools import cache

from ..lab import Lab, releases
from ..releases import release
from .feedback import Feedback, exercise, number, writes


@cache
def _reachable_after_detach() -> tuple[str, ...]:
    """The releases under which a detached s390 device reaches the page that it is given next."""
    lab = Lab("6.1", "s390")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    lab.dma_map("dev0", 0x8000_0000, 0x1000)
    found = []
    for name in releases():
        there = lab.under(name)
        if "driver buffer" in set(writes(there, "dev0", [there.moments[-1].result]).owner):
            found.append(name)
    return tuple(found)


@exercise("a number of releases", number)
def releases_that_let_it_write(answer: int) -> Feedback:
    """Under how many releases does the detached s390 device reach its new buffer?"""
    right = _reachable_after_detach()
    if answer == len(right):
        every = "Under every one of them" if len(right) == len(releases()) else f"Under {answer}"
        return Feedback(True, f"{every}, if not by the same way. Detached is not blocked.")
    if answer == 0:
        return Feedback(False, "That would be so if detached meant blocked. Look at the owner.")
    if answer == sum(release(name).kind == "mainline" for name in right):
        return Feedback(False, "Those are the kernels that came out; il.releases() has more.")
    if answer > len(releases()):
        return Feedback(False, f"There are only {len(releases())} releases: count each once.")
    return Feedback(False, "For each release: did the write reach the driver buffer? Count those.")
