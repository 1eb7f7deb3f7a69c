"""What a reader sees of a mistake: the line that made it, and one sentence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CELL = """from iommu_lab.own import OwnDriver
from iommu_lab.contracts import verify_blocking
class Mine(OwnDriver):
    base = "amd"
    def blocking(self, iommu, domain):
        imomu.block()
"""

MISTAKES = {
    CELL + "verify_blocking(Mine)": [
        "line 7, in <module>:  verify_blocking(Mine)",
        "line 6, in blocking:  imomu.block()",
        "OwnDriverError: Mine.blocking raised NameError: name 'imomu' is not defined",
    ],
    "import iommu_lab as il\nil.Lab('6.0', 'AMD')": [
        "line 2, in <module>:  il.Lab('6.0', 'AMD')",
        "UnknownName: unknown driver 'AMD': nearest is amd",
    ],
    "import iommu_lab as il\nil.Lab('patch-v2', 's390').claim_dma_owner(0, 'vfio')": [
        "line 2, in <module>:  il.Lab('patch-v2', 's390').claim_dma_owner(0, 'vfio')",
        "KernelCrash: s390_iommu_detach_device: handed no domain, it follows a NULL pointer; ",
    ],
}


RUN = """import sys
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell(colors="nocolor").run_cell(sys.argv[1])
"""


@pytest.mark.parametrize(("cell", "shown"), MISTAKES.items(), ids=["own", "name", "crash"])
def test_a_notebook_shows_the_readers_lines_and_the_sentence_and_none_of_ours(
    cell, shown, tmp_path
):
    done = subprocess.run(
        [sys.executable, "-c", RUN, cell],
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = done.stdout.splitlines()
    assert len(told) == len(shown), done.stdout
    assert all(line.startswith(start) for line, start in zip(told, shown, strict=True)), told
