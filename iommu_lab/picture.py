"""The picture: what the core believes beside what the IOMMU does, as plain values without a screen.

Which IOVAs get through, and to whose memory? Nothing here knows the answer. The checker is asked
about the first byte of every stretch of addresses whose answer is one and the same, once for the
hardware as it is and once for the hardware as the core believes it to be.

What a reader would question is the scale. A page of 4 KiB and a space of 16 EiB are both to be
seen, so a stretch is as wide as the logarithm of its size, plus a bit; every cut is labelled, and
the scale stays the same over the whole story and both releases, so that strips can be compared.

:mod:`iommu_lab.layout` says where things go; :mod:`iommu_lab.svg` and :mod:`iommu_lab.figures`
draw them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from math import log2
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .dma import Checker
from .domains import Domain, DomainType
from .errors import UnknownName
from .hardware import BLOCK, BYPASS, TOP, Entry, Hardware, Kind
from .lab import Lab, Moment
from .machine import Region
from .owners import NOBODY, Owners
from .state import Event
from .verdict import Verdict

U64 = NDArray[np.uint64]
DIRECTIONS = ("read", "write")
NOTHING = "reaches nothing"
MOST_STRETCHES = 26
"""More than these can't be told apart on a screen; the smallest are then drawn as one."""


class Fate(StrEnum):
    """What becomes of DMA to a stretch of addresses."""

    STOPPED = "is stopped"
    THROUGH = "gets through"
    MAYBE = "may get through, by the IOTLB"
    INTERRUPT = "is an interrupt"
    UNKNOWN = "is anybody's guess"
    PARTLY = "gets through in part"


class Extent(StrEnum):
    """How much of the machine's memory a device gets at."""

    NOTHING = "nothing"
    SOME = "some memory"
    ALL = "all of memory"
    UNKNOWN = "nobody knows what"


class Way(NamedTuple):
    """One direction of DMA to a stretch: its fate, whose memory it reaches and where.

    ``paddr`` is where the first byte goes, None unless the whole stretch goes there in one piece;
    ``reached`` counts the bytes that get through.
    """

    fate: Fate
    owner: str = ""
    paddr: int | None = None
    reached: int = 0


class Stretch(NamedTuple):
    """Addresses ``first`` to ``last``, and what becomes of reads and of writes there."""

    first: int
    last: int
    read: Way
    write: Way

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Axis(NamedTuple):
    """Addresses cut into stretches; ``edges`` run from 0 to 1, one more than there are starts."""

    starts: tuple[int, ...]
    last: int
    edges: tuple[float, ...]

    def stretches(self) -> Iterator[tuple[int, int]]:
        """First and last address of each."""
        ends = [*(s - 1 for s in self.starts[1:]), self.last]
        yield from zip(self.starts, ends, strict=True)

    def at(self, address: int) -> int:
        """The number of the stretch that holds this address."""
        return (
            int(np.searchsorted(np.array(self.starts, np.uint64), np.uint64(address), "right")) - 1
        )


class Band(NamedTuple):
    """From one stretch of IOVAs to the memory it leads to: stretches ``low`` to ``high``."""

    iova: int
    low: int
    high: int
    owner: str
    fate: Fate


class Share(NamedTuple):
    """How many bytes of one region of memory a device reaches, surely and by the IOTLB alone."""

    region: Region
    reached: int
    perhaps: int


class Words(NamedTuple):
    """A thing in a word, and more about it."""

    word: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One device at one moment.

    ``believed`` and ``done`` are its IOVAs as the core believes them and as the hardware has them,
    ``believes`` and ``does`` how much of memory that is. Both are None for a belief that says
    nothing about DMA (NULL, PLATFORM). ``agrees`` says whether belief and hardware let the same
    DMA through to the same memory.
    """

    device: str
    group: int | None
    owner: str
    belief: Words
    hardware: Words
    agrees: bool | None
    believes: Extent | None
    does: Extent
    believed: tuple[Stretch, ...] | None
    done: tuple[Stretch, ...]
    memory: tuple[Stretch, ...]
    bands: tuple[Band, ...]
    shares: tuple[Share, ...]
    reaches: str
    says: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One kernel at one moment; without rows when that kernel has no such driver."""

    title: str
    step: str
    outcome: str
    mark: str
    rows: tuple[Row, ...]
    events: tuple[str, ...]
    says: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that is drawn; ``says`` is the sentence for those who don't see it."""

    panels: tuple[Panel, ...]
    focus: str
    iova: Axis
    memory: Axis
    regions: tuple[Region, ...]
    owners: tuple[str, ...]
    says: str


