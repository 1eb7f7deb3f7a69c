"""lab.py: does a stranger get in, and is nothing of theirs lost on the way?"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parents[1] / "lab.py"


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """The names in lab.py, with a folder of the test's own to set up."""
    monkeypatch.setenv("IOMMU_LAB_VENV", str(tmp_path / "venv"))
    monkeypatch.delenv("IOMMU_LAB_INSTALLER", raising=False)
    return runpy.run_path(str(LAB))


@pytest.fixture
def asked(lab, monkeypatch):
    """The commands that would install something, noted down instead of carried out."""
    commands = []

    def note(command, **_):
        commands.append([str(word) for word in command])
        return 0

    scope = lab["set_up"].__globals__
    monkeypatch.setattr(scope["subprocess"], "call", note)
    monkeypatch.setattr(scope["subprocess"], "check_call", note)
    monkeypatch.setitem(scope, "runs", lambda *command: note(command) == 0)
    monkeypatch.setitem(scope, "make_venv", lambda: scope["VENV"].mkdir(exist_ok=True))
    return commands


def test_an_older_python_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer"):
        runpy.run_path(str(LAB))


def test_the_second_start_installs_nothing(lab, asked):
    lab["set_up"]()
    first = len(asked)
    lab["set_up"]()
    assert first > 0
    assert len(asked) == first


def test_another_lock_is_set_up_again(lab, asked, monkeypatch, tmp_path):
    lab["set_up"]()
    first = len(asked)
    other = tmp_path / "requirements.lock"
    other.write_text(lab["LOCK"].read_text() + "# another\n")
    monkeypatch.setitem(lab["set_up"].__globals__, "LOCK", other)
    lab["set_up"]()
    assert len(asked) == 2 * first


def test_every_package_is_checked_against_the_lock(lab, asked):
    lab["set_up"]()
    *packages, ourselves = asked
    assert all("--require-hashes" in command for command in packages)
    assert {"--no-deps", "--no-build-isolation"} <= set(ourselves)


def test_pip_takes_over_when_uv_cannot_be_had(lab, asked, monkeypatch):
    monkeypatch.setitem(lab["set_up"].__globals__, "runs", lambda *_: False)
    lab["set_up"]()
    assert [command[2] for command in asked] == ["pip", "pip"]
    assert str(lab["LOCK"]) in asked[0]


def test_uv_alone_is_cut_out_of_the_lock_with_its_digests(lab):
    lab["VENV"].mkdir()
    lines = lab["lock_of_uv"]().read_text().splitlines()
    assert lines[0].startswith("uv==")
    assert len(lines) > 1
    assert all(line.strip().startswith("--hash=sha256:") for line in lines[1:])


def test_a_folder_that_holds_something_else_is_left_alone(lab):
    lab["VENV"].mkdir()
    (lab["VENV"] / "thesis.tex").write_text("mine")
    with pytest.raises(SystemExit, match="will not be overwritten"):
        lab["set_up"]()
    assert (lab["VENV"] / "thesis.tex").read_text() == "mine"


def test_an_unfinished_set_up_is_begun_again(lab, asked, monkeypatch):
    monkeypatch.setitem(lab["set_up"].__globals__, "runs", lambda *_: False)
    monkeypatch.setattr(lab["subprocess"], "call", lambda *_: 1)
    with pytest.raises(SystemExit, match="Run the same command again"):
        lab["set_up"]()
    assert not (lab["VENV"] / "iommu_lab.stamp").exists()


@pytest.mark.parametrize(
    ("words", "become"),
    [
        ([], ["lab"]),
        (["--no-browser"], ["lab", "--no-browser"]),
        (["reset", "03"], ["reset", "03"]),
        (["--version"], ["--version"]),
    ],
)
def test_every_word_goes_to_the_command_that_is_meant(words, become, lab, asked, monkeypatch):
    gone_to = []
    monkeypatch.setitem(lab["main"].__globals__, "become", lambda *words: gone_to.extend(words))
    lab["main"](words)
    assert gone_to == ["-m", "iommu_lab", *become]
