"""Lesson 01: devices, groups and domains."""

from __future__ import annotations

import pandas as pd

from ..hardware import Kind
from ..lab import Lab
from ..machine import Machine
from .feedback import Feedback, a_lab, exercise, listed, names, writes

DISK, CARD = "0000:00:1f.2", "0000:02:01.0"
"""The devices that the exercises of lesson 01 are about, by their names in the default machine."""
WINDOW, PAGE, PAGES = 0x10_0000, 0x1000, 4
"""The first IOVA of the card's window, and how many pages of how many bytes it has."""


@exercise("a list of device names", names)
def devices_to_take(answer: frozenset[str]) -> Feedback:
    """Which devices must a program take to own the disk controller?"""
    machine = Machine.default()
    number = machine.device(DISK).group
    right = {device.name for device in machine.groups[number]}
    strange = answer - {device.name for device in machine.devices}
    if strange:
        return Feedback(False, f"This machine has no {listed(strange)}.")
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


@exercise("a Lab", a_lab)
def a_window(answer: Lab) -> Feedback:
    """Can the card read four pages of the driver buffer, write the last one, and nothing more?"""
    if CARD not in answer.devices:
        return Feedback(False, f"This is about {CARD}: make the Lab with the default machine.")
    iova = [WINDOW + number * PAGE for number in range(-1, PAGES + 1)]
    written = writes(answer, CARD, iova, PAGE)
    reads = answer.check(pd.DataFrame({"device": CARD, "iova": iova, "size": PAGE, "write": False}))
    before, *may_read, after = (reads.reached == PAGE).tolist()
    write_before, *may_write, write_after = (written.reached == PAGE).tolist()
    if answer.hardware(CARD).kind is Kind.BYPASS:
        return Feedback(False, "The card reaches all of memory: an identity domain has no window.")
    if not any(may_read + may_write):
        return Feedback(False, f"The card reaches none of it: {reads.why.iloc[1]}.")
    if before or after or write_before or write_after:
        return Feedback(False, "It also reaches the page before or after the window.")
    if not all(may_read):
        return Feedback(False, f"Page {may_read.index(False)} of the window can't be read.")
    if set(reads.owner[1:-1]) != {"driver buffer"}:
        return Feedback(False, f"It reads, but from: {listed(set(reads.owner[1:-1]))}.")
    if all(may_write):
        return Feedback(False, 'It may write all four pages: the first three want prot="r".')
    if not may_write[-1]:
        return Feedback(False, f"The last page can't be written: {written.why.iloc[-2]}.")
    if any(may_write[:-1]):
        return Feedback(False, f"Page {may_write.index(True)} may be written too.")
    return Feedback(True, "A page table says of each page where it is and what may be done to it.")
