"""Partitions: the whole 64-bit IOVA space of one translation, cut where the answer changes.

How can one look-up decide a DMA of any length? By asking at compile time what a look-up cannot: for
every segment and both directions, where does a DMA that walks on from here stop, and where does it
begin to pass in a worse way. A segment is a mapping, a hole, a window, or the space beyond the
aperture; there is one for every address, so no address is special.

Two things a reader would question. Ranges are kept by their last byte, since an end of ``2**64``
does not fit 64 bits. And bytes are judged in address order, each on its own, as if the device sent
them one after another; real devices cut a DMA into packets and may have sent later ones before the
first fault comes back.

Where the model stops: page granularity is the table's; PASIDs, ATS and the order of writes are not
here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .hardware import TOP, Entry, Hardware, Kind
from .tables import READ, WRITE, PageTable, Stale
from .verdict import Verdict

U64 = NDArray[np.uint64]
U8 = NDArray[np.uint8]

# The eight words of a record: four for reads, then the same four for writes.
DELTA, RUN_LAST, WORSE_LAST, CODE = range(4)
WORDS = 4
_RIGHTS = (READ, WRITE)
_HOLE = 4  # one more than any READ | WRITE


@dataclass(frozen=True, eq=False)
class Partition:
    """One translation, compiled.

    ``start`` has the first byte of each of n segments, ascending from 0. ``record`` is (n, 8)
    uint64, one cache line a segment. Four words for reads, then four for writes:

    - ``DELTA``: physical address minus IOVA, modulo 2**64 (0 where the DMA faults);
    - ``RUN_LAST``: the last byte that passes for a DMA that walks on from here (the last byte of
      all where the DMA faults at once, so that its verdict is CODE whatever its length);
    - ``WORSE_LAST``: the last byte before one that passes with a greater verdict;
    - ``CODE``: the verdict of a DMA that ends before both.

    ``stale`` is kept to say in words how long an entry of the IOTLB may live.
    """

    start: U64
    record: U64
    stale: tuple[Stale, ...] = ()

    def __len__(self) -> int:
        return len(self.start)

    def find(self, iova: U64) -> NDArray[np.intp]:
        """The segment that holds each address."""
        return np.searchsorted(self.start, iova, side="right") - 1

    def judge(self, iova: U64, last: U64, write: NDArray[np.bool_]) -> tuple[U8, U64]:
        """Verdict and address (physical, or the first that faults) of accesses iova..last."""
        words = self.record.reshape(-1)
        at = self.find(iova) * (2 * WORDS) + write * WORDS
        run_last = words[at + RUN_LAST]
        code = words[at + CODE].astype(np.uint8)
        through = last <= run_last
        mixed = through & (last > words[at + WORSE_LAST])
        addr = iova + words[at + DELTA]
        stopped = ~through
        code[stopped] = Verdict.PARTIAL
        addr[stopped] = run_last[stopped] + np.uint64(1)
        if mixed.any():
            code[mixed] = self.worst(iova[mixed], last[mixed], write[mixed])
        return code, addr

    def word(self, which: int, iova: U64, write: NDArray[np.bool_]) -> U64:
        """One word of the record that speaks for each address and direction."""
        at = self.find(iova) * (2 * WORDS) + write * WORDS + which
        word: U64 = self.record.reshape(-1)[at]
        return word

    def pieces(self, first: int, last: int, write: bool) -> Iterator[tuple[int, int]]:
        """The physical ranges, inclusive, that passing bytes first..last land in."""
        low, high = self.find(np.array([first, last], np.uint64)).tolist()
        starts = self.start[low : high + 1].tolist()
        deltas = self.record[low : high + 1, write * WORDS + DELTA].tolist()
        for start, after, delta in zip(starts, [*starts[1:], last + 1], deltas, strict=True):
            begin = max(start, first)
            paddr = (begin + delta) % 2**64
            yield paddr, paddr + (after - 1 - begin)

    def worst(self, iova: U64, last: U64, write: NDArray[np.bool_]) -> U8:
        """The greatest verdict among the bytes of accesses that are known to pass.

        Each step jumps to the next byte that is worse, so there are as many steps as there are
        ways to pass, however many segments lie between.
        """
        words = self.record.reshape(-1)
        at = self.find(iova) * (2 * WORDS) + write * WORDS
        while True:
            worse = words[at + WORSE_LAST]
            more = last > worse
            if not more.any():
                break
            further = self.find(worse[more] + np.uint64(1)) * (2 * WORDS)
            at[more] = further + write[more] * WORDS
        code: U8 = words[at + CODE].astype(np.uint8)
        return code


def compile_entry(
    entry: Entry,
    table: PageTable,
    *,
    master: bool = True,
    msi: tuple[tuple[int, int], ...] = (),
    width: int = 64,
) -> Partition:
    """The partition of one translation entry; see :func:`compile_device` for the rules."""
    if not master:
        return _whole(Verdict.MASTER_OFF)
    if entry.kind is Kind.UNKNOWN:
        return _whole(Verdict.UNKNOWN)

    stale: tuple[Stale, ...] = ()
    if entry.kind in (Kind.TABLE, Kind.PLATFORM):
        stale = tuple(s for s in table.stale if s.size)
        passing = Verdict.PLATFORM if entry.kind is Kind.PLATFORM else Verdict.TRANSLATED
        layers = _Layers.of_table(table, passing)
    else:
        layers = _Layers.uniform(Verdict.IDENTITY)

    edge = 1 << width
    windows = _joined(msi)
    inclusive = [(s.iova, s.iova + s.size - 1) for s in stale]
    inclusive += [(entry.first, entry.last), (0, edge - 1), *windows]
    layers.cut([end for first, last in inclusive for end in (first, last + 1)])

    bypassed = entry.outside == "bypass"
    outside = Verdict.IDENTITY if bypassed else Verdict.BEYOND_APERTURE
    layers.remember(stale)
    layers.fill(0, entry.first - 1, outside)
    layers.fill(entry.last + 1, TOP, outside)
    layers.fill(edge, TOP, Verdict.BEYOND_APERTURE)
    if entry.kind is Kind.BLOCKED:
        layers.fill(
            entry.first if bypassed else 0, entry.last if bypassed else TOP, Verdict.BLOCKED
        )
    for low, high in windows:
        layers.fill(low, high, Verdict.RESERVED, write=Verdict.MSI)
    return layers.partition(windows, stale)


def compile_device(hardware: Hardware, device: str) -> Partition:
    """What ``hardware`` does with every address that ``device`` can put on the bus.

    From the rule that wins to the one that gives way:

    1. bus master off: the device starts no DMA, not even an interrupt (PCI 3.0, 6.2.2);
    2. a state nobody knows stays unknown;
    3. the interrupt window: a write that starts in it is an interrupt up to the window's end and
       is not translated (VT-d, "Handling Requests to Interrupt Address Range"), a read faults, and
       a DMA does not cross its ends;
    4. an entry that blocks;
    5. the IOMMU's input width, then the range the entry speaks for;
    6. an IOTLB entry that may outlive its mapping, where it leads elsewhere than the table;
    7. the page table, or the untranslated address.
    """
    return compile_entry(
        hardware.entries[device],
        hardware.table_of(device),
        master=hardware.master.get(device, True),
        msi=hardware.msi,
        width=hardware.width,
    )


class _Layers:
    """Segments under construction: codes and deltas for both directions, painted layer by layer."""

    def __init__(self, start: U64, code: list[U8], delta: list[U64]) -> None:
        self.start, self.code, self.delta = start, code, delta

    @classmethod
    def uniform(cls, verdict: Verdict) -> _Layers:
        return cls(
            np.zeros(1, np.uint64),
            [np.full(1, verdict, np.uint8) for _ in _RIGHTS],
            [np.zeros(1, np.uint64) for _ in _RIGHTS],
        )

    @classmethod
    def of_table(cls, table: PageTable, passing: Verdict) -> _Layers:
        """Mappings and the holes between them, in one pass over the table's columns."""
        start, prot, delta = _with_holes(table)
        codes, deltas = [], []
        for right in _RIGHTS:
            verdict_of = np.full(_HOLE + 1, Verdict.NO_PERMISSION, np.uint8)
            verdict_of[[p for p in range(_HOLE) if p & right]] = passing
            verdict_of[_HOLE] = Verdict.NOT_MAPPED
            code = verdict_of[prot]
            codes.append(code)
            deltas.append(np.where(code == passing, delta, np.uint64(0)))
        return cls(start, codes, deltas)

    def cut(self, addresses: Iterable[int]) -> None:
        """Make every one of these addresses the first byte of a segment."""
        wanted = np.array(sorted({a for a in addresses if 0 < a <= TOP}), np.uint64)
        at = np.searchsorted(self.start, wanted, side="right")
        new = self.start[at - 1] != wanted
        at, wanted = at[new], wanted[new]
        if len(at):
            self.start = np.insert(self.start, at, wanted)
            self.code = [np.insert(c, at, c[at - 1]) for c in self.code]
            self.delta = [np.insert(d, at, d[at - 1]) for d in self.delta]

    def _slice(self, first: int, last: int) -> slice:
        low, high = np.searchsorted(self.start, np.array([first, last], np.uint64), side="right")
        return slice(int(low) - 1, int(high))

    def fill(
        self, first: int, last: int, verdict: Verdict, *, write: Verdict | None = None
    ) -> None:
        """One verdict for the range, or another for writes; nothing where the range is empty."""
        if first > last:
            return
        part = self._slice(first, last)
        for code, delta in zip(self.code, self.delta, strict=True):
            code[part], delta[part] = verdict, 0
        if write is not None:
            self.code[1][part] = write

    def remember(self, stale: tuple[Stale, ...]) -> None:
        """Let DMA pass through entries that the table no longer has, the newest first.

        Where the table has the same translation, nothing can go wrong. Where it has another, the
        address stays the table's and the verdict says that the old page may be hit instead. An
        old entry without the right for a direction lets nothing through in that direction.
        """
        oldest_first = sorted(stale, key=lambda s: s.since_ms)
        for old in oldest_first[::-1]:
            part = self._slice(old.iova, old.iova + old.size - 1)
            leads_to = np.uint64((old.paddr - old.iova) % 2**64)
            for right, code, delta in zip(_RIGHTS, self.code, self.delta, strict=True):
                if old.prot & right:
                    now, goes = code[part], delta[part]
                    stopped = now >= Verdict.BLOCKED
                    goes[stopped] = leads_to
                    now[stopped | (goes != leads_to)] = Verdict.STALE

    def partition(self, windows: list[tuple[int, int]], stale: tuple[Stale, ...] = ()) -> Partition:
        """The finished form: like neighbours made one, and where each walk from here ends."""
        new = np.zeros(len(self.start) - 1, bool)
        for code, delta in zip(self.code, self.delta, strict=True):
            new |= (code[1:] != code[:-1]) | (delta[1:] != delta[:-1])
        new = np.append(True, new)
        if not new.all():
            self.start = self.start[new]
            self.code = [code[new] for code in self.code]
            self.delta = [delta[new] for delta in self.delta]

        columns = np.empty((2 * WORDS, len(self.start)), np.uint64)
        for way, (code, delta) in enumerate(zip(self.code, self.delta, strict=True)):
            words = columns[way * WORDS : (way + 1) * WORDS]
            passes = (code < Verdict.PARTIAL) & (code != Verdict.MSI)
            words[DELTA] = delta
            words[CODE] = code
            words[RUN_LAST] = self._before_next(~passes)
            words[RUN_LAST, code >= Verdict.BLOCKED] = TOP
            words[WORSE_LAST] = TOP
            for flavour in np.unique(code[passes])[:-1].tolist():
                here = code == flavour
                words[WORSE_LAST, here] = self._before_next(passes & (code > flavour))[here]
        for low, high in windows:
            columns[WORDS + RUN_LAST, self._slice(low, high)] = high
        return Partition(self.start, _as_lines(columns), stale)

    def _before_next(self, what: NDArray[np.bool_]) -> U64:
        """For each segment, the last byte before the next that is ``what``, itself included."""
        at = np.flatnonzero(what)
        ends = np.append(self.start[at] - np.uint64(1), np.uint64(TOP))
        return np.repeat(ends, np.diff(at, prepend=-1, append=len(what) - 1))