def describe(
    lab: Lab,
    *,
    at: int | None = None,
    beside: str | None = None,
    device: str | None = None,
    window: tuple[int, int] | None = None,
) -> Picture:
    """The picture of a lab after ``at`` of its steps (None: all), with ``device`` in the focus.

    ``beside`` names a release: the same steps under it are drawn next to it. ``window`` is the
    range of IOVAs that is looked at. Raises :class:`~iommu_lab.errors.UnknownName` for a release
    that does not exist.

    >>> lab = Lab("6.0", "exynos")
    >>> lab.claim_dma_owner(0, "vfio")
    0
    >>> print(describe(lab).says)
    Linux 6.0: The core believes that group 0 is blocked, by the empty domain blocking0, owned by
    vfio. The IOMMU walks the page table of blocking0: dev0 reaches nothing.
    >>> print(describe(lab.under("patch-v2")).says)
    Linux patch-v2: The core believes that group 0 is blocked, owned by vfio. The IOMMU lets dev0
    bypass it: dev0 reaches all of memory, that of kernel, another VM, driver buffer and user
    process.
    """
    at = len(lab.moments) - 1 if at is None else at
    other = None if beside is None else _under(lab, beside)
    stories = [lab.moments, *([other.moments] if isinstance(other, Lab) else [])]
    known = lab.moments[at].kernel.machine
    if not known.devices:
        raise ValueError("a picture needs a device; this machine has none")
    focus = device if device in {d.name for d in known.devices} else known.devices[0].name

    cuts = [_cut_of(moment) for story in stories for moment in _changes(story)]
    first, last = window or (0, TOP)
    iova = _axis(np.concatenate([c.start for c in cuts]), first, last)
    memory = _memory_axis(known.memory, cuts)

    panels = [
        _panel(story[at], at, iova, memory, focus, named=len(stories) > 1) for story in stories
    ]
    if other is not None and not isinstance(other, Lab):
        panels.append(Panel(f"Linux {beside}", "", other, "absent", (), (), other))
    owners = tuple(dict.fromkeys(r.owner for r in known.memory))
    says = " ".join(panel.says for panel in panels)
    return Picture(tuple(panels), focus, iova, memory, known.memory, owners, says)


def _under(lab: Lab, release: str) -> Lab | str:
    """The same steps under another release, or a sentence when its driver is not there."""
    try:
        return lab.under(release)
    except UnknownName as error:
        return f"Linux {release} can't be put beside it: {error}."


def _changes(story: Sequence[Moment]) -> Iterator[Moment]:
    """The moments at which hardware or belief became another object."""
    before: Moment | None = None
    for moment in story:
        state, was = moment.state, before.state if before else None
        if was is None or not (
            state.hardware is was.hardware
            and state.groups is was.groups
            and state.domains is was.domains
        ):
            yield moment
        before = moment


# -- asking the checker ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Cut:
    """The IOVAs of n translations cut into m stretches, each with one answer.

    ``start`` is (m,); ``code`` (verdict), ``addr`` and ``owner`` (number in ``owners``, -1 where
    nothing gets through) are (n, 2, m): a row a translation, reads before writes.
    """

    rows: tuple[str, ...]
    start: U64
    code: NDArray[np.uint8]
    addr: U64
    owner: NDArray[np.intp]
    owners: tuple[str, ...]

    @cached_property
    def touched(self) -> U64:
        """The physical addresses at which what any device reaches begins or has ended."""
        found = [np.empty(0, np.uint64)]
        for row, name in enumerate(self.rows):
            for way in range(len(DIRECTIONS)):
                if not _is_belief(name):
                    low, high = self.reach(row, way, perhaps=True)
                    found += [low, high[high < np.uint64(TOP)] + np.uint64(1)]
        return np.unique(np.concatenate(found))

    @cached_property
    def last(self) -> U64:
        return np.append(self.start[1:] - np.uint64(1), np.uint64(TOP))

    def passes(self, row: int) -> NDArray[np.bool_]:
        """Where a DMA reaches an address of memory, (2, m)."""
        return _passes(self.code[row])

    def reach(self, row: int, way: int, *, perhaps: bool) -> tuple[U64, U64]:
        """The physical ranges that one direction reaches, as first and last bytes, united."""
        code = self.code[row, way]
        which = _passes(code) if perhaps else _passes(code) & (code != Verdict.STALE)
        first = self.addr[row, way][which]
        return _united(first, first + (self.last - self.start)[which])


