"""Does the check of lesson 10 take a checker that is right, and tell each usual mistake apart?"""

from __future__ import annotations

import re

import numpy as np
import pytest

import iommu_lab as il
from iommu_lab import check

V = il.Verdict


def goes_on_to(first, last, paddr, may, *, contiguous=False, rights=True):
    run_last, delta = last.copy(), paddr - first
    for row in range(len(first) - 2, -1, -1):
        touches = first[row + 1] == last[row] + np.uint64(1)
        if contiguous:
            touches &= delta[row + 1] == delta[row]
        if touches and (not rights or (may[row] and may[row + 1])):
            run_last[row] = run_last[row + 1]
    return run_last


def checker(
    *,
    side="right",
    clip=False,
    holes=True,
    swapped=False,
    last_byte=True,
    lone=False,
    bridged=False,
    far=False,
    **runs,
):
    """A function that is right, but for the mistakes that are asked for."""

    def mine(first, last, paddr, prot, iova, size, write):
        row = np.searchsorted(first, iova, side=side) - 1
        hole = (iova > last[row]) if clip else (row < 0) | (iova > last[row])
        if not holes:
            hole = row < 0
        bits = (2, 1) if swapped else (1, 2)
        may_read, may_write = (prot & bit > 0 for bit in bits)
        may = np.where(write, may_write[row], may_read[row])
        ends = [goes_on_to(first, last, paddr, x, **runs) for x in (may_read, may_write)]
        if lone:
            ends = [last, last]
        if bridged:
            ends = [np.full_like(last, last[-1])] * 2
        run_last = np.where(write, ends[1][row], ends[0][row])
        if last_byte:
            early = iova + (size - np.uint64(1)) > run_last
        else:
            early = iova + size > run_last + np.uint64(1)
        kinds = [hole, ~may, early]
        where = paddr[row] if far else paddr[row] + (iova - first[row])
        addr = np.select(kinds, [iova, iova, run_last + np.uint64(1)], where)
        names = [V.NOT_MAPPED, V.NO_PERMISSION, V.PARTIAL]
        return np.select(kinds, names, V.TRANSLATED), addr

    return mine


def test_a_right_checker_is_right():
    assert check.a_checker(checker()).passed


@pytest.mark.parametrize(
    ("mistake", "where"),
    [
        ({"far": True}, "Inside one mapping"),
        ({"side": "left"}, "At the ends of a mapping"),
        ({"holes": False}, "In a hole"),
        ({"clip": True}, "Before the first mapping"),
        ({"swapped": True}, "Where the right is missing"),
        ({"lone": True}, "From one mapping into the next"),
        ({"contiguous": True}, "From one mapping into the next"),
        ({"rights": False}, "From one mapping into one without the right"),
        ({"bridged": True}, "From one mapping into one without the right"),
        ({"last_byte": False}, "At the end of the address space"),
    ],
)
def test_a_usual_mistake_is_told_by_the_kind_of_row(mistake, where):
    said = check.a_checker(checker(**mistake))
    assert not said.passed
    assert said.text.startswith(f"{where}: a ")


def test_the_kinds_are_told_apart_and_no_two_have_the_same_hint():
    from iommu_lab.check.speed import KINDS

    assert len({kind.hint for kind in KINDS}) == len(KINDS)


def spoils(first, last, paddr, prot, iova, size, write):
    iova += np.uint64(1)
    return np.zeros(len(iova), np.uint8), iova


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (spoils, "changed the column `iova`"),
        (lambda **q: 7, "two arrays"),
        (lambda **q: (np.zeros(3), np.zeros(3)), r"23 rows went in; \(3,\) codes"),
        (lambda iova, **q: (np.zeros(len(iova)), iova * 1.0), "are floats now"),
        (lambda iova, **q: (np.full(len(iova), 9), iova), "9, which is no verdict"),
        (lambda nothing: None, "can't be judged: TypeError"),
        (17, "wants a function; yours is of type int"),
    ],
)
def test_what_is_no_checker_is_told_why(answer, says):
    said = check.a_checker(answer)
    assert not said.passed
    assert re.search(says, said.text)