def _with_holes(table: PageTable) -> tuple[U64, U8, U64]:
    """First byte, rights (or ``_HOLE``) and delta of each mapping and of each hole between them."""
    first = np.frombuffer(table.iova, np.uint64)
    n = len(first)
    if not n:
        return np.zeros(1, np.uint64), np.full(1, _HOLE, np.uint8), np.zeros(1, np.uint64)
    after = first + np.frombuffer(table.size, np.uint64)  # 0 where a mapping ends at the top
    hole_before = first != np.append(np.uint64(0), after[:-1])
    at = np.arange(n) + np.cumsum(hole_before)
    total = int(at[-1]) + 1 + bool(after[-1])
    start = np.empty(total, np.uint64)
    prot = np.full(total, _HOLE, np.uint8)
    delta = np.zeros(total, np.uint64)
    start[0] = 0
    hole_after = np.append(hole_before[1:], after[-1] != 0)
    start[at[hole_after] + 1] = after[hole_after]
    start[at] = first
    prot[at] = np.frombuffer(table.prot, np.uint8) & (READ | WRITE)
    delta[at] = np.frombuffer(table.paddr, np.uint64) - first
    return start, prot, delta


def _joined(windows: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Windows in order, those that touch made one."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(windows):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(high, joined[-1][1])
        else:
            joined.append((low, high))
    return joined


def cache_lines(n: int) -> U64:
    """Room for n records, (n, 8) uint64, each on one cache line: a record then never costs two."""
    room = np.empty(8 * n + 7, np.uint64)
    skip = -(room.ctypes.data // 8) % 8
    return room[skip : skip + 8 * n].reshape(n, 8)


def _as_lines(columns: U64) -> U64:
    """Eight columns as records."""
    lines = cache_lines(columns.shape[1])
    for at in range(0, len(lines), 1 << 12):  # a few at a time: each line is then fetched once
        lines[at : at + (1 << 12)] = columns[:, at : at + (1 << 12)].T
    return lines


def _whole(verdict: Verdict) -> Partition:
    """One answer for every address."""
    return _Layers.uniform(verdict).partition([])
