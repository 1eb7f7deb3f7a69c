"""The benchmark's short form: everybody gives the same answers. Nothing here looks at a clock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
