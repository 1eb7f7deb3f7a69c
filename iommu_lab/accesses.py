"""Accesses: the DMA that somebody asks about, checked at the door.

An access is (device, iova, size, write): ``size >= 1`` bytes from ``iova``, which do not run past
2**64. Nothing is repaired and nothing is guessed: a float is refused even where it looks whole,
since above 2**53 it names another address than the one that was meant. An error names the first
row that is wrong, counted from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .hardware import TOP

Unsigned = NDArray[np.unsignedinteger[Any]]

MEANS = {
    "device": "a device is its number, 0 or more",
    "iova": "an address is a whole number, 0 <= iova < 2**64",
    "size": "a size is a whole number of bytes, 1 or more",
    "write": "write is True or False (or 1 or 0)",
}


class Accesses(NamedTuple):
    """Four columns of one length; a value that was given once has stride 0.

    ``device`` and ``size`` keep the unsigned type they came in, ``iova`` is uint64, ``write`` bool.
    """

    device: Unsigned
    iova: NDArray[np.uint64]
    size: Unsigned
    write: NDArray[np.bool_]

    def rows(self, part: slice | NDArray[np.intp]) -> Accesses:
        return Accesses(self.device[part], self.iova[part], self.size[part], self.write[part])

    def shaped(self, shape: tuple[int, ...]) -> Accesses:
        return Accesses(
            np.broadcast_to(self.device, shape),
            np.broadcast_to(self.iova, shape),
            np.broadcast_to(self.size, shape),
            np.broadcast_to(self.write, shape),
        )


def read(device: ArrayLike, iova: ArrayLike, size: ArrayLike, write: ArrayLike) -> Accesses:
    """The four columns with one type and one length each; ValueError for what is no access.

    Zero sizes, wraps and devices that do not exist are left to :func:`refuse_rows`, which can look
    at a part of a long trace at a time.
    """
    given = Accesses(
        _whole_numbers("device", device),
        _whole_numbers("iova", iova).astype(np.uint64, copy=False),
        _whole_numbers("size", size),
        _truths(write),
    )
    lengths = {
        name: len(column)
        for name, column in zip(Accesses._fields, given, strict=True)
        if column.ndim
    }
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise ValueError(
            f"row {min(lengths.values())}: not every column goes on to here; the lengths are {said}"
        )
    return given.shaped((next(iter(lengths.values())),) if lengths else ())


def refuse_rows(accesses: Accesses, devices: int, row: int = 0) -> None:
    """ValueError for the first row with no bytes, a wrap or an unknown device.

    ``row`` is the number of the first row, where the accesses are a part of a longer trace.
    """
    device, iova, size, _ = accesses
    ends = iova + size.astype(np.uint64, copy=False) - np.uint64(1)
    wrong = (device >= devices) | (size == 0) | (ends < iova)
    if not wrong.any():
        return
    at = int(np.argmax(wrong))
    a, n, d = int(iova[at]), int(size[at]), int(device[at])
    if d >= devices:
        why = f"device {d} does not exist; there are {devices}, counted from 0"
    elif n == 0:
        why = f"size is 0; {MEANS['size']}"
    else:
        why = f"iova {a:#x} + size {n:#x} runs past 2**64"
    raise ValueError(f"row {row + at}: {why}")


def _whole_numbers(name: str, values: ArrayLike) -> Unsigned:
    if not isinstance(values, (int, list, tuple)):
        column = _one_dimension(name, np.asarray(values))
        if column.dtype.kind == "u":
            return column
        if column.dtype.kind == "i":
            below = column < 0
            if below.any():
                _refuse(name, column, int(np.argmax(below)))
            return column.view(column.dtype.str.replace("i", "u"))
        if column.size == 0:
            return column.astype(np.uint64)
        if column.dtype.kind == "f":
            # A missing value turns a whole column to floats: name the row that did it.
            _refuse(name, column, int(np.argmax(np.isnan(column))))
    return _one_by_one(name, values, _is_whole).astype(np.uint64)


def _truths(values: ArrayLike) -> NDArray[np.bool_]:
    if not isinstance(values, (int, list, tuple)):
        column = _one_dimension("write", np.asarray(values))
        if column.dtype.kind == "b":
            return column
        if column.dtype.kind in "iu":
            other = (column != 0) & (column != 1)
            if other.any():
                _refuse("write", column, int(np.argmax(other)))
            return column.view(np.bool_) if column.itemsize == 1 else column.astype(np.bool_)
        if column.size == 0:
            return column.astype(np.bool_)
    return _one_by_one("write", values, _is_truth).astype(np.bool_)


def _one_by_one(
    name: str, values: ArrayLike, fits: Callable[[object], bool]
) -> NDArray[np.object_]:
    # A list is never handed to numpy as it is: [2**64 - 1, -1] would come back as floats.
    boxed = np.asarray(values, dtype=object)
    column = _one_dimension(name, boxed)
    for row, value in enumerate(column.reshape(-1)):
        if not fits(value):
            _refuse(name, column, row)
    return column


def _is_whole(value: object) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and 0 <= value <= TOP  # type: ignore[operator]  # whole says it is a number


def _is_truth(value: object) -> bool:
    return isinstance(value, (bool, np.bool_, int, np.integer)) and value in (0, 1)


def _one_dimension(name: str, column: NDArray[Any]) -> NDArray[Any]:
    if column.ndim > 1:
        raise ValueError(f"{name} has {column.ndim} dimensions; a column has one")
    return column


def _refuse(name: str, column: NDArray[Any], row: int) -> None:
    value = column.reshape(-1)[row]
    raise ValueError(f"row {row}: {name} is {value}; {MEANS[name]}")
