"""Does a page table do what its driver's does: on overlaps, holes, parts, limits and no rights?"""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
from answers import answer, warnings
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iommu_lab.datafiles import datafile
from iommu_lab.drivers import driver as find_driver
from iommu_lab.drivers import rows
from iommu_lab.errors import ERRNOS, KernelCrash
from iommu_lab.lab import Lab
from iommu_lab.pagetables import LOW32, MAP, RIGHTS, UNMAP, pages
from iommu_lab.releases import known, releases
from iommu_lab.tables import PageTable

PAGE = 0x4000  # the largest of the smallest pages (apple-dart)
LARGE = 0x20_0000
THERE, ELSEWHERE = 0x8000_0000, 0x8100_0000
CAPTURES = datafile("captures", "SOURCE.md").parent


def attached(driver: str, release: str = "6.0", arch: str | None = None) -> tuple[Lab, str, int]:
    """A lab whose device is on a domain with nothing in it, the domain, and an address in it."""
    lab = Lab(release, driver, arch=arch)
    domain = "mapping" if driver == "mtk_v1" else lab.alloc_domain()
    if driver != "mtk_v1":
        lab.attach_device(domain, "dev0")
    return lab, domain, lab.state.domains[domain].first + 0x40_0000


def where(lab: Lab, domain: str, iova: int) -> int:
    return lab.iova_to_phys(domain, iova)


def table_of(lab: Lab, domain: str) -> PageTable:
    """The page table itself, whatever the driver says of it."""
    return lab.state.hardware.tables[lab.state.domains[domain].table]


# -- how the core cuts a range --------------------------------------------------------------------


def slow_pages(bitmap: int, iova: int, paddr: int, size: int) -> tuple[int, int]:
    """The largest page that fits; then pages of it until a larger one could start."""
    sizes = [1 << bit for bit in range(64) if bitmap >> bit & 1]
    page = max(s for s in sizes if s <= size and (iova | paddr) % s == 0)
    count = 0
    while size >= page:
        larger = [s for s in sizes if s > page and s <= size and iova % s == 0 and paddr % s == 0]
        if count and larger:
            break
        count, iova, paddr, size = count + 1, iova + page, paddr + page, size - page
    return page.bit_length() - 1, count


@given(
    st.sampled_from([0x1000, 0x40201000, 0x1111000, 0x4020_1000 | 0x1_0000]),
    *(st.integers(0, 2**20) for _ in range(2)),
    st.integers(1, 2**11),
)
def test_a_range_is_cut_into_pages_as_large_as_fit(bitmap, iova, paddr, count):
    iova, paddr, size = iova * 4096, paddr * 4096, count * 4096
    shift, number = pages(bitmap, iova, paddr, size)
    slow_shift, slow_number = slow_pages(bitmap, iova, paddr, size)
    assert shift == slow_shift
    # The core looks at the next larger page alone: it may end a run where none fits after all.
    assert 1 <= number <= slow_number or (iova ^ paddr) % (2 << shift)
    assert number << shift <= size


def test_a_range_that_no_page_fits_is_refused_with_its_numbers():
    with pytest.raises(ValueError, match="0x123"):
        pages(0x1000, 0x123, 0, 0x1000)


def test_a_large_page_needs_both_addresses_aligned_to_it():
    lab, domain, _ = attached("amd")
    lab.map(domain, 0x20_0000, 0x8000_1000, LARGE)
    table = table_of(lab, domain)
    assert max(table.shift) < 21
    lab.map(domain, 0x4000_0000, 0x4000_0000, LARGE)
    assert max(table_of(lab, domain).shift) == 21


def test_adjacent_mappings_are_never_made_one():
    lab, domain, at = attached("exynos")
    for i in range(256):
        lab.map(domain, at + i * 0x1000, at + i * 0x1000, 0x1000)
    assert set(table_of(lab, domain).shift) == {12}
    assert lab.unmap(domain, at, 0x1000) == 0x1000


# -- the core's own tests -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [(0x800, 0, 0x1000), (0, 0x800, 0x1000), (0, 0, 0x800)])
def test_addresses_and_size_must_be_aligned_to_the_smallest_page(bad):
    lab, domain, at = attached("arm-smmu-v3")
    iova, paddr, size = bad
    assert answer(lab, "map", domain, at + iova, THERE + paddr, size) == "EINVAL"
    assert where(lab, domain, at) == 0


def test_an_unmap_that_is_not_aligned_does_nothing_and_says_0():
    lab, domain, at = attached("arm-smmu-v3")
    lab.map(domain, at, THERE, 0x2000)
    assert [lab.unmap(domain, at + 0x800, 0x1000), lab.unmap(domain, at, 0x800)] == [0, 0]
    assert where(lab, domain, at) == THERE


def test_generic_pt_has_an_errno_of_its_own_for_alignment_and_rounds_an_unmap_up():
    lab, domain, at = attached("amd", "7.2")
    assert answer(lab, "map", domain, at, THERE, 0x800) == "ENXIO"
    lab.map(domain, at, THERE, 0x2000)
    assert lab.unmap(domain, at, 0x1800) == 0x2000


def test_mapping_nothing_does_nothing_and_succeeds_except_in_generic_pt():
    lab, domain, at = attached("intel")
    assert lab.map(domain, at, THERE, 0) == 0
    assert lab.unmap(domain, at, 0) == 0
    lab, domain, at = attached("intel", "7.2")
    assert answer(lab, "map", domain, at, THERE, 0) == "EINVAL"
    assert lab.unmap(domain, at, 0) == 0


