"""Are the kernel releases a table that can be trusted to say what differs, and nothing else?"""

from __future__ import annotations

import csv
import re

import pytest

from iommu_lab.datafiles import datafile
from iommu_lab.errors import UnknownName
from iommu_lab.releases import known, release, releases

PACKAGE = datafile("releases", "rules.csv").parents[2] / "iommu_lab"


def rows(name: str) -> list[dict[str, str]]:
    with open(datafile("releases", name), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_releases_are_listed_oldest_first_and_hypothetical_ones_after_6_0():
    assert releases() == (
        [
            "5.10",
            "5.15",
            "5.19",
            "6.0",
            "patch-v2",
            "plan",
            "6.1",
            "6.2",
            "6.3",
            "6.4",
            "6.6",
            "6.7",
            "6.12",
            "7.2",
        ]
    )


def test_kernels_that_were_measured_are_known_and_not_listed():
    measured = {"5.10.262", "6.1.192", "6.12.117", "7.2.13"}
    assert measured <= set(known())
    assert not measured & set(releases())


def test_a_release_that_does_not_exist_is_one_line_with_the_nearest_names():
    with pytest.raises(UnknownName) as error:
        release("6.13")
    assert "\n" not in str(error.value)
    assert "6.12" in str(error.value)


@pytest.mark.parametrize("wrong", [6.0, None, object])
def test_a_release_is_a_text(wrong):
    with pytest.raises(UnknownName, match=r"a name in quotes such as '6\.0', got "):
        release(wrong)


def test_a_hypothetical_kernel_is_6_0_but_for_what_it_changes():
    for name in ("patch-v2", "plan"):
        base, changed = release("6.0").values, release(name).values
        assert {rule for rule in base if base[rule] != changed[rule]} == {"set_null"}
        assert "6.0" in release(name).lineage()
        assert not release("6.1").at_least(name)


def test_every_release_has_a_value_for_every_rule():
    rules = {row["rule"] for row in rows("rules.csv")}
    for name in known():
        assert set(release(name).values) == rules, name


def test_every_rule_is_asked_for_in_the_code():
    code = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    words = set(re.findall(r'"([a-z_]+(?:\.[a-z_]+)?)"', code))
    assert {row["rule"] for row in rows("rules.csv")} - words == set()


def test_no_release_is_asked_for_by_its_name_in_the_code():
    asked = re.compile(r"(release|\.name)\S* (==|!=|in) \(?\"\d+\.\d+")
    for module in ("core", "behaviours", "pagetables", "dmaapi"):
        code = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
        assert asked.findall(code) == [], module


def test_a_rule_says_in_one_release_one_thing_and_where_it_was_read():
    seen = set()
    for row in rows("rules.csv"):
        assert (row["rule"], row["release"]) not in seen
        seen.add((row["rule"], row["release"]))
        assert row["release"] in known()
        assert row["confidence"] in ("high", "medium", "low")
        assert row["function"] or row["release"] == "5.10", row


def test_a_stable_release_belongs_to_the_listed_one_it_stands_on():
    assert release("6.1.176").mainline == release("6.1.192").mainline == "6.1"
    assert release("6.2").mainline == "6.2"


@pytest.mark.parametrize(
    ("stable", "rule", "there", "not_there"),
    [
        ("6.1.192", "attach.failure", "reattach-old", "stays"),
        ("6.12.117", "bind.no_default", "EPROBE_DEFER", "success"),
    ],
)
def test_a_back_port_is_in_the_stable_release_alone(stable, rule, there, not_there):
    at = release(stable)
    assert (at[rule], release(at.mainline)[rule]) == (there, not_there)


def test_what_the_model_leaves_out_is_said_with_a_reason():
    left_out = rows("not-modelled.csv")
    assert left_out
    assert all(row["rule"] and row["reason"].strip() for row in left_out)
    assert len({row["rule"] for row in left_out}) == len(left_out)
