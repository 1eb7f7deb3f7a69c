"""Does each driver leave, block and come back as it does, under real and hypothetical kernels?"""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers import answer, on, together, warnings

from iommu_lab.domains import DomainType
from iommu_lab.drivers import ALIASES, driver, driver_names, rows
from iommu_lab.errors import KernelCrash, UnknownName
from iommu_lab.lab import Lab
from iommu_lab.machine import Device, Machine
from iommu_lab.releases import known, releases

BLOCKED, UNMANAGED = DomainType.BLOCKED, DomainType.UNMANAGED


def everywhere(release: str) -> list[tuple[str, str]]:
    """Every driver of a release, on every architecture that it is built for."""
    return [(r["driver"], a) for r in rows(release) for a in (r["arch"], *r["other_arch"].split())]


# -- finding a driver -----------------------------------------------------------------------------


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_short_names_are_the_same_driver(alias, name):
    release = "6.4" if name == "powerpc-spapr-tce" else "6.2" if "selftest" in name else "6.0"
    assert driver(alias, release) is driver(name, release)


def test_a_driver_that_does_not_exist_is_one_line_with_the_nearest_names():
    with pytest.raises(UnknownName, match="nearest is exynos") as error:
        driver("exinos", "6.0")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["AMD", "Arm-SMMU-v3", "S390"])
def test_a_name_in_capitals_is_answered_by_the_one_name_that_is_meant(name):
    with pytest.raises(UnknownName, match=f"^unknown driver '{name}': nearest is {name.lower()}$"):
        driver(name, "6.0")


def test_a_driver_that_a_release_has_not_says_which_have_it():
    with pytest.raises(UnknownName, match=r"'tegra-gart' is absent from 6.7: it is in .*6\.6"):
        driver("tegra-gart", "6.7")


def test_a_stable_or_hypothetical_release_has_the_driver_of_the_one_it_stands_on():
    assert driver("omap", "6.1.192").attach == driver("omap", "6.1").attach
    assert driver("omap", "patch-v2").pagetable == driver("omap", "6.0").pagetable


def test_there_are_as_many_drivers_as_in_the_table_and_each_boots_everywhere():
    assert len(driver_names()) == 24
    for release in releases():
        for name, arch in everywhere(release):
            lab = Lab(release, name, arch=arch)
            assert lab.hardware().kind in ("table", "bypass", "blocked", "platform", "unknown")


# -- the patch of August 2022 ---------------------------------------------------------------------

PATCHED = {
    ("amd", "x86_64"): ("blocked", BLOCKED),
    ("apple-dart", "arm64"): ("blocked", BLOCKED),
    ("intel", "x86_64"): ("table", UNMANAGED),
    ("arm-smmu-v3", "arm64"): ("table", UNMANAGED),
    ("arm-smmu", "arm64"): ("table", UNMANAGED),
    ("arm-smmu", "arm32"): ("table", UNMANAGED),
    ("virtio", "x86_64"): ("table", UNMANAGED),
    ("virtio", "arm64"): ("table", UNMANAGED),
    ("exynos", "arm64"): ("bypass", BLOCKED),
    ("ipmmu-vmsa", "arm64"): ("bypass", BLOCKED),
    ("qcom_iommu", "arm64"): ("bypass", BLOCKED),
    ("rockchip", "arm64"): ("bypass", BLOCKED),
    ("mtk", "arm64"): ("table of the default", BLOCKED),
    ("sun50i", "arm64"): ("table of the default", BLOCKED),
    ("sprd", "arm64"): ("unknown", BLOCKED),
    ("mtk", "arm32"): ("bypass", BLOCKED),
    ("tegra-gart", "arm32"): ("window", BLOCKED),
    ("exynos", "arm32"): "crash",
    ("qcom_iommu", "arm32"): "crash",
    ("rockchip", "arm32"): "crash",
    ("sun50i", "arm32"): "crash",
    ("msm", "arm32"): "crash",
    ("omap", "arm32"): "crash",
    ("tegra-smmu", "arm64"): "crash",
    ("tegra-smmu", "arm32"): "crash",
    ("fsl_pamu", "ppc64"): "crash",
    ("fsl_pamu", "ppc32"): "crash",
    ("s390", "s390x"): "crash",
    ("ipmmu-vmsa", "arm32"): "EBUSY",
    ("mtk_v1", "arm32"): "EBUSY",
}
"""What a claim leaves, and what the core calls it; EBUSY where a mapping is attached at boot."""
OPEN = [pair for pair, left in PATCHED.items() if left[0] in ("bypass", "window")]
STATIC = [pair for pair, left in PATCHED.items() if left[1] is BLOCKED]