@pytest.mark.parametrize(
    ("release", "driver", "kind", "says"),
    [
        ("6.0", "fsl_pamu", "unmanaged", "ENODEV"),
        ("6.6", "fsl_pamu", "unmanaged", "ENODEV"),
        ("6.7", "fsl_pamu", "unmanaged", "ENODEV"),
        ("7.2", "fsl_pamu", "unmanaged", "EINVAL"),
        ("6.6", "powerpc-spapr-tce", "blocked", "ENODEV"),
        ("6.7", "powerpc-spapr-tce", "blocked", "EINVAL"),
        ("6.0", "intel", "identity", "EINVAL"),
        ("7.2", "intel", "blocked", "EINVAL"),
    ],
)
def test_what_can_not_be_mapped_is_refused_in_the_releases_order(release, driver, kind, says):
    lab = Lab(release, driver)
    domain = lab.alloc_domain(kind)
    assert answer(lab, "map", domain, 0x1000, 0x1000, 0x1000) == says
    assert lab.unmap(domain, 0x1000, 0x1000) == 0


def test_identity_leads_to_the_same_address_and_blocked_to_none():
    lab = Lab("6.12", "intel")
    domains = [lab.alloc_domain(kind) for kind in ("identity", "blocked")]
    assert [where(lab, domain, 0x1234) for domain in domains] == [0x1234, 0]


def test_amd_took_its_old_blocked_domain_for_an_empty_table_that_can_not_be_mapped():
    lab = Lab("6.0", "amd")
    domain = lab.alloc_domain("blocked")
    assert lab.state.domains[domain].table is not None
    assert answer(lab, "map", domain, 0x1000, THERE, 0x1000) == "EINVAL"


def test_nobody_asks_whether_a_domain_is_attached_before_it_is_mapped():
    lab = Lab("6.0", "amd")
    domain = lab.alloc_domain()
    assert lab.map(domain, 0x1000, THERE, 0x1000) == 0
    assert where(lab, domain, 0x1000) == THERE


def test_an_error_half_way_takes_away_what_the_call_has_mapped_and_no_more():
    lab, domain, at = attached("exynos")
    lab.map(domain, at + 0x3000, THERE, 0x1000)
    assert answer(lab, "map", domain, at, ELSEWHERE, 0x8000) == "EADDRINUSE"
    assert [where(lab, domain, at + i * 0x1000) for i in range(5)] == [0, 0, 0, THERE, 0]


def test_an_error_at_a_later_page_size_takes_away_the_larger_pages_before_it():
    lab, domain, at = attached("exynos")
    lab.map(domain, at + 0x1_0000, THERE, 0x1000)
    assert answer(lab, "map", domain, at, ELSEWHERE, 0x1_1000) == "EADDRINUSE"
    assert [where(lab, domain, at + i) for i in (0, 0xF000, 0x1_0000)] == [0, 0, THERE]


def test_reserved_regions_do_not_stop_a_raw_mapping():
    lab = Lab("6.0", "intel")
    domain = lab.alloc_domain()
    assert lab.map(domain, 0xFEE0_0000, THERE, 0x1000) == 0


# -- over, holes, parts: driver by driver ---------------------------------------------------------

OVER = {
    ("arm-smmu", "6.0"): ("EEXIST", "old"),
    ("arm-smmu-v3", "6.0"): ("EEXIST", "old"),
    ("qcom_iommu", "6.0"): ("EEXIST", "old"),
    ("ipmmu-vmsa", "6.0"): ("EEXIST", "old"),
    ("mtk", "6.0"): ("EEXIST", "old"),
    ("msm", "6.0"): ("EEXIST", "old"),
    ("mtk_v1", "6.0"): ("EEXIST", "old"),
    ("apple-dart", "6.0"): ("EEXIST", "old"),
    ("apple-dart", "6.12"): ("EEXIST", "old"),
    ("exynos", "6.0"): ("EADDRINUSE", "old"),
    ("rockchip", "6.0"): ("EADDRINUSE", "old"),
    ("sun50i", "6.0"): ("EBUSY", "old"),
    ("intel", "6.0"): (0, "old"),
    ("amd", "6.0"): (0, "new"),
    ("tegra-smmu", "6.0"): (0, "new"),
    ("omap", "6.0"): (0, "new"),
    ("s390", "6.0"): (0, "new"),
    ("s390", "6.12"): (0, "new"),
    ("sprd", "6.0"): (0, "new"),
    ("tegra-gart", "6.0"): (0, "new"),
    ("iommufd-selftest", "6.2"): (0, "new"),
    ("amd", "7.2"): ("EADDRINUSE", "old"),
    ("intel", "7.2"): ("EADDRINUSE", "old"),
    ("riscv", "7.2"): ("EADDRINUSE", "old"),
}


@pytest.mark.parametrize(("driver", "release"), OVER)
def test_a_second_mapping_of_an_address_is_refused_or_wins_or_loses(driver, release):
    lab, domain, at = attached(driver, release)
    lab.map(domain, at, THERE, PAGE)
    says = answer(lab, "map", domain, at, ELSEWHERE, PAGE)
    stands = {THERE: "old", ELSEWHERE: "new"}[where(lab, domain, at)]
    assert (says, stands) == OVER[driver, release]


@pytest.mark.parametrize("driver", ["intel", "arm-smmu", "exynos"])
def test_some_drivers_warn_of_a_second_mapping(driver):
    lab, domain, at = attached(driver)
    lab.map(domain, at, THERE, PAGE)
    answer(lab, "map", domain, at, ELSEWHERE, PAGE)
    assert warnings(lab)


@pytest.mark.parametrize("driver", ["arm-smmu-v3", "ipmmu-vmsa", "mtk", "msm"])
def test_a_large_page_over_live_small_ones_frees_their_table_on_arm_without_a_word(driver):
    lab, domain, at = attached(driver)
    lab.map(domain, at + 0x3000, THERE, 0x1000)
    assert lab.map(domain, at, 0x8020_0000, LARGE) == 0
    assert where(lab, domain, at + 0x3000) == 0x8020_3000
    assert answer(lab, "map", domain, at + 0x3000, THERE, 0x1000) == "EEXIST"