def _passes(code: NDArray[np.uint8]) -> NDArray[np.bool_]:
    passes: NDArray[np.bool_] = (code < Verdict.PARTIAL) & (code != Verdict.MSI)
    return passes


def _cut_of(moment: Moment) -> _Cut:
    """The hardware of a moment, and after it what the core believes the hardware to be."""
    hardware, devices = moment.state.hardware, moment.kernel.machine.devices
    entries, tables, master = dict(hardware.entries), dict(hardware.tables), dict(hardware.master)
    names = [d.name for d in devices]
    for name in names:
        believed = _believed_entry(moment, name)
        if believed is not None:
            entry, domain = believed
            key = _belief_of(name)
            entries[key], master[key] = entry, master.get(name, True)
            if domain is not None and domain.table is not None:
                # The core takes what it has unmapped to be gone.
                tables[key] = tables[domain.table].with_stale(())
    return _cut(
        replace(
            hardware,
            entries=type(hardware.entries)(entries),
            tables=type(hardware.tables)(tables),
            master=type(hardware.master)(master),
        ),
        (*names, *(key for name in names if (key := _belief_of(name)) in entries)),
        moment.kernel.machine.memory,
    )


_BELIEVED = "\N{NULL}believed"


def _belief_of(device: str) -> str:
    return f"{device}{_BELIEVED}"


def _is_belief(row: str) -> bool:
    return row.endswith(_BELIEVED)


def _believed_entry(moment: Moment, device: str) -> tuple[Entry, Domain | None] | None:
    """The translation that the attached domain stands for; None when only the driver knows."""
    domain = _attached(moment, device)
    if domain is None or domain.type is DomainType.PLATFORM:
        return None
    if domain.type is DomainType.BLOCKED:
        return BLOCK, None
    if domain.type is DomainType.IDENTITY:
        return BYPASS, None
    if domain.table not in moment.state.hardware.tables:
        return BLOCK, None
    return Entry(Kind.TABLE, _belief_of(device), domain.first, domain.last), domain


def _attached(moment: Moment, device: str) -> Domain | None:
    state = moment.state
    group = state.groups.get(state.devices[device].group)
    if group is None or device not in group.devices or group.domain is None:
        return None
    return state.domains.get(group.domain)


@lru_cache(maxsize=512)
def _cut(hardware: Hardware, rows: tuple[str, ...], memory: tuple[Region, ...]) -> _Cut:
    checker, owners = Checker(hardware, rows, memory), Owners(memory)
    start = np.unique(np.concatenate([p.start for p in checker.partitions]))
    code, addr = _probe(checker, start)
    start = np.union1d(start, _owner_cuts(start, code, addr, owners))
    code, addr = _probe(checker, start)
    passes = _passes(code)
    owner = np.where(passes, owners.at(addr), -1)
    delta = np.where(passes, addr - start, np.uint64(0))
    new = np.append(
        True,
        np.logical_or.reduce(
            [(a[..., 1:] != a[..., :-1]).any(axis=(0, 1)) for a in (code, owner, delta)]
        ),
    )
    return _Cut(
        rows, start[new], code[..., new], addr[..., new], owner[..., new], tuple(owners.name)
    )


def _probe(checker: Checker, start: U64) -> tuple[NDArray[np.uint8], U64]:
    """Verdict and address of one byte at each start, for every row, read and written."""
    rows, n = len(checker.devices), len(start)
    device = np.repeat(np.arange(rows, dtype=np.uint32), n)
    asked = [checker.check(device, np.tile(start, rows), 1, write) for write in (False, True)]
    code = np.stack([c.reshape(rows, n) for c, _ in asked], axis=1)
    addr = np.stack([a.reshape(rows, n) for _, a in asked], axis=1)
    return code, addr


