"""Lesson 10: a checker of the reader's own, held against the lab's on rows easy to get wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..dma import Checker
from ..hardware import TOP, Entry, Frozen, Hardware, Kind
from ..tables import READ, WRITE, PageTable, Run
from ..verdict import Verdict
from .feedback import Feedback, exercise

Mine = Callable[..., Any]

RW = READ | WRITE
# Two neighbours that differ in rights, two that differ in where they lead, a hole, the last page.
TABLE = PageTable(
    [
        Run(0x1000, 0x2000, 0x8000_0000, 12, RW),
        Run(0x3000, 0x1000, 0x8000_2000, 12, READ),
        Run(0x4000, 0x2000, 0x4000_0000, 12, RW),
        Run(0x8000, 0x1000, 0x8000_9000, 12, WRITE),
        Run(TOP - 0xFFF, 0x1000, 0x8001_0000, 12, RW),
    ]
)


class Kinds(NamedTuple):
    """Rows of one kind, and what usually goes wrong with them."""

    where: str
    hint: str
    rows: tuple[tuple[int, int, bool], ...]  # iova, size, write


KINDS = (
    Kinds(
        "inside one mapping",
        "paddr is where `first` leads to; the rest is the way from there.",
        ((0x1800, 64, False), (0x1800, 64, True), (0x4010, 8, True)),
    ),
    Kinds(
        "at the ends of a mapping",
        "`first` and `last` both belong to it: which side does your search take?",
        ((0x1000, 1, True), (0x5FFF, 1, True), (0x4000, 0x2000, True)),
    ),
    Kinds(
        "in a hole",
        "The nearest mapping before it ends too early.",
        ((0x6000, 1, False), (0x7FFF, 1, True), (0x7FF0, 0x20, True)),
    ),
    Kinds(
        "before the first mapping",
        "Row 0 minus one is row -1, and numpy takes that for the last row.",
        ((0, 1, False), (0xFFF, 1, True)),
    ),
    Kinds(
        "where the right is missing",
        "Reading wants bit 1 of `prot`, writing bit 2.",
        ((0x3000, 8, True), (0x8000, 8, False)),
    ),
    Kinds(
        "from one mapping into the next",
        "Mappings that touch are walked through, however many, wherever each of them leads.",
        ((0x2FF0, 0x20, False), (0x3FF0, 0x20, False), (0x1000, 0x5000, False)),
    ),
    Kinds(
        "from one mapping into one without the right",
        "The bytes before it get through: where a run ends depends on the direction.",
        ((0x2FF0, 0x20, True), (0x1000, 0x4000, True)),
    ),
    Kinds(
        "from a mapping into a hole",
        "A mapping beyond the hole does not help: the first byte that stops ends it.",
        ((0x5FF0, 0x20, False), (0x5FF0, 0x2100, True)),
    ),
    Kinds(
        "at the end of the address space",
        "iova + size is 2**64 there, and that is 0 in 64 bits: work with the last byte.",
        ((TOP - 0xF, 0x10, True), (TOP - 0x1F, 0x10, True), (TOP, 1, False)),
    ),
)


def _columns() -> dict[str, NDArray[Any]]:
    """What the reader's function is called with: the table, and all rows at once."""
    first, size, paddr = (
        np.array(column, np.uint64) for column in (TABLE.iova, TABLE.size, TABLE.paddr)
    )
    iova, length, write = zip(*(row for kind in KINDS for row in kind.rows), strict=True)
    return {
        "first": first,
        "last": first + (size - np.uint64(1)),
        "paddr": paddr,
        "prot": np.array(TABLE.prot, np.uint8),
        "iova": np.array(iova, np.uint64),
        "size": np.array(length, np.uint64),
        "write": np.array(write, np.bool_),
    }


def _function(answer: object) -> Mine:
    if not callable(answer):
        raise TypeError
    return answer


@exercise("a function", _function)
def a_checker(answer: Mine) -> Feedback:
    """Does this function give the verdicts and addresses that the lab gives?"""
    given, asked = _columns(), _columns()
    told = answer(**given)
    for name, column in asked.items():
        if not np.array_equal(given[name], column):
            return Feedback(False, f"It changed the column `{name}` that it was given: copy first.")
    if not isinstance(told, tuple | list) or len(told) != 2:
        return Feedback(False, "Give back two arrays: the codes and the addresses.")
    code, addr = map(np.asarray, told)
    rows = len(asked["iova"])
    if code.shape != (rows,) or addr.shape != (rows,):
        return Feedback(
            False, f"{rows} rows went in; {code.shape} codes and {addr.shape} addresses came out."
        )
    if addr.dtype.kind == "f":
        return Feedback(False, "The addresses are floats now: some column was signed. Stay uint64.")
    hardware = Hardware(Frozen(dev0=Entry(Kind.TABLE, "t")), Frozen(t=TABLE))
    questions = (asked[name] for name in ("iova", "size", "write"))
    right_code, right_addr = Checker(hardware, ["dev0"]).check(0, *questions)
    row = 0
    for kind in KINDS:
        for iova, size, write in kind.rows:
            right = Verdict(int(right_code[row])).name, int(right_addr[row])
            yours = _name(code[row]), int(addr[row])
            if yours != right:
                return Feedback(
                    False,
                    f"{kind.where.capitalize()}: a {'write' if write else 'read'} of {size:#x} "
                    f"bytes at {iova:#x} is {right[0]}, {right[1]:#x}; yours says {yours[0]}, "
                    f"{yours[1]:#x}. {kind.hint}",
                )
            row += 1
    return Feedback(True, f"It agrees on all {rows} rows. Does it win the race?")


def _name(code: Any) -> str:
    known = {verdict.value: verdict.name for verdict in Verdict}
    return known.get(int(code), f"{code}, which is no verdict")