HOLES = {
    ("arm-smmu", "6.0"): 0,
    ("mtk", "6.0"): 0,
    ("msm", "6.0"): 0,
    ("apple-dart", "6.0"): 0,
    ("rockchip", "6.0"): 0,
    ("sun50i", "6.0"): 0,
    ("tegra-smmu", "6.0"): 0,
    ("omap", "6.0"): 0,
    ("s390", "6.0"): 0,
    ("s390", "6.2"): PAGE,
    ("sprd", "6.0"): 0,
    ("sprd", "6.2"): PAGE,
    ("virtio", "6.0"): 0,
    ("fsl_pamu", "6.0"): 0,
    ("riscv", "7.2"): 0,
    ("intel", "7.2"): 0,
    ("exynos", "6.0"): PAGE,
    ("tegra-gart", "6.0"): PAGE,
    ("mtk_v1", "6.0"): PAGE,
}


@pytest.mark.parametrize(("driver", "release"), HOLES)
def test_a_hole_counts_as_unmapped_or_stops_the_unmap(driver, release):
    lab, domain, at = attached(driver, release)
    assert lab.unmap(domain, at, PAGE) == HOLES[driver, release]


@pytest.mark.parametrize(
    ("driver", "release"), [("amd", "6.0"), ("intel", "6.0"), ("intel", "6.12")]
)
def test_a_hole_counts_for_the_level_at_which_the_walk_ends(driver, release):
    lab, domain, at = attached(driver, release)
    lab.map(domain, at, THERE, 0x1000)
    assert lab.unmap(domain, at + 0x1000, 0x1000) == 0x1000
    assert lab.unmap(domain, at + LARGE, 0x1000) == LARGE
    assert lab.unmap(domain, at + 0x4000_0000, 0x1000) == 0x4000_0000


def test_amd_counts_a_hole_from_6_1_only_where_a_table_of_small_pages_stands():
    lab, domain, at = attached("amd", "6.1")
    assert lab.unmap(domain, at, 0x1000) == 0
    lab.map(domain, at, THERE, 0x1000)
    assert lab.unmap(domain, at + 0x1000, 0x1000) == 0x1000
    lab.unmap(domain, at, 0x1000)
    assert lab.unmap(domain, at, 0x1000) == 0x1000  # emptied, and still there


def test_up_to_6_0_an_unmap_above_amds_table_takes_what_is_at_address_0():
    lab, domain, _ = attached("amd", "6.0")
    lab.map(domain, 0, THERE, 0x1000)
    lab.map(domain, 0x1000, ELSEWHERE, 0x1000)
    assert lab.unmap(domain, 2**40, 0x1000) == 0x1000
    assert [where(lab, domain, a) for a in (0, 0x1000)] == [0, ELSEWHERE]
    lab.map(domain, 2**40, THERE, 0x1000)  # and now the table is as high as that
    assert lab.unmap(domain, 2**40 + 0x1000, 0x1000) == 0x1000
    assert where(lab, domain, 0x1000) == ELSEWHERE


def test_until_6_2_the_first_page_of_a_chunk_decides_for_the_rest_on_s390():
    lab, domain, at = attached("s390")
    lab.map(domain, at + 0x1000, THERE, 0x1000)
    assert lab.unmap(domain, at, 0x2000) == 0
    assert where(lab, domain, at + 0x1000) == THERE
    lab.map(domain, at, THERE, 0x1000)
    assert lab.unmap(domain, at, 0x2000) == 0x2000
    assert where(lab, domain, at + 0x1000) == 0


def test_from_6_2_an_unmap_on_s390_makes_the_tables_it_misses_and_counts_the_hole():
    lab, domain, at = attached("s390", "6.2")
    lab.map(domain, at + 0x2000, THERE, 0x1000)
    assert lab.unmap(domain, at, 0x4000) == 0x4000
    assert where(lab, domain, at + 0x2000) == 0


def test_an_unmap_stops_at_the_first_hole_and_says_how_far_it_came():
    lab, domain, at = attached("arm-smmu-v3")
    lab.map(domain, at, THERE, 0x2000)
    lab.map(domain, at + 0x3000, THERE, 0x1000)
    assert lab.unmap(domain, at, 0x4000) == 0x2000
    assert where(lab, domain, at + 0x3000) == THERE
    assert set(warnings(lab)) == {"drivers/iommu/io-pgtable-arm.c: arm_lpae_map_pages"}


def test_a_whole_table_goes_with_its_holes_when_a_large_page_is_asked_for():
    lab, domain, at = attached("arm-smmu-v3")
    lab.map(domain, at + 0x5000, THERE, 0x1000)
    assert lab.unmap(domain, at, LARGE) == LARGE
    assert where(lab, domain, at + 0x5000) == 0


PARTS = {
    ("arm-smmu-v3", "6.0"): (0x1000, "part"),
    ("arm-smmu-v3", "6.12"): (0x1000, "part"),
    ("arm-smmu-v3", "7.2"): (0, "nothing"),
    ("amd", "6.0"): (LARGE, "all"),
    ("amd", "6.1"): (LARGE, "all"),
    ("amd", "7.2"): (LARGE, "all"),
    ("intel", "6.0"): (LARGE, "all"),
    ("ipmmu-vmsa", "6.0"): (0x1000, "part"),
    ("qcom_iommu", "7.2"): (0x1000, "part"),
    ("ipmmu-vmsa", "7.2"): (0, "nothing"),
    ("mtk", "6.0"): (0x1000, "part"),
    ("mtk", "7.2"): (0, "nothing"),
    ("msm", "6.12"): (0x1000, "part"),
    ("exynos", "6.0"): (0, "nothing"),
    ("omap", "6.0"): (0x10_0000, "part"),
    ("sun50i", "6.0"): (0x1000, "part"),
    ("sprd", "6.2"): (0x1000, "part"),
    ("riscv", "7.2"): (LARGE, "all"),
    ("rockchip", "6.0"): (0x1000, "part"),
    ("s390", "6.0"): (0x1000, "part"),
    ("virtio", "6.0"): (LARGE, "all"),
}


