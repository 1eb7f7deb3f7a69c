"""The checker's compiled kernel: how to answer a hundred million accesses a second.

The answer is the record that :mod:`iommu_lab.partition` made; what is left is to find it. A radix
tree over the addresses does that as a page table would, with one difference: a slot holds the
number of a segment as soon as one segment covers it, so a hole of terabytes costs one slot, and an
address always leads to exactly one segment without a search at the end.

A random access costs two cache misses, one for the last slot and one for the record. Accesses are
taken in blocks, and each block goes through three stages: walk the upper levels and prefetch the
last slot; read it and prefetch the record; judge. While one access waits for memory the others of
its block go on.

The first and the last stage take four accesses at a time. What they read of each is four words in a
row, one vector; four of those turned on their side are four columns, and a comparison or a choice
is then one instruction for all four. No compiler finds that by itself, so these two stages are
written in LLVM's words and not in Python's. ``benchmarks/attempts.md`` says what it is worth.

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
# An index of so many bytes stays in the second-level cache, and asking for its lines ahead would
# only cost time.
NEAR = 1 << 20
FAN_OUTS = (9, 6, 4, 2)  # bits that a level takes
# Slots are 4 bytes. A tree may have so many of them for each segment. Small ones are free: 2 KiB
# each, and more while all of them stay in a quarter of a megabyte, in the cache. The root is read
# before anything is prefetched and has to stay in the cache in any case.
SLOTS_A_SEGMENT = 16
FREE_SLOTS = 1 << 16
FREE_SLOTS_EACH = 512
MOST_IN_ROOT = 1 << 16

# What the kernel knows of a device's tree: a row of words, one cache line. The first four lead to
# a slot of the root, the others from there on.
OFFSET, ROOT, SHIFT, LIMIT, FAN, PAGE, INSIDE = range(7)
ROW = 8
LANES = 4

ZERO, ONE = np.uint64(0), np.uint64(1)
U = np.uint64


def _compiled(function: F, signatures: Sequence[Any] | None = None) -> F:
    # Unsigned 64-bit arithmetic throughout: numba would wrap signed indexes round, at ten times
    # the cost, and would turn a signed and an unsigned operand into a float.
    return cast(F, numba.njit(signatures, nogil=True, cache=True, error_model="numpy")(function))


def _column(kind: Any, readonly: bool = True) -> Any:
    # Read-only takes any array; otherwise one that comes from a file would mean compiling again.
    return numba.types.Array(kind, 1, "C", readonly=readonly)


WORD, HALF, BYTE = (ir.IntType(bits) for bits in (64, 32, 8))


class _Lanes:
    """LLVM instructions on vectors of four lanes, one access in each."""

    def __init__(self, context: Any, builder: Any, signature: Any, given: Any) -> None:
        self.to = builder
        self.given = [
            context.make_array(kind)(context, builder, value).data
            if isinstance(kind, numba.types.Array)
            else value
            for kind, value in zip(signature.args, given, strict=True)
        ]

    def of(self, value: int, kind: Any = WORD) -> Any:
        """The same number in every lane."""
        return ir.Constant(ir.VectorType(kind, LANES), [value] * LANES)

    def place(self, column: Any, at: Any) -> Any:
        return self.to.gep(column, [at])

    def next(self, at: Any) -> list[Any]:
        """Four indices from this one on."""
        return [self.to.add(at, WORD(lane)) for lane in range(LANES)]

    def each(self, vector: Any) -> list[Any]:
        return [self.to.extract_element(vector, HALF(lane)) for lane in range(LANES)]

    def gather(self, column: Any, at: list[Any]) -> Any:
        vector = ir.Constant(ir.VectorType(column.type.pointee, LANES), ir.Undefined)
        for lane, index in enumerate(at):
            value = self.to.load(self.place(column, index))
            vector = self.to.insert_element(vector, value, HALF(lane))
        return vector

    def load(self, column: Any, at: Any, kind: Any = WORD) -> Any:
        """Four neighbours, widened to words."""
        vector = ir.VectorType(kind, LANES)
        loaded = self.to.load(self.to.bitcast(self.place(column, at), vector.as_pointer()))
        loaded.align = 1
        return loaded if kind is WORD else self.to.zext(loaded, ir.VectorType(WORD, LANES))

    def store(self, vector: Any, column: Any, at: Any) -> None:
        where = self.to.bitcast(self.place(column, at), vector.type.as_pointer())
        self.to.store(vector, where).align = 1

    def columns(self, words: Any, at: list[Any]) -> list[Any]:
        """Four words from each of four places, on their side: the first of each, and so on."""
        rows = [self.load(words, index) for index in at]
        pairs = [
            self._mixed(one, other, mask)
            for one, other in (rows[:2], rows[2:])
            for mask in ((0, 4, 2, 6), (1, 5, 3, 7))
        ]
        return [
            self._mixed(pairs[odd], pairs[2 + odd], mask)
            for mask in ((0, 1, 4, 5), (2, 3, 6, 7))
            for odd in (0, 1)
        ]

    def _mixed(self, one: Any, other: Any, mask: tuple[int, ...]) -> Any:
        kind = ir.VectorType(HALF, LANES)
        return self.to.shuffle_vector(one, other, ir.Constant(kind, list(mask)))

    def compare(self, one: Any, how: str, other: Any) -> Any:
        return self.to.icmp_unsigned(how, one, other)

    def some(self, truths: Any) -> Any:
        """Is it true in any lane?"""
        bits = ir.IntType(LANES)
        return self.to.icmp_unsigned("!=", self.to.bitcast(truths, bits), bits(0))

    def prefetch(self, column: Any, at: Any) -> None:
        """Ask for a cache line and do not wait for it."""
        kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), HALF, HALF, HALF])
        name = "llvm.prefetch.p0i8"
        function = self.to.module.globals.get(name) or ir.Function(self.to.module, kind, name)
        where = self.to.bitcast(self.place(column, at), BYTE.as_pointer())
        for_reading, keep, data = HALF(0), HALF(3), HALF(1)
        self.to.call(function, [where, for_reading, keep, data])


def _prefetch_line(typing: Any, array: Any, index: Any) -> Any:
    """Prefetch the cache line of ``array[index]`` (C-contiguous)."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        lanes = _Lanes(context, builder, signature, given)
        lanes.prefetch(*lanes.given)
        return context.get_dummy_value()

    return numba.types.void(array, index), generate


