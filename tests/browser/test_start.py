"""The first notebook in a real browser: does a stranger get to the lessons?"""

import pytest
from playwright.sync_api import expect
from rig import faults, open_and_run

pytestmark = pytest.mark.browser


def test_the_start_page_says_that_the_lab_runs(page, lab):
    panel = open_and_run(page, lab, "00_start.ipynb")
    expect(panel.get_by_text("Everything that the lessons need is here").first).to_be_visible()
    expect(panel.locator("[data-mime-type*=error], [data-mime-type*=stderr]")).to_have_count(0)


def test_a_title_in_the_map_opens_its_lesson(page, lab):
    panel = open_and_run(page, lab, "00_start.ipynb")
    link = panel.get_by_role("table").get_by_role("link").last
    title = link.inner_text()
    link.click()
    expect(page.get_by_role("heading", level=1, name=title).last).to_be_visible(timeout=30_000)


def test_axe_finds_nothing_serious_in_what_the_start_page_prints(page, lab):
    open_and_run(page, lab, "00_start.ipynb")
    assert faults(page, ".jp-OutputArea") == []


def test_nobody_is_asked_about_news(page, lab):
    open_and_run(page, lab, "00_start.ipynb")
    assert page.get_by_text("official Jupyter news").count() == 0


def test_without_its_token_the_lab_stays_shut(page, lab):
    answer = page.goto(f"{lab.url}api/contents")
    assert answer.status == 403
