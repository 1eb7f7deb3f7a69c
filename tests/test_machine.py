"""Is a machine read as it stands, and refused when it can't be one?"""

from __future__ import annotations

import pytest

from iommu_lab.machine import (
    X86_INTERRUPTS,
    Device,
    Machine,
    Region,
    Reserved,
    merged,
)

MSI = "0x00000000fee00000 0x00000000feefffff msi\n"


def sysfs(root, groups: dict[int, list[str]], regions: str = "") -> None:
    for number, names in groups.items():
        devices = root / str(number) / "devices"
        for name in names:
            (devices / name).mkdir(parents=True)
        if regions:
            (root / str(number) / "reserved_regions").write_text(regions)


def test_a_machine_is_one_device_alone_in_group_0_unless_told_otherwise():
    machine = Machine()
    assert [d.name for d in machine.groups[0]] == ["dev0"]


def test_two_devices_of_one_name_are_refused_by_that_name():
    with pytest.raises(ValueError, match="'nic' twice"):
        Machine(devices=(Device("nic"), Device("nic", 1)))


@pytest.mark.parametrize(
    ("memory", "rule"),
    [
        ((Region(5, 4, "kernel"),), "first <= last"),
        ((Region(-1, 4, "kernel"),), "first <= last"),
        ((Region(0, 2**64, "kernel"),), r"last < 2\*\*64"),
        ((Region(0, 9, "kernel"), Region(9, 12, "buffer")), "'buffer' starts at 0x9"),
        ((Region(16, 32, "kernel"), Region(0, 9, "buffer")), "in order and apart"),
    ],
)
def test_a_memory_map_that_says_two_things_is_refused(memory, rule):
    with pytest.raises(ValueError, match=rule):
        Machine(memory=memory)


def test_a_reserved_region_of_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="got 'software' for nic"):
        Machine(devices=(Device("nic", reserved=(Reserved(0, 4095, "software"),)),))


def test_an_address_outside_the_memory_map_is_nobodys():
    machine = Machine(memory=(Region(0x1000, 0x1FFF, "kernel"),))
    assert [machine.owner_at(a) for a in (0xFFF, 0x1000, 0x1FFF, 0x2000)] == [
        "nobody",
        "kernel",
        "kernel",
        "nobody",
    ]


def test_a_device_that_no_iommu_took_is_in_no_group():
    machine = Machine(devices=(Device("nic"), Device("gpu", 1)), no_iommu=("gpu",))
    assert list(machine.groups) == [0]


def test_groups_of_sysfs_come_in_the_order_of_their_numbers(tmp_path):
    sysfs(tmp_path, {10: ["0000:00:1f.0"], 9: ["0000:00:02.0"], 0: ["platform-x"]}, MSI)
    machine = Machine.from_sysfs(tmp_path)
    assert [(d.name, d.group, d.pci) for d in machine.devices] == [
        ("platform-x", 0, False),
        ("0000:00:02.0", 9, True),
        ("0000:00:1f.0", 10, True),
    ]
    assert machine.msi == (X86_INTERRUPTS,)
    assert machine.devices[0].reserved == (Reserved(*X86_INTERRUPTS, "msi"),)


def test_sysfs_that_is_not_there_or_holds_no_group_says_which_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Machine.from_sysfs(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no IOMMU group"):
        Machine.from_sysfs(tmp_path)


def test_a_line_of_reserved_regions_that_is_none_says_which_file(tmp_path):
    sysfs(tmp_path, {0: ["nic"]}, "0x0 msi\n")
    with pytest.raises(ValueError, match=r"'first last type', got '0x0 msi' in .*regions"):
        Machine.from_sysfs(tmp_path)


def test_a_listing_says_who_is_in_a_group_and_which_driver_holds_it():
    text = "boot\nGROUP 1 type=DMA devices=0000:00:03.0(1234:11e8,drv=-),p0(-,drv=pcieport)\n"
    machine = Machine.from_listing(text)
    assert [(d.name, d.group, d.managed_by) for d in machine.devices] == [
        ("0000:00:03.0", 1, ""),
        ("p0", 1, "pcieport"),
    ]


def test_overlapping_regions_of_one_type_are_one_for_the_group():
    nic = Device("nic", reserved=(Reserved(0, 0x1FFF, "direct"), Reserved(0x8000, 0x8FFF, "msi")))
    gpu = Device("gpu", reserved=(Reserved(0x1000, 0x2FFF, "direct"), Reserved(0, 0xFFF, "msi")))
    assert merged((*nic.reserved, *gpu.reserved)) == (
        Reserved(0, 0xFFF, "msi"),
        Reserved(0, 0x2FFF, "direct"),
        Reserved(0x8000, 0x8FFF, "msi"),
    )
