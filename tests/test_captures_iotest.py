"""What the replay of a script knows of buses, BARs and drivers, in scripts a few lines long."""

import re

import pytest

from iommu_lab.bootline import make_kernel
from iommu_lab.captures.dialects import parse
from iommu_lab.captures.iotestlog import answers_of
from iommu_lab.captures.replay import compare, predict
from iommu_lab.captures.transcript import VOID
from iommu_lab.datafiles import datafile

KERNELS = {
    "5.10": "5.10.0-46-amd64",
    "6.0": "6.0.0-6-amd64",
    "6.1": "6.1.0-56-amd64",
    "6.12": "6.12.118+deb13-amd64",
    "7.2": "7.2.13+deb14-amd64",
    "6.1-arm64": "6.1.0-56-arm64",
    "5.10-arm64": "5.10.0-32-arm64",
    "6.12-arm64": "6.12.118+deb13-arm64",
    "7.2-arm64": "7.2.13+deb14-arm64",
}
READY = "bind D vfio-pci; container C; group G D; setcontainer G C; setiommu C 3"


def said(
    kernel: str, iommu: str, topology: str, script: str, append: str = "", *, key: str = ""
) -> dict[str, str]:
    """What the model says to each line of a script: its last answer, by the line's text.

    With a ``key`` only answers to questions that begin with it.
    """
    arch = "arm64" if "arm64" in kernel else "x86_64"
    lines = [line.strip() for line in script.split(";")]
    steps = [
        f"STEP {number}: {line}" + (" phys=0x3000000" if line.startswith("wphys") else "")
        for number, line in enumerate(lines, 1)
    ]
    text = "\n".join(
        [
            f'MACHINE arch={arch} iommu={iommu} topology={topology} script=x append="{append}"',
            f"BOOT uptime=1 uname={KERNELS[kernel]} {arch}",
            f"CMDLINE {append}",
            *steps,
            f"END steps={len(steps)}",
        ]
    )
    found = predict(parse(text.encode(), "script").inputs).predictions
    return {
        lines[p.step - 1]: str(p.value)
        for p in found
        if p.kind != "trace" and p.key.startswith(key)
    }


def outcome(value: str) -> str:
    return value.partition(" ")[0]


@pytest.mark.parametrize(("iommu", "lands"), [("intel", "LANDED"), ("amd", "BLOCKED")])
def test_to_qemus_amd_iommu_a_function_behind_a_port_is_the_host_bridge(iommu, lands):
    answers = said(
        "6.1",
        iommu,
        "rp",
        f"buf A 1; dev D 0000:01:00.0; {READY}; getdev G D; map C 0x1000 0x1000 rw A 0; "
        "w D 0x1000 64 A 0",
        "intel_iommu=on",
    )
    assert answers["map C 0x1000 0x1000 rw A 0"] == "OK"
    assert outcome(answers["w D 0x1000 64 A 0"]) == lands


def test_of_two_devices_behind_a_bridge_to_pci_only_the_first_has_the_smmu():
    answers = said(
        "6.1-arm64",
        "smmuv3",
        "bridge",
        "dev D 0000:02:01.0; dev S 0000:02:02.0; bind D vfio-pci; bind S vfio-pci; "
        "gtype D; gtype S",
    )
    assert (answers["bind D vfio-pci"], answers["bind S vfio-pci"]) == ("OK", "EINVAL")
    assert (answers["gtype D"], answers["gtype S"]) == ("DMA", "<ENOENT>")


LEAVES = (
    "buf A 1; dev D 0000:00:03.0; bar D; cmd D 0x6; remove D; wphys D A 64; rescan; "
    "w D 0x3000000 64 A 0"
)


def test_a_removed_device_does_dma_until_the_kernel_moves_its_registers():
    answers = said("6.1", "none", "single", LEAVES)
    assert outcome(answers["wphys D A 64"]) == "LANDED"
    assert outcome(answers["w D 0x3000000 64 A 0"]) == "BLOCKED"


