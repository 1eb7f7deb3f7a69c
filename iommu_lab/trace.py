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

try:
    import numba
except ImportError:
    numba = None

F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    """Compiled where numba is installed; else the same walk in Python, some hundred times slower."""
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
                self._inner, self._leaf, self._older, self._used, code, addr, seen,
            )  # fmt: skip
            if stopped == TAKEN:
                self.rows += at
                raise ValueError(
                    f"row {at}: iova {int(events.iova[at]):#x} + size {int(events.size[at]):#x} "
                    "is mapped already, at least in part; it has to be unmapped first"
                )
            if stopped == FULL:
                self._grow(-(-int(events.size[at]) >> 12))
        self.rows += n
        return code, addr

    def _grow(self, pages: int) -> None:
        """Twice the room, and at least enough to map so many pages."""
        blocks = pages // 512 + 8
        self._inner = _longer(self._inner, 512 * blocks)
        self._leaf = _longer(self._leaf, 512 * blocks)
        self._older = _longer(self._older, pages)


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


# A page's entry is its physical address with the rights in the low bits, 0 for none. A leaf keeps
# the entry in force and what the IOTLB may hold besides: the entry of the newest unmap, the flush
# epoch of that (low half) with the row of _older where the one before it is (high half), and the
# row of the unmap. _older has entry, row of the one before, row of the unmap.
NOW, OLD, EPOCH, SINCE = range(4)
LEAF, OLDER = 4, 3
RIGHTS = U(READ | WRITE)
HALF = U(32)
LOW_HALF = U(2**32 - 1)
DONE, FULL, TAKEN = range(3)
NONE = U(0)

DMA, MAP, UNMAP, FLUSH, ATTACH = (np.uint8(do) for do in list(Do)[:5])
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
def _leaf_of(domain: Any, page: Any, inner: Any) -> Any:
    """The row of a page's leaf; in the first block, which is always empty, where there is none."""
    block = U(inner[domain * U(512) + (page >> U(27))])
    if block != NONE:
        block = U(inner[block * U(512) + ((page >> U(18)) & U(511))])
    if block != NONE:
        block = U(inner[block * U(512) + ((page >> U(9)) & U(511))])
    return block * U(512) + (page & U(511))


@_compiled
def _leaf_made(domain: Any, page: Any, inner: Any, used: Any) -> Any:
    """The row of a page's leaf; what is missing of the table is made."""
    slot = domain * U(512) + (page >> U(27))
    for shift in (U(18), U(9)):
        if inner[slot] == 0:
            inner[slot] = used[0]
            used[0] += 1
        slot = U(inner[slot]) * U(512) + ((page >> shift) & U(511))
    if inner[slot] == 0:
        inner[slot] = used[1]
        used[1] += 1
    return U(inner[slot]) * U(512) + (page & U(511))


@_compiled
def _map(domain: Any, first: Any, pages: Any, entry: Any, inner: Any, leaf: Any, used: Any) -> Any:
    """Whether all the pages were free; if not, nothing is mapped."""
    for n in range(pages):
        row = _leaf_made(domain, first + U(n), inner, used)
        if leaf[row, NOW] != NONE:
            for back in range(n):
                leaf[_leaf_of(domain, first + U(back), inner), NOW] = NONE
            return False
        leaf[row, NOW] = entry + U(n) * U(4096)
    return True


@_compiled
def _unmap(
    domain: Any, first: Any, pages: Any, lazy: Any, epoch: Any, at: Any,
    inner: Any, leaf: Any, older: Any, used: Any,
) -> Any:  # fmt: skip
    """Whether there was room to remember everything; if not, call again with more."""
    page, end = first, first + pages
    while page < end:
        row = _leaf_of(domain, page, inner)
        if row < U(512):
            page = ((page >> U(9)) + U(1)) << U(9)  # no block: on to the next
            continue
        entry = leaf[row, NOW]
        if entry != NONE and lazy:
            before = U(0)
            if leaf[row, EPOCH] & LOW_HALF == epoch:
                if used[2] == len(older):
                    return False
                before = U(used[2])
                used[2] += 1
                older[before, 0] = leaf[row, OLD]
                older[before, 1] = leaf[row, EPOCH] >> HALF
                older[before, 2] = leaf[row, SINCE]
            leaf[row, OLD] = entry
            leaf[row, EPOCH] = epoch | (before << HALF)
            leaf[row, SINCE] = U(at)
        leaf[row, NOW] = NONE
        page += U(1)
    return True


