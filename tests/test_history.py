"""Is what was said and done of each driver true to its sources, and is every count recounted?"""

from __future__ import annotations

import csv
import re

import pytest

from iommu_lab import audit, history
from iommu_lab.claims import DECIDED
from iommu_lab.datafiles import datafile
from iommu_lab.threesteps import ENDS

with datafile("audit", "counts.csv").open(newline="", encoding="utf-8") as file:
    COUNTS = {row["id"]: row for row in csv.DictReader(file)}


PATCHED = "a claim under the patch"


@pytest.fixture(scope="module")
def compared():
    return history.compare().set_index("driver")


@pytest.fixture(scope="module")
def differences():
    return history.differences()


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


# -- who agrees ------------------------------------------------------------------------------------


def test_every_driver_of_the_patch_is_compared(compared):
    assert list(compared.index) == history.with_detach()
    assert len(compared) == 17


def test_who_agrees_says_what_the_registers_say_and_who_differs_does_not(compared):
    for name, row in compared.iterrows():
        says = {"jason": row.jason, "baolu": row.baolu, "name": row.named_6_7.split(" (")[0]}
        says = {who: word for who, word in says.items() if word not in ("", "none")}
        for who in filter(None, row.agree.split(", ")):
            assert says.pop(who) == row.leaves, name
        assert set(says) == set(filter(None, row.differ.split(", "))), name


def test_the_patch_is_right_about_four_drivers(compared):
    right = compared[compared.agree.str.contains("baolu")]
    assert set(right.index) == {"amd", "intel", "apple-dart", "fsl_pamu"}


def test_what_differs_has_a_reason(compared, differences):
    assert (differences.why.str.len() > 10).all()
    assert set(differences.driver) == set(compared[compared.why != ""].index)
    assert {"intel", "apple-dart"} == set(compared[compared.why == ""].index)


def test_all_that_is_said_of_the_patch_is_an_inference(differences):
    assert differences[differences.other == PATCHED].inference.all()


def test_step_two_was_left_out_for_all_but_two_of_those_that_needed_it(differences):
    left_out = differences[(differences.one == history.WORDED) & (differences.other == "6.3")]
    assert set(left_out.driver) == {
        *("amd", "qcom_iommu", "exynos", "ipmmu-vmsa", "rockchip"),
    }


def test_offered_and_set_are_two_readings_of_the_plan(differences):
    two = differences[(differences.one == history.WORDED) & (differences.other == history.NEEDED)]
    assert set(two.driver) == {
        *("qcom_iommu", "exynos", "ipmmu-vmsa", "mtk", "mtk_v1", "rockchip", "sun50i"),
    }
    why = two.set_index("driver").why
    assert why["exynos"] == "a DMA domain is offered, and none is set on arm32"
    assert "no DMA domain is offered" in why["mtk_v1"]


def test_the_patch_would_have_changed_a_claim_for_all_but_five(differences, compared):
    changed = set(differences[differences.other == PATCHED].driver)
    assert set(compared.index) - changed == {"amd", "intel", "apple-dart", "mtk_v1", "tegra-gart"}
    why = differences.set_index(["driver", "other"]).why
    assert "arm64: BLOCKED is believed, the hardware is bypass" in why["exynos", PATCHED]
    assert "follows a NULL pointer" in why["s390", PATCHED]


def test_what_6_3_removed_and_32_bit_arm_still_called_is_named(differences):
    lost = differences[(differences.one == history.NEEDED) & (differences.other == "6.3")]
    assert set(lost.driver) == {"qcom_iommu", "ipmmu-vmsa", "mtk", "rockchip", "sun50i"}
    assert lost.set_index("driver").why["rockchip"].endswith("put back in 6.4")
    assert lost.set_index("driver").why["sun50i"].endswith("not put back")


# -- the counts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", history.COUNTS)
def test_a_count_is_what_the_model_counts_now(number):
    counted = history.COUNTS[number]()
    assert COUNTS[number]["model"] == str(len(counted))
    assert COUNTS[number]["drivers"] == ", ".join(counted)


def test_every_count_has_a_row_and_every_row_a_count():
    assert list(COUNTS) == list(history.COUNTS)


def test_where_hand_and_model_differ_the_reason_stands_beside_it():
    for number, row in COUNTS.items():
        differs = bool(row["by_hand"]) and row["by_hand"] != row["model"]
        assert differs == bool(row["why"]), number


def test_a_count_belongs_to_a_claim_that_the_model_decides():
    assert {row["claim"] for row in COUNTS.values()} <= set(DECIDED)


def test_the_seventeen_fall_into_three_without_rest():
    parts = ("blocked", "not-blocked", "unknown")
    named = [name for part in parts for name in history.COUNTS[part]()]
    assert sorted(named) == sorted(history.with_detach())


def test_the_counts_follow_the_model(monkeypatch):
    monkeypatch.setattr(history, "after_leaving", lambda release, name: "blocked")
    assert len(history.COUNTS["blocked"]()) == 17
    assert history.counts().set_index("id").model["blocked"] == "17"


# -- the cards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", history.with_detach())
def test_a_card_says_the_same_in_text_html_and_markdown(name):
    card = audit.card(name)
    asked = dict(card.rows)
    assert {"function", "evidence", "1: a default domain", "what was done"} <= set(asked)
    text = re.sub(r"\s+", " ", str(card))
    html, markdown = card._repr_html_(), card._repr_markdown_()
    for what, answer in card.rows:
        assert what.strip() in text
        assert re.sub(r"\s+", " ", answer) in text
        assert f"| {what} |" in markdown
        assert f">{what}</th>" in html
    assert card.source in html
    assert card.source in markdown
    assert html.count("<tr>") == len(card.rows) + 1 == markdown.count("\n") - 1


def test_a_card_labels_what_is_inferred():
    mtk, amd = (dict(audit.card(name).rows) for name in ("mtk", "amd"))
    assert mtk["2: it leaves a device"] == "still translating (inference)"
    assert amd["2: it leaves a device"] == "blocked"
    assert "the patch never ran" in amd["a claim, patched"]


def test_a_card_of_another_release_leaves_2022_out():
    card = dict(audit.card("riscv", "7.2").rows)
    assert not {"said in 2022", "what differs", "a claim, patched"} & set(card)
    assert card["3: the advice"] == "nothing to do"


def test_a_card_takes_an_alias():
    assert audit.card("qcom").driver == "qcom_iommu"


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_a_table_a_card_and_a_matrix(capsys):
    for argv, words in (
        (["--release", "6.0"], ("s390", "rename to set_platform_dma", "real blocking domain")),
        (["exynos"], ("exynos in Linux 6.0", "removed but for arm32")),
        (["--driver", "exynos", "--release", "6.3"], ("exynos in Linux 6.3",)),
        (["--matrix", "claim"], ("patch-v2", "crash")),
    ):
        assert audit.main(argv) == 0
        printed = capsys.readouterr().out
        assert [word for word in words if word not in printed] == []
