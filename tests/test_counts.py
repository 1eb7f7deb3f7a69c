"""Is every count recounted, and has every difference from a count by hand its reason?"""

from __future__ import annotations

import csv

import pytest

from iommu_lab import counts
from iommu_lab.claims import DECIDED
from iommu_lab.datafiles import datafile
from iommu_lab.history import with_detach

with datafile("audit", "counts.csv").open(newline="", encoding="utf-8") as file:
    TABLE = {row["id"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("number", counts.COUNTS)
def test_a_count_is_what_the_model_counts_now(number):
    counted = counts.COUNTS[number]()
    assert TABLE[number]["model"] == str(len(counted))
    assert TABLE[number]["drivers"] == ", ".join(counted)


def test_every_count_has_a_row_and_every_row_a_count():
    assert list(TABLE) == list(counts.COUNTS)


def test_where_hand_and_model_differ_the_reason_stands_beside_it():
    for number, row in TABLE.items():
        differs = bool(row["by_hand"]) and row["by_hand"] != row["model"]
        assert differs == bool(row["why"]), number


def test_a_count_belongs_to_a_claim_that_the_model_decides():
    assert {row["claim"] for row in TABLE.values()} <= set(DECIDED)


def test_the_seventeen_fall_into_three_without_rest():
    parts = ("blocked", "not-blocked", "unknown")
    named = [name for part in parts for name in counts.COUNTS[part]()]
    assert sorted(named) == sorted(with_detach())


def test_the_counts_follow_the_model(monkeypatch):
    monkeypatch.setattr(counts, "after_leaving", lambda release, name: "blocked")
    assert len(counts.COUNTS["blocked"]()) == 17
    assert counts.counts().set_index("id").model["blocked"] == "17"
