"""The benchmark's short form: everybody gives the same answers. Nothing here looks at a clock."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_every_approach_gives_the_same_verdicts_and_addresses():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks", "--short"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "random, 1000 mappings: all" in done.stdout
    assert "python bisect loop" in done.stdout


def test_an_approach_that_differs_is_not_timed():
    done = subprocess.run([sys.executable, "-c", DIFFERS], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "b and a disagree in 1 rows, first in row 2: 9, not 0"


@pytest.fixture
def benchmarks(monkeypatch):
    """The package, which is not installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import __main__, saved

    return __main__, saved


def test_what_was_measured_meets_all_that_is_asked(benchmarks):
    main, saved = benchmarks
    lines = saved.read("results", saved.Line)
    met = {(line.approach, line.pattern, int(line.mappings)): line.met for line in lines}
    assert main.ASKED.keys() <= met.keys()
    assert [cell for cell, says in met.items() if says == "NO"] == []
    allowed = {"yes", "gate"}
    for cell in main.ASKED:
        assert met[cell] in allowed | ({"not measured"} if cell[0] == "two cores" else set())
    assert [cost for cost in saved.read("costs", saved.Cost) if cost.met == "NO"] == []


def test_there_is_no_cliff(benchmarks):
    main, saved = benchmarks
    spots = saved.read("grid", saved.Spot)
    assert len(spots) == 5 * 3 * 3 * 2
    assert [spot for spot in spots if float(spot.rate) < main.LEAST] == []


def test_the_readme_quotes_what_was_measured(benchmarks):
    _, saved = benchmarks
    lines, where = saved.read("results", saved.Line), saved.where("results")
    assert saved.quoted(ROOT / "README.md", saved.COMMAND) == saved.how_fast(lines, where)


def test_a_page_says_what_its_rows_say(benchmarks):
    _, saved = benchmarks
    for page, name, kind in (
        ("results", "results", saved.Line),
        ("results", "costs", saved.Cost),
        ("grid", "grid", saved.Spot),
    ):
        text = (ROOT / "benchmarks" / f"{page}.md").read_text(encoding="utf-8")
        assert saved.table(saved.read(name, kind)) in text


def test_the_page_on_scale_calculates_with_what_was_measured(benchmarks):
    _, saved = benchmarks
    from benchmarks import cluster

    page = ROOT / "docs" / "scale.md"
    text, measured = page.read_text(encoding="utf-8"), saved.quoted(page, cluster.COMMAND)
    assert saved.table(saved.read("cluster", cluster.Way)) in measured
    rate = float(saved.read("cluster", cluster.Way)[0].rate)
    in_trace, in_verdicts = re.search(r"A row is ([\d.]+) .* and ([\d.]+) in", measured).groups()
    used = float(re.search(r"10\^12 / ([\d.]+) million = ([\d,]+) CPU-seconds", text)[1])
    assert used == pytest.approx(rate, rel=0.25)
    read, written = re.search(r"([\d.]+) TB are read and ([\d.]+) TB written", text).groups()
    assert float(read) == pytest.approx(float(in_trace), rel=0.1)
    assert float(written) == pytest.approx(float(in_verdicts), rel=0.1)


def test_the_cluster_run_makes_a_trace_of_any_length_and_compares_bytes(
    benchmarks, tmp_path, monkeypatch
):
    """The workers are test_scale's to kill; here nobody dies, and the files are looked at."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: no Parquet traces")
    from benchmarks import cluster

    def here(trace, out, kill):
        return 1.0, 1.0, cluster.check_trace(cluster.checker(), trace, out), 0.5 * kill

    monkeypatch.setattr(cluster, "one_process", here)
    monkeypatch.setattr(cluster, "two_workers", here)
    monkeypatch.setattr(cluster, "apart", lambda run, *about: (run(*about, False)[0], 1.0, 0.1))
    found, (pieces, _) = cluster.run(tmp_path, 2500, lambda what: None)
    assert [way.way for way in found][-1] == "the same, a worker killed at 50%"
    assert pieces == f"{cluster.FILES} pieces; the three ways left the same bytes."
    (tmp_path / "two" / "summary.json").write_text("{}")
    with pytest.raises(AssertionError, match=r"two/summary\.json differs from one/"):
        cluster.same(tmp_path / "one", tmp_path / "two")


DIFFERS = """
import numpy as np
from benchmarks.measure import Disagreement, Entrant, agree
def entrant(name, wrong):
    out = np.zeros(4, np.uint8), np.zeros(4, np.uint64)
    def run():
        out[0][:] = 0
        out[0][2] = wrong
    return Entrant(name, run, 4, out)
try:
    agree([entrant("a", 0), entrant("b", 9)])
except Disagreement as error:
    print(error)
"""