def _find_four(far: bool) -> Any:
    """Walk the upper levels for accesses here+k to here+k+3; leave their last slots in ``ats``.

    The upper levels are few and warm. The last one is not read, but asked for where it is ``far``.
    """

    def find(
        typing: Any, row: Any, node: Any, device: Any, iova: Any, ats: Any, here: Any, k: Any
    ) -> Any:
        return numba.types.void(row, node, device, iova, ats, here, k), generate

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        lanes, to = _Lanes(context, builder, signature, given), builder
        row, node, device, iova, ats, here, k = lanes.given
        first = to.add(here, k)
        words = ir.VectorType(WORD, LANES)
        devices = lanes.load(device, first, HALF)
        trees = lanes.each(to.mul(devices, lanes.of(ROW)))
        offset, root, shift, limit = lanes.columns(row, trees)
        fan, page, inside, _ = lanes.columns(row, [to.add(tree, WORD(FAN)) for tree in trees])

        a = lanes.load(iova, first)
        place = to.lshr(a, shift)
        place = to.select(lanes.compare(place, "<", root), place, root)
        beyond = lanes.compare(a, ">=", limit)
        slot = to.add(offset, to.select(beyond, to.add(root, lanes.of(1)), place))

        before, walk = to.block, to.append_basic_block("walk")
        found = to.append_basic_block("found")
        to.cbranch(lanes.some(lanes.compare(shift, ">", page)), walk, found)
        to.position_at_end(walk)
        slot_now, shift_now = to.phi(words), to.phi(words)
        entry = lanes.gather(node, lanes.each(slot_now))
        further = to.and_(
            to.icmp_signed("<", entry, lanes.of(0, HALF)), lanes.compare(shift_now, ">", page)
        )
        lower = to.sub(shift_now, fan)
        below = to.add(to.zext(to.not_(entry), words), to.and_(to.lshr(a, lower), inside))
        slot_next = to.select(further, below, slot_now)
        shift_next = to.select(further, lower, shift_now)
        for phi, at_first, then in (
            (slot_now, slot, slot_next),
            (shift_now, shift, shift_next),
        ):
            phi.add_incoming(at_first, before)
            phi.add_incoming(then, walk)
        again = to.and_(further, lanes.compare(shift_next, ">", page))
        to.cbranch(lanes.some(again), walk, found)
        to.position_at_end(found)
        slot_found = to.phi(words)
        slot_found.add_incoming(slot, before)
        slot_found.add_incoming(slot_next, walk)

        lanes.store(slot_found, ats, k)
        for at in lanes.each(slot_found) if far else ():
            lanes.prefetch(node, at)
        return context.get_dummy_value()

    return intrinsic(find)


