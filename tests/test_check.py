"""Do the checks take any answer, accept the right one, and say what a wrong one tells?"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import iommu_lab as il
from iommu_lab import check
from iommu_lab.lab import Lab

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
CHECKS = [getattr(check, name) for name in check.__all__ if name != "Feedback"]
every_check = pytest.mark.parametrize("asked", CHECKS, ids=lambda f: f.__name__)

DEAD_ON_ARM64 = {
    *("apple-dart", "qcom_iommu", "exynos", "ipmmu-vmsa"),
    *("mtk", "rockchip", "sprd", "sun50i"),
}
IN_NAME_ONLY = {"qcom_iommu", "exynos", "ipmmu-vmsa", "rockchip"}
CHIPSET = {"0000:00:1f.0", "0000:00:1f.2", "0000:00:1f.3"}


def claimed(driver, release="patch-v2", **where) -> Lab:
    lab = Lab(release, driver, **where)
    lab.claim_dma_owner(0, "vfio")
    return lab


def windowed(*pieces, kind="unmanaged", release="6.2") -> Lab:
    """The card's group on a new domain with these mappings: (iova, paddr, size, prot)."""
    lab = Lab(release, "intel", il.Machine.default())
    domain = lab.alloc_domain(kind)
    lab.attach_group(domain, 3)
    for iova, paddr, size, prot in pieces:
        lab.map(domain, iova, paddr, size, prot)
    return lab


READ_THREE = (0x10_0000, 0x8000_0000, 0x3000, "r")
WRITE_ONE = (0x10_3000, 0x8000_3000, 0x1000, "rw")


class Hostile:
    """An answer whose every method fails."""

    def __iter__(self):
        raise RuntimeError("no")

    def __index__(self):
        raise MemoryError("no")

    def __eq__(self, other):
        raise KeyError("no")

    def __repr__(self):
        raise OSError("no")


# -- any answer ------------------------------------------------------------------------------------


@every_check
@pytest.mark.parametrize("stub", [..., None], ids=["dots", "none"])
def test_a_stub_is_asked_for_an_answer(asked, stub):
    passed, text = asked(stub)
    assert not passed
    assert text.endswith("in place of the dots.")


@every_check
@settings(deadline=None)  # the first question makes a check ask the model
@given(
    answer=st.one_of(
        st.integers(),
        st.floats(),
        st.booleans(),
        st.text(),
        st.binary(),
        st.lists(st.one_of(st.text(), st.integers(), st.none())),
        st.dictionaries(st.text(), st.integers()),
        st.sampled_from([np.uint8(3), np.array([1, 2]), pd.Series(["amd"]), pd.DataFrame()]),
        st.sampled_from([il.DomainType.BLOCKED, il.Verdict.STALE, Lab, len, object()]),
    )
)
def test_whatever_is_typed_gets_a_sentence(asked, answer):
    said = asked(answer)
    assert said.text.endswith((".", "?"))


@every_check
def test_an_answer_whose_own_methods_fail_gets_a_sentence_too(asked):
    assert not asked(Hostile()).passed
    assert not asked([Hostile()]).passed


@every_check
def test_a_lab_of_any_shape_gets_a_sentence(asked):
    emptied = Lab("6.1", "intel")
    emptied.remove("dev0")
    elsewhere = Lab("6.1", "intel", il.Machine().having("nic", "gpu", group=7))
    for lab in (Lab("6.0", "s390"), emptied, elsewhere, Lab("7.2", "amd", cmdline="iommu=off")):
        assert not asked(lab).passed


def test_a_lab_is_not_changed_by_being_checked():
    lab = windowed(READ_THREE, WRITE_ONE)
    before = lab.moments
    check.a_window(lab)
    assert lab.moments is before


def test_feedback_says_the_same_as_text_and_as_html():
    said = check.Feedback(False, "1 < 2 & so on.")
    assert repr(said) == "Not yet. 1 < 2 & so on."
    assert said._repr_html_() == "<p><strong>Not yet.</strong> 1 &lt; 2 &amp; so on.</p>"
    assert repr(check.Feedback(True, "Yes.")).startswith("Right. ")


def test_every_check_is_asked_by_one_exercise():
    asked = []
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if "check" in cell.metadata.get("tags", []):
                asked += re.findall(r"\bcheck\.(\w+)\(", cell.source)
    assert sorted(asked) == sorted(f.__name__ for f in CHECKS)


# -- the right answers -----------------------------------------------------------------------------


def test_every_release_lets_the_detached_device_write():
    assert check.releases_that_let_it_write(len(il.releases())).passed
    assert check.releases_that_let_it_write(np.int64(len(il.releases()))).passed


def test_the_whole_chipset_goes_with_its_disk_controller():
    assert check.devices_to_take(CHIPSET).passed


def test_a_window_may_be_mapped_in_any_pieces():
    assert check.a_window(windowed(READ_THREE, WRITE_ONE)).passed
    pages = [(0x10_0000 + n * 0x1000, 0x8FF0_0000 + n * 0x1000, 0x1000, "r") for n in range(3)]
    assert check.a_window(windowed(*pages, WRITE_ONE, release="6.1")).passed


def test_dead_code_on_arm64_is_what_a_default_domain_makes_dead():
    assert check.dead_code(DEAD_ON_ARM64).passed
    for name in DEAD_ON_ARM64:
        assert not check.dead_code(DEAD_ON_ARM64 - {name}).passed


def test_one_arm64_driver_is_misjudged_by_the_core():
    passing = [n for n in il.drivers("6.0").driver if check.belief_parts_from_hardware(n).passed]
    assert passing == ["qcom_iommu"]


def test_four_arm64_drivers_would_have_been_blocked_in_name_only():
    assert check.blocked_in_name_only(IN_NAME_ONLY).passed


