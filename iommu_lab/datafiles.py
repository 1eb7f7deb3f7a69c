"""Where are the tables that the model reads?

They lie in ``data/`` at the top of a checkout, where a reader finds them beside the
notebooks, and inside the package in a wheel. The package's own folder is looked at first:
in ``site-packages`` a neighbouring folder called ``data`` would be somebody else's.
"""

from __future__ import annotations

from pathlib import Path

from .errors import unknown

_PACKAGE = Path(__file__).resolve().parent


def _shipped(folder: str) -> Path:
    inside, beside = _PACKAGE / folder, _PACKAGE.parent / folder
    if inside.is_dir():
        return inside
    if beside.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        return beside
    raise FileNotFoundError(
        f"iommu_lab was installed without its {folder}/: neither {inside} nor {beside} is there"
    )


def datafile(*parts: str) -> Path:
    """The path of a file or folder in ``data/``: ``datafile("drivers", "drivers.csv")``.

    Raises FileNotFoundError, naming what lies nearest, when there is no such file.
    """
    root = _shipped("data")
    path = root.joinpath(*parts)
    if not path.exists():
        there = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
        raise FileNotFoundError(f"{unknown('data file', '/'.join(parts), there)} (in {root})")
    return path


def notebooks() -> Path:
    """The folder of the lessons, as they were shipped."""
    return _shipped("notebooks")