def _owner_cuts(start: U64, code: NDArray[np.uint8], addr: U64, owners: Owners) -> U64:
    """The IOVAs at which a DMA that gets through walks on into another owner's memory."""
    length = np.append(start[1:] - np.uint64(1), np.uint64(TOP)) - start
    passes = _passes(code)
    column = np.nonzero(passes)[-1]
    first, room, iova = addr[passes], length[column], start[column]
    found = [np.empty(0, np.uint64)]
    for boundary in owners.start:
        inside = (first < boundary) & (boundary - first <= room)
        found.append(iova[inside] + (boundary - first[inside]))
    return np.concatenate(found)


def _united(first: U64, last: U64) -> tuple[U64, U64]:
    """Ranges as few as possible that hold the same addresses, in order."""
    if not len(first):
        return first, last
    order = np.argsort(first)
    first, last = first[order], last[order]
    reached = np.maximum.accumulate(last)
    new = np.append(True, (first[1:] > reached[:-1]) & (first[1:] - reached[:-1] > 1))
    return first[new], reached[np.append(np.flatnonzero(new)[1:] - 1, len(first) - 1)]


def _overlap(ranges: tuple[U64, U64], first: int, last: int) -> int:
    """How many addresses of first … last lie in these ranges."""
    low, high = ranges
    a, b = np.uint64(first), np.uint64(last)
    inside = (low <= b) & (high >= a)
    return _bytes(np.maximum(low[inside], a), np.minimum(high[inside], b))


def _bytes(first: U64, last: U64) -> int:
    """How many bytes ranges hold together, which may be all 2**64."""
    more = last - first
    high, low = int((more >> np.uint64(32)).sum()), int((more & np.uint64(2**32 - 1)).sum())
    return (high << 32) + low + len(more)


# -- the axes --------------------------------------------------------------------------------------


