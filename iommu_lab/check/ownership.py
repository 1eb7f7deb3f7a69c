"""Lesson 07: ownership and VFIO."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from ..hardware import Kind
from ..lab import Lab, Step
from ..machine import Machine
from .feedback import Feedback, exercise, listed, names, word, writes

DESK = """
GROUP 1 type=DMA devices=0000:00:01.0(8086:1901,drv=pcieport),0000:01:00.0(10de:1e84,drv=vfio-pci)
GROUP 1 type=DMA devices=0000:01:00.1(10de:10f8,drv=snd_hda_intel),0000:01:00.2(10de:1ad8,drv=xhci)
GROUP 1 type=DMA devices=0000:01:00.3(10de:1ad9,drv=-)
GROUP 2 type=DMA devices=0000:02:00.0(144d:a808,drv=nvme)
"""
"""A desktop with a graphics card of four functions behind a port that can't keep them apart.

Made up, in the form that :meth:`~iommu_lab.machine.Machine.from_listing` reads.
"""
CARD = "0000:01:00.0"


def _desk(unbound: Iterable[str] = ()) -> Lab:
    lab = Lab("6.0", "intel", Machine.from_listing(DESK))
    return lab.replay([Step("unbind", (name,)) for name in unbound])


def _answer(lab: Lab, verb: str, *args: object) -> str:
    """What the kernel says to one verb more, in a word."""
    return str(lab.replay([Step(verb, args)]).moments[-1].result)


@cache
def _in_the_way() -> frozenset[str]:
    """The devices without whose unbinding the card's group can't be claimed."""
    lab = _desk()
    bound = [name for name, at in lab.state.devices.items() if at.driver]
    group = lab.state.devices[CARD].group
    return frozenset(
        name
        for name in bound
        if _answer(_desk(b for b in bound if b != name), "claim_dma_owner", group, "vfio") != "0"
    )


@exercise("a list of device names", names)
def devices_to_unbind(answer: frozenset[str]) -> Feedback:
    """Which devices of the desktop must be unbound before the graphics card can be claimed?"""
    lab, right = _desk(), _in_the_way()
    strange = answer - set(lab.devices)
    if strange:
        return Feedback(False, f"This desktop has no {listed(strange)}.")
    if answer == right:
        return Feedback(True, "They used the default domain, and now the claim is granted.")
    group = lab.state.devices[CARD].group
    for name in sorted(answer - right):
        at = lab.state.devices[name]
        if at.group != group:
            return Feedback(False, f"{name} is in group {at.group}: nobody asks it.")
        if at.driver is None:
            return Feedback(False, f"{name} has no driver, so there is nothing to unbind.")
        return Feedback(False, f"{name} may keep {at.driver}, which does no DMA of its own.")
    said = _answer(_desk(answer), "claim_dma_owner", group, "vfio")
    return Feedback(False, f"The claim still says {said}: {len(right - answer)} more.")


# -- the order of calls ----------------------------------------------------------------------------

PAIR = Machine().having("fn0", "fn1", group=0)
BUFFER, PROGRAM, WINDOW, PAGE = 0x8000_0000, 0x9000_0000, 0x10_0000, 0x1000


@cache
def _before_the_cards() -> Lab:
    """Both functions have kernel drivers, one page is mapped for fn0; the program's domain waits.

    Unmapping is strict, so that no address outlives it in the IOTLB.
    """
    lab = Lab("6.0", "intel", PAIR, cmdline="iommu.strict=1")
    lab.dma_map("fn0", BUFFER, PAGE)
    lab.bind("fn0", "nic")
    lab.bind("fn1", "nic")
    lab.map(lab.alloc_domain(), WINDOW, PROGRAM, PAGE)
    return lab


def _given() -> int:
    """The address that the kernel driver of fn0 gave to its device."""
    return int(_before_the_cards().moments[1].result)


CARDS = {
    "unmap": ("dma_unmap", ("fn0", _given, PAGE)),
    "unbind fn0": ("unbind", ("fn0",)),
    "unbind fn1": ("unbind", ("fn1",)),
    "claim": ("claim_dma_owner", (0, "vfio")),
    "attach": ("attach_group", ("dom1", 0)),
    "detach": ("detach_group", ("dom1", 0)),
    "free": ("free_domain", ("dom1",)),
    "release": ("release_dma_owner", (0,)),
    "bind fn0": ("bind", ("fn0", "nic")),
}
"""What each card calls; a function among the arguments is asked for its value."""


def _step(card: str) -> Step:
    verb, args = CARDS[card]
    return Step(verb, tuple(a() if callable(a) else a for a in args))


def _cards(answer: object) -> tuple[str, ...]:
    given = answer.split(",") if isinstance(answer, str) else answer
    if not isinstance(given, Iterable):
        raise TypeError
    return tuple(" ".join(word(card).split()) for card in given)


def _open(lab: Lab) -> str:
    """Who reaches now what is not theirs, as a clause; "" when nobody does."""
    owned = lab.state.groups[0].owner is not None
    for name in lab.devices:
        look = lab.hardware(name)
        if look.kind is Kind.UNKNOWN:
            return f"of {name} nothing is known: {look.why}"
        reached = set(writes(lab, name, [_given(), WINDOW, BUFFER, PROGRAM]).owner)
        if lab.state.devices[name].driver is None:
            if "driver buffer" in reached:
                return f"{name} has no driver, and it reaches the page of fn0's driver"
            if "user process" in reached and not owned:
                return f"{name} reaches the program's page, and nobody owns the group"
        elif "user process" in reached:
            return f"{name} is driven by the kernel, and it reaches the program's page"
    return ""


@exercise("a list of cards", _cards)
def nothing_is_ever_open(answer: tuple[str, ...]) -> Feedback:
    """Played in this order, is each function always kept to what is its own?"""
    strange = [card for card in answer if card not in CARDS]
    if strange:
        return Feedback(False, f"There is no card {strange[0]!r}: they are {', '.join(CARDS)}.")
    twice = [card for card in CARDS if answer.count(card) > 1]
    if twice:
        return Feedback(False, f"Each card once, please: {twice[0]} is there twice.")
    lab = _before_the_cards()
    for card in answer:
        lab = lab.replay([_step(card)])
        last = lab.moments[-1]
        if isinstance(last.result, str):
            return Feedback(False, f"At {card} the kernel says no. {last.events[-1].text}.")
        opened = _open(lab)
        if opened:
            return Feedback(False, f"After {card} something is open: {opened}.")
    if len(answer) < len(CARDS):
        left = ", ".join(card for card in CARDS if card not in answer)
        return Feedback(False, f"So far nothing was open. Left over: {left}.")
    return Feedback(True, "Each function reached its own, or nothing, at every step.")
