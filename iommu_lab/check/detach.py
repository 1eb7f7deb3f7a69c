"""Lesson 02: what detach does in Linux 6.0."""

from __future__ import annotations

from functools import cache

from ..drivers import driver
from ..lab import Lab, drivers
from .feedback import Feedback, exercise, listed, names


@cache
def _arm64_with_detach() -> dict[str, bool]:
    """The 64-bit Arm drivers of 6.0 that have a detach_dev: does boot set a default domain?"""
    table = drivers("6.0")
    names = [
        name
        for name in table.driver[table.detach_dev != ""]
        if "arm64" in driver(name, "6.0").arches
    ]
    return {n: Lab("6.0", n, arch="arm64").group_type(0) != "unknown" for n in names}


@exercise("a list of driver names", names)
def dead_code(answer: frozenset[str]) -> Feedback:
    """Whose detach_dev can never be called by the core of a 64-bit Arm kernel 6.0?"""
    has_default = _arm64_with_detach()
    right = {name for name, yes in has_default.items() if yes}
    unknown = answer - set(drivers("6.0").driver)
    if unknown:
        return Feedback(False, f"Linux 6.0 has no driver called {listed(unknown)}.")
    if answer == right:
        return Feedback(True, "Their default domain is set, so leaving is always an attach.")
    for name in sorted(answer - right):
        if name in has_default:
            return Feedback(False, f"{name} has no default domain, so its detach_dev is called.")
        if "arm64" not in driver(name, "6.0").arches:
            return Feedback(False, f"{name} is not built for 64-bit Arm.")
        return Feedback(False, f"{name} has no detach_dev at all.")
    return Feedback(False, f"{len(right - answer)} more: ask every arm64 row for its group type.")


@cache
def _after_detach(name: str) -> tuple[str | None, str | None]:
    """The domain believed in and the domain walked, after attach and detach on 64-bit Arm."""
    lab = Lab("6.0", name, arch="arm64")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    believed = lab.believed_domain(0)
    return (believed.name if believed else None), lab.hardware("dev0").domain


@exercise("a driver's name", names)
def belief_parts_from_hardware(answer: frozenset[str]) -> Feedback:
    """On which 64-bit Arm driver does the core think of the default domain while dom1 is walked?"""
    if len(answer) != 1:
        return Feedback(False, f"One driver, please; you named {len(answer)}.")
    (name,) = answer
    if name not in set(drivers("6.0").driver):
        return Feedback(False, f"Linux 6.0 has no driver called {name}.")
    if "arm64" not in driver(name, "6.0").arches:
        return Feedback(False, f"{name} is not built for 64-bit Arm.")
    believed, walked = _after_detach(name)
    if believed is None:
        return Feedback(False, f"On {name} the core thinks of no domain at all, which is true.")
    if believed == walked:
        end = "and it warned that the default was refused" if believed == "dom1" else "as it should"
        return Feedback(False, f"On {name} both say {believed}, {end}.")
    return Feedback(True, f"The core thinks of {believed}; the device still walks {walked}.")
