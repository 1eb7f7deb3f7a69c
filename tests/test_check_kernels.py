"""Lesson 04's check: does it take the label, and tell what a wrong one shows?"""

import re

import pytest

from iommu_lab import check

LABELS = ("S23", "s23-writeonly-read", " S23-writeonly-read ")


@pytest.mark.parametrize("answer", LABELS)
def test_the_write_only_page_is_read_by_all_but_the_newest_kernel(answer):
    said = check.where_else_they_part(answer)
    assert said.passed
    assert said.text.startswith("core-7.x-pt says BLOCKED(zeros), the others GOT_DATA")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (..., "in place of the dots"),
        (23, "yours is of type int"),
        ("S05", "which the lesson has shown"),
        ("S05-container-set-no-iommu-phys", "which the lesson has shown"),
        ("S12", "all four have the same outcome: LANDED"),
        ("S34", "all four have the same outcome: BLOCKED"),
        ("S2", "no DMA called s2"),
        ("the claim", "no DMA called the claim"),
    ],
)
def test_a_wrong_label_is_told_what_is_there(answer, hint):
    said = check.where_else_they_part(answer)
    assert not said.passed
    assert re.search(hint, said.text)
