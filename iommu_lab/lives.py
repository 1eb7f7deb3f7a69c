"""The same moments in the lives of one device, under several kernels, as a picture.

A row is a transcript, a column a DMA that its script makes; a cell says what came of the DMA, what
the device's entry held at that moment, and the fault reason that the emulator traced.

Where it stops: it draws what :func:`iommu_lab.captures.dmas` found, one DMA a label; a label may be
named by its number alone, such as S05.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from .layout import WIDTH, Box, Mark, Sheet, Text, wrapped

if TYPE_CHECKING:
    import pandas as pd

# What an entry may hold, in words, with a colour and a hatch that tells it in grey too.
ENTRIES = {
    "bypass": ("bypass", "#D55E00", "/"),
    "table": ("a page table", "#56B4E9", ""),
    "blocked": ("no entry", "#9e9e9e", "\\"),
}
OUTCOMES = {"LANDED": "lands", "BLOCKED": "stopped"}
NAMES, HEAD, LANE, STRIP = 112, 34, 40, 12


class Cell(NamedTuple):
    """One DMA of one transcript."""

    file: str
    outcome: str
    hardware: str
    fault: str

    @property
    def entry(self) -> str:
        return ENTRIES.get(self.hardware, (self.hardware, "", ""))[0]

    def __str__(self) -> str:
        return f"{self.outcome} ({self.entry}{', ' if self.fault else ''}{self.fault})"


def _column(dmas: pd.DataFrame, label: str) -> list[Cell]:
    rows = dmas[(dmas.label == label) | dmas.label.str.startswith(f"{label}-")]
    columns = zip(rows.file, rows.measured, rows.hardware, rows.fault, strict=True)
    return [Cell(f, OUTCOMES.get(m, m), h, why) for f, m, h, why in columns]


def describe_lives(dmas: pd.DataFrame, moments: Mapping[str, str]) -> str:
    """The picture in a sentence: moment by moment, and file by file where they differ."""
    told = []
    for label, words in moments.items():
        cells = _column(dmas, label)
        if len({str(cell) for cell in cells}) == 1:
            told.append(f"{words}: {cells[0]} in all")
        else:
            told.append(f"{words}: " + ", ".join(f"{cell.file} {cell}" for cell in cells))
    return "; ".join(told) + "."


def lay_out_lives(dmas: pd.DataFrame, moments: Mapping[str, str]) -> Sheet:
    """A sheet with a row for each file and a column for each label in ``moments``."""
    lanes = {file: HEAD + number * LANE for number, file in enumerate(dict.fromkeys(dmas.file))}
    marks: list[Mark] = [Text(0, y + 23, file, 11, bold=True) for file, y in lanes.items()]
    column = (WIDTH - NAMES) / len(moments)
    for number, (label, words) in enumerate(moments.items()):
        x = NAMES + number * column
        middle = x + (STRIP + column) / 2
        for line, text in enumerate(wrapped(words, column - STRIP, 10.5)[:2]):
            marks.append(Text(middle, 12 + 13 * line, text, 10.5, "soft", anchor="middle"))
        for cell in _column(dmas, label):
            marks += _cell(cell, x, lanes[cell.file], column)
    return Sheet(WIDTH, HEAD + LANE * len(lanes), tuple(marks))


def _cell(cell: Cell, x: float, y: float, column: float) -> Iterator[Mark]:
    _, fill, hatch = ENTRIES.get(cell.hardware, ("", "", ""))
    yield Box(x + 1, y, column - 2, LANE - 4, fill, "", "rule", alpha=0.25)
    # The hatch stands beside the words, not behind them.
    yield Box(x + 1, y, STRIP, LANE - 4, fill, hatch, "rule", alpha=0.8)
    middle = x + (STRIP + column) / 2
    yield Text(middle, y + 16, cell.outcome, 11.5, bold=True, anchor="middle")
    yield Text(middle, y + 30, f"{cell.entry} {cell.fault}", 10, anchor="middle")
