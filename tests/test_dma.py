"""The checker, asked one question at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from iommu_lab.dma import Checker, Verdict
from iommu_lab.hardware import BLOCK, BYPASS, TOP, Entry, Frozen, Hardware, Kind
from iommu_lab.machine import MEMORY, X86_INTERRUPTS
from iommu_lab.tables import READ, WRITE, PageTable, Run, Stale

RW = READ | WRITE
PAGE = 0x1000


def mapped(*runs: tuple[int, int, int, int], stale: tuple[Stale, ...] = ()) -> PageTable:
    """A table of (iova, size, paddr, prot)."""
    return PageTable([Run(iova, size, paddr, 12, prot) for iova, size, paddr, prot in runs], stale)


def one(table: PageTable, entry: Entry | None = None, **hardware) -> Checker:
    """A checker for one device behind one table."""
    entry = entry or Entry(Kind.TABLE, "t")
    return Checker(Hardware(Frozen(dev0=entry), Frozen(t=table), **hardware), ["dev0"], MEMORY)


def ask(checker: Checker, iova, size, write) -> list[tuple[str, int]]:
    code, addr = checker.check(0, iova, size, write)
    pairs = zip(np.atleast_1d(code).tolist(), np.atleast_1d(addr).tolist(), strict=True)
    return [(Verdict(c).name, a) for c, a in pairs]


def test_a_mapping_includes_both_its_ends():
    checker = one(mapped((0x1000, PAGE, 0x8000_0000, RW)))
    assert ask(checker, [0xFFF, 0x1000, 0x1FFF, 0x2000], 1, False) == [
        ("NOT_MAPPED", 0xFFF),
        ("TRANSLATED", 0x8000_0000),
        ("TRANSLATED", 0x8000_0FFF),
        ("NOT_MAPPED", 0x2000),
    ]


def test_the_last_byte_of_the_address_space_is_like_any_other():
    checker = one(mapped((TOP - PAGE + 1, PAGE, 0x8000_0000, RW)))
    assert ask(checker, [TOP, TOP - PAGE + 1, TOP - PAGE], [1, PAGE, 1], True) == [
        ("TRANSLATED", 0x8000_0FFF),
        ("TRANSLATED", 0x8000_0000),
        ("NOT_MAPPED", TOP - PAGE),
    ]
    assert ask(one(PageTable(), BYPASS), 1, TOP, False) == [("IDENTITY", 1)]


def test_address_zero_is_like_any_other():
    checker = one(mapped((0, PAGE, 0x8000_0000, RW)))
    assert ask(checker, [0, 0], [1, PAGE + 1], True) == [
        ("TRANSLATED", 0x8000_0000),
        ("PARTIAL", PAGE),
    ]


def test_a_dma_over_many_mappings_stops_at_the_first_byte_that_one_of_them_refuses():
    checker = one(
        mapped(
            (0x1000, PAGE, 0x8000_0000, RW),
            (0x2000, PAGE, 0x4000_0000, RW),
            (0x3000, PAGE, 0x4000_1000, READ),
            (0x5000, PAGE, 0x8000_5000, WRITE),
        )
    )
    assert ask(checker, 0x1800, [0x1800, 0x1801], True) == [
        ("TRANSLATED", 0x8000_0800),
        ("PARTIAL", 0x3000),
    ]
    assert ask(checker, 0x1800, [0x2800, 0x2801], False) == [
        ("TRANSLATED", 0x8000_0800),
        ("PARTIAL", 0x4000),
    ]
    assert ask(checker, 0x5000, 1, [True, False]) == [
        ("TRANSLATED", 0x8000_5000),
        ("NO_PERMISSION", 0x5000),
    ]


@pytest.mark.parametrize(
    ("entry", "verdict"),
    [
        (BLOCK, "BLOCKED"),
        (BYPASS, "IDENTITY"),
        (Entry(Kind.PLATFORM, "t"), "PLATFORM"),
        (Entry(Kind.PLATFORM), "NOT_MAPPED"),
        (Entry(Kind.UNKNOWN, why="sprd never says"), "UNKNOWN"),
    ],
)
def test_the_entry_alone_decides_which_way_a_dma_passes(entry, verdict):
    checker = one(mapped((0x1000, PAGE, 0x1000, RW)), entry)
    assert ask(checker, 0x1000, 8, True) == [(verdict, 0x1000)]


def test_an_iommu_with_a_window_leaves_the_rest_alone_or_refuses_it():
    table = mapped((0x1_0000, PAGE, 0x8000_0000, RW))
    window = {"first": 0x1_0000, "last": 0x1_FFFF}
    gart = one(table, Entry(Kind.TABLE, "t", **window, outside="bypass"))
    assert ask(gart, [0xFFFF, 0x1_0000, 0x1_1000, 0x2_0000], 1, True) == [
        ("IDENTITY", 0xFFFF),
        ("TRANSLATED", 0x8000_0000),
        ("NOT_MAPPED", 0x1_1000),
        ("IDENTITY", 0x2_0000),
    ]
    assert ask(gart, 0xFFF0, 0x20, True) == [("IDENTITY", 0xFFF0)]  # the worse of two ways
    pamu = one(table, Entry(Kind.BYPASS, **window))
    assert ask(pamu, [0xFFFF, 0x1_0000, 0x2_0000], 1, True) == [
        ("BEYOND_APERTURE", 0xFFFF),
        ("IDENTITY", 0x1_0000),
        ("BEYOND_APERTURE", 0x2_0000),
    ]


def test_addresses_wider_than_the_iommu_fault_even_where_it_stands_aside():
    edge = 1 << 39
    for entry in (BYPASS, Entry(Kind.TABLE, "t")):
        checker = one(mapped((edge - PAGE, 2 * PAGE, edge - PAGE, RW)), entry, width=39)
        assert ask(checker, [edge - 1, edge, TOP], 1, True)[1:] == [
            ("BEYOND_APERTURE", edge),
            ("BEYOND_APERTURE", TOP),
        ]
        assert ask(checker, edge - 1, 2, True) == [("PARTIAL", edge)]
    assert ask(one(PageTable(), BLOCK, width=39), edge, 1, True) == [("BLOCKED", edge)]


def test_the_interrupt_window_takes_writes_whatever_the_tables_say():
    low, high = X86_INTERRUPTS
    for entry in (BLOCK, BYPASS, Entry(Kind.TABLE, "t")):
        checker = one(mapped((low, PAGE, 0x8000_0000, RW)), entry, msi=(X86_INTERRUPTS,))
        assert ask(checker, [low, high, low], [4, 1, 4], [True, True, False]) == [
            ("MSI", low),
            ("MSI", high),
            ("RESERVED", low),
        ]


def test_a_dma_crosses_neither_end_of_the_interrupt_window():
    low, high = X86_INTERRUPTS
    checker = one(PageTable(), BYPASS, msi=(X86_INTERRUPTS,))
    assert ask(checker, [low - 4, low - 4, high], [8, 8, 2], [True, False, True]) == [
        ("PARTIAL", low),
        ("PARTIAL", low),
        ("PARTIAL", high + 1),
    ]
    assert set(checker.explain(0, [low - 4, high], [8, 2], True).why) == {
        "stopped part-way: only a write that stays in the interrupt window may touch it"
    }


def test_without_bus_master_a_device_sends_not_even_an_interrupt():
    checker = one(PageTable(), BYPASS, msi=(X86_INTERRUPTS,), master=Frozen(dev0=False))
    assert ask(checker, [0, X86_INTERRUPTS[0]], 4, True) == [
        ("MASTER_OFF", 0),
        ("MASTER_OFF", X86_INTERRUPTS[0]),
    ]


def test_a_page_that_is_unmapped_and_not_flushed_may_still_be_reached():
    old = Stale(0x2000, PAGE, 0x4000_0000, READ, since_ms=3, until_ms=13)
    checker = one(mapped((0x1000, PAGE, 0x8000_0000, RW), stale=(old,)))
    assert ask(checker, [0x2000, 0x2000, 0x1FF0, 0x1FF0], [8, 8, 32, 32], [0, 1, 0, 1]) == [
        ("STALE", 0x4000_0000),
        ("NOT_MAPPED", 0x2000),
        ("STALE", 0x8000_0FF0),  # one byte that may pass makes the whole DMA a "may"
        ("PARTIAL", 0x2000),
    ]
    told = checker.explain(0, 0x1FF0, 32, False)
    assert told.owner == ["driver buffer + another VM"]
    assert told.why == [
        "it may pass through an IOTLB entry that has outlived its mapping "
        "(unmapped at 3 ms, may be cached up to 13 ms)"
    ]


def test_a_new_mapping_over_a_stale_page_may_hit_either_and_is_given_as_the_table_has_it():
    elsewhere = Stale(0x1000, PAGE, 0x4000_0000, RW, since_ms=0, until_ms=10)
    the_same = Stale(0x2000, PAGE, 0x8000_1000, RW, since_ms=0, until_ms=10)
    checker = one(mapped((0x1000, 2 * PAGE, 0x8000_0000, RW), stale=(elsewhere, the_same)))
    assert ask(checker, [0x1000, 0x2000], 8, True) == [
        ("STALE", 0x8000_0000),
        ("TRANSLATED", 0x8000_1000),
    ]


def test_devices_that_share_a_translation_share_its_compiled_form():
    table = mapped((0x1000, PAGE, 0x8000_0000, RW))
    entry = Entry(Kind.TABLE, "t")
    hardware = Hardware(
        Frozen(a=entry, b=Entry(Kind.TABLE, "t", why="says more"), c=BLOCK), Frozen(t=table)
    )
    checker = Checker(hardware, ["a", "b", "c"])
    assert len(checker.partitions) == 2
    code, _ = checker.check([0, 1, 2], 0x1000, 1, True)
    assert code.tolist() == [Verdict.TRANSLATED, Verdict.TRANSLATED, Verdict.BLOCKED]


def test_a_renewed_checker_compiles_only_what_changed():
    tables = Frozen(
        t=mapped((0x1000, PAGE, 0x8000_0000, RW)), u=mapped((0x1000, PAGE, 0x4000_0000, RW))
    )
    hardware = Hardware(Frozen(a=Entry(Kind.TABLE, "t"), b=Entry(Kind.TABLE, "u")), tables)
    before = Checker(hardware, ["a", "b"])
    after = before.renewed(
        Hardware(hardware.entries, tables.set("u", tables["u"].clear(0x1000, PAGE)))
    )
    assert after.partitions[0] is before.partitions[0]
    assert before.check([0, 1], 0x1000, 1, True)[0].tolist() == [0, 0]
    assert after.check([0, 1], 0x1000, 1, True)[0].tolist() == [0, Verdict.NOT_MAPPED]


def test_a_table_of_answers_has_the_row_labels_of_the_question():
    checker = one(mapped((0x1000, PAGE, 0x8FFF_F800, RW)))
    asked = pd.DataFrame(
        {
            "device": ["dev0"] * 3,
            "iova": [0x1000, 0x1800, 0],
            "size": [PAGE, PAGE, 1],
            "write": True,
        },
        index=["buffer", "too long", "nothing"],
    )
    told = checker.table(asked)
    assert told.index.tolist() == ["buffer", "too long", "nothing"]
    assert told.verdict.tolist() == ["TRANSLATED", "PARTIAL", "NOT_MAPPED"]
    assert told.reached.tolist() == [0x1000, 0x800, 0]
    assert told.paddr.tolist() == [0x8FFF_F800, 0x9000_0000, pd.NA]
    assert told.fault_iova.tolist() == [pd.NA, 0x2000, 0]
    assert told.owner.tolist() == ["driver buffer + user process", "user process", "-"]


def test_no_question_gets_no_answer_of_the_same_types():
    checker = one(PageTable())
    code, addr = checker.check([], [], [], [])
    assert (code.dtype, addr.dtype, len(code), len(addr)) == (np.uint8, np.uint64, 0, 0)
    nothing = checker.table(pd.DataFrame(columns=["device", "iova", "size", "write"]))
    something = checker.table(
        pd.DataFrame({"device": ["dev0"], "iova": [0], "size": [1], "write": [True]})
    )
    assert len(nothing) == 0
    assert nothing.dtypes.tolist() == something.dtypes.tolist()


def test_one_value_stands_for_every_row_and_four_give_no_dimension():
    checker = one(PageTable(), BYPASS)
    code, addr = checker.check(0, np.arange(3, dtype=np.uint64), 1, False)
    assert addr.tolist() == [0, 1, 2]
    code, addr = checker.check(0, 7, 1, False)
    assert (code.shape, int(code), int(addr)) == ((), Verdict.IDENTITY, 7)


def test_answers_go_where_the_caller_wants_them():
    checker = one(PageTable(), BYPASS)
    code, addr = np.empty(2, np.uint8), np.empty(2, np.uint64)
    checker.check(0, [5, 6], 1, False, out=(code, addr))
    assert (code.tolist(), addr.tolist()) == ([Verdict.IDENTITY] * 2, [5, 6])
    with pytest.raises(ValueError, match="out takes uint8 and uint64 of shape"):
        checker.check(0, [5, 6, 7], 1, False, out=(code, addr))


NAN = float("nan")


@pytest.mark.parametrize(
    ("device", "iova", "size", "write", "says"),
    [
        (0, [1, -1], 1, True, r"row 1: iova is -1; an address is a whole number"),
        (0, np.array([1, -1]), 1, True, r"row 1: iova is -1"),
        (0, [1, 2.0], 1, True, r"row 1: iova is 2.0"),
        (0, np.array([1.0, NAN]), 1, True, r"row 1: iova is nan"),
        (0, pd.Series([1, None, 3], dtype="Int64"), 1, True, r"row 1: iova is nan"),
        (0, [1, True], 1, True, r"row 1: iova is True"),
        (0, [1, 2**64], 1, True, r"row 1: iova is 18446744073709551616"),
        (0, [1, "2"], 1, True, r"row 1: iova is 2; an address"),
        (0, 1, [1, 0], True, r"row 1: size is 0; a size is a whole number of bytes, 1 or more"),
        (0, 1, [1, -4], True, r"row 1: size is -4"),
        (0, 1, [4.0, NAN], True, r"row 0: size is 4.0"),
        (
            0,
            [1, TOP],
            [1, 2],
            True,
            r"row 1: iova 0xffffffffffffffff \+ size 0x2 runs past 2\*\*64",
        ),
        ([0, 1], 1, 1, True, r"row 1: device 1 does not exist; there are 1"),
        ([0, -1], 1, 1, True, r"row 1: device is -1"),
        ([0, NAN], 1, 1, True, r"row 1: device is nan"),
        (0, 1, 1, [True, 2], r"row 1: write is 2; write is True or False"),
        (0, 1, 1, np.array([0, 1, 2]), r"row 2: write is 2"),
        (0, 1, 1, [True, NAN], r"row 1: write is nan"),
        (0, [1, 2, 3], [1, 2], True, r"row 2: not every column goes on to here.*iova 3, size 2"),
        (0, [[1, 2]], 1, True, r"iova has 2 dimensions"),
    ],
)
def test_what_is_no_access_is_refused_with_its_row_and_value(device, iova, size, write, says):
    with pytest.raises(ValueError, match=says):
        one(PageTable(), BYPASS).check(device, iova, size, write)


def test_a_bad_row_deep_in_a_long_trace_is_counted_from_the_start():
    size = np.ones(200_000, np.uint32)
    size[123_456] = 0
    with pytest.raises(ValueError, match=r"^row 123456: size is 0"):
        one(PageTable(), BYPASS).check(0, 0, size, False)


def test_a_table_of_questions_names_its_columns_and_devices():
    checker = one(PageTable())
    with pytest.raises(ValueError, match="no column 'size'; an access has device, iova, size"):
        checker.table(pd.DataFrame({"device": ["dev0"], "iova": [0], "write": [True]}))
    asked = pd.DataFrame({"device": ["dev0", "dev9"], "iova": 0, "size": 1, "write": False})
    with pytest.raises(ValueError, match="row 1: unknown device 'dev9': nearest is dev0"):
        checker.table(asked)
    with pytest.raises(ValueError, match="unknown device 'dev9'"):
        Checker(Hardware(Frozen(dev0=BLOCK)), ["dev9"])
