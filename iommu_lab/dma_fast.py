"""The checker's compiled kernel: how to answer a hundred million accesses a second.

The answer is the record that :mod:`iommu_lab.partition` made; what is left is to find it. A radix
tree over the addresses does that as a page table would, with one difference: a slot holds the
number of a segment as soon as one segment covers it, so a hole of terabytes costs one slot, and an
address always leads to exactly one segment without a search at the end.

A random access costs two cache misses, one for the last slot and one for the record. Accesses are
taken in blocks, and each block goes through three stages: walk the upper levels and prefetch the
last slot; read it and prefetch the record; judge. While one access waits for memory the others of
its block go on.

Importing this module needs numba and costs a quarter of a second; :mod:`iommu_lab.dma` does so
when a trace is long enough to be worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic
from numpy.typing import NDArray

from .partition import CODE, DELTA, RUN_LAST, U8, U64, WORDS, WORSE_LAST, Partition, cache_lines
from .verdict import Verdict

F = TypeVar("F", bound=Callable[..., Any])

BLOCK = 256  # accesses under way at once: enough to keep every line-fill buffer of a core busy
# Rows whose columns are checked together, ahead of their blocks and still in the cache for them.
# The size of a block divides it.
CHECKED = 1 << 14
FAN_OUTS = (9, 6, 4, 2)  # bits that a level takes
# Slots are 4 bytes. A tree may have so many of them for each segment. Small ones are free: 2 KiB
# each, and more while all of them stay in a quarter of a megabyte, in the cache. The root is read
# before anything is prefetched and has to stay in the cache in any case.
SLOTS_A_SEGMENT = 16
FREE_SLOTS = 1 << 16
FREE_SLOTS_EACH = 512
MOST_IN_ROOT = 1 << 16

# What the kernel knows of a device's tree: a row of words, one cache line.
OFFSET, ROOT, SHIFT, FAN, PAGE, INSIDE, LIMIT = range(7)
ROW = 8

PARTIAL = np.uint8(Verdict.PARTIAL)
ZERO, ONE = np.uint64(0), np.uint64(1)
U = np.uint64


def _compiled(function: F, signatures: Sequence[Any] | None = None) -> F:
    # Unsigned 64-bit arithmetic throughout: numba would wrap signed indexes round, at ten times
    # the cost, and would turn a signed and an unsigned operand into a float.
    return cast(F, numba.njit(signatures, nogil=True, cache=True, error_model="numpy")(function))


def _column(kind: Any, readonly: bool = True) -> Any:
    # Read-only takes any array; otherwise one that comes from a file would mean compiling again.
    return numba.types.Array(kind, 1, "C", readonly=readonly)


def _prefetch_line(typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of ``array[index]`` (C-contiguous) and do not wait for it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, args[0])
        byte = ir.IntType(8).as_pointer()
        where = builder.bitcast(builder.gep(made.data, [args[1]]), byte)
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        name = "llvm.prefetch.p0i8"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        for_reading, keep, data = (ir.Constant(word, n) for n in (0, 3, 1))
        builder.call(function, [where, for_reading, keep, data])
        return context.get_dummy_value()

    return numba.types.void(array, index), generate


_prefetch: Any = intrinsic(_prefetch_line)


class Index(NamedTuple):
    """What the kernel reads.

    ``row`` (uint64) has eight words for each device. ``node`` (int32) holds the slots: a segment's
    number, or the complement of where the block below begins. ``words`` (uint64) are the records
    of all partitions, one after the other.
    """

    row: U64
    node: NDArray[np.int32]
    words: U64


def build(which: NDArray[np.uint32], partitions: Sequence[Partition]) -> Index:
    """The index over all partitions, whose numbers ``which`` gives for each device."""
    rows = np.zeros((len(partitions), ROW), np.uint64)
    nodes: list[NDArray[np.int32]] = []
    free = max(FREE_SLOTS // len(partitions), FREE_SLOTS_EACH)
    slots = segments = 0
    for row, partition in zip(rows, partitions, strict=True):
        node = _tree(partition.start, segments, slots, free, row)
        nodes.append(node)
        slots += len(node)
        segments += len(partition)
    if max(slots, segments) >= 2**31:
        raise ValueError(f"{segments} segments need {slots} slots; the index has room for 2**31")
    record = partitions[0].record
    if len(partitions) > 1 or record.ctypes.data % 64:  # pickled arrays come back anywhere
        record = cache_lines(segments)
        np.concatenate([partition.record for partition in partitions], out=record)
    return Index(rows[which].reshape(-1), np.concatenate(nodes), record.reshape(-1))


def _tree(start: U64, segments: int, slots: int, free: int, row: U64) -> NDArray[np.int32]:
    """The slots of one partition, and its row of words.

    The last segment is not in the tree: whatever lies from LIMIT on has a slot to itself, after
    the root's. Otherwise one boundary at the IOMMU's width would put every mapping three levels
    deeper.
    """
    n = len(start)
    row[OFFSET], row[LIMIT] = slots, start[-1]
    if n == 1:
        return np.full(2, segments, np.int32)
    ends = int(np.bitwise_or.reduce(start))
    page = (ends & -ends).bit_length() - 1
    places = start[:-1] >> U(page)
    levels, fan, root, blocks = _shape(places, max(free, SLOTS_A_SEGMENT * n))
    node = np.empty(root + 2 + (blocks << fan), np.int32)
    _fill(places, U(fan), levels, root, blocks, segments, slots, node)
    row[ROOT], row[FAN], row[INSIDE] = root, fan, (1 << fan) - 1
    row[PAGE], row[SHIFT] = page, page + levels * fan
    return node


def _shape(places: U64, budget: int) -> tuple[int, int, int, int]:
    """Levels below the root, bits a level, slots of the root, blocks: as flat as it may be."""
    top = int(places[-1])
    for levels in range(64):
        for fan in FAN_OUTS:
            root = (top >> (levels * fan)) + 1
            if root <= min(budget, MOST_IN_ROOT):
                blocks = _blocks(places, U(fan), levels)
                # The last resort: two bits a level are as small as a tree gets.
                if root + (blocks << fan) <= budget or fan == FAN_OUTS[-1]:
                    return levels, fan, root, blocks
    raise AssertionError("64 levels cover every address")


@_compiled
def _blocks(places: U64, fan: np.uint64, levels: int) -> int:
    """How many blocks lie under the root: one wherever a boundary is not on a slot's edge."""
    count = 0
    for level in range(levels):
        shift = fan * U(level + 1)
        inside = (ONE << shift) - ONE
        before = ~ZERO
        for place in places:
            if place & inside and place >> shift != before:
                before = place >> shift
                count += 1
    return count


