"""What a reader is told who boots a kernel where something is missing; the boots are elsewhere."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from iommu_lab.captures import boot_here, booting

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data" / "captures"


@pytest.fixture
def harness(tmp_path, monkeypatch):
    """Put a few lines of Python in the harness's place; ``into`` and ``name`` are set for them."""

    def put(body):
        path = tmp_path / "make.py"
        path.write_text(
            "import pathlib, subprocess, sys, time\n"
            "name, into = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index('--into') + 1])\n"
            f"shipped = pathlib.Path({str(SHIPPED)!r})\n{body}\n",
            "utf-8",
        )
        monkeypatch.setattr(booting, "HARNESS", path)

    return put


def test_an_installed_copy_says_that_the_harness_is_in_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(booting, "HARNESS", tmp_path / "make.py")
    assert "checkout" in boot_here().says
    assert boot_here().table.empty


def test_without_the_emulator_one_sentence_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("IOMMU_LAB_KERNELS", str(tmp_path))
    says = repr(boot_here())
    assert says.startswith("No kernel was booted here: qemu-system-x86_64 is not installed")
    assert says.count("\n") == 0


def test_a_kernel_that_was_not_fetched_is_not_fetched_now(monkeypatch, tmp_path):
    emulator = tmp_path / "qemu-system-x86_64"
    emulator.write_text("#!/bin/sh\n", "utf-8")
    emulator.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IOMMU_LAB_KERNELS", str(tmp_path / "kernels"))
    says = boot_here().says
    assert "`python3 captures/make.py core-6.1-pt --into build` fetches it once" in says
    assert not list(tmp_path.glob("kernels/apt/*/lists"))


def test_a_name_that_is_no_capture_is_answered_with_a_sentence():
    assert "no capture is called nonesuch" in boot_here("nonesuch").says


def test_a_boot_is_counted_against_the_model(harness):
    harness(
        "[(into / p.name).write_bytes(p.read_bytes()) for p in shipped.glob(name + '.*')]\n"
        "print(f'{name}: done, 7 s')"
    )
    booted = boot_here("core-6.12-pt")
    assert booted.says.startswith("Linux 6.12.118+deb13-amd64 was booted here just now: ")
    assert set(booted.table.verdict) == {"agree"}
    assert f"{len(booted.rows)} of its {len(booted.rows)} answers" in booted.says


def test_a_boot_that_differs_from_the_model_is_said_to(harness):
    harness(
        "text = (shipped / 'core-6.1-pt.out').read_text()\n"
        "(into / 'core-6.1-pt.out').write_text(text.replace('=LANDED', '=BLOCKED', 1))\n"
        "print(f'{name}: done, 7 s')"
    )
    booted = boot_here()
    wrong = booted.table[booted.table.verdict != "agree"]
    assert len(wrong) == 1
    assert f"{len(booted.rows) - 1} of its {len(booted.rows)} answers" in booted.says


def test_half_a_transcript_is_not_counted(harness):
    harness(
        "lines = (shipped / 'core-6.1-pt.out').read_text().splitlines()\n"
        "(into / 'core-6.1-pt.out').write_text('\\n'.join(lines[:90]))\n"
        "print(f'{name}: done, 7 s')"
    )
    assert boot_here().says.startswith("No kernel was booted here: it left no whole transcript (")


def test_a_boot_that_takes_too_long_is_said_to_have_been_stopped(harness):
    harness("print(f'{name}: NOT FINISHED after 20 s, 20 s'); sys.exit(1)")
    assert "it was stopped after 20 s" in boot_here(seconds=20).says


def test_when_time_is_up_the_emulator_ends_with_the_harness(harness, tmp_path, monkeypatch):
    monkeypatch.setattr(booting, "GRACE", 1.0)
    pid = tmp_path / "pid"
    harness(
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    assert "was not done within" in boot_here(seconds=1.0).says
    assert _ended(int(pid.read_text()))


def _ended(pid):
    for _ in range(200):
        shown = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
        )
        if not shown.stdout.strip() or shown.stdout.startswith("Z"):
            return True
        time.sleep(0.05)
    return False


def test_the_harness_is_where_the_package_looks_for_it():
    assert booting.HARNESS == ROOT / "captures" / "make.py"
    assert booting.HARNESS.is_file()
