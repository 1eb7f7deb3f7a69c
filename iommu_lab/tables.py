"""Page tables: which IOVA leads to which physical address, page by page.

A table is a value: every change makes a new one, so a state can be kept, compared and hashed. It is
stored as columns (``array``), one row for a run of equal pages that are contiguous on both sides:
the standard library suffices here, and numpy reads the same columns without a copy.

The row keeps the page size, because that is what the driver can take away again later: a run of
512 small pages and one 2 MiB page translate alike and unmap differently.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

READ, WRITE = 1, 2


class Run(NamedTuple):
    """``size`` bytes from ``iova`` lead to ``paddr``, in pages of ``2**shift`` bytes."""

    iova: int
    size: int
    paddr: int
    shift: int
    prot: int

    @property
    def end(self) -> int:
        """The first byte after the run."""
        return self.iova + self.size

    def page(self, iova: int) -> Run:
        """The one page of the run that holds this address."""
        start = iova - (iova - self.iova) % (1 << self.shift)
        return self._replace(iova=start, size=1 << self.shift, paddr=self.paddr + start - self.iova)


class Stale(NamedTuple):
    """A translation that is gone from the table and may live on in the IOTLB."""

    iova: int
    size: int
    paddr: int
    prot: int
    since_ms: float
    until_ms: float


class PageTable:
    """The leaf entries of one I/O page table.

    >>> table = PageTable().insert(Run(0x1000, 0x2000, 0x8000_0000, 12, READ | WRITE))
    >>> hex(table.lookup(0x2004)[0]), table.lookup(0x3000)
    ('0x80001004', None)
    """

    __slots__ = ("_hash", "bare", "iova", "paddr", "prot", "shift", "size", "stale")

    def __init__(
        self,
        runs: Iterable[Run] = (),
        stale: tuple[Stale, ...] = (),
        bare: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        rows = sorted(runs)
        self.iova = array("Q", [r.iova for r in rows])
        self.size = array("Q", [r.size for r in rows])
        self.paddr = array("Q", [r.paddr for r in rows])
        self.shift = array("B", [r.shift for r in rows])
        self.prot = array("B", [r.prot for r in rows])
        self.stale = stale
        self.bare = bare
        """Tables in memory with nothing mapped in them: what they span (log2), and which span."""
        self._hash: int | None = None

    def __len__(self) -> int:
        return len(self.iova)

    def __iter__(self) -> Iterator[Run]:
        return map(Run, self.iova, self.size, self.paddr, self.shift, self.prot)

    def __getitem__(self, index: int) -> Run:
        return Run(
            self.iova[index],
            self.size[index],
            self.paddr[index],
            self.shift[index],
            self.prot[index],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PageTable) and self._columns() == other._columns()

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(
                (
                    self.iova.tobytes(),
                    self.size.tobytes(),
                    self.paddr.tobytes(),
                    self.shift.tobytes(),
                    self.prot.tobytes(),
                    self.stale,
                    self.bare,
                )
            )
        return self._hash

    def __repr__(self) -> str:
        runs = ", ".join(f"{r.iova:#x}+{r.size:#x}->{r.paddr:#x}" for r in list(self)[:4])
        return f"PageTable({runs}{', …' if len(self) > 4 else ''})"

    def _columns(self) -> tuple[object, ...]:
        return self.iova, self.size, self.paddr, self.shift, self.prot, self.stale, self.bare

    @property
    def last(self) -> int:
        """The last address that is mapped or that an empty table stands for; 0 if there is none."""
        ends = ((index + 1) << shift for shift, index in self.bare)
        return max(self.iova[-1] + self.size[-1] if len(self) else 1, *ends, 1) - 1

    def find(self, iova: int) -> int | None:
        """The row that holds this address, or None for a hole."""
        row = bisect_right(self.iova, iova) - 1
        return row if row >= 0 and iova - self.iova[row] < self.size[row] else None

    def lookup(self, iova: int) -> tuple[int, int] | None:
        """The physical address and the rights at this address, or None for a hole."""
        row = self.find(iova)
        if row is None:
            return None
        return self.paddr[row] + (iova - self.iova[row]), self.prot[row]

    def overlapping(self, iova: int, size: int) -> range:
        """The rows that share at least one byte with ``[iova, iova + size)``."""
        first = bisect_right(self.iova, iova) - 1
        if first < 0 or iova - self.iova[first] >= self.size[first]:
            first += 1
        last = bisect_right(self.iova, iova + size - 1) if size else first
        return range(first, max(first, last))

    def insert(self, run: Run) -> PageTable:
        """A table with one run more; the caller has made sure the place is free."""
        return self._splice(bisect_right(self.iova, run.iova), 0, (run,))

    def clear(self, iova: int, size: int) -> PageTable:
        """A table without ``[iova, iova + size)``; the caller cuts at page boundaries only."""
        rows = self.overlapping(iova, size)
        if not rows:
            return self
        kept: list[Run] = []
        head, tail = self[rows[0]], self[rows[-1]]
        if head.iova < iova:
            kept.append(head._replace(size=iova - head.iova))
        if tail.end > iova + size:
            gone = iova + size - tail.iova
            kept.append(
                tail._replace(iova=tail.iova + gone, size=tail.size - gone, paddr=tail.paddr + gone)
            )
        return self._splice(rows.start, len(rows), kept)

    def inside(self, iova: int, size: int) -> list[Run]:
        """What is mapped of ``[iova, iova + size)``, cut at both ends."""
        found = []
        for row in self.overlapping(iova, size):
            run = self[row]
            start, stop = max(run.iova, iova), min(run.end, iova + size)
            paddr = run.paddr + start - run.iova
            found.append(Run(start, stop - start, paddr, run.shift, run.prot))
        return found

    def free(self, ranges: Sequence[tuple[int, ...]]) -> bool:
        """Is nothing mapped in any of these ``(iova, …, size)``, which are in order?"""
        if not len(self) or not ranges:
            return True
        beyond = self.iova[-1] + self.size[-1] <= ranges[0][0]
        return beyond or not any(self.overlapping(r[0], r[-1]) for r in ranges)

    def merge(self, *columns: array[int]) -> PageTable:
        """Many runs at once, column by column, sorted and clear of what is in the table."""
        new = PageTable((), self.stale, self.bare)
        apart = not len(self) or not len(columns[0]) or self.iova[-1] < columns[0][0]
        for name, more in zip(_COLUMNS, columns, strict=True):
            setattr(new, name, getattr(self, name) + more)
        return new if apart else PageTable(new, self.stale, self.bare)

    def with_stale(self, stale: Iterable[Stale]) -> PageTable:
        """The same entries with another memory of what the IOTLB may still hold."""
        return self._splice(0, 0, (), tuple(stale))

    def with_bare(self, bare: frozenset[tuple[int, int]]) -> PageTable:
        """The same entries with another memory of which tables stand empty."""
        if bare == self.bare:
            return self
        new = self._splice(0, 0, ())
        new.bare = bare
        return new

    def holds(self, shift: int, iova: int) -> bool:
        """Is there a table for the span of ``2**shift`` bytes around this address, full or bare?"""
        index = iova >> shift
        return (shift, index) in self.bare or bool(self.overlapping(index << shift, 1 << shift))

    def _splice(
        self, start: int, gone: int, runs: Iterable[Run], stale: tuple[Stale, ...] | None = None
    ) -> PageTable:
        new = PageTable.__new__(PageTable)
        rows = list(runs)
        stop = start + gone
        for name in _COLUMNS:
            # One copy of the column, then one move of its tail: half the work of three slices.
            column: array[int] = array(getattr(self, name).typecode, getattr(self, name))
            column[start:stop] = array(column.typecode, [getattr(r, name) for r in rows])
            setattr(new, name, column)
        new.stale = self.stale if stale is None else stale
        new.bare = self.bare
        new._hash = None
        return new


_COLUMNS = ("iova", "size", "paddr", "shift", "prot")

EMPTY = PageTable()
