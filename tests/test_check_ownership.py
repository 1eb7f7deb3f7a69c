"""Do the checks of lesson 07 know who is in the way, and which order of calls leaves a gap?"""

from __future__ import annotations

import pytest

import iommu_lab as il
from iommu_lab import check
from iommu_lab.check.ownership import CARDS, DESK

GOOD = [
    *("unmap", "unbind fn0", "unbind fn1"),
    *("claim", "attach", "detach", "free", "release"),
    "bind fn0",
]


def moved(card: str, before: str) -> list[str]:
    """The good order with one card moved in front of another."""
    rest = [c for c in GOOD if c != card]
    at = rest.index(before)
    return [*rest[:at], card, *rest[at:]]


# -- who must be unbound ---------------------------------------------------------------------------


def test_the_siblings_with_drivers_of_the_kernel_are_in_the_way():
    assert check.devices_to_unbind(["0000:01:00.1", "0000:01:00.2"]).passed
    assert check.devices_to_unbind("0000:01:00.2, 0000:01:00.1").passed


def test_the_desktop_claims_once_they_are_unbound_and_not_before():
    lab = il.Lab("6.0", "intel", il.Machine.from_listing(DESK))
    with pytest.raises(OSError, match="EPERM"):
        lab.claim_dma_owner(1, "vfio")
    lab.unbind("0000:01:00.1")
    lab.unbind("0000:01:00.2")
    assert lab.claim_dma_owner(1, "vfio") == 0


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (["0000:01:00.1"], "EPERM: 1 more"),
        ([], "EPERM: 2 more"),
        (["0000:00:01.0", "0000:01:00.1", "0000:01:00.2"], "may keep pcieport"),
        (["0000:01:00.0", "0000:01:00.1", "0000:01:00.2"], "may keep vfio-pci"),
        (["0000:01:00.1", "0000:01:00.2", "0000:01:00.3"], "nothing to unbind"),
        (["0000:01:00.1", "0000:01:00.2", "0000:02:00.0"], "is in group 2"),
        (["0000:09:00.0"], "has no 0000:09:00.0"),
    ],
)
def test_a_wrong_list_of_devices_hears_why(answer, hint):
    said = check.devices_to_unbind(answer)
    assert not said.passed
    assert hint in said.text


# -- the order of calls ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order",
    [
        GOOD,
        ", ".join(GOOD),
        moved("unbind fn1", "unbind fn0"),
        moved("release", "detach"),
        moved("release", "free"),
    ],
)
def test_an_order_that_leaves_no_gap_is_right(order):
    assert check.nothing_is_ever_open(order).passed


@pytest.mark.parametrize(
    ("order", "hint"),
    [
        (moved("unbind fn0", "unmap"), "fn0 has no driver, and it reaches the page"),
        (moved("unbind fn1", "unmap"), "fn1 has no driver, and it reaches the page"),
        (moved("claim", "unbind fn1"), "EPERM"),
        (moved("attach", "unbind fn0"), "fn0 is driven by the kernel"),
        (moved("attach", "claim"), "nobody owns the group"),
        (moved("free", "detach"), "walks the page table of dom1, which is freed"),
        (moved("free", "attach"), "At attach the kernel says no"),
        (moved("bind fn0", "release"), "EBUSY"),
        (moved("detach", "attach"), "which is freed"),
        (["unmap"], "Left over: unbind fn0"),
        ([*GOOD, "claim"], "claim is there twice"),
        (["open"], "There is no card 'open'"),
        ([], "Left over"),
        ([1, 2], "wants a list of cards"),
    ],
)
def test_an_order_with_a_gap_hears_where_it_is(order, hint):
    said = check.nothing_is_ever_open(order)
    assert not said.passed
    assert hint in said.text


def test_a_right_order_has_played_every_card():
    assert set(GOOD) == set(CARDS)
    assert not any(check.nothing_is_ever_open(GOOD[:end]).passed for end in range(len(GOOD)))
