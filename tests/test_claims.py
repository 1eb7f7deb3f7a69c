"""The claims of the thread, put to the model."""

import pytest

from iommu_lab import claims
from iommu_lab.errors import UnknownName

ROWS = {row["id"]: row for row in claims._rows()}


@pytest.mark.parametrize("number", claims.DECIDED)
def test_the_model_answers_a_claim_as_the_table_says(number):
    answer = claims.DECIDED[number]()
    assert str(answer.true).lower() == ROWS[number]["model"], answer.says
    assert answer.says == ROWS[number]["seen"]


def test_every_claim_is_decided_or_has_a_reason_why_not():
    for number, row in ROWS.items():
        assert (number in claims.DECIDED) != bool(row["not_decided"]), number


def test_history_and_model_differ_only_where_the_table_explains_it():
    explained = {"C36", "C37"}
    opposite = {"true": "false", "false": "true"}
    differ = {
        number
        for number, row in ROWS.items()
        if row["model"] and opposite.get(row["history"]) == row["model"]
    }
    assert differ <= explained


def test_the_table_of_claims_shows_the_answers_computed_now():
    table = claims.table()
    assert len(table) == len(ROWS)
    assert set(table.loc[table["not_decided"] != "", "model"]) == {"not decided"}


def test_a_few_claims_can_be_asked_for_alone():
    asked = claims.table("C45", "C18")
    assert asked["id"].tolist() == ["C18", "C45"]
    assert set(asked["model"]) <= {"true", "false"}
    with pytest.raises(UnknownName, match="C99"):
        claims.table("C45", "C99")
