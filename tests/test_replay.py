"""Transcripts of real kernels beside the model."""

import json
import re
from pathlib import Path

import pytest

from iommu_lab import cli
from iommu_lab.captures import TranscriptError, replay
from iommu_lab.captures.attachlab import Attachlab
from iommu_lab.captures.dialects import parse, read
from iommu_lab.captures.iotest import IoTest
from iommu_lab.captures.replay import predict, rows

FOLDER = Path(__file__).parents[1] / "data" / "captures"
SHIPPED = sorted([*FOLDER.glob("*.out"), *FOLDER.glob("*.log")])
ONE = next(path for path in SHIPPED if path.name == "core-6.1-on.out")

ANSWERS = re.compile(r"^(RESULT|MAP|UNMAP|GROUP|NOGROUP|INFO|PRELOAD|  )")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_model_predicts_every_answer_of_a_shipped_transcript(path):
    table = replay(path)
    wrong = table[table["verdict"] != "agree"]
    assert wrong.empty, wrong[["line", "verb", "what", "predicted", "measured"]].to_string()


@pytest.mark.parametrize(
    "path", [path for path in SHIPPED[::9] if path.suffix == ".out"], ids=lambda path: path.stem
)
def test_a_transcript_without_answers_gets_the_same_predictions(path):
    whole = read(path)
    kept = [line for line in path.read_text("utf-8").splitlines() if not ANSWERS.match(line)]
    bare = parse("\n".join(kept).encode() + b"\n", path.stem)
    said, again = predict(whole.inputs), predict(bare.inputs)
    assert [p.value for p in again.predictions] == [p.value for p in said.predictions]


def test_a_wrong_answer_is_a_difference_with_its_line():
    text = ONE.read_text("utf-8")
    wrong = text.replace("outcome=LANDED", "outcome=BLOCKED", 1)
    at = next(
        n
        for n, (a, b) in enumerate(zip(text.splitlines(), wrong.splitlines(), strict=True), 1)
        if a != b
    )
    differ = [row for row in rows(parse(wrong.encode(), "wrong")) if row.verdict == "disagree"]
    assert [row.line for row in differ] == [at]


def test_the_summary_ends_with_the_total(capsys):
    assert cli.main(["replay", str(ONE)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"core-6.1-on.out: \d+ agree, 0 disagree, 0 not modelled", lines[0])
    assert re.fullmatch(r"TOTAL: (\d+) of \1 agree", lines[-1])


def test_a_brief_summary_has_a_line_for_each_kernel_and_iommu(capsys):
    names = ("core-6.12-virtio.out", "core-6.1-on.out", "core-6.1-off.out", "core-6.1-intelsm.out")
    assert cli.main(["replay", "--brief", *(str(FOLDER / name) for name in names)]) == 0
    told = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert told == ["6.1 on intel, 3 transcripts", "6.12 on virtio, 1 transcript", "TOTAL"]


def test_a_brief_summary_still_names_a_file_that_is_no_transcript(tmp_path, capsys):
    bad = tmp_path / "bad.out"
    bad.write_bytes(b"hello\n")
    assert cli.main(["replay", "--brief", str(bad), str(ONE)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("bad.out:1: ")
    assert lines[1].startswith("6.1 on intel, 1 transcript: ")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello\n", b"\x00\xff" * 999, b"MACHINE arch=x86_64\n", b"x" * 2_000_000],
    ids=["empty", "text", "junk", "cut off", "one long line"],
)
def test_a_file_that_is_no_transcript_is_one_line_and_the_others_run(content, tmp_path, capsys):
    bad = tmp_path / "bad.out"
    bad.write_bytes(content)
    with pytest.raises(TranscriptError, match=r"bad:\d+: "):
        replay(bad)
    assert cli.main(["replay", str(bad), str(ONE)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert len(lines[0]) < 300
    assert lines[1].startswith("core-6.1-on.out: ")


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("STEP 1: buf A 4", "STEP 1: buf Z 4", "there is no buffer named 'A'"),
        ("STEP 1: buf A 4", "STEP 1: buf A 0", "buf takes a count from 1 to 4096, got '0'"),
        ("STEP 1: buf A 4", "STEP 1: buf A -4", "buf takes a count from 1 to 4096, got '-4'"),
        ("STEP 1: buf A 4", "STEP 1: buf A 99999999999", "buf takes a count from 1 to 4096"),
        ("D A 64 S01", "D A 99999999999 S01", "wphys takes a length from 0 to 4096"),
        ("STEP 4: groups", "STEP 4: settle -1", "settle takes a time from 0 to 1000000"),
        ("0x1000 64 A 0 S02", "0x1000 5000 A 0 S02", "w takes a length from 0 to 4096"),
    ],
)
def test_what_no_script_can_ask_for_is_refused_with_its_line(was, now, said):
    text = ONE.read_text("utf-8")
    assert was in text
    with pytest.raises(TranscriptError, match=rf"odd:\d+: {said}"):
        parse(text.replace(was, now, 1).encode(), "odd")


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("EEXIST(17)", "EEXIST(18)", r"EEXIST is 17, and the line has EEXIST\(18\)"),
        ("RESULT step=8 ", "RESULT step=9 ", "step='9', and step 8 asked for '8'"),
        ("dev=D dir=W iova=0x1000", "dev=D dir=W iova=0x2000", "iova='0x2000', and step 9 asked"),
        ("iova=0x29e7000 len=64", "iova=0x29e8000 len=64", "and step 8 asked for '0x29e7000'"),
        ("iova=0x2000 len=0x1000 prot=r ", "iova=0x2000 len=0x1000 prot=w ", "asked for 'r'"),
        ("UNMAP step=63 iova=0x1000", "UNMAP step=63 iova=0x0", "step 63 asked for '0x1000'"),
        ("PRELOAD dev=D iova=0x10000000", "PRELOAD dev=D iova=0x1", "asked for '0x10000000'"),
    ],
)
def test_an_answer_to_something_else_than_its_step_is_refused_with_its_line(was, now, said):
    text = ONE.read_text("utf-8")
    assert was in text
    at = text[: text.index(was)].count("\n") + 1
    with pytest.raises(TranscriptError, match=rf"^odd:{at}: .*{said}"):
        parse(text.replace(was, now, 1).encode(), "odd")


