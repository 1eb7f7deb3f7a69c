"""Is everything here that the lab needs, and what would bring the rest?

Every finding was tried, not looked up: packages are imported, numba compiles something,
JupyterLab is started and asked. Only what a lesson cannot do without counts as a failure.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal, NamedTuple

from .datafiles import datafile

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_LEFT = 'style="text-align:left"'
QEMUS = ("qemu-system-x86_64", "qemu-system-aarch64", "qemu-system-s390x")


class Finding(NamedTuple):
    """One part, how it is, and what to do about it."""

    verdict: Literal["ok", "absent", "BROKEN"]  # absent: something works less well without it
    part: str
    says: str


class Report(tuple[Finding, ...]):
    """All findings, as lines of text or as a table."""

    __slots__ = ()

    @property
    def healthy(self) -> bool:
        return all(finding.verdict != "BROKEN" for finding in self)

    @property
    def says(self) -> str:
        """The verdict in one sentence."""
        if not self.healthy:
            broken = ", ".join(f.part for f in self if f.verdict == "BROKEN")
            return f"Something is missing that the lessons need: {broken}."
        absent = ", ".join(finding.part for finding in self if finding.verdict == "absent")
        here = "Everything that the lessons need is here"
        return f"{here}; absent: {absent}." if absent else f"{here}."

    def __repr__(self) -> str:
        width = max(len(finding.part) for finding in self)
        lines = [f"{verdict:<6}  {part:<{width}}  {says}" for verdict, part, says in self]
        return "\n".join([*lines, self.says])

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td {_LEFT}>{html.escape(cell)}</td>" for cell in finding) + "</tr>"
            for finding in self
        )
        head = "".join(f"<th {_LEFT}>{title}</th>" for title in ("verdict", "part", "found"))
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        shown = "" if all(finding.verdict == "ok" for finding in self) else " open"
        tried = f"<details{shown}><summary>What was tried</summary>{table}</details>"
        return f"<p>{html.escape(self.says)}</p>{tried}"


def doctor(*, start_jupyterlab: bool = False) -> Report:
    """Look at every part. Starting a JupyterLab takes some seconds, so it is asked for."""
    return Report(_look(start_jupyterlab))


def examine_here(argv: Sequence[str]) -> int:
    """Print what was found; status 1 when something is missing that the lessons need."""
    argparse.ArgumentParser(
        prog="iommu-lab doctor", description="Look at every part and say what is missing."
    ).parse_args(argv)
    print(f"Looking at {Path(__file__).parent} with {sys.executable}")
    report = doctor(start_jupyterlab=True)
    print(report)
    return 0 if report.healthy else 1


def chromium() -> str | None:
    """The Chromium or Chrome that browser tests drive: $CHROMIUM, or the first on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)


def _look(start_jupyterlab: bool) -> Iterator[Finding]:
    yield _python()
    yield from _packages()
    yield _numba()
    yield _data()
    if start_jupyterlab:
        yield _jupyterlab()
    yield _chromium()
    yield _qemu()


def _python() -> Finding:
    return Finding("ok", "Python", sys.version.split()[0])


def _packages() -> Iterator[Finding]:
    try:
        wanted = metadata.requires("iommu_lab") or []
    except metadata.PackageNotFoundError:
        yield Finding("BROKEN", "iommu_lab", "not installed here; run python3 lab.py setup")
        return
    for line in wanted:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if extra is None:
            yield _package(name, "BROKEN", "pip install .")
        elif extra[1] == "scale":
            yield _package(name, "absent", "for traces that outgrow memory: pip install .[scale]")


def _package(name: str, otherwise: Literal["absent", "BROKEN"], cure: str) -> Finding:
    try:
        import_module(name)
    except ImportError as error:
        return Finding(otherwise, name, f"{error}; {cure}")
    return Finding("ok", name, metadata.version(name))


def _numba() -> Finding:
    try:
        import numba

        assert numba.njit(lambda x: x + 1)(1) == 2
    except ImportError:
        return Finding("absent", "numba", "numpy answers instead, slower: pip install .[speed]")
    except Exception as error:  # whatever a compiler can die of
        return Finding("absent", "numba", f"does not compile here, so numpy answers: {error}")
    return Finding("ok", "numba", f"{numba.__version__}, compiles")


def _data() -> Finding:
    try:
        found = sum(path.is_file() for path in datafile().rglob("*"))
        datafile("drivers", "drivers.csv")
        datafile("releases")
    except FileNotFoundError as error:
        return Finding("BROKEN", "data files", str(error))
    return Finding("ok", "data files", f"{found} found")


def _jupyterlab() -> Finding:
    try:
        from .labserver import jupyterlab

        with tempfile.TemporaryDirectory() as empty, jupyterlab(Path(empty)) as server:
            server.ask("api/contents")
    except (ImportError, OSError, RuntimeError) as error:
        return Finding("BROKEN", "JupyterLab starts", str(error))
    return Finding("ok", "JupyterLab starts", "and answers")


def _chromium() -> Finding:
    found = chromium()
    if found is None:
        cure = "only browser tests need it: apt install chromium, or set CHROMIUM to its path"
        return Finding("absent", "Chromium", cure)
    return _version("Chromium", found)


def _qemu() -> Finding:
    found = [name for name in QEMUS if shutil.which(name)]
    if not found:
        cure = "only booting real kernels needs it: apt install qemu-system-x86"
        return Finding("absent", "QEMU", cure)
    version = _version("QEMU", found[0])
    return version._replace(says=f"{version.says}: {', '.join(found)}")


def _version(part: str, program: str) -> Finding:
    try:
        said = subprocess.run(
            [program, "--version"], check=True, capture_output=True, text=True, timeout=60
        ).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return Finding("absent", part, f"does not run: {error}")
    return Finding("ok", part, said.strip())
