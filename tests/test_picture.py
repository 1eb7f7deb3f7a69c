"""Does the picture show what the checker says, for every address, and say the same in words?"""

from __future__ import annotations

import re
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu_lab import svg
from iommu_lab.drivers import rows as driver_rows
from iommu_lab.errors import KernelCrash, NotInRelease, UnknownName
from iommu_lab.hardware import TOP
from iommu_lab.lab import Lab
from iommu_lab.layout import Box, Flow, Text, lay_out
from iommu_lab.machine import Machine, Region
from iommu_lab.picture import MOST_STRETCHES, Extent, Fate, describe, differences
from iommu_lab.reach import reach
from iommu_lab.verdict import Verdict

PAGE = 0x1000
FATE = {
    "TRANSLATED": Fate.THROUGH,
    "PLATFORM": Fate.THROUGH,
    "IDENTITY": Fate.THROUGH,
    "STALE": Fate.MAYBE,
    "MSI": Fate.INTERRUPT,
    "UNKNOWN": Fate.UNKNOWN,
}


def row(picture, device=None, panel=0):
    device = device or picture.focus
    return next(r for r in picture.panels[panel].rows if r.device == device)


def attached(release="6.1", driver="amd", *mappings, prot="rw"):
    """A lab with one device attached to dom1, which holds these (iova, paddr, size)."""
    lab = Lab(release, driver)
    dom = lab.alloc_domain()
    lab.attach_device(dom, "dev0")
    for iova, paddr, size in mappings:
        lab.map(dom, iova, paddr, size, prot)
    return lab


def claimed(release, driver="exynos"):
    lab = Lab(release, driver)
    lab.claim_dma_owner(0, "vfio")
    return lab


def detached():
    """The mail's own example: what was mapped before attach and detach is gone."""
    lab = Lab("6.1", "s390")
    lab.dma_map("dev0", 0x8000_0000, PAGE)
    dom = lab.alloc_domain()
    lab.attach_device(dom, "dev0")
    lab.map(dom, 0x1_1000_0000, 0x8000_0000, PAGE)
    lab.detach_device(dom, "dev0")
    return lab


def checked(lab, device, iova, write):
    asked = pd.DataFrame({"device": [device], "iova": [iova], "size": [1], "write": [write]})
    return lab.check(asked).iloc[0]


# -- the strips are the checker's answers ----------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 15), st.integers(0, 2**19), st.sampled_from(["r", "w", "rw"])),
        max_size=6,
        unique_by=lambda m: m[0],
    ),
    st.integers(0, 20 * PAGE),
)
def test_any_address_fares_as_the_stretch_that_holds_it_says(mappings, iova):
    lab = attached()
    for page, frame, prot in mappings:
        lab.map("dom1", page * PAGE, frame * PAGE, PAGE, prot)
    picture = describe(lab)
    stretch = row(picture).done[picture.iova.at(iova)]
    assert stretch.first <= iova <= stretch.last
    for way, write in ((stretch.read, False), (stretch.write, True)):
        said = checked(lab, "dev0", iova, write)
        assert way.fate is FATE.get(said.verdict, Fate.STOPPED)
        if way.owner:
            assert way.owner == said.owner
            assert way.paddr + iova - stretch.first == said.paddr


@pytest.mark.parametrize("release", ["5.15", "6.0", "patch-v2", "6.3", "7.2"])
def test_what_a_device_reaches_is_what_a_walk_of_its_tables_finds(release):
    for driver in [r["driver"] for r in driver_rows(release)]:
        lab = Lab(release, driver, Machine().having("a", "b"))
        for verb in (
            lambda lab: lab.dma_map("a", 0x8000_0000, 3 * PAGE),
            lambda lab: lab.alloc_domain(),
            lambda lab: lab.attach_device("dom1", "a"),
            lambda lab: lab.map("dom1", lab.driver.first + 0x20_0000, 0x4000_0000, PAGE, "r"),
            lambda lab: lab.claim_dma_owner(1, "vfio"),
            lambda lab: lab.detach_device("dom1", "a"),
        ):
            with suppress(OSError, KernelCrash, NotInRelease, UnknownName):
                verb(lab)
            for device in ("a", "b"):
                walked = _bytes_by_region(lab, device)
                shares = row(describe(lab), device).shares
                assert [s.reached for s in shares] == walked, (driver, device, lab.steps[-1:])