@_compiled
def _old(row: Any, epoch: Any, right: Any, unlike: Any, leaf: Any, older: Any) -> Any:
    """The newest unflushed entry with this right that leads elsewhere than ``unlike``; or NONE.

    With the row of its unmap.
    """
    if leaf[row, EPOCH] & LOW_HALF != epoch:
        return NONE, NONE
    entry, since, before = leaf[row, OLD], leaf[row, SINCE], leaf[row, EPOCH] >> HALF
    while True:
        if entry & right != NONE and entry & ~RIGHTS != unlike & ~RIGHTS:
            return entry, since
        if before == NONE:
            return NONE, NONE
        entry, since, before = older[before, 0], older[before, 2], older[before, 1]


@_compiled
def _play(
    kind: Any, who: Any, iova: Any, size: Any, arg: Any, rights: Any,
    at: Any, rows: Any, fixed: Any, attached: Any, lazy: Any, epoch: Any,
    inner: Any, leaf: Any, older: Any, used: Any, code: Any, addr: Any, since: Any,
) -> Any:  # fmt: skip
    """Play events from row ``at`` on; the row that stopped it, and why."""
    msi_first, msi_last, limit, detached = fixed[0], fixed[1], fixed[2], fixed[3]
    for i in range(at, len(kind)):
        do, target, a = kind[i], U(who[i]), iova[i]
        if do == DMA:
            told, where, opened = _dma(
                U(attached[target]), a, a + (size[i] - U(1)), U(rights[i]) != NONE,
                msi_first, msi_last, limit, epoch, inner, leaf, older,
            )  # fmt: skip
            code[i], addr[i] = told, where
            if len(since) and told == STALE:
                since[i] = np.int64(opened)
        elif do == MAP:
            pages = size[i] >> U(12)
            blocks = (pages >> U(9)) + U(8)
            if U(used[0]) + blocks > U(len(inner)) >> U(9) or (
                U(used[1]) + blocks > U(len(leaf)) >> U(9)
            ):
                return i, FULL
            entry = arg[i] | U(rights[i])
            if not _map(target, a >> U(12), pages, entry, inner, leaf, used):
                return i, TAKEN
        elif do == UNMAP:
            if not _unmap(
                target, a >> U(12), size[i] >> U(12), lazy[target], epoch[target], rows + i,
                inner, leaf, older, used,
            ):  # fmt: skip
                return i, FULL
        elif do == FLUSH:
            epoch[target] = (epoch[target] + U(1)) & LOW_HALF
        elif do == ATTACH:
            attached[target] = arg[i]
        else:
            attached[target] = detached
    return len(kind), DONE


@_compiled
def _dma(
    domain: Any, a: Any, last: Any, write: Any, msi_first: Any, msi_last: Any, limit: Any,
    epoch: Any, inner: Any, leaf: Any, older: Any,
) -> Any:  # fmt: skip
    """Verdict, address, and the row of the unmap that opened the window of a STALE one."""
    if msi_first <= a <= msi_last:
        if not write:
            return RESERVED, a, NONE
        return (MSI, a, NONE) if last <= msi_last else (PARTIAL, msi_last + U(1), NONE)
    if domain == U(BLOCKED):
        return ALL_BLOCKED, a, NONE
    if a >= limit:
        return BEYOND, a, NONE
    stop = limit  # the first byte that is out of the question
    if a < msi_first <= msi_last:
        stop = min(stop, msi_first)
    if domain == U(IDENTITY):
        return (PASSED_BY, a, NONE) if last < stop else (PARTIAL, stop, NONE)

    right = U(WRITE) if write else U(READ)
    verdict, where, opened = TRANSLATED, a, NONE
    for page in range(a >> U(12), (min(last, stop - U(1)) >> U(12)) + U(1)):
        row = _leaf_of(domain, page, inner)
        entry = leaf[row, NOW]
        if entry & right != NONE:
            old, unmapped = _old(row, epoch[domain], right, entry, leaf, older)
        else:
            old, unmapped = _old(row, epoch[domain], right, ~NONE, leaf, older)
            if old == NONE:
                if page << U(12) > a:
                    return PARTIAL, page << U(12), NONE
                return (NOT_MAPPED if entry == NONE else NO_PERMISSION), a, NONE
            entry = old
        if page << U(12) <= a:
            where = (entry & ~RIGHTS) | (a & U(4095))
        if old != NONE and verdict != STALE:
            verdict, opened = STALE, unmapped
    return (verdict, where, opened) if last < stop else (PARTIAL, stop, NONE)
