"""The checker: does this DMA get through, and to what memory?

It reads hardware and nothing else: what the kernel believes has no say. Arrays go in and arrays
come out, so that one page and a trace of a hundred million accesses are the same call. A checker is
a snapshot. It does not follow later verbs; :meth:`Checker.renewed` makes the next one and compiles
only what changed.

:mod:`iommu_lab.partition` has the rules and the look-up, :mod:`iommu_lab.verdict` the answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import accesses
from .accesses import Accesses
from .errors import UnknownName, unknown
from .hardware import Entry, Hardware
from .owners import NOTHING_REACHED, Owners
from .partition import CODE, DELTA, U8, U64, Partition, compile_device
from .tables import READ, WRITE, PageTable
from .verdict import Verdict, sentence

# (device, iova, size, write, code, addr) -> was every row an access?
Kernel = Callable[..., bool]

if TYPE_CHECKING:
    import pandas as pd

    from .lab import Lab
    from .machine import Region

__all__ = ["Checker", "Explanation", "Verdict"]

# From so many rows on the compiled kernel is worth its import; numpy takes 30 ms for these.
FAST_ROWS = 200_000
# Rows judged at a time. With numpy: so few that what it holds between steps stays in the cache.
# With numba: so few that columns of another type are converted at little cost in memory.
CHUNK, FAST_CHUNK = 1 << 16, 1 << 18


class Explanation(NamedTuple):
    """What became of each access, in full; n rows each.

    ``reached`` (uint64) counts the bytes before the first fault. ``paddr`` is where the first byte
    went and is void where ``reached`` is 0; ``fault_iova`` is the first byte that was stopped and
    is void where ``verdict`` passes. ``owner`` names whose memory was reached, in the order the DMA
    reached it; ``why`` is a sentence.
    """

    verdict: U8
    reached: U64
    paddr: U64
    fault_iova: U64
    owner: list[str]
    why: list[str]


class Checker:
    """The translation of every device, compiled once.

    >>> from iommu_lab.hardware import BLOCK, BYPASS, Frozen, Hardware
    >>> hardware = Hardware(entries=Frozen(nic=BLOCK, disk=BYPASS))
    >>> checker = Checker(hardware, ["nic", "disk"])
    >>> code, addr = checker.check([0, 1], 0x8000_0000, 64, write=True)
    >>> [Verdict(c).name for c in code], [hex(a) for a in addr]
    (['BLOCKED', 'IDENTITY'], ['0x80000000', '0x80000000'])
    """

    def __init__(
        self,
        hardware: Hardware,
        devices: Iterable[str],
        memory: Sequence[Region] = (),
        *,
        _known: dict[object, tuple[PageTable, Partition]] | None = None,
    ) -> None:
        self.devices = tuple(devices)
        self.memory = tuple(memory)
        self._compiled: dict[object, tuple[PageTable, Partition]] = {}
        self._entries: list[Entry] = []
        rows: dict[object, int] = {}
        which = np.empty(len(self.devices), np.uint32)
        for index, device in enumerate(self.devices):
            if device not in hardware.entries:
                raise unknown("device", device, hardware.entries)
            entry, table = hardware.entries[device], hardware.table_of(device)
            key = (
                replace(entry, table=None, why=""),
                id(table),  # to compare 10**5 mappings would cost what it saves
                hardware.master.get(device, True),
                hardware.msi,
                hardware.width,
            )
            if key not in self._compiled:
                known = (_known or {}).get(key)
                self._compiled[key] = known or (table, compile_device(hardware, device))
            which[index] = rows.setdefault(key, len(rows))
            self._entries.append(entry)
        self.which = which
        self._fast: Kernel | None = None
        self._owners = Owners(self.memory)
        self.partitions = tuple(partition for _, partition in self._compiled.values())

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: without the tables, and without compiled code."""
        return {**self.__dict__, "_compiled": {}, "_fast": None}

    @classmethod
    def from_lab(cls, lab: Lab) -> Checker:
        """The hardware of this moment in a lab; device indices follow ``lab.devices``."""
        return cls(lab.state.hardware, lab.devices, lab.machine.memory)

    def renewed(self, hardware: Hardware) -> Checker:
        """The same devices on changed hardware; compiles only the translations that changed."""
        return Checker(hardware, self.devices, self.memory, _known=self._compiled)

    def check(
        self,
        device_index: ArrayLike,
        iova: ArrayLike,
        size: ArrayLike,
        write: ArrayLike,
        *,
        out: tuple[U8, U64] | None = None,
        threads: int | None = None,
    ) -> tuple[U8, U64]:
        """Verdict (uint8) and address (uint64) of n accesses.

        ``device_index`` counts in ``devices``; ``iova`` and ``size`` are whole numbers below
        2**64, ``write`` is bool. A value given once stands for every row, and four of them give
        arrays without a dimension. The address is physical where the DMA passes, and the first
        IOVA that faults where it does not. ``out`` takes the answers; after an error its contents
        mean nothing. A long trace is shared by ``threads``, by default one for each core.

        Raises ValueError with the row number for what is no access (see
        :mod:`iommu_lab.accesses`).
        """
        asked = accesses.read(device_index, iova, size, write)
        shape = asked.iova.shape
        code, addr = _outputs(shape, out)
        rows = asked.shaped(shape or (1,)), np.atleast_1d(code), np.atleast_1d(addr)
        kernel = self._kernel() if len(rows[1]) >= FAST_ROWS else None
        if kernel is None:
            self._judge(*rows)
        else:
            _in_parts(kernel, *rows, len(self.devices), threads or os.cpu_count() or 1)
        return code, addr

    def _judge(self, asked: Accesses, code: U8, addr: U64) -> None:
        """With numpy, a partition at a time."""
        for at in range(0, len(asked.iova), CHUNK):
            part = slice(at, at + CHUNK)
            some = asked.rows(part)
            accesses.refuse_rows(some, len(self.devices), at)
            last = some.iova + (some.size.astype(np.uint64, copy=False) - np.uint64(1))
            for partition, rows in self._by_partition(some.device):
                judged = partition.judge(some.iova[rows], last[rows], some.write[rows])
                code[part][rows], addr[part][rows] = judged

    def _kernel(self) -> Kernel | None:
        """The compiled kernel with this checker's index, or None where there is no numba."""
        if self._fast is None and self.partitions:
            try:
                from . import dma_fast
            except ImportError:
                return None
            index = dma_fast.build(self.which, self.partitions)
            self._fast = partial(dma_fast.judge, *index)
            self._share(index.words)
        return self._fast

    def _share(self, words: U64) -> None:
        """Let partitions look into the index's copy of their records, and drop their own."""
        at, shared = 0, []
        for own in self.partitions:
            record = words[8 * at : 8 * (at + len(own))].reshape(-1, 8)
            shared.append(replace(own, record=record))
            at += len(own)
        for key, partition in zip(list(self._compiled), shared, strict=False):
            self._compiled[key] = self._compiled[key][0], partition
        self.partitions = tuple(shared)

    def _by_partition(
        self, device: NDArray[Any]
    ) -> Iterable[tuple[Partition, NDArray[np.intp] | slice]]:
        """The rows that meet each partition; every row is in one of them."""
        if len(self.partitions) == 1:
            yield self.partitions[0], slice(None)
            return
        if not len(device):
            return
        which = self.which[device]
        rows = np.argsort(which, kind="stable")
        numbers, begin = np.unique(which[rows], return_index=True)
        for number, some in zip(numbers.tolist(), np.split(rows, begin[1:]), strict=True):
            yield self.partitions[number], some

    def explain(
        self, device_index: ArrayLike, iova: ArrayLike, size: ArrayLike, write: ArrayLike
    ) -> Explanation:
        """What became of each access, in full and in words; arguments as for :meth:`check`."""
        asked = accesses.read(device_index, iova, size, write)
        asked = asked.shaped(asked.iova.shape or (1,))
        n = len(asked.iova)
        code, addr = _outputs((n,), None)
        self._judge(asked, code, addr)

        stopped = code >= Verdict.PARTIAL
        reached = asked.size.astype(np.uint64)
        reached[stopped] = (addr - asked.iova)[stopped]
        paddr = np.where(reached > 0, addr, np.uint64(0))
        fault = np.where(stopped, addr, np.uint64(0))
        reason = code.copy()
        owner = np.full(n, NOTHING_REACHED, object)
        why = np.full(n, "", object)
        for partition, rows in self._by_partition(asked.device):
            part = np.arange(n)[rows]
            cut = part[code[part] == Verdict.PARTIAL]
            begin = asked.iova[cut], asked.write[cut]
            paddr[cut] = asked.iova[cut] + partition.word(DELTA, *begin)
            reason[cut] = partition.word(CODE, fault[cut], asked.write[cut])
            # An interrupt ends at its window, and other DMA at the window's start.
            at_window = (reason[cut] == Verdict.MSI) | (partition.word(CODE, *begin) == Verdict.MSI)
            reason[cut[at_window]] = Verdict.RESERVED

            got = part[reached[part] > 0]
            owner[got] = self._reached(partition, asked.rows(got), reached[got], paddr[got])
            why[part] = self._why(partition, asked.rows(part), code[part], reason[part])
        return Explanation(code, reached, paddr, fault, owner.tolist(), why.tolist())

    def _reached(
        self, partition: Partition, asked: Accesses, reached: U64, paddr: U64
    ) -> NDArray[np.object_]:
        """The owners of the memory that each of these accesses reached."""
        last = asked.iova + (reached - np.uint64(1))
        low, high = self._owners.at(paddr), self._owners.at(paddr + (reached - np.uint64(1)))
        owner = np.array(self._owners.name, object)[low]
        one_piece = partition.find(asked.iova) == partition.find(last)
        for row in np.flatnonzero(~one_piece | (low != high)).tolist():
            pieces = partition.pieces(int(asked.iova[row]), int(last[row]), bool(asked.write[row]))
            owner[row] = self._owners.along(pieces)
        return owner

    def _why(
        self, partition: Partition, asked: Accesses, code: U8, reason: U8
    ) -> NDArray[np.object_]:
        """A sentence for each row; rows alike in all that it mentions are worded once."""
        n_stale = len(partition.stale)
        old = np.full(len(code), -1)
        last = asked.iova + (asked.size.astype(np.uint64) - np.uint64(1))
        for number, stale in enumerate(partition.stale):
            right = np.where(asked.write, stale.prot & WRITE, stale.prot & READ)
            meets = (asked.iova <= stale.iova + stale.size - 1) & (last >= stale.iova)
            old[(code == Verdict.STALE) & meets & (right > 0)] = number
        alike = asked.device.astype(np.int64)
        for column, below in ((code, 32), (reason, 32), (asked.write, 2), (old + 1, n_stale + 1)):
            alike = alike * below + column
        _, example, which = np.unique(alike, return_index=True, return_inverse=True)
        worded = [
            sentence(
                Verdict(int(code[row])),
                Verdict(int(reason[row])),
                write=bool(asked.write[row]),
                entry=self._entries[int(asked.device[row])].why,
                stale=partition.stale[old[row]] if old[row] >= 0 else None,
            )
            for row in example.tolist()
        ]
        return np.array(worded, object)[which]

    def table(self, asked: pd.DataFrame) -> pd.DataFrame:
        """A DataFrame (device, iova, size, write) answered by another with the same index.

        Columns: ``verdict`` (its name), ``reached`` (bytes before the first fault), ``paddr`` and
        ``fault_iova`` (UInt64, ``<NA>`` where there is none), ``owner``, ``why``. Devices are given
        by name. ValueError as for :meth:`check`, and for a column that is missing.
        """
        import pandas as pd

        for column in ("device", "iova", "size", "write"):
            if column not in asked.columns:
                raise ValueError(
                    f"no column {column!r}; an access has device, iova, size and write, "
                    f"got {', '.join(map(str, asked.columns)) or 'none'}"
                )
        number = {name: index for index, name in enumerate(self.devices)}
        device = [number.get(name, -1) for name in asked["device"]]
        if -1 in device:
            row = device.index(-1)
            raise UnknownName(f"row {row}: {unknown('device', asked['device'].iloc[row], number)}")
        told = self.explain(
            np.array(device, np.uint32), asked["iova"], asked["size"], asked["write"]
        )

        def words(column: list[str]) -> pd.Series[str]:
            return pd.Series(column, asked.index, dtype=str)  # also when there are no rows

        paddr = pd.Series(told.paddr, asked.index, "UInt64").mask(told.reached == 0)
        fault_iova = pd.Series(told.fault_iova, asked.index, "UInt64").mask(
            told.verdict < Verdict.PARTIAL
        )
        return pd.DataFrame(
            {
                "verdict": words([Verdict(code).name for code in told.verdict.tolist()]),
                "reached": told.reached,
                "paddr": paddr,
                "fault_iova": fault_iova,
                "owner": words(told.owner),
                "why": words(told.why),
            },
            index=asked.index,
        )


