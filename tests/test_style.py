"""Is the house in order: rules that can be counted, so that nobody has to remember them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "iommu_lab"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [
    *MODULES,
    *sorted((ROOT / "tools").rglob("*.py")),
    *sorted((ROOT / "tests").rglob("*.py")),
]

# The stair: a floor may use those before it, never those after it or beside the stair. The
# checker stands below the verbs, since it reads hardware alone and knows none of them.
STAIR = [
    *("errors", "datafiles", "domains", "tables", "hardware"),
    *("verdict", "owners", "accesses", "partition", "dma_fast", "dma"),
    *(
        "machine",
        "releases",
        "drivers",
        "state",
        "bootline",
        "pagetables",
        "behaviours",
        "core",
        "dmaapi",
    ),
    "lab",
]

SCREENS = {"IPython", "anywidget", "ipywidgets", "matplotlib"}
MAY_SEE_SCREENS = {"check", "explore", "figures", "picture"}


def imports(path: Path) -> Iterator[str]:
    """Everything a module imports while it runs, at its top or inside a function.

    ``iommu_lab.x`` for its neighbours. What is imported for a type checker alone is left out.
    """
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ["iommu_lab"] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from ([base] if node.module else [f"{base}.{a.name}" for a in node.names])
        waiting += ast.iter_child_nodes(node)


def neighbours(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("iommu_lab.")} - {
        "__version__"
    }


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing():
    run("ruff", "check", ".")


def test_everything_is_formatted():
    run("ruff", "format", "--check", ".")


def test_types_agree():
    run("mypy")


@pytest.mark.parametrize("floor", STAIR)
def test_a_floor_uses_only_the_floors_before_it(floor):
    allowed = set(STAIR[: STAIR.index(floor)])
    assert neighbours(PACKAGE / f"{floor}.py") - allowed == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_what_draws_knows_of_screens(path):
    seen = {name.split(".")[0] for name in imports(path)} & SCREENS
    assert not seen or path.relative_to(PACKAGE).parts[0].removesuffix(".py") in MAY_SEE_SCREENS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_begins_by_saying_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_nothing_is_called_utils_or_helpers_or_manager():
    names = {path.stem for path in SOURCES}
    classes = {
        node.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert names & {"utils", "util", "helpers", "helper", "common", "misc"} == set()
    assert [name for name in classes if name.endswith(("Manager", "Helper"))] == []
