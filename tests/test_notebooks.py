"""Does every lesson run, as the reader meets it and with its solutions, and is it still true?"""

from __future__ import annotations

import copy
import re
import time
from functools import cache
from pathlib import Path

import nbformat
import pytest
from build_notebooks import NOTEBOOKS, PANEL, VIEW, hidden_errors, run, still
from nbformat import NotebookNode

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
ALT = re.compile(r'\balt="([^"]*)"')
MARKS = re.compile(r'\bdata-marks="([^"]*)"')
LONGEST = 30  # seconds, from top to bottom

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
executed = pytest.mark.notebooks


def committed(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


@cache
def as_met(path: Path) -> tuple[NotebookNode, float]:
    """The notebook run as it was committed, and how many seconds that took."""
    began = time.monotonic()
    return run(committed(path)), time.monotonic() - began


@cache
def solved(path: Path) -> NotebookNode:
    """The notebook run with each solution put in place of its exercise."""
    notebook = committed(path)
    for exercise, solution in zip(
        tagged(notebook, "exercise"), tagged(notebook, "solution"), strict=True
    ):
        exercise.source = PYTHON.search(solution.source)[1]
    return run(notebook)


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode) -> list[tuple[str, NotebookNode]]:
    return [(cell.id, output) for cell in code_cells(notebook) for output in cell.outputs]


def verdicts(notebook: NotebookNode) -> list[str]:
    """What each check said, in its first words."""
    said = []
    for cell in tagged(notebook, "check"):
        texts = [o.data["text/plain"] for o in cell.outputs if "data" in o]
        assert len(texts) == 1, f"cell {cell.id}: a check says one thing, got {texts}"
        said.append(texts[0])
    return said


def readable(notebook: NotebookNode) -> dict[str, list[str]]:
    """By cell, all that a reader can read in its outputs: text, streams, pictures' alt texts.

    Of a picture there is the digest of its marks, since its bytes differ between platforms.
    """
    found = {}
    for cell in code_cells(notebook):
        if "not-compared" in cell.metadata.get("tags", []):
            continue
        lines = found.setdefault(cell.id, [])
        for output in cell.outputs:
            data = output.get("data", {})
            lines += [f"{output.name}: {output.text}"] if output.output_type == "stream" else []
            lines += [output.ename] if output.output_type == "error" else []
            lines += [data[kind] for kind in ("text/plain", "text/markdown") if kind in data]
            for name, what in (("alt", ALT), ("marks", MARKS)):
                lines += [f"{name}: {said}" for said in what.findall(data.get("text/html", ""))]
    return found


@executed
@every_notebook
def test_it_runs_as_the_reader_meets_it_and_its_checks_wait(path):
    notebook, seconds = as_met(path)
    assert [said for said in verdicts(notebook) if not said.startswith("Not yet.")] == []
    assert seconds < LONGEST


@executed
@every_notebook
def test_every_solution_passes_its_check(path):
    assert [said for said in verdicts(solved(path)) if not said.startswith("Right.")] == []


@executed
@every_notebook
def test_what_is_committed_says_what_a_fresh_run_says(path):
    fresh = still(copy.deepcopy(as_met(path)[0]))
    assert readable(committed(path)) == readable(fresh), (
        f"{path.name} is stale: run tools/build_notebooks.py {path.stem}, "
        f"or `iommu-lab reset {path.stem}` if the changes are your answers"
    )


@executed
@every_notebook
@pytest.mark.parametrize("way", ["as met", "solved"])
def test_nothing_goes_wrong_unseen(path, way):
    notebook = as_met(path)[0] if way == "as met" else solved(path)
    assert hidden_errors(notebook) == []
    assert [
        (cell, out.text) for cell, out in outputs(notebook) if out.get("name") == "stderr"
    ] == []


@every_notebook
def test_it_was_committed_executed_with_still_pictures(path):
    notebook = committed(path)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert "widgets" not in notebook.metadata
    assert [cell for cell, output in outputs(notebook) if VIEW in output.get("data", {})] == []


@every_notebook
def test_a_panel_left_its_picture_behind(path):
    for cell, output in outputs(committed(path)):
        data = output.get("data", {})
        assert data.get("text/plain") != PANEL or "text/html" in data, f"cell {cell} shows nothing"


@every_notebook
def test_every_picture_has_a_sentence(path):
    for cell, output in outputs(committed(path)):
        data = output.get("data", {})
        bare = [kind for kind in data if kind.startswith("image/")]
        assert not bare or "text/html" in data, f"cell {cell}: {bare} can carry no alt text"
        for image in re.findall(r"<img\b[^>]*>", data.get("text/html", "")):
            assert any(map(str.strip, ALT.findall(image))), f"cell {cell}: {image[:60]} has no alt"


@every_notebook
def test_an_error_is_shown_only_where_the_lesson_means_it(path):
    for cell in code_cells(committed(path)):
        failed = any(output.output_type == "error" for output in cell.outputs)
        assert failed == ("raises-exception" in cell.metadata.get("tags", [])), cell.id


@every_notebook
def test_cell_ids_are_given_by_hand(path):
    ids = [cell.id for cell in committed(path).cells]
    assert len(ids) == len(set(ids))
    assert [i for i in ids if not re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", i)] == []


@every_notebook
def test_nothing_in_it_belongs_to_one_machine_or_one_run(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"/(?:home|root|tmp|Users)/\S*", text) == []
    assert re.findall(r"\bat 0x[0-9a-f]{8,}>", text) == []


@every_notebook
def test_a_code_cell_does_one_thing_without_setup_magic(path):
    for cell in code_cells(committed(path)):
        lines = cell.source.splitlines()
        assert len(lines) <= 8, f"cell {cell.id} has {len(lines)} lines"
        assert not any(line.lstrip().startswith(("%", "!")) for line in lines), cell.id


@every_notebook
def test_it_opens_with_a_claim_and_a_box_and_ends_with_what_you_can_say(path):
    cells = committed(path).cells
    assert re.match(
        r"# \S.*\n\n\*\*You will\*\* .*\*\*Needs\*\* .*\*\*Takes\*\* about \d+ minutes",
        cells[0].source,
        re.DOTALL,
    )
    assert cells[-1].source.startswith("## What you can say now\n")
    assert len(cells) <= 25
