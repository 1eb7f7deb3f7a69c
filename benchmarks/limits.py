"""What the machine could do at most: the same bytes in and out, and one cache line at random.

Both are loops that anybody would write, compiled as the checker's kernel is.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from .workload import Trace


@numba.njit(nogil=True, cache=True)
def _stream(device, iova, size, write, code, addr):
    for i in range(len(code)):
        code[i] = (device[i] + size[i] + write[i]) & 1
        addr[i] = iova[i] + np.uint64(4096)


@numba.njit(nogil=True, cache=True)
def _gather(words, at, addr):
    for i in range(len(addr)):
        addr[i] = words[at[i]]


def stream(trace: Trace, code: NDArray[np.uint8], addr: NDArray[np.uint64]) -> None:
    """Read every column and write both answers, without a look-up."""
    _stream(*trace, code, addr)


def gather_places(records: int, rows: int) -> NDArray[np.uint64]:
    """The word of a random record for each row."""
    drawn = np.random.default_rng(5).integers(0, records, rows, np.uint64)
    return drawn * np.uint64(8)


def gather(words: NDArray[np.uint64], at: NDArray[np.uint64], addr: NDArray[np.uint64]) -> None:
    """Read one word of one record for each row."""
    _gather(words, at, addr)
