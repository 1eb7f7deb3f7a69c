"""The group's ``type`` file: what it reads, who may write what, and in which order it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers import FIRMWARE, answer, on, together, warnings

from iommu_lab.domains import DomainType
from iommu_lab.lab import Lab
from iommu_lab.machine import Device
from iommu_lab.releases import releases

MAINLINE = [r for r in releases() if r[0].isdigit()]
ONE_DEVICE = ["5.15", "5.19", "6.0", "6.1", "6.2", "6.3"]
WHOLE_GROUP = ["6.4", "6.6", "6.7", "6.12", "7.2"]
TWO = together("a", "b")


def strict(release: str, driver: str = "amd", **more) -> Lab:
    return Lab(release, driver, cmdline="iommu.strict=1", **more)


@pytest.mark.parametrize("release", MAINLINE)
def test_the_file_reads_the_default_domains_type_whatever_is_attached(release):
    lab = strict(release)
    lab.attach_device(lab.alloc_domain(), "dev0")
    assert (lab.group_type(0), lab.belief(0)) == ("DMA", DomainType.UNMANAGED)


def test_the_file_reads_unknown_without_a_default_domain():
    assert Lab("6.0", "s390").group_type(0) == "unknown"


def test_5_10_only_reads():
    lab = strict("5.10")
    assert answer(lab, "set_group_type", 0, "identity") == "EACCES"


@pytest.mark.parametrize("release", ONE_DEVICE + WHOLE_GROUP)
def test_a_written_type_is_the_groups_new_default_and_takes_effect_at_once(release):
    lab = strict(release)
    assert lab.set_group_type(0, "identity") == 0
    assert (lab.group_type(0), lab.belief(0)) == ("identity", DomainType.IDENTITY)
    assert on(lab) == [("bypass", None)]


@pytest.mark.parametrize("release", ONE_DEVICE + WHOLE_GROUP)
@pytest.mark.parametrize("word", ["unmanaged", "blocked", "dma", "platform"])
def test_most_words_can_not_be_written(word, release):
    assert answer(strict(release), "set_group_type", 0, word) == "EINVAL"


def test_without_a_default_domain_nothing_can_be_written():
    for release in ("5.15", "5.19", "6.0", "6.6"):
        lab = Lab(release, "exynos", arch="arm32")
        assert answer(lab, "set_group_type", 0, "identity") == "EINVAL"


def test_5_15_looks_at_the_word_and_at_the_driver_before_it_misses_a_default_domain():
    lab = Lab("5.15", "exynos", arch="arm32")
    lab.bind("dev0", "fimd")
    assert answer(lab, "set_group_type", 0, "nonsense") == "EINVAL"
    assert answer(lab, "set_group_type", 0, "identity") == "EBUSY"
    assert answer(lab, "set_group_type", 0, "DMA-FQ") == "crash"


@pytest.mark.parametrize("release", ONE_DEVICE)
def test_up_to_6_3_a_group_of_several_devices_keeps_its_type(release):
    lab = strict(release, machine=TWO)
    assert answer(lab, "set_group_type", 0, "identity") == "EINVAL"
    assert answer(lab, "set_group_type", 0, "DMA-FQ") == "EINVAL"


@pytest.mark.parametrize("release", WHOLE_GROUP)
def test_since_6_4_a_whole_group_changes_its_type(release):
    lab = strict(release, machine=TWO)
    assert lab.set_group_type(0, "identity") == 0
    assert on(lab) == [("bypass", None)] * 2


@pytest.mark.parametrize("release", ONE_DEVICE)
def test_up_to_6_3_a_bound_driver_or_another_domain_is_busy(release):
    bound, elsewhere = strict(release), strict(release)
    bound.bind("dev0", "e1000e")
    elsewhere.attach_device(elsewhere.alloc_domain(), "dev0")
    assert answer(bound, "set_group_type", 0, "identity") == "EBUSY"
    assert answer(elsewhere, "set_group_type", 0, "identity") == "EBUSY"
    assert answer(elsewhere, "set_group_type", 0, "DMA-FQ") == "EBUSY"


@pytest.mark.parametrize("release", WHOLE_GROUP)
def test_since_6_4_a_driver_or_an_owner_is_eperm(release):
    bound, owned = strict(release), strict(release)
    bound.bind("dev0", "e1000e")
    owned.claim_dma_owner(0, "vfio")
    assert answer(bound, "set_group_type", 0, "identity") == "EPERM"
    assert answer(owned, "set_group_type", 0, "identity") == "EPERM"


@pytest.mark.parametrize("release", ONE_DEVICE + WHOLE_GROUP)
def test_strict_becomes_lazy_in_place_under_a_bound_driver(release):
    lab = strict(release)
    lab.bind("dev0", "e1000e")
    at = lab.dma_map("dev0", 0x8000_0000, 0x1000)
    assert lab.set_group_type(0, "DMA-FQ") == 0
    assert lab.group_type(0) == "DMA-FQ"
    assert lab.iova_to_phys("default0", at) == 0x8000_0000


@pytest.mark.parametrize("release", ["6.6", "6.12", "7.2"])
def test_the_file_makes_a_domain_lazy_that_would_not_be_at_boot(release):
    boot = Lab(release, "exynos", cmdline="iommu.strict=0")
    assert boot.group_type(0) == "DMA"
    assert boot.set_group_type(0, "DMA-FQ") == 0
    assert boot.group_type(0) == "DMA-FQ"


@pytest.mark.parametrize("release", ONE_DEVICE + WHOLE_GROUP)
def test_lazy_becomes_strict_only_with_a_new_and_empty_domain(release):
    lab = Lab(release, "amd")
    at = lab.dma_map("dev0", 0x8000_0000, 0x1000)
    assert lab.group_type(0) == "DMA-FQ"
    assert lab.set_group_type(0, "DMA") == 0
    default = lab.believed_domain(0)
    assert default.type is DomainType.DMA
    assert lab.iova_to_phys(default.name, at) == 0


@pytest.mark.parametrize("release", ONE_DEVICE + WHOLE_GROUP)
def test_writing_the_present_type_changes_nothing(release):
    lab = strict(release)
    at = lab.dma_map("dev0", 0x8000_0000, 0x1000)
    before = lab.state
    assert lab.set_group_type(0, "DMA") == 0
    assert lab.state == before
    assert lab.iova_to_phys("default0", at) == 0x8000_0000


@pytest.mark.parametrize("release", ONE_DEVICE + WHOLE_GROUP)
def test_auto_is_the_devices_own_type_or_the_boot_lines(release):
    lab = strict(release)
    lab.set_group_type(0, "identity")
    lab.set_group_type(0, "auto")
    assert lab.group_type(0) == "DMA"
    gpu = together("gpu", requires=DomainType.IDENTITY)
    asks = Lab(release, "amd", gpu)
    asks.set_group_type(0, "auto")
    assert asks.group_type(0) == "identity"


def test_auto_after_a_quiet_fall_from_lazy_to_strict_builds_a_new_domain_since_6_4():
    made = {}
    for release in ("6.4", "6.6"):  # exynos can't be lazy, and the boot line asked for it
        lab = Lab(release, "exynos", cmdline="iommu.strict=0")
        at = lab.dma_map("dev0", 0x8000_0000, 0x1000)
        assert lab.set_group_type(0, "auto") == 0
        made[release] = lab.iova_to_phys(lab.believed_domain(0).name, at) == 0
    assert made["6.6"]


def test_auto_goes_lazy_in_place_up_to_6_3():
    lab = Lab("6.3", "exynos", cmdline="iommu.strict=0")
    at = lab.dma_map("dev0", 0x8000_0000, 0x1000)
    assert lab.set_group_type(0, "auto") == 0
    assert (lab.group_type(0), lab.iova_to_phys("default0", at)) == ("DMA-FQ", 0x8000_0000)


@pytest.mark.parametrize("release", ONE_DEVICE + WHOLE_GROUP)
def test_a_device_that_must_have_a_type_refuses_every_other(release):
    gpu = together("gpu", requires=DomainType.IDENTITY)
    assert answer(Lab(release, "amd", gpu), "set_group_type", 0, "DMA") == "EINVAL"


def test_a_type_that_the_driver_has_not_was_written_with_success_until_6_4():
    said = {}
    for release, driver in (
        ("6.0", "exynos"),
        ("6.4", "exynos"),
        ("6.6", "sprd"),
        ("6.7", "sprd"),
        ("6.12", "sprd"),
    ):
        lab = Lab(release, driver)
        said[release] = answer(lab, "set_group_type", 0, "identity")
        assert lab.group_type(0) == "DMA"
    assert said == {
        "6.0": 0,
        "6.4": 0,
        "6.6": "ENODEV",
        "6.7": "EOPNOTSUPP",
        "6.12": "EOPNOTSUPP",
    }


@pytest.mark.parametrize("release", [r for r in ONE_DEVICE + WHOLE_GROUP if r != "6.4"])
def test_a_new_default_that_is_refused_leaves_the_old_one(release):
    lab = strict(release, "arm-smmu")
    lab.fail_next_attach("dev0")
    assert answer(lab, "set_group_type", 0, "identity") == "ENOMEM"
    assert (lab.group_type(0), lab.belief(0)) == ("DMA", DomainType.DMA)
    assert on(lab) == [("table", "default0")]


def test_6_4_sends_a_device_that_failed_to_the_new_default_which_it_then_frees():
    lab = Lab("6.4", "arm-smmu", cmdline="iommu.passthrough=1")
    lab.fail_next_attach("dev0")
    assert answer(lab, "set_group_type", 0, "DMA") == "ENOMEM"
    assert lab.belief(0) is DomainType.IDENTITY
    assert lab.hardware().kind == "unknown"
    assert "freed" in lab.hardware().why


@pytest.mark.parametrize("release", ONE_DEVICE + WHOLE_GROUP)
def test_firmwares_regions_are_mapped_in_a_new_default_too(release):
    lab = Lab(release, "amd", together("dev0", reserved=FIRMWARE))
    lab.set_group_type(0, "DMA")
    at = FIRMWARE[0].first
    assert lab.iova_to_phys(lab.believed_domain(0).name, at) == at


def test_a_new_default_of_a_group_is_named_apart_from_the_old_and_the_old_is_freed():
    lab = Lab("6.12", "amd", replace(TWO, devices=(*TWO.devices, Device("c", 1))))
    lab.set_group_type(0, "DMA")
    assert lab.state.groups[0].default not in ("default0", "default1")
    assert "default0" not in lab.state.domains
    assert on(lab, "c") == [("table", "default1")]
    assert warnings(lab) == []
