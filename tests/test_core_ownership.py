"""Who may have a group's DMA: claims, releases, and the drivers that count themselves in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers import FIRMWARE, answer, on, together, warnings

from iommu_lab.domains import DomainType
from iommu_lab.drivers import driver as find_driver
from iommu_lab.lab import Lab
from iommu_lab.machine import Machine
from iommu_lab.releases import releases

THREE = together("a", "b", "c")
WITH_OWNERS = [r for r in releases() if r not in ("5.10", "5.15")]
BY_DEVICE = [r for r in WITH_OWNERS if r not in ("5.19", "6.0", "patch-v2", "plan", "6.1")]
OWNERSHIP = ["claim_dma_owner", "release_dma_owner", "use_default_domain", "unuse_default_domain"]


def held(lab: Lab) -> tuple[str | None, int]:
    group = lab.state.groups[0]
    return group.owner, group.owner_cnt


# -- claiming a group -----------------------------------------------------------------------------


@pytest.mark.parametrize("release", releases())
@pytest.mark.parametrize("verb", OWNERSHIP)
def test_nobody_owns_dma_before_5_19(verb, release):
    lab = Lab(release, "amd")
    args = {"claim_dma_owner": (0, "vfio"), "release_dma_owner": (0,)}.get(verb, ("dev0",))
    before = lab.state
    missing = answer(lab, verb, *args) == "not in release"
    assert missing == (release in ("5.10", "5.15"))
    assert not missing or lab.state == before


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_a_claim_takes_the_group_away_from_its_default_domain(release):
    lab = Lab(release, "amd")
    assert lab.claim_dma_owner(0, "vfio") == 0
    group = lab.state.groups[0]
    assert held(lab) == ("vfio", 1)
    assert group.domain == group.blocking


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_a_group_is_claimed_once_and_not_by_its_owner_again(release):
    lab = Lab(release, "amd")
    lab.claim_dma_owner(0, "vfio")
    assert answer(lab, "claim_dma_owner", 0, "vfio") == "EPERM"
    assert answer(lab, "claim_dma_owner", 0, "iommufd") == "EPERM"
    assert held(lab) == ("vfio", 1)


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_a_bound_driver_keeps_others_from_claiming(release):
    lab = Lab(release, "amd", THREE)
    lab.bind("b", "e1000e")
    assert answer(lab, "claim_dma_owner", 0, "vfio") == "EPERM"
    lab.unbind("b")
    assert lab.claim_dma_owner(0, "vfio") == 0


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_a_group_that_is_attached_to_something_can_not_be_claimed(release):
    lab = Lab(release, "amd")
    lab.attach_device(lab.alloc_domain(), "dev0")
    assert answer(lab, "claim_dma_owner", 0, "vfio") == "EBUSY"
    assert held(lab) == (None, 0)
    assert lab.state.groups[0].blocking is None


def test_an_owner_without_a_name_was_taken_until_6_1_and_then_is_no_owner():
    lab = Lab("6.1", "amd")
    assert lab.claim_dma_owner(0, None) == 0
    assert held(lab) == (None, 1)
    lab.release_dma_owner(0)
    assert warnings(lab) == ["iommu_group_release_dma_owner"]
    later = Lab("6.2", "amd")
    assert answer(later, "claim_dma_owner", 0, None) == "EINVAL"
    assert warnings(later) == ["iommu_group_claim_dma_owner"]


@pytest.mark.parametrize(
    ("driver", "release", "blocking"),
    [
        ("exynos", "6.0", DomainType.UNMANAGED),
        ("intel", "6.0", DomainType.UNMANAGED),
        ("intel", "6.2", DomainType.BLOCKED),
        ("amd", "6.0", DomainType.BLOCKED),
        ("apple-dart", "6.0", DomainType.BLOCKED),
        ("exynos", "6.12", DomainType.UNMANAGED),
        ("arm-smmu-v3", "6.6", DomainType.UNMANAGED),
        ("arm-smmu-v3", "6.12", DomainType.BLOCKED),
        ("exynos", "patch-v2", DomainType.BLOCKED),
    ],
)
def test_what_blocks_is_a_true_blocking_domain_or_an_empty_one(driver, release, blocking):
    lab = Lab(release, driver)
    lab.claim_dma_owner(0, "vfio")
    assert lab.belief(0) is blocking
    assert lab.believed_domain(0).substitute == (blocking is DomainType.UNMANAGED)


def test_the_empty_domain_that_stands_in_for_blocking_can_be_mapped():
    lab = Lab("6.0", "exynos")
    lab.claim_dma_owner(0, "vfio")
    assert lab.map(lab.believed_domain(0).name, 0x1000, 0x8000_0000, 0x1000) == 0
    verdict = lab.check({"device": ["dev0"], "iova": [0x1000], "size": [4], "write": [True]})
    assert verdict.loc[0, "owner"] == "driver buffer"


def test_a_driver_with_neither_domain_can_not_be_claimed():
    row = replace(find_driver("exynos", "6.0"), accepts=frozenset())
    lab = Lab("6.0", row)
    assert answer(lab, "claim_dma_owner", 0, "vfio") == "EINVAL"
    assert held(lab) == (None, 0)


@pytest.mark.parametrize(
    ("release", "left"),
    [
        ("6.0", [("table", "blocking0"), ("table", "default0"), ("table", "default0")]),
        ("6.4", [("table", "blocking0"), ("table", "default0"), ("table", "default0")]),
        ("6.6", [("table", "default0")] * 3),
    ],
)
def test_a_claim_that_fails_half_way_keeps_the_blocking_domain_and_no_owner(release, left):
    lab = Lab(release, "arm-smmu", THREE)
    lab.fail_next_attach("b")
    assert answer(lab, "claim_dma_owner", 0, "vfio") == "ENOMEM"
    assert held(lab) == (None, 0)
    assert lab.state.groups[0].blocking == "blocking0"
    assert lab.state.groups[0].domain == "default0"
    assert on(lab) == left
    assert lab.claim_dma_owner(0, "vfio") == 0
    assert on(lab) == [("table", "blocking0")] * 3


def test_a_device_that_firmware_uses_can_not_be_claimed_since_6_6():
    for release, says in (("6.0", 0), ("6.4", 0), ("6.6", "EINVAL"), ("7.2", "EINVAL")):
        lab = Lab(release, "amd", together("dev0", reserved=FIRMWARE))
        assert answer(lab, "claim_dma_owner", 0, "vfio") == says


def test_intel_may_be_claimed_with_firmware_regions_only_where_it_truly_blocks():
    for release, says in (("6.0", "EPERM"), ("6.2", 0), ("6.6", "EINVAL")):
        lab = Lab(release, "intel", together("dev0", reserved=FIRMWARE))
        assert answer(lab, "claim_dma_owner", 0, "vfio") == says


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_the_blocking_domain_is_made_once_for_the_groups_life(release):
    lab = Lab(release, "exynos")
    lab.claim_dma_owner(0, "vfio")
    first = lab.state.groups[0].blocking
    answer(lab, "map", first, 0x1000, 0x8000_0000, 0x1000)
    mapped = lab.iova_to_phys(first, 0x1000)
    lab.release_dma_owner(0)
    lab.claim_dma_owner(0, "vfio")
    assert lab.state.groups[0].blocking == first
    assert lab.iova_to_phys(first, 0x1000) == mapped


@pytest.mark.parametrize("driver", ["mtk", "tegra-gart", "mtk_v1", "fsl_pamu"])
def test_the_stand_in_does_not_block_where_it_is_not_what_the_hardware_walks(driver):
    lab = Lab("6.0", driver, arch="ppc64" if driver == "fsl_pamu" else "arm32")
    at = 0x5800_0000
    before = "mapping" if driver == "mtk_v1" else lab.alloc_domain()
    if driver != "mtk_v1":
        lab.attach_device(before, "dev0")
    if driver != "fsl_pamu":
        lab.map(before, at, 0x8000_0000, 0x1000)
    lab.detach_device(before, "dev0")
    assert lab.claim_dma_owner(0, "vfio") == 0
    reach = lab.check({"device": ["dev0"], "iova": [at], "size": [4], "write": [True]})
    assert reach.loc[0, "reached"] == 4


# -- releasing a group ----------------------------------------------------------------------------


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_a_release_goes_to_the_default_domain_whatever_is_attached(release):
    lab = Lab(release, "amd")
    user = lab.alloc_domain()
    lab.claim_dma_owner(0, "vfio")
    lab.attach_device(user, "dev0")
    lab.release_dma_owner(0)
    assert warnings(lab) == []
    assert held(lab) == (None, 0)
    assert on(lab) == [("table", "default0")]
    assert user in lab.state.domains


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_releasing_what_nobody_owns_is_a_warning_and_nothing_else(release):
    lab = Lab(release, "amd")
    lab.release_dma_owner(0)
    assert warnings(lab) == ["iommu_group_release_dma_owner"]
    lab.bind("dev0", "e1000e")
    lab.release_dma_owner(0)
    assert warnings(lab) == ["iommu_group_release_dma_owner"]
    assert held(lab) == (None, 1)


def test_qcom_is_not_programmed_again_so_a_release_leaves_it_on_the_empty_domain():
    for release in ("6.0", "7.2"):
        lab = Lab(release, "qcom_iommu")
        lab.claim_dma_owner(0, "vfio")
        lab.release_dma_owner(0)
        assert lab.state.groups[0].domain == "default0"
        assert on(lab) == [("table", "blocking0")]


def test_sprd_can_not_go_back_to_a_default_that_still_counts_its_device_until_6_4():
    for release, stays in (("6.3", "blocking0"), ("6.4", "default0")):
        lab = Lab(release, "sprd")
        lab.claim_dma_owner(0, "vfio")
        lab.release_dma_owner(0)
        assert bool(warnings(lab)) == (stays == "blocking0")
        assert lab.state.groups[0].domain == stays


# -- claiming a device ----------------------------------------------------------------------------


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_a_device_can_be_claimed_since_6_2(release):
    says = answer(Lab(release, "amd"), "claim_device", "dev0", "iommufd")
    assert says == (0 if release in BY_DEVICE else "not in release")


@pytest.mark.parametrize("release", BY_DEVICE)
def test_the_same_owner_may_claim_a_groups_devices_again_and_is_counted(release):
    lab = Lab(release, "amd", THREE)
    lab.claim_device("a", "iommufd")
    assert lab.claim_device("b", "iommufd") == 0
    assert answer(lab, "claim_device", "c", "vfio") == "EPERM"
    assert held(lab) == ("iommufd", 2)
    lab.release_device_owner("a")
    assert held(lab) == ("iommufd", 1)
    assert lab.state.groups[0].domain == lab.state.groups[0].blocking
    lab.release_device_owner("b")
    assert held(lab) == (None, 0)
    assert on(lab) == [("table", "default0")] * 3


@pytest.mark.parametrize("release", BY_DEVICE)
def test_a_device_without_a_group_or_with_a_driver_can_not_be_claimed(release):
    lab = Lab(release, "amd", replace(THREE, no_iommu=("c",)))
    assert answer(lab, "claim_device", "c", "iommufd") == "ENODEV"
    assert answer(lab, "claim_device", "a", None) == "EINVAL"
    lab.bind("b", "e1000e")
    assert answer(lab, "claim_device", "a", "iommufd") == "EPERM"
    lab.release_device_owner("c")
    assert warnings(lab) == []


# -- drivers that use the default domain ----------------------------------------------------------


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_a_count_of_bound_drivers_goes_up_and_down(release):
    lab = Lab(release, "amd", THREE)
    lab.bind("a", "e1000e")
    lab.use_default_domain("b")
    assert held(lab) == (None, 2)
    lab.unuse_default_domain("b")
    lab.unbind("a")
    assert held(lab) == (None, 0)
    lab.unuse_default_domain("b")
    assert warnings(lab) == ["iommu_device_unuse_default_domain"]


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_the_first_driver_is_bound_whatever_is_attached(release):
    lab = Lab(release, "amd")
    user = lab.alloc_domain()
    lab.attach_device(user, "dev0")
    assert lab.bind("dev0", "e1000e") == 0
    assert on(lab) == [("table", user)]


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_a_second_driver_is_not_bound_while_something_else_is_attached(release):
    lab = Lab(release, "amd", THREE)
    lab.bind("a", "e1000e")
    lab.attach_group(lab.alloc_domain(), 0)
    assert answer(lab, "bind", "b", "e1000e") == "EBUSY"
    assert lab.state.devices["b"].driver is None


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_an_ordinary_driver_is_not_bound_to_what_somebody_owns_and_vfio_is(release):
    lab = Lab(release, "amd")
    lab.claim_dma_owner(0, "vfio")
    assert answer(lab, "bind", "dev0", "e1000e") == "EBUSY"
    assert lab.state.devices["dev0"].driver is None
    assert lab.bind("dev0", "vfio-pci") == 0
    assert held(lab) == ("vfio", 1)


def test_before_5_19_a_driver_is_bound_to_what_anybody_uses():
    lab = Lab("5.15", "amd")
    lab.attach_device(lab.alloc_domain(), "dev0")
    assert lab.bind("dev0", "e1000e") == 0


def test_an_identity_domain_counted_as_an_identity_default_from_6_0_to_6_6():
    said = {}
    for release in ("5.19", "6.0", "6.6", "6.7"):
        lab = Lab(release, "amd", THREE, cmdline="iommu=pt")
        lab.bind("a", "amdgpu")
        lab.attach_group(lab.alloc_domain("identity"), 0)
        said[release] = answer(lab, "bind", "b", "snd_hda_intel")
    assert said == {"5.19": "EBUSY", "6.0": 0, "6.6": 0, "6.7": "EBUSY"}


def test_a_group_without_a_default_domain_lets_no_driver_in_since_6_12_117():
    said = {}
    for release in ("6.12", "6.12.117", "7.2"):
        lab = Lab(release, "amd")
        group = replace(lab.state.groups[0], default=None)
        lost = lab.with_state(replace(lab.state, groups=lab.state.groups.set(0, group)))
        said[release] = answer(lost, "use_default_domain", "dev0")
    assert said == {"6.12": 0, "6.12.117": "EPROBE_DEFER", "7.2": "EPROBE_DEFER"}


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_a_device_in_no_group_may_be_used_by_any_driver(release):
    lab = Lab(release, "amd", replace(Machine(), no_iommu=("dev0",)))
    assert lab.use_default_domain("dev0") == 0
    assert lab.bind("dev0", "e1000e") == 0
    assert lab.unuse_default_domain("dev0") is None


@pytest.mark.parametrize("release", releases())
def test_a_device_has_one_driver_at_a_time(release):
    lab = Lab(release, "amd")
    assert answer(lab, "unbind", "dev0") == "ENODEV"
    lab.bind("dev0", "e1000e")
    assert answer(lab, "bind", "dev0", "vfio-pci") == "EBUSY"
    lab.unbind("dev0")
    assert lab.bind("dev0", "vfio-pci") == 0


@pytest.mark.parametrize("release", WITH_OWNERS)
def test_there_is_no_way_from_drivers_to_an_owner_but_through_nobody(release):
    lab = Lab(release, "amd")
    lab.bind("dev0", "e1000e")
    assert answer(lab, "claim_dma_owner", 0, "vfio") == "EPERM"
    lab.unbind("dev0")
    lab.claim_dma_owner(0, "vfio")
    assert answer(lab, "use_default_domain", "dev0") == "EBUSY"
    assert held(lab) == ("vfio", 1)
