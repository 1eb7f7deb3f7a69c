"""Does the harness write what a kernel can read, and keep what a boot left behind?"""

from __future__ import annotations

import gzip
import stat
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "captures"))

import catalogue
import chance
import fetch
import initramfs
import transcript

from iommu_lab.captures.dialects import parse

KERNELS = """
[kernels]
"6.1" = { suite = "bookworm", arch = "amd64", release = "6.1." }
"""


def members(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name, read field by field from the newc format."""
    data, at, found = gzip.decompress(archive), 0, {}
    while True:
        field = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = field[1], field[6], field[11]
        assert data[at : at + 6] == b"070701"
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        body = at + 110 + name_size + -(110 + name_size) % 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, data[body : body + size])
        at = body + size + -size % 4


def test_an_initramfs_holds_each_file_with_its_mode():
    files = [
        initramfs.folder("bin"),
        initramfs.program("bin/odd", b"12345"),
        initramfs.File("lab/even", b"1234"),
    ]
    found = members(initramfs.archive(files))
    assert found == {
        "bin": (stat.S_IFDIR | 0o755, b""),
        "bin/odd": (stat.S_IFREG | 0o755, b"12345"),
        "lab/even": (stat.S_IFREG | 0o644, b"1234"),
    }


def test_equal_files_make_equal_bytes():
    files = [initramfs.program("init", b"#!/bin/sh\n")]
    assert initramfs.archive(files) == initramfs.archive(files)


def test_a_module_comes_after_what_it_depends_on(tmp_path: Path):
    for name, depends in (("vfio-pci", "vfio-pci-core"), ("vfio-pci-core", "vfio"), ("vfio", "")):
        (tmp_path / f"{name}.ko").write_bytes(b"\0depends=" + depends.encode() + b"\0")
    modules = initramfs.Modules(tmp_path)
    assert list(modules.in_order(["vfio-pci", "absent"])) == ["vfio", "vfio_pci_core", "vfio_pci"]


def test_a_trace_is_counted_by_the_step_it_came_after():
    fault = "vtd_dmar_fault sid 0x18 fault 5 addr 0x{:x} write 1\n"
    trace = (
        "pci_cfg_write mch 00:00.0 @0x3c <- 0xb\n"  # the firmware, before the first step
        + fault.format(0x9000)
        + "pci_cfg_write mch 00:00.0 @0x3c <- 0x1\n"
        + "pci_cfg_write mch 00:00.0 @0x3c <- 0x2\n"
        + fault.format(0x1000)
        + "pci_cfg_write edu 00:03.0 @0x3c <- 0x7\n"
        + fault.format(0x1004)
        + "vtd_inv_desc_iotlb_domain iotlb invalidate whole domain 0x3\n"
    )
    assert transcript.fold(trace, mark_of_step=True) == (
        "step=2 n=2 vtd_dmar_fault sid 0x18 fault 5 addr 0x1000(page) write 1\n"
        "step=2 n=1 vtd_inv_desc_iotlb_domain iotlb invalidate whole domain 0x3\n"
    )


def test_steps_go_on_past_what_a_byte_can_count():
    trace = "".join(
        f"pci_cfg_write mch 00:00.0 @0x3c <- 0x{step % 256:x}\n" for step in range(1, 301)
    )
    folded = transcript.fold(
        trace + "vtd_irq_generate addr 0xfee01000 data 0x21\n", mark_of_step=True
    )
    assert folded.startswith("step=300 n=1 ")


def test_a_kernel_log_keeps_calls_and_warnings_and_drops_the_rest():
    log = (
        "[    0.1] Command line: console=ttyS0\n"
        "[    0.2] ACPI: something\n"
        "[    0.3] attach_device_to_domain: IOMMU: device=0000:00:03.0\n"
        "[    0.4] map: IOMMU: iova=0x0 - 0x1000\n"
        "[    0.5] attachlab step=A03 call=iommu_attach_device args=D1,dev0 rc=0\n"
        "[    0.6] WARNING: CPU: 0 PID: 1 at drivers/iommu/iommu.c:2034\n"
    )
    kept = transcript.thin_log(log).splitlines()
    assert [line[5:8] for line in kept] == ["0.1", "0.3", "0.5", "0.6"]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('name = "x"\nkernel = "6.1"\nscript = "core"\nspeed = 3', "unknown settings speed"),
        ('name = "x"\nkernel = "4.9"\nscript = "core"', "unknown kernel '4.9'"),
        ('name = "x"\nkernel = "6.1"\nscript = "core"\niommu = "dart"', "unknown iommu 'dart'"),
        ('name = "x"\nkernel = "6.1"', "either a script or a module"),
        ('name = "x"\nkernel = ["6.1", "6.1"]\nscript = "core"', "two entries of this name"),
    ],
)
def test_a_wrong_entry_of_the_catalogue_is_named(tmp_path: Path, entry: str, says: str):
    table = tmp_path / "catalogue.toml"
    table.write_text(f"{KERNELS}\n[[capture]]\n{entry}\n", "utf-8")
    with pytest.raises(catalogue.CatalogueError, match=f"^x: .*{says}"):
        catalogue.load(table)


def test_one_entry_stands_for_each_kernel_iommu_and_case(tmp_path: Path):
    table = tmp_path / "catalogue.toml"
    entry = """
[[capture]]
name = "{kernel}-{iommu}-{case}"
kernel = "6.1"
iommu = ["intel", "amd"]
module = "attachlab"
args = "seq=detach"
only = { land = "A01", T = "A01-before:T" }
"""
    table.write_text(KERNELS + entry, "utf-8")
    loaded = catalogue.load(table)
    assert list(loaded) == ["6.1-intel-land", "6.1-intel-T", "6.1-amd-land", "6.1-amd-T"]
    assert loaded["6.1-amd-T"].machine == (
        "MACHINE arch=x86_64 iommu=amd topology=single module=attachlab "
        'append="" args="seq=detach only=A01-before:T"'
    )


def test_the_mirror_is_the_one_that_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IOMMU_LAB_MIRROR", "http://mirror.example/debian")
    monkeypatch.setenv("IOMMU_LAB_KEYRING", "/keys/debian.gpg")
    main, security = fetch.mirrors()
    assert main == ("http://mirror.example/debian", "/keys/debian.gpg")
    assert security == ("http://mirror.example/debian-security", "/keys/debian.gpg")


@pytest.mark.parametrize("topology", chance.FUNCTIONS)
def test_a_script_by_chance_is_the_same_for_its_seed(topology):
    text = chance.text("chance-3", topology, iommufd=True)
    assert chance.text("chance-3", topology, iommufd=True) == text
    assert chance.text("chance-4", topology, iommufd=True) != text


@pytest.mark.parametrize("seed", range(5))
def test_a_script_by_chance_has_only_words_that_a_replay_knows(seed):
    topology = list(chance.FUNCTIONS)[seed]
    lines = chance.text(f"chance-{seed}", topology, iommufd=seed % 2 == 0).splitlines()
    steps = [f"STEP {number}: {line}" for number, line in enumerate(lines, start=1)]
    head = [f'MACHINE arch=x86_64 iommu=intel topology={topology} append=""', "BOOT uname=6.12.118"]
    whole = "\n".join([*head, *steps, f"END steps={len(steps)}"])
    assert len(parse(whole.encode(), "chance").inputs.steps) == len(lines)
