"""Where are the lessons, how are they opened, and how does one get an original back?

In a checkout they are opened where they lie. From an installed wheel they are copied into
the current folder first: a reader's answers do not belong among installed files.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .datafiles import notebooks
from .errors import unknown
from .labserver import options

COPY = Path("iommu-lab")


def folder() -> Path:
    """The notebooks that a reader works in."""
    shipped = notebooks()
    return shipped if _in_checkout(shipped) else (COPY / "notebooks").absolute()


def _in_checkout(shipped: Path) -> bool:
    return (shipped.parent / "pyproject.toml").is_file()


class Lesson(NamedTuple):
    """What a lesson's first cell says about it."""

    file: str
    title: str
    you_will: str
    needs: str
    takes: str


class Contents(tuple[Lesson, ...]):
    """The lessons in order, as lines of text or as a table with links."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(f"{file:<24} {title} ({takes})" for file, title, _, _, takes in self)

    def _repr_html_(self) -> str:
        left = 'style="text-align:left"'
        titles = "".join(f"<th {left}>{name}</th>" for name in ("lesson", "you will", "takes"))
        rows = "".join(
            f'<tr><td {left}><a href="{file}">{title}</a></td><td {left}>{you_will}</td>'
            f"<td {left}>{takes}</td></tr>"
            for file, title, you_will, _, takes in (map(html.escape, lesson) for lesson in self)
        )
        return f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>"


def contents() -> Contents:
    """The lessons, read from the first cell of each notebook."""
    return Contents(_lesson(path) for path in sorted(notebooks().glob("*.ipynb")))


_BOX = re.compile(
    r"# (?P<title>.+?)\n\n\*\*You will\*\* (?P<you_will>.+?)"
    r"\s\*\*Needs\*\* (?P<needs>.+?)\s\*\*Takes\*\* about (?P<takes>\d+ minutes)",
    re.DOTALL,
)


def _lesson(path: Path) -> Lesson:
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    box = _BOX.match(first)
    if box is None:
        raise ValueError(
            f"{path.name}: the first cell must be a title and a box, see CONTRIBUTING.md"
        )
    return Lesson(path.name, *(" ".join(part.split()) for part in box.groups()))


def open_lab(argv: Sequence[str]) -> int:
    """Open JupyterLab on the first lesson; what follows is handed on to JupyterLab."""
    parser = argparse.ArgumentParser(
        prog="iommu-lab lab",
        description="Open JupyterLab on the first lesson. Other options go to JupyterLab.",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address to open")
    chosen, rest = parser.parse_known_args(argv)

    from jupyter_core.paths import jupyter_runtime_dir
    from jupyterlab.labapp import main as start

    mine = folder()
    if not mine.exists():
        shutil.copytree(notebooks(), mine)
        print(f"The lessons are in {mine}")
    first = min(mine.glob("*.ipynb")).relative_to(mine.parent).as_posix()
    words = options(mine.parent, first, Path(jupyter_runtime_dir()))
    sys.exit(start([*words, *(["--no-browser"] if chosen.no_browser else []), *rest]))


def reset(argv: Sequence[str]) -> int:
    """Bring back the original of a lesson; the reader's version is kept beside it."""
    parser = argparse.ArgumentParser(
        prog="iommu-lab reset",
        description="Bring back the original of a lesson. Yours is kept beside it as .ipynb.old.",
    )
    parser.add_argument("lesson", help="how its file name begins, for example 03")
    wanted = parser.parse_args(argv).lesson
    wanted = wanted.zfill(2) if wanted.isdecimal() else wanted  # 1 is 01, and not 10
    mine = folder()
    there = sorted(path.name for path in notebooks().glob("*.ipynb"))
    meant = [name for name in there if name.startswith(wanted)]
    if len(meant) != 1:
        raise unknown("lesson", wanted, meant or there)
    path = mine / meant[0]
    before, original = path.read_bytes() if path.exists() else b"", _original(path)
    if before == original:
        print(f"{path.name} is the original already.")
        return 0
    if before:
        kept = _free_name(path)
        kept.write_bytes(before)
        print(f"Your version is kept as {kept.name}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(original)
    print(f"{path.name} is the original again. If it is open, reload it from disk (File menu).")
    return 0


def _original(path: Path) -> bytes:
    """The lesson as it was shipped: from git in a checkout, else from the installed wheel."""
    shipped = notebooks()
    if not _in_checkout(shipped):
        return (shipped / path.name).read_bytes()
    command = ["git", "-C", str(shipped), "show", f"HEAD:./{path.name}"]
    try:
        return subprocess.run(command, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip() or error
        raise SystemExit(f"iommu-lab reset: git has no original of {path.name}: {said}") from None


def _free_name(path: Path) -> Path:
    kept, count = path.with_name(f"{path.name}.old"), 1
    while kept.exists():
        count += 1
        kept = path.with_name(f"{path.name}.old{count}")
    return kept