@pytest.mark.parametrize(("driver", "release"), PARTS)
def test_the_start_of_a_large_mapping_goes_alone_or_takes_the_rest_along(driver, release):
    lab, domain, at = attached(driver, release)
    lab.map(domain, at, 0x8020_0000, LARGE)
    done = lab.unmap(domain, at, 0x1000)
    left = [where(lab, domain, at + offset) != 0 for offset in (0, LARGE - 0x1000)]
    gone = {(False, True): "part", (False, False): "all", (True, True): "nothing"}[tuple(left)]
    assert (done, gone) == PARTS[driver, release]


def test_small_pages_are_taken_away_one_by_one_wherever_they_lie():
    lab, domain, at = attached("amd")
    for i in range(4):
        lab.map(domain, at + i * 0x1000, THERE + i * 0x10_0000, 0x1000)
    assert lab.unmap(domain, at + 0x1000, 0x1000) == 0x1000
    assert [where(lab, domain, at + i * 0x1000) != 0 for i in range(4)] == [True, False, True, True]


def test_a_virtio_device_is_not_asked_to_split_a_mapping():
    lab, domain, at = attached("virtio")
    lab.map(domain, at, 0x8020_0000, LARGE)
    assert lab.unmap(domain, at + 0x1000, 0x1000) == 0
    assert where(lab, domain, at) == 0x8020_0000


def test_a_virtio_device_refuses_a_second_mapping_and_the_driver_forgets_the_first():
    lab, domain, at = attached("virtio")
    lab.map(domain, at, THERE, 0x1000)
    assert answer(lab, "map", domain, at, ELSEWHERE, 0x1000) == "EINVAL"
    assert where(lab, domain, at) == 0
    assert table_of(lab, domain).lookup(at) == (THERE, 3)


def test_exynos_refuses_to_take_a_part_of_a_large_page_and_warns():
    lab, domain, at = attached("exynos")
    lab.map(domain, at, 0x8010_0000, 0x10_0000)
    assert lab.unmap(domain, at, 0x1000) == 0
    assert warnings(lab)
    assert where(lab, domain, at) == 0x8010_0000


def test_intel_takes_a_superpage_that_it_should_split_for_a_table_and_writes_into_memory():
    lab, domain, at = attached("intel")
    lab.map(domain, at, 0x8020_0000, LARGE)
    lab.map(domain, at + 0x1000, ELSEWHERE, 0x1000)
    note = lab.moments[-1].events[0]
    assert (note.kind, note.paddr) == ("note", 0x8020_0000)
    assert where(lab, domain, at + 0x1000) == 0x8020_1000


def test_intel_writes_into_memory_when_it_is_to_unmap_the_inside_of_a_superpage():
    lab, domain, at = attached("intel")
    lab.map(domain, at, 0x8020_0000, LARGE)
    lab.unmap(domain, at + 0x1000, 0x1000)
    note = lab.moments[-1].events[0]
    assert (note.kind, note.paddr) == ("note", 0x8020_0000)
    assert where(lab, domain, at + 0x1000) == 0x8020_1000


def test_generic_pt_removes_a_page_whole_or_not_at_all():
    lab, domain, at = attached("intel", "7.2")
    lab.map(domain, at, 0x8020_0000, LARGE)
    assert lab.unmap(domain, at + 0x1000, 0x1000) == 0
    assert lab.unmap(domain, at, 0x1000) == LARGE


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "release", "says"),
    [
        ("arm-smmu", "6.0", "ERANGE"),
        ("ipmmu-vmsa", "6.0", "ERANGE"),
        ("mtk", "6.0", "ERANGE"),
        ("intel", "6.0", "EFAULT"),
        ("s390", "6.2", "EINVAL"),
        ("sprd", "6.0", "EINVAL"),
        ("tegra-gart", "6.0", "EINVAL"),
        ("riscv", "7.2", "ERANGE"),
        ("amd", "6.0", 0),
        ("apple-dart", "6.12", 0),
    ],
)
def test_a_mapping_beyond_the_aperture_is_the_drivers_affair(driver, release, says):
    machine = replace(Lab(release, driver).machine, width=39)
    lab = Lab(release, driver, machine)
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    last = lab.state.domains[domain].last
    beyond = last + 1 if last < 2**64 - 1 else 2**60
    assert answer(lab, "map", domain, beyond, THERE, PAGE) == says


def test_up_to_6_1_the_last_page_of_an_s390_aperture_can_not_be_mapped():
    for release, says in (("6.1", "EINVAL"), ("6.2", 0)):
        lab, domain, _ = attached("s390", release)
        last = lab.state.domains[domain].last
        assert answer(lab, "map", domain, last + 1 - 0x1000, THERE, 0x1000) == says


def test_intel_stops_the_machine_for_an_unmap_beyond_the_width_until_6_4():
    for release, says in (("6.3", "crash"), ("6.4", 0)):
        machine = replace(Lab(release, "intel").machine, width=39)
        lab = Lab(release, "intel", machine)
        domain = lab.alloc_domain()
        lab.attach_device(domain, "dev0")
        assert answer(lab, "unmap", domain, 2**45, 0x1000) == says