def left_by(lab: Lab) -> str:
    kind, domain = on(lab)[0]
    if lab.hardware().table == "gart":
        return "window"
    return "table of the default" if domain == "default0" else kind


def test_every_driver_that_6_0_had_is_judged_under_the_patch():
    assert set(PATCHED) == set(everywhere("patch-v2")) == set(everywhere("6.0"))


@pytest.mark.parametrize(("name", "arch"), PATCHED)
def test_a_claim_under_the_patch_blocks_or_opens_or_crashes(name, arch):
    lab = Lab("patch-v2", name, arch=arch)
    says, expected = answer(lab, "claim_dma_owner", 0, "vfio"), PATCHED[name, arch]
    if isinstance(expected, str):
        assert says == expected
    else:
        assert says == 0
        assert (left_by(lab), lab.belief(0)) == expected


@pytest.mark.parametrize(("name", "arch"), OPEN)
def test_what_the_patch_calls_blocked_is_open_to_all_memory(name, arch):
    lab = Lab("patch-v2", name, arch=arch)
    lab.claim_dma_owner(0, "vfio")
    found = lab.check({"device": ["dev0"], "iova": [0x9000_0000], "size": [4], "write": [True]})
    assert found.loc[0, "owner"] == "user process"


@pytest.mark.parametrize(
    ("name", "arch"),
    [p for p in OPEN if p[1] == "arm64"],
)
def test_what_the_patch_opens_was_blocked_by_6_0s_empty_domain(name, arch):
    lab = Lab("6.0", name, arch=arch)
    lab.claim_dma_owner(0, "vfio")
    found = lab.check({"device": ["dev0"], "iova": [0x9000_0000], "size": [4], "write": [True]})
    assert found.loc[0, "reached"] == 0


@pytest.mark.parametrize(("name", "arch"), STATIC)
def test_a_group_that_was_claimed_under_the_patch_crashes_when_it_dies(name, arch):
    lab = Lab("patch-v2", name, arch=arch)
    lab.claim_dma_owner(0, "vfio")
    before = lab.state
    with pytest.raises(KernelCrash, match="free function"):
        lab.remove("dev0")
    assert lab.state == before


@pytest.mark.parametrize(("name", "arch"), STATIC)
def test_every_device_of_a_group_is_left_by_a_claim_under_the_patch(name, arch):
    lab = Lab("patch-v2", name, together("a", "b"), arch=arch)
    assert lab.claim_dma_owner(0, "vfio") == 0
    assert len(set(on(lab))) == 1


def test_a_release_under_the_patch_stays_on_blocked_where_it_had_no_domain_before():
    believed = {}
    for release in ("6.0", "patch-v2"):
        lab = Lab(release, "mtk", arch="arm32")
        lab.claim_dma_owner(0, "vfio")
        lab.release_dma_owner(0)
        believed[release] = lab.belief(0)
    assert believed == {"6.0": None, "patch-v2": BLOCKED}


def test_a_second_leaving_hands_the_static_object_to_a_driver_that_reads_beside_it():
    lab = Lab("patch-v2", "exynos", arch="arm32")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")  # to BLOCKED, in place of the NULL domain
    assert (lab.belief(0), on(lab)) == (BLOCKED, [("bypass", None)])
    with pytest.raises(KernelCrash, match="static blocking object"):
        lab.detach_group(domain, 0)


