"""The explorer in a real browser: with the mouse, by keyboard alone, and for a screen reader."""

import base64
import re

import nbformat
import pytest
from playwright.sync_api import expect
from rig import faults, open_and_run, run_again

pytestmark = pytest.mark.browser


NOTEBOOK = nbformat.v4.new_notebook(
    metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    cells=[nbformat.v4.new_code_cell("from iommu_lab.explore import Explorer\n\nExplorer()")],
)


@pytest.fixture(scope="module")
def opened(lasting_page, lab):
    body = {"type": "notebook", "content": NOTEBOOK}
    lab.ask("api/contents/notebooks/explorer.ipynb", body, method="PUT")
    return open_and_run(lasting_page, lab, "explorer.ipynb")


@pytest.fixture
def page(lasting_page):
    return lasting_page


@pytest.fixture
def panel(opened, page):
    """A new explorer, on screen."""
    run_again(page)
    expect(says(opened)).to_contain_text("dev0 reaches 4 KiB of driver buffer", timeout=60_000)
    return opened


def says(panel):
    return panel.get_by_role("status").filter(has_text="Linux")


def picture(panel):
    return panel.get_by_role("img", name="Linux 6.1")


def press(panel, name):
    panel.get_by_role("button", name=name, exact=True).click()


def test_attach_and_detach_change_the_picture_and_its_sentence(panel):
    before = picture(panel).inner_html()
    press(panel, "attach")
    expect(says(panel)).to_contain_text("attached to dom1")
    expect(panel.get_by_role("img", name="attached to dom1")).to_be_visible()
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
    expect(panel.get_by_text("step 1: dma_map")).to_be_visible()
    assert picture(panel).inner_html() == before


def test_the_same_steps_under_the_patch_stand_beside(panel):
    panel.get_by_role("combobox", name="beside").select_option("patch-v2")
    press(panel, "claim")
    expect(panel.get_by_text("s390_iommu_detach_device")).to_be_visible()


def test_the_keyboard_alone_is_enough(panel, page):
    panel.get_by_role("combobox", name="with the driver").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("patch")  # chooses in the list that is now in focus
    expect(panel.get_by_role("img", name="Linux patch-v2")).to_be_visible()
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(says(panel)).to_contain_text("attached to dom1")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(says(panel)).to_contain_text("has no domain (NULL)")
    panel.get_by_role("slider", name="step").focus()
    page.keyboard.press("ArrowLeft")
    expect(says(panel)).to_contain_text("attached to dom1")


def test_nothing_moves_while_the_story_goes_on(panel):
    controls = [
        panel.get_by_role("button", name="claim", exact=True),
        panel.get_by_role("button", name="dma_unmap"),
        says(panel),  # below the picture, which is replaced and has no place of its own
        panel.get_by_role("button", name="start over"),
    ]
    press(panel, "claim")  # brings the controls into view
    press(panel, "start over")
    stood = [control.bounding_box() for control in controls]
    for name, said in (
        ("attach", "attached to dom1"),
        ("attach", "refused with EBUSY"),
        ("detach", "has no domain (NULL)"),
        ("claim", "is blocked, by the empty domain"),
        ("dma_map", "crashes this kernel"),
        ("start over", "has no domain (NULL)"),
    ):
        press(panel, name)
        expect(says(panel)).to_contain_text(said)
        assert [control.bounding_box() for control in controls] == stood


def test_the_sentence_changes_inside_an_element_that_stays(panel):
    before = says(panel).element_handle()
    press(panel, "attach")
    expect(says(panel)).to_contain_text("attached to dom1")
    assert before.evaluate("element => element.isConnected && element.textContent").count("dom1")


def test_the_situation_can_be_edited_as_a_file_and_opened_again(panel):
    toggle = panel.get_by_role("button", name="as a file")
    expect(toggle).to_have_attribute("aria-pressed", "false")
    toggle.click()
    expect(toggle).to_have_attribute("aria-pressed", "true")
    text = panel.get_by_role("textbox", name="scenario")
    expect(text).to_have_value(re.compile('driver = "s390"'))
    text.fill(text.input_value().replace('"s390"', '"s309"'))
    press(panel, "Open this text")
    refused = panel.get_by_role("status").filter(has_text="this text: driver: unknown driver")
    expect(refused).to_contain_text("nearest is s390")
    text.fill(text.input_value().replace('"s309"', '"exynos"'))
    press(panel, "Open this text")
    expect(panel.get_by_role("img", name="default0")).to_be_visible()
    link = panel.get_by_role("link", name="Save as scenario.toml")
    begins = text.input_value().partition("steps")[0].encode()
    assert b'driver = "exynos"' in begins
    encoded = base64.b64encode(begins[: len(begins) // 3 * 3]).decode()
    expect(link).to_have_attribute("href", re.compile(re.escape(encoded)))


def test_a_key_typed_in_a_control_stays_in_it(panel, page):
    cells = page.locator(".jp-Notebook .jp-Cell")
    before = cells.count()
    panel.get_by_role("combobox", name="beside").focus()
    page.keyboard.press("b")  # JupyterLab's "insert cell below"
    expect(cells).to_have_count(before)


def test_axe_finds_nothing_serious_in_the_explorer(panel, page):
    press(panel, "attach")
    expect(says(panel)).to_contain_text("attached to dom1")
    assert faults(page, ".jp-OutputArea") == []