def test_the_topmost_page_of_all_is_refused_by_another_test_of_intels():
    machine = replace(Lab("6.1", "intel").machine, width=39)
    lab = Lab("6.1", "intel", machine)
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    assert answer(lab, "map", domain, 2**64 - 0x2000, THERE, 0x1000) == "EFAULT"
    assert answer(lab, "map", domain, 2**64 - 0x1000, THERE, 0x1000) == "EINVAL"


def test_an_intel_unmap_that_ends_beyond_the_width_is_a_bug_and_later_leaves_all_and_counts_it():
    for release, says in (("6.3", "crash"), ("6.4", 0x2000)):
        machine = replace(Lab(release, "intel").machine, width=39)
        lab = Lab(release, "intel", machine)
        domain = lab.alloc_domain()
        lab.attach_device(domain, "dev0")
        last = 2**39 - 0x1000
        lab.map(domain, last, THERE, 0x1000)
        assert answer(lab, "unmap", domain, last, 0x2000) == says
        assert where(lab, domain, last) == THERE


@pytest.mark.parametrize("driver", ["exynos", "rockchip", "sun50i", "tegra-smmu", "omap"])
def test_drivers_of_32_bits_cut_an_address_and_map_another(driver):
    lab, domain, _ = attached(driver)
    assert lab.map(domain, LOW32 + 1 + 0x40_0000, THERE, 0x1000) == 0
    assert where(lab, domain, 0x40_0000) == THERE


@pytest.mark.parametrize(
    ("driver", "release", "says"),
    [
        ("sun50i", "6.0", 0),
        ("sun50i", "6.12", "EINVAL"),
        ("qcom_iommu", "6.0", "ERANGE"),
        ("apple-dart", "6.0", "ERANGE"),
    ],
)
def test_a_physical_address_with_too_many_bits_is_refused_or_cut(driver, release, says):
    lab, domain, at = attached(driver, release)
    assert answer(lab, "map", domain, at, 2**45, PAGE) == says
    if not says:
        assert table_of(lab, domain).paddr[0] == 0


def test_sprd_says_nothing_was_unmapped_though_it_was_until_6_2():
    for release, says in (("6.1", 0), ("6.2", 0x2000)):
        lab, domain, at = attached("sprd", release)
        lab.map(domain, at, THERE, 0x2000)
        assert lab.unmap(domain, at, 0x2000) == says
        assert where(lab, domain, at) == 0


def test_sprd_gives_back_an_errno_as_a_size_for_an_unmap_out_of_range():
    lab, domain, _ = attached("sprd", "6.0")
    assert lab.unmap(domain, 2**50, 0x1000) == 2**64 - 22


# -- before an attach, after one, and without rights ----------------------------------------------

BEFORE = {
    "amd": 0,
    "intel": 0,
    "exynos": 0,
    "rockchip": 0,
    "tegra-gart": 0,
    "arm-smmu": "ENODEV",
    "arm-smmu-v3": "ENODEV",
    "qcom_iommu": "ENODEV",
    "apple-dart": "ENODEV",
    "sprd": "EINVAL",
    "omap": "EINVAL",
    "s390": "EINVAL",
    "virtio": "EINVAL",
    "ipmmu-vmsa": "crash",
    "msm": "crash",
    "mtk": "crash",
    "sun50i": "crash",
    "tegra-smmu": "crash",
}


@pytest.mark.parametrize("driver", BEFORE)
def test_mapping_before_the_first_attach_works_or_is_refused_or_crashes(driver):
    lab = Lab("6.0", driver)
    domain = lab.alloc_domain()
    assert answer(lab, "map", domain, 0x5800_0000, THERE, PAGE) == BEFORE[driver]


@pytest.mark.parametrize(
    ("driver", "refuses", "works"),
    [
        ("arm-smmu-v3", "6.7", "6.12"),  # arm_smmu_domain_alloc_paging
        ("apple-dart", "6.7", "6.12"),  # apple_dart_domain_alloc_paging
        ("virtio", "6.12", "7.2"),  # viommu_domain_alloc_paging
        ("s390", "6.1", "6.2"),  # s390_domain_alloc sets the aperture
    ],
)
def test_a_domain_that_is_made_for_a_device_can_be_mapped_before_its_first_attach(
    driver, refuses, works
):
    before, since = Lab(refuses, driver), Lab(works, driver)
    at = 0x1_1000_0000 if driver == "s390" else 0x5800_0000
    for lab, errno in ((before, BEFORE[driver]), (since, 0)):
        domain = lab.alloc_domain()
        assert answer(lab, "map", domain, at, THERE, 0x4000) == errno
    assert since.iova_to_phys("dom1", at) == THERE
    since.attach_device("dom1", "dev0")
    reach = since.check({"device": "dev0", "iova": [at], "size": 4, "write": True})
    assert reach.loc[0, "paddr"] == THERE
    assert since.unmap("dom1", at, 0x4000) == 0x4000


def test_in_5_10_a_refused_map_of_an_unattached_smmuv3_domain_is_undone_by_a_flush_that_crashes():
    lab = Lab("5.10", "arm-smmu-v3")
    domain = lab.alloc_domain()
    with pytest.raises(KernelCrash, match="arm_smmu_iotlb_sync"):
        lab.map(domain, 0x5800_0000, THERE, PAGE)
    lab = Lab("5.15", "arm-smmu-v3")
    assert answer(lab, "map", lab.alloc_domain(), 0x5800_0000, THERE, PAGE) == "ENODEV"


