"""Logs of the module attachlab: of other machines, without their first line, and odd ones."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from iommu_lab.captures import TranscriptError
from iommu_lab.captures.dialects import parse
from iommu_lab.captures.emulated import Setup, setup
from iommu_lab.captures.kernels import build_of
from iommu_lab.captures.replay import rows
from iommu_lab.captures.topology import TOPOLOGIES, functions, of_listing
from iommu_lab.captures.transcript import Transcript

FOLDER = Path(__file__).parents[1] / "data" / "captures"
LOGS = sorted(FOLDER.glob("attachlab-*.log"))
# That the emulator was made to read its table again leaves no line.
TELLING = [path for path in LOGS if "refresh=1" not in path.read_text("utf-8").partition("\n")[0]]
TEXT = (FOLDER / "attachlab-6.1-amd-on-detach.log").read_text("utf-8")
STAMP = re.compile(r"^\[ *(\d+\.\d+)\] ", re.M)


def transcript(text: str) -> Transcript:
    return parse(text.encode(), "odd")


def verdicts(text: str) -> set[str]:
    return {row.verdict for row in rows(transcript(text))}


def without_machine(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("MACHINE "))


# -- a log that does not say its machine -----------------------------------------------------------


@pytest.mark.parametrize("path", TELLING, ids=lambda path: path.stem)
def test_a_log_without_its_first_line_is_replayed_on_the_machine_that_it_shows(path):
    assert verdicts(without_machine(path.read_text("utf-8"))) == {"agree"}


@pytest.mark.parametrize(
    "topology", [name for name in TOPOLOGIES if name not in ("rpnoacs", "mask28")]
)
@pytest.mark.parametrize("iommu", ["intel", "amd", "virtio"])
def test_a_list_of_functions_tells_the_bus_they_are_on(topology, iommu):
    found = functions("x86_64", iommu, topology)
    again = of_listing([(f.name, f.id) for f in sorted(found, key=lambda f: f.name)])
    assert sorted(again, key=lambda f: f.name) == sorted(found, key=lambda f: f.name)


@pytest.mark.parametrize(
    ("words", "iommu"),
    [
        ("intel_iommu=on", "intel"),
        ("intel_iommu=on,sm_on", "intelsm"),
        ("intel_iommu=on iommu.strict=0", "intelnocm"),
    ],
)
def test_what_a_boot_line_asks_for_tells_which_vt_d_it_is(words, iommu):
    text = (FOLDER / "attachlab-6.12-intel-on-detach.log").read_text("utf-8")
    odd = without_machine(text).replace("intel_iommu=on", words)
    assert transcript(odd).inputs.iommu == iommu


def test_a_vt_d_unit_that_the_kernel_describes_is_taken_as_it_is():
    text = without_machine((FOLDER / "attachlab-6.1-intel-on-detach.log").read_text("utf-8"))
    says = "DMAR: dmar0: reg_base_addr fed90000 ver 1:0 cap d2008c22{:02x}02{:02x} ecap f00f5a\n"
    asked = ((0x26, 0x86, "intel"), (0x26, 0x06, "intelnocm"), (0x2F, 0x86, "intel48"))
    for width, low, iommu in asked:
        assert transcript(says.format(width, low) + text).inputs.iommu == iommu


def test_a_pc_whose_kernel_attached_nothing_at_boot_has_no_iommu():
    text = without_machine((FOLDER / "attachlab-6.1-intel-on-detach.log").read_text("utf-8"))
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if "attachlab BEGIN" in line)
    quiet = [line for line in lines[:begin] if "attach_device_to_domain" not in line]
    assert transcript("\n".join(quiet + lines[begin:])).inputs.iommu == "none"


# -- a kernel that stops ---------------------------------------------------------------------------


def test_a_call_that_stops_the_kernel_is_foreseen_with_what_init_says_after_it():
    text = (FOLDER / "attachlab-5.10-arm64-on-group.log").read_text("utf-8")
    found = rows(transcript(text))
    assert {row.verdict for row in found} == {"agree"}
    assert [row.predicted for row in found if row.kind == "crash"] == ["arm_smmu_iotlb_sync"]
    mute = text[: text.index("attachlab-init insmod ")]
    assert verdicts(mute) == {"agree"}


def test_a_crash_that_was_not_foreseen_counts_against_the_model():
    killed = TEXT.replace("attachlab-init insmod rc=0", "attachlab-init insmod rc=139")
    assert verdicts(killed) == {"agree", "disagree", "not modelled"}


# -- what a kernel has built in, and whom a driver refuses -----------------------------------------


def machine(uname: str, arch: str, iommu: str, topology: str, *, inserts: bool = True) -> Setup:
    found = functions(arch, iommu, topology)
    return setup(arch, iommu, build_of(uname, arch), "", found, inserts=inserts)


def test_virtio_iommu_is_there_where_it_is_built_in_or_init_inserts_it():
    debian, own = "6.12.118+deb13-amd64", "6.12.0"
    for uname, inserts, there in ((debian, True, True), (debian, False, False), (own, False, True)):
        made = machine(uname, "x86_64", "virtio", "single", inserts=inserts)
        assert made.active == there


def test_a_virtio_function_has_its_driver_at_boot_where_that_is_built_in():
    for uname, driver in (("6.1.0-50-s390x", ""), ("7.2.13+deb14-s390x", "virtio-pci")):
        made = machine(uname, "s390x", "zpci", "rng", inserts=False)
        assert made.bus.functions["0001:00:00.0"].driver == driver


def test_of_two_devices_with_one_stream_the_smmu_knows_the_first_alone():
    made = machine("7.2.13+deb14-arm64", "arm64", "smmuv3", "bridge")
    known = {device.name for device in made.kernel.machine.devices}
    assert "0000:02:01.0" in known
    assert "0000:02:02.0" not in known
    devices = machine("7.2.13+deb14-amd64", "x86_64", "intel", "bridge").kernel.machine.devices
    groups = {device.name: device.group for device in devices}
    assert groups["0000:02:01.0"] == groups["0000:02:02.0"]


# -- how a log may have been kept ------------------------------------------------------------------

KEPT: dict[str, Callable[[str], str]] = {
    "without times": lambda text: STAMP.sub("", text),
    "with levels": lambda text: STAMP.sub(r"<6>[    \1] ", text),
    "with the task": lambda text: STAMP.sub(r"[    \1][   T57] ", text),
    "from syslog": lambda text: STAMP.sub(r"Aug  1 00:00:04 lab kernel: [    \1] ", text),
    "with carriage returns": lambda text: text.replace("\n", "\r\n"),
    "after a boot loader": lambda text: f"SeaBIOS (version 1.16.2)\n\n{text}",
    "with a byte order mark": lambda text: f"\ufeff{text}",
    "among other messages": lambda text: re.sub(
        r"^(.*attachlab (?:step|dma).*)$",
        r"\1\n[    9.100000] random: crng init done\n[    9.100001]  <TASK>",
        text,
        flags=re.M,
    ),
}


@pytest.mark.parametrize("how", KEPT)
def test_a_log_says_the_same_however_it_was_kept(how):
    said = [(row.what, row.predicted) for row in rows(transcript(TEXT))]
    found = rows(transcript(KEPT[how](TEXT)))
    assert [(row.what, row.predicted) for row in found] == said
    assert {row.verdict for row in found} == {"agree"}


def test_a_log_that_ends_before_init_does_is_refused():
    for end in ("attachlab END", "attachlab-init DONE"):
        cut = TEXT[: TEXT.index(end)]
        with pytest.raises(TranscriptError, match="cut off"):
            rows(transcript(cut))


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("seq=detach", "seq=claim", "began with seq=detach, and the MACHINE line told it claim"),
        ('args="', 'args="bind=1 ', "began with bind=0, and the MACHINE line told it 1"),
    ],
)
def test_a_module_that_ran_what_it_was_not_told_is_refused_with_its_line(was, now, said):
    first, _, rest = TEXT.partition("\n")
    at = TEXT[: TEXT.index("attachlab BEGIN")].count("\n") + 1
    with pytest.raises(TranscriptError, match=rf"^odd:{at}: .*{said}"):
        transcript(f"{first.replace(was, now, 1)}\n{rest}")


def test_a_list_of_files_is_not_taken_for_a_log():
    with pytest.raises(TranscriptError, match="no transcript: it should begin with a MACHINE line"):
        parse((FOLDER / "SHA256SUMS").read_bytes(), "odd")
