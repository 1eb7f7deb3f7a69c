"""Answers to the lessons' exercises: is it right, and what does a wrong one tell?

One function an exercise, and it never raises: a stub runs as it stands, and whatever a reader
types is met with a sentence. The right answer is asked of the model each time, so that it follows
the model when a driver row is corrected; the hints are the usual wrong answers, and stand only
here.

Where this stops: a check judges the answer, not the way to it.
"""

from __future__ import annotations

import html
import operator
from collections.abc import Callable, Iterable
from enum import Enum
from functools import cache, wraps
from typing import NamedTuple, TypeVar

import pandas as pd

from .domains import DomainType
from .drivers import ALIASES, driver
from .errors import KernelCrash
from .hardware import Kind
from .lab import Lab, drivers, releases
from .machine import Machine
from .releases import release

T = TypeVar("T")


class Feedback(NamedTuple):
    """What is shown under an exercise."""

    passed: bool
    text: str

    def __repr__(self) -> str:
        return f"{'Right.' if self.passed else 'Not yet.'} {self.text}"

    def _repr_html_(self) -> str:
        verdict = "Right." if self.passed else "Not yet."
        return f"<p><strong>{verdict}</strong> {html.escape(self.text)}</p>"


# -- how an answer is read -------------------------------------------------------------------------


def _exercise(
    wants: str, read: Callable[[object], T]
) -> Callable[[Callable[[T], Feedback]], Callable[[object], Feedback]]:
    """A check that is asked only about answers of the kind it wants; the others get a sentence."""

    def made(judge: Callable[[T], Feedback]) -> Callable[[object], Feedback]:
        @wraps(judge)
        def check(answer: object) -> Feedback:
            if answer is None or answer is ...:
                return Feedback(False, f"Put {wants} in place of the dots.")
            # An answer is a reader's own object: whatever its methods do, a check does not raise.
            try:
                given = read(answer)
            except Exception:
                return Feedback(
                    False, f"This wants {wants}; yours is of type {type(answer).__name__}."
                )
            try:
                return judge(given)
            except Exception as error:
                return Feedback(False, f"That can't be judged: {type(error).__name__}: {error}")

        return check

    return made


def _number(answer: object) -> int:
    if isinstance(answer, bool):
        raise TypeError
    return operator.index(answer)  # type: ignore[arg-type]  # it raises for what is no number


def _word(answer: object) -> str:
    """A word, or an enum member by its name."""
    name = answer.name if isinstance(answer, Enum) else answer
    if not isinstance(name, str):
        raise TypeError
    return name.strip().lower()


def _names(answer: object) -> frozenset[str]:
    """Names in any collection or in one text; the drivers' aliases stand for their drivers."""
    given = answer.replace(",", " ").split() if isinstance(answer, str) else answer
    if not isinstance(given, Iterable):
        raise TypeError
    found = [_word(name) for name in given]
    return frozenset(ALIASES.get(name, name) for name in found)


def _lab(answer: object) -> Lab:
    if not isinstance(answer, Lab):
        raise TypeError
    return answer


