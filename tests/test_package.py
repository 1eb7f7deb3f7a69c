"""Does the package come in one piece, and ask for no more than it needs?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import sync_env
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import iommu_lab

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STANDARD_LIBRARY_ONLY = (
    "domains tables hardware machine releases drivers pagetables state core dmaapi"
)

BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked")
sys.meta_path.insert(0, Absent())
{code}
"""


def python_without(blocked: set[str], code: str) -> None:
    """Run code in a fresh Python in which some packages can't be imported."""
    program = BLOCK.format(blocked=blocked, code=code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def locked() -> dict[str, set[str]]:
    """Package name -> the versions that the lock holds."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"(?m)^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text()
    ):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    lines = [*PROJECT["dependencies"], *build, *(line for extra in extras for line in extra)]
    return [Requirement(line) for line in lines]


def test_the_model_and_the_checker_import_without_any_screen():
    python_without(
        {"ipywidgets", "matplotlib", "anywidget", "IPython"},
        "import iommu_lab as il; il.Lab; il.Checker; il.releases(); il.drivers",
    )


def test_the_floors_import_with_the_standard_library_alone():
    modules = "; ".join(f"import iommu_lab.{name}" for name in STANDARD_LIBRARY_ONLY.split())
    python_without({"ipywidgets", "matplotlib", "numpy", "pandas", "anywidget", "IPython"}, modules)


def test_a_function_of_the_face_is_never_hidden_by_the_file_of_its_name():
    python_without(set(), "import iommu_lab.releases, iommu_lab as il; il.releases()")
    python_without(set(), "import iommu_lab.drivers, iommu_lab as il; il.drivers('6.0')")


def test_every_name_of_the_face_can_be_had():
    assert [name for name in iommu_lab.__all__ if getattr(iommu_lab, name, None) is None] == []
    assert set(iommu_lab.__all__) <= set(dir(iommu_lab))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Leb'"):
        iommu_lab.Leb  # noqa: B018


@pytest.mark.parametrize("wanted", requirements(), ids=str)
def test_the_lock_holds_what_pyproject_asks_for(wanted):
    versions = locked().get(canonicalize_name(wanted.name), set())
    assert versions
    assert [version for version in versions if version not in wanted.specifier] == []


def test_the_lock_has_a_digest_for_every_package_and_no_address():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    for package in re.findall(r"(?m)^\w[^\n]*(?:\n .*)*", text):
        assert "--hash=sha256:" in package, package.splitlines()[0]


def test_environment_yml_says_the_same_as_pyproject():
    assert (ROOT / "environment.yml").read_text() == sync_env.render()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built with nothing fetched: what the build needs is among the test extras."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", build, folder]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return folder / said.split()[-1]


def files(folder: str) -> set[str]:
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {
        path.relative_to(ROOT).as_posix()
        for path in found
        if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts) and path.suffix != ".old"
    }


def test_the_wheel_carries_all_data_and_every_lesson(wheel):
    carried = {name.removeprefix("iommu_lab/") for name in zipfile.ZipFile(wheel).namelist()}
    assert files("data") - carried == set()
    assert files("notebooks") - carried == set()


def test_an_installed_wheel_finds_its_data_and_gives_lessons_out_as_copies(wheel, tmp_path):
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    command = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--quiet"]
    subprocess.run([*command, "--python", python, wheel], check=True)
    code = "from iommu_lab.datafiles import datafile; print(datafile('drivers', 'drivers.csv'))"
    command = [python, "-c", code]
    # A PYTHONPATH of whoever runs the tests would come before the wheel.
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    asked = {"cwd": tmp_path, "env": clean, "check": True}
    said = subprocess.run(command, capture_output=True, text=True, **asked).stdout
    assert Path(said.strip()).is_relative_to(tmp_path / "venv")
    subprocess.run([python, "-m", "iommu_lab", "reset", "00"], **asked)
    copy = tmp_path / "iommu-lab" / "notebooks" / "00_start.ipynb"
    assert copy.read_bytes() == (ROOT / "notebooks" / "00_start.ipynb").read_bytes()
