"""The replay against a checker that is made anew for every DMA."""

from __future__ import annotations

import subprocess
import sys
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommu_lab.dma import Checker, Verdict
from iommu_lab.hardware import BLOCK, BYPASS, Entry, Frozen, Hardware, Kind
from iommu_lab.tables import READ, WRITE, PageTable, Run, Stale
from iommu_lab.trace import BLOCKED, IDENTITY, NO_DMA, Do, Events, Replay, closes

RW = READ | WRITE
PAGE = 0x1000
MSI = (8 * PAGE, 10 * PAGE + 7)
WIDTH = 16  # 16 pages: the window lies among them, and the last address is not far


class Slow:
    """Every DMA asks a new checker; tables are dictionaries, and only a flush makes it forget."""

    def __init__(self, lazy: list[bool]) -> None:
        self.lazy = lazy
        self.tables: list[dict[int, tuple[int, int]]] = [{} for _ in lazy]
        self.old: list[list[Stale]] = [[] for _ in lazy]
        self.attached = [BLOCKED, BLOCKED]

    def hardware(self) -> Hardware:
        def entry(domain: int) -> Entry:
            return {BLOCKED: BLOCK, IDENTITY: BYPASS}.get(domain) or Entry(Kind.TABLE, f"d{domain}")

        tables = {
            f"d{n}": PageTable(
                [Run(p * PAGE, PAGE, paddr, 12, prot) for p, (paddr, prot) in table.items()],
                tuple(self.old[n]),
            )
            for n, table in enumerate(self.tables)
        }
        entries = {f"dev{n}": entry(domain) for n, domain in enumerate(self.attached)}
        return Hardware(Frozen(entries), Frozen(tables), msi=(MSI,), width=WIDTH)

    def play(self, row: int, event: tuple[int, ...]) -> tuple[int, int]:
        do, who, iova, size, arg, rights = (*event, 0, 0, 0, 0)[:6]
        pages = range(iova // PAGE, (iova + size) // PAGE)
        if do == Do.DMA:
            hardware = self.hardware()
            checker = Checker(hardware, hardware.entries)
            code, addr = checker.check(who, iova, size, bool(rights))
            return int(code), int(addr)
        if do == Do.MAP:
            self.tables[who].update({p: (arg + (p - pages[0]) * PAGE, rights) for p in pages})
        elif do == Do.UNMAP:
            for page in pages:
                gone = self.tables[who].pop(page, None)
                if gone and self.lazy[who]:
                    self.old[who].append(Stale(page * PAGE, PAGE, *gone, row, inf))
        elif do == Do.FLUSH:
            self.old[who].clear()
        else:
            self.attached[who] = arg if do == Do.ATTACH else IDENTITY
        return NO_DMA, 0


# Few, so that a page is often used again; on both sides of the window, in it, and the last one.
PAGES = st.sampled_from([5, 6, 7, 8, 11, 15])


@st.composite
def stories(draw):
    """Events on two devices and two domains, in which nothing is mapped twice."""
    mapped: list[set[int]] = [set(), set()]
    events = [(Do.ATTACH, n, 0, 0, draw(st.sampled_from([0, 0, 1]))) for n in (0, 1)]
    kinds = st.sampled_from([Do.DMA] * 4 + [Do.MAP] * 3 + [Do.UNMAP] * 2 + list(Do))
    for _ in range(draw(st.integers(5, 40))):
        do, who, page = draw(kinds), draw(st.sampled_from([0, 0, 1])), draw(PAGES)
        size = PAGE * min(draw(st.sampled_from([1, 1, 2, 3])), 16 - page)
        pages = set(range(page, page + size // PAGE))
        if do == Do.DMA:
            iova = page * PAGE + draw(st.sampled_from([0, 1, 0xFFF]))
            length = draw(st.sampled_from([1, 8, 0x1000, 0x2001]))
            if draw(st.integers(0, 20)) == 0:
                iova = 2**64 - length
            events.append((do, who, iova, length, 0, draw(st.integers(0, 1))))
        elif do == Do.MAP and not pages & mapped[who]:
            mapped[who] |= pages
            paddr = draw(st.integers(1, 3)) * 0x10_0000 + page * PAGE
            events.append((do, who, page * PAGE, size, paddr, draw(st.integers(1, 3))))
        elif do == Do.UNMAP:
            mapped[who] -= pages
            events.append((do, who, page * PAGE, size))
        elif do == Do.ATTACH:
            events.append((do, who, 0, 0, draw(st.sampled_from([0, 1, BLOCKED, IDENTITY]))))
        elif do in (Do.FLUSH, Do.DETACH):
            events.append((do, who))
    return events


LAZY = st.lists(st.booleans(), min_size=2, max_size=2)


@given(stories(), LAZY, st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_a_replay_gives_what_a_new_checker_gives_at_every_moment(story, lazy, cut):
    slow = Slow(lazy)
    expected = [slow.play(row, event) for row, event in enumerate(story)]
    replay = Replay(2, 2, lazy=lazy, detached=IDENTITY, msi=MSI, width=WIDTH)
    # In two runs, since a trace that does not fit in memory is replayed a part at a time.
    parts = [replay.run(Events.of(part)) for part in (story[:cut], story[cut:])]
    code, addr = (np.concatenate(columns).tolist() for columns in zip(*parts, strict=True))
    assert list(zip(code, addr, strict=True)) == expected


@given(stories(), LAZY)
@settings(max_examples=60, deadline=None)
def test_a_stale_verdict_has_a_window_that_its_unmap_opens_and_a_flush_closes(story, lazy):
    events = Events.of(story)
    since = np.empty(len(story), np.int64)
    code, _ = Replay(2, 2, lazy=lazy, detached=IDENTITY, msi=MSI, width=WIDTH).run(
        events, since=since
    )
    ends = closes(events, since)
    assert ((code == Verdict.STALE) == (since >= 0)).all()
    for row in np.flatnonzero(code == Verdict.STALE).tolist():
        opened, closed = int(since[row]), int(ends[row])
        domain = events.who[opened]
        first, last = events.iova[row], events.iova[row] + events.size[row] - np.uint64(1)
        assert opened < row
        assert events.kind[opened] == Do.UNMAP
        assert events.iova[opened] <= last
        assert events.iova[opened] + events.size[opened] > first
        flushes = np.flatnonzero((events.kind == Do.FLUSH) & (events.who == domain))
        assert not ((flushes > opened) & (flushes < row)).any()
        assert closed == next((f for f in flushes.tolist() if f > row), -1)


@given(stories())
@settings(max_examples=40, deadline=None)
def test_strict_is_lazy_with_a_flush_behind_every_unmap(story):
    flushed = [
        e
        for event in story
        for e in ([event, (Do.FLUSH, event[1])] if event[0] == Do.UNMAP else [event])
    ]
    answers = []
    for events, lazy in ((Events.of(story), False), (Events.of(flushed), True)):
        code, addr = Replay(2, 2, lazy=lazy, msi=MSI, width=WIDTH).run(events)
        dma = events.kind == Do.DMA
        answers.append((code[dma].tolist(), addr[dma].tolist()))
    assert answers[0] == answers[1]


def test_many_windows_on_one_page_are_all_remembered_until_the_flush():
    rows = [(Do.ATTACH, 0, 0, 0, 0)]
    for paddr in (0x10_0000, 0x20_0000, 0x30_0000):
        rights = WRITE if paddr == 0x10_0000 else READ
        rows += [(Do.MAP, 0, 0x1000, PAGE, paddr, rights), (Do.UNMAP, 0, 0x1000, PAGE)]
    rows += [(Do.DMA, 0, 0x1000, 1, 0, 1), (Do.DMA, 0, 0x1000, 1, 0, 0)]
    events = Events.of(rows)
    since = np.empty(len(rows), np.int64)
    code, addr = Replay(1, 1, lazy=True).run(events, since=since)
    assert code[-2:].tolist() == [Verdict.STALE, Verdict.STALE]
    assert addr[-2:].tolist() == [0x10_0000, 0x30_0000]
    assert since[-2:].tolist() == [2, 6]


def played(*rows: tuple[int, ...], lazy: bool = True) -> list[tuple[str, int, int]]:
    """Verdict, address and opening row of the DMAs of one device on one domain."""
    events = Events.of(rows)
    since = np.empty(len(rows), np.int64)
    code, addr = Replay(1, 1, lazy=lazy, attached=0).run(events, since=since)
    at = np.flatnonzero(events.kind == Do.DMA).tolist()
    return [(Verdict(code[i]).name, int(addr[i]), int(since[i])) for i in at]


def test_an_old_entry_matters_only_where_it_leads_elsewhere():
    there_and_back = [(Do.MAP, 0, 0x1000, PAGE, 0x5000, RW), (Do.UNMAP, 0, 0x1000, PAGE)]
    dma = (Do.DMA, 0, 0x1000, 8, 0, 1)
    again = (Do.MAP, 0, 0x1000, PAGE, 0x5000, RW)
    other = (Do.MAP, 0, 0x1000, PAGE, 0x9000, RW)
    assert played(*there_and_back, again, dma) == [("TRANSLATED", 0x5000, -1)]
    assert played(*there_and_back, other, dma) == [("STALE", 0x9000, 1)]
    assert played(*there_and_back, dma, lazy=False) == [("NOT_MAPPED", 0x1000, -1)]


def test_rows_are_counted_over_all_runs_of_a_replay():
    replay, since = Replay(1, 1, lazy=True, attached=0), np.empty(2, np.int64)
    replay.run(Events.of([(Do.MAP, 0, 0x1000, PAGE, 0x5000, RW)]))
    replay.run(Events.of([(Do.UNMAP, 0, 0x1000, PAGE), (Do.DMA, 0, 0x1000, 8)]), since=since)
    assert since.tolist() == [-1, 1]


def test_a_dma_over_two_windows_is_told_of_the_first_and_one_that_is_stopped_of_none():
    assert played(
        (Do.MAP, 0, 0x1000, 2 * PAGE, 0x5000, RW),
        (Do.UNMAP, 0, 0x2000, PAGE),
        (Do.UNMAP, 0, 0x1000, PAGE),
        (Do.DMA, 0, 0x1800, PAGE),
        (Do.DMA, 0, 0x2800, PAGE),
    ) == [("STALE", 0x5800, 2), ("PARTIAL", 0x3000, -1)]


def test_tables_grow_with_what_is_mapped():
    pages = 1 << 17
    base = 1 << 40
    rows = [(Do.ATTACH, 0, 0, 0, 1), (Do.MAP, 1, base, pages * PAGE, 1 << 32, RW)]
    rows += [(Do.DMA, 0, base + pages * PAGE - 8, 8, 0, 1), (Do.UNMAP, 1, 0, 1 << 47)]
    rows += [(Do.MAP, 1, base, pages * PAGE, 1 << 33, RW), (Do.UNMAP, 1, 0, 1 << 47)]
    rows += [(Do.DMA, 0, base, 8, 0, 1), (Do.FLUSH, 1), (Do.DMA, 0, base, 8, 0, 1)]
    events = Events.of(rows)
    code, addr = Replay(1, 2, lazy=True).run(events)
    dma = events.kind == Do.DMA
    assert code[dma].tolist() == [Verdict.TRANSLATED, Verdict.STALE, Verdict.NOT_MAPPED]
    assert addr[dma].tolist() == [(1 << 32) + pages * PAGE - 8, 1 << 33, base]


def test_a_second_mapping_of_a_page_is_refused_and_changes_nothing():
    replay = Replay(1, 1)
    replay.run(Events.of([(Do.ATTACH, 0, 0, 0, 0), (Do.MAP, 0, 0x3000, PAGE, 0x5000, RW)]))
    with pytest.raises(ValueError, match=r"row 1: iova 0x1000 \+ size 0x4000 is mapped already"):
        replay.run(Events.of([(Do.FLUSH, 0), (Do.MAP, 0, 0x1000, 4 * PAGE, 0x9000, RW)]))
    code, addr = replay.run(Events.of([(Do.DMA, 0, 0x1000, 1), (Do.DMA, 0, 0x3000, 1)]))
    assert code.tolist() == [Verdict.NOT_MAPPED, Verdict.TRANSLATED]
    assert addr[1] == 0x5000


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ((9, 0), "kind is one of 0 to 5"),
        ((Do.DMA, 2, 0, 1), "there are 2 devices"),
        ((Do.MAP, 2, 0, PAGE, 0, RW), "there are 2 domains"),
        ((Do.DMA, 0, 0, 0), "size is 1 or more"),
        ((Do.DMA, 0, 2**64 - 1, 2), "does not run past"),
        ((Do.DMA, 0, 0, 1, 0, 2), "rights of a DMA"),
        ((Do.MAP, 0, 0x800, PAGE, 0, RW), "only whole pages"),
        ((Do.UNMAP, 0, 0, 0x800), "only whole pages"),
        ((Do.MAP, 0, 2**48, PAGE, 0, RW), "are below 0x1000000000000"),
        ((Do.MAP, 0, 0, PAGE, 0x800, RW), "arg is a page"),
        ((Do.MAP, 0, 0, PAGE, 0, 0), "rights of a mapping"),
        ((Do.ATTACH, 0, 0, 0, 2), "arg is a domain"),
    ],
)
def test_an_event_that_cannot_be_is_refused_before_anything_happens(event, says):
    replay = Replay(2, 2, attached=0)
    with pytest.raises(ValueError, match=f"row 1: .*{says}"):
        replay.run(Events.of([(Do.MAP, 0, 0, PAGE, 0x5000, RW), event]))
    code, _ = replay.run(Events.of([(Do.DMA, 0, 0, 1)]))
    assert code.tolist() == [Verdict.NOT_MAPPED]


def test_without_numba_a_replay_is_slower_and_the_same():
    story = [(Do.ATTACH, 0, 0, 0, 0), (Do.MAP, 0, 0x1000, PAGE, 0x5000, RW)]
    story += [(Do.UNMAP, 0, 0x1000, PAGE), (Do.DMA, 0, 0xFFF, 8), (Do.DMA, 0, 0x1008, 8, 0, 1)]
    story += [(Do.FLUSH, 0), (Do.DMA, 0, 0x1008, 8), (Do.DETACH, 0), (Do.DMA, 0, 0x1008, 8)]
    code, addr = Replay(1, 1, lazy=True).run(Events.of(story))
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            WITHOUT.format(story=[tuple(map(int, e)) for e in story]),
        ],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == f"{code.tolist()} {addr.tolist()}", done.stderr


WITHOUT = """
import sys
sys.modules["numba"] = None
from iommu_lab.trace import Events, Replay
code, addr = Replay(1, 1, lazy=True).run(Events.of({story}))
print(code.tolist(), addr.tolist())
"""