NOT_READY = {
    "arm-smmu": (0, 0),
    "arm-smmu-v3": (0, 0),
    "qcom_iommu": (0, 0),
    "apple-dart": ("crash", 0),  # apple_dart_unmap_pages follows its pgtbl_ops unseen
    "s390": (0, 0),
    "virtio": (0, 0),
    "sun50i": (0, 0),
    "tegra-smmu": (0, 0),
    "omap": (0, "crash"),
    "sprd": ("crash", "crash"),
    "ipmmu-vmsa": ("crash", "crash"),
    "msm": ("crash", "crash"),
    "mtk": ("crash", "crash"),
}


@pytest.mark.parametrize("driver", NOT_READY)
def test_a_domain_that_was_never_attached_has_nothing_to_give_or_crashes(driver):
    lab = Lab("6.0", driver)
    domain = lab.alloc_domain()
    asked = ("unmap", 0x5800_0000, PAGE), ("iova_to_phys", 0x5800_0000)
    assert tuple(answer(lab, verb, domain, *at) for verb, *at in asked) == NOT_READY[driver]


def test_mtk_5_10_makes_its_table_with_the_domain():
    lab = Lab("5.10", "mtk")
    domain = lab.believed_domain(0).name if lab.believed_domain(0) else lab.alloc_domain("dma")
    assert answer(lab, "map", domain, 0x40_0000, THERE, 0x1000) == 0


@pytest.mark.parametrize(
    ("driver", "release", "says"),
    [
        ("arm-smmu-v3", "5.10", 0),
        ("arm-smmu-v3", "5.15", "crash"),
        ("arm-smmu-v3", "6.0", "crash"),
        ("arm-smmu-v3", "6.1.192", "EINVAL"),
        ("arm-smmu-v3", "6.7", "crash"),
        ("arm-smmu-v3", "6.12", "EINVAL"),
        ("qcom_iommu", "6.0", 0),
        ("qcom_iommu", "6.2", "crash"),
        ("mtk", "6.0", 0),
        ("apple-dart", "6.0", "crash"),
        ("amd", "6.0", "EINVAL"),
        ("intel", "6.0", "EINVAL"),
        ("riscv", "7.2", "EINVAL"),
        ("s390", "6.0", "EINVAL"),
        ("exynos", "6.0", 0),
    ],
)
def test_a_mapping_without_rights_is_refused_or_never_ends_or_maps_nothing(driver, release, says):
    lab, domain, at = attached(driver, release)
    assert answer(lab, "map", domain, at, THERE, PAGE, "") == says
    mapped = table_of(lab, domain).lookup(at)
    assert (mapped is not None) == (driver == "exynos")


def test_s390_maps_for_reading_at_least():
    lab, domain, at = attached("s390")
    assert answer(lab, "map", domain, at, THERE, 0x1000, "w") == "EINVAL"
    assert lab.map(domain, at, THERE, 0x1000, "r") == 0


@pytest.mark.parametrize(("asked", "kept"), [("", 1), ("w", 3)])
def test_from_6_7_s390_does_not_ask_for_the_right_to_read_and_gives_it(asked, kept):
    lab, domain, at = attached("s390", "6.7")
    assert lab.map(domain, at, THERE, 0x1000, asked) == 0
    assert table_of(lab, domain).lookup(at) == (THERE, kept)
    lab, domain, at = attached("s390", "6.6")
    assert answer(lab, "map", domain, at, THERE, 0x1000, asked) == "EINVAL"


@pytest.mark.parametrize(
    ("driver", "asked", "kept"),
    [("amd", "w", 2), ("arm-smmu", "w", 3), ("intel", "w", 3), ("omap", "r", 3), ("mtk", "r", 3)],
)
def test_rights_are_kept_as_far_as_the_entries_can_hold_them(driver, asked, kept):
    lab, domain, at = attached(driver)
    lab.map(domain, at, THERE, 0x1000, asked)
    assert table_of(lab, domain).lookup(at) == (THERE, kept)


def test_omap_throws_its_table_away_when_the_device_leaves():
    lab, domain, at = attached("omap")
    lab.map(domain, at, THERE, 0x1000)
    lab.detach_device(domain, "dev0")
    lab.attach_device(domain, "dev0")
    assert where(lab, domain, at) == 0


def test_gart_has_one_table_for_every_domain_of_the_machine():
    lab = Lab("6.0", "tegra-gart")
    one, other = lab.alloc_domain(), lab.alloc_domain()
    lab.map(one, 0x5800_0000, THERE, 0x1000)
    assert where(lab, other, 0x5800_0000) == THERE


def test_a_virtio_domain_that_nobody_is_on_any_more_maps_for_ever_until_6_6():
    for release, says in (("6.0", "crash"), ("6.1.192", 0), ("6.4", "crash"), ("6.6", 0)):
        lab, domain, at = attached("virtio", release)
        lab.detach_device(domain, "dev0")
        other = lab.alloc_domain()
        lab.attach_device(other, "dev0")
        assert answer(lab, "map", domain, at, THERE, 0x1000) == says, release


def test_a_virtio_unmap_of_too_little_forgets_the_records_and_leaves_the_device_mapped():
    lab, domain, at = attached("virtio")
    lab.map(domain, at, THERE, 0x1000)
    assert lab.unmap(domain, at, 0x2000) == 0
    assert where(lab, domain, at) == 0
    assert table_of(lab, domain).lookup(at) is not None
    assert lab.unmap(domain, at, 0x1000) == 0
    assert answer(lab, "map", domain, at, ELSEWHERE, 0x1000) == "EINVAL"


def test_the_first_device_of_a_virtio_domain_is_given_the_records_and_nothing_else():
    lab, domain, at = attached("virtio")
    lab.map(domain, at, THERE, 0x1000)
    lab.unmap(domain, at, 0x2000)
    lab.detach_device(domain, "dev0")
    lab.attach_device(domain, "dev0")
    assert table_of(lab, domain).lookup(at) is None


