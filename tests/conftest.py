"""What tests of more than one kind share: a JupyterLab, a Chromium, and how to be absent.

A learner without Chromium or QEMU gets a skip that says so. Where a layer has to run, one
variable makes its absence a failure: nothing is left out unnoticed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from iommu_lab import doctor
from iommu_lab.labserver import Server, jupyterlab

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")

# No sandbox, so that it runs as root in a container; no calls home at every start.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def absent(layer: str, reason: str) -> NoReturn:
    """Skip the test for `reason`, or fail it where the layer is required."""
    if os.environ.get(f"IOMMU_LAB_REQUIRE_{layer.upper()}"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def needs() -> Callable[[str, str], NoReturn]:
    """``needs("kernels", "QEMU is absent: apt install qemu-system-x86")`` ends the test."""
    return absent


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = doctor.chromium()
    if path is None:
        absent("browser", "Chromium is absent: apt install chromium, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab on copies of the notebooks, with a token, on loopback."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    with jupyterlab(root, "--LabApp.expose_app_in_browser=True") as server:
        yield server


@contextmanager
def watched(chromium: Browser, lab: Server) -> Iterator[Page]:
    """A page that ends in a failure on a script's error and on a request to another machine.

    The kernels that the page started end with it.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page, bad = context.new_page(), []
    page.on("pageerror", lambda error: bad.append(f"script error: {error}"))
    page.on(
        "request",
        lambda request: None if request.url.startswith(LOOPBACK) else bad.append(request.url),
    )
    yield page
    context.close()
    for session in lab.ask("api/sessions"):
        lab.ask(f"api/sessions/{session['id']}", method="DELETE")
    assert not bad, bad


@pytest.fixture
def page(chromium: Browser, lab: Server) -> Iterator[Page]:
    """A fresh page for one test."""
    with watched(chromium, lab) as page:
        yield page


@pytest.fixture(scope="module")
def lasting_page(chromium: Browser, lab: Server) -> Iterator[Page]:
    """A page that all tests of a file share, each putting it back to where it begins."""
    with watched(chromium, lab) as page:
        yield page