def test_s390_under_the_patch_says_what_it_would_have_left():
    lab = Lab("patch-v2", "s390")
    with pytest.raises(KernelCrash, match="platform's DMA ops, on a new and empty table") as crash:
        lab.claim_dma_owner(0, "vfio")
    assert crash.value.function == "s390_iommu_detach_device"
    assert (lab.belief(0), lab.hardware().kind) == (None, "platform")
    assert lab.events.iloc[-1]["kind"] == "crash"


def test_gart_counts_below_zero_when_it_is_handed_no_domain():
    lab = Lab("patch-v2", "tegra-gart")
    lab.claim_dma_owner(0, "vfio")
    assert lab.state.notes["active-devices"] == -1


# -- the plan of the reply ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "arch"), everywhere("plan"))
def test_the_plan_lets_nobody_crash_and_calls_nothing_blocked_that_is_open(name, arch):
    lab = Lab("plan", name, arch=arch)
    says = answer(lab, "claim_dma_owner", 0, "vfio")
    assert says in (0, "EBUSY")
    if lab.belief(0) is BLOCKED:
        assert lab.hardware().kind == "blocked"
    assert answer(lab, "release_dma_owner", 0) is None
    assert answer(lab, "remove", "dev0") == 0


@pytest.mark.parametrize("name", ["exynos", "ipmmu-vmsa", "qcom_iommu", "rockchip"])
def test_under_the_plan_a_driver_whose_detach_was_bypass_has_an_identity_domain(name):
    lab = Lab("plan", name)
    identity = lab.alloc_domain("identity")
    lab.attach_device(identity, "dev0")
    assert (lab.belief(0), lab.hardware().kind) == (DomainType.IDENTITY, "bypass")


# -- what is special about one driver -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("exynos", "bypass"),
        ("ipmmu-vmsa", "bypass"),
        ("msm", "bypass"),
        ("mtk", "table"),
        ("omap", "bypass"),
        ("qcom_iommu", "bypass"),
        ("rockchip", "bypass"),
        ("sun50i", "table"),
        ("tegra-smmu", "bypass"),
    ],
)
def test_the_identity_domains_of_6_7_are_the_old_detach_and_not_all_let_dma_through(name, left):
    lab = Lab("6.7", name)
    domain = lab.alloc_domain()
    answer(lab, "attach_device", domain, "dev0")
    lab.detach_device(domain, "dev0")
    identity = lab.alloc_domain("identity")
    assert answer(lab, "attach_device", identity, "dev0") == 0
    assert (lab.belief(0), lab.hardware().kind) == (DomainType.IDENTITY, left)


def test_fsl_pamu_is_open_at_boot_and_blocked_for_ever_after_one_attach():
    lab = Lab("6.0", "fsl_pamu")
    assert lab.hardware().kind == "bypass"
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    assert lab.hardware().kind == "bypass"
    lab.detach_device(domain, "dev0")
    assert lab.hardware().kind == "blocked"


def test_the_window_of_fsl_pamu_ends_at_64_gigabytes():
    lab = Lab("6.0", "fsl_pamu")
    ends = {"device": ["dev0"] * 2, "iova": [2**36 - 4, 2**36], "size": [4, 4], "write": [True] * 2}
    assert lab.check(ends)["reached"].tolist() == [4, 0]


def test_mtk_v1_says_yes_to_any_domain_and_changes_nothing():
    lab = Lab("6.0", "mtk_v1")
    lab.detach_device("mapping", "dev0")
    before = on(lab)
    user = lab.alloc_domain()
    assert lab.attach_device(user, "dev0") == 0
    assert (lab.believed_domain(0).name, on(lab)) == (user, before)


def test_all_domains_of_an_mtk_iommu_share_the_first_ones_table():
    lab = Lab("6.0", "mtk", arch="arm32")
    one, other = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_device(one, "dev0")
    lab.map(one, 0x1000, 0x8000_0000, 0x1000)
    lab.detach_device(one, "dev0")
    lab.attach_device(other, "dev0")
    assert lab.iova_to_phys(other, 0x1000) == 0x8000_0000


