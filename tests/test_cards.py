"""Does a card say the same in every form, and call an inference one?"""

from __future__ import annotations

import re

import pytest

from iommu_lab import audit
from iommu_lab.history import with_detach


@pytest.mark.parametrize("name", with_detach())
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
