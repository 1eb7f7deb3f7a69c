"""The benchmark's short form: everybody gives the same answers. Nothing here looks at a clock."""

from __future__ import annotations

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