def test_5_15_mtk_can_neither_be_unmanaged_nor_blocked():
    lab = Lab("5.15", "mtk")
    assert answer(lab, "alloc_domain", "unmanaged") == "EOPNOTSUPP"


def test_a_second_gart_domain_is_refused_for_the_whole_machine():
    lab = Lab("6.0", "tegra-gart", replace(Machine(), devices=(Device("a"), Device("b", 1))))
    one, other = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_device(one, "a")
    assert answer(lab, "attach_device", other, "b") == "EBUSY"
    lab.attach_device(one, "b")
    lab.detach_device(one, "a")
    assert answer(lab, "attach_device", other, "a") == "EBUSY"
    lab.detach_device(one, "b")
    assert lab.attach_device(other, "a") == 0


def test_gart_never_translated_what_is_outside_its_window():
    lab = Lab("6.0", "tegra-gart")
    at = {"device": ["dev0"] * 2, "iova": [0x4000_0000, 0x5800_0000], "size": [4] * 2}
    assert lab.check({**at, "write": [True] * 2})["verdict"].tolist() == ["IDENTITY", "NOT_MAPPED"]


def test_sun50is_count_starts_at_one_so_detach_never_switches_it_off():
    lab = Lab("6.0", "sun50i", arch="arm32")
    domain = lab.alloc_domain()
    for _ in range(3):
        lab.attach_device(domain, "dev0")
        lab.detach_device(domain, "dev0")
        assert on(lab) == [("table", domain)]
    lab.free_domain(domain)
    assert lab.hardware().kind == "unknown"
    assert "freed" in lab.hardware().why


AFTER_FREE = {
    # free_io_pgtable_ops, dma_cleanup_tables, free_page of the directory: the memory is another's
    **dict.fromkeys(("arm-smmu-v3", "arm-smmu", "qcom_iommu", "ipmmu-vmsa"), ("unknown", True)),
    **dict.fromkeys(("apple-dart", "rockchip", "sun50i", "s390"), ("unknown", True)),
    # kfree of the domain alone: mtk_iommu_domain_free, msm_iommu_domain_free,
    # tegra_smmu_domain_free; viommu_domain_free does not tell the device
    **dict.fromkeys(("mtk", "msm", "tegra-smmu", "virtio"), ("table", False)),
    # exynos_iommu_domain_free disables every SysMMU of the domain first
    "exynos": ("bypass", False),
}
"""Where a device is whose domain is freed under it; and whether its table's memory is."""


@pytest.mark.parametrize("name", AFTER_FREE)
def test_a_domain_freed_under_a_device_frees_its_table_or_leaves_it_in_every_release(name):
    for release in known():
        types = {r["driver"]: r["accepts"].split() for r in rows(release)}.get(name, [])
        if "UNMANAGED" in types:
            lab = Lab(release, name)
            domain = lab.alloc_domain()
            lab.attach_device(domain, "dev0")
            lab.free_domain(domain)
            found = lab.hardware()
            assert (found.kind, "freed" in found.why) == AFTER_FREE[name], release


def test_mtk_5_10_frees_the_table_of_each_domain():
    lab = Lab("5.10", "mtk")
    lab.free_domain(lab.believed_domain(0).name)
    assert "freed" in lab.hardware().why


def test_omap_takes_one_device_for_a_domain():
    for release, says in (("6.0", "EBUSY"), ("6.12", "EINVAL")):
        apart = replace(Machine(), devices=(Device("a"), Device("b", 1)))
        lab = Lab(release, "omap", apart)
        domain = lab.alloc_domain()
        lab.attach_device(domain, "a")
        assert answer(lab, "attach_device", domain, "b") == says


def test_msm_remembers_a_context_bank_and_refuses_every_later_attach():
    lab = Lab("5.15", "msm")
    for says in (0, 0, "EEXIST", "EEXIST"):  # bank 0 is taken for no bank
        assert answer(lab, "attach_device", lab.alloc_domain(), "dev0") == says


