"""Lesson 05: the plan and its audit."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from .. import audit
from ..contracts import Contract
from ..drivers import driver_names
from .feedback import Feedback, exercise, word

BY_HAND = "sun50i"
"""The driver that a reader puts through the three steps alone."""


def _three(answer: object) -> tuple[bool, bool, str]:
    """(always set?, ever called?, where it leaves a device), in any sequence; numpy's bools too."""
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise TypeError
    always, called, leaves = answer
    for given in (always, called):
        if type(given).__name__ not in ("bool", "bool_"):
            raise TypeError
    return bool(always), bool(called), word(leaves)


@cache
def _found() -> tuple[bool, bool, str]:
    """The same of the model, over every architecture that the driver is built for."""
    row = audit.table("6.0").set_index("driver").loc[BY_HAND]
    return not row.not_set_on, bool(row.reachable), str(row.after)


@exercise("three answers: True or False, True or False, and a word", _three)
def three_steps(answer: tuple[bool, bool, str]) -> Feedback:
    """Is sun50i's default domain always set, is its detach ever called, where does it lead?"""
    always, called, leaves = answer
    right = _found()
    if always != right[0]:
        return Feedback(False, "A default domain on both boards? Read the type file of each.")
    if called != right[1]:
        return Feedback(False, "Where no default domain is set, who is asked to leave? See events.")
    if leaves == "table":
        return Feedback(False, "A table, yes; whose is it? What the device had mapped, it keeps.")
    if leaves not in audit.ENDS:
        return Feedback(False, f"The third answer is one of: {', '.join(audit.ENDS)}.")
    if leaves == audit.named(BY_HAND).word:
        return Feedback(False, f"6.7 calls it {leaves}. Ask the hardware of 6.0, after a detach.")
    if leaves != right[2]:
        return Feedback(False, f"Not {leaves}: what does lab.hardware say after a detach?")
    return Feedback(True, "Called on one board, and there it writes nothing.")


def _a_contract(answer: object) -> Contract:
    if not isinstance(answer, Contract):
        raise TypeError
    return answer


@exercise("what verify_blocking returns", _a_contract)
def a_broken_promise(answer: Contract) -> Feedback:
    """Did verify_blocking find a leak in a driver that the reader broke on purpose?"""
    if answer.driver in driver_names():
        return Feedback(False, f"{answer.driver} is the kernel's own; break one of yours.")
    if answer.holds:
        return Feedback(False, f"{answer.driver} still blocks. What else can iommu do?")
    if answer.counterexample is None:
        return Feedback(False, f"{answer.driver} is never believed blocked: write blocking.")
    if answer.counterexample.kind != "leak":
        return Feedback(
            False, "Nobody knows what that does, so nothing was shown to leak. Something surer?"
        )
    steps = len(answer.counterexample.steps)
    count = "one step" if steps == 1 else f"{steps} steps"
    return Feedback(True, f"Found in {count}. A review has to see it; a test only has to be run.")
