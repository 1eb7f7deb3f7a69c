"""Does a real kernel, booted here and now, do what the shipped transcript says it did?"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from iommu_lab.captures import boot_here

ROOT = Path(__file__).resolve().parents[2]
NAME = "core-6.1-pt"
BOOT_SECONDS = 600  # a runner that is shared may be many times slower than a quiet core

pytestmark = pytest.mark.kernels


@pytest.fixture(scope="module")
def transcript(
    tmp_path_factory: pytest.TempPathFactory, needs: Callable[[str, str], NoReturn]
) -> Path:
    """One boot of Debian's 6.1 with an Intel IOMMU and iommu=pt: the life of one device."""
    for program in ("qemu-system-x86_64", "gcc", "apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            needs("kernels", f"{program} is absent; captures/packages.txt lists what a boot needs")
    into = tmp_path_factory.mktemp("captures")
    made = subprocess.run(
        [
            *(sys.executable, str(ROOT / "captures" / "make.py"), NAME),
            *("--into", str(into), "--limit", str(BOOT_SECONDS)),
        ],
        capture_output=True,
        text=True,
        timeout=2 * BOOT_SECONDS,
        check=False,
        env=os.environ | {"LC_ALL": "C"},
    )
    said = made.stdout + made.stderr
    if "not made: no Debian mirror" in said:
        needs("kernels", said.strip())
    assert made.returncode == 0, said
    return into / f"{NAME}.out"


def uname(text: str) -> str:
    found = re.search(r"^BOOT .*uname=(.*)$", text, re.M)
    assert found, "the kernel did not boot"
    return found[1]


def outcomes(text: str) -> dict[str, tuple[str, str]]:
    """The outcome of each DMA, and which bytes arrived, by its label."""
    results = re.findall(r"^RESULT .*outcome=(\S+) .*?map=(.*?) rc=.* label=(\S+)$", text, re.M)
    return {label: (outcome, arrived) for outcome, arrived, label in results}


def test_a_kernel_boots_and_gets_to_the_end_of_the_script(transcript: Path):
    text = transcript.read_text("utf-8")
    assert uname(text).startswith("6.1.")
    assert re.search(r"^END steps=\d+$", text, re.M)
    assert text.splitlines()[-1].startswith("DONE ")


def test_the_same_kernel_gives_the_outcomes_that_are_shipped(transcript: Path):
    here = transcript.read_text("utf-8")
    shipped = (ROOT / "data" / "captures" / f"{NAME}.out").read_text("utf-8")
    assert outcomes(here).keys() == outcomes(shipped).keys()
    # Debian's point releases move on; what another kernel did is for the model to predict.
    if uname(here) == uname(shipped):
        assert outcomes(here) == outcomes(shipped)


def test_the_model_predicts_what_this_boot_did(transcript: Path):
    engine = importlib.util.find_spec("iommu_lab.captures") and importlib.import_module(
        "iommu_lab.captures"
    )
    replay = getattr(engine, "replay", None)
    if not callable(replay):
        pytest.fail("iommu_lab.captures.replay is absent: nothing predicts this boot", False)
    table = replay(transcript)
    assert len(table) > 40
    others = table[table["verdict"] != "agree"]
    assert others.empty, others.to_string()


def test_a_lesson_boots_a_kernel_that_was_fetched_before(transcript: Path):
    booted = boot_here(NAME, BOOT_SECONDS)
    assert re.search(r"booted here just now: (\d+) of its \1 answers", booted.says), booted.says
    assert re.search(r"and (\d+) of \1 DMAs met the fault", booted.says), booted.says
    assert uname(transcript.read_text("utf-8")).split()[0] in booted.says
    assert set(booted.table.verdict) == {"agree"}