def test_msm_makes_a_new_table_at_each_attach_and_its_list_becomes_endless():
    lab = Lab("6.0", "msm")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.map(domain, 0x10_0000, 0x8000_0000, 0x1000)
    lab.detach_device(domain, "dev0")
    lab.attach_device(domain, "dev0")
    assert lab.iova_to_phys(domain, 0x10_0000) == 0
    assert answer(lab, "detach_device", domain, "dev0") == "crash"


def test_tegra_smmu_follows_null_when_it_detaches_a_domain_that_was_never_attached():
    lab = Lab("5.15", "tegra-smmu")
    one, other = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_device(one, "dev0")
    assert answer(lab, "detach_device", other, "dev0") == "crash"


def test_qcom_attached_again_after_identity_stays_in_bypass():
    lab = Lab("7.2", "qcom_iommu")
    lab.attach_device(lab.alloc_domain("identity"), "dev0")
    lab.detach_group("default0", 0)
    assert (lab.belief(0), lab.hardware().kind) == (DomainType.DMA, "bypass")


def test_freeing_a_domain_that_was_attached_crashes_sprd_from_6_3_to_6_7():
    says = {}
    for release in ("6.2", "6.3", "6.7", "6.12"):
        lab = Lab(release, "sprd")
        domain = lab.alloc_domain()
        lab.attach_device(domain, "dev0")
        answer(lab, "detach_device", domain, "dev0")
        says[release] = answer(lab, "free_domain", domain)
    assert says == {"6.2": None, "6.3": "crash", "6.7": "crash", "6.12": None}


def test_an_s390_that_fails_to_attach_is_given_back_to_the_platform_until_6_1():
    left = {}
    for release in ("6.1", "6.1.192", "6.2"):
        lab = Lab(release, "s390")
        lab.fail_next_attach("dev0")
        answer(lab, "attach_device", lab.alloc_domain(), "dev0")
        left[release] = lab.hardware().kind.value
    assert left == {"6.1": "platform", "6.1.192": "blocked", "6.2": "blocked"}


def test_a_5_10_fsl_pamu_domain_writes_nothing_until_its_windows_are_set_up():
    lab = Lab("5.10", "fsl_pamu")
    lab.attach_device(lab.alloc_domain(), "dev0")
    assert lab.hardware().kind == "bypass"  # the window of the boot


def test_only_two_drivers_block_truly_in_6_0():
    truly = set()
    for name, arch in everywhere("6.0"):
        lab = Lab("6.0", name, arch=arch)
        if answer(lab, "claim_dma_owner", 0, "vfio") == 0 and lab.belief(0) is BLOCKED:
            truly.add(name)
    assert truly == {"amd", "apple-dart"}


def test_devices_that_share_a_unit_are_switched_together():
    lab = Lab("6.0", "rockchip", together("a", "b"), arch="arm32")
    domain = lab.alloc_domain()
    lab.attach_group(domain, 0)
    lab.detach_group(domain, 0)
    assert on(lab) == [("bypass", None)] * 2
    assert warnings(lab) == []


@pytest.mark.parametrize("release", ["6.0", "patch-v2"])
def test_amd_is_really_blocked_by_a_claim_with_and_without_the_patch(release):
    lab = Lab(release, "amd")
    lab.claim_dma_owner(0, "vfio")
    found = lab.check({"device": ["dev0"], "iova": [0x9000_0000], "size": [4], "write": [True]})
    assert (lab.belief(0), found.loc[0, "reached"]) == (BLOCKED, 0)


def test_s390_changed_its_meaning_three_times():
    kinds = {}
    for release in ("6.6", "6.7", "6.12", "6.12.117", "7.2"):
        lab = Lab(release, "s390")
        believed = lab.belief(0)
        lab.claim_dma_owner(0, "vfio")
        kinds[release] = (believed, lab.belief(0))
    lazy = DomainType.DMA_FQ
    assert kinds == {
        "6.6": (None, UNMANAGED),
        "6.7": (lazy, UNMANAGED),
        "6.12": (lazy, UNMANAGED),
        "6.12.117": (lazy, BLOCKED),
        "7.2": (lazy, BLOCKED),
    }


