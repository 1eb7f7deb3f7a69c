"""Do the teaching files speak of the lessons that are there?"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
LESSONS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
GUIDE = (ROOT / "teaching" / "guide.md").read_text(encoding="utf-8")
TIMETABLES = re.findall(r"^## (.+)\n\n\| Time \|.+\n\|.+\n((?:\|.+\n)+)", GUIDE, re.MULTILINE)

every_lesson = pytest.mark.parametrize("stem", LESSONS)


def headings(stem: str) -> list[str]:
    cells = nbformat.read(LESSONS[stem], as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def lesson(number: str) -> str:
    return next(stem for stem in LESSONS if stem.startswith(f"{number}_"))


def minutes(stem: str) -> int:
    box = nbformat.read(LESSONS[stem], as_version=4).cells[0].source
    return int(re.search(r"\*\*Takes\*\* about (\d+) minutes", box)[1])


@every_lesson
def test_a_lesson_has_a_page_with_its_title(stem):
    page = (ROOT / "teaching" / f"{stem}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {stem[:2]} · {headings(stem)[0]}\n")
    for part in ("**Point**", "**Minutes**", "**Start with**", "**Ask**", "| They will say |"):
        assert part in page
    assert "**If late**" in page
    assert "**Common wrong answers**" in page


@every_lesson
def test_a_page_and_its_lesson_give_the_same_minutes(stem):
    page = (ROOT / "teaching" / f"{stem}.md").read_text(encoding="utf-8")
    talk, do = map(int, re.search(r"\*\*Minutes\*\* (\d+) talk, (\d+) do", page).groups())
    assert talk + do == minutes(stem)


def test_there_are_three_timetables():
    assert [name.partition(" (")[0] for name, _ in TIMETABLES] == [
        "45 minutes",
        "Half a day",
        "A day",
    ]


@pytest.mark.parametrize(("name", "rows"), TIMETABLES, ids=[name for name, _ in TIMETABLES])
def test_every_section_that_a_timetable_names_is_there(name, rows):
    named = re.findall(r"(\d\d)#(.+?) \|$", rows, re.MULTILINE)
    assert named
    for number, heading in named:
        assert heading in headings(lesson(number)), f"{number}#{heading}"


@pytest.mark.parametrize(("name", "rows"), TIMETABLES, ids=[name for name, _ in TIMETABLES])
def test_a_timetable_runs_forward(name, rows):
    times = [int(h) * 60 + int(m) for h, m in re.findall(r"^\| (\d+):(\d\d) ", rows, re.MULTILINE)]
    assert times == sorted(set(times))
    assert len(times) == rows.count("\n")


def test_the_lessons_that_are_there_are_in_the_list_of_numbers():
    taken = re.findall(r"^\| (\d\d) \|", GUIDE, re.MULTILINE)
    assert taken == sorted(taken)
    assert {stem[:2] for stem in LESSONS} <= set(taken)