def _in_parts(
    kernel: Kernel, asked: Accesses, code: U8, addr: U64, devices: int, threads: int
) -> None:
    """Run the kernel over a long trace, a part at a time, with the columns as it wants them."""

    def judge(at: int) -> None:
        part = slice(at, at + FAST_CHUNK)
        device, iova, size, write = some = asked.rows(part)
        wide = np.uint64 if size.dtype.itemsize == 8 else np.uint32
        # Before the device is made narrower, lest an index of 2**32 become 0.
        fits = device.dtype.itemsize <= 4 or int(device.max()) < devices
        if not fits or not kernel(
            np.ascontiguousarray(device, np.uint32),
            np.ascontiguousarray(iova),
            np.ascontiguousarray(size, wide),
            np.ascontiguousarray(write).view(np.uint8),
            code[part],
            addr[part],
        ):
            accesses.refuse_rows(some, devices, at)

    parts = range(0, len(code), FAST_CHUNK)
    if threads == 1 or len(parts) == 1:
        for at in parts:
            judge(at)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(
                judge, parts
            ):  # in order: the first row that is wrong is the one named
                pass


def _outputs(shape: tuple[int, ...], out: tuple[U8, U64] | None) -> tuple[U8, U64]:
    if out is None:
        return np.empty(shape, np.uint8), np.empty(shape, np.uint64)
    code, addr = out
    kinds = code.dtype == np.uint8 and addr.dtype == np.uint64
    if not kinds or code.shape != shape or addr.shape != shape:
        raise ValueError(
            f"out takes uint8 and uint64 of shape {shape}, "
            f"got {code.dtype} {code.shape} and {addr.dtype} {addr.shape}"
        )
    return code, addr
