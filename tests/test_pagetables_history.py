"""Do map and unmap change in the releases in which a driver changed them, and in no other?

Each driver is asked the same questions under every release. Where the answers differ from those of
the release before stands below with its reason; the reasons were read in the trees that
``data/drivers/SOURCE.md`` names. So a word that is wrong in one release alone is a change too many.
"""

from __future__ import annotations

import pytest
from answers import answer, warnings
from test_pagetables import ELSEWHERE, LARGE, PAGE, THERE, attached, table_of

from iommu_lab.drivers import driver_names, rows
from iommu_lab.lab import Lab
from iommu_lab.releases import known
from iommu_lab.releases import release as find_release

RIGHTS = {
    "6.1.192": "a stable back-port refuses a mapping without rights (arm_lpae_map_pages)",
    "6.12": "between 6.8 and 6.12 mainline refuses it too",
}
NO_SPLIT = {"7.2": "by 6.18 a large page is no longer split (__arm_lpae_unmap, __arm_v7s_unmap)"}
NOTHING_MAPPED = "with map_pages nothing mapped means that the core asks again for ever"
CHANGES: dict[str, dict[str, str]] = {
    "amd": {
        "6.1": "a hole counts only where there is a table for small pages (iommu_v1_unmap_pages)",
        "7.2": "generic_pt in place of the driver's own format",
    },
    "intel": {
        "6.4": "beyond the table's width unmap answers 0 in place of a BUG (dma_pte_clear_range)",
        "7.2": "generic_pt in place of the driver's own format",
    },
    "apple-dart": {
        "6.1": "a file of its own, which does not test the IOVA (io-pgtable-dart.c)",
        "6.1.192": RIGHTS["6.1.192"],
        "6.12": "a domain that is made for a device has its table at once; rights are tested",
    },
    "arm-smmu-v3": {"5.15": NOTHING_MAPPED, **RIGHTS, **NO_SPLIT},
    "arm-smmu": {"5.15": NOTHING_MAPPED, **RIGHTS, **NO_SPLIT},
    "qcom_iommu": {"6.2": NOTHING_MAPPED, **RIGHTS},
    "ipmmu-vmsa": {"6.2": NOTHING_MAPPED, **RIGHTS, **NO_SPLIT},
    "msm": {"6.2": NOTHING_MAPPED, **RIGHTS, **NO_SPLIT},
    "mtk": {"6.2": NOTHING_MAPPED, **RIGHTS, **NO_SPLIT},
    "sprd": {"6.2": "unmap returns a size at last (sprd_iommu_unmap)"},
    "sun50i": {"6.12": "a physical address above 4 GiB is refused (sun50i_iommu_map)"},
    "s390": {
        "6.2": "the aperture is set with the domain; a hole counts (s390_iommu_unmap_pages)",
        "6.7": "a mapping need not ask for reading (s390_iommu_map_pages)",
    },
    "virtio": {"7.2": "a domain is made for a device (viommu_domain_alloc_paging)"},
}
ALONE = [n for n in driver_names() if n not in ("fsl_pamu", "powerpc-spapr-tce")]
"""Drivers with something to map: the two others have no map operation."""


def answers(driver: str, release: str) -> list[object]:
    """What one driver says to each question under one release, and what its table holds then."""
    found: list[object] = []
    for question in QUESTIONS:
        lab, domain, at = attached(driver, release)
        for verb, *args in question:
            shifted = [at + args[0], *args[1:]] if verb != "iova_to_phys" else [at + args[0]]
            found.append((answer(lab, verb, domain, *shifted), bool(warnings(lab))))
        found.append(list(table_of(lab, domain)))
    fresh = Lab(release, driver)
    if driver != "mtk_v1":
        fresh.alloc_domain()
        calls = ("map", THERE, PAGE), ("unmap", PAGE), ("iova_to_phys",)
        found += [answer(fresh, verb, "dom1", at, *args) for verb, *args in calls]
    return found


QUESTIONS = (
    (("map", 0, THERE, LARGE), ("map", PAGE, ELSEWHERE, PAGE), ("iova_to_phys", PAGE)),
    (("map", PAGE, THERE, PAGE), ("map", 0, ELSEWHERE, LARGE), ("iova_to_phys", PAGE)),
    (("map", 0, THERE, PAGE), ("map", 0, ELSEWHERE, PAGE), ("iova_to_phys", 8)),
    (("map", 0, THERE, LARGE), ("unmap", PAGE, PAGE), ("iova_to_phys", 0)),
    (("map", 0, THERE, PAGE), ("map", 2 * PAGE, THERE, PAGE), ("unmap", 0, 3 * PAGE)),
    (("map", 0, THERE, 2 * PAGE), ("unmap", 0, PAGE), ("unmap", 0, 2 * PAGE)),
    (("map", 0, THERE, PAGE), ("unmap", 0, PAGE), ("unmap", 0, LARGE)),
    (("map", 0, THERE, 0x4_0000), ("unmap", 0x1_0000, 0x1_0000), ("unmap", 0, 0x4_0000)),
    (("map", 0, THERE, PAGE), ("unmap", 0, LARGE), ("iova_to_phys", 0)),
    (("unmap", 0, PAGE), ("unmap", 0, LARGE), ("unmap", 0x100, PAGE), ("unmap", 0, 0x100)),
    (("map", 0x100, THERE, PAGE), ("map", 0, THERE + 0x100, PAGE), ("map", 0, THERE, 0)),
    (("map", 0, THERE, PAGE, ""), ("iova_to_phys", 0)),
    (("map", 0, THERE, PAGE, "w"), ("map", PAGE, THERE, PAGE, "r")),
    (("map", 2**58, THERE, PAGE), ("unmap", 2**58, PAGE), ("map", 2**33, THERE, PAGE)),
    (("map", 0, 2**33, PAGE), ("map", PAGE, 2**38, PAGE), ("map", 2 * PAGE, 2**45, PAGE)),
)


def has(driver: str, release: str) -> bool:
    """Does the release have the driver, and a domain of it that a caller can map?"""
    there = [row for row in rows(release) if row["driver"] == driver]
    return bool(there) and (driver == "mtk_v1" or "UNMANAGED" in there[0]["accepts"].split())


@pytest.mark.parametrize("driver", ALONE)
def test_map_and_unmap_change_where_the_driver_changed_and_nowhere_else(driver):
    there = [name for name in known() if has(driver, name)]
    said = {name: answers(driver, name) for name in there}
    before = {name: find_release(name).stands_on for name in there}
    changed = [name for name in there if before[name] in said and said[name] != said[before[name]]]
    assert set(changed) == set(CHANGES.get(driver, ()))