@_compiled
def _fill(
    places: U64,
    fan: np.uint64,
    levels: int,
    root: int,
    blocks: int,
    segments: int,
    slots: int,
    node: NDArray[np.int32],
) -> None:
    """Fill the tree level by level; blocks of a level are in address order, as are segments."""
    begins = np.empty(blocks + 1, np.uint64)
    begins[0] = ZERO
    first, after, free = 0, 1, 1  # blocks of this level, and the next that is not in use
    at = 0
    for level in range(levels, -1, -1):
        shift = fan * U(level)
        width = root if level == levels else 1 << fan
        segment = 0
        for block in range(first, after):
            for slot in range(width):
                low = begins[block] + (U(slot) << shift)
                while segment + 1 < len(places) and places[segment + 1] <= low:
                    segment += 1
                cut = segment + 1 < len(places) and places[segment + 1] - low < ONE << shift
                if cut and level > 0:
                    begins[free] = low
                    node[at] = ~(slots + root + 2 + ((free - 1) << fan))
                    free += 1
                else:
                    node[at] = segments + segment
                at += 1
            if level == levels:
                node[at] = segments + len(places) - 1
                node[at + 1] = segments + len(places)
                at += 2
        first, after = after, free


@_compiled
def _root_slot(row: U64, tree: np.uint64, iova: np.uint64) -> np.uint64:
    root = row[tree + U(ROOT)]
    place = min(iova >> row[tree + U(SHIFT)], root)
    if iova >= row[tree + U(LIMIT)]:
        place = root + ONE
    return U(row[tree + U(OFFSET)] + place)


