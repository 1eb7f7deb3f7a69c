"""Who agrees with what the registers are told, and has every difference its reason?"""

from __future__ import annotations

import pytest

from iommu_lab import differences as compared_drivers
from iommu_lab.differences import NEEDED, WORDED
from iommu_lab.history import with_detach

PATCHED = "a claim under the patch"


@pytest.fixture(scope="module")
def compared():
    return compared_drivers.compare().set_index("driver")


@pytest.fixture(scope="module")
def differences():
    return compared_drivers.differences()


def test_every_driver_of_the_patch_is_compared(compared):
    assert list(compared.index) == with_detach()
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
    left_out = differences[(differences.one == WORDED) & (differences.other == "6.3")]
    assert set(left_out.driver) == {
        *("amd", "qcom_iommu", "exynos", "ipmmu-vmsa", "rockchip"),
    }


def test_offered_and_set_are_two_readings_of_the_plan(differences):
    two = differences[(differences.one == WORDED) & (differences.other == NEEDED)]
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
    lost = differences[(differences.one == NEEDED) & (differences.other == "6.3")]
    assert set(lost.driver) == {"qcom_iommu", "ipmmu-vmsa", "mtk", "rockchip", "sun50i"}
    assert lost.set_index("driver").why["rockchip"].endswith("put back in 6.4")
    assert lost.set_index("driver").why["sun50i"].endswith("not put back")