def test_detach_functions_left_intel_in_6_2_and_everybody_in_6_3():
    have = {r: {row["driver"] for row in rows(r) if row["detach"]} for r in ("6.1", "6.2", "6.3")}
    assert have["6.1"] - have["6.2"] == {"intel"}
    assert have["6.3"] == set()
    platform = {r for r in releases() for row in rows(r) if row["set_platform"]}
    assert platform == {"plan", "6.3", "6.4", "6.6"}


def test_a_stable_kernel_is_not_the_release_it_is_named_after():
    said = {}
    for release in ("6.1", "6.1.192"):
        lab = Lab(release, "virtio")
        lab.remove("dev0")
        identity = DomainType.IDENTITY in driver("sun50i", release).accepts
        said[release] = (lab.hardware().kind.value, identity)
    assert said == {"6.1": ("table", True), "6.1.192": ("bypass", False)}


def test_msm_frees_its_table_while_the_context_walks_it():
    lab = Lab("6.0", "msm")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    kinds = [e.name for e in lab.moments[-1].events if e.kind == "hardware"]
    assert kinds == ["unknown", "bypass"]


def test_omap_walks_the_table_that_it_found_when_it_got_power():
    lab = Lab("6.0", "omap")
    lab.claim_dma_owner(0, "vfio")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    assert (lab.believed_domain(0).name, lab.hardware("dev0").domain) == (domain, "blocking0")
    lab.power_cycle("dev0")
    assert lab.hardware("dev0").domain == domain


def test_omap_stays_on_when_one_of_two_domains_is_left():
    lab = Lab("6.0", "omap")
    lab.claim_dma_owner(0, "vfio")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")  # blocking0 counts the device already, and refuses it
    lab.free_domain(domain)
    assert lab.hardware("dev0").domain == "blocking0"
    lab.power_cycle("dev0")
    assert lab.hardware("dev0").kind.value == "bypass"


@pytest.mark.parametrize(("release", "end"), [("6.0", "crash"), ("6.7", "crash")])
def test_rockchips_unit_remembers_a_domain_that_its_last_device_left_behind(release, end):
    lab = Lab(release, "rockchip", Machine(devices=(Device("dev0", 0),)))
    lab.remove("dev0")
    with pytest.raises(KernelCrash, match="the old default0 is freed and followed"):
        lab.probe("dev0")
    assert lab.moments[-1].result == end


def test_rockchip_leaves_what_its_unit_was_on_when_a_device_comes_back_to_identity():
    lab = Lab("6.7", "rockchip", Machine(devices=(Device("dev0", 0),)), arch="arm32")
    lab.attach_device(lab.alloc_domain(), "dev0")
    lab.remove("dev0")
    assert lab.hardware("dev0").domain == "dom1"
    lab.probe("dev0")
    assert lab.belief(0) is DomainType.IDENTITY
    assert lab.hardware("dev0").kind.value == "bypass"


def test_a_device_late_to_a_rockchip_unit_finds_its_record():
    lab = Lab("6.0", "rockchip")
    lab.late_join("dev9", 0)
    assert lab.state.devices["dev9"].attached == "default0"


def test_a_device_whose_probe_failed_on_powerpc_stays_with_the_platforms_dma():
    lab = Lab("6.7", "spapr")
    assert not lab.state.groups
    lab.bind("dev0", "kernel-driver")
    iova = lab.dma_map("dev0", 0x8000_0000, 0x1000)
    assert lab.check({"device": "dev0", "iova": [iova], "size": 64, "write": True}).reached.all()


@pytest.mark.parametrize(("name", "kind"), [("exynos", "bypass"), ("rockchip", "table")])
def test_leaving_a_domain_takes_every_unit_off_its_list_on_exynos_alone(name, kind):
    lab = Lab("6.0", name, Machine(devices=(Device("dev0", 0), Device("dev1", 1))))
    domain = lab.alloc_domain()
    for device in lab.devices:
        lab.attach_device(domain, device)
    lab.detach_device(domain, "dev0")
    lab.power_cycle("dev1")
    assert lab.hardware("dev1").kind.value == kind
