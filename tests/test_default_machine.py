"""Is the default machine the one that a real kernel described?"""

from __future__ import annotations

from iommu_lab.datafiles import datafile
from iommu_lab.lab import Lab
from iommu_lab.machine import Machine


def test_its_groups_are_those_that_the_kernel_made():
    groups = Machine.default().groups
    assert [d.name for d in groups[3]] == ["0000:01:00.0", "0000:02:01.0", "0000:02:02.0"]
    assert [d.name for d in groups[2]] == ["0000:00:1f.0", "0000:00:1f.2", "0000:00:1f.3"]


def test_devices_behind_a_conventional_bridge_move_together():
    lab = Lab("6.1", "intel", Machine.default())
    assert len(lab.devices) == 8
    lab.claim_dma_owner(3, "vfio")
    dom = lab.alloc_domain()
    assert lab.attach_group(dom, 3) == 0
    assert {lab.hardware(d.name).domain for d in lab.machine.groups[3]} == {dom}


def test_away_from_x86_it_keeps_the_groups_and_none_of_the_reserved_regions():
    machine = Machine.default("arm64", "arm-smmu-v3")
    assert machine.msi == ()
    assert {r for d in machine.devices for r in d.reserved} == set()
    assert list(machine.groups) == list(Machine.default().groups)


def test_what_the_intel_driver_reserves_is_not_there_for_another_driver():
    kinds = {
        driver: {r.type for d in Machine.default(driver=driver).devices for r in d.reserved}
        for driver in ("intel", "amd")
    }
    assert kinds == {"intel": {"msi", "direct-relaxable"}, "amd": {"msi"}}


def test_its_listing_is_what_the_transcript_of_the_capture_says():
    def groups(*path):
        lines = datafile(*path).read_text(encoding="utf-8", errors="replace").splitlines()
        return sorted(line for line in lines if line.startswith("GROUP "))

    assert groups("groups", "q35-6.1.txt") == groups("captures", "groups-6.1-bridge.out")