def _bytes_by_region(lab, device):
    pieces = [(p.first, p.last) for p in reach(lab.state.hardware, device) if p.sure]
    found = []
    for region in lab.machine.memory:
        inside = [
            (max(first, region.first), min(last, region.last))
            for first, last in pieces
            if first <= region.last and last >= region.first
        ]
        total, before = 0, -1
        for first, last in sorted(inside):
            total += max(0, last - max(first, before + 1) + 1)
            before = max(before, last)
        found.append(total)
    return found


def test_a_hundred_thousand_mappings_fit_on_a_screen_and_no_byte_is_lost():
    lab = attached(driver="intel")
    n = 100_000
    pages = np.arange(n)
    lab.map_many("dom1", pages * 2 * PAGE, 0x8000_0000 + pages % 0x1000 * PAGE, np.full(n, PAGE))
    picture = describe(lab)
    assert len(picture.iova.starts) <= MOST_STRETCHES + 3
    assert sum(stretch.read.reached for stretch in row(picture).done) == n * PAGE
    assert {s.region.owner: s.reached for s in row(picture).shares}["driver buffer"] == 2**24


def test_memory_changes_hands_at_the_very_byte():
    memory = (Region(0x8000_0000, 0x8000_0FFE, "mine"), Region(0x8000_0FFF, 0x8000_1FFF, "yours"))
    lab = Lab("6.1", "amd", Machine(memory=memory))
    lab.alloc_domain()
    lab.attach_device("dom1", "dev0")
    lab.map("dom1", PAGE, 0x8000_0000, PAGE)
    found = row(describe(lab))
    assert [s.reached for s in found.shares] == [0xFFF, 1]
    assert [s.read.owner for s in found.done] == ["", "mine", "yours", ""]


def test_a_read_only_page_is_drawn_in_the_upper_half_alone():
    lab = attached("6.1", "amd", (PAGE, 0x8000_0000, PAGE), prot="r")
    done = row(describe(lab)).done
    assert (done[1].read.fate, done[1].write.fate) == (Fate.THROUGH, Fate.STOPPED)
    assert describe(lab).says.endswith("dev0 can read, not write, 4 KiB of driver buffer.")


def test_a_page_that_the_iotlb_may_remember_is_perhaps_in_reach_until_it_is_flushed():
    lab = Lab("6.1", "intel")
    iova = lab.dma_map("dev0", 0x8000_0000, PAGE)
    lab.dma_unmap("dev0", iova, PAGE)
    before = row(describe(lab))
    lab.advance(20)
    after = row(describe(lab))
    assert "perhaps 4 KiB of driver buffer" in before.reaches
    assert before.agrees is False  # the core takes it to be gone
    assert {s.read.fate for s in before.believed} == {Fate.STOPPED}
    assert after.reaches == "reaches nothing"


def test_a_write_to_the_interrupt_window_is_an_interrupt_and_reaches_no_memory():
    picture = describe(Lab("6.1", "intel"))
    stretch = row(picture).done[picture.iova.at(0xFEE0_0000)]
    assert (stretch.read.fate, stretch.write.fate) == (Fate.STOPPED, Fate.INTERRUPT)
    assert row(picture).does is Extent.NOTHING


# -- belief beside hardware ------------------------------------------------------------------------


def test_under_the_patch_a_blocked_exynos_reaches_everything():
    old, patched = row(describe(claimed("6.0"))), row(describe(claimed("patch-v2")))
    assert (old.agrees, old.believes, old.does) == (True, Extent.NOTHING, Extent.NOTHING)
    assert (patched.agrees, patched.believes, patched.does) == (
        False,
        Extent.NOTHING,
        Extent.ALL,
    )


