"""The README is run: what a stranger pastes gives what stands below it."""

import doctest
import re
from pathlib import Path

import pytest
from replay_summary import rewritten

ROOT = Path(__file__).parents[1]


def test_the_lines_of_the_readme_give_what_it_says():
    found = doctest.testfile(str(ROOT / "README.md"), module_relative=False, encoding="utf-8")
    assert found.attempted > 15
    assert found.failed == 0


def test_the_readme_names_every_lesson_in_order():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lessons = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    places = [text.find(f"`{lesson}`") for lesson in lessons]
    assert -1 not in places
    assert places == sorted(places)


def test_what_the_readme_links_to_is_there():
    for name in (
        *("docs/explorer.png", "teaching/guide.md", "docs/glossary.md", "CONTRIBUTING.md"),
        *("benchmarks/results.md", "benchmarks/attempts.md", "docs/scale.md"),
    ):
        assert (ROOT / name).is_file()
        assert name in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_summary_of_the_replay_is_todays():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == rewritten(text), "stale: run tools/replay_summary.py"
    assert re.search(r"^TOTAL: (\d+) of \1 agree$", text, re.MULTILINE)


def test_a_readme_without_its_summary_is_refused():
    with pytest.raises(ValueError, match="one block that ends in TOTAL, got 0"):
        rewritten("# iommu_lab\n")
