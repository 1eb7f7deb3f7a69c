"""Is a finding told as it happened, and does each cut of the kept table agree with the table?"""

from __future__ import annotations

import pytest

from iommu_lab.errors import UnknownName
from iommu_lab.findings import kept, shortest_by_driver, story, told, totals
from iommu_lab.lab import Lab
from iommu_lab.search import DESIGNS, FINDINGS, drivers_and_arches, shortest


def test_belief_and_hardware_stand_beside_each_call():
    lab = Lab("patch-v2", "exynos")
    lab.claim_dma_owner(0, "vfio")
    seen = told(lab)
    assert seen.call.tolist() == ["–", "claim_dma_owner(0, 'vfio')"]
    assert seen.owner.tolist() == ["", "vfio"]
    assert seen.believed.tolist() == ["default0 (DMA)", "BLOCKED"]
    assert seen.hardware.tolist() == ["table of default0", "bypass"]
    assert seen.reaches[0] == "-"
    assert "another VM" in seen.reaches[1]


def test_a_refusal_and_a_crash_are_answers():
    lab = Lab("patch-v2", "s390").replay([])
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    with pytest.raises(OSError, match="EBUSY"):
        lab.claim_dma_owner(0, "vfio")
    lab.detach_device(domain, "dev0")
    assert told(lab).answer.tolist() == ["", "", "", "EBUSY", ""]


def test_a_verb_that_a_release_has_not_is_an_answer():
    lab = Lab("6.0", "intel")
    lab.claim_dma_owner(0, "vfio")
    assert told(lab.under("5.15")).answer.tolist() == ["", "not in release"]


def test_a_device_that_is_gone_or_in_no_group_believes_nothing():
    lab = Lab("6.0", "intel")
    lab.remove("dev0")
    assert told(lab).believed.tolist() == ["default0 (DMA_FQ)", ""]
    assert told(lab, "dev9").hardware.tolist() == ["", ""]


def test_a_finding_can_be_told():
    result = shortest("patch-v2", "rockchip", depth=2)
    after = result.after("leak")
    assert after.steps[-1:] == result["leak"].steps[-1:]
    told_so = story(result, "leak")
    assert told_so.call.tolist() == ["–", *map(str, result["leak"].steps)]
    assert told_so.reaches.tolist() == ["-", "kernel, driver buffer, user"]
    with pytest.raises(LookupError, match="no crash in any sequence of up to 1 verbs"):
        shortest("6.0", "amd", depth=1).after("crash")


def test_the_totals_are_those_of_the_table():
    table, rows = kept(), totals()
    assert rows.index.tolist() == list(DESIGNS)
    assert rows.searches.sum() == len(table)
    for kind in FINDINGS:
        assert rows[kind].sum() == (table[kind] > 0).sum()


def test_a_driver_that_a_design_has_has_a_cell_and_one_that_it_has_not_none():
    wide = shortest_by_driver("leak")
    assert wide.columns.tolist() == list(DESIGNS)
    for design in DESIGNS:
        there = set(drivers_and_arches(design)) & set(wide.index)
        assert set(wide.index[wide[design] != ""]) == there
    assert wide.loc[("fsl_pamu", "ppc64"), "6.0"] == "1"
    assert wide.loc[("fsl_pamu", "ppc64"), "patch-v2"] == "·"
    assert ("amd", "x86_64") not in wide.index


def test_a_kind_that_nobody_searched_for_is_said_so():
    with pytest.raises(UnknownName, match="unknown finding 'leek': nearest is leak"):
        shortest_by_driver("leek")
