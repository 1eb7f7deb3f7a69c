"""The matrix: driver by release, a cell for where a device is after it was left, as marks.

Each end has a colour and a hatch of its own, so that the matrix reads in grey and by those who see
red and green alike; what has no function has a dash, what is no end (an errno, a crash) its word.
The hypothetical releases stand apart on the right, since nobody ran them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .layout import Box, Line, Mark, Sheet, Text, measured
from .releases import release as find_release
from .threesteps import ENDS

if TYPE_CHECKING:
    import pandas as pd

LOOKS = {
    "blocked": ("#009E73", ""),
    "identity": ("#D55E00", "/"),
    "platform": ("#0072B2", "x"),
    "window": ("#E69F00", "-"),
    "still translating": ("#CC79A7", "\\"),
    "the kernel's domain": ("#56B4E9", "."),
    "unknown": ("#F0E442", "|"),
}
"""(colour, hatch) of each of :data:`~iommu_lab.threesteps.ENDS`; colours of Okabe and Ito."""

NOTHING = ("none", "not in release")
AFTER = {
    "leaving": "after the driver's own function that leaves a domain",
    "detach": "after attach and detach by the core",
    "claim": "after a claim",
}
LABEL, COLUMN, ROW, HEAD, APART, LEGEND = 126, 49, 19, 24, 16, 34
WIDTH = 840


def lay_out_matrix(table: pd.DataFrame) -> Sheet:
    """A sheet for a table of drivers (index) by releases (columns) with words of ``ENDS``."""
    columns = _places(list(table.columns))
    bottom = HEAD + ROW * len(table)
    marks: list[Mark] = []
    for release, x in columns.items():
        soft = "ink" if find_release(release).kind == "mainline" else "soft"
        marks.append(Text(x + COLUMN / 2, HEAD - 8, release, 10.5, soft, anchor="middle"))
    for number, driver in enumerate(table.index):
        y = HEAD + ROW * number
        marks.append(Line(0, y, WIDTH, y, "rule", 0.4))
        marks.append(Text(0, y + ROW - 5, str(driver), 11))
        for release, x in columns.items():
            marks += _cell(str(table.at[driver, release]), f"{driver} {release}", x, y)
    marks.append(Line(0, bottom, WIDTH, bottom, "rule", 0.4))
    marks += _legend(table, bottom + 12)
    return Sheet(WIDTH, bottom + LEGEND, tuple(marks))


def _places(releases: list[str]) -> dict[str, float]:
    """Where each column begins: kernels that came out in order, then those that never did."""
    out = [r for r in releases if find_release(r).kind == "mainline"]
    never = [r for r in releases if r not in out]
    places: dict[str, float] = {r: LABEL + COLUMN * n for n, r in enumerate(out)}
    start = LABEL + COLUMN * len(out) + APART
    return places | {r: start + COLUMN * n for n, r in enumerate(never)}


def _cell(word: str, what: str, x: float, y: float) -> Iterator[Mark]:
    if word in LOOKS:
        colour, hatch = LOOKS[word]
        yield Box(x + 1, y + 1.5, COLUMN - 2, ROW - 3, colour, hatch, says=f"{what}: {word}")
    elif word:
        short = "–" if word in NOTHING else word.split()[0]
        yield Text(x + COLUMN / 2, y + ROW - 5, short, 10, "soft", anchor="middle")


def _legend(table: pd.DataFrame, y: float) -> Iterator[Mark]:
    """The ends that the table has, each with its look, in the order of ``ENDS``."""
    words = set(table.to_numpy().ravel())
    x = 24.0
    for end in (e for e in ENDS if e in words):
        colour, hatch = LOOKS[end]
        yield Box(x, y, 22, 13, colour, hatch)
        yield Text(x + 28, y + 11, end, 11)
        x += 28 + measured(end, 11) + 18
    if words & set(NOTHING):
        yield Text(x + 4, y + 11, "–  no such function", 11, "soft")


def describe_matrix(table: pd.DataFrame, after: str) -> str:
    """What the matrix shows in a sentence: how many drivers end where, in 6.0 and in the newest."""
    first, last = "6.0", str(table.columns[-1])
    return (
        f"Where a device is {AFTER[after]}, for {len(table)} drivers in {table.shape[1]} releases. "
        f"In Linux {first}: {_counted(table[first])}. In Linux {last}: {_counted(table[last])}."
    )


def _counted(column: pd.Series[str]) -> str:
    """How many drivers end where, the commonest first."""
    words = column[~column.isin(["", *NOTHING])].value_counts(sort=False)
    order = sorted(words.index, key=lambda w: (-words[w], w))
    none = int(column.isin(NOTHING).sum())
    return ", ".join(
        [f"{w} {words[w]}" for w in order] + ([f"no such function {none}"] if none else [])
    )