def _axis(
    cuts: U64, first: int, last: int, kept: Iterable[int] = (), narrow: Sequence[range] = ()
) -> Axis:
    """An axis from first to last with these cuts; ``kept`` ones stay when there are too many.

    Stretches inside the ``narrow`` ranges get the least width whatever their size.
    """
    starts = np.unique(np.append(cuts, np.uint64(first)))
    starts = starts[(starts >= np.uint64(first)) & (starts <= np.uint64(last))]
    if len(starts) > MOST_STRETCHES:
        ends = np.append(starts[1:] - np.uint64(1), np.uint64(last))
        largest = np.argsort(ends - starts, kind="stable")[::-1][: MOST_STRETCHES // 2]
        sides = np.concatenate([starts[largest], starts[np.minimum(largest + 1, len(starts) - 1)]])
        must = np.array([first, *kept], np.uint64)
        starts = np.unique(np.concatenate([sides, must]))
    inside = [s for s in starts.tolist() if first <= s <= last]
    lasts = [*(s - 1 for s in inside[1:]), last]
    weights = [
        1.5 if any(a in r for r in narrow) else 10 + log2(b - a + 1)
        for a, b in zip(inside, lasts, strict=True)
    ]
    total, edges = sum(weights), [0.0]
    for weight in weights:
        edges.append(edges[-1] + weight / total)
    edges[-1] = 1.0
    return Axis(tuple(inside), last, tuple(edges))


def _memory_axis(memory: Sequence[Region], cuts: Iterable[_Cut]) -> Axis:
    """Physical addresses, cut where a region ends and where anything was ever reached."""
    kept = [a for r in memory for a in (r.first, r.last + 1) if a <= TOP]
    touched = np.concatenate([np.array(kept, np.uint64), *(cut.touched for cut in cuts)])
    owned = [
        touched[(touched >= np.uint64(r.first)) & (touched <= np.uint64(r.last))] for r in memory
    ]
    cuts_within = np.concatenate([*owned, np.array(kept, np.uint64)])
    holes, at = [], 0
    for region in memory:
        holes.append(range(at, region.first))
        at = region.last + 1
    holes.append(range(at, TOP + 1))
    return _axis(cuts_within, 0, TOP, kept, [h for h in holes if h.start < h.stop])


# -- one panel, one row ----------------------------------------------------------------------------


def _panel(moment: Moment, at: int, iova: Axis, memory: Axis, focus: str, *, named: bool) -> Panel:
    cut = _cut_of(moment)
    names = [d.name for d in moment.kernel.machine.devices]
    looks = _Looks(cut, moment.kernel.machine.memory, iova, memory)
    rows = tuple(_row(moment, looks, name) for name in names)
    release = moment.kernel.release.name
    mark, outcome = _outcome(moment)
    chosen = next((row for row in rows if row.device == focus), rows[0])
    says = " ".join(
        part
        for part in (f"{outcome}." if outcome else "", chosen.says, _others(rows, chosen))
        if part
    )
    return Panel(
        title=f"Linux {release}" if named else f"Linux {release}, {moment.kernel.driver.name}",
        step=f"step {at}: {moment.step}" if moment.step else "after boot",
        outcome=outcome,
        mark=mark,
        rows=rows,
        events=tuple(event_line(e) for e in moment.events),
        says=f"Linux {release}: {says}",
    )


def _outcome(moment: Moment) -> tuple[str, str]:
    """What the verb said when it did not simply succeed: a word, and a sentence without its dot."""
    if moment.step is None:
        return "", ""
    text = moment.events[-1].text if moment.events else ""
    if moment.result == "crash":
        crash = moment.events[-1]
        return "crash", f"{moment.step} crashes this kernel in {crash.name}, {crash.text}"
    if moment.result == "not in release":
        return "absent", text
    if moment.result == "unknown name":
        return "absent", f"{moment.step} finds an {text}"
    refused = next((e for e in moment.events if e.kind == "errno"), None)
    if refused is not None:
        why = refused.text.removeprefix(f"{refused.name}: ")
        return refused.name, f"{moment.step} is refused with {refused.name}: {why}"
    warned = next((e for e in moment.events if e.kind == "warn"), None)
    if warned is not None:
        return "WARN", f"{moment.step} makes {warned.name} warn: {warned.text}"
    return "", ""


def event_line(event: Event) -> str:
    """An event in one line."""
    parts = [event.kind, event.name, event.device, event.domain]
    if event.iova is not None:
        parts.append(f"{event.iova:#_x}" + (f" for {amount(event.size)}" if event.size else ""))
    return " ".join(p for p in [*parts, event.text] if p)


def _row(moment: Moment, looks: _Looks, device: str) -> Row:
    state = moment.state
    cut, key = looks.cut, _belief_of(device)
    number = cut.rows.index(device)
    done = looks.of(number)
    expected = cut.rows.index(key) if key in cut.rows else None
    believed = None if expected is None else looks.of(expected)
    belief, sentence = _belief_words(moment, device)
    reaches = _reaches(moment, cut, number, done.shares)
    group = state.groups.get(state.devices[device].group)
    if group is not None and device not in group.devices:
        group = None
    return Row(
        device=device,
        group=None if group is None else group.number,
        owner="" if group is None else group.owner or "",
        belief=belief,
        hardware=_hardware_words(moment, device),
        agrees=None if expected is None else _same(cut, number, expected),
        believes=None if believed is None else believed.extent,
        does=done.extent,
        believed=None if believed is None else believed.iova,
        done=done.iova,
        memory=done.memory,
        bands=done.bands,
        shares=done.shares,
        reaches=reaches,
        says=f"The core believes that {sentence}. {_does(moment, device)}: {device} {reaches}.",
    )


class _Look(NamedTuple):
    """One translation as it is drawn."""

    iova: tuple[Stretch, ...]
    memory: tuple[Stretch, ...]
    bands: tuple[Band, ...]
    shares: tuple[Share, ...]
    extent: Extent


class _Looks:
    """The translations of a cut as they are drawn; equal ones, as those of a group, once."""

    def __init__(self, cut: _Cut, memory: Sequence[Region], iova: Axis, physical: Axis) -> None:
        self.cut, self.regions, self.iova, self.physical = cut, memory, iova, physical
        self._seen: dict[tuple[bytes, bytes], _Look] = {}

    def of(self, row: int) -> _Look:
        cut = self.cut
        key = cut.code[row].tobytes(), cut.addr[row].tobytes()
        if key not in self._seen:
            shares = _shares(cut, row, self.regions)
            self._seen[key] = _Look(
                _along(cut, row, self.iova),
                _in_memory(cut, row, self.physical),
                tuple(_bands(cut, row, self.iova, self.physical)),
                shares,
                _extent(cut, row, shares),
            )
        return self._seen[key]


def _extent(cut: _Cut, row: int, shares: Sequence[Share]) -> Extent:
    if (cut.code[row] == Verdict.UNKNOWN).all():
        return Extent.UNKNOWN
    if shares and all(s.reached == size_of(s.region) for s in shares):
        return Extent.ALL
    return Extent.SOME if any(s.reached or s.perhaps for s in shares) else Extent.NOTHING


def _same(cut: _Cut, row: int, other: int) -> bool:
    """Do two translations let the same DMA through to the same addresses?"""
    passes = cut.passes(row)
    if not np.array_equal(passes, cut.passes(other)):
        return False
    if (cut.code[row] == Verdict.UNKNOWN).any() or (cut.code[row] == Verdict.STALE).any():
        return False
    return bool((cut.addr[row][passes] == cut.addr[other][passes]).all())


def _along(cut: _Cut, row: int, axis: Axis) -> tuple[Stretch, ...]:
    """One translation on the stretches of an axis, which may be coarser or finer than its own."""
    lows = np.searchsorted(cut.start, np.array(axis.starts, np.uint64), side="right") - 1
    found = []
    for (first, last), low in zip(axis.stretches(), lows.tolist(), strict=True):
        high = int(np.searchsorted(cut.start, np.uint64(last), side="right"))
        ways = [_way(cut, row, way, first, last, slice(low, high)) for way in (0, 1)]
        found.append(Stretch(first, last, ways[0], ways[1]))
    return tuple(found)


def _way(cut: _Cut, row: int, way: int, first: int, last: int, part: slice) -> Way:
    if part.stop - part.start == 1:
        return _one_answer(cut, row, way, first, last, part.start)
    code = cut.code[row, way, part]
    fates = {_FATES.get(c, Fate.STOPPED) for c in np.unique(code).tolist()}
    owned = cut.owner[row, way, part]
    names = list(dict.fromkeys(cut.owners[o] for o in np.unique(owned).tolist() if o >= 0))
    passes = _passes(code)
    begins = np.maximum(cut.start[part], np.uint64(first))[passes]
    ends = np.minimum(cut.last[part], np.uint64(last))[passes]
    reached = _bytes(begins, ends)
    fate = fates.pop() if len(fates) == 1 else Fate.PARTLY
    return Way(fate, " and ".join(names), None, reached)


def _one_answer(cut: _Cut, row: int, way: int, first: int, last: int, column: int) -> Way:
    """A stretch that lies within one column, so that all its bytes fare alike."""
    fate = _FATES.get(int(cut.code[row, way, column]), Fate.STOPPED)
    owner = int(cut.owner[row, way, column])
    if owner < 0:
        return Way(fate)
    paddr = int(cut.addr[row, way, column]) + first - int(cut.start[column])
    return Way(fate, cut.owners[owner], paddr, last - first + 1)


_FATES = {
    Verdict.TRANSLATED.value: Fate.THROUGH,
    Verdict.PLATFORM.value: Fate.THROUGH,
    Verdict.IDENTITY.value: Fate.THROUGH,
    Verdict.STALE.value: Fate.MAYBE,
    Verdict.MSI.value: Fate.INTERRUPT,
    Verdict.UNKNOWN.value: Fate.UNKNOWN,
}


def _in_memory(cut: _Cut, row: int, axis: Axis) -> tuple[Stretch, ...]:
    """Physical memory on the stretches of an axis: how much of each do reads and writes reach?"""
    sure = [cut.reach(row, way, perhaps=False) for way in (0, 1)]
    perhaps = [cut.reach(row, way, perhaps=True) for way in (0, 1)]
    found = []
    for first, last in axis.stretches():
        ways = []
        for way in (0, 1):
            size = last - first + 1
            surely = _overlap(sure[way], first, last)
            maybe = _overlap(perhaps[way], first, last)
            if surely == size:
                fate = Fate.THROUGH
            elif maybe == size and not surely:
                fate = Fate.MAYBE
            else:
                fate = Fate.PARTLY if maybe else Fate.STOPPED
            ways.append(Way(fate, "", None, maybe))
        found.append(Stretch(first, last, ways[0], ways[1]))
    return tuple(found)


def _bands(cut: _Cut, row: int, iova: Axis, memory: Axis) -> Iterator[Band]:
    """Where each stretch of IOVAs leads to in owned memory, once for each owner."""
    lasts, starts = cut.last, np.array(memory.starts, np.uint64)
    for number, (first, last) in enumerate(iova.stretches()):
        low = int(np.searchsorted(cut.start, np.uint64(first), side="right")) - 1
        high = int(np.searchsorted(cut.start, np.uint64(last), side="right"))
        part = slice(low, high)
        begin = np.maximum(cut.start[part], np.uint64(first))
        more = np.minimum(lasts[part], np.uint64(last)) - begin
        ends: dict[int, list[tuple[int, int, Fate]]] = {}
        for way in (0, 1):
            owners, code = cut.owner[row, way, part], cut.code[row, way, part]
            paddr = cut.addr[row, way, part] + (begin - cut.start[part])
            for owner in np.unique(owners).tolist():
                if owner < 0 or cut.owners[owner] == NOBODY:
                    continue
                mine = owners == owner
                a = np.searchsorted(starts, paddr[mine], side="right") - 1
                b = np.searchsorted(starts, paddr[mine] + more[mine], side="right") - 1
                fate = _FATES[int(code[mine].min())]
                ends.setdefault(owner, []).append((int(a.min()), int(b.max()), fate))
        for owner, found in ends.items():
            lows, highs, fates = zip(*found, strict=True)
            yield Band(number, min(lows), max(highs), cut.owners[owner], fates[0])


def _shares(cut: _Cut, row: int, memory: Sequence[Region]) -> tuple[Share, ...]:
    """Of each region, the bytes that a read or a write reaches."""
    united = []
    for perhaps in (False, True):
        parts = [cut.reach(row, way, perhaps=perhaps) for way in (0, 1)]
        united.append(
            _united(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))
        )
    found = []
    for region in memory:
        surely, maybe = (_overlap(ranges, region.first, region.last) for ranges in united)
        found.append(Share(region, surely, maybe - surely))
    return tuple(found)


