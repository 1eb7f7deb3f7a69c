"""Draws the README's picture of the audit, docs/matrix.png:

    python docs/draw_matrix.py

The file carries its sentence and a digest of the table that it was drawn from, so that a test can
tell whether it is stale; its pixels differ between machines, and no test compares them.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from iommu_lab import audit, figures

PLACE = Path(__file__).with_name("matrix.png")


def digest() -> str:
    """A digest of every cell, with the names of its row and column."""
    return hashlib.sha256(audit.matrix("leaving").to_csv().encode()).hexdigest()


def main() -> int:
    drawing = figures.matrix("leaving")
    PLACE.write_bytes(drawing.png(Description=drawing.says, Comment=digest()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