def test_in_5_10_a_removed_device_takes_the_mapping_of_its_registers_along():
    answers = said("5.10", "none", "single", LEAVES)
    assert answers["wphys D A 64"] == "kernfs_drain_open_files"
    assert "rescan" not in answers


@pytest.mark.parametrize(
    ("kernel", "iommu", "answer"), [("6.1", "intel", "EFAULT"), ("6.1-arm64", "smmuv3", "OK")]
)
def test_above_the_programs_buffers_arm64_has_one_page_to_read(kernel, iommu, answer):
    answers = said(
        kernel,
        iommu,
        "single",
        f"buf A 2; dev D 0000:00:03.0; {READY}; map C 0x1000 0x3000 r A 0; "
        "map C 0x8000 0x3000 rw A 0; map C 0x10000 0x4000 r A 0",
        "intel_iommu=on",
    )
    assert answers["map C 0x1000 0x3000 r A 0"] == answer
    assert answers["map C 0x8000 0x3000 rw A 0"] == "EFAULT"
    assert answers["map C 0x10000 0x4000 r A 0"] == "EFAULT"


@pytest.mark.parametrize(
    ("kernel", "iommu", "answer"),
    [("5.10", "intel", "ENODEV"), ("6.1", "intel", "EINVAL"), ("5.10", "amd", "EINVAL")],
)
def test_only_the_intel_driver_of_5_10_has_heard_of_nesting(kernel, iommu, answer):
    script = f"dev D 0000:00:03.0; {READY.replace('setiommu C 3', 'setiommu C 6')}"
    assert said(kernel, iommu, "single", script, "intel_iommu=on")["setiommu C 6"] == answer


def test_a_driver_lets_go_of_its_own_devices_alone():
    own = "write /sys/bus/pci/drivers/vfio-pci/unbind 0000:00:03.0"
    answers = said("6.1", "intel", "single", f"dev D 0000:00:03.0; {own}", "intel_iommu=on")
    assert answers[own] == "ENODEV"


def test_where_the_iommu_failed_at_boot_drivers_are_told_to_try_again():
    answers = said("7.2", "virtio", "bridge", "dev D 0000:02:01.0; bind D vfio-pci")
    assert answers["bind D vfio-pci"] == "EAGAIN"


def test_a_bridge_that_is_removed_takes_what_is_behind_it_along():
    answers = said(
        "6.1",
        "intel",
        "rp",
        "dev D 0000:01:00.0; dev P 0000:00:05.0; remove P; gtype D",
        "intel_iommu=on",
    )
    assert answers["gtype D"] == "<ENOENT>"


def test_intel_5_10_never_lets_go_of_a_listed_device_that_was_in_pass_through():
    script = f"dev D 0000:00:03.0; remove D; rescan; {READY}"
    left = said("5.10", "intel", "single", script, "intel_iommu=on iommu=pt")
    freed = said("5.10", "intel", "single", script, "intel_iommu=on")
    assert (left["setiommu C 3"], freed["setiommu C 3"]) == ("EBUSY", "OK")


def test_intel_5_10_crashes_when_the_last_of_two_listed_siblings_goes():
    script = "dev D 0000:00:03.0; dev S 0000:00:03.1; remove D; remove S; groups"
    assert "groups" not in said("5.10", "intel", "multifn", script, "intel_iommu=on")
    assert "groups" in said("6.1", "intel", "multifn", script, "intel_iommu=on")


def test_on_a_device_tree_machine_only_a_port_that_came_late_isolates():
    script = (
        "dev D 0000:01:00.0; dev P 0000:00:05.0; bind D vfio-pci; group G D; "
        "closegroup G; remove P; rescan; bind D vfio-pci; group H D"
    )
    answers = said("6.1-arm64", "smmuv3", "rp", script)
    assert (answers["group G D"], answers["group H D"]) == ("0 OK", "1 OK")


def test_a_driver_that_finds_another_kind_of_device_leaves_it_switched_off():
    answers = said(
        "6.1",
        "intel",
        "single",
        "dev D 0000:00:03.0; insmod /mods/e1000.ko; cmd D 0x6; bind D e1000; showcmd D",
        "intel_iommu=on",
    )
    assert answers["bind D e1000"] == "EIO"
    assert answers["showcmd D"] == "0x2 (mem=1 master=0)"


