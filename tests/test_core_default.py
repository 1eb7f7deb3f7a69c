"""Which default domain a device gets at probe, and what is mapped, deferred or refused then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers import FIRMWARE, answer, on, together, traces, warnings

from iommu_lab.domains import DomainType
from iommu_lab.drivers import driver as find_driver
from iommu_lab.lab import Lab
from iommu_lab.machine import Device, Machine, Reserved
from iommu_lab.releases import releases

DMA, DMA_FQ, IDENTITY = DomainType.DMA, DomainType.DMA_FQ, DomainType.IDENTITY
MAINLINE = [r for r in releases() if r[0].isdigit()]


def machine(*devices: Device) -> Machine:
    return replace(Machine(), devices=devices)


# -- the global type ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "driver", "cmdline", "gets"),
    [
        ("5.10", "intel", "", DMA),
        ("5.15", "intel", "", DMA_FQ),
        ("7.2", "intel", "", DMA_FQ),
        ("6.0", "intel", "iommu.strict=1", DMA),
        ("6.0", "intel", "intel_iommu=strict", DMA),
        ("6.0", "amd", "amd_iommu=fullflush", DMA),
        ("6.0", "arm-smmu-v3", "", DMA),
        ("6.0", "arm-smmu-v3", "iommu.strict=0", DMA_FQ),
        ("6.0", "intel", "iommu=pt", IDENTITY),
        ("6.0", "intel", "iommu.passthrough=1", IDENTITY),
        ("6.0", "intel", "iommu=pt iommu.passthrough=0", DMA_FQ),
        ("6.0", "arm-smmu-v3", "iommu=pt", DMA),
        ("6.0", "arm-smmu-v3", "iommu.passthrough=on", IDENTITY),
    ],
)
def test_the_boot_line_and_the_architecture_decide_the_type(release, driver, cmdline, gets):
    assert Lab(release, driver, cmdline=cmdline).belief(0) is gets


def test_an_emulated_iommu_that_caches_misses_is_always_strict():
    emulated = replace(Machine(), caching_mode=True)
    assert Lab("6.0", "intel", emulated).belief(0) is DMA


def test_a_lazy_domain_needs_the_drivers_word_that_it_can_be_since_6_6():
    for release, driver, gets in (
        ("6.4", "arm-smmu-v3", DMA_FQ),
        ("6.6", "arm-smmu-v3", DMA_FQ),
        ("6.6", "exynos", DMA),
        ("6.4", "exynos", DMA),
    ):
        assert Lab(release, driver, cmdline="iommu.strict=0").belief(0) is gets


def test_an_iommu_that_is_switched_off_has_no_groups_and_stops_nothing():
    for driver, cmdline in (("intel", "intel_iommu=off"), ("amd", "iommu=off")):
        lab = Lab("6.0", driver, cmdline=cmdline)
        assert (lab.state.groups, on(lab)) == ({}, [("bypass", None)])


# -- without dma-iommu ----------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["exynos", "rockchip", "sun50i", "mtk"])
def test_32_bit_arm_offers_dma_domains_and_never_gets_one(driver):
    assert Lab("6.0", driver).belief(0) is DMA
    assert Lab("6.0", driver, arch="arm32").belief(0) is None
    assert Lab("6.0", driver, arch="arm32").group_type(0) == "unknown"


def test_32_bit_arm_has_an_identity_default_since_6_7():
    lab = Lab("6.7", "exynos", arch="arm32")
    assert (lab.belief(0), on(lab)) == (IDENTITY, [("bypass", None)])


@pytest.mark.parametrize(
    ("release", "driver", "gets"),
    [
        ("6.0", "s390", None),
        ("6.6", "s390", None),
        ("6.7", "s390", DMA_FQ),
        ("6.0", "fsl_pamu", None),
        ("6.6", "fsl_pamu", None),
        ("6.12", "fsl_pamu", DomainType.PLATFORM),
        ("6.4", "powerpc-spapr-tce", None),
        ("6.12", "powerpc-spapr-tce", DomainType.PLATFORM),
        ("7.2", "riscv", DMA),
    ],
)
def test_dma_iommu_came_to_some_architectures_late_or_never(release, driver, gets):
    assert Lab(release, driver).belief(0) is gets


@pytest.mark.parametrize("driver", ["fsl_pamu", "powerpc-spapr-tce"])
def test_6_7_refuses_the_identity_that_it_asks_of_drivers_with_a_platform_default(driver):
    lab = Lab("6.7", driver)
    assert lab.state.groups == {}
    assert lab.belief(0) is None
    assert answer(lab, "probe", "dev0") == "EINVAL"


def test_only_mtk_v1_has_an_unmanaged_default_domain():
    lab = Lab("6.0", "mtk_v1")
    assert lab.state.domains[lab.state.groups[0].default].type is DomainType.UNMANAGED
    assert lab.group_type(0) == "unmanaged"


# -- what a device asks for -----------------------------------------------------------------------


@pytest.mark.parametrize("release", MAINLINE)
def test_a_device_gets_the_type_that_its_driver_asks_for(release):
    lab = Lab(release, "amd", machine(Device("gpu", requires=IDENTITY)))
    assert lab.belief(0) is IDENTITY


@pytest.mark.parametrize("order", [(IDENTITY, DMA), (DMA, IDENTITY)])
def test_devices_that_ask_for_different_types_get_the_global_one_and_since_6_7_identity(order):
    both = machine(*(Device(kind.name, requires=kind) for kind in order))
    for release, gets in (("6.0", DMA_FQ), ("6.6", DMA_FQ), ("6.7", IDENTITY), ("7.2", IDENTITY)):
        lab = Lab(release, "amd", both)
        assert lab.belief(0) is gets
        assert [e.name for e in lab.moments[0].events if e.kind == "warn"]


def test_an_untrusted_device_is_translated_whatever_its_driver_asks_for_until_6_6():
    guest = machine(Device("nic", untrusted=True, requires=IDENTITY))
    said = {r: Lab(r, "amd", guest).belief(0) for r in ("5.10", "5.15", "6.0", "6.6")}
    assert said == {"5.10": IDENTITY, "5.15": DMA, "6.0": DMA, "6.6": DMA}
    assert Lab("5.10", "intel", guest).belief(0) is DMA


def test_an_untrusted_device_whose_driver_asks_for_identity_is_not_probed_since_6_7():
    lab = Lab("6.7", "amd", machine(Device("nic", untrusted=True, requires=IDENTITY)))
    assert lab.state.groups == {}
    trusted = Lab("6.7", "amd", machine(Device("nic", untrusted=True)), cmdline="iommu=pt")
    assert trusted.belief(0) is DMA


def test_only_pci_devices_are_taken_for_untrusted():
    lab = Lab("6.0", "amd", machine(Device("nic", untrusted=True, pci=False)), cmdline="iommu=pt")
    assert lab.belief(0) is IDENTITY


def test_a_type_that_the_driver_has_not_becomes_dma_until_6_4_then_nothing_then_an_error():
    asks = machine(Device("dsp", requires=IDENTITY))
    said = {r: Lab(r, "sprd", asks).belief(0) for r in ("6.0", "6.4", "6.6")}
    assert said == {"6.0": DMA, "6.4": DMA, "6.6": None}
    lab = Lab("6.12", "sprd", asks)
    assert lab.state.groups == {}
    assert answer(lab, "probe", "dsp") == "EOPNOTSUPP"


def test_a_global_type_that_the_driver_has_not_becomes_dma_in_every_release():
    for release in ("6.0", "6.4", "6.6", "6.7", "6.12"):
        assert Lab(release, "sprd", cmdline="iommu.passthrough=1").belief(0) is DMA


def test_a_driver_may_ask_for_identity_itself():
    assert Lab("6.12", "tegra-smmu").belief(0) is IDENTITY


def test_static_domains_are_one_object_for_all_groups():
    apart = machine(Device("a"), Device("b", 1))
    shared = Lab("6.12", "arm-smmu", apart, cmdline="iommu.passthrough=1")
    own = Lab("6.0", "arm-smmu", apart, cmdline="iommu.passthrough=1")
    names = [[lab.believed_domain(n).name for n in (0, 1)] for lab in (shared, own)]
    assert names == [["arm-smmu.identity"] * 2, ["default0", "default1"]]


# -- firmware's regions ---------------------------------------------------------------------------


@pytest.mark.parametrize("release", MAINLINE)
def test_firmwares_regions_are_mapped_before_the_default_domain_is_attached(release):
    lab = Lab(release, "intel", together("dev0", reserved=FIRMWARE))
    names = traces(lab)
    region = FIRMWARE[0]
    assert lab.iova_to_phys("default0", region.first) == region.first
    if "map  default0" in names:
        assert names.index("map  default0") < names.index("attach_device_to_domain dev0 default0")


def test_regions_may_be_relaxed_or_reserved_and_only_direct_ones_are_mapped():
    regions = (
        Reserved(0x1000_0000, 0x1000_0FFF, "direct-relaxable"),
        Reserved(0x2000_0000, 0x2000_0FFF, "reserved"),
        Reserved(0x3000_0000, 0x3000_0FFF, "msi"),
    )
    lab = Lab("6.0", "intel", together("dev0", reserved=regions))
    mapped = [lab.iova_to_phys("default0", r.first) for r in regions]
    assert mapped == [0x1000_0000, 0, 0]


def test_firmwares_regions_are_in_dma_domains_alone():
    regions = together("dev0", reserved=FIRMWARE)
    lab = Lab("6.0", "intel", regions)
    assert lab.iova_to_phys(lab.alloc_domain(), FIRMWARE[0].first) == 0
    passed = Lab("6.0", "amd", regions, cmdline="iommu=pt")
    assert passed.state.hardware.tables == {}


def test_a_region_of_one_device_is_in_reach_of_the_others_in_its_group():
    lab = Lab("6.0", "amd", machine(Device("gpu", reserved=FIRMWARE), Device("nic")))
    at = FIRMWARE[0].first
    reach = lab.check({"device": ["nic"], "iova": [at], "size": [4], "write": [True]})
    assert reach.loc[0, "reached"] == 4


def test_regions_that_overlap_are_mapped_once():
    twice = (Reserved(0x1000_0000, 0x1000_1FFF, "direct"), *FIRMWARE)
    lab = Lab("6.0", "intel", together("dev0", reserved=twice))
    assert lab.iova_to_phys("default0", 0x1000_1000) == 0x1000_1000
    assert warnings(lab) == []


def test_a_region_that_can_not_be_mapped_before_the_attach_is_mapped_after_it_since_6_6():
    regions = together("dev0", reserved=FIRMWARE)
    at, mapped = FIRMWARE[0].first, {}
    for release in ("6.4", "6.6"):  # an SMMU domain has no page table before its first attach
        lab = Lab(release, "arm-smmu-v3", regions)
        mapped[release] = lab.iova_to_phys("default0", at)
    assert mapped == {"6.4": 0, "6.6": at}


def test_a_region_that_can_not_be_mapped_at_all_ends_the_probe_since_6_6():
    far = together("dev0", reserved=(Reserved(2**50, 2**50 + 0xFFF, "direct"),))
    assert Lab("6.4", "arm-smmu-v3", far).belief(0) is DMA
    assert Lab("6.6", "arm-smmu-v3", far).state.groups == {}


# -- an attach that fails, or waits ---------------------------------------------------------------


@pytest.mark.parametrize("release", MAINLINE)
def test_a_probe_fails_with_the_attach_of_the_default_domain(release):
    lab = Lab(release, "amd")
    lab.remove("dev0")
    lab.fail_next_attach("dev0")
    assert answer(lab, "probe", "dev0") == "ENODEV"
    assert lab.state.groups == {}
    assert lab.state.devices["dev0"].present


CRASHED = together("dev0", deferred=True)


@pytest.mark.parametrize("release", MAINLINE)
@pytest.mark.parametrize("driver", ["amd", "intel"])
def test_a_kdump_kernel_leaves_a_device_on_the_dead_kernels_table(driver, release):
    lab = Lab(release, driver, CRASHED)
    assert lab.believed_domain(0).name == "default0"
    assert on(lab) == [("unknown", None)]
    assert "dead kernel" in lab.hardware().why


def test_other_drivers_defer_nothing():
    assert on(Lab("6.0", "arm-smmu-v3", CRASHED)) == [("table", "default0")]


@pytest.mark.parametrize("release", MAINLINE)
def test_the_first_mapping_through_the_dma_api_attaches_a_deferred_device(release):
    lab = Lab(release, "amd", CRASHED)
    lab.dma_map("dev0", 0x8000_0000, 0x1000)
    assert on(lab) == [("table", "default0")]


def test_a_switch_to_the_default_skips_a_deferred_device_since_6_6():
    for release, left in (("6.0", "table"), ("6.4", "table"), ("6.6", "unknown")):
        lab = Lab(release, "amd", together("a", "b", deferred=True))
        user = lab.alloc_domain()
        lab.attach_group(user, 0)
        assert on(lab) == [("table", user)] * 2
        fresh = Lab(release, "amd", CRASHED)
        answer(fresh, "attach_group", "default0", 0)
        assert fresh.hardware().kind == ("unknown" if release == "6.6" else left)


def test_a_hot_added_device_is_attached_though_deferred_until_6_1():
    for release, left in (("6.1", "table"), ("6.2", "unknown"), ("6.6", "unknown")):
        lab = Lab(release, "amd", machine(Device("a"), Device("b", deferred=True)))
        lab.remove("b")
        lab.probe("b")
        assert lab.hardware("b").kind == left, release


def test_a_released_device_that_is_still_deferred_is_left_as_it_was():
    row = replace(find_driver("intel", "6.12"))
    lab = Lab("6.12", row, CRASHED)
    lab.remove("dev0")
    assert lab.hardware().kind == "unknown"