def test_fsl_pamu_gives_back_every_address_of_its_window():
    lab = Lab("6.0", "fsl_pamu")
    domain = lab.alloc_domain()
    assert where(lab, domain, 0x1234) == 0x1234
    assert where(lab, domain, 2**36) == 0


@pytest.mark.parametrize("driver", ["arm-smmu", "mtk", "apple-dart", "sprd", "omap", "virtio"])
def test_most_drivers_answer_with_the_offset_in_the_page(driver):
    lab, domain, at = attached(driver)
    lab.map(domain, at, THERE, PAGE)
    assert where(lab, domain, at + 0x123) == THERE + 0x123


@pytest.mark.parametrize("driver", ["s390", "tegra-gart", "mtk_v1"])
def test_some_drivers_answer_with_the_page_and_drop_the_offset(driver):
    lab, domain, at = attached(driver)
    lab.map(domain, at, THERE, 0x1000)
    assert where(lab, domain, at + 0x123) == THERE


def test_following_a_freed_domain_is_a_crash():
    lab = Lab("6.0", "exynos")
    default = lab.believed_domain(0).name
    lab.free_domain(default)
    for verb, *args in (("map", 0, THERE, 0x1000), ("unmap", 0, 0x1000), ("iova_to_phys", 0)):
        with pytest.raises(KernelCrash, match="freed"):
            getattr(lab, verb)(default, *args)


# -- many at once ---------------------------------------------------------------------------------

FORMATS = [
    ("arm-smmu-v3", "6.0"),
    ("arm-smmu-v3", "7.2"),
    ("mtk", "6.0"),
    ("apple-dart", "6.0"),
    ("amd", "6.0"),
    ("amd", "6.1"),
    ("amd", "7.2"),
    ("intel", "5.10"),
    ("intel", "6.12"),
    ("exynos", "6.0"),
    ("rockchip", "6.0"),
    ("sun50i", "6.12"),
    ("tegra-smmu", "6.0"),
    ("tegra-gart", "6.0"),
    ("omap", "6.0"),
    ("s390", "6.0"),
    ("s390", "6.12"),
    ("sprd", "6.0"),
    ("sprd", "6.12"),
    ("virtio", "5.10"),
    ("virtio", "6.12"),
    ("mtk_v1", "6.0"),
    ("iommufd-selftest", "6.12"),
]
STARTS = {pair: attached(*pair) for pair in FORMATS}


def start(pair: tuple[str, str]) -> tuple[Lab, str, int, int]:
    """A lab to begin with, its domain, an address at a large page's start, and the page size."""
    lab, domain, at = STARTS[pair]
    page = PAGE if pair[0] == "apple-dart" else 0x1000
    return lab.at(len(lab.steps)), domain, at - at % LARGE, page


numbers = st.sampled_from([1, 2, 3, 512, 600])
mappings = st.lists(st.tuples(st.integers(0, 1032), st.integers(0, 1100), numbers), max_size=5)


@settings(max_examples=12, deadline=None)
@example([(600, 0, 1), (0, 0, 512), (3, 7, 2)], "rw")
@example([(900, 0, 1), (3, 7, 2), (900, 4, 512)], "r")
@given(mappings, st.sampled_from(["rw", "r", "w", ""]))
@pytest.mark.parametrize("pair", FORMATS, ids="-".join)
def test_many_mappings_in_one_verb_are_those_of_the_single_verbs(pair, wanted, prot):
    together, domain, at, page = start(pair)
    single, *_ = start(pair)
    rows = [(at + i * page, THERE + p * page, n * page) for i, p, n in wanted]
    for lab in (together, single):
        for row in rows[:1]:
            answer(lab, "map", domain, *row, prot)
    rows = rows[1:]
    columns = [[row[i] for row in rows] for i in range(3)]
    says = answer(together, "map_many", domain, *columns, prot)
    one_by_one: object = 0
    for row in rows:
        one_by_one = answer(single, "map", domain, *row, prot)
        if one_by_one:
            break
    assert (says if isinstance(says, str) else 0) == one_by_one
    if one_by_one != "crash":  # a crash leaves a verb's state behind, and the many are one verb
        assert together.state.hardware.tables == single.state.hardware.tables


