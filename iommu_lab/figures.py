"""Figures: still pictures for the lessons, each with the sentence that says what it shows.

A figure function takes a lab and returns a :class:`Drawing`. It shows nothing and prints nothing;
the last line of a cell does. :func:`reach` draws the very marks that the explorer draws, so a still
picture and the live one agree.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path

from . import audit
from .lab import Lab
from .layout import TONES, Box, Flow, Line, Mark, Sheet, Text, lay_out, lay_out_story
from .lives import describe_lives, lay_out_lives
from .matrix import describe_matrix, lay_out_matrix
from .picture import Picture, describe, differences

if TYPE_CHECKING:
    import pandas as pd

DPI = 100
SHARP = 144
"""Dots an inch of the PNG, more than the screen's so that small text stays clear."""

MARGIN = 6
HATCHES = {"/": "////", "\\": "\\\\\\\\", ".": "..", "-": "---", "|": "|||", "x": "xxx"}


class Drawing(NamedTuple):
    """A figure and the sentence that says what it shows."""

    figure: Figure
    says: str

    def png(self, **says: str) -> bytes:
        """The figure as a PNG, without anything that tells when or by what it was made.

        ``says`` are further texts that the file carries, by keyword: Description, Source, ….
        """
        file = io.BytesIO()
        texts = {"Software": None, **says}
        self.figure.savefig(file, format="png", dpi=SHARP, metadata=texts)
        return file.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The picture with its sentence as alternative text, and bare for who takes no HTML."""
        data = base64.b64encode(self.png()).decode()
        width = round(self.figure.get_figwidth() * DPI)
        return {
            "text/plain": self.says,
            "text/html": still(data, self.says, width, self.figure.get_gid() or ""),
            "image/png": data,
        }


def still(png: str, says: str, width: int, marks: str) -> str:
    """An ``<img>`` of a PNG in base64, with its sentence and the digest of what was drawn."""
    return (
        f'<img alt="{escape(says)}" width="{width}" style="max-width:100%;height:auto" '
        f'data-marks="{marks}" src="data:image/png;base64,{png}">'
    )


def reach(
    lab: Lab,
    *,
    beside: str | None = None,
    device: str | None = None,
    window: tuple[int, int] | None = None,
) -> Drawing:
    """Which IOVAs of a device get through, to whose memory, and what the core believes.

    Arguments as for :func:`~iommu_lab.picture.describe`.
    """
    return of(describe(lab, beside=beside, device=device, window=window))


def believed_and_done(lab: Lab) -> Drawing:
    """What the core believed and what the IOMMU did, side by side over all steps of a lab.

    A column a step, two lanes a device; where the two differ stands ``≠``.
    """
    story = [describe(lab, at=step) for step in range(len(lab.moments))]
    return Drawing(drawn(lay_out_story(story)), differences(story))


def matrix(after: str = "leaving") -> Drawing:
    """Driver by release: where a device is after ``leaving``, ``detach`` or ``claim``.

    The cells are those of :func:`~iommu_lab.audit.matrix`.
    """
    table = audit.matrix(after)
    return Drawing(drawn(lay_out_matrix(table)), describe_matrix(table, after))


def in_each_kernel(dmas: pd.DataFrame, moments: Mapping[str, str]) -> Drawing:
    """What the same DMAs met in each of several transcripts: a row a file, a column a moment.

    ``dmas`` are rows of :func:`iommu_lab.captures.dmas`, of several files; ``moments`` says which
    labels to show (whole, or by number: S05), and what stands over them.
    """
    return Drawing(drawn(lay_out_lives(dmas, moments)), describe_lives(dmas, moments))


def of(picture: Picture) -> Drawing:
    """The still figure of a picture."""
    return Drawing(drawn(lay_out(picture)), picture.says)


def drawn(sheet: Sheet) -> Figure:
    """A sheet of marks as a figure, a pixel of the sheet to a pixel at 100 dots an inch.

    Its ``gid`` is a digest of the marks: the same on every machine, as the pixels are not.
    """
    width, height = sheet.width + 2 * MARGIN, sheet.height + MARGIN
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-MARGIN, width - MARGIN), ylim=(height - MARGIN, -MARGIN))
    axes.axis("off")
    for mark in sheet.marks:
        _draw(axes, mark)
    figure.set_gid(f"{crc32(repr(sheet).encode()):08x}")
    return figure


def _draw(axes: Any, mark: Mark) -> None:
    if isinstance(mark, Box):
        _draw_box(axes, mark)
    elif isinstance(mark, Text):
        axes.text(
            mark.x,
            mark.y,
            mark.text,
            fontsize=_points(mark.size * (0.9 if mark.mono else 0.92)),
            color=_colour(mark.tone),
            weight="bold" if mark.bold else "normal",
            family="monospace" if mark.mono else "sans-serif",
            ha={"start": "left", "middle": "center", "end": "right"}[mark.anchor],
            va="baseline",
            parse_math=False,
        )
    elif isinstance(mark, Flow):
        _draw_flow(axes, mark)
    elif isinstance(mark, Line):
        axes.plot(
            [mark.x, mark.to_x],
            [mark.y, mark.to_y],
            color=_colour(mark.tone),
            linewidth=_points(mark.width),
        )


def _draw_box(axes: Any, box: Box) -> None:
    look: dict[str, Any] = {
        "facecolor": (_colour(box.fill), box.alpha) if box.fill else "none",
        "edgecolor": _colour(box.edge) if box.edge else "none",
        "linewidth": _points(1),
        "linestyle": (0, (3, 2)) if box.dashed else "solid",
    }
    if box.round:
        corners = f"round,pad=0,rounding_size={box.round}"
        axes.add_patch(
            FancyBboxPatch((box.x, box.y), box.width, box.height, boxstyle=corners, **look)
        )
        return
    axes.add_patch(Rectangle((box.x, box.y), box.width, box.height, **look))
    if box.hatch:
        axes.add_patch(
            Rectangle(
                (box.x, box.y),
                box.width,
                box.height,
                facecolor="none",
                edgecolor=(0, 0, 0, 0.45),
                linewidth=0,
                hatch=HATCHES[box.hatch],
                hatch_linewidth=_points(1),
            )
        )


def _draw_flow(axes: Any, flow: Flow) -> None:
    (a, b), (c, d) = flow.top, flow.bottom
    middle = (flow.y + flow.to) / 2
    points = [
        (a, flow.y),
        *((a, middle), (c, middle), (c, flow.to)),
        (d, flow.to),
        *((d, middle), (b, middle), (b, flow.y)),
        (a, flow.y),
    ]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    colour = _colour(flow.fill)
    axes.add_patch(
        PathPatch(
            Path(points, codes),
            facecolor=(colour, 0.12 if flow.dashed else 0.3),
            edgecolor=(colour, 0.6),
            linewidth=_points(1),
            linestyle=(0, (3, 2)) if flow.dashed else "solid",
        )
    )


def _colour(name: str) -> str:
    return TONES.get(name, name)


def _points(pixels: float) -> float:
    return pixels * 72 / DPI
