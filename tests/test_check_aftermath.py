"""Do the checks of lesson 08 know what 6.3 lost, and who is open between two page tables?"""

from __future__ import annotations

import pytest

from iommu_lab import check

LOST = ["rockchip", "qcom_iommu"]
OPEN = ["exynos", "rockchip"]


def test_the_drivers_that_6_3_left_on_the_users_table_are_right_by_any_name():
    assert check.left_behind_by_6_3(LOST).passed
    assert check.left_behind_by_6_3("qcom rockchip").passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ([*LOST, "exynos"], "in bypass, by exynos_iommu_set_platform_dma"),
        ([*LOST, "msm"], "in bypass, by msm_iommu_set_platform_dma"),
        ([*LOST, "sun50i"], "in 6.2 the device stayed"),
        ([*LOST, "ipmmu"], "you can't attach"),
        ([*LOST, "amd"], "not built for 32-bit Arm"),
        ([*LOST, "vaxmmu"], "No release has a driver"),
        (["rockchip"], "1 more"),
        ([], "2 more"),
        (None, "in place of the dots"),
        (63, "yours is of type int"),
    ],
)
def test_each_wrong_list_of_what_6_3_left_behind_gets_its_own_hint(answer, hint):
    found = check.left_behind_by_6_3(answer)
    assert not found.passed
    assert hint in found.text


def test_the_drivers_that_are_open_between_two_tables_are_right():
    assert check.open_on_the_way(OPEN).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ([*OPEN, "amd"], "blocked, and that is allowed"),
        ([*OPEN, "sprd"], "nobody has said"),
        ([*OPEN, "fsl_pamu"], "where the way ends"),
        ([*OPEN, "mtk"], "writes nothing"),
        ([*OPEN, "virtio"], "nothing lies between"),
        ([*OPEN, "tegra-gart"], "can't be attached"),
        ([*OPEN, "vaxmmu"], "No release has a driver"),
        (["exynos"], "1 more"),
        (..., "in place of the dots"),
    ],
)
def test_each_wrong_list_of_who_is_open_gets_its_own_hint(answer, hint):
    found = check.open_on_the_way(answer)
    assert not found.passed
    assert hint in found.text
