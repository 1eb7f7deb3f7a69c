"""Where are the lessons, how are they opened, and how does one get an original back?

In a checkout they are opened where they lie. From an installed wheel they are copied into
the current folder first: a reader's answers do not belong among installed files.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from .datafiles import notebooks
from .labserver import options

COPY = Path("iommu-lab")


def folder() -> Path:
    """The notebooks that a reader works in."""
    shipped = notebooks()
    return shipped if _in_checkout(shipped) else (COPY / "notebooks").absolute()


def _in_checkout(shipped: Path) -> bool:
    return (shipped.parent / "pyproject.toml").is_file()


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
    mine = folder()
    there = sorted(path.name for path in notebooks().glob("*.ipynb"))
    meant = [name for name in there if name.startswith(wanted)]
    if len(meant) != 1:
        near = meant or get_close_matches(wanted, there, n=3) or there
        what = "more than one lesson begins" if meant else "no lesson begins"
        print(f"iommu-lab reset: {what} with {wanted!r}: {', '.join(near)}", file=sys.stderr)
        return 2
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