def test_the_same_addresses_that_lead_elsewhere_are_no_agreement():
    lab = Lab("6.0", "qcom")  # its second attach of a domain programs nothing
    for dom, paddr in (("dom1", 0x8000_0000), ("dom2", 0x9000_0000)):
        lab.alloc_domain()
        lab.attach_device(dom, "dev0")
        lab.map(dom, PAGE, paddr, PAGE)
        lab.detach_device(dom, "dev0")
    lab.attach_device("dom1", "dev0")
    found = row(describe(lab))
    assert found.believed[1].read.paddr == 0x8000_0000
    assert found.done[1].read.paddr == 0x9000_0000
    assert found.agrees is False


def test_null_says_nothing_of_what_gets_through():
    after = row(describe(detached()))
    assert (after.belief.word, after.believed, after.agrees) == ("NULL", None, None)
    assert after.reaches == "reaches nothing"


def test_a_device_without_an_iommu_is_in_no_group():
    lab = Lab("6.1", "intel", Machine(no_iommu=("dev0",)))
    found = row(describe(lab))
    assert found.group is None
    assert found.belief.word == "no group"
    assert found.does is Extent.ALL


def test_a_device_that_may_not_start_dma_reaches_nothing_and_says_why():
    lab = Lab("6.1", "intel", cmdline="iommu=pt")
    lab.set_bus_master("dev0", False)
    assert row(describe(lab)).reaches == "makes no DMA, since its bus-master bit is off"


def test_devices_in_other_groups_get_a_word():
    lab = Lab("6.0", "exynos", Machine().having("nic", "gpu", "disk")).under("patch-v2")
    lab.claim_dma_owner(0, "vfio")
    assert "Each of the other 2 devices reaches nothing." in describe(lab, device="nic").says
    assert "Of the other 2 devices, 1 reaches memory." in describe(lab, device="disk").says


# -- one story, one scale --------------------------------------------------------------------------


def test_the_axes_are_the_same_at_every_moment_of_a_story():
    lab = detached()
    pictures = [describe(lab, at=step) for step in range(len(lab.moments))]
    assert len({(p.iova, p.memory) for p in pictures}) == 1


def test_an_axis_begins_at_0_ends_at_the_top_and_never_goes_back():
    picture = describe(detached(), beside="patch-v2")
    for axis in (picture.iova, picture.memory):
        assert (axis.starts[0], axis.last) == (0, TOP)
        assert list(axis.edges) == sorted(axis.edges)
        assert (axis.edges[0], axis.edges[-1]) == (0.0, 1.0)


def test_a_wider_stretch_is_never_drawn_narrower():
    axis = describe(detached()).iova
    sizes = [last - first for first, last in axis.stretches()]
    widths = np.diff(axis.edges)[np.argsort(sizes)]
    assert (np.diff(widths) > -1e-9).all()
    assert widths[0] < widths[-1] / 1.5


def test_a_window_shows_its_own_addresses_alone():
    lab = attached("6.1", "amd", (PAGE, 0x8000_0000, PAGE), (0x10_0000, 0x9000_0000, PAGE))
    picture = describe(lab, window=(0, 0xFFFF))
    assert (picture.iova.starts[0], picture.iova.last) == (0, 0xFFFF)
    assert [s.read.owner for s in row(picture).done] == ["", "driver buffer", ""]
    assert row(picture).shares == row(describe(lab)).shares


def test_the_same_steps_under_another_release_stand_beside():
    picture = describe(detached(), beside="patch-v2")
    assert [panel.title for panel in picture.panels] == ["Linux 6.1", "Linux patch-v2"]
    assert row(picture, panel=1).belief.word == "BLOCKED"


def test_a_crash_beside_is_a_sentence_with_the_function_in_it():
    picture = describe(claimed("6.0", "s390"), beside="patch-v2")
    assert picture.panels[1].mark == "crash"
    assert "crashes this kernel in s390_iommu_detach_device" in picture.panels[1].says