MANNERS = {
    ("arm-smmu-v3", "6.0"): ("EEXIST", "stop"),
    ("apple-dart", "6.12"): ("EEXIST", "stop"),
    ("mtk", "6.0"): ("EEXIST", "stop"),
    ("mtk_v1", "6.0"): ("EEXIST", "go on"),
    ("exynos", "6.0"): ("EADDRINUSE", "go on"),
    ("rockchip", "6.0"): ("EADDRINUSE", "stop"),
    ("sun50i", "6.0"): ("EBUSY", "stop"),
    ("tegra-smmu", "6.0"): ("new", "stop"),
    ("tegra-gart", "6.0"): ("new", "go on"),
    ("omap", "6.0"): ("new", "go on"),
    ("sprd", "6.12"): ("new", "go on"),
    ("amd", "7.2"): ("EADDRINUSE", "stop"),
    ("intel", "7.2"): ("EADDRINUSE", "stop"),
    ("intel", "6.0"): ("old", "go on"),
}
"""What a second mapping gets, or which of the two stands; what an unmap does at a hole."""
STARTS |= {pair: attached(*pair) for pair in MANNERS if pair not in STARTS}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(*(st.integers(0, most) for most in (1, 9, 9)), numbers), max_size=9))
@pytest.mark.parametrize("pair", MANNERS, ids="-".join)
def test_single_pages_are_a_dictionary_with_its_drivers_manners(pair, steps):
    second, hole = MANNERS[pair]
    lab, domain, at, page = start(pair)
    lab.map(domain, at + 20 * page, THERE, page)  # so that there is a table for small pages
    there: dict[int, int] = {}
    for maps, first, to, count in steps:
        for number in range(first, first + min(count, 4)):
            if maps:
                says = answer(lab, "map", domain, at + number * page, THERE + to * page, page)
                refused = number in there and second not in ("new", "old")
                assert says == (second if refused else 0)
                if number not in there or second == "new":
                    there[number] = to
        if not maps:
            count = min(count, 4)
            lab.unmap(domain, at + first * page, count * page)
            for number in range(first, first + count):
                if number not in there and hole == "stop":
                    break
                there.pop(number, None)
    found = {number: where(lab, domain, at + number * page) for number in range(14)}
    assert {n: (paddr - THERE) // page for n, paddr in found.items() if paddr} == there


# -- measured -------------------------------------------------------------------------------------

KERNELS = {"5.10": "5.10.262", "6.1": "6.1.192", "6.12": "6.12.117", "7.x": "7.2.13"}
DRIVERS = {"amd": "amd", "intel": "intel", "arm64": "arm-smmu-v3", "s390x": "s390"}
MEASURED = sorted(CAPTURES.glob("attachlab-*-maps*.log"))


def as_measured(log: Path) -> Lab:
    """A lab like the machine of the log; intel's and s390's limits are the emulators'."""
    _, kernel, machine, *_ = log.stem.split("-")
    release, name = KERNELS[kernel], DRIVERS[machine]
    limits = replace(
        Lab(release, name).machine,
        width=39 if name == "intel" else 64,
        caching_mode=name == "intel",
    )
    row = find_driver(name, release)
    end = re.search(r" end_dma=(0x[0-9a-f]+)", log.read_text(encoding="utf-8"))
    return Lab(release, replace(row, last=int(end[1], 16)) if end else row, limits)


@pytest.mark.parametrize("log", MEASURED, ids=lambda log: log.stem)
def test_every_call_on_a_page_table_answers_as_it_was_measured(log):
    lab = as_measured(log)
    domain, different, calls = lab.alloc_domain(), [], 0
    for line in log.read_text(encoding="utf-8").splitlines():
        found = re.search(r"call=iommu_(\w+) args=D3,?(\S*).* rc=(\S+)", line)
        if not found or found[3] in ("void", "ptr"):
            continue
        words = (word.partition("=") for word in found[2].split(",") if "=" in word)
        at = {key: int(value, 0) for key, _, value in words}
        said: object
        if found[1] == "attach_device":
            said = answer(lab, "attach_device", domain, "dev0")
        elif found[1] == "map":
            prot = ["", "r", "w", "rw"][at["prot"] & 3]
            said = answer(lab, "map", domain, at["iova"], at["pa"], at["size"], prot)
            if isinstance(said, str):
                said = -ERRNOS[said]
        elif found[1] == "unmap":
            said = lab.unmap(domain, at["iova"], at["size"])
        elif found[1] == "iova_to_phys":
            said = lab.iova_to_phys(domain, at["iova"])
        else:
            continue
        calls += 1
        if said != int(found[3], 0):
            different.append((line, said))
    assert not different
    assert calls > 50  # a kernel may have stopped on the way


def test_there_are_measurements_of_four_drivers():
    assert {DRIVERS[log.stem.split("-")[2]] for log in MEASURED} == set(DRIVERS.values())


# -- the table of formats -------------------------------------------------------------------------


def test_every_format_row_uses_words_that_are_functions_here():
    with open(datafile("drivers", "pagetables.csv"), newline="", encoding="utf-8") as file:
        formats = list(csv.DictReader(file))
    for row in formats:
        assert row["release"] in known()
        assert row["map"] in {*MAP, "none"}
        assert row["unmap"] in {*UNMAP, "none"}
        assert row["rights"] in {*RIGHTS, ""}
        assert row["function"]


READ_BY = {
    "errno": ("map", {"refuse", "records"}),
    "inside": ("map", {"replace"}),
    "below": ("map", {"refuse"}),
    "hole": ("unmap", {"entry", "range"}),
    "part": ("unmap", {"walk", "entry"}),
    "bare": ("unmap", {"walk", "entry", "range-up"}),
}
"""Which ways to map or unmap look at a word."""


def test_a_word_stands_only_where_a_function_reads_it():
    with open(datafile("drivers", "pagetables.csv"), newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for word, (verb, readers) in READ_BY.items():
                assert not row[word] or row[verb] in readers, (row["pagetable"], word)
            assert row["unmap"] != "range" or row["hole"] in ("", "zero-always")


def test_a_table_that_is_there_before_an_attach_is_there_for_every_call():
    with open(datafile("drivers", "pagetables.csv"), newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            calls = {row[f"before_{call}"] == "works" for call in ("map", "unmap", "lookup")}
            assert len(calls) == 1, (row["pagetable"], row["driver"], row["release"])


def test_every_driver_of_every_release_has_a_page_table_format():
    for release in releases():
        for row in rows(release):
            lab = Lab(release, row["driver"])
            if "UNMANAGED" in row["accepts"].split():
                assert lab.alloc_domain() == "dom1"


@pytest.mark.parametrize(
    ("verb", "driver"), [("map", "omap"), ("unmap", "exynos"), ("unmap", "amd")]
)
def test_a_call_of_endless_length_is_refused_in_words_and_changes_nothing(verb, driver):
    lab = Lab("6.0", driver)
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    before = lab.state
    args = (0, 0, 2**62) if verb == "map" else (0, 2**62)
    with pytest.raises(ValueError, match=r"at most 100,000 pieces of one call"):
        getattr(lab, verb)(domain, *args)
    assert lab.state == before
