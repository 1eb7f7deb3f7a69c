"""Which default domain a device gets at probe, and what is mapped, deferred or refused then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers import FIRMWARE, answer, on, together, traces, warnings

from iommu_lab.domains import DomainType
from iommu_lab.drivers import driver as find_driver
from iommu_lab.drivers import rows
from iommu_lab.hardware import Kind
from iommu_lab.lab import Lab
from iommu_lab.machine import RESERVED_TYPES, Device, Machine, Reserved
from iommu_lab.releases import known, releases

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


def events_in_order(lab: Lab) -> list[str]:
    """The traces and notes of the boot that tell when direct regions were mapped."""
    told = [e for e in lab.moments[0].events if e.kind in ("trace", "note")]
    return [e.name for e in told if e.name != "add_device_to_group"]


ATTACH, MAP, FAILS = "attach_device_to_domain", "map", "iommu_create_device_direct_mappings"


@pytest.mark.parametrize(
    ("driver", "release", "order"),
    [
        ("intel", "6.0", [MAP, ATTACH]),  # found when the bus is scanned (bus_iommu_probe)
        ("arm-smmu-v3", "6.0", [ATTACH, MAP]),  # one by one (iommu_probe_device)
        ("arm-smmu-v3", "6.4", [ATTACH, MAP]),
        ("arm-smmu-v3", "6.6", [FAILS, ATTACH, MAP]),  # no page table before the first attach
        ("arm-smmu-v3", "6.12", [MAP, ATTACH]),  # made with one (arm_smmu_domain_alloc_paging)
        ("arm-smmu", "7.2", [FAILS, ATTACH, MAP]),
        ("virtio", "6.12", [FAILS, ATTACH, MAP]),
        ("virtio", "7.2", [MAP, ATTACH]),  # viommu_domain_alloc_paging
        ("apple-dart", "6.12", [MAP, ATTACH]),
    ],
)
def test_firmwares_regions_are_mapped_before_the_attach_or_after_it(driver, release, order):
    whole = (Reserved(0x1000_0000, 0x1000_3FFF, "direct"),)  # one page of apple-dart
    lab = Lab(release, driver, together("dev0", reserved=whole), arch=None)
    assert events_in_order(lab) == order
    assert lab.iova_to_phys("default0", 0x1000_0000) == 0x1000_0000


def test_a_device_that_comes_later_is_attached_before_its_regions_are_mapped_up_to_6_4():
    for release, order in (("6.4", [ATTACH, MAP]), ("6.6", [MAP, ATTACH])):
        lab = Lab(release, "intel", together("dev0", reserved=FIRMWARE))
        lab.remove("dev0")
        lab.probe("dev0")
        assert [e.name for e in lab.moments[-1].events if e.name in (ATTACH, MAP)] == order


DIRECT = tuple(Reserved(0x1000_0000, 0x1000_FFFF, kind) for kind in ("direct", "direct-relaxable"))


@pytest.mark.parametrize(
    ("driver", "release", "mapped"),
    [
        ("intel", "5.10", ["direct", "direct-relaxable"]),  # device_rmrr_is_relaxable
        ("amd", "5.10", ["direct"]),  # an IVMD is direct or an exclusion range
        ("arm-smmu-v3", "5.19", []),
        ("arm-smmu-v3", "6.0", ["direct", "direct-relaxable"]),  # iort_iommu_get_resv_regions
        ("arm-smmu", "5.19", []),
        ("arm-smmu", "6.0", ["direct", "direct-relaxable"]),
        ("virtio", "6.2", []),
        ("virtio", "6.3", ["direct"]),  # of_iommu_get_resv_regions
        ("apple-dart", "6.2", []),
        ("apple-dart", "6.3", ["direct"]),
        ("exynos", "6.12", []),  # exynos_iommu_ops without get_resv_regions
        ("exynos", "7.2", ["direct"]),
        ("ipmmu-vmsa", "7.2", []),
        ("mtk", "7.2", []),  # mtk_iommu_get_resv_regions: reserved ones alone
        ("sun50i", "7.2", []),
    ],
)
def test_a_region_that_the_driver_does_not_report_is_unknown_to_the_core(driver, release, mapped):
    found = []
    for region in DIRECT:
        arch = "arm64" if driver == "exynos" else None
        lab = Lab(release, driver, together("dev0", reserved=(region,)), arch=arch)
        if lab.state.hardware.tables["default0"].lookup(region.first) is not None:
            found.append(region.type)
        else:
            assert "does not learn of 0x10000000" in lab.moments[0].events[1].text
    assert found == mapped


WHATEVER = [
    (name, row["driver"], arch)
    for name in known()
    for row in rows(name)
    for arch in (row["arch"], *row["other_arch"].split())
]


@pytest.mark.parametrize(("release", "driver", "arch"), WHATEVER)
def test_a_kernel_comes_up_whatever_firmware_keeps_for_itself(release, driver, arch):
    for kind in RESERVED_TYPES:
        for first, last in ((0x0, 0xFFF), (0x7B80_1234, 0x7B9F_FFFF), (2**50, 2**50 + 0xFFF)):
            kept = machine(Device("a", reserved=(Reserved(first, last, kind),)), Device("b", 1))
            for cmdline in ("", "iommu.passthrough=1"):
                lab = Lab(release, driver, kept, cmdline, arch)
                assert lab.moments[0].result is None
                assert (lab.belief(1), lab.hardware("b").kind) == _without(lab)


def _without(lab: Lab) -> tuple[DomainType | None, Kind]:
    """Where the neighbour is on the same machine without any region."""
    boot = lab.kernel
    plain = Lab(
        boot.release.name,
        boot.driver.name,
        machine(Device("a"), Device("b", 1)),
        boot.cmdline,
        boot.arch,
    )
    return plain.belief(1), plain.hardware("b").kind


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