def test_those_four_were_really_blocked_before_the_patch():
    for name in IN_NAME_ONLY:
        lab = claimed(name, "6.0", arch="arm64")
        everywhere = [r.first for r in lab.machine.memory]
        asked = pd.DataFrame({"device": "dev0", "iova": everywhere, "size": 1, "write": False})
        assert set(lab.check(asked).reached) == {0}


def test_a_leak_may_be_built_with_any_driver_that_the_lesson_left_out():
    for name in IN_NAME_ONLY - {"exynos"}:
        assert check.a_leak(claimed(name)).passed


def test_names_come_in_any_collection_and_by_any_alias():
    for names in (
        sorted(IN_NAME_ONLY),
        tuple(IN_NAME_ONLY),
        pd.Series(sorted(IN_NAME_ONLY)),
        "qcom, exynos, ipmmu, rockchip",
        {"QCOM", "Exynos ", "ipmmu", "rockchip"},
        dict.fromkeys(IN_NAME_ONLY),
    ):
        assert check.blocked_in_name_only(names).passed


# -- what the wrong ones tell ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "answer", "hint"),
    [
        (check.releases_that_let_it_write, 0, "if detached meant blocked"),
        (check.releases_that_let_it_write, len(il.releases()) - 2, "kernels that came out"),
        (check.releases_that_let_it_write, 5000, "only"),
        (check.releases_that_let_it_write, 3, "For each release"),
        (
            check.releases_that_let_it_write,
            "fourteen",
            "wants a number of releases; yours is of type str",
        ),
        (check.releases_that_let_it_write, True, "type bool"),
        (check.devices_to_take, "0000:00:1f.2", "not alone"),
        (check.devices_to_take, CHIPSET - {"0000:00:1f.2"}, "and the disk controller itself"),
        (check.devices_to_take, CHIPSET | {"0000:00:05.0"}, "is in group 1, not 2"),
        (check.devices_to_take, ["0000:00:1f.2", "0000:00:1f.0"], "has 3 devices, you named 2"),
        (check.devices_to_take, ["sda"], "has no sda"),
        (check.devices_to_take, 2, "wants a list of device names"),
        (check.dead_code, ["amd"], "not built for 64-bit Arm"),
        (check.dead_code, ["virtio"], "virtio has no detach_dev at all"),
        (check.dead_code, ["tegra-smmu"], "so its detach_dev is called"),
        (check.dead_code, ["exynoss"], "no driver called exynoss"),
        (check.dead_code, ["exynos"], "7 more"),
        (check.belief_parts_from_hardware, ["exynos", "qcom"], "you named 2"),
        (check.belief_parts_from_hardware, "rockchip", "both say default0, as it should"),
        (check.belief_parts_from_hardware, "sprd", "it warned that the default was refused"),
        (check.belief_parts_from_hardware, "tegra-smmu", "no domain at all, which is true"),
        (check.belief_parts_from_hardware, "amd", "not built for 64-bit Arm"),
        (check.belief_parts_from_hardware, "qcom2", "no driver called qcom2"),
        (check.blocked_in_name_only, ["s390"], "not among the 64-bit Arm drivers"),
        (check.blocked_in_name_only, ["tegra-smmu"], "the claim crashes"),
        (check.blocked_in_name_only, ["apple-dart"], "the hardware really blocks"),
        (check.blocked_in_name_only, ["virtio"], "does not think of BLOCKED"),
        (check.blocked_in_name_only, ["sprd"], "the hardware says unknown, not bypass"),
        (check.blocked_in_name_only, ["exynos"], "3 more"),
        (check.a_window, 3, "wants a Lab; yours is of type int"),
        (check.a_leak, "rockchip", "wants a Lab"),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value)[:40],
)
def test_a_wrong_answer_is_told_what_it_says(asked, answer, hint):
    passed, text = asked(answer)
    assert not passed
    assert hint in text


def test_a_window_that_is_too_wide_too_narrow_or_elsewhere_is_told_so():
    def told(*pieces, **lab):
        return check.a_window(windowed(*pieces, **lab)).text

    assert "no entry there" in told()
    assert "no window" in told(kind="identity")
    assert "blocks every DMA" in told(kind="blocked")
    assert "Page 3 of the window can't be read" in told(READ_THREE)
    assert "may write all four" in told((0x10_0000, 0x8000_0000, 0x4000, "rw"))
    assert "last page can't be written" in told((0x10_0000, 0x8000_0000, 0x4000, "r"))
    assert "before or after" in told((0x0F_F000, 0x8000_0000, 0x4000, "r"), WRITE_ONE)
    assert "Page 2 may be written too" in told(
        (0x10_0000, 0x8000_0000, 0x2000, "r"), (0x10_2000, 0x8000_2000, 0x2000, "rw")
    )
    assert "reads, but from: another VM" in told(
        (0x10_0000, 0x4000_0000, 0x3000, "r"), (0x10_3000, 0x4000_3000, 0x1000, "rw")
    )
    assert "make the Lab with the default machine" in check.a_window(Lab("6.2", "intel")).text


def test_a_lab_that_does_not_leak_is_told_why():
    assert "the patch is in patch-v2" in check.a_leak(claimed("rockchip", "6.0")).text
    assert "claim the group" in check.a_leak(Lab("patch-v2", "rockchip")).text
    assert "no domain" in check.a_leak(Lab("patch-v2", "omap")).text
    assert "the hardware is blocked; nothing leaks" in check.a_leak(claimed("amd")).text
    assert "the lesson has shown exynos" in check.a_leak(claimed("exynos")).text
    still = claimed("rockchip")
    still.set_bus_master("dev0", False)
    assert "able to make DMA" in check.a_leak(still).text
