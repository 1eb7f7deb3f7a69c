"""Is what was said and done of each driver true to its sources?"""

from __future__ import annotations

import re

import pytest

from iommu_lab import history
from iommu_lab.threesteps import ENDS

# -- what was said ---------------------------------------------------------------------------------


@pytest.mark.parametrize("said", history.guesses(), ids=lambda g: f"{g.driver} {g.who} {g.date}")
def test_every_word_of_2022_has_its_mail(said):
    assert re.fullmatch(r"2022-0[58]-\d\d", said.date)
    assert re.fullmatch(r"[^@\s<>]+@[\w.-]+", said.message_id)
    assert said.subject
    assert said.driver in {*history.with_detach(), "*"}
    assert (said.means == "") == (said.how == "no guess")
    assert said.means in {*ENDS, ""}


def test_what_was_said_of_many_names_no_driver():
    for said in history.guesses():
        assert (said.driver == "*") == (said.how.startswith("of ") or said.how == "by his patch")


def test_the_guesses_are_those_that_the_table_of_verdicts_tells_in_words():
    words = {"blocked": "blocking", "identity": "identity", "platform": "platform DMA ops"}
    for name in history.with_detach():
        told = history.verdicts()[name]["guess_2022_05"]
        mine = [g for g in history.said_of(name) if g.who == history.JASON and g.driver == name]
        means = {g.means for g in mine if g.means}
        assert means == {m for m, word in words.items() if word in told}, name


def test_a_driver_by_name_goes_before_all_of_them():
    assert history.guess(history.JASON, "s390").date == "2022-08-26"
    assert history.guess(history.ROBIN, "amd").how == "of most"
    assert history.guess(history.ROBIN, "apple-dart").how == "no guess"


# -- what was done ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "done"),
    [
        ("amd", "removed"),
        ("intel", "removed in 6.2"),
        ("exynos", "removed but for arm32"),
        ("rockchip", "removed"),
        ("s390", "renamed"),
        ("virtio", ""),
        ("riscv", ""),
    ],
)
def test_what_6_3_made_of_a_function(name, done):
    assert history.merged(name) == done


def test_what_was_merged_is_what_the_table_of_verdicts_tells_in_words():
    for name in history.with_detach():
        told = history.verdicts()[name]["merged_6_3"]
        assert history.merged(name).startswith("removed") == told.startswith("removed"), name


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("amd", "blocked (6.12)"),
        ("intel", "blocked"),
        ("mtk", "identity"),
        ("fsl_pamu", "platform"),
        ("s390", "platform (6.6)"),
        ("tegra-gart", "platform (6.6)"),
        ("sprd", "none"),
    ],
)
def test_the_name_of_6_7_or_the_nearest_one(name, called):
    assert str(history.named(name)) == called


def test_s390_has_a_blocked_domain_in_7_2():
    assert history.named("s390", "7.2") == ("blocked", "7.2")


def test_what_came_of_rockchip_is_told_in_order():
    told = history.upstream("rockchip")
    assert told[0] == ("6.3", "removed")
    assert told[1] == ("6.4", "put back for arm32, as set_platform_dma_ops")
    assert told[-1][0] == "6.7"
