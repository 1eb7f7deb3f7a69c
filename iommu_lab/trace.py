"""Traces: what did each DMA meet, while mappings came and went?

A checker answers for one moment. A trace has millions of moments: buffers are mapped, used and
unmapped, devices are attached elsewhere, and between an unmap and the flush that follows it the
IOTLB may still hold the old entry. :class:`Replay` walks the events in order over page tables that
change, and gives each DMA the verdict that a :class:`~iommu_lab.dma.Checker` would give then.

STALE says *may*. Which entries an IOTLB keeps is the implementation's affair; what is certain is
the window in which it is allowed to, from the unmap to the next flush of the domain. A strict
domain flushes within the unmap and has no window.

Where the model stops: pages of 4 KiB (a bigger mapping costs a step for each of them); what a
device may have cached is flushed when it is attached elsewhere; bus mastering is not switched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from .partition import U8, U64
from .tables import READ, WRITE
from .verdict import Verdict

numba: Any
try:
    import numba
except ImportError:
    numba = None

F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    """Compiled where numba is installed; else the same in Python, some hundred times slower."""
    if numba is None:
        return function
    return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))


I64 = NDArray[np.int64]
U = np.uint64

NO_DMA = 255
"""The code of a row that is no DMA."""
BLOCKED, IDENTITY = 2**32 - 1, 2**32 - 2
"""What a device may be attached to instead of a domain with a page table."""


class Do(IntEnum):
    """What an event does; fits a ``uint8``.

    ====  ======  ======  ============  ================================  ====================
    kind          who     iova, size    arg                               rights
    ====  ======  ======  ============  ================================  ====================
    0     DMA     device  any bytes                                       1 to write, else 0
    1     MAP     domain  whole pages   physical address                  READ | WRITE
    2     UNMAP   domain  whole pages
    3     FLUSH   domain
    4     ATTACH  device                domain, or BLOCKED or IDENTITY
    5     DETACH  device
    ====  ======  ======  ============  ================================  ====================
    """

    DMA = 0
    MAP = 1
    UNMAP = 2
    FLUSH = 3
    ATTACH = 4
    DETACH = 5


class Events(NamedTuple):
    """n events in order of time; what a kind does not use is 0.

    ``kind`` and ``rights`` are uint8, ``who`` uint32, ``iova``, ``size`` and ``arg`` uint64.
    """

    kind: U8
    who: NDArray[np.uint32]
    iova: U64
    size: U64
    arg: U64
    rights: U8

    @classmethod
    def of(cls, rows: Sequence[tuple[int, ...]]) -> Events:
        """From a few rows written by hand; trailing zeros may be left out."""
        full = [(*row, 0, 0, 0, 0)[:6] for row in rows]
        table = np.array(full, np.uint64).reshape(-1, 6).T
        kind, who, iova, size, arg, rights = (column.copy() for column in table)
        return cls(
            kind.astype(np.uint8), who.astype(np.uint32), iova, size, arg, rights.astype(np.uint8)
        )


class Replay:
    """Page tables, attachments and an IOTLB, as the events so far have left them.

    >>> replay = Replay(devices=1, domains=1, lazy=True)
    >>> events = Events.of([
    ...     (Do.ATTACH, 0, 0, 0, 0),
    ...     (Do.MAP, 0, 0x1000, 0x1000, 0x8000_0000, READ | WRITE),
    ...     (Do.DMA, 0, 0x1800, 4, 0, 1),
    ...     (Do.UNMAP, 0, 0x1000, 0x1000),
    ...     (Do.DMA, 0, 0x1800, 4, 0, 1),
    ...     (Do.FLUSH, 0),
    ...     (Do.DMA, 0, 0x1800, 4, 0, 1),
    ... ])
    >>> code, addr = replay.run(events)
    >>> [Verdict(c).name for c in code[events.kind == Do.DMA]]
    ['TRANSLATED', 'STALE', 'NOT_MAPPED']

    ``lazy`` says for each domain (or for all) whether a flush is left to a later event.
    ``attached`` is what each device is attached to at first, and ``detached`` what a DETACH leaves
    it in: BLOCKED, IDENTITY or a domain, as the driver does. ``msi`` is the interrupt window and
    ``width`` the input address bits, at most 48.
    """

    def __init__(
        self,
        devices: int,
        domains: int,
        *,
        lazy: bool | Sequence[bool] = False,
        attached: int | Sequence[int] = BLOCKED,
        detached: int = BLOCKED,
        msi: tuple[int, int] | None = None,
        width: int = 48,
    ) -> None:
        if not 12 <= width <= 48:
            raise ValueError(f"a replay walks 12 to 48 address bits, got width={width}")
        self.devices, self.domains = devices, domains
        self.rows = 0
        self._attached = np.broadcast_to(np.array(attached, np.uint32), (devices,)).copy()
        self._lazy = np.broadcast_to(np.array(lazy, np.bool_), (domains,)).copy()
        self._epoch = np.ones(domains, np.uint64)
        window = (1, 0) if msi is None else msi
        self._fixed = np.array([*window, 1 << width, detached], np.uint64)
        self._inner = np.zeros((domains + 64) * 512, np.int32)
        self._leaf = np.zeros((64 * 512, LEAF), np.uint64)
        self._gone = np.zeros((64 * 512, GONE), np.uint64)
        self._older = np.zeros((64, OLDER), np.uint64)
        # In use: blocks of _inner and of _leaf (the first one stands for "none"), rows of _older.
        self._used = np.array([domains, 1, 1], np.int64)

    def run(
        self,
        events: Events,
        *,
        since: I64 | None = None,
    ) -> tuple[U8, U64]:
        """Verdict and address of every row, as :meth:`Checker.check` gives them.

        Rows that are no DMA have the code NO_DMA and the address 0. ``since`` takes, for each
        STALE row, the row of the unmap that opened the window (counted over all runs of this
        replay), and -1 elsewhere; :func:`closes` says when it ends.

        Raises ValueError with the row number. What is wrong by itself is refused before anything
        happens; a MAP of what is mapped is met on the way, and rows before it have happened.
        """
        events = Events(
            _column(events.kind, np.uint8),
            _column(events.who, np.uint32),
            _column(events.iova, np.uint64),
            _column(events.size, np.uint64),
            _column(events.arg, np.uint64),
            _column(events.rights, np.uint8),
        )
        refuse(events, self.devices, self.domains, int(self._fixed[2]))
        n = len(events.kind)
        code = np.full(n, NO_DMA, np.uint8)
        addr = np.zeros(n, np.uint64)
        seen = np.empty(0, np.int64) if since is None else since
        if since is not None:
            since[:] = -1
        at = 0
        while at < n:
            at, stopped = _play(
                *events, at, self.rows, self._fixed, self._attached, self._lazy, self._epoch,
                self._inner, self._leaf, self._gone, self._older, self._used, code, addr, seen,
            )  # fmt: skip
            if stopped == TAKEN:
                self.rows += at
                raise ValueError(
                    f"row {at}: iova {int(events.iova[at]):#x} + size {int(events.size[at]):#x} "
                    "is mapped already, at least in part; it has to be unmapped first"
                )
            if stopped == NO_BLOCKS:
                blocks = (int(events.size[at]) >> 21) + 8
                self._inner = _longer(self._inner, 512 * blocks)
                self._leaf = _longer(self._leaf, 512 * blocks)
                self._gone = _longer(self._gone, 512 * blocks)
            if stopped == NO_OLDER:
                self._older = _longer(self._older, 1)
        self.rows += n
        return code, addr


def closes(events: Events, since: I64) -> I64:
    """For each STALE row, the row of the flush that ends its window; -1 where none is seen.

    ``since`` is what the first :meth:`Replay.run` filled in for these events.
    """
    ends = np.full(len(since), -1)
    stale = np.flatnonzero(since >= 0)
    domain = events.who[since[stale]]
    for number in np.unique(domain).tolist():
        flushes = np.flatnonzero((events.kind == Do.FLUSH) & (events.who == number))
        rows = stale[domain == number]
        next_ = np.searchsorted(flushes, rows)
        ends[rows] = np.append(flushes, -1)[next_]
    return ends


def refuse(events: Events, devices: int, domains: int, limit: int) -> None:
    """ValueError for the first row that no system could have produced."""
    kind, who, iova, size, arg, rights = events
    lengths = {len(kind), len(who), len(iova), len(size), len(arg), len(rights)}
    if len(lengths) > 1:
        raise ValueError(f"columns of events differ in length: {sorted(lengths)}")
    dma, on_pages = kind == Do.DMA, (kind == Do.MAP) | (kind == Do.UNMAP)
    to_map, attach = kind == Do.MAP, kind == Do.ATTACH
    of_device = dma | attach | (kind == Do.DETACH)
    ends = iova + size - U(1)
    for wrong, says in (
        (kind > max(Do), "kind is one of 0 to 5"),
        (of_device & (who >= devices), f"there are {devices} devices, counted from 0"),
        (~of_device & (who >= domains), f"there are {domains} domains, counted from 0"),
        ((dma | on_pages) & (size == 0), "size is 1 or more"),
        ((dma | on_pages) & (ends < iova), "iova + size does not run past 2**64"),
        (on_pages & ((iova | size) % U(4096) != 0), "only whole pages of 4096 are mapped"),
        (on_pages & (ends >= limit), f"addresses of mappings are below {limit:#x}"),
        (to_map & ((arg % U(4096) != 0) | (arg >= 2**52)), "arg is a page below 2**52"),
        (to_map & ((rights == 0) | (rights > READ | WRITE)), "rights of a mapping are 1, 2 or 3"),
        (dma & (rights > 1), "rights of a DMA are 1 to write and 0 to read"),
        (attach & (arg >= domains) & (arg != BLOCKED) & (arg != IDENTITY), "arg is a domain"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"row {row}: {says}; got kind={kind[row]}, who={who[row]}, "
                f"iova={int(iova[row]):#x}, size={int(size[row]):#x}, arg={int(arg[row]):#x}, "
                f"rights={rights[row]}"
            )


def _column(values: Any, dtype: Any) -> Any:
    """As the player wants it; writeable, since it is compiled anew for arrays that are not."""
    return np.require(values, dtype, ["C", "W"])


def _longer(array: Any, more: int) -> Any:
    longer = np.zeros((2 * len(array) + more, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


# A page's entry is its physical address with the rights in the low bits, 0 for none. _leaf has for
# each page the entry in force, and the flush epoch in which its last one was unmapped (low half).
# What that one was, and when, is in the same row of _gone; the high half of the epoch is the row
# of _older with the one before it: entry, row of the next in _older, row of the unmap.
NOW, EPOCH = range(2)
OLD, SINCE = range(2)
LEAF, GONE, OLDER = 2, 2, 3
RIGHTS = U(READ | WRITE)
HALF = U(32)
LOW_HALF = U(2**32 - 1)
DONE, NO_BLOCKS, NO_OLDER, TAKEN = range(4)
NONE = SETTLED = U(0)

DMA, MAP, UNMAP, FLUSH, ATTACH, DETACH = map(np.uint8, Do)
(
    TRANSLATED,
    PASSED_BY,
    MSI,
    STALE,
    PARTIAL,
    ALL_BLOCKED,
    NOT_MAPPED,
    NO_PERMISSION,
    BEYOND,
    RESERVED,
) = (
    np.uint8(verdict)
    for verdict in (
        Verdict.TRANSLATED,
        Verdict.IDENTITY,
        Verdict.MSI,
        Verdict.STALE,
        Verdict.PARTIAL,
        Verdict.BLOCKED,
        Verdict.NOT_MAPPED,
        Verdict.NO_PERMISSION,
        Verdict.BEYOND_APERTURE,
        Verdict.RESERVED,
    )
)


@_compiled
def _block(table: Any, page: Any, inner: Any) -> Any:
    """The block of leaves that a page is in; 0, which is always empty, where there is none."""
    block = U(inner[table * U(512) + (page >> U(27))])
    if block != NONE:
        block = U(inner[block * U(512) + ((page >> U(18)) & U(511))])
    if block != NONE:
        block = U(inner[block * U(512) + ((page >> U(9)) & U(511))])
    return block


@_compiled
def _block_made(table: Any, page: Any, inner: Any, used: Any) -> Any:
    """The block of leaves that a page is in; what is missing of the table is made."""
    slot = table * U(512) + (page >> U(27))
    if inner[slot] == 0:
        inner[slot] = used[0]
        used[0] += 1
    slot = U(inner[slot]) * U(512) + ((page >> U(18)) & U(511))
    if inner[slot] == 0:
        inner[slot] = used[0]
        used[0] += 1
    slot = U(inner[slot]) * U(512) + ((page >> U(9)) & U(511))
    if inner[slot] == 0:
        inner[slot] = used[1]
        used[1] += 1
    return U(inner[slot])


@_compiled
def _play(
    kind: Any, who: Any, iova: Any, size: Any, arg: Any, rights: Any,
    at: Any, rows: Any, fixed: Any, attached: Any, lazy: Any, epoch: Any,
    inner: Any, leaf: Any, gone: Any, older: Any, used: Any, code: Any, addr: Any, since: Any,
) -> Any:  # fmt: skip
    """Play events from row ``at`` on; the row that stopped it, and why.

    One long function on purpose: numba counts the references of every array that it hands to a
    function with a loop or a second return, and that took two thirds of the time.
    """
    msi_first, msi_last, limit, detached = fixed[0], fixed[1], fixed[2], fixed[3]
    for i in range(at, len(kind)):
        do, target, a = kind[i], U(who[i]), iova[i]
        if do == FLUSH:
            epoch[target] = (epoch[target] + U(1)) & LOW_HALF
        elif do == ATTACH:
            attached[target] = arg[i]
        elif do == DETACH:
            attached[target] = detached

        elif do == MAP:
            first, end = a >> U(12), (a + size[i]) >> U(12)
            blocks = ((end - first) >> U(9)) + U(8)
            if U(used[0]) + blocks > U(len(inner)) >> U(9) or (
                U(used[1]) + blocks > U(len(leaf)) >> U(9)
            ):
                return i, NO_BLOCKS
            row, page = NONE, first
            while page < end:
                if row & U(511) == NONE:
                    row = _block_made(target, page, inner, used) * U(512) + (page & U(511))
                if leaf[row, NOW] != NONE:
                    break
                leaf[row, NOW] = (arg[i] | U(rights[i])) + ((page - first) << U(12))
                row, page = row + U(1), page + U(1)
            if page < end:
                while page > first:
                    page -= U(1)
                    row = _block(target, page, inner) * U(512) + (page & U(511))
                    leaf[row, NOW] = NONE
                return i, TAKEN

        elif do == UNMAP:
            row, page, end = NONE, a >> U(12), (a + size[i]) >> U(12)
            while page < end:
                if row & U(511) == NONE:
                    block = _block(target, page, inner)
                    if block == NONE:
                        page = ((page >> U(9)) + U(1)) << U(9)
                        continue
                    row = block * U(512) + (page & U(511))
                entry = leaf[row, NOW]
                if entry != NONE and lazy[target]:
                    before = NONE
                    if leaf[row, EPOCH] & LOW_HALF == epoch[target]:
                        if used[2] == len(older):
                            return i, NO_OLDER  # and again with more room; what is done stays done
                        before = U(used[2])
                        used[2] += 1
                        older[before, 0] = gone[row, OLD]
                        older[before, 1] = leaf[row, EPOCH] >> HALF
                        older[before, 2] = gone[row, SINCE]
                    gone[row, OLD] = entry
                    gone[row, SINCE] = U(rows + i)
                    leaf[row, EPOCH] = epoch[target] | (before << HALF)
                leaf[row, NOW] = NONE
                row, page = row + U(1), page + U(1)

        else:
            domain, last, write = U(attached[target]), a + (size[i] - U(1)), rights[i] != 0
            stop = limit  # the first byte that is out of the question
            if msi_first <= a <= msi_last:
                code[i], addr[i] = (MSI if write else RESERVED), a
                stop = msi_last + U(1) if write else SETTLED
            elif domain == U(BLOCKED):
                code[i], addr[i] = ALL_BLOCKED, a
                stop = SETTLED
            elif a >= limit:
                code[i], addr[i] = BEYOND, a
                stop = SETTLED
            else:
                if a < msi_first <= msi_last:
                    stop = min(stop, msi_first)
                code[i], addr[i] = PASSED_BY, a
                if domain != U(IDENTITY):
                    code[i] = TRANSLATED
                    right = U(WRITE) if write else U(READ)
                    row, page = NONE, a >> U(12)
                    end = (min(last, stop - U(1)) >> U(12)) + U(1)
                    while page < end:
                        if row & U(511) == NONE:
                            row = _block(domain, page, inner) * U(512) + (page & U(511))
                        entry = leaf[row, NOW]
                        lives = entry & right != NONE
                        if leaf[row, EPOCH] & LOW_HALF == epoch[domain]:
                            # The newest old entry that has the right and leads elsewhere.
                            old, opened = gone[row, OLD], gone[row, SINCE]
                            before = leaf[row, EPOCH] >> HALF
                            while True:
                                elsewhere = not lives or (old ^ entry) & ~RIGHTS != NONE
                                may = old & right != NONE and elsewhere
                                if may or before == NONE:
                                    break
                                old, opened = older[before, 0], older[before, 2]
                                before = older[before, 1]
                            if may:
                                if len(since) and code[i] != STALE:
                                    since[i] = np.int64(opened)
                                code[i] = STALE
                                entry = entry if lives else old
                                lives = True
                        if not lives:
                            break
                        if page << U(12) <= a:
                            addr[i] = (entry & ~RIGHTS) | (a & U(4095))
                        row, page = row + U(1), page + U(1)
                    if page < end:
                        stop = page << U(12)
                        if stop <= a:
                            code[i], addr[i] = (NOT_MAPPED if entry == NONE else NO_PERMISSION), a
                            stop = SETTLED
            if stop != SETTLED and last >= stop:
                code[i], addr[i] = PARTIAL, stop
                if len(since):
                    since[i] = -1
    return len(kind), DONE
