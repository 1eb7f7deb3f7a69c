"""Do the checks of lesson 06 know a blocked device that comes home from one that does not?"""

from __future__ import annotations

import pytest

from iommu_lab import check
from iommu_lab.own import OwnDriver


class Home(OwnDriver):
    def blocking(self, iommu, domain):
        iommu.block()

    def detach(self, iommu, domain):
        iommu.platform()


def with_(**programs) -> type[OwnDriver]:
    """That driver with other methods, each handed one device's registers; None leaves one out."""
    methods = {"blocking": Home.blocking, "detach": Home.detach}
    for name, program in programs.items():
        methods[name] = program and (lambda self, iommu, domain, run=program: run(iommu))
    return type("Mine", (OwnDriver,), {name: way for name, way in methods.items() if way})


def test_a_blocked_device_that_comes_home_is_right():
    assert check.blocks_and_gives_back(Home).passed
    assert check.blocks_and_gives_back(Home()).passed


@pytest.mark.parametrize(
    ("driver", "hint"),
    [
        (with_(blocking=None), "write a blocking method"),
        (with_(detach=None), "nobody gave the device back"),
        (with_(blocking=lambda iommu: iommu.platform()), "the platform has the device"),
        (with_(blocking=lambda iommu: iommu.bypass()), "in bypass"),
        (with_(blocking=lambda iommu: iommu.switch_off()), "nobody knows"),
        (with_(detach=lambda iommu: iommu.block()), "nobody gave the device back"),
        (with_(detach=lambda iommu: iommu.bypass()), "crashes"),
        (with_(attach=lambda iommu: iommu.block()), "own domain is not walked"),
        (type("Elsewhere", (Home,), {"base": "exynos"}), "stands on exynos"),
        (with_(blocking=lambda iommu: 1 / 0), "ZeroDivisionError"),
    ],
)
def test_a_driver_that_is_not_right_hears_what_it_did(driver, hint):
    said = check.blocks_and_gives_back(driver)
    assert not said.passed
    assert hint in said.text


def test_the_first_half_stood_alone_between_the_cut_and_the_common_dma_code():
    assert check.first_half_alone(["6.2", "6.3", "6.4", "6.6"]).passed
    assert check.first_half_alone("6.6, 6.4, 6.3, 6.2").passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (["6.0"], "both steps run"),
        (["6.2", "6.3", "6.4", "6.6", "6.7"], "no platform left"),
        (["6.2"], "3 more"),
        (["6.5"], "has no 6.5"),
        ([6.2], "wants a list of releases"),
    ],
)
def test_a_wrong_list_of_releases_hears_why(answer, hint):
    said = check.first_half_alone(answer)
    assert not said.passed
    assert hint in said.text