def test_in_7_2_the_smmu_takes_the_first_device_behind_a_bridge_at_boot():
    answers = said(
        "7.2-arm64", "smmuv3", "bridge", "dev D 0000:02:01.0; dev S 0000:02:02.0; gtype D; gtype S"
    )
    assert (answers["gtype D"], answers["gtype S"]) == ("DMA", "<ENOENT>")


def test_in_5_10_the_second_device_behind_a_bridge_is_a_bug_unless_both_pass_through():
    script = "dev D 0000:02:01.0; dev S 0000:02:02.0; bind D vfio-pci; bind S vfio-pci; gtype S"
    translated = said("5.10-arm64", "smmuv3", "bridge", script)
    passing = said("5.10-arm64", "smmuv3", "bridge", script, "iommu.passthrough=1")
    assert translated["bind S vfio-pci"] == "arm_smmu_write_strtab_ent"
    assert (passing["bind S vfio-pci"], passing["gtype S"]) == ("OK", "identity")


def test_an_arm64_board_keeps_interrupts_apart_whatever_its_iommu():
    script = f"dev D 0000:00:03.0; {READY}"
    for kernel, answer in (("6.12", "EPERM"), ("6.12-arm64", "OK")):
        assert said(kernel, "virtio", "single", script)["setiommu C 3"] == answer


def test_a_device_tree_names_an_iommu_that_was_not_built():
    script = "dev D 0000:00:03.0; bind D vfio-pci"
    assert said("6.1-arm64", "virtio", "single", script)["bind D vfio-pci"] == "EAGAIN"
    assert said("6.1", "virtio", "single", script)["bind D vfio-pci"] == "EINVAL"


def test_iommu_off_is_a_word_of_the_x86_drivers_alone():
    script = "dev D 0000:00:03.0; bind D vfio-pci; gtype D"
    assert said("6.12", "virtio", "single", script, "iommu=off")["gtype D"] == "DMA-FQ"
    assert said("6.12", "amd", "single", script, "iommu=off")["gtype D"] == "<ENOENT>"


def test_a_container_takes_as_many_mappings_as_the_module_allowed_when_it_was_made():
    limit = "write /sys/module/vfio_iommu_type1/parameters/dma_entry_limit 1"
    answers = said(
        "6.1",
        "intel",
        "single",
        f"buf A 2; dev D 0000:00:03.0; {limit}; {READY}; map C 0x1000 0x1000 rw A 0; "
        "map C 0x2000 0x1000 rw A 0",
        "intel_iommu=on",
    )
    assert answers["map C 0x1000 0x1000 rw A 0"] == "OK"
    assert answers["map C 0x2000 0x1000 rw A 0"] == "ENOSPC"


@pytest.mark.parametrize(("kernel", "driver"), [("6.1", "e1000"), ("7.2", "-")])
def test_only_of_late_is_a_device_that_comes_spared_by_autoprobe(kernel, driver):
    script = (
        "insmod /mods/e1000.ko; dev S 0000:00:03.1; write /sys/bus/pci/drivers_autoprobe 0; "
        "remove S; rescan; groups"
    )
    group = said(kernel, "intel", "mfe1000", script, "intel_iommu=on")["groups"]
    assert f"8086:100e,drv={driver})" in group


@pytest.mark.parametrize(("release", "sizes"), [("5.10", 2**64 - 4096), ("7.2", 4096)])
def test_without_superpages_intel_has_small_pages_alone_and_5_10_does_not_say_so(release, sizes):
    kernel = make_kernel(release, "intel", None, "intel_iommu=on,sp_off", None)
    assert kernel.driver.pgsizes == sizes


def test_behind_a_bridge_that_nobody_switched_on_no_device_answers():
    script = "dev D 0000:02:01.0; bar D; cmd D 0x6; bar D"
    assert said("7.2-arm64", "virtio", "bridge", script)["bar D"] == "0xffffffff"
    assert said("6.12-arm64", "virtio", "bridge", script)["bar D"] == "0x10000ed"