def _sorted(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _writes(lab: Lab, device: str, iova: Iterable[int], size: int = 64) -> pd.DataFrame:
    """What becomes of a write to each of these addresses."""
    asked = pd.DataFrame({"device": device, "iova": list(iova), "size": size, "write": True})
    return lab.check(asked)


# -- 00: a detached device is not a blocked device -------------------------------------------------


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
        if "driver buffer" in set(_writes(there, "dev0", [there.moments[-1].result]).owner):
            found.append(name)
    return tuple(found)


@_exercise("a number of releases", _number)
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


# -- 01: devices, groups and domains ---------------------------------------------------------------

DISK, CARD = "0000:00:1f.2", "0000:02:01.0"
"""The devices that the exercises of lesson 01 are about, by their names in the default machine."""
WINDOW, PAGE, PAGES = 0x10_0000, 0x1000, 4
"""The first IOVA of the card's window, and how many pages of how many bytes it has."""


@_exercise("a list of device names", _names)
def devices_to_take(answer: frozenset[str]) -> Feedback:
    """Which devices must a program take to own the disk controller?"""
    machine = Machine.default()
    number = machine.device(DISK).group
    right = {device.name for device in machine.groups[number]}
    strange = answer - {device.name for device in machine.devices}
    if strange:
        return Feedback(False, f"This machine has no {_sorted(strange)}.")
    if answer == right - {DISK}:
        return Feedback(False, "Its companions, yes; and the disk controller itself.")
    if answer == {DISK}:
        return Feedback(False, f"It is not alone: who else is in group {number}?")
    if answer - right:
        other = sorted(answer - right)[0]
        return Feedback(False, f"{other} is in group {machine.device(other).group}, not {number}.")
    if answer != right:
        return Feedback(False, f"Group {number} has {len(right)} devices, you named {len(answer)}.")
    return Feedback(True, "A group is the smallest thing that can be owned.")


@_exercise("a Lab", _lab)
def a_window(answer: Lab) -> Feedback:
    """Can the card read four pages of the driver buffer, write the last one, and nothing more?"""
    if CARD not in answer.devices:
        return Feedback(False, f"This is about {CARD}: make the Lab with the default machine.")
    iova = [WINDOW + number * PAGE for number in range(-1, PAGES + 1)]
    writes = _writes(answer, CARD, iova, PAGE)
    reads = answer.check(pd.DataFrame({"device": CARD, "iova": iova, "size": PAGE, "write": False}))
    before, *may_read, after = (reads.reached == PAGE).tolist()
    write_before, *may_write, write_after = (writes.reached == PAGE).tolist()
    if answer.hardware(CARD).kind is Kind.BYPASS:
        return Feedback(False, "The card reaches all of memory: an identity domain has no window.")
    if not any(may_read + may_write):
        return Feedback(False, f"The card reaches none of it: {reads.why.iloc[1]}.")
    if before or after or write_before or write_after:
        return Feedback(False, "It also reaches the page before or after the window.")
    if not all(may_read):
        return Feedback(False, f"Page {may_read.index(False)} of the window can't be read.")
    if set(reads.owner[1:-1]) != {"driver buffer"}:
        return Feedback(False, f"It reads, but from: {_sorted(set(reads.owner[1:-1]))}.")
    if all(may_write):
        return Feedback(False, 'It may write all four pages: the first three want prot="r".')
    if not may_write[-1]:
        return Feedback(False, f"The last page can't be written: {writes.why.iloc[-2]}.")
    if any(may_write[:-1]):
        return Feedback(False, f"Page {may_write.index(True)} may be written too.")
    return Feedback(True, "A page table says of each page where it is and what may be done to it.")


# -- 02: what detach does --------------------------------------------------------------------------


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


@_exercise("a list of driver names", _names)
def dead_code(answer: frozenset[str]) -> Feedback:
    """Whose detach_dev can never be called by the core of a 64-bit Arm kernel 6.0?"""
    has_default = _arm64_with_detach()
    right = {name for name, yes in has_default.items() if yes}
    unknown = answer - set(drivers("6.0").driver)
    if unknown:
        return Feedback(False, f"Linux 6.0 has no driver called {_sorted(unknown)}.")
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


@_exercise("a driver's name", _names)
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


# -- 03: the patch and the objection ---------------------------------------------------------------


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


@_exercise("a list of driver names", _names)
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


@_exercise("a Lab", _lab)
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
    if "another VM" not in set(_writes(answer, "dev0", theirs).owner):
        kind = answer.hardware("dev0").kind.value
        return Feedback(False, f"The core says BLOCKED, but the hardware is {kind}; nothing leaks.")
    if answer.driver.name in ("exynos", "s390"):
        return Feedback(False, f"It leaks, but the lesson has shown {answer.driver.name}: another?")
    return Feedback(True, f"{answer.driver.name} is called blocked and writes to another VM.")