# -- words -----------------------------------------------------------------------------------------


def _belief_words(moment: Moment, device: str) -> tuple[Words, str]:
    """What the core believes of a device: for a box, and as "group 0 is …"."""
    state = moment.state
    number = state.devices[device].group
    group = state.groups.get(number)
    if group is None or device not in group.devices:
        return Words("no group", "no IOMMU driver took it"), f"{device} is in no group"
    owner = f", owned by {group.owner}" if group.owner else ""
    if group.domain is None:
        return Words("NULL", "no domain"), f"group {number} has no domain (NULL){owner}"
    domain = state.domains.get(group.domain)
    if domain is None:
        return (
            Words("freed", group.domain),
            f"group {number} is attached to {group.domain}, which is freed{owner}",
        )
    if domain.type is DomainType.BLOCKED:
        return Words("BLOCKED", domain.name), f"group {number} is blocked{owner}"
    if domain.substitute:
        return (
            Words("blocked", f"{domain.name}, empty {domain.type.name}"),
            f"group {number} is blocked, by the empty domain {domain.name}{owner}",
        )
    return (
        Words(domain.type.name, domain.name),
        f"group {number} is attached to {domain.name} ({domain.type.name}){owner}",
    )


def _hardware_words(moment: Moment, device: str) -> Words:
    hardware = moment.state.hardware
    entry = hardware.entries[device]
    if not hardware.master.get(device, True):
        return Words("no DMA", "bus master is off")
    if entry.kind is Kind.TABLE:
        return Words("page table", f"of {entry.table}")
    return Words(entry.kind.value, entry.why)


