"""Devices that come late, go early, or come back; and drivers that make a mapping at binding."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers import FIRMWARE, answer, on, together, warnings

from iommu_lab.domains import DomainType
from iommu_lab.lab import Lab
from iommu_lab.machine import Device, Machine
from iommu_lab.releases import releases

MAINLINE = [r for r in releases() if r[0].isdigit()]
TWO = together("a", "b")


# -- late joiners ---------------------------------------------------------------------------------


@pytest.mark.parametrize("release", MAINLINE)
def test_a_late_joiner_is_in_its_group_and_on_its_domain(release):
    lab = Lab(release, "amd")
    assert lab.late_join("late", 0) == 0
    assert lab.state.groups[0].devices == ("dev0", "late")
    assert on(lab) == [("table", "default0")] * 2


def test_a_late_joiner_of_a_group_that_was_switched_lands_on_the_default_until_6_4():
    left = {}
    for release in ("5.15", "6.0", "6.4", "6.6", "7.2"):
        lab = Lab(release, "amd")
        user = lab.alloc_domain()
        lab.attach_device(user, "dev0")
        lab.late_join("late", 0)
        left[release] = on(lab, "late")[0][1]
        assert lab.believed_domain(0).name == user
    assert left == dict.fromkeys(["5.15", "6.0", "6.4"], "default0") | dict.fromkeys(
        ["6.6", "7.2"], "dom1"
    )


@pytest.mark.parametrize("release", ["5.19", "6.0", "6.4", "6.6", "7.2"])
def test_a_late_joiner_of_a_group_with_an_owner_stays_where_the_owner_is(release):
    lab = Lab(release, "exynos")
    lab.claim_dma_owner(0, "vfio")
    lab.late_join("late", 0)
    assert on(lab, "late") == [("table", "blocking0")]


def test_a_late_joiner_may_open_a_group_of_its_own():
    lab = Lab("6.0", "amd")
    lab.late_join("late", 7)
    assert lab.believed_domain(7).name == "default7"
    assert lab.devices == ["dev0", "late"]


def test_a_joiner_whose_attach_fails_is_in_no_group_and_the_others_stay():
    for release in ("6.0", "6.12"):
        lab = Lab(release, "amd", TWO)
        lab.remove("b")
        lab.fail_next_attach("b")
        assert answer(lab, "probe", "b") == "ENOMEM"
        assert lab.state.groups[0].devices == ("a",)
        assert on(lab, "a") == [("table", "default0")]


@pytest.mark.parametrize("release", MAINLINE)
def test_firmwares_regions_of_a_late_joiner_are_mapped_too(release):
    lab = Lab(release, "amd", replace(TWO, devices=(Device("a"), Device("b", reserved=FIRMWARE))))
    lab.remove("b")
    lab.probe("b")
    assert lab.iova_to_phys("default0", FIRMWARE[0].first) == FIRMWARE[0].first


# -- devices that go ------------------------------------------------------------------------------


@pytest.mark.parametrize("release", MAINLINE)
def test_a_removed_device_leaves_its_group_and_the_others_keep_their_domain(release):
    lab = Lab(release, "amd", TWO)
    user = lab.alloc_domain()
    lab.attach_group(user, 0)
    lab.remove("b")
    assert lab.state.groups[0].devices == ("a",)
    assert on(lab, "a") == [("table", user)]
    assert answer(lab, "remove", "b") == "ENODEV"
    assert answer(lab, "bind", "b", "e1000e") == "ENODEV"
    assert answer(lab, "attach_device", user, "b") == "ENODEV"


@pytest.mark.parametrize("release", MAINLINE)
def test_a_group_dies_with_its_last_device_and_its_domains_with_it(release):
    lab = Lab(release, "amd", TWO)
    lab.remove("a")
    assert 0 in lab.state.groups
    lab.remove("b")
    assert (lab.state.groups, lab.belief(0)) == ({}, None)
    assert "default0" not in lab.state.domains
    assert lab.probe("a") == 0
    assert on(lab, "a") == [("table", "default0")]


def test_a_last_device_that_leaves_a_group_in_use_is_warned_of_since_6_4():
    for release, warned in (("6.3", False), ("6.4", True), ("7.2", True)):
        lab = Lab(release, "amd")
        lab.attach_device(lab.alloc_domain(), "dev0")
        lab.remove("dev0")
        assert ("iommu_release_device" in warnings(lab)) == warned


def test_removing_a_device_unbinds_its_driver_first():
    lab = Lab("6.0", "amd", TWO)
    lab.bind("b", "e1000e")
    lab.remove("b")
    assert lab.state.groups[0].owner_cnt == 0
    assert lab.state.devices["b"].driver is None


@pytest.mark.parametrize(
    ("driver", "release", "left"),
    [
        ("amd", "6.0", "blocked"),
        ("intel", "7.2", "blocked"),
        ("arm-smmu-v3", "6.0", "blocked"),
        ("exynos", "6.0", "bypass"),
        ("virtio", "6.0", "table"),
        ("virtio", "6.12", "bypass"),
        ("sprd", "6.0", "table"),
    ],
)
def test_release_leaves_a_device_in_the_drivers_own_way(driver, release, left):
    lab = Lab(release, driver, TWO)
    lab.remove("b")
    assert lab.hardware("b").kind == left


def test_a_device_that_firmware_uses_is_parked_on_identity_by_7_2():
    for regions, left in ((FIRMWARE, "bypass"), ((), "blocked")):
        lab = Lab("7.2", "intel", together("a", "b", reserved=regions))
        lab.remove("b")
        assert lab.hardware("b").kind == left


@pytest.mark.parametrize("release", MAINLINE)
def test_a_device_comes_back_to_where_its_group_is(release):
    lab = Lab(release, "exynos", TWO)
    lab.remove("b")
    lab.probe("b")
    assert on(lab, "b") == [("table", "default0")]
    assert answer(lab, "probe", "b") == "EBUSY"


@pytest.mark.parametrize("release", MAINLINE)
def test_a_device_behind_no_iommu_comes_and_goes_untranslated(release):
    lab = Lab(release, "amd", replace(Machine(), no_iommu=("dev0",)))
    assert lab.remove("dev0") == 0
    assert lab.probe("dev0") == 0
    assert (on(lab), lab.state.groups) == ([("bypass", None)], {})


def test_a_domain_freed_under_a_group_is_a_crash_only_for_who_follows_it():
    for arch, says in (("arm64", None), ("arm32", "crash")):
        lab = Lab("6.0", "exynos", arch=arch)
        user = lab.alloc_domain()
        lab.attach_device(user, "dev0")
        lab.free_domain(user)
        assert lab.state.domains[user].freed
        assert answer(lab, "detach_device", user, "dev0") == says


def test_a_domain_that_is_freed_twice_is_a_crash():
    lab = Lab("6.0", "amd")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.free_domain(domain)
    assert answer(lab, "free_domain", domain) == "crash"


def test_the_dma_api_follows_a_mapping_of_32_bit_arm_that_was_freed():
    lab = Lab("6.12", "ipmmu-vmsa", arch="arm32")
    assert lab.dma_map("dev0", 0x8000_0000, 0x1000) == 0x4000_0000
    lab.free_domain("mapping")
    assert answer(lab, "dma_map", "dev0", 0x8000_1000, 0x1000) == "crash"
    assert answer(lab, "dma_unmap", "dev0", 0x4000_0000, 0x1000) == "crash"


# -- 32-bit Arm's own mapping ---------------------------------------------------------------------


@pytest.mark.parametrize("release", ["5.10", "6.0", "6.2", "6.4", "6.6"])
def test_binding_a_driver_on_32_bit_arm_attaches_a_mapping_of_its_own(release):
    lab = Lab(release, "exynos", arch="arm32")
    lab.bind("dev0", "fimd")
    assert lab.believed_domain(0).name == "mapping.dev0"
    assert on(lab) == [("table", "mapping.dev0")]
    lab.unbind("dev0")
    assert "mapping.dev0" not in lab.state.domains
    assert on(lab) == [("bypass", None)]


def test_a_group_with_a_mapping_of_its_driver_is_busy_for_a_claim():
    lab = Lab("6.0", "exynos", arch="arm32")
    lab.bind("dev0", "fimd")
    assert answer(lab, "claim_dma_owner", 0, "vfio") == "EPERM"


def test_under_6_3_unbinding_from_a_driver_without_a_way_out_frees_what_is_walked():
    lab = Lab("6.3", "rockchip", arch="arm32")
    lab.bind("dev0", "vop")
    lab.unbind("dev0")
    assert lab.hardware().kind == "unknown"
    assert "freed" in lab.hardware().why


def test_a_driver_that_ends_every_probe_with_one_mapping_attaches_it_at_boot():
    lab = Lab("6.0", "mtk_v1")
    assert lab.believed_domain(0).name == "mapping"
    assert lab.belief(0) is DomainType.UNMANAGED


# -- power ----------------------------------------------------------------------------------------


def test_mtk_goes_on_translating_until_its_bus_has_slept():
    lab = Lab("6.0", "mtk", arch="arm32")
    user = lab.alloc_domain()
    lab.attach_device(user, "dev0")
    lab.detach_device(user, "dev0")
    assert on(lab) == [("table", user)]
    lab.power_cycle("dev0")
    assert on(lab) == [("bypass", None)]


def test_mtks_infra_unit_is_bypassed_at_once():
    lab = Lab("6.0", "mtk", together("dev0", infra=True), arch="arm32")
    user = lab.alloc_domain()
    lab.attach_device(user, "dev0")
    lab.detach_device(user, "dev0")
    assert on(lab) == [("bypass", None)]


def test_an_exynos_detach_drops_the_units_of_other_groups_at_their_next_power_up():
    apart = replace(Machine(), devices=(Device("a"), Device("b", 1)))
    lab = Lab("6.0", "exynos", apart, arch="arm32")
    user = lab.alloc_domain()
    lab.attach_device(user, "a")
    lab.attach_device(user, "b")
    lab.detach_device(user, "a")
    assert on(lab) == [("bypass", None), ("table", user)]
    lab.power_cycle("b")
    assert on(lab) == [("bypass", None)] * 2


def test_a_sleeping_unit_is_not_written_when_its_device_leaves_for_another_domain():
    for powered, writes in ((True, ["bypass", "table"]), (False, ["table"])):
        lab = Lab("6.0", "exynos", together("dev0", powered=powered))
        lab.attach_device(lab.alloc_domain(), "dev0")
        kinds = [e.name for e in lab.moments[-1].events if e.kind == "hardware"]
        assert kinds == writes


@pytest.mark.parametrize("on_", [True, False])
def test_a_device_without_bus_mastering_makes_no_dma(on_):
    lab = Lab("6.0", "amd", cmdline="iommu=pt")
    lab.set_bus_master("dev0", on_)
    reach = lab.check({"device": ["dev0"], "iova": [0x8000_0000], "size": [4], "write": [True]})
    assert reach.loc[0, "reached"] == (4 if on_ else 0)