def test_a_release_without_the_driver_gets_a_sentence_in_place_of_a_picture():
    picture = describe(Lab("6.0", "tegra-gart"), beside="7.2")
    assert picture.panels[1].rows == ()
    assert "tegra-gart" in picture.panels[1].says


def test_a_step_that_names_what_was_refused_there_does_not_end_the_story():
    lab = attached("6.1", "mtk")
    picture = describe(lab, beside="5.15")
    assert "attach_device('dom1', 'dev0') finds an unknown domain" in picture.panels[1].says


def test_a_refusal_is_named_before_anything_else():
    lab = attached()
    with pytest.raises(OSError, match="EBUSY"):
        lab.attach_device("dom1", "dev0")
    assert describe(lab).panels[0].mark == "EBUSY"
    assert describe(lab).says.startswith(
        "Linux 6.1: attach_device('dom1', 'dev0') is refused with EBUSY: "
    )


def test_a_story_tells_where_belief_and_hardware_differ():
    lab = claimed("patch-v2")
    said = differences([describe(lab, at=step) for step in range(2)])
    assert said.startswith("Linux patch-v2, exynos: in 1 of 2 moments belief and hardware differ.")


# -- drawing it ------------------------------------------------------------------------------------


def test_the_sheet_has_a_flow_for_each_way_to_memory():
    mapped = attached("6.1", "amd", (PAGE, 0x8000_0000, PAGE), (0x10_0000, 0x9000_0000, PAGE))
    for lab, flows in ((mapped, 2), (attached(), 0), (claimed("patch-v2"), 5)):
        assert sum(isinstance(m, Flow) for m in lay_out(describe(lab)).marks) == flows


def test_the_height_does_not_depend_on_what_gets_through():
    lab = detached()
    heights = {lay_out(describe(lab, at=step)).height for step in range(len(lab.moments))}
    assert len(heights) == 1


def test_nothing_is_drawn_beside_the_sheet():
    for lab in (detached(), Lab("6.1", "intel", Machine.default()), claimed("patch-v2")):
        for beside in (None, "6.2"):
            sheet = lay_out(describe(lab, beside=beside))
            for mark in sheet.marks:
                if isinstance(mark, Box):
                    assert mark.x >= 0
                    assert mark.x + mark.width <= sheet.width + 0.01
                if isinstance(mark, Text):
                    assert 0 <= mark.y <= sheet.height


def test_owners_are_told_apart_by_their_hatch_as_well():
    sheet = lay_out(describe(claimed("patch-v2")))
    looks = {(m.fill, m.hatch) for m in sheet.marks if isinstance(m, Box) and m.fill[:1] == "#"}
    assert len({hatch for _, hatch in looks}) == len({fill for fill, _ in looks}) == 4


def test_the_svg_is_one_picture_with_its_sentence_and_names_are_only_text():
    name = '<b onload="x">&'
    memory = (Region(0, 0xFFFF_FFFF, name),)
    lab = Lab("6.1", "intel", Machine(memory=memory).having(name), cmdline="iommu=pt")
    picture = describe(lab)
    drawn = svg.draw(lay_out(picture), picture.says)
    assert drawn.count('role="img"') == 1
    assert "<b " not in drawn
    assert re.match(r'<svg [^>]*aria-label="Linux 6.1: The core believes[^"]*reaches', drawn)
    assert drawn.count("&lt;b onload=") > 3


def test_a_machine_without_devices_or_without_memory_is_no_accident():
    with pytest.raises(ValueError, match="a picture needs a device; this machine has none"):
        describe(Lab("6.1", "s390", Machine(devices=())))
    assert describe(Lab("6.1", "s390", Machine(memory=()))).says.endswith("dev0 reaches nothing.")


def test_every_verdict_has_its_fate():
    passing = {v.name for v in Verdict if v.passes}
    assert passing | {"UNKNOWN"} == set(FATE)