def test_a_conventional_bridge_keeps_its_stream_from_what_is_behind_it():
    script = "dev D 0000:01:01.0; dev X 0000:00:06.0; bind D vfio-pci; gtype X"
    answers = said("6.12-arm64", "smmuv3", "rootbridge", script)
    assert (answers["bind D vfio-pci"], answers["gtype X"]) == ("EINVAL", "DMA")


@pytest.mark.parametrize(
    ("kernel", "answer"), [("5.10", "OK"), ("6.1", "ENODEV"), ("6.12", "ENODEV"), ("7.2", "ENODEV")]
)
def test_since_6_1_the_file_of_a_group_that_lost_its_last_device_is_of_no_use(kernel, answer):
    again = "unbind D; group K D; bind D vfio-pci"
    before = f"dev D 0000:00:03.0; bind D vfio-pci; container C; group G D; {again}; group H D"
    answers = said(kernel, "amd", "single", f"{before}; setcontainer G C")
    assert answers["setcontainer G C"] == answer
    assert answers["group K D"].endswith("EBUSY" if answer == "OK" else "ENOENT")
    # A new file is that of a new group, or there is the old one and it is in use.
    assert answers["group H D"].endswith("EBUSY" if answer == "OK" else "OK")


@pytest.mark.parametrize(
    ("kernel", "answer"), [("6.0", "0x10000ed"), ("6.1", "ENODEV"), ("6.12", "ENODEV")]
)
def test_a_device_that_came_back_is_not_that_of_the_group_it_left(kernel, answer):
    script = f"dev D 0000:00:03.0; {READY}; unbind D; bind D vfio-pci; getdev G D"
    answers = said(kernel, "amd", "single", script)
    assert (answers["bind D vfio-pci"], answers["getdev G D"]) == ("OK", answer)


def test_a_file_of_a_device_that_is_not_there_is_not_there_either():
    path = "/sys/bus/pci/devices/0000:00:{}.0/driver_override"
    there, gone = (f"write {path.format(slot)} pci-stub" for slot in ("03", "09"))
    answers = said("6.1", "intel", "single", f"{there}; {gone}")
    assert (answers[there], answers[gone]) == ("OK", "ENOENT")


@pytest.mark.parametrize(
    ("kernel", "topology", "lands"),
    [("6.1", "single", "LANDED"), ("6.1", "mask28", "LANDED"), ("6.1-arm64", "mask28", "BLOCKED")],
)
def test_in_pass_through_28_bits_reach_a_drivers_buffer_where_memory_begins_at_0(
    kernel, topology, lands
):
    iommu = "smmuv3" if "arm64" in kernel else "intel"
    append = "intel_iommu=on iommu.passthrough=1"
    answers = said(kernel, iommu, topology, "insmod /mods/edulab.ko", append, key="X02")
    assert outcome(answers["insmod /mods/edulab.ko"]) == lands


def test_only_the_amd_driver_of_5_10_unmaps_lazily_on_an_emulated_iommu():
    def after_unmap(kernel: str, iommu: str) -> str:
        answers = said(kernel, iommu, "single", "insmod /mods/edulab.ko", key="X04a")
        return outcome(answers["insmod /mods/edulab.ko"])

    found = {(k, i): after_unmap(k, i) for k in ("5.10", "6.1", "7.2") for i in ("amd", "intel")}
    assert [at for at, what in found.items() if what == "LANDED"] == [("5.10", "amd")]


def test_what_a_late_dma_met_stands_for_nothing_and_the_next_devices_is_its_own():
    label = "X04a-unmap-3ms-before-dma"

    def probe(pending: int, landed: int) -> list[str]:
        outcome = "LANDED" if landed else "BLOCKED"
        return [
            f"  | kmsg edulab {label} unmap finished 1 us after kick, dma still pending at "
            f"unmap={pending}, landed={landed}",
            f"  | kmsg edulab RESULT label={label} iova=0x1000 len=64 landed={landed} "
            f"outcome={outcome}",
        ]

    found = answers_of(1, enumerate(probe(0, 64) + probe(1, 0)))
    assert [(a.key, a.value) for a in found] == [(label, VOID), (label, "BLOCKED landed=0/64")]


