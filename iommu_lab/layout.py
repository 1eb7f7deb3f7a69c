"""The layout: where everything of a picture goes, as marks on a sheet measured in pixels.

The SVG of the explorer and the still figure of a lesson are drawn from the same marks, so they
cannot differ in what they show. All style is here: colours, hatches, sizes.

Colours are those of Okabe and Ito, one an owner of memory; the hatch says the same in grey. What
gets through is a full bar and what is stopped a thin line, so that the main thing needs no colour
at all. Reads are the upper half of a bar, writes the lower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .owners import NOBODY
from .picture import Axis, Fate, Panel, Picture, Row, Share, Stretch, Way, amount

WIDTH = 840
GAP = 20

# Tones: what a mark means, and what it looks like where no theme says otherwise. The last three
# have the same look in every theme.
TONES = {
    "ink": "#1f1f1f",
    "soft": "#5c5c5c",
    "rule": "#9e9e9e",
    "paper": "#ffffff",
    "alarm": "#D55E00",
    "fine": "#009E73",
    "nobody": "#8a8a8a",
}
# (colour, hatch) of the owners of memory, in the order in which they stand in the memory map.
OWNERS = (
    ("#56B4E9", ""),
    ("#D55E00", "/"),
    ("#009E73", "."),
    ("#E69F00", "-"),
    ("#CC79A7", "\\"),
    ("#0072B2", "x"),
    ("#F0E442", "|"),
)
INTERRUPT = ("#CC79A7", "x")


class Box(NamedTuple):
    """A rectangle. ``fill`` and ``edge`` are a tone or a colour, "" for none."""

    x: float
    y: float
    width: float
    height: float
    fill: str = ""
    hatch: str = ""
    edge: str = ""
    dashed: bool = False
    alpha: float = 1.0
    round: float = 0.0
    says: str = ""


class Text(NamedTuple):
    """A line of text; ``y`` is its baseline, ``anchor`` is start, middle or end."""

    x: float
    y: float
    text: str
    size: float = 11
    tone: str = "ink"
    bold: bool = False
    mono: bool = False
    anchor: str = "start"


class Flow(NamedTuple):
    """A band that flows from ``top`` (left, right) at ``y`` down to ``bottom`` at ``to``."""

    top: tuple[float, float]
    y: float
    bottom: tuple[float, float]
    to: float
    fill: str
    dashed: bool = False


class Line(NamedTuple):
    """A straight line."""

    x: float
    y: float
    to_x: float
    to_y: float
    tone: str = "rule"
    width: float = 1.0


Mark = Box | Text | Flow | Line


class Sheet(NamedTuple):
    """Marks on ``width`` by ``height`` pixels, in the order in which they are drawn."""

    width: float
    height: float
    marks: tuple[Mark, ...]


LABEL = 62
TITLE, BOXES, TICKS, THIN, BAR, FLOW, NAMES, OTHER, FOOT = 22, 56, 15, 11, 24, 44, 34, 20, 16


def lay_out(picture: Picture) -> Sheet:
    """The sheet for a picture; its height depends on how many devices there are, and on no more."""
    count = len(picture.panels)
    width = (WIDTH - GAP * (count - 1)) / count
    others = max((len(panel.rows) for panel in picture.panels), default=1) - 1
    height = TITLE + BOXES + TICKS + THIN + 3 + BAR + FLOW + BAR + NAMES + FOOT
    height += OTHER * others + (6 if others > 0 else 0)
    marks: list[Mark] = []
    for number, panel in enumerate(picture.panels):
        marks += _PanelLayout(picture, panel, number * (width + GAP), width).marks()
    scale = "IOVAs and memory are not to scale: a stretch widens with the logarithm of its size"
    marks.append(Text(WIDTH, height - 3, scale, 9.5, "soft", anchor="end"))
    return Sheet(WIDTH, height, tuple(marks))


class _PanelLayout:
    """The marks of one panel, from the top down."""

    def __init__(self, picture: Picture, panel: Panel, left: float, width: float) -> None:
        self.picture, self.panel = picture, panel
        self.left, self.width = left, width
        self.bars, self.room = left + LABEL, width - LABEL
        names = [row.device for p in picture.panels for row in p.rows]
        self.short = all(name.startswith("0000:") for name in names)

    def marks(self) -> Iterator[Mark]:
        panel = self.panel
        yield from self._title()
        if not panel.rows:
            for number, line in enumerate(wrapped(panel.outcome, self.width, 12)):
                yield Text(self.left, TITLE + 20 + 16 * number, line, 12)
            return
        focus = next((r for r in panel.rows if r.device == self.picture.focus), panel.rows[0])
        y = float(TITLE)
        yield from self._boxes(focus, y)
        y += BOXES
        yield from self._ticks(y + TICKS - 5)
        y += TICKS
        yield from self._label("believed", y + THIN - 2, "soft")
        if focus.believed is None:
            yield Text(
                self.bars, y + THIN - 2, "NULL and PLATFORM: only the driver knows", 9.5, "soft"
            )
        else:
            yield from self._strip(focus.believed, y, THIN, thin=True)
        y += THIN + 3
        yield from self._label("done", y + BAR / 2 + 4, "ink")
        yield from self._strip(focus.done, y, BAR)
        y += BAR
        yield from self._flows(focus, y, y + FLOW)
        y += FLOW
        yield from self._label("memory", y + BAR / 2 + 4, "ink")
        yield from self._memory(focus, y)
        y += BAR
        yield from self._regions(focus, y)
        y += NAMES + 6
        for row in panel.rows:
            if row is not focus:
                yield from self._label(self._name(row.device), y + OTHER / 2 + 4, "ink", mono=True)
                yield from self._strip(row.done, y + 4, OTHER - 8, says=row.says)
                y += OTHER

    def _name(self, device: str) -> str:
        return device.removeprefix("0000:") if self.short else device

    def _title(self) -> Iterator[Mark]:
        yield Text(self.left, 14, self.panel.title, 13, "ink", bold=True)
        x = self.left + measured(self.panel.title, 13, bold=True) + 8
        if self.panel.mark:
            room = measured(self.panel.mark, 10.5, bold=True) + 12
            yield Box(x, 2.5, room, 15, "alarm", round=3)
            yield Text(x + room / 2, 13.5, self.panel.mark, 10.5, "paper", True, anchor="middle")
            x += room + 8
        step = cut(self.panel.step, self.left + self.width - x, 10.5)
        yield Text(self.left + self.width, 14, step, 10.5, "soft", anchor="end")

    def _boxes(self, row: Row, y: float) -> Iterator[Mark]:
        sign = 30
        width = (self.width - sign) / 2
        who = self._name(row.device)
        group = f"group {row.group}" if row.group is not None else "no group"
        for x, caption, words in (
            (self.left, f"the core believes of {group}", row.belief),
            (self.left + width + sign, f"the IOMMU does with {who}", row.hardware),
        ):
            yield Box(x + 0.5, y + 0.5, width - 1, 46, edge="rule", round=4)
            yield Text(x + 8, y + 14, caption, 10, "soft")
            yield Text(x + 8, y + 29, words.word, 13, "ink", bold=True)
            beside = measured(words.word, 13, bold=True) + 14
            lines = wrapped(words.more, width - 16, 10.5, width - 8 - beside)
            yield Text(x + beside, y + 29, lines[0] if lines else "", 10.5, "soft")
            yield Text(x + 8, y + 42, lines[1] if len(lines) > 1 else "", 10.5, "soft")
        word, tone = {True: ("=", "fine"), False: ("≠", "alarm"), None: ("?", "soft")}[row.agrees]
        yield Text(self.left + width + sign / 2, y + 30, word, 20, tone, True, anchor="middle")

    def _label(self, word: str, y: float, tone: str, *, mono: bool = False) -> Iterator[Mark]:
        yield Text(self.left, y, cut(word, LABEL - 4, 10.5, mono), 10.5, tone, mono=mono)

    def _x(self, axis: Axis, edge: int) -> float:
        return self.bars + self.room * axis.edges[edge]

    def _ticks(self, y: float) -> Iterator[Mark]:
        """The first address of each stretch, as far as there is room; busy places come first."""
        yield from self._label("IOVA", y, "soft")
        axis = self.picture.iova
        lively = {
            n + side
            for panel in self.picture.panels
            for row in panel.rows
            for n, stretch in enumerate(row.done)
            for side in (0, 1)
            if Fate.STOPPED not in (stretch.read.fate, stretch.write.fate)
        }
        taken: list[tuple[float, float]] = []
        order = sorted(range(len(axis.starts)), key=lambda n: (n not in lively, n))
        for n in order:
            text = f"{axis.starts[n]:#_x}"
            x, size = self._x(axis, n), measured(text, 9.5, mono=True)
            x = min(x, self.bars + self.room - size)
            if all(x + size + 6 < a or b + 6 < x for a, b in taken):
                taken.append((x, x + size))
                yield Text(x, y, text, 9.5, "soft", mono=True)

    def _strip(
        self,
        stretches: Sequence[Stretch],
        y: float,
        height: float,
        *,
        thin: bool = False,
        says: str = "",
    ) -> Iterator[Mark]:
        axis = self.picture.iova
        for number, stretch in enumerate(stretches):
            x, end = self._x(axis, number), self._x(axis, number + 1)
            note = says or told(stretch)
            if stretch.read[:2] == stretch.write[:2]:
                yield from self._way(stretch.read, x, y, end - x, height, thin, note)
            else:
                half = height / 2
                yield from self._way(stretch.read, x, y, end - x, half, thin, note)
                yield from self._way(stretch.write, x, y + half, end - x, half, thin, note)

    def _way(
        self, way: Way, x: float, y: float, width: float, height: float, thin: bool, says: str
    ) -> Iterator[Mark]:
        fill, hatch = self._paint(way.owner.split(" and ")[0]) if way.owner else ("rule", "")
        box = Box(x + 0.5, y, width - 1, height, fill, "" if thin else hatch, says=says)
        middle = y + height / 2 - 1
        if way.fate is Fate.STOPPED:
            yield Box(x + 0.5, middle, width - 1, 2, "rule", says=says)
        elif way.fate is Fate.THROUGH:
            yield box._replace(alpha=0.5) if way.owner == NOBODY else box
        elif way.fate is Fate.MAYBE:
            yield box._replace(alpha=0.35, edge=fill, dashed=True)
        elif way.fate is Fate.INTERRUPT:
            yield box._replace(fill=INTERRUPT[0], hatch="" if thin else INTERRUPT[1])
        elif way.fate is Fate.PARTLY:
            yield box._replace(alpha=0.45, hatch="|", edge=fill)
        else:
            yield box._replace(fill="", edge="soft", dashed=True)
            if not thin:
                yield Text(
                    x + width / 2, y + height / 2 + 5, "?", 13, "soft", True, anchor="middle"
                )

    def _paint(self, owner: str) -> tuple[str, str]:
        if owner not in self.picture.owners:
            return "nobody", ""
        return OWNERS[self.picture.owners.index(owner) % len(OWNERS)]

    def _flows(self, row: Row, y: float, to: float) -> Iterator[Mark]:
        iova, memory = self.picture.iova, self.picture.memory
        for band in row.bands:
            yield Flow(
                (self._x(iova, band.iova) + 0.5, self._x(iova, band.iova + 1) - 0.5),
                y,
                (self._x(memory, band.low) + 0.5, self._x(memory, band.high + 1) - 0.5),
                to,
                self._paint(band.owner)[0],
                band.fate is Fate.MAYBE,
            )

    def _memory(self, row: Row, y: float) -> Iterator[Mark]:
        axis, regions = self.picture.memory, iter(self.picture.regions)
        for region in regions:
            x = self._x(axis, axis.at(region.first))
            end = self._x(axis, axis.at(region.last) + 1)
            yield Box(x + 0.5, y + 0.5, end - x - 1, BAR - 1, edge="rule")
        for number, stretch in enumerate(row.memory):
            owner = next(
                (r.owner for r in self.picture.regions if r.first <= stretch.first <= r.last),
                NOBODY,
            )
            x, end = self._x(axis, number), self._x(axis, number + 1)
            for half, way in enumerate((stretch.read, stretch.write)):
                if way.fate is Fate.STOPPED or owner == NOBODY:
                    continue
                same = stretch.read.fate is stretch.write.fate
                if same and half:
                    continue
                yield from self._way(
                    way._replace(owner=owner),
                    x,
                    y + (0 if same else half * BAR / 2),
                    end - x,
                    BAR if same else BAR / 2,
                    False,
                    told_of_memory(stretch, owner),
                )

    def _regions(self, row: Row, y: float) -> Iterator[Mark]:
        """Whose memory it is, which is also the key to the colours, and how much is reached."""
        axis = self.picture.memory
        for share in row.shares:
            region = share.region
            x = self._x(axis, axis.at(region.first)) + 0.5
            room = self._x(axis, axis.at(region.last) + 1) - x - 4
            fill, hatch = self._paint(region.owner)
            yield Box(x, y + 6, 9, 9, fill, hatch)
            yield Text(x + 13, y + 14, cut(region.owner, room - 13, 10.5), 10.5)
            yield Text(x, y + 28, reached(share, room), 10, "soft")


# -- words that belong to marks --------------------------------------------------------------------


def told(stretch: Stretch) -> str:
    """What happens to DMA to a stretch, for whoever points at it."""
    where = f"IOVA {stretch.first:#_x} … {stretch.last:#_x}, {amount(stretch.size)}"
    if stretch.read == stretch.write:
        return f"{where}: {_told_way(stretch.read)}"
    return f"{where}: a read {_told_way(stretch.read)}, a write {_told_way(stretch.write)}"


def _told_way(way: Way) -> str:
    if not way.owner:
        return str(way.fate)
    at = f" at {way.paddr:#_x}" if way.paddr is not None else f", {amount(way.reached)} of it"
    return f"{way.fate} to {way.owner}{at}"


def told_of_memory(stretch: Stretch, owner: str) -> str:
    """The same for a stretch of memory."""
    most = max(stretch.read.reached, stretch.write.reached)
    return (
        f"{owner}, {stretch.first:#_x} … {stretch.last:#_x}: "
        f"{amount(most)} of {amount(stretch.size)} in reach"
    )


def reached(share: Share, room: float) -> str:
    """How much of a region is reached, in the longest words that there is room for."""
    total = share.region.last - share.region.first + 1
    count, may = (share.reached, "") if share.reached else (share.perhaps, "perhaps ")
    if not count:
        return "out of reach" if measured("out of reach", 10) < room else "–"
    if count == total:
        ways = [f"{may}all {amount(total)}", f"{may}all"]
    else:
        ways = [f"{may}{amount(count)} of {amount(total)}", f"{may}{amount(count)}"]
    return next((way for way in ways if measured(way, 10) < room), cut(ways[-1], room, 10))


# -- text without a screen to measure it on --------------------------------------------------------


def measured(text: str, size: float, mono: bool = False, bold: bool = False) -> float:
    """About how wide a text is; a little more than most fonts need."""
    return len(text) * size * (0.61 if mono else 0.57 if bold else 0.52)


def cut(text: str, room: float, size: float, mono: bool = False) -> str:
    """The text, or as much of its beginning as there is room for."""
    fits = max(1, int(room / measured("x", size, mono)))
    return text if len(text) <= fits else text[: fits - 1].rstrip() + "…"


def wrapped(text: str, room: float, size: float, first: float | None = None) -> list[str]:
    """The text in lines; the first may have other room. Nothing is left out."""
    lines: list[str] = []
    space = room if first is None else first
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and measured(longer, size) > space:
            lines.append(line)
            line, space = word, room
        else:
            line = longer
    return [*lines, line] if line else lines
