"""The README is run: what a stranger pastes gives what stands below it."""

import doctest
from pathlib import Path

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
    for name in ("docs/explorer.png", "teaching/guide.md", "docs/glossary.md", "CONTRIBUTING.md"):
        assert (ROOT / name).is_file()
        assert name in (ROOT / "README.md").read_text(encoding="utf-8")