def _judge_four(
    typing: Any,
    words: Any,
    ats: Any,
    iova: Any,
    size: Any,
    code: Any,
    addr: Any,
    here: Any,
    k: Any,
) -> Any:
    """Judge accesses here+k to here+k+3, whose records are at ``ats``, as Partition.judge does.

    Says whether one of them passes in more than one way, so that its code is yet to be found.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        lanes, to = _Lanes(context, builder, signature, given), builder
        words, ats, iova, size, code, addr, here, k = lanes.given
        first = to.add(here, k)
        records = [to.load(lanes.place(ats, at)) for at in lanes.next(k)]
        columns = lanes.columns(words, records)
        a = lanes.load(iova, first)
        bytes_ = lanes.load(size, first, size.type.pointee)
        last = to.add(a, to.sub(bytes_, lanes.of(1)))
        through = lanes.compare(last, "<=", columns[RUN_LAST])
        told = to.select(through, columns[CODE], lanes.of(Verdict.PARTIAL))
        stop = to.add(columns[RUN_LAST], lanes.of(1))
        where = to.select(through, to.add(a, columns[DELTA]), stop)
        lanes.store(to.trunc(told, ir.VectorType(BYTE, LANES)), code, first)
        lanes.store(where, addr, first)
        mixed = lanes.compare(last, ">", columns[WORSE_LAST])
        return to.zext(lanes.some(to.and_(through, mixed)), WORD)

    return numba.types.uint64(words, ats, iova, size, code, addr, here, k), generate


_prefetch: Any = intrinsic(_prefetch_line)
_find_near, _find_far = _find_four(far=False), _find_four(far=True)
_judge: Any = intrinsic(_judge_four)


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
    write: U8,
    code: U8,
    addr: U64,
) -> bool:
    """Judge accesses; False when a row was no access, and then the answers mean nothing.

    ``size`` is uint32 or uint64, and ``write`` 0 or 1.
    """
    n = len(iova)
    index = row, node, words, node.nbytes + words.nbytes > NEAR
    if n >= BLOCK:
        return bool(_judge_blocks(*index, device, iova, size, write, code, addr))
    # Too few for one block: make it full with the same accesses over again.
    full = [np.resize(column, BLOCK) for column in (device, iova, size, write, code, addr)]
    good = bool(_judge_blocks(*index, *full))
    code[:], addr[:] = full[4][:n], full[5][:n]
    return good


def _judge_blocks(
    row: U64,
    node: NDArray[np.int32],
    words: U64,
    far: bool,
    device: NDArray[np.uint32],
    iova: U64,
    size: NDArray[Any],
    write: U8,
    code: U8,
    addr: U64,
) -> bool:
    """As :func:`judge`, for no fewer than BLOCK accesses; is the index ``far`` from the core?"""
    devices = U(len(row)) // U(ROW)
    ats = np.empty(BLOCK, np.uint64)  # where each access of the block has got to
    checked = 0
    for begin in range(0, len(iova), BLOCK):
        if begin == checked:
            some = slice(begin, begin + CHECKED)
            if _no_access(devices, device[some], iova[some], size[some]):
                return False
            checked += CHECKED
        # The last block is full too: it takes some accesses again, which does no harm.
        here = U(min(begin, len(iova) - BLOCK))
        if far:
            for k in range(0, BLOCK, LANES):
                _find_far(row, node, device, iova, ats, here, U(k))
        else:
            for k in range(0, BLOCK, LANES):
                _find_near(row, node, device, iova, ats, here, U(k))
        for k in range(BLOCK):
            j = U(k)
            at = U(node[ats[j]]) * U(2 * WORDS) + U(write[here + j]) * U(WORDS)
            ats[j] = at
            if far:
                _prefetch(words, at)
        mixed = ZERO
        for k in range(0, BLOCK, LANES):
            mixed |= _judge(words, ats, iova, size, code, addr, here, U(k))
        if mixed != ZERO:
            for k in range(BLOCK):
                j = U(k)
                at = ats[j]
                last = iova[here + j] + (U(size[here + j]) - ONE)
                if words[at + U(WORSE_LAST)] < last <= words[at + U(RUN_LAST)]:
                    tree = U(device[here + j]) * U(ROW)
                    code[here + j] = _worst(row, node, words, tree, at, last)
    return True


# Two kinds of sizes, and nothing else to compile while somebody waits.
_judge_blocks = _compiled(
    _judge_blocks,
    [
        numba.types.boolean(
            *map(_column, (numba.uint64, numba.int32, numba.uint64)),
            numba.boolean,
            *map(_column, (numba.uint32, numba.uint64, size, numba.uint8)),
            _column(numba.uint8, readonly=False),
            _column(numba.uint64, readonly=False),
        )
        for size in (numba.uint32, numba.uint64)
    ],
)
