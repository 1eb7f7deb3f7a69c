"""Is a page table the same as the list of its pages, and does it never change?"""

from __future__ import annotations

from array import array
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from iommu_lab.tables import EMPTY, READ, WRITE, PageTable, Run, Stale

PAGE = 4096
SPAN = 24

changes = st.lists(
    st.tuples(st.booleans(), st.integers(0, SPAN), st.integers(1, 5), st.integers(0, SPAN)),
    max_size=12,
)


def played(steps) -> tuple[PageTable, dict[int, int]]:
    """The table after these inserts and clears, and the same as a dictionary of pages."""
    table, pages = EMPTY, {}
    for inserts, first, count, to in steps:
        iova, size = first * PAGE, count * PAGE
        if inserts and not table.overlapping(iova, size):
            table = table.insert(Run(iova, size, to * PAGE, 12, READ | WRITE))
            pages |= {first + i: to + i for i in range(count)}
        elif not inserts:
            table = table.clear(iova, size)
            pages = {
                page: where for page, where in pages.items() if not first <= page < first + count
            }
    return table, pages


@given(changes)
def test_a_table_translates_as_the_list_of_its_pages(steps):
    table, pages = played(steps)
    for page in range(SPAN + 8):
        for offset in (0, 1, PAGE - 1):
            found = table.lookup(page * PAGE + offset)
            expected = pages.get(page)
            assert found == (None if expected is None else (expected * PAGE + offset, READ | WRITE))


@given(changes)
def test_runs_are_sorted_and_never_overlap_or_are_empty(steps):
    table, pages = played(steps)
    runs = list(table)
    assert all(a.end <= b.iova for a, b in pairwise(runs))
    assert all(run.size > 0 for run in runs)
    assert sum(run.size for run in runs) == len(pages) * PAGE


@given(changes, st.integers(0, SPAN * PAGE), st.integers(1, 3 * PAGE))
def test_what_lies_inside_a_range_is_cut_at_both_its_ends(steps, at, size):
    table, pages = played(steps)
    bytes_there = sum(
        max(0, min(at + size, (page + 1) * PAGE) - max(at, page * PAGE)) for page in pages
    )
    inside = table.inside(at, size)
    assert sum(run.size for run in inside) == bytes_there
    assert bool(table.overlapping(at, size)) == bool(bytes_there)
    assert table.free([(at, size)]) == (not bytes_there)
    for run in inside:
        assert table.lookup(run.iova) == (run.paddr, run.prot)
        assert at <= run.iova
        assert run.end <= at + size


@given(changes, changes)
def test_tables_are_equal_if_their_runs_are_and_then_hash_alike(one, other):
    first, second = played(one)[0], played(other)[0]
    assert (first == second) == (list(first) == list(second))
    if first == second:
        assert hash(first) == hash(second)


@given(changes)
def test_a_change_makes_a_new_table_and_leaves_the_old_one(steps):
    table, _ = played(steps)
    before = list(table)
    table.clear(0, SPAN * PAGE)
    table.insert(Run(2**40, PAGE, 0, 12, READ))
    table.with_stale([Stale(0, PAGE, 0, READ, 0.0, 10.0)])
    table.with_bare(frozenset({(21, 0)}))
    assert list(table) == before
    assert (table.stale, table.bare) == ((), frozenset())


def test_two_runs_that_translate_alike_differ_by_their_page_size():
    small = EMPTY.insert(Run(0, 2**21, 0, 12, READ))
    large = EMPTY.insert(Run(0, 2**21, 0, 21, READ))
    assert small.lookup(5) == large.lookup(5)
    assert small != large


def test_what_the_iotlb_may_hold_makes_another_table():
    table = EMPTY.insert(Run(0, PAGE, 0, 12, READ))
    stale = table.with_stale([Stale(0, PAGE, 0, READ, 0.0, 10.0)])
    assert stale != table
    assert stale.lookup(0) == table.lookup(0)
    assert stale.insert(Run(PAGE, PAGE, 0, 12, READ)).stale == stale.stale


def test_a_table_that_stands_empty_is_there_until_something_says_it_is_gone():
    table = EMPTY.with_bare(frozenset({(21, 3)}))
    assert [table.holds(21, at) for at in (2 * 2**21, 3 * 2**21, 4 * 2**21 - 1, 4 * 2**21)] == [
        False,
        True,
        True,
        False,
    ]
    assert EMPTY.insert(Run(3 * 2**21, PAGE, 0, 12, READ)).holds(21, 3 * 2**21 + 2**20)


def test_the_last_page_of_the_address_space_can_be_in_a_table():
    table = EMPTY.insert(Run(2**64 - PAGE, PAGE, 0x8000_0000, 12, READ))
    assert table.lookup(2**64 - 1) == (0x8000_0FFF, READ)
    assert len(table.clear(2**64 - PAGE, PAGE)) == 0


@given(changes, st.lists(st.integers(0, SPAN + 20), unique=True, max_size=9))
def test_many_runs_merged_are_the_same_as_one_by_one(steps, pages):
    table, _ = played(steps)
    rows = [Run(page * PAGE, PAGE, page * PAGE, 12, READ) for page in sorted(pages)]
    rows = [row for row in rows if table.find(row.iova) is None]
    columns = [array(code, [row[i] for row in rows]) for i, code in enumerate("QQQBB")]
    one_by_one = table
    for row in rows:
        one_by_one = one_by_one.insert(row)
    assert table.merge(*columns) == one_by_one
