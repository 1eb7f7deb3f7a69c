"""Pages of a process: what a mapping covers that user space asks for, and how it lies in memory.

VFIO (``struct vfio_dma``) and iommufd (``struct iopt_area``) both keep a mapping as the user made
it and map its pages as they lie; neither depends on the other for that.

Where this stops: pages are taken as pinned for as long as the mapping is there, and are 4 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

PAGE = 4096
TOP = 2**64 - 1
USER_PAGES = "pages of a process"
"""The text of a trace event whose number depends on how the process's pages lie in memory."""


@dataclass(frozen=True, slots=True)
class Dma:
    """One mapping as the user made it; ``pages`` is where each page of it lies."""

    iova: int
    size: int
    prot: int
    pages: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.iova + self.size


def contiguous(dma: Dma) -> list[Dma]:
    """A mapping as runs of pages that follow one another in memory."""
    if not dma.pages:
        return []
    cuts = [i + 1 for i, (a, b) in enumerate(pairwise(dma.pages)) if b != a + PAGE]
    bounds = [0, *cuts, len(dma.pages)]
    return [
        Dma(dma.iova + a * PAGE, (b - a) * PAGE, dma.prot, dma.pages[a:b])
        for a, b in pairwise(bounds)
    ]
