"""From a click in the explorer to the changed picture, in JupyterLab in Chromium.

python -m benchmarks.redraw     starts a JupyterLab, opens the first lesson, clicks and prints

The clock is the page's own: it starts just before the click and stops at the first frame after the
picture's markup has changed. The kernel's share is measured apart, without a browser, in the same
run. Clicks alternate between attach, back and forth, so that every one changes the picture.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from iommu_lab import doctor
from iommu_lab.explore import Explorer
from iommu_lab.labserver import jupyterlab

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "browser"))

CLICKS = 30
CLICK = """async name => {
    const outputs = [...document.querySelectorAll('.jp-OutputArea-output')];
    const output = outputs.find(o => o.querySelector('select') && o.querySelector('svg'));
    const button = [...output.querySelectorAll('button')].find(b => b.textContent === name);
    const picture = () => output.querySelector('svg[role=img]').outerHTML;
    const before = picture();
    const start = performance.now();
    button.click();
    while (picture() === before) {
        if (performance.now() - start > 3000) return null;
        await new Promise(requestAnimationFrame);
    }
    return performance.now() - start;
}"""


def clicks() -> list[float]:
    """Milliseconds from a click to the changed picture, one for each click."""
    from rig import open_and_run

    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "notebooks", Path(folder) / "notebooks")
        with (
            jupyterlab(Path(folder), "--LabApp.expose_app_in_browser=True") as server,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(
                executable_path=doctor.chromium(), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            panel = open_and_run(page, server, "00_start.ipynb")
            panel.get_by_role("img", name="Linux 6.1").first.wait_for(timeout=60_000)
            took = [page.evaluate(CLICK, "attach")]
            names = ["back" if number % 2 == 0 else "forward" for number in range(CLICKS)]
            took += [page.evaluate(CLICK, name) for name in names]
            browser.close()
    return [ms for ms in took[1:] if ms is not None]


def kernel_side() -> list[float]:
    """Milliseconds that the same redraws take in Python alone."""
    explorer = Explorer()
    explorer.buttons["attach"].click()
    took = []
    for number in range(CLICKS):
        start = time.perf_counter()
        explorer.buttons["back" if number % 2 == 0 else "forward"].click()
        took.append(1000 * (time.perf_counter() - start))
    return took


if __name__ == "__main__":
    for name, took in (("in the page", clicks()), ("in Python alone", kernel_side())):
        low, median, high = min(took), statistics.median(took), max(took)
        print(f"{name:<16} {len(took)} clicks: median {median:.0f} ms, {low:.0f} to {high:.0f} ms")