def test_a_function_that_should_be_there_and_is_not_is_told_apart_from_silence(tmp_path, capsys):
    text = (FOLDER / "attachlab-6.1-intel-on-detach.log").read_text("utf-8")
    amd = tmp_path / "amd.log"
    amd.write_text(text.replace("iommu=intel ", "iommu=amd ", 1), "utf-8")
    assert cli.main(["replay", "--show", str(amd)]) == 1
    assert "0000:00:01.0: the model says that it is there, the kernel nothing" in (
        capsys.readouterr().out
    )


def test_a_file_that_ends_before_the_first_answer_proves_nothing(tmp_path, capsys):
    head = tmp_path / "head.out"
    head.write_text(ONE.read_text("utf-8").partition("STEP 4:")[0], "utf-8")
    assert cli.main(["replay", str(head)]) == 1
    assert "head.out:57: cut off" in capsys.readouterr().out


def test_a_file_whose_answers_are_gone_says_how_many(tmp_path, capsys):
    bare = tmp_path / "bare.out"
    kept = [line for line in ONE.read_text("utf-8").splitlines() if not ANSWERS.match(line)]
    bare.write_text("\n".join(kept), "utf-8")
    assert cli.main(["replay", str(bare)]) == 1
    assert re.search(r" 0 not modelled, \d+ without an answer\n", capsys.readouterr().out)


def test_a_word_that_a_verb_has_no_use_for_changes_nothing():
    text = ONE.read_text("utf-8").replace("64 S01-unbound-default-phys", "64 S01 more words", 1)
    assert {row.verdict for row in rows(parse(text.encode(), "odd"))} == {"agree"}


@pytest.mark.parametrize("where", ["__init__", "run"])
@pytest.mark.parametrize("name", ["core-6.1-on.out", "attachlab-6.1-intel-on-claim.log"])
def test_where_the_model_itself_fails_the_other_files_still_run(name, where, monkeypatch, capsys):
    one = FOLDER / name
    program = IoTest if one.suffix == ".out" else Attachlab

    def fail(*_):
        raise IndexError("no such page\nand more")

    monkeypatch.setattr(program, where, fail)
    other = FOLDER / ("attachlab-6.1-intel-on-maps.log" if one.suffix == ".out" else ONE.name)
    assert cli.main(["replay", str(one), str(other)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{name}:\d+: the model fails here \(IndexError: no such page\)", lines[0])
    assert lines[1].startswith(f"{other.name}: ")
    assert len(lines) == 3


def test_an_unknown_verb_is_named_with_its_line():
    text = ONE.read_text("utf-8").replace("STEP 3: dev D", "STEP 3: frobnicate D", 1)
    with pytest.raises(TranscriptError, match=r":\d+: .*frobnicate"):
        parse(text.encode(), "odd")


def test_what_is_not_modelled_is_said_and_counts_against_the_model(tmp_path, capsys):
    text = ONE.read_text("utf-8").replace("STEP 4:", "  frobnicate -> OK(0)\nSTEP 4:", 1)
    more = tmp_path / "more.out"
    more.write_text(text, "utf-8")
    assert cli.main(["replay", str(more)]) == 1
    assert capsys.readouterr().out.splitlines()[0].endswith(" 0 disagree, 1 not modelled")


def test_the_whole_table_can_be_had_as_json(tmp_path):
    into = tmp_path / "all.json"
    cli.main(["replay", str(ONE), "--json", str(into)])
    told = json.loads(into.read_text("utf-8"))
    assert {row["verdict"] for row in told} == {"agree"}