@pytest.mark.parametrize(
    ("append", "landed"),
    [
        ("iommu=pt", {"X02": "LANDED", "X05": "LANDED", "X10": "LANDED"}),
        # What landed in the copy arrives with the unmap, and never without one.
        ("iommu=pt swiotlb=force", {"X02": "BLOCKED", "X05": "BLOCKED", "X10": "LANDED"}),
    ],
)
def test_a_forced_copy_takes_the_dma_in_the_buffers_place_until_it_is_unmapped(append, landed):
    verb = "insmod /mods/edulab.ko"
    for label, outcome_ in landed.items():
        answers = said("7.2", "intelnocm", "single", verb, append, key=label)
        assert outcome(answers[verb]) == outcome_
    late = said("7.2", "intelnocm", "single", verb, append, key="X04a")
    assert outcome(late[verb]) == "LANDED"


@pytest.mark.parametrize(("kernel", "groups"), [("5.10", False), ("6.1", True), ("7.2", True)])
@pytest.mark.parametrize("word", ["iommu=soft", "swiotlb=force"])
def test_only_in_5_10_buffers_that_were_asked_for_are_instead_of_an_iommu(kernel, groups, word):
    answers = said(kernel, "intel", "single", "dev D 0000:00:03.0; gtype D", word)
    assert (answers["gtype D"] != "<ENOENT>") == groups


@pytest.mark.parametrize("word", ["intremap=nosid,off", "nointremap"])
def test_vfio_refuses_where_the_boot_line_leaves_interrupts_as_they_are(word):
    script = f"dev D 0000:00:03.0; {READY}"
    assert said("6.1", "intel", "single", script)["setiommu C 3"] == "OK"
    assert said("6.1", "intel", "single", script, word)["setiommu C 3"] == "EPERM"


@pytest.mark.parametrize(
    ("kernel", "seen"), [("6.1-arm64", "map=?[0..30] W[31..31] ?[32..63]"), ("6.1", "map=?[0..63]")]
)
def test_without_an_iommu_an_arm64_device_reads_registers_where_a_pc_has_memory(kernel, seen):
    script = "buf A 1; buf RB 1; dev D 0000:00:03.0; bar D; cmd D 0x6; preload D 0x10000000 RB 0"
    # All ones are the pattern's byte 31.
    assert seen in said(kernel, "none", "single", f"{script}; wphys D A 64")["wphys D A 64"]


# -- a topology that is not in the table -----------------------------------------------------------


def unnamed(name: str) -> bytes:
    """A shipped transcript, of a topology that nobody has a name for."""
    text = (datafile("captures") / f"{name}.out").read_bytes()
    return re.sub(rb"topology=\w+", b"topology=mine", text, count=1)


@pytest.mark.parametrize("name", ["groups-6.1-switch", "core-6.1-amd", "core-6.1-arm64-on"])
def test_a_topology_without_a_name_is_read_from_what_is_listed(name):
    transcript = parse(unnamed(name), name)
    assert {row.verdict for row in compare(transcript, predict(transcript.inputs))} == {"agree"}


def test_the_groups_of_a_topology_without_a_name_are_still_predicted():
    moved = unnamed("groups-6.1-bridge").replace(b",0000:02:02.0(1234:11e8,drv=-)", b"")
    moved = moved.replace(
        b"GROUP 0 ", b"GROUP 9 type=DMA devices=0000:02:02.0(1234:11e8,drv=-)\nGROUP 0 "
    )
    transcript = parse(moved, "moved")
    answers = compare(transcript, predict(transcript.inputs))
    assert "0000:02:02.0" in next(row.predicted for row in answers if row.what == "GROUP 3")
    assert {row.what for row in answers if row.verdict != "agree"} == {"GROUP 3", "GROUP 9"}
