"""The explorer's redraw: how long from a click until the changed picture stands in the page?

python -m benchmarks.redraw            the default scenario, alone, beside a release, on a PC
python -m benchmarks.redraw --clicks 60

The clock is the browser's own: it starts when the button's click event is dispatched and stops when
the picture has its last new content; "painted" is the frame after that. While it runs, every
frame is looked at: a frame without a picture is a flicker, a control that moved is a jump. Numbers
belong to one machine and one moment; compare them with those of the same run only.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Page, sync_playwright

from iommu_lab.doctor import chromium
from iommu_lab.labserver import jupyterlab

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))
from rig import open_and_run  # how a notebook is opened is the tests' business

CODE = "from iommu_lab.explore import Explorer\n\nExplorer()"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

# Presses a button and resolves to what was seen until the frame after the picture changed.
PRESS = """async name => {
  const panel = document.querySelector(".jp-OutputArea-output .widget-vbox");
  const button = [...panel.querySelectorAll("button")].find(b => b.textContent === name);
  const picture = () => panel.querySelector("svg[role=img]");
  const before = picture().outerHTML;
  const controls = [...panel.querySelectorAll("button, select, input")];
  const places = () => controls.map(e => {
    const box = e.getBoundingClientRect();
    return `${box.x} ${box.y}`;
  }).join();
  const stood = places();
  let frames = 0, blank = 0, watching = true;
  const look = () => {
    frames += 1;
    blank += picture() ? 0 : 1;
    if (watching) requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
  let shown = before, changed = NaN, painted = NaN;
  const watcher = new MutationObserver(() => {
    const now = picture()?.outerHTML;
    if (!now || now === shown) return;
    shown = now;
    changed = performance.now();
    requestAnimationFrame(() => requestAnimationFrame(() => { painted = performance.now(); }));
  });
  watcher.observe(panel, { subtree: true, childList: true });
  const start = performance.now();
  button.click();
  await new Promise(resolve => setTimeout(resolve, 400));
  watcher.disconnect();
  watching = false;
  const jumped = places() !== stood;
  return { changed: changed - start, painted: painted - start, frames, blank, jumped };
}"""

# (name, what is chosen first, buttons that change the picture when pressed in turn)
CASES = (
    ("default scenario", {}, ("attach", "map", "detach", "dma_map", "start over")),
    ("beside patch-v2", {"beside": "patch-v2"}, ("attach", "map", "detach", "start over")),
    ("a PC's eight devices", {"on": "a PC's eight devices"}, ("claim", "release", "start over")),
    ("back and forward", {}, ("back", "forward")),
)


def measure(page: Page, chosen: dict[str, str], buttons: tuple[str, ...], clicks: int) -> Any:
    """What each of the clicks saw."""
    page.get_by_role("button", name="start over", exact=True).click()
    page.get_by_label("on", exact=True).select_option(chosen.get("on", "one device"))
    page.get_by_label("beside").select_option(chosen.get("beside", "no other"))
    if buttons == ("back", "forward"):
        page.get_by_role("button", name="attach", exact=True).click()
    page.wait_for_timeout(800)
    seen = [page.evaluate(PRESS, buttons[n % len(buttons)]) for n in range(clicks)]
    return [s for s in seen if s["changed"] == s["changed"]]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redraw", description=__doc__)
    parser.add_argument("--clicks", type=int, default=40, help="for each case")
    clicks = parser.parse_args(argv).clicks
    path = chromium()
    if path is None:
        print("Chromium is absent: apt install chromium, or set CHROMIUM to its path")
        return 1
    root = Path(tempfile.mkdtemp(prefix="redraw"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "name": "python3"}}
    (root / "notebooks").mkdir()
    nbformat.write(notebook, root / "notebooks" / "explorer.ipynb")
    print(
        f"{'case':<22}{'clicks':>7}{'median':>9}{'p90':>7}{'min':>7}{'painted':>9}{'blank':>7}{'jumps':>7}"
    )
    try:
        with (
            jupyterlab(root, "--LabApp.expose_app_in_browser=True") as server,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            open_and_run(page, server, "explorer.ipynb")
            page.locator("svg[role=img]").wait_for(timeout=60_000)
            for name, chosen, buttons in CASES:
                seen = measure(page, chosen, buttons, clicks)
                took = sorted(s["changed"] for s in seen)
                painted = statistics.median(s["painted"] for s in seen)
                times = (statistics.median(took), took[int(len(took) * 0.9)], took[0], painted)
                counts = (sum(s["blank"] > 0 for s in seen), sum(s["jumped"] for s in seen))
                words = [f"{len(seen)}", *(f"{t:.0f} ms" for t in times), *map(str, counts)]
                print(f"{name:<22}{''.join(f'{word:>9}' for word in words)}", flush=True)
            browser.close()
    finally:
        shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