def _does(moment: Moment, device: str) -> str:
    """What the IOMMU does with a device, as the beginning of a sentence."""
    entry = moment.state.hardware.entries[device]
    does = {
        Kind.BLOCKED: f"blocks {device}",
        Kind.BYPASS: f"lets {device} bypass it",
        Kind.PLATFORM: "walks the platform's own table",
        Kind.TABLE: f"walks the page table of {entry.table}",
        Kind.UNKNOWN: "is in a state that nobody has described",
    }
    return f"The IOMMU {does[entry.kind]}"


def _reaches(moment: Moment, cut: _Cut, row: int, shares: Sequence[Share]) -> str:
    """What a device gets at, as the rest of a sentence that begins with its name."""
    device = cut.rows[row]
    if not moment.state.devices[device].present:
        return "is not there"
    if not moment.state.hardware.master.get(device, True):
        return "makes no DMA, since its bus-master bit is off"
    if (cut.code[row] == Verdict.UNKNOWN).all():
        return "may reach everything or nothing"
    surely = _of_owners(shares, [s.reached for s in shares])
    perhaps = _of_owners(shares, [s.perhaps for s in shares])
    if surely and all(s.reached == size_of(s.region) for s in shares):
        said = f"reaches all of memory, that of {_listed(list(surely))}"
    elif surely:
        verb = _verb(cut, row)
        said = f"{verb} {_listed([f'{amount(n)} of {owner}' for owner, n in surely.items()])}"
    elif cut.passes(row).any() and not perhaps:
        said = "reaches addresses that are nobody's memory"
    else:
        said = NOTHING
    if perhaps:
        what = _listed([f"{amount(n)} of {owner}" for owner, n in perhaps.items()])
        said += f", but until the IOTLB is flushed perhaps {what}"
    return said


