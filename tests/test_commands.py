"""The command line: does each word lead somewhere, and does a wrong one get a useful answer?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from iommu_lab import doctor, labserver
from iommu_lab.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_a_function_behind_it(command):
    module, function = command.where.split(":")
    assert callable(getattr(import_module(f"iommu_lab.{module}"), function))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command.name, "--help"])
    assert end.value.code == 0
    assert f"usage: iommu-lab {command.name}" in capsys.readouterr().out


def test_help_lists_every_command_and_waits_for_no_library():
    code = (
        "import sys; from iommu_lab.cli import main; main([]);"
        "sys.exit(bool({'numpy', 'pandas', 'jupyterlab'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(f"  {command.name}" in done.stdout for command in COMMANDS)


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["docter"]) == 2
    assert capsys.readouterr().err == "iommu-lab: unknown command 'docter': nearest is doctor\n"


def test_an_unknown_lesson_names_those_there_are(capsys):
    assert main(["reset", "00_stert"]) == 2
    assert "nearest is 00_start.ipynb" in capsys.readouterr().err


def test_a_lesson_can_be_named_by_its_bare_number(capsys):
    assert main(["reset", "1"]) == 0
    assert capsys.readouterr().out.startswith("01_domains.ipynb")


@pytest.mark.parametrize(
    "command",
    ["audit s390", "replay data/captures/core-6.1-o*.out", "search --driver s390 --depth 1"],
)
def test_a_reader_that_has_read_enough_gets_no_traceback(command):
    files = [str(path) for path in sorted(ROOT.glob(command.split()[-1]))]
    words = [*command.split()[: -1 if files else None], *files]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "iommu_lab", *words], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_command_that_is_interrupted_ends_without_a_traceback(monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("iommu_lab.audit.main", interrupted)
    assert main(["audit"]) == 130


def test_the_doctor_is_content_with_this_installation():
    report = doctor.doctor()
    assert report.healthy, report
    assert report.says in repr(report)
    assert report.says in report._repr_html_()


def test_the_doctor_says_what_a_lesson_needs_and_what_it_can_do_without(monkeypatch):
    monkeypatch.setattr(doctor, "chromium", lambda: None)
    assert "Chromium" in doctor.doctor().says
    assert doctor.doctor().healthy
    monkeypatch.setitem(sys.modules, "pandas", None)
    report = doctor.doctor()
    assert not report.healthy
    assert report.says == "Something is missing that the lessons need: pandas."


def test_the_doctor_finds_a_jupyterlab_that_does_not_start(monkeypatch):
    monkeypatch.setattr(labserver.sys, "executable", "/bin/false")
    finding = doctor._jupyterlab()
    assert finding.verdict == "BROKEN"
    assert "did not start" in finding.says


def test_a_lesson_gets_its_original_back_and_the_answers_are_kept(tmp_path):
    subprocess.run(["git", "clone", "-q", ROOT, tmp_path / "clone"], check=True)
    lesson = tmp_path / "clone" / "notebooks" / "00_start.ipynb"
    original = lesson.read_bytes()
    lesson.write_text("my answers")
    reset = [sys.executable, "-m", "iommu_lab", "reset", "00"]
    subprocess.run(reset, cwd=tmp_path / "clone", check=True)
    assert lesson.read_bytes() == original
    assert lesson.with_name("00_start.ipynb.old").read_text() == "my answers"
    lesson.write_text("my second answers")
    subprocess.run(reset, cwd=tmp_path / "clone", check=True)
    assert lesson.with_name("00_start.ipynb.old").read_text() == "my answers"
    assert lesson.with_name("00_start.ipynb.old2").read_text() == "my second answers"


def test_the_lab_opens_on_the_first_notebook_and_keeps_its_token():
    command = [sys.executable, "-m", "iommu_lab", "lab", "--no-browser", "--port=0"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as lab:
        try:
            address = next(
                line for line in lab.stderr if "/lab/tree" in line and "127.0.0.1" in line
            )
        finally:
            lab.terminate()
            lab.stderr.read()
    assert re.search(r"/lab/tree/notebooks/00_start\.ipynb\?token=[0-9a-f]{48}", address)


def test_a_runtime_folder_too_deep_for_sockets_falls_back_to_tcp():
    shallow, deep = Path("/run/jupyter"), Path("/home") / ("very" * 30)
    assert ("--KernelManager.transport=ipc" in labserver.options(ROOT, "", shallow)) == (
        os.name != "nt"
    )
    assert "--KernelManager.transport=ipc" not in labserver.options(ROOT, "", deep)


def test_only_root_is_allowed_to_be_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    assert "--allow-root" not in labserver.options(ROOT, "", ROOT)
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    assert "--allow-root" in labserver.options(ROOT, "", ROOT)
