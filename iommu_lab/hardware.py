"""Hardware: what the IOMMU does with each device's DMA at this moment.

Nothing here knows what the kernel believes. A driver programs an :class:`Entry` for a device; a DMA
is judged by that entry, by the page table it points to, by what the IOTLB may still hold and by the
device's bus-master bit, and by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar

from .tables import EMPTY, PageTable

K = TypeVar("K")
V = TypeVar("V")

TOP = 2**64 - 1


class Frozen(dict[K, V]):
    """A dictionary that is a value: hashable, and changed only by making another.

    >>> Frozen(a=1).set("b", 2) == Frozen(a=1, b=2)
    True
    """

    __slots__ = ("_hash",)

    def set(self, key: K, value: V) -> Frozen[K, V]:
        return Frozen({**self, key: value})

    def drop(self, *keys: K) -> Frozen[K, V]:
        return Frozen({k: v for k, v in self.items() if k not in keys})

    def __hash__(self) -> int:  # type: ignore[override]
        try:
            return self._hash
        except AttributeError:
            self._hash: int = hash(frozenset(self.items()))
            return self._hash

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a Frozen value does not change: use set() or drop()")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return Frozen, (dict(self),)


class Kind(StrEnum):
    """What one device's DMA meets in the IOMMU."""

    BLOCKED = "blocked"
    BYPASS = "bypass"
    PLATFORM = "platform"
    TABLE = "table"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """The translation entry of one device.

    ``table`` names the page table for TABLE and PLATFORM. ``first`` to ``last`` is the range that
    the entry speaks for; what happens ``outside`` is "fault", or "bypass" on an IOMMU such as
    Tegra's GART that translates one window and leaves every other address alone.
    """

    kind: Kind
    table: str | None = None
    first: int = 0
    last: int = TOP
    outside: str = "fault"
    why: str = ""


BLOCK = Entry(Kind.BLOCKED)
BYPASS = Entry(Kind.BYPASS)


@dataclass(frozen=True, slots=True)
class Hardware:
    """Every device's entry, the page tables in memory, and the bus-master bits."""

    entries: Frozen[str, Entry] = field(default_factory=Frozen)
    tables: Frozen[str, PageTable] = field(default_factory=Frozen)
    master: Frozen[str, bool] = field(default_factory=Frozen)
    msi: tuple[tuple[int, int], ...] = ()
    width: int = 64

    def table_of(self, device: str) -> PageTable:
        """The page table this device's DMA walks; empty when it walks none."""
        name = self.entries[device].table
        return EMPTY if name is None else self.tables.get(name, EMPTY)

    def program(self, device: str, entry: Entry) -> Hardware:
        return replace(self, entries=self.entries.set(device, entry))
