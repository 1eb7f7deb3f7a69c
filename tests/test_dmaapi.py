"""The DMA API: which table a driver's mapping goes into, at which address, and when it is gone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from answers import FIRMWARE, answer, on, together, warnings
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu_lab.lab import Lab
from iommu_lab.machine import Machine, Reserved
from iommu_lab.releases import releases

BUFFER = 0x8000_0000
PAGE = 0x1000
MAINLINE = [r for r in releases() if r[0].isdigit()]


def reached(lab: Lab, iova: int, device: str = "dev0") -> tuple[str, int]:
    found = lab.check({"device": [device], "iova": [iova], "size": [4], "write": [True]})
    return found.loc[0, "verdict"], int(found.loc[0, "reached"])


# -- where a mapping goes -------------------------------------------------------------------------


@pytest.mark.parametrize("release", MAINLINE)
def test_a_mapping_goes_into_the_default_domain(release):
    lab = Lab(release, "amd")
    at = lab.dma_map("dev0", BUFFER, PAGE)
    assert lab.iova_to_phys("default0", at) == BUFFER
    lab.dma_unmap("dev0", at, PAGE)
    assert lab.iova_to_phys("default0", at) == 0


def test_a_mapping_goes_into_the_default_domain_though_another_is_attached():
    lab = Lab("6.0", "amd")
    lab.attach_device(lab.alloc_domain(), "dev0")
    at = lab.dma_map("dev0", BUFFER, PAGE)
    assert lab.iova_to_phys("default0", at) == BUFFER
    assert reached(lab, at) == ("NOT_MAPPED", 0)


def test_with_an_identity_default_the_address_is_the_physical_one():
    lab = Lab("6.0", "amd", cmdline="iommu=pt")
    assert lab.dma_map("dev0", BUFFER + 5, PAGE) == BUFFER + 5
    assert lab.dma_unmap("dev0", BUFFER + 5, PAGE) is None


def test_a_device_behind_no_iommu_is_given_physical_addresses():
    lab = Lab("6.0", "amd", replace(Machine(), no_iommu=("dev0",)))
    assert lab.dma_map("dev0", BUFFER, PAGE) == BUFFER


def test_devices_of_a_group_share_what_one_of_them_maps():
    lab = Lab("6.0", "amd", together("a", "b"))
    at = lab.dma_map("a", BUFFER, PAGE)
    assert reached(lab, at, "b") == ("TRANSLATED", 4)


@pytest.mark.parametrize(
    ("direction", "rights"), [("to_device", 1), ("from_device", 2), ("bidirectional", 3)]
)
def test_a_direction_gives_the_device_the_rights_it_needs(direction, rights):
    lab = Lab("6.0", "amd")
    at = lab.dma_map("dev0", BUFFER, PAGE, direction)
    assert lab.state.hardware.tables["default0"].lookup(at) == (BUFFER, rights)


def test_part_of_a_page_is_mapped_with_the_whole_page():
    lab = Lab("6.0", "amd")
    at = lab.dma_map("dev0", BUFFER + 0x234, 16)
    assert at % PAGE == 0x234
    assert reached(lab, at - 0x234) == ("TRANSLATED", 4)


def test_a_device_that_is_gone_maps_nothing():
    lab = Lab("6.0", "amd")
    lab.remove("dev0")
    assert answer(lab, "dma_map", "dev0", BUFFER, PAGE) == "ENODEV"


# -- the platform's own DMA ops -------------------------------------------------------------------


@pytest.mark.parametrize("release", ["6.0", "6.1", "6.1.176", "6.6"])
def test_s390_maps_into_the_platforms_table_and_detach_makes_it_a_new_one(release):
    lab = Lab(release, "s390")
    assert lab.belief(0) is None
    before = lab.dma_map("dev0", BUFFER, PAGE)
    assert reached(lab, before) == ("PLATFORM", 4)
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    assert (lab.belief(0), lab.hardware().kind) == (None, "platform")
    assert reached(lab, before) == ("NOT_MAPPED", 0)
    assert reached(lab, BUFFER)[1] == 0
    after = lab.dma_map("dev0", BUFFER + 0x10_0000, PAGE)
    assert after == before
    assert reached(lab, after) == ("PLATFORM", 4)


def test_intel_of_5_10_maps_into_what_is_attached_and_crashes_on_anothers_domain():
    lab = Lab("5.10", "intel")
    at = lab.dma_map("dev0", BUFFER, PAGE)
    lab.attach_device(lab.alloc_domain(), "dev0")
    assert answer(lab, "dma_map", "dev0", BUFFER, PAGE) == "crash"
    assert answer(lab, "dma_unmap", "dev0", at, PAGE) == "crash"
    lab = Lab("5.15", "intel")
    lab.attach_device(lab.alloc_domain(), "dev0")
    assert lab.dma_map("dev0", BUFFER, PAGE)


def test_s390_crashes_when_it_maps_while_a_domain_is_attached():
    lab = Lab("6.1.176", "s390")
    lab.attach_device(lab.alloc_domain(), "dev0")
    assert answer(lab, "dma_map", "dev0", BUFFER, PAGE) == "crash"


def test_a_claimed_s390_detaches_to_the_stand_in_and_its_release_to_the_platform():
    lab = Lab("6.1.176", "s390")
    lab.claim_dma_owner(0, "vfio")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    assert on(lab) == [("table", "blocking0")]
    lab.release_dma_owner(0)
    assert (lab.belief(0), lab.hardware().kind) == (None, "platform")


def test_the_s390_of_6_12_has_a_default_domain_and_what_was_mapped_before_lands_again():
    lab = Lab("6.12", "s390")
    at = lab.dma_map("dev0", BUFFER, PAGE)
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    assert reached(lab, at)[1] == 0
    lab.detach_device(domain, "dev0")
    assert reached(lab, at) == ("TRANSLATED", 4)


def test_a_lazy_platform_leaves_the_iotlb_until_its_addresses_have_gone_around():
    lab = Lab("6.0", "s390")
    at = lab.dma_map("dev0", BUFFER, PAGE)
    lab.dma_unmap("dev0", at, PAGE)
    assert reached(lab, at)[0] == "STALE"
    lab.advance(1000)
    assert reached(lab, at)[0] == "STALE"
    assert lab.dma_map("dev0", BUFFER, PAGE) == at + PAGE
    strict = Lab("6.0", "s390", cmdline="s390_iommu=strict")
    at = strict.dma_map("dev0", BUFFER, PAGE)
    strict.dma_unmap("dev0", at, PAGE)
    assert reached(strict, at) == ("NOT_MAPPED", 0)


# -- 32-bit Arm -----------------------------------------------------------------------------------


def test_32_bit_arm_gives_addresses_from_0_upwards_out_of_a_mapping_of_the_driver():
    lab = Lab("6.0", "exynos", arch="arm32")
    assert lab.dma_map("dev0", BUFFER, PAGE) == BUFFER  # nobody is bound: there is no mapping
    lab.bind("dev0", "fimd")
    assert lab.dma_map("dev0", BUFFER, PAGE) == 0
    assert lab.dma_map("dev0", BUFFER, PAGE) == PAGE
    assert reached(lab, 0) == ("TRANSLATED", 4)


def test_ipmmus_one_mapping_begins_at_a_gigabyte():
    lab = Lab("6.0", "ipmmu-vmsa", arch="arm32")
    assert lab.dma_map("dev0", BUFFER, PAGE) == 0x4000_0000


# -- strict and lazy ------------------------------------------------------------------------------


def test_strict_unmap_leaves_nothing_in_the_iotlb():
    lab = Lab("6.0", "amd", cmdline="iommu.strict=1")
    at = lab.dma_map("dev0", BUFFER, PAGE)
    lab.dma_unmap("dev0", at, PAGE)
    assert lab.hardware().stale == ()
    assert lab.dma_map("dev0", BUFFER, PAGE) == at


def test_lazy_unmap_is_gone_from_the_table_and_alive_in_the_iotlb_for_10_ms():
    lab = Lab("6.0", "amd")
    at = lab.dma_map("dev0", BUFFER, PAGE)
    lab.dma_unmap("dev0", at, PAGE)
    assert lab.iova_to_phys("default0", at) == 0
    assert reached(lab, at) == ("STALE", 4)
    assert lab.dma_map("dev0", BUFFER, PAGE) != at  # the address waits too
    lab.advance(9)
    assert reached(lab, at) == ("STALE", 4)
    lab.advance(1)
    assert reached(lab, at) == ("NOT_MAPPED", 0)


def test_the_queue_is_flushed_when_256_unmaps_have_come():
    lab = Lab("6.0", "amd")
    for _ in range(255):
        lab.dma_unmap("dev0", lab.dma_map("dev0", BUFFER, PAGE), PAGE)
    assert len(lab.hardware().stale) == 255
    lab.dma_unmap("dev0", lab.dma_map("dev0", BUFFER, PAGE), PAGE)
    assert len(lab.hardware().stale) == 1


def test_the_queue_is_one_for_the_domain_so_a_neighbours_flush_frees_my_addresses():
    lab = Lab("6.0", "amd", together("a", "b"))
    mine = lab.dma_map("a", BUFFER, PAGE)
    lab.dma_unmap("a", mine, PAGE)
    for _ in range(255):
        lab.dma_unmap("b", lab.dma_map("b", BUFFER, PAGE), PAGE)
    assert reached(lab, mine, "a") == ("NOT_MAPPED", 0)


def test_a_raw_unmap_is_always_strict():
    lab = Lab("6.0", "amd")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.map(domain, PAGE, BUFFER, PAGE)
    lab.unmap(domain, PAGE, PAGE)
    assert lab.hardware().stale == ()


@pytest.mark.parametrize(
    ("driver", "cmdline", "lazy"),
    [
        ("intel", "", True),
        ("intel", "intel_iommu=strict", False),
        ("intel", "iommu.strict=1", True),  # 5.10's intel does not look at it
        ("amd", "amd_iommu=fullflush", False),
        ("arm-smmu-v3", "", False),
        ("arm-smmu-v3", "iommu.strict=0", True),
        ("exynos", "iommu.strict=0", False),
    ],
)
def test_in_5_10_lazy_is_an_attribute_of_the_domain_that_some_drivers_know(driver, cmdline, lazy):
    lab = Lab("5.10", driver, cmdline=cmdline)
    assert lab.group_type(0) == "DMA"
    lab.dma_unmap("dev0", lab.dma_map("dev0", BUFFER, PAGE), PAGE)
    assert bool(lab.hardware().stale) == lazy


@pytest.mark.parametrize(
    ("release", "driver", "lazy"),
    [("5.10", "amd", True), ("5.15", "amd", False), ("5.10", "intel", False)],
)
def test_an_iommu_that_caches_misses_makes_every_driver_strict_but_amds_of_5_10(
    release, driver, lazy
):
    lab = Lab(release, driver, Machine(caching_mode=True))
    lab.dma_unmap("dev0", lab.dma_map("dev0", BUFFER, PAGE), PAGE)
    assert bool(lab.hardware().stale) == lazy


def test_an_untrusted_device_is_never_lazy_in_5_10():
    lab = Lab("5.10", "intel", together("dev0", untrusted=True))
    lab.dma_unmap("dev0", lab.dma_map("dev0", BUFFER, PAGE), PAGE)
    assert lab.hardware().stale == ()


def test_an_unmap_that_takes_another_size_than_asked_is_warned_of():
    lab = Lab("6.0", "amd")
    at = lab.dma_map("dev0", 0x8020_0000, 0x20_0000)
    lab.dma_unmap("dev0", at, PAGE)
    assert warnings(lab) == ["__iommu_dma_unmap"]


# -- addresses ------------------------------------------------------------------------------------


def test_addresses_come_from_the_top_of_the_first_4_gigabytes_for_pci_devices():
    lab = Lab("6.0", "amd")
    assert lab.dma_map("dev0", BUFFER, PAGE) == 0xFFFF_F000
    other = Lab("6.0", "amd", together("dev0", pci=False))
    assert other.dma_map("dev0", BUFFER, PAGE) == 2**64 - PAGE


def test_reserved_regions_and_host_windows_are_never_handed_out():
    top = (Reserved(0xFFFF_F000, 0xFFFF_FFFF, "reserved"), *FIRMWARE)
    lab = Lab(
        "6.0", "amd", replace(together("dev0", reserved=top), windows=((0xFFFF_E000, 0xFFFF_EFFF),))
    )
    assert lab.dma_map("dev0", BUFFER, PAGE) == 0xFFFF_D000


def test_software_msi_regions_are_no_reason_to_skip_an_address():
    region = (Reserved(0xFFFF_F000, 0xFFFF_FFFF, "msi-sw"),)
    lab = Lab("6.0", "amd", together("dev0", reserved=region))
    assert lab.dma_map("dev0", BUFFER, PAGE) == 0xFFFF_F000


def test_address_0_is_never_handed_out():
    small = replace(Machine(), width=14)  # four pages, of which the first is not for drivers
    lab = Lab("6.0", "intel", small)
    given_ = [answer(lab, "dma_map", "dev0", BUFFER, PAGE) for _ in range(4)]
    assert given_ == [0x3000, 0x2000, 0x1000, "ENOMEM"]


def test_small_allocations_are_rounded_up_to_a_power_of_two_of_pages():
    lab = Lab("6.0", "amd")
    first = lab.dma_map("dev0", BUFFER, 3 * PAGE)
    assert (first, lab.dma_map("dev0", BUFFER, PAGE)) == (0xFFFF_C000, 0xFFFF_B000)


sizes = st.integers(1, 40).map(lambda n: n * PAGE - 100)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(sizes, st.integers(0, 5).map(lambda n: -n)), max_size=20))
@pytest.mark.parametrize(
    ("driver", "release", "arch"),
    [
        ("amd", "6.0", None),
        ("s390", "6.0", None),
        ("exynos", "6.0", "arm32"),
        ("apple-dart", "6.12", None),
    ],
)
def test_addresses_in_use_never_overlap_and_lead_to_their_buffers(driver, release, arch, steps):
    lab = Lab(release, driver, arch=arch)
    lab.bind("dev0", "nic")
    used: list[tuple[int, int, int]] = []
    for step in steps:
        if step > 0:
            paddr = BUFFER + len(used) * 0x10_0000
            used.append((lab.dma_map("dev0", paddr, step), step, paddr))
        elif used:
            at, size, _ = used.pop(-step % len(used))
            lab.dma_unmap("dev0", at, size)
    for at, size, paddr in used:
        table = lab.state.hardware.table_of("dev0")
        assert table.lookup(at)[0] == paddr
        assert table.lookup(at + size - 1)[0] == paddr + size - 1
    ordered = sorted(used)
    assert all(a[0] + a[1] <= b[0] for a, b in pairwise(ordered))


@pytest.mark.parametrize("release", ["6.0", "6.2", "6.6", "6.7", "7.2"])
def test_an_s390_device_is_given_addresses_that_its_hardware_takes(release):
    lab = Lab(release, "s390")
    at = lab.dma_map("dev0", BUFFER, PAGE)
    assert at >= 2**32
    assert reached(lab, at)[1] == 4


def test_since_6_2_an_s390_domain_can_be_mapped_where_its_hardware_does_not_look():
    lab = Lab("6.2", "s390")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    assert lab.map(domain, PAGE, BUFFER, PAGE) == 0
    assert reached(lab, PAGE) == ("BEYOND_APERTURE", 0)
