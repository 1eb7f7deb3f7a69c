"""The explorer in a real browser: with the mouse, by keyboard alone, and for a screen reader."""

import pytest
from playwright.sync_api import expect
from rig import faults, open_and_run

pytestmark = pytest.mark.browser


@pytest.fixture
def panel(page, lab):
    page.set_viewport_size({"width": 1280, "height": 800})
    notebook = open_and_run(page, lab, "00_start.ipynb")
    expect(says(notebook)).to_contain_text("Linux 6.1", timeout=60_000)
    return notebook


def says(panel):
    return panel.get_by_role("status").filter(has_text="Linux").first


def picture(panel):
    return panel.get_by_role("img", name="Linux 6.1").first


def press(panel, name):
    panel.get_by_role("button", name=name, exact=True).first.click()


def test_attach_and_detach_change_the_picture_and_its_sentence(panel):
    before = picture(panel).inner_html()
    press(panel, "attach")
    expect(says(panel)).to_contain_text("attached to dom1")
    expect(panel.get_by_role("img", name="attached to dom1").first).to_be_visible()
    attached = picture(panel).inner_html()
    assert attached != before
    press(panel, "detach")
    expect(says(panel)).not_to_contain_text("attached to dom1")
    expect(says(panel)).to_contain_text("platform")
    assert picture(panel).inner_html() != attached


def test_going_back_gives_the_identical_picture(panel):
    before = picture(panel).inner_html()
    press(panel, "attach")
    expect(says(panel)).to_contain_text("attached to dom1")
    press(panel, "back")
    expect(says(panel)).not_to_contain_text("attached to dom1")
    press(panel, "back")
    expect(panel.get_by_text("step 1: dma_map").first).to_be_visible()
    assert picture(panel).inner_html() == before


def test_the_same_steps_under_the_patch_stand_beside(panel):
    panel.get_by_role("combobox", name="beside").first.select_option("patch-v2")
    press(panel, "claim")
    expect(panel.get_by_text("s390_iommu_detach_device").first).to_be_visible()


def test_the_keyboard_alone_is_enough(panel, page):
    panel.get_by_role("button", name="attach", exact=True).first.focus()
    page.keyboard.press("Enter")
    expect(says(panel)).to_contain_text("attached to dom1")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(says(panel)).to_contain_text("platform")


def test_a_key_typed_in_a_control_stays_in_it(panel, page):
    cells = page.locator(".jp-Notebook .jp-Cell")
    before = cells.count()
    panel.get_by_role("combobox", name="beside").first.focus()
    page.keyboard.press("b")  # JupyterLab's "insert cell below"
    expect(cells).to_have_count(before)


def test_axe_finds_nothing_serious_in_the_explorer(panel, page):
    press(panel, "attach")
    expect(says(panel)).to_contain_text("attached to dom1")
    assert faults(page, ".jp-OutputArea") == []
