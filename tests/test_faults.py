"""The reasons that QEMU traced for the DMAs it stopped, beside those that the model expects."""

from pathlib import Path

import pytest

from iommu_lab.captures import TranscriptError, dmas
from iommu_lab.captures.faults import NOT_TRACED, in_words, traced_reasons
from iommu_lab.errors import UnknownName

FOLDER = Path(__file__).parents[1] / "data" / "captures"
# edulab's DMAs are the kernel's own: dmaapi scripts make none that a step names.
TRACED = sorted(p for p in FOLDER.glob("*.out") if p.with_suffix(".qemu").exists())
INTEL_PT = ("core-5.10-pt", "core-6.1-pt", "core-6.12-pt", "core-7.x-pt")
CLAIMED = "S05-container-set-no-iommu-phys"


def claimed(name):
    table = dmas(FOLDER / f"{name}.out").set_index("label")
    return table.loc[CLAIMED, ["hardware", "measured", "expects", "fault"]].tolist()


@pytest.mark.parametrize("path", TRACED, ids=lambda path: path.stem)
def test_the_model_knows_why_each_dma_of_a_transcript_was_stopped(path):
    table = dmas(path)
    table = table[(table.fault != NOT_TRACED) & (table.expects != NOT_TRACED)]
    wrong = table[table.expects != table.fault]
    assert wrong.empty, wrong.to_string()


def test_many_dmas_were_stopped_for_each_of_the_reasons():
    kinds = [reason for path in TRACED for reason in dmas(path).fault]
    assert {"0x2", "0x4", "0x5", "0x6", "0x58", ""} <= set(kinds)
    assert min(kinds.count("0x2"), kinds.count("0x5"), kinds.count("0x6")) > 5


def test_a_claimed_group_meets_nothing_then_an_empty_table_then_no_entry():
    assert claimed("core-5.10-pt") == ["bypass", "LANDED", "", ""]
    assert claimed("core-6.1-pt") == ["table", "BLOCKED", "0x5", "0x5"]
    assert claimed("core-6.12-pt") == ["blocked", "BLOCKED", "0x2", "0x2"]
    assert claimed("core-7.x-pt") == ["blocked", "BLOCKED", "0x2", "0x2"]


def test_amd_splits_the_same_way_though_its_emulator_traces_no_reason():
    split = [claimed(f"core-{kernel}-amd-pt") for kernel in ("5.10", "6.1", "6.12", "7.x")]
    assert [row[:2] for row in split] == [row[:2] for row in map(claimed, INTEL_PT)]
    assert {row[3] for row in split} == {NOT_TRACED}


def test_scalable_mode_has_another_number_for_the_missing_entry():
    assert claimed("core-7.x-intelsm") == ["blocked", "BLOCKED", "0x58", "0x58"]


def test_what_is_expected_is_told_without_looking_at_the_trace(tmp_path):
    name = "core-6.1-pt.out"
    (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    alone = dmas(tmp_path / name)
    assert set(alone.fault) == {NOT_TRACED}
    assert alone.expects.tolist() == dmas(FOLDER / name).expects.tolist()


def test_a_dma_that_met_two_pages_has_both_reasons_and_each_once(tmp_path):
    trace = tmp_path / "two.qemu"
    fault = "step=3 n=8 vtd_dmar_fault sid 0x18 fault {} addr 0x1000(page) write 1\n"
    trace.write_text(fault.format(5) + fault.format(2) + fault.format(5), "utf-8")
    assert traced_reasons(trace) == {3: ("0x5", "0x2")}


def scripted(folder, iommu, topology, append, *lines):
    """The DMAs of a script under Linux 6.1, as a transcript without answers."""
    path = folder / "script.out"
    steps = [f"STEP {number}: {line}" for number, line in enumerate(lines, start=1)]
    head = [
        f'MACHINE arch=x86_64 iommu={iommu} topology={topology} append="{append}"',
        "BOOT uname=6.1.0-56-amd64",
        f"CMDLINE {append}",
    ]
    path.write_text("\n".join([*head, *steps, f"END steps={len(steps)}"]), "utf-8")
    return dmas(path)


def test_a_dma_is_shown_beside_the_entry_that_its_requests_get(tmp_path):
    setup = ("buf A 1", "dev D 0000:01:00.0", "bar D", "bind D vfio-pci", "group G D")
    use = ("container C", "setcontainer G C", "setiommu C 3", "cmd D 0x6", "wphys D A 64")
    rows = [
        next(scripted(tmp_path, iommu, "rp", append, *setup, *use).itertuples())
        for iommu, append in (("intel", "intel_iommu=on iommu=pt"), ("amd", "iommu=pt"))
    ]
    # To QEMU's AMD IOMMU a function behind a port is the host bridge, which nobody claimed.
    assert [row.hardware for row in rows] == ["table", "bypass"]
    assert [row.predicted for row in rows] == ["BLOCKED", "LANDED"]


def test_what_stops_a_preload_is_not_told_of_the_next_dma(tmp_path):
    setup = ("buf A 1", "dev D 0000:00:03.0", "bar D", "cmd D 0x6", "preload D 0x1000 A 0")
    use = "w D 0x1000 64 A 0"
    (dma,) = scripted(tmp_path, "intel", "single", "intel_iommu=on", *setup, use).itertuples()
    assert (dma.predicted, dma.expects) == ("BLOCKED", "0x5")


def test_half_a_transcript_is_refused(tmp_path):
    lines = (FOLDER / "core-6.1-pt.out").read_text("utf-8").splitlines()
    half = tmp_path / "half.out"
    half.write_text("\n".join(lines[:90]), "utf-8")
    with pytest.raises(TranscriptError, match=r"half:\d+: cut off"):
        dmas(half)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"step=1 n=1 vtd_inv_desc_cc_device x\nhello\n", 2),
        (b"\x00\xff\n" * 9, 1),
        (b"x" * 2_000_000, 1),
        (b"step=1 n=16 vtd_dmar_fault sid 0x18 fault ? addr\n", 1),
    ],
    ids=["text", "junk", "one long line", "no reason"],
)
def test_a_trace_that_is_none_is_refused_with_its_line(content, line, tmp_path):
    trace = tmp_path / "bad.qemu"
    trace.write_bytes(content)
    with pytest.raises(TranscriptError, match=rf"bad.qemu:{line}: ") as refused:
        traced_reasons(trace)
    assert len(str(refused.value)) < 200


def test_a_log_of_attachlab_is_refused_since_its_dmas_are_not_steps():
    with pytest.raises(TranscriptError, match="iotest"):
        dmas(FOLDER / "attachlab-6.1-intel-on-claim.log")


def test_a_reason_has_words_and_an_unknown_one_says_which_are_known():
    assert in_words("0x2") == "the device has no context entry"
    assert in_words("0x5, 0x4") == f"{in_words('0x5')}, {in_words('0x4')}"
    with pytest.raises(UnknownName, match="0x77"):
        in_words("0x77")
