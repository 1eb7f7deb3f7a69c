"""The checker against its slow twin, and against what must hold whatever the tables say."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from dma_byte_by_byte import fate
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from iommu_lab.dma import Checker, Verdict
from iommu_lab.hardware import TOP, Entry, Frozen, Hardware, Kind
from iommu_lab.machine import Region
from iommu_lab.tables import PageTable, Run, Stale

# Everything happens in 64 bytes with pages of 4, so that the twin can visit every byte; the 64
# bytes lie at the bottom, at the top, across 4 GiB and across a width that an IOMMU has.
ROOM = 64
BASES = st.sampled_from([0, 2**32 - 40, 2**39 - 32, TOP - ROOM + 1])
RIGHTS = st.sampled_from([1, 2, 3, 3])
# Few physical pages, so that neighbours are often contiguous and owners often meet.
PADDRS = st.integers(0, 12).map(lambda n: 0x1000 + 4 * n)
MEMORY = (Region(0x1000, 0x1017, "kernel"), Region(0x1018, 0x1023, "buffer"), Region(64, 99, "low"))
MEMORY = tuple(sorted(MEMORY))


class Case(NamedTuple):
    hardware: Hardware
    accesses: list[tuple[int, int, int, bool]]  # device, iova, size, write

    def columns(self) -> tuple[np.ndarray, ...]:
        device, iova, size, write = zip(*self.accesses, strict=True)
        return (
            np.array(device, np.uint32),
            np.array(iova, np.uint64),
            np.array(size, np.uint64),
            np.array(write, bool),
        )


@st.composite
def page_tables(draw, base):
    pages = draw(st.sets(st.integers(0, ROOM // 4 - 1), max_size=10))
    runs = [Run(base + 4 * p, 4, draw(PADDRS), 2, draw(RIGHTS)) for p in sorted(pages)]
    stale = [
        Stale(base + 4 * first, 4 * min(n, ROOM // 4 - first), draw(PADDRS), draw(RIGHTS), since, 9)
        for first, n, since in draw(
            st.lists(
                st.tuples(st.integers(0, ROOM // 4 - 1), st.integers(1, 6), st.integers(0, 2)),
                max_size=3,
            )
        )
    ]
    return PageTable(runs, tuple(stale))


@st.composite
def ranges(draw, base):
    first, last = sorted(draw(st.tuples(st.integers(0, ROOM - 1), st.integers(0, ROOM - 1))))
    return base + first, base + last


@st.composite
def entries(draw, base):
    kind = draw(st.sampled_from([*Kind, Kind.TABLE, Kind.TABLE, Kind.PLATFORM]))
    first, last = draw(st.sampled_from([(0, TOP)]) | ranges(base))
    table = draw(st.sampled_from(["t", "u"])) if kind in (Kind.TABLE, Kind.PLATFORM) else None
    return Entry(kind, table, first, last, draw(st.sampled_from(["fault", "bypass"])))


@st.composite
def cases(draw, windows=True):
    base = draw(BASES)
    names = "abc"[: draw(st.integers(1, 3))]
    hardware = Hardware(
        Frozen({name: draw(entries(base)) for name in names}),
        Frozen(t=draw(page_tables(base)), u=draw(page_tables(base))),
        Frozen({name: draw(st.sampled_from([True, True, True, False])) for name in names}),
        tuple(draw(st.lists(ranges(base), max_size=2))) if windows else (),
        draw(st.sampled_from([39, 64])),
    )
    accesses = []
    for _ in range(draw(st.integers(1, 12))):
        first, last = draw(ranges(base))
        device = draw(st.integers(0, len(names) - 1))
        accesses.append((device, first, last - first + 1, draw(st.booleans())))
    return Case(hardware, accesses)


@given(cases())
@settings(max_examples=250, deadline=None)
def test_the_checker_agrees_with_going_byte_by_byte(case):
    hardware = case.hardware
    checker = Checker(hardware, list(hardware.entries), MEMORY)
    code, addr = checker.check(*case.columns())
    told = checker.explain(*case.columns())
    for row, (device, iova, size, write) in enumerate(case.accesses):
        slow = fate(hardware, checker.devices[device], iova, size, write, MEMORY)
        assert (Verdict(code[row]), addr[row]) == (slow.verdict, slow.addr)
        assert told.verdict[row] == code[row]
        assert (told.reached[row], told.owner[row]) == (slow.reached, slow.owner)
        assert told.paddr[row] == (slow.paddr or 0)
        assert told.fault_iova[row] == (0 if slow.verdict.passes else slow.addr)
        alone = checker.explain(device, slow.addr, 1, write)
        if slow.verdict is Verdict.PARTIAL and slow.reason is not Verdict.RESERVED:
            assert told.why[row] == f"stopped part-way: {alone.why[0]}"


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_rows_does_not_matter(case, random):
    checker = Checker(case.hardware, list(case.hardware.entries))
    order = list(range(len(case.accesses)))
    random.shuffle(order)
    columns = case.columns()
    code, addr = checker.check(*columns)
    code_, addr_ = checker.check(*(column[order] for column in columns))
    assert code_.tolist() == code[order].tolist()
    assert addr_.tolist() == addr[order].tolist()


@given(cases(windows=False), st.data())
@settings(max_examples=100, deadline=None)
def test_a_dma_cut_in_two_fares_as_badly_as_its_worse_half(case, data):
    checker = Checker(case.hardware, list(case.hardware.entries))
    device, iova, size, write = case.accesses[0]
    assume(size > 1)
    cut = data.draw(st.integers(1, size - 1))
    (whole,), (where,) = checker.check([device], iova, size, write)
    halves, ends = checker.check(device, [iova, iova + cut], [cut, size - cut], write)
    one, two = map(Verdict, halves.tolist())
    if one.passes and two.passes:
        assert (whole, where) == (max(one, two), ends[0])
    elif one.passes:
        assert (whole, where) == (Verdict.PARTIAL, ends[1])
    else:
        assert (whole, where) == (one, ends[0])


@given(cases(), st.data())
@settings(max_examples=100, deadline=None)
def test_one_mapping_more_changes_nothing_outside_it(case, data):
    hardware = case.hardware
    table = hardware.tables["t"]
    base = min(iova for _, iova, _, _ in case.accesses) // ROOM * ROOM
    page = base + 4 * data.draw(st.integers(0, ROOM // 4 - 1))
    assume(page + 4 <= 2**64 and not table.overlapping(page, 4))
    more = hardware.tables.set("t", table.insert(Run(page, 4, 0x1000, 2, 3)))
    checker = Checker(hardware, list(hardware.entries))
    device, iova, size, write = case.columns()
    last = iova + size - np.uint64(1)
    apart = (last < page) | (iova > page + 3)
    before = checker.check(device[apart], iova[apart], size[apart], write[apart])
    after = checker.renewed(
        Hardware(hardware.entries, more, hardware.master, hardware.msi, hardware.width)
    ).check(device[apart], iova[apart], size[apart], write[apart])
    assert [column.tolist() for column in before] == [column.tolist() for column in after]


@given(cases())
@settings(max_examples=60, deadline=None)
def test_a_device_that_is_moved_fares_as_the_device_whose_entry_it_got(case):
    hardware = case.hardware
    names = list(hardware.entries)
    there = names[-1]
    moved = Hardware(
        hardware.entries.set("a", hardware.entries[there]),
        hardware.tables,
        hardware.master.set("a", hardware.master[there]),
        hardware.msi,
        hardware.width,
    )
    _, iova, size, write = case.columns()
    got = Checker(moved, names).check(0, iova, size, write)
    expected = Checker(hardware, names).check(names.index(there), iova, size, write)
    assert [column.tolist() for column in got] == [column.tolist() for column in expected]


@given(cases())
@settings(max_examples=60, deadline=None)
def test_after_a_flush_only_what_the_tables_hold_gets_through(case):
    hardware = case.hardware
    flushed = Frozen({name: PageTable(table) for name, table in hardware.tables.items()})
    now = Hardware(hardware.entries, flushed, hardware.master, hardware.msi, hardware.width)
    names = list(hardware.entries)
    before, addr = Checker(hardware, names).check(*case.columns())
    after, addr_ = Checker(now, names).check(*case.columns())
    assert Verdict.STALE not in after
    settled = ~np.isin(before, [Verdict.STALE, Verdict.PARTIAL])
    assert after[settled].tolist() == before[settled].tolist()
    assert addr_[settled].tolist() == addr[settled].tolist()
