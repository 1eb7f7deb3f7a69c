"""Long traces: in pieces, stopped and resumed, and on workers that die."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from iommu_lab import cli, scale
from iommu_lab.dma import Checker, Verdict
from iommu_lab.hardware import BLOCK, Entry, Frozen, Hardware, Kind
from iommu_lab.lab import Lab
from iommu_lab.scale import check_trace, pieces
from iommu_lab.scenario import Scenario
from iommu_lab.tables import PageTable, Run

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: no Parquet traces")
pq = pytest.importorskip("pyarrow.parquet")

ROWS, GROUP = 3000, 100


@pytest.fixture
def checker() -> Checker:
    table = PageTable(
        [Run(p << 12, 0x1000, (p + 77) << 12, 12, 1 + p % 3) for p in range(0, 90, 2)]
    )
    entries = Frozen(nic=Entry(Kind.TABLE, "t"), disk=BLOCK)
    return Checker(Hardware(entries, Frozen(t=table), width=39), ["nic", "disk"])


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {
        "device": rng.integers(0, 2, ROWS).astype(np.uint16),
        "iova": rng.integers(0, 100 << 12, ROWS).astype(np.uint64),
        "size": rng.integers(1, 0x3000, ROWS).astype(np.uint32),
        "write": rng.random(ROWS) < 0.5,
    }


@pytest.fixture
def trace(tmp_path, columns, monkeypatch) -> Path:
    """Two files of 15 row groups, three of which make a piece."""
    monkeypatch.setattr(scale, "PIECE", 3 * GROUP)
    monkeypatch.setattr(scale, "BATCH", 70)
    folder = tmp_path / "trace"
    folder.mkdir()
    for name, part in (("a", slice(0, ROWS // 2)), ("b", slice(ROWS // 2, ROWS))):
        table = pa.table({key: column[part] for key, column in columns.items()})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=GROUP)
    return folder


def told(out: Path) -> tuple[list[int], list[int]]:
    table = pa.concat_tables(pq.read_table(f) for f in sorted(out.glob("*.parquet")))
    return table["code"].to_pylist(), table["addr"].to_pylist()


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_a_trace_in_pieces_is_answered_row_for_row(tmp_path, checker, columns, trace):
    summary = check_trace(checker, trace, tmp_path / "out")
    code, addr = checker.check(*columns.values())
    assert told(tmp_path / "out") == (code.tolist(), addr.tolist())
    assert len(pieces(trace)) == 10
    assert summary.rows == ROWS
    assert summary.counts == {
        Verdict(c).name: n
        for c, n in zip(*map(np.ndarray.tolist, np.unique(code, return_counts=True)), strict=True)
    }
    first = int(np.flatnonzero(code == Verdict.NOT_MAPPED)[0])
    fault = summary.faults["NOT_MAPPED"][0]
    assert (fault.file, fault.row, fault.iova) == ("a.parquet", first, columns["iova"][first])
    assert all(len(some) <= scale.FIRST for some in summary.faults.values())
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rows"] == ROWS


def test_devices_are_named_or_numbered(tmp_path, checker, columns):
    answers = []
    names = np.array(checker.devices)[columns["device"]]
    for number, device in enumerate(
        (columns["device"], names.tolist(), pa.array(names.tolist()).dictionary_encode())
    ):
        file = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({**columns, "device": device}), file)
        check_trace(checker, file, tmp_path / f"out{number}")
        answers.append(told(tmp_path / f"out{number}"))
    assert answers[0] == answers[1] == answers[2]


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_files(
    tmp_path, checker, trace, monkeypatch
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    expected = check_trace(checker, trace, whole)

    class Stop(Exception):
        pass

    def stop(rows: int, total: int) -> None:
        if rows > total / 2:
            raise Stop

    with pytest.raises(Stop):
        check_trace(checker, trace, out, progress=stop)
    before = {path.name: path.stat().st_ino for path in out.glob("*.parquet")}
    assert 0 < len(before) < 10
    assert not list(out.glob(".*"))

    assert check_trace(checker, trace, out) == expected
    after = {path.name: path.stat().st_ino for path in out.glob("*.parquet")}
    assert {name: after[name] for name in before} == before
    assert bytes_of(out) == {**bytes_of(whole)}


def test_results_of_another_check_are_not_mixed_with_these(tmp_path, checker, trace):
    out = tmp_path / "out"
    check_trace(checker, trace, out)
    other = Checker(Hardware(Frozen(nic=BLOCK, disk=BLOCK)), ["nic", "disk"])
    with pytest.raises(ValueError, match="holds the results of another check"):
        check_trace(other, trace, out)
    with pytest.raises(ValueError, match="is not empty and holds no results"):
        check_trace(checker, trace, tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("size", 0, "size is 0"),
        ("iova", None, "iova is missing"),
        ("device", 7, "device 7 does not exist"),
        ("device", "nik", "unknown device 'nik': "),
    ],
)
def test_a_row_that_is_no_access_stops_the_piece_and_leaves_no_file(
    tmp_path, checker, columns, monkeypatch, column, value, says
):
    monkeypatch.setattr(scale, "BATCH", 70)
    rows = {key: each.tolist() for key, each in columns.items()}
    if isinstance(value, str):
        rows["device"] = [checker.devices[d] for d in rows["device"]]
    rows[column][145] = value
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table(rows), file)
    with pytest.raises(ValueError, match=f"t.parquet: row 145: {says}"):
        check_trace(checker, file, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["check.json"]


def test_what_is_no_trace_is_named(tmp_path, checker):
    with pytest.raises(ValueError, match=r"holds no \.parquet files"):
        check_trace(checker, tmp_path, tmp_path / "out")
    (tmp_path / "t.parquet").write_text("device,iova")
    with pytest.raises(ValueError, match=r"t\.parquet is no Parquet file: Parquet"):
        check_trace(checker, tmp_path / "t.parquet", tmp_path / "out")
    with pytest.raises(ValueError, match=r"none\.parquet does not exist; a trace is"):
        check_trace(checker, tmp_path / "none.parquet", tmp_path / "out")
    pq.write_table(pa.table({"device": [0], "iova": [0], "size": [1]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="has no column 'write'"):
        check_trace(checker, tmp_path / "t.parquet", tmp_path / "out")


def test_the_command_judges_by_what_the_scenario_ends_in(tmp_path, capsys):
    lab = Lab(release="6.0", driver="amd")
    domain = lab.alloc_domain("unmanaged")
    lab.map(domain, 0x1000, 0x8000_0000, 0x1000, "r")
    lab.attach_group(domain, 0)
    Scenario.from_lab(lab).save(tmp_path / "s.toml")
    rows = {"device": ["dev0"] * 3, "iova": [0x1000, 0x1000, 0x2000], "size": [8, 8, 8]}
    pq.write_table(pa.table({**rows, "write": [False, True, False]}), tmp_path / "t.parquet")
    words = ["check", str(tmp_path / "s.toml"), str(tmp_path / "t.parquet"), "-o"]
    assert cli.main([*words, str(tmp_path / "out")]) == 0
    assert told(tmp_path / "out")[0] == [
        Verdict.TRANSLATED,
        Verdict.NO_PERMISSION,
        Verdict.NOT_MAPPED,
    ]
    said = capsys.readouterr().out
    assert "3 accesses" in said
    assert "t.parquet row 1: dev0 writes 0x8 bytes at 0x1000" in said

    assert cli.main([*words[:2], str(tmp_path / "none.parquet"), "-o", str(tmp_path / "o")]) == 2
    assert "none.parquet" in capsys.readouterr().err
    assert cli.main([*words, str(tmp_path / "s.toml")]) == 2
    assert "s.toml is a file; verdicts go into a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*words, str(tmp_path / "o"), "--workers", "0"])
    assert "0 workers do nothing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*words, str(tmp_path / "o"), "--workers", "many"])
    assert "a number of workers is wanted, got 'many'" in capsys.readouterr().err
    assert cli.main(["check", str(tmp_path), *words[2:], str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err == f"iommu-lab check: {tmp_path}: Is a directory\n"


def test_a_command_that_is_interrupted_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    Scenario.from_lab(Lab(release="6.0", driver="amd")).save(tmp_path / "s.toml")

    def interrupted(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scale, "check_trace", interrupted)
    words = ["check", str(tmp_path / "s.toml"), "t.parquet", "-o", str(tmp_path / "out")]
    assert cli.main(words) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")  # dask's own; the cluster is not what is tested
def test_a_worker_that_is_killed_loses_nothing(tmp_path, checker, trace, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    # So small batches that there is a middle to be killed in.
    monkeypatch.setattr(scale, "BATCH", 3)
    expected = check_trace(checker, trace, tmp_path / "whole")
    killed = []

    def kill_one(rows: int, total: int) -> None:
        if not killed:
            assert rows < total
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as here,
        distributed.Client(here) as client,
    ):
        summary = check_trace(checker, trace, tmp_path / "out", client=client, progress=kill_one)
    assert killed
    assert summary == expected
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