@_compiled
def _worst(
    row: U64,
    node: NDArray[np.int32],
    words: U64,
    tree: np.uint64,
    at: np.uint64,
    last: np.uint64,
) -> np.uint64:
    """The greatest verdict up to ``last``, as :meth:`Partition.worst` finds it."""
    way = at & U(WORDS)
    while last > words[at + U(WORSE_LAST)]:
        iova = words[at + U(WORSE_LAST)] + ONE
        shift = row[tree + U(SHIFT)]
        entry = node[_root_slot(row, tree, iova)]
        while entry < 0:
            shift -= row[tree + U(FAN)]
            entry = node[U(~entry) + ((iova >> shift) & row[tree + U(INSIDE)])]
        at = U(entry) * U(2 * WORDS) + way
    return U(words[at + U(CODE)])


@_compiled
def _no_access(
    devices: np.uint64, device: NDArray[np.uint32], iova: U64, size: NDArray[Any]
) -> bool:
    """Is there a row with no bytes, a wrap or an unknown device? Without a branch, many at once."""
    wrong = ZERO
    for i in range(len(iova)):
        n = U(size[i])
        wrong |= U(U(device[i]) >= devices) | U(n == ZERO) | U(n - ONE > ~iova[i])
    return bool(wrong)


def judge(
    row: U64,
    node: NDArray[np.int32],
    words: U64,
    device: NDArray[np.uint32],
    iova: U64,
    size: NDArray[Any],
    write: NDArray[np.bool_],
    code: U8,
    addr: U64,
) -> bool:
    """Judge accesses; False when a row was no access, and then the answers mean nothing."""
    devices = U(len(row)) // U(ROW)
    ats = np.empty(BLOCK, np.uint64)  # where each access of the block has got to
    for begin in range(0, len(iova), BLOCK):
        end = min(begin + BLOCK, len(iova))
        if begin % CHECKED == 0:
            some = slice(begin, begin + CHECKED)
            if _no_access(devices, device[some], iova[some], size[some]):
                return False
        here = U(begin)
        for k in range(end - begin):
            j = U(k)
            tree = U(device[here + j]) * U(ROW)
            a = iova[here + j]
            shift = row[tree + U(SHIFT)]
            slot = _root_slot(row, tree, a)
            # The upper levels are few and warm: walk them, and stop before the last.
            while shift > row[tree + U(PAGE)]:
                entry = node[slot]
                if entry >= 0:
                    break
                shift -= row[tree + U(FAN)]
                slot = U(~entry) + ((a >> shift) & row[tree + U(INSIDE)])
            ats[j] = slot
            _prefetch(node, slot)
        for k in range(end - begin):
            j = U(k)
            at = U(node[ats[j]]) * U(2 * WORDS) + U(write[here + j]) * U(WORDS)
            ats[j] = at
            _prefetch(words, at)
        for k in range(end - begin):
            j = U(k)
            at = ats[j]
            a = iova[here + j]
            last = a + (U(size[here + j]) - ONE)
            if last <= words[at + U(RUN_LAST)]:
                code[here + j] = words[at + U(CODE)]
                addr[here + j] = a + words[at + U(DELTA)]
                if last > words[at + U(WORSE_LAST)]:
                    tree = U(device[here + j]) * U(ROW)
                    code[here + j] = _worst(row, node, words, tree, at, last)
            else:
                code[here + j] = PARTIAL
                addr[here + j] = words[at + U(RUN_LAST)] + ONE
    return True


# Two kinds of sizes, and nothing else to compile while somebody waits.
judge = _compiled(
    judge,
    [
        numba.types.boolean(
            *map(_column, (numba.uint64, numba.int32, numba.uint64)),
            *map(_column, (numba.uint32, numba.uint64, size, numba.boolean)),
            _column(numba.uint8, readonly=False),
            _column(numba.uint64, readonly=False),
        )
        for size in (numba.uint32, numba.uint64)
    ],
)
