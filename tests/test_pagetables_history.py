"""What does map and unmap answer, driver by driver, and in which release does the answer change?

Each driver is asked the same questions under every release that has it. ``ANSWERS`` has for each
question what the calls say, one after the other, and the releases in which that changes, and
``CHANGES`` the reason for each of these releases. Both were read in the functions named beside the
questions, in the trees that ``data/drivers/SOURCE.md`` names. So a word that is wrong in one
release alone is an answer too many.

An answer is an errno, "crash" or a size; "!" follows it where the kernel warns. A look-up says
which of the question's mappings it leads to. Where this stops: widths that depend on the hardware
are the usual ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from answers import answer, warnings
from test_pagetables import ELSEWHERE, LARGE, PAGE, THERE, table_of

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
    "mtk": {
        "5.15": "the table is made at the first attach, and holds addresses of 35 bits (cfg.oas)",
        "6.2": NOTHING_MAPPED,
        **RIGHTS,
        **NO_SPLIT,
    },
    "sprd": {"6.2": "unmap returns a size at last (sprd_iommu_unmap)"},
    "sun50i": {"6.12": "a physical address above 4 GiB is refused (sun50i_iommu_map)"},
    "s390": {
        "6.2": "the aperture is set with the domain; a hole counts (s390_iommu_unmap_pages)",
        "6.7": "a mapping need not ask for reading (s390_iommu_map_pages)",
    },
    "virtio": {
        "6.0": "without a device map_pages does not say how much it mapped (viommu_map_pages)",
        "6.1.192": "a stable back-port says it",
        "6.6": "and so does mainline",
        "7.2": "a domain is made for a device (viommu_domain_alloc_paging)",
    },
}


class Asked:
    """One driver under one release: a domain, and what it answers to one call after the other.

    Addresses are counted in pages from one that every driver can map. After a crash nothing more is
    said.
    """

    def __init__(self, driver: str, release: str, kind: str) -> None:
        self.lab, self.crashed = Lab(release, driver), False
        self.domain = "mapping" if driver == "mtk_v1" else self.lab.alloc_domain(kind)
        self.about = self.lab.state.domains[self.domain]
        self.at = self.about.first + 0x40_0000

    def attach(self) -> None:
        if self.domain != "mapping":
            self.lab.attach_device(self.domain, "dev0")
            self.about = self.lab.state.domains[self.domain]
            self.at = self.about.first + 0x40_0000

    def call(self, verb: str, *args: object) -> str:
        if self.crashed:
            return ""
        said = answer(self.lab, verb, self.domain, *args)
        self.crashed = said == "crash"
        warned = not self.crashed and bool(warnings(self.lab))
        return (f"{said:#x}" if isinstance(said, int) and said else str(said)) + "!" * warned

    def map(self, page: float, to: int, pages: float = 1, prot: str = "rw") -> str:
        return self.call("map", self.at + int(page * PAGE), to, int(pages * PAGE), prot)

    def unmap(self, page: float, pages: float = 1) -> str:
        return self.call("unmap", self.at + int(page * PAGE), int(pages * PAGE))

    def look(self, page: int) -> str:
        """The mapping that a page leads to: the first, the second, or none."""
        if self.crashed:
            return ""
        to = answer(self.lab, "iova_to_phys", self.domain, self.at + page * PAGE)
        if isinstance(to, str):
            self.crashed = True
            return to
        return "-" if not to else "second" if to >= SECOND else "first"

    def rights(self) -> str:
        """The rights that the entry has for the first page."""
        found = table_of(self.lab, self.domain).lookup(self.at)
        return "-" if found is None else ("none", "r", "w", "rw")[found[1]]

    def leave(self) -> None:
        """The device goes to another domain."""
        if self.domain != "mapping":
            self.lab.detach_device(self.domain, "dev0")
            answer(
                self.lab,
                "attach_device",
                self.lab.alloc_domain(self.about.type.name.lower()),
                "dev0",
            )

    def end(self, page: int) -> int:
        """A page, counted from the first address after the aperture."""
        return (self.about.last + 1 - self.at) // PAGE + page


Question = Callable[[Asked], tuple[str, ...]]
FIRST, SECOND, MANY = THERE, ELSEWHERE, LARGE // PAGE
QUESTIONS: dict[str, Question] = {
    # what a new entry meets: arm_lpae_init_pte, arm_v7s_init_pte, dart_init_pte, iommu_map_page,
    # __domain_mapping, lv2set_page, rk_iommu_map_iova, iopte_alloc_small, viommu_add_mapping
    "a page over a page": lambda a: (a.map(0, FIRST), a.map(0, SECOND), a.look(0)),
    "a page into a large one": lambda a: (
        *(a.map(0, FIRST, MANY), a.map(1, SECOND)),
        *(a.look(1), a.look(2)),
    ),
    "a large page over a page": lambda a: (
        *(a.map(1, FIRST), a.map(0, SECOND, MANY)),
        *(a.look(1), a.look(2)),
    ),
    # the unmap function of each driver, and __iommu_unmap, which goes on until it is told 0
    "the start of a large page": lambda a: (
        *(a.map(0, FIRST, MANY), a.unmap(0)),
        *(a.look(0), a.look(1)),
    ),
    "a part of a large page": lambda a: (
        *(a.map(0, FIRST, MANY), a.unmap(1)),
        *(a.look(1), a.look(2)),
    ),
    "a page and the holes around it": lambda a: (a.map(1, FIRST), a.unmap(0, MANY), a.look(1)),
    "a hole between two pages": lambda a: (
        *(a.map(0, FIRST), a.map(2, SECOND)),
        *(a.unmap(0, 3), a.look(2)),
    ),
    "a hole where a page was": lambda a: (
        *(a.map(0, FIRST), a.unmap(0)),
        *(a.unmap(0), a.unmap(0, MANY), a.unmap(0)),
    ),
    "a hole where nothing was": lambda a: (a.unmap(0), a.unmap(0, MANY)),
    # __iommu_map and __iommu_unmap; in 7.2 also the map_range and unmap_range of generic_pt
    "half a page": lambda a: (
        *(a.map(1 / 32, FIRST), a.map(0, FIRST, 1 / 32), a.map(0, FIRST)),
        *(a.unmap(1 / 32), a.unmap(0, 1 / 32), a.look(0)),
    ),
    "nothing": lambda a: (a.map(0, FIRST, 0), a.unmap(0, 0)),
    # how rights become an entry: arm_lpae_prot_to_pte, dart_prot_to_pte, mk_pte, rk_mk_pte ...
    "no rights": lambda a: (a.map(0, FIRST, 1, ""), a.look(0)),
    "no right to read": lambda a: (a.map(0, FIRST, 1, "w"), a.rights()),
    "no right to write": lambda a: (a.map(0, FIRST, 1, "r"), a.rights()),
    # cfg.oas and the test of it in arm_lpae_map, arm_v7s_map, dart_map_pages; sun50i_iommu_map
    "memory of 33 to 37 and 41 bits": lambda a: tuple(
        a.map(page, 1 << bit) for page, bit in enumerate((32, 33, 34, 35, 36, 40))
    ),
    # tests of the range: arm_lpae_map, domain_pfn_supported, s390_iommu_update_trans ...
    "the last page": lambda a: (a.map(a.end(-1), FIRST), a.unmap(a.end(-1))),
    "the page after the last": lambda a: (a.map(a.end(0), FIRST), a.unmap(a.end(0))),
    "the last page and the next": lambda a: (
        *(a.map(a.end(-1), FIRST), a.unmap(a.end(-1), 2)),
        a.look(a.end(-1)),
    ),
    "an address of 34 bits": lambda a: (a.map(2**33 // PAGE, FIRST), a.look(0)),
    # what the driver's finalise makes at the first attach, and what its detach takes away
    "no device any more": lambda a: (
        *(a.map(0, FIRST), a.leave() or a.map(1, SECOND)),
        *(a.look(0), a.unmap(0), a.look(0)),
    ),
}
UNATTACHED: dict[str, Question] = {
    "mapping before an attach": lambda a: (a.map(0, FIRST),),
    "unmapping before an attach": lambda a: (a.unmap(0),),
    "looking before an attach": lambda a: (a.look(0),),
}
ANSWERS: dict[str, dict[str, str]] = {
    "a page over a page": {
        "0 0 second | 7.2 0 EADDRINUSE first": "amd",
        "0 0! first | 7.2 0 EADDRINUSE first": "intel",
        "0 EEXIST! first": "apple-dart arm-smmu arm-smmu-v3 ipmmu-vmsa msm mtk qcom_iommu",
        "0 EADDRINUSE! first": "exynos",
        "0 EEXIST first": "mtk_v1",
        "0 0 second": "omap s390 sprd tegra-gart tegra-smmu",
        "0 EADDRINUSE first": "riscv rockchip vsi",
        "0 EBUSY first": "sun50i",
        "0 EINVAL -": "virtio",
        "0 0! second": "iommufd-selftest",
    },
    "a page into a large one": {
        "0 0 second - | 7.2 0 EADDRINUSE first first": "amd",
        "0 0 first first | 7.2 0 EADDRINUSE first first": "intel",
        "0 EEXIST! first first": "apple-dart arm-smmu arm-smmu-v3 ipmmu-vmsa msm mtk qcom_iommu",
        "0 EADDRINUSE! first first": "exynos",
        "0 EEXIST first first": "mtk_v1",
        "0 0 first first": "omap",
        "0 EADDRINUSE first first": "riscv rockchip vsi",
        "0 0 second first": "s390 sprd tegra-gart tegra-smmu",
        "0 EBUSY first first": "sun50i",
        "0 EINVAL first first": "virtio",
        "0 0! second first": "iommufd-selftest",
    },
    "a large page over a page": {
        "0 0 second second | 7.2 0 EADDRINUSE first -": "amd intel",
        "0 EEXIST! first -": "apple-dart qcom_iommu",
        "0 0 second second": (
            "arm-smmu arm-smmu-v3 ipmmu-vmsa msm mtk omap s390 sprd tegra-gart tegra-smmu"
        ),
        "0 EADDRINUSE! first -": "exynos",
        "0 EEXIST first -": "mtk_v1",
        "0 EADDRINUSE first -": "riscv rockchip vsi",
        "0 EBUSY first -": "sun50i",
        "0 EINVAL - -": "virtio",
        "0 0! second second": "iommufd-selftest",
    },
    "the start of a large page": {
        "0 0x200000 - -": "amd intel riscv virtio",
        "0 0x4000 - first": (
            "apple-dart mtk_v1 qcom_iommu rockchip s390 sun50i tegra-gart tegra-smmu vsi"
        ),
        "0 0x4000 - first | 7.2 0 0! first first": "arm-smmu arm-smmu-v3 ipmmu-vmsa msm mtk",
        "0 0! first first": "exynos",
        "0 0x100000 - -": "omap",
        "0 0 - first | 6.2 0 0x4000 - first": "sprd",
        "0 0x4000! - first": "iommufd-selftest",
    },
    "a part of a large page": {
        "0 0x200000 - - | 7.2 0 0 first first": "amd",
        "0 0x200000 first first | 7.2 0 0 first first": "intel",
        "0 0x4000 - first": (
            "apple-dart mtk_v1 qcom_iommu rockchip s390 sun50i tegra-gart tegra-smmu vsi"
        ),
        "0 0x4000 - first | 7.2 0 0! first first": "arm-smmu arm-smmu-v3 ipmmu-vmsa msm mtk",
        "0 0! first first": "exynos",
        "0 0x100000 - -": "omap",
        "0 0 - first | 6.2 0 0x4000 - first": "sprd",
        "0 0 first first": "riscv virtio",
        "0 0x4000! - first": "iommufd-selftest",
    },
    "a page and the holes around it": {
        "0 0x200000 - | 7.2 0 0 first": "amd intel",
        "0 0! first": "apple-dart qcom_iommu",
        "0 0x200000 -": "arm-smmu arm-smmu-v3 exynos ipmmu-vmsa mtk_v1 tegra-gart",
        "0 0x100000! -": "msm mtk",
        "0 0x8000 -": "omap",
        "0 0 first": "riscv rockchip sun50i tegra-smmu vsi",
        "0 0 - | 6.2 0 0x200000 -": "sprd",
        "0 0 first | 6.2 0 0x200000 -": "s390",
        "0 0 -": "virtio",
        "0 0x200000! -": "iommufd-selftest",
    },
    "a hole between two pages": {
        "0 0 0xc000 - | 7.2 0 0 0x4000 second": "amd intel",
        "0 0 0x4000! second": "apple-dart arm-smmu arm-smmu-v3 ipmmu-vmsa msm mtk qcom_iommu",
        "0 0 0xc000 -": "exynos mtk_v1 omap s390 tegra-gart",
        "0 0 0x4000 second": "riscv rockchip sun50i tegra-smmu vsi",
        "0 0 0 second | 6.2 0 0 0xc000 -": "sprd",
        "0 0 0 second": "virtio",
        "0 0 0xc000! -": "iommufd-selftest",
    },
    "a hole where a page was": {
        "0 0x4000 0x4000 0x200000 0x4000 | 7.2 0 0x4000 0 0 0": "amd",
        "0 0x4000 0x4000 0x200000 0x200000 | 7.2 0 0x4000 0 0 0": "intel",
        "0 0x4000 0! 0! 0!": "apple-dart qcom_iommu",
        "0 0x4000 0! 0x200000 0!": "arm-smmu arm-smmu-v3 ipmmu-vmsa",
        "0 0x4000 0x4000 0x200000 0x4000": "exynos mtk_v1 tegra-gart",
        "0 0x4000 0! 0x100000! 0!": "msm mtk",
        "0 0x4000 0 0 0": "omap riscv rockchip sun50i tegra-smmu virtio vsi",
        "0 0 0 0 0 | 6.2 0 0x4000 0x4000 0x200000 0x4000": "sprd",
        "0 0x4000 0 0 0 | 6.2 0 0x4000 0x4000 0x200000 0x4000": "s390",
        "0 0x4000 0x4000! 0x200000! 0x4000!": "iommufd-selftest",
    },
    "a hole where nothing was": {
        "0x40000000 0x40000000 | 6.1 0 0": "amd",
        "0x1000000000000 0x1000000000000 | 7.2 0 0": "intel",
        "0! 0!": "apple-dart arm-smmu arm-smmu-v3 ipmmu-vmsa msm mtk qcom_iommu",
        "0x4000 0x200000": "exynos mtk_v1 tegra-gart",
        "0 0": "omap riscv rockchip sun50i tegra-smmu virtio vsi",
        "0 0 | 6.2 0x4000 0x200000": "s390 sprd",
        "0x4000! 0x200000!": "iommufd-selftest",
    },
    "half a page": {
        "EINVAL EINVAL 0 0 0 first | 7.2 ENXIO ENXIO 0 0 0x4000 -": "amd",
        "EINVAL EINVAL 0 0 0 first | 7.2 ENXIO ENXIO 0 0 0x1000 -": "intel",
        "EINVAL EINVAL 0 0 0 first": (
            "apple-dart arm-smmu arm-smmu-v3 exynos iommufd-selftest ipmmu-vmsa msm mtk "
            "mtk_v1 omap qcom_iommu rockchip s390 sprd sun50i tegra-gart tegra-smmu virtio "
            "vsi"
        ),
        "ENXIO ENXIO 0 0 0x1000 -": "riscv",
    },
    "nothing": {
        "0 0 | 7.2 EINVAL 0": "amd intel",
        "0 0": (
            "apple-dart arm-smmu arm-smmu-v3 exynos iommufd-selftest ipmmu-vmsa msm mtk "
            "mtk_v1 omap qcom_iommu rockchip s390 sprd sun50i tegra-gart tegra-smmu virtio "
            "vsi"
        ),
        "EINVAL 0": "riscv",
    },
    "no rights": {
        "EINVAL -": "amd intel riscv",
        "crash | 6.1.192 EINVAL - | 6.12 EINVAL -": "apple-dart",
        "0 - | 5.15 crash | 6.1.192 EINVAL - | 6.12 EINVAL -": "arm-smmu arm-smmu-v3",
        "0 - | 6.1.192 EINVAL - | 6.2 crash | 6.12 EINVAL -": "ipmmu-vmsa msm mtk qcom_iommu",
        "0 first": (
            "exynos iommufd-selftest mtk_v1 omap rockchip sprd sun50i tegra-gart tegra-smmu "
            "virtio vsi"
        ),
        "EINVAL - | 6.7 0 first": "s390",
    },
    "no right to read": {
        "0 w": "amd apple-dart exynos riscv rockchip sun50i tegra-smmu virtio vsi",
        "0 rw | 7.2 0 w": "intel",
        "0 rw": (
            "arm-smmu arm-smmu-v3 iommufd-selftest ipmmu-vmsa msm mtk mtk_v1 omap "
            "qcom_iommu sprd tegra-gart"
        ),
        "EINVAL - | 6.7 0 rw": "s390",
    },
    "no right to write": {
        "0 r": (
            "amd apple-dart arm-smmu arm-smmu-v3 exynos intel ipmmu-vmsa msm qcom_iommu "
            "riscv rockchip s390 sun50i tegra-smmu virtio vsi"
        ),
        "0 rw": "iommufd-selftest mtk mtk_v1 omap sprd tegra-gart",
    },
    "memory of 33 to 37 and 41 bits": {
        "0 0 0 0 0 0": (
            "amd arm-smmu arm-smmu-v3 exynos intel iommufd-selftest mtk_v1 omap riscv "
            "rockchip s390 sprd tegra-gart tegra-smmu virtio vsi"
        ),
        "0 0 0 0 ERANGE! ERANGE!": "apple-dart",
        "0 0 0 0 0 ERANGE!": "ipmmu-vmsa qcom_iommu",
        "ERANGE! ERANGE! ERANGE! ERANGE! ERANGE! ERANGE!": "msm",
        "0 0 ERANGE! ERANGE! ERANGE! ERANGE! | 5.15 0 0 0 ERANGE! ERANGE! ERANGE!": "mtk",
        "0 0 0 0 0 0 | 6.12 EINVAL EINVAL EINVAL EINVAL EINVAL EINVAL": "sun50i",
    },
    "the last page": {
        "- | 7.2 0 0x4000": "amd",
        "0 0x4000": (
            "apple-dart arm-smmu arm-smmu-v3 intel iommufd-selftest ipmmu-vmsa msm mtk omap "
            "qcom_iommu riscv rockchip sun50i tegra-gart tegra-smmu vsi"
        ),
        "0 0 | 6.2 0 0x4000": "sprd",
        "EINVAL 0 | 6.2 0 0x4000": "s390",
    },
    "the page after the last": {
        "- | 7.2 ERANGE 0": "amd",
        "EFAULT crash | 6.4 EFAULT 0 | 7.2 ERANGE 0": "intel",
        "ERANGE! 0! | 6.1 0 0x4000": "apple-dart",
        "ERANGE! 0!": "arm-smmu arm-smmu-v3 ipmmu-vmsa msm mtk qcom_iommu",
        "0 0x4000": "iommufd-selftest omap rockchip sun50i tegra-smmu vsi",
        "EINVAL 0xffffffffffffffea | 6.2 EINVAL 0": "sprd",
        "EINVAL 0": "tegra-gart",
        "EINVAL 0 | 6.2 EINVAL 0!": "s390",
        "ERANGE 0": "riscv",
    },
    "the last page and the next": {
        "- | 7.2 0 0 first": "amd",
        "0 crash | 6.4 0 0x8000! first | 7.2 0 0 first": "intel",
        "0 0x4000! -": "apple-dart arm-smmu arm-smmu-v3 ipmmu-vmsa msm mtk qcom_iommu",
        "0 0x4000 -": "omap rockchip sun50i tegra-gart tegra-smmu vsi",
        "0 0 - | 6.2 0 0 first": "sprd",
        "EINVAL 0 - | 6.2 0 0! first": "s390",
        "0 0 first": "riscv",
        "0 0x8000! -": "iommufd-selftest",
    },
    "an address of 34 bits": {
        "0 -": "amd arm-smmu arm-smmu-v3 intel iommufd-selftest mtk_v1 riscv virtio",
        "ERANGE! - | 6.1 0 -": "apple-dart",
        "ERANGE! -": "ipmmu-vmsa msm mtk qcom_iommu",
        "0 first": "exynos omap rockchip sun50i tegra-smmu vsi",
        "EINVAL -": "sprd tegra-gart",
        "EINVAL - | 6.2 0 -": "s390",
    },
    "no device any more": {
        "0 0 first 0x4000 -": (
            "amd apple-dart arm-smmu arm-smmu-v3 exynos intel iommufd-selftest ipmmu-vmsa "
            "mtk mtk_v1 qcom_iommu riscv rockchip s390 sun50i tegra-gart vsi"
        ),
        "0 crash": "msm tegra-smmu",
        "0 EINVAL crash": "omap",
        "0 0 first 0 - | 6.2 0 0 first 0x4000 -": "sprd",
        "0 0 first 0x4000 - | 6.0 0 crash | 6.1.192 0 0 first 0x4000 - | 6.6 0 0 first 0x4000 -": (
            "virtio"
        ),
    },
    "mapping before an attach": {
        "0": "amd exynos intel iommufd-selftest riscv rockchip tegra-gart vsi",
        "ENODEV | 6.12 0": "apple-dart",
        "crash | 5.15 ENODEV | 6.12 0": "arm-smmu-v3",
        "ENODEV": "arm-smmu qcom_iommu",
        "crash": "ipmmu-vmsa msm sun50i tegra-smmu",
        "0 | 5.15 crash": "mtk",
        "EINVAL": "omap sprd",
        "EINVAL | 6.2 0": "s390",
        "EINVAL | 7.2 0": "virtio",
    },
    "unmapping before an attach": {
        "0x40000000 | 6.1 0": "amd",
        "0x1000000000000 | 7.2 0": "intel",
        "crash | 6.12 0!": "apple-dart",
        "crash | 5.15 0 | 6.12 0!": "arm-smmu-v3",
        "0": "arm-smmu omap qcom_iommu riscv rockchip sun50i tegra-smmu virtio vsi",
        "0x4000": "exynos tegra-gart",
        "crash": "ipmmu-vmsa msm sprd",
        "0! | 5.15 crash": "mtk",
        "0 | 6.2 0x4000": "s390",
        "0x4000!": "iommufd-selftest",
    },
    "looking before an attach": {
        "-": (
            "amd apple-dart arm-smmu arm-smmu-v3 exynos intel iommufd-selftest qcom_iommu "
            "riscv rockchip s390 sun50i tegra-gart tegra-smmu virtio vsi"
        ),
        "crash": "ipmmu-vmsa msm omap sprd",
        "- | 5.15 crash": "mtk",
    },
}
"""For each question: what is said, and in which release that changes; by which drivers."""
ENDS = "the last page", "the page after the last", "the last page and the next"
"""Questions for drivers whose addresses end somewhere in the middle."""
DRIVERS = [n for n in driver_names() if n not in ("fsl_pamu", "powerpc-spapr-tce")]
"""Drivers with something to map: the two others have no map operation."""


@cache
def kind(driver: str, release: str) -> str:
    """The type of domain to ask with; "" where the release has no such driver."""
    types = {row["driver"]: row["accepts"].split() for row in rows(release)}.get(driver, [])
    return next((kind.lower() for kind in ("UNMANAGED", "DMA") if kind in types), "")


def said(driver: str, release: str, question: str) -> str:
    """What one driver says to a question under one release; "-" where it can't be asked."""
    asked = Asked(driver, release, kind(driver, release))
    if question in QUESTIONS:
        asked.attach()
        if question in ENDS and not 2**24 < asked.about.last < 2**60:
            return "-"
    elif driver == "mtk_v1":
        return "-"  # its one domain is attached when its device is probed
    return " ".join(word for word in (QUESTIONS | UNATTACHED)[question](asked) if word)


