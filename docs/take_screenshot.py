"""Takes the README's picture of the explorer, docs/explorer.png:

    python docs/take_screenshot.py

The real thing in a real browser: JupyterLab is started, an explorer is opened on the scenario below
and its output is photographed at twice the usual sharpness. Pixels differ between machines, so no
test compares them; take it again when the explorer looks different.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from playwright.sync_api import sync_playwright

from iommu_lab.doctor import chromium
from iommu_lab.labserver import jupyterlab

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))
from rig import open_and_run  # how a notebook is opened is the tests' business

CODE = """from iommu_lab.explore import Explorer
from iommu_lab.scenario import Scenario

Explorer(Scenario("6.1", "s390", compare="patch-v2"))"""
PRESSED = ("dma_map", "attach", "map", "detach", "dma_map")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def main() -> int:
    path = chromium()
    if path is None:
        print("Chromium is absent: apt install chromium, or set CHROMIUM to its path")
        return 1
    root = Path(tempfile.mkdtemp(prefix="shot"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "name": "python3"}}
    (root / "notebooks").mkdir()
    nbformat.write(notebook, root / "notebooks" / "explorer.ipynb")
    try:
        with (
            jupyterlab(root, "--LabApp.expose_app_in_browser=True") as server,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 1000}, device_scale_factor=2)
            panel = open_and_run(page, server, "explorer.ipynb")
            panel.locator("svg[role=img]").wait_for(timeout=60_000)
            for name in PRESSED:
                panel.get_by_role("button", name=name, exact=True).click()
                page.wait_for_timeout(400)
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur()")
            output = panel.locator(".jp-OutputArea-output").first
            output.screenshot(path=Path(__file__).with_name("explorer.png"))
            browser.close()
    finally:
        shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
