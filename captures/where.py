"""Where the harness keeps what it fetches and builds, and where its own files are.

Everything that is downloaded or compiled lies under one folder, ``IOMMU_LAB_KERNELS``, by default
``build/`` in the checkout, where it tells git to look away. Nothing is written anywhere else and
nothing is installed; deleting the folder undoes the harness.
"""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
SHIPPED = CHECKOUT / "data" / "captures"


def build() -> Path:
    """The folder for kernels, headers, modules and other things that can be made again."""
    folder = Path(os.environ.get("IOMMU_LAB_KERNELS") or CHECKOUT / "build").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
    return folder
