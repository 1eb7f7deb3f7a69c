"""Is the house in order: rules that can be counted, so that nobody has to remember them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
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

SCREENS = {"IPython", "anywidget", "ipywidgets", "matplotlib"}
MAY_SEE_SCREENS = {"check", "explore", "figures", "picture"}


def imports(path: Path) -> Iterator[str]:
    """Everything a module imports while it runs, at its top or inside a function.

    ``iommu_lab.x`` for its neighbours. What is imported for a type checker alone is left out.
    """
    package = path.relative_to(ROOT).parent.parts
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from ([base] if node.module else [f"{base}.{a.name}" for a in node.names])
        waiting += ast.iter_child_nodes(node)


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def part(path: Path) -> str:
    """The module of the package that a file is, or the folder of modules that it is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms() -> list[list[str]]:
    """The rooms of the house from the top of CONTRIBUTING's table down, each with its modules."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = re.search(r"^\| Room .*\n\|.*\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    return [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()]


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


def test_every_module_is_named_in_one_room():
    named = [module for room in rooms() for module in room]
    there = {part(path) for path in MODULES}
    assert sorted(named) == sorted(there - {"__init__", "__main__"})


@pytest.mark.parametrize("number", range(len(rooms())))
def test_a_room_uses_only_itself_and_the_rooms_above_it(number):
    house = rooms()
    above = {module for room in house[: number + 1] for module in room}
    below = {f"iommu_lab.{module}" for room in house for module in room if module not in above}
    for path in (path for path in MODULES if part(path) in house[number]):
        used = {".".join(module.split(".")[:2]) for module in imports(path)}
        assert used & below == set(), name(path)


def test_no_imports_go_in_a_circle():
    modules = {name(path) for path in MODULES}
    graph = {name(path): set(imports(path)) & modules for path in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_what_draws_knows_of_screens(path):
    seen = {name.split(".")[0] for name in imports(path)} & SCREENS
    assert not seen or part(path) in MAY_SEE_SCREENS


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
