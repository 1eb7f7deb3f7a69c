"""Owners: whose memory is at a physical address?

The map has gaps, and a gap is "nobody": a DMA that lands there reaches no memory that the machine
has told us about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .hardware import TOP

if TYPE_CHECKING:
    from .machine import Region

NOBODY = "nobody"
NOTHING_REACHED = "-"


class Owners:
    """The whole physical space cut at the ends of every region.

    >>> from iommu_lab.machine import Region
    >>> owners = Owners([Region(0x1000, 0x1FFF, "kernel"), Region(0x2000, 0x2FFF, "another VM")])
    >>> owners.along([(0x1F00, 0x20FF)]), owners.along([(0x2FFF, 0x3000)])
    ('kernel + another VM', 'another VM + nobody')
    """

    def __init__(self, memory: Sequence[Region]) -> None:
        cuts = {0: NOBODY}
        for region in sorted(memory):
            cuts[region.first] = region.owner
            if region.last < TOP:
                cuts[region.last + 1] = NOBODY
        self.start = np.array(list(cuts), np.uint64)
        self.name = list(cuts.values())

    def at(self, paddr: NDArray[np.uint64]) -> NDArray[np.intp]:
        """The number of the piece of the map that holds each address; see ``name``."""
        return np.searchsorted(self.start, paddr, side="right") - 1

    def along(self, ranges: Iterable[tuple[int, int]]) -> str:
        """Everyone whose memory lies in these inclusive ranges, each named once, in order."""
        met: dict[str, None] = {}
        for first, last in ranges:
            low, high = self.at(np.array([first, last], np.uint64)).tolist()
            met.update(dict.fromkeys(self.name[low : high + 1]))
        return " + ".join(met)
