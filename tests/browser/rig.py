"""How a test opens a notebook in JupyterLab and waits for it, without races.

Clicking through the menus races with the kernel: the toolbar says idle before there is a
kernel at all. So the kernel is started first, and JupyterLab is told to run everything only
once the page is connected to it.
"""

from __future__ import annotations

import json
import time

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page

from iommu_lab.labserver import Server

PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"


def open_and_run(page: Page, lab: Server, notebook: str, patience: float = 60) -> Locator:
    """The panel of ``notebooks/<notebook>``, opened with its committed outputs cleared, all run.

    Returns when every cell has run. Clearing comes first: a still picture that was committed
    must not be taken for the panel.
    """
    path = f"notebooks/{notebook}"
    body = {"path": path, "type": "notebook", "name": notebook, "kernel": {"name": "python3"}}
    kernel = lab.ask("api/sessions", body)["kernel"]["id"]
    page.goto(f"{lab.url}lab/tree/{path}?token={lab.token}&reset")
    panel = page.locator(PANEL)
    panel.locator(".jp-Cell").first.wait_for(timeout=patience * 1000)
    until = time.monotonic() + patience
    while True:
        state = lab.ask(f"api/kernels/{kernel}")
        if state["connections"] >= 1 and state["execution_state"] == "idle":
            break
        assert time.monotonic() < until, state
        time.sleep(0.1)
    run_again(page)
    return panel


def run_again(page: Page) -> None:
    """Clear the outputs of the notebook that is open and run all its cells."""
    page.evaluate("jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")


def faults(page: Page, within: str) -> list[str]:
    """What axe finds serious or worse in the part of the page that `within` selects."""
    found = Axe().run(page, context=within).response["violations"]
    return [
        f"{fault['id']}: {json.dumps(fault['nodes'][0]['html'])}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]
