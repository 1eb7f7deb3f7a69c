"""The compiled kernel against the numpy one, and everything that only a long trace meets."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dma_random import MEMORY, cases

from iommu_lab import dma
from iommu_lab.dma import Checker, Verdict
from iommu_lab.hardware import BYPASS, TOP, Entry, Frozen, Hardware, Kind
from iommu_lab.tables import PageTable, Run, Stale

pytest.importorskip("numba", reason="numba is not installed: numpy answers everything")


def both(checker: Checker, *columns, **how) -> tuple[list, list]:
    """Answers of the numpy twin and of the kernel, whether it asks for its index ahead or not."""
    from iommu_lab import dma_fast

    slow = [column.tolist() for column in checker.check(*columns)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dma, "FAST_ROWS", 0)
        fast = []
        for most in (0, 1 << 40):
            patch.setattr(dma_fast, "NEAR", most)
            fast.append([column.tolist() for column in checker.check(*columns, **how)])
    assert fast[0] == fast[1]
    return slow, fast[0]


@given(cases(), st.sampled_from([1, 40]))
@settings(max_examples=150, deadline=None)
def test_the_kernel_agrees_with_numpy(case, times):
    checker = Checker(case.hardware, list(case.hardware.entries), MEMORY)
    slow, fast = both(checker, *(np.tile(column, times) for column in case.columns()))
    assert fast == slow


@st.composite
def scattered(draw):
    """Pages of any size anywhere in 64 bits: trees of every depth and fan-out."""
    free, runs = 0, []
    for shift in draw(st.lists(st.sampled_from([0, 3, 12, 12, 21, 30]), min_size=1, max_size=40)):
        page = 1 << shift
        gap = draw(st.sampled_from([0, 0, 1, 7, 510, 2**9, 2**20, 2**33])) * page
        iova = -(-(free + gap) // page) * page
        if iova + page > 2**64:
            break
        runs.append(
            Run(iova, page, draw(st.integers(0, 99)) * page, shift, draw(st.integers(1, 3)))
        )
        free = iova + page
    return PageTable(runs)


@given(scattered(), st.sampled_from([64, 48, 39]), st.data())
@settings(max_examples=100, deadline=None)
def test_every_boundary_is_found_wherever_it_lies(table, width, data):
    # Every second mapping has an older one in the IOTLB, so that long accesses change their way.
    rights = data.draw(st.sampled_from([1, 2, 3]))
    old = tuple(Stale(run.iova, run.size, 0x100 << 40, rights, 0, 1) for run in list(table)[::2])
    last = data.draw(st.sampled_from([TOP, max(run.end for run in table) - 1]))
    entry = Entry(Kind.TABLE, "t", last=last, outside="bypass")
    hardware = Hardware(Frozen(a=entry, b=BYPASS), Frozen(t=table.with_stale(old)), width=width)
    checker = Checker(hardware, ["a", "b"])
    edges = {run.iova for run in table} | {run.end for run in table} | {1 << width}
    near = sorted(a for e in edges | {TOP} for a in (e - 1, e, e + 1) if 0 <= a <= TOP)
    iova = np.array(near, np.uint64)
    long = np.uint64(data.draw(st.sampled_from([0, 1, 2**13, 2**31, 2**33 + 1])))
    size = np.maximum(np.minimum(long, np.uint64(TOP) - iova), np.uint64(1))
    row = np.arange(len(near))
    slow, fast = both(checker, row % 2, iova, size, row % 3 == 0)
    assert fast == slow
    copy = pickle.loads(pickle.dumps(checker))
    assert both(copy, row % 2, iova, size, row % 3 == 0) == (slow, slow)


def test_the_worst_way_of_a_dma_is_found_in_its_own_direction():
    old = Stale(0x2000, 0x1000, 0x9000, 2, 0, 1)
    table = PageTable(
        [Run(0x1000, 0x1000, 0x5000, 12, 3), Run(0x2000, 0x1000, 0x6000, 12, 3)], (old,)
    )
    checker = Checker(Hardware(Frozen(a=Entry(Kind.TABLE, "t")), Frozen(t=table)), ["a"])
    slow, fast = both(checker, 0, [0x1FF0, 0x1FF0], 32, [False, True])
    assert fast == slow == [[Verdict.TRANSLATED, Verdict.STALE], [0x5FF0, 0x5FF0]]


def long_trace(rows: int = 5000) -> tuple[Checker, list[np.ndarray]]:
    """Sixteen devices on four tables of a hundred mappings, and accesses all over them."""
    rng = np.random.default_rng(3)
    tables = {
        name: PageTable(
            [
                Run(int(p) << 12, 4096, int(q) << 12, 12, int(r))
                for p, q, r in zip(*drawn, strict=True)
            ],
            (Stale(0x40_0000, 0x2000, 0x9000, 3, 0, 1),),
        )
        for name in "tuvw"
        for drawn in [
            (
                np.sort(rng.choice(300, 100, replace=False)),
                rng.integers(0, 99, 100),
                rng.integers(1, 4, 100),
            )
        ]
    }
    entries = {f"dev{i}": Entry(Kind.TABLE, "tuvw"[i % 4]) for i in range(16)}
    checker = Checker(Hardware(Frozen(entries), Frozen(tables), width=39), list(entries))
    columns = [
        rng.integers(0, 16, rows).astype(np.uint32),
        rng.integers(0, 0x50_0000, rows).astype(np.uint64),
        rng.integers(1, 0x4000, rows).astype(np.uint32),
        rng.random(rows) < 0.5,
    ]
    return checker, columns


def test_a_long_trace_is_answered_alike_on_one_core_and_on_several():
    checker, columns = long_trace()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dma, "FAST_CHUNK", 256)
        for threads in (1, 3):
            slow, fast = both(checker, *columns, threads=threads)
            assert fast == slow
    assert {Verdict.TRANSLATED, Verdict.PARTIAL, Verdict.STALE} < set(slow[0])


@pytest.mark.parametrize("kind", [np.int64, np.uint16, np.uint64])
def test_columns_of_any_whole_type_and_any_stride_give_the_same_answers(kind):
    checker, (device, iova, size, write) = long_trace()
    expected, _ = both(checker, device, iova, size, write)
    strided = np.repeat(write, 2)[::2]
    iova.flags.writeable = False
    _, fast = both(checker, device.astype(kind), iova, size.astype(kind), strided.astype(np.uint8))
    assert fast == expected


def test_the_first_wrong_row_of_a_long_trace_is_named_whatever_part_is_done_first():
    checker, (device, iova, size, write) = long_trace()
    for column, value, says in [
        (device, 16, r"row 1234: device 16 does not exist; there are 16"),
        (size, 0, r"row 1234: size is 0"),
        (iova, TOP, r"row 1234: iova 0xffffffffffffffff \+ size"),
    ]:
        wrong = column.copy()
        wrong[[1234, 4000]] = value
        columns = [wrong if c is column else c for c in (device, iova, size, write)]
        columns[2] = np.maximum(columns[2], 2) if column is iova else columns[2]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dma, "FAST_ROWS", 0)
            patch.setattr(dma, "FAST_CHUNK", 256)
            with pytest.raises(ValueError, match=says):
                checker.check(*columns, threads=2)


def test_a_device_number_of_2_to_the_32_is_not_device_0():
    checker, (device, iova, size, write) = long_trace()
    device = device.astype(np.uint64)
    device[77] = 2**32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dma, "FAST_ROWS", 0)
        with pytest.raises(ValueError, match="row 77: device 4294967296 does not exist"):
            checker.check(device, iova, size, write)


def test_a_row_costs_no_more_memory_than_its_answer():
    checker, columns = long_trace(1_000_000)
    checker.check(*columns, threads=1)
    out = np.empty(1_000_000, np.uint8), np.empty(1_000_000, np.uint64)
    tracemalloc.start()
    checker.check(*columns, threads=1, out=out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000  # that is: less than one byte a row besides the answer's nine


def test_records_are_in_memory_once():
    checker, columns = long_trace()
    slow, fast = both(checker, *columns)
    assert fast == slow == [column.tolist() for column in checker.check(*columns)]
    one, other = checker.partitions[:2]
    assert one.record.base is other.record.base


def test_with_no_device_every_row_is_refused_and_none_is_accepted():
    checker = Checker(Hardware(), [])
    assert both(checker, [], [], [], []) == ([[], []], [[], []])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dma, "FAST_ROWS", 0)
        with pytest.raises(ValueError, match="row 0: device 0 does not exist; there are 0"):
            checker.check([0], 0, 1, False)


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


ASK = """
import sys
import numpy as np
from iommu_lab.dma import Checker
from iommu_lab.hardware import BYPASS, Frozen, Hardware
checker = Checker(Hardware(Frozen(a=BYPASS)), ["a"])
code, addr = checker.check(0, np.arange({rows}, dtype=np.uint64), 8, True)
print(addr[-1], "numba" in sys.modules)
"""


def test_a_short_question_does_not_load_numba():
    assert run(ASK.format(rows=1000)) == "999 False"


def test_a_long_trace_is_answered_where_there_is_no_numba():
    blocked = "import sys; sys.modules['numba'] = None\n" + ASK.format(rows=300_000)
    assert run(blocked) == "299999 True"  # "in sys.modules", as None
