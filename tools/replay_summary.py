"""Write the replay's summary into the README:  python tools/replay_summary.py

What stands there is what the command above it prints, over all shipped transcripts. A test makes
it anew and compares, so that CI fails when a transcript or a rule was changed and the README was
not.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from iommu_lab.captures.command import main

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
CAPTURES = ROOT / "data" / "captures"
BLOCK = re.compile(r"(?<=^```text\n)(?:.+\n)*TOTAL: .+\n(?=```$)", re.MULTILINE)


def summary() -> str:
    """What ``iommu-lab replay --brief`` says of all shipped transcripts."""
    said = io.StringIO()
    files = sorted([*CAPTURES.glob("*.out"), *CAPTURES.glob("*.log")])
    with contextlib.redirect_stdout(said):
        main(["--brief", *map(str, files)])
    return said.getvalue()


def rewritten(text: str) -> str:
    """A README with the summary as it is now.

    Raises ``ValueError`` for one that has no block, or several, ending in a TOTAL line.
    """
    found = BLOCK.findall(text)
    if len(found) != 1:
        raise ValueError(f"the README has one block that ends in TOTAL, got {len(found)}")
    return BLOCK.sub(lambda _: summary(), text)


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
