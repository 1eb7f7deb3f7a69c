"""A red-black tree of ranges: in which order does a search from the root meet them?

VFIO of 5.10 unmaps a large range by asking its tree for any mapping in it, again and again
(vfio_dma_do_unmap, vfio_find_dma). Which one it is given is decided by the shape of the tree, and
so is the order of the unmap events. The shape follows from the insertions and removals alone, since
lib/rbtree.c balances as the textbook does (Cormen et al., chapter 13).

>>> tree = RangeTree()
>>> for first in (0x1000, 0x2000, 0x3000):
...     tree.insert(first, 0x1000)
>>> hex(tree.find(0, 0x10000))
'0x2000'

Up to 6.12 VFIO counts in 64 bits here: a range that ends with the last address ends at 0, and a
search passes it by.

>>> old = RangeTree(wraps=True)
>>> for first in (0x1000, 2**64 - 0x1000):
...     old.insert(first, 0x1000)
>>> old.find(2**64 - 0x1000, 0x1000) is None, [hex(first) for first in old.onwards(0, TOP)]
(True, ['0x1000', '0xfffffffffffff000'])
"""

from __future__ import annotations

from collections.abc import Iterator

TOP = 2**64 - 1


class _Node:
    __slots__ = ("end", "first", "left", "parent", "red", "right")

    def __init__(self, first: int, end: int) -> None:
        self.first = first
        self.end = end
        self.red = True
        self.left: _Node | None = None
        self.right: _Node | None = None
        self.parent: _Node | None = None


class RangeTree:
    """Ranges that do not overlap, by their first address."""

    def __init__(self, *, wraps: bool = False) -> None:
        self._root: _Node | None = None
        self._nodes: dict[int, _Node] = {}
        self._wraps = wraps

    def _end(self, first: int, size: int) -> int:
        return (first + size) & TOP if self._wraps else first + size

    def end(self, first: int) -> int:
        """Where the range with this first address ends, as the tree counts."""
        return self._nodes[first].end

    def find(self, first: int, size: int) -> int | None:
        """The range nearest the root that shares a byte with this one; None when none does."""
        node, end = self._root, self._end(first, size)
        while node is not None:
            if end <= node.first:
                node = node.left
            elif first >= node.end:
                node = node.right
            else:
                return node.first
        return None

    def onwards(self, first: int, size: int) -> Iterator[int]:
        """The ranges in order, from one that ends behind ``first`` (vfio_find_dma_first_node)."""
        found, node, end = None, self._root, self._end(first, size)
        while node is not None:
            if first < node.end:
                found = node
                node = None if first >= node.first else node.left
            else:
                node = node.right
        ordered = list(self._in_order(self._root))
        for node in ordered[ordered.index(found) :] if found is not None else ():
            if node.first >= end:
                return
            yield node.first

    def _in_order(self, node: _Node | None) -> Iterator[_Node]:
        if node is not None:
            yield from self._in_order(node.left)
            yield node
            yield from self._in_order(node.right)

    def insert(self, first: int, size: int) -> None:
        """Add a range; the caller has made sure that its place is free."""
        node, parent, at = _Node(first, self._end(first, size)), None, self._root
        while at is not None:
            parent, at = at, at.left if first < at.first else at.right
        node.parent = parent
        self._nodes[first] = node
        if parent is None:
            self._root = node
        elif first < parent.first:
            parent.left = node
        else:
            parent.right = node
        self._after_insert(node)

    def remove(self, first: int) -> None:
        """Take the range with this first address away; KeyError when there is none."""
        node = self._nodes.pop(first)
        if node.left is None or node.right is None:
            child, parent, was_black = node.left or node.right, node.parent, not node.red
            self._replace(node, child)
        else:
            heir = node.right
            while heir.left is not None:
                heir = heir.left
            child, was_black = heir.right, not heir.red
            parent = heir if heir.parent is node else heir.parent
            if heir.parent is not node:
                self._replace(heir, child)
                heir.right = node.right
                heir.right.parent = heir
            self._replace(node, heir)
            heir.left = node.left
            heir.left.parent = heir
            heir.red = node.red
        if was_black:
            self._after_remove(child, parent)

    def _replace(self, old: _Node, new: _Node | None) -> None:
        if old.parent is None:
            self._root = new
        elif old is old.parent.left:
            old.parent.left = new
        else:
            old.parent.right = new
        if new is not None:
            new.parent = old.parent

    def _rotate(self, node: _Node, left: bool) -> None:
        """Turn at this node: its child on the other side comes up."""
        child = node.right if left else node.left
        assert child is not None
        inner = child.left if left else child.right
        if left:
            node.right, child.left = inner, node
        else:
            node.left, child.right = inner, node
        if inner is not None:
            inner.parent = node
        self._replace(node, child)
        node.parent = child

    def _after_insert(self, node: _Node) -> None:
        while (parent := node.parent) is not None and parent.red:
            grand = parent.parent
            assert grand is not None
            left = parent is grand.left
            uncle = grand.right if left else grand.left
            if uncle is not None and uncle.red:
                parent.red = uncle.red = False
                grand.red = True
                node = grand
                continue
            if node is (parent.right if left else parent.left):
                self._rotate(parent, left)
                node, parent = parent, node
            parent.red = False
            grand.red = True
            self._rotate(grand, not left)
        assert self._root is not None
        self._root.red = False

    def _after_remove(self, node: _Node | None, parent: _Node | None) -> None:
        while parent is not None and (node is None or not node.red):
            left = node is parent.left
            sibling = parent.right if left else parent.left
            assert sibling is not None
            if sibling.red:
                sibling.red, parent.red = False, True
                self._rotate(parent, left)
                sibling = parent.right if left else parent.left
                assert sibling is not None
            near = sibling.left if left else sibling.right
            far = sibling.right if left else sibling.left
            if not (near is not None and near.red) and not (far is not None and far.red):
                sibling.red = True
                node, parent = parent, parent.parent
                continue
            if not (far is not None and far.red):
                assert near is not None
                near.red, sibling.red = False, True
                self._rotate(sibling, not left)
                far, sibling = sibling, near
            sibling.red, parent.red = parent.red, False
            assert far is not None
            far.red = False
            self._rotate(parent, left)
            break
        if node is not None and (node.parent is None or node.red):
            node.red = False