def _of_owners(shares: Sequence[Share], counts: Sequence[int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for share, count in zip(shares, counts, strict=True):
        if count:
            found[share.region.owner] = found.get(share.region.owner, 0) + count
    return found


def _verb(cut: _Cut, row: int) -> str:
    read, write = (cut.reach(row, way, perhaps=False) for way in (0, 1))
    if len(read[0]) and not len(write[0]):
        return "can read, not write,"
    if len(write[0]) and not len(read[0]):
        return "can write, not read,"
    return "reaches"


def _others(rows: Sequence[Row], chosen: Row) -> str:
    """A few words on the devices that are not in the focus."""
    rest = [row for row in rows if row is not chosen]
    if not rest:
        return ""
    if len({row.reaches for row in rest}) == 1:
        who = rest[0].device if len(rest) == 1 else f"Each of the other {len(rest)} devices"
        return f"{who} {rest[0].reaches}."
    some = sum(row.reaches != NOTHING for row in rest)
    verb = "reaches" if some == 1 else "reach"
    return f"Of the other {len(rest)} devices, {some} {verb} memory."


def _listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def differences(story: Sequence[Picture]) -> str:
    """Where belief and hardware differ in a story, as a sentence or a few.

    >>> lab = Lab("6.0", "exynos").under("patch-v2")
    >>> lab.claim_dma_owner(0, "vfio")
    0
    >>> print(differences([describe(lab, at=step) for step in (0, 1)]))
    Linux patch-v2, exynos: in 1 of 2 moments belief and hardware differ. After step 1,
    claim_dma_owner(0, 'vfio'), BLOCKED is believed and dev0 reaches all of memory.
    """
    found = []
    for picture in story:
        panel = picture.panels[0]
        apart = [row for row in panel.rows if row.agrees is False]
        if apart:
            when = panel.step.replace(":", ",", 1)
            what = _listed([f"{r.belief.word} is believed and {_short(r)}" for r in apart])
            found.append(f"{when[:1].upper()}{when[1:]}, {what}.".replace("Step", "After step", 1))
    title, count = story[-1].panels[0].title, len(story)
    silent = sum(any(r.agrees is None for r in p.panels[0].rows) for p in story)
    said = f"in {len(found)} of {count} moments belief and hardware differ"
    if silent:
        said += f", in {silent} the core's belief does not say what gets through"
    return " ".join([f"{title}: {said}.", *found])


def _short(row: Row) -> str:
    if row.does is Extent.UNKNOWN:
        return f"nobody knows what {row.device} reaches"
    return f"{row.device} reaches {row.does.value}"


def size_of(region: Region) -> int:
    """The bytes of a region of memory."""
    return region.last - region.first + 1


def amount(size: int) -> str:
    """A number of bytes for a person.

    >>> amount(4096), amount(3 * 2**29), amount(2**64)
    ('4 KiB', '1.5 GiB', '16 EiB')
    """
    unit = min(size.bit_length() - 1, 69) // 10 if size else 0
    return (
        f"{size / (1 << 10 * unit):.3g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[unit]}"
    )