def history(driver: str, question: str) -> str:
    """What a driver says at first, and then each release in which it says something else."""
    there = [name for name in known() if kind(driver, name)]
    now = {name: said(driver, name, question) for name in there}
    before = {name: find_release(name).stands_on for name in there}
    changed = [name for name in there if before[name] in now and now[name] != now[before[name]]]
    return " | ".join([now[there[0]], *(f"{name} {now[name]}" for name in changed)])


def expected(driver: str, question: str) -> str:
    found = [text for text, drivers in ANSWERS[question].items() if driver in drivers.split()]
    return found[0] if found else "-"


@pytest.mark.parametrize("driver", DRIVERS)
def test_map_and_unmap_answer_as_the_driver_does_in_every_release(driver):
    histories = {question: history(driver, question) for question in ANSWERS}
    assert histories == {question: expected(driver, question) for question in ANSWERS}


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_release_in_which_an_answer_changes_has_a_reason(driver):
    changes = {
        part.split()[0]
        for question in ANSWERS
        for part in expected(driver, question).split(" | ")[1:]
    }
    assert changes == set(CHANGES.get(driver, ()))


def test_every_question_is_answered_once_for_each_driver():
    assert set(ANSWERS) == {*QUESTIONS, *UNATTACHED}
    for question, answers in ANSWERS.items():
        drivers = " ".join(answers.values()).split()
        assert len(drivers) == len(set(drivers)), question
        assert set(drivers) <= set(DRIVERS)
