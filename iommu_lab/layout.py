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
from .picture import (
    NOTHING,
    Axis,
    Extent,
    Fate,
    Panel,
    Picture,
    Row,
    Share,
    Stretch,
    Way,
    Words,
    amount,
    size_of,
)

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
TITLE, BOXES, TICKS, THIN, BAR, FLOW, LINE, OTHER, FOOT = 22, 56, 15, 11, 24, 44, 12, 20, 17


def lay_out(picture: Picture) -> Sheet:
    """The sheet for a picture; its height depends on how many devices there are, and on no more."""
    count = len(picture.panels)
    width = (WIDTH - GAP * (count - 1)) / count
    devices = max((len(panel.rows) for panel in picture.panels), default=1)
    lines = 2 if count == 1 else 3
    height = TITLE + BOXES + TICKS + THIN + 3 + BAR + FLOW + BAR + 8 + LINE * lines + FOOT
    height += OTHER * devices + 6 if devices > 1 else 0
    marks: list[Mark] = []
    for number, panel in enumerate(picture.panels):
        marks += _PanelLayout(picture, panel, number * (width + GAP), width, lines).marks()
    for x, anchor, text in (
        (
            0,
            "start",
            "bar: gets through, reads above and writes below; line: stopped; dashed: perhaps",
        ),
        (WIDTH, "end", "not to scale: a stretch widens with the logarithm of its size"),
    ):
        marks.append(Text(x, height - 3, text, 9.5, "soft", anchor=anchor))
    return Sheet(WIDTH, height, tuple(marks))


class _PanelLayout:
    """The marks of one panel, from the top down."""

    def __init__(
        self, picture: Picture, panel: Panel, left: float, width: float, lines: int
    ) -> None:
        self.picture, self.panel = picture, panel
        self.left, self.width, self.lines = left, width, lines
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
            unsaid = f"{focus.belief.word} does not say what gets through"
            yield Text(self.bars, y + THIN - 2, unsaid, 9.5, "soft")
        else:
            yield from self._strip(focus.believed, y, THIN, thin=True)
        y += THIN + 3
        yield from self._label("done", y + BAR / 2 + 4, "ink")
        yield from self._strip(focus.done, y, BAR)
        y += BAR
        yield from self._flows(focus, y, y + FLOW)
        if focus.reaches == NOTHING:
            middle = self.bars + self.room / 2
            yield Text(
                middle, y + FLOW / 2 + 4, "no DMA gets to memory", 11, "soft", anchor="middle"
            )
        y += FLOW
        yield from self._label("memory", y + BAR / 2 + 4, "ink")
        yield from self._memory(focus, y)
        y += BAR
        yield from self._regions(focus, y)
        y += 8 + LINE * self.lines + 6
        if len(panel.rows) > 1:
            yield from self._devices(focus, y)

    def _devices(self, focus: Row, y: float) -> Iterator[Mark]:
        """Every device in a line of its own, those of one group held together by a bracket."""
        for before, row, after in zip(
            (None, *self.panel.rows[:-1]),
            self.panel.rows,
            (*self.panel.rows[1:], None),
            strict=True,
        ):
            base, middle = y + OTHER / 2 + 4, y + OTHER / 2
            name = cut(self._name(row.device), LABEL - 12, 10, mono=True)
            yield Text(self.left + 8, base, name, 10, "ink", row is focus, mono=True)
            together = [other is not None and other.group == row.group for other in (before, after)]
            if any(together):
                top = y if together[0] else middle
                yield Line(self.left + 2, top, self.left + 2, y + OTHER if together[1] else middle)
                yield Line(self.left + 2, middle, self.left + 6, middle)
            yield from self._strip(row.done, y + 4, OTHER - 8, whole=True)
            yield Box(self.left, y, self.width, OTHER, says=row.says)
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
        group = "no group" if row.group is None else f"group {row.group}"
        for x, caption, words, owner in (
            (self.left, f"the core believes of {group}", row.belief, row.owner),
            (self.left + width + sign, f"the IOMMU does with {who}", row.hardware, ""),
        ):
            room = width - 16
            whole = f"{words.word}: {words.more}" if words.more else words.word
            yield Box(x + 0.5, y + 0.5, width - 1, 48, edge="rule", round=4, says=whole)
            yield Text(x + 8, y + 13, cut(caption, room, 10), 10, "soft")
            yield Text(x + 8, y + 28, cut(words.word, room, 13), 13, "ink", bold=True)
            yield Text(x + 8, y + 42, cut(words.more, room, 10.5), 10.5, "soft")
            if owner:
                left = room - measured(words.word, 13, bold=True)
                owned = cut(f"owner {owner}", left, 10.5)
                yield Text(x + 8 + room, y + 28, owned, 10.5, "soft", anchor="end")
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
        # Where something gets through comes first, then where it has just ended.
        lively: dict[int, int] = {}
        for row in (row for panel in self.picture.panels for row in panel.rows):
            for n, stretch in enumerate(row.done):
                if {stretch.read.fate, stretch.write.fate} != {Fate.STOPPED}:
                    lively[n] = 0
                    lively.setdefault(n + 1, 1)
        taken: list[tuple[float, float]] = []
        order = sorted(range(len(axis.starts)), key=lambda n: (lively.get(n, 2), n))
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
        whole: bool = False,
    ) -> Iterator[Mark]:
        """A bar for IOVAs; ``whole`` draws neighbours that fare alike as one, without notes."""
        axis = self.picture.iova
        for low, high in (
            _alike(stretches) if whole else ((n, n + 1) for n in range(len(stretches)))
        ):
            stretch = stretches[low]
            x, end = self._x(axis, low), self._x(axis, high)
            note = "" if whole else told(stretch)
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
            words = wrapped(region.owner, room - 13, 10)
            for number, line in enumerate(words[: self.lines - 1]):
                yield Text(x + 13, y + 14 + LINE * number, cut(line, room - 9, 10), 10)
            yield Text(x, y + 3 + LINE * self.lines, reached(share, room), 9.5, "soft")


def _alike(stretches: Sequence[Stretch]) -> Iterator[tuple[int, int]]:
    """Runs of stretches that fare alike, as the first one and the one after the last."""
    looks = [(stretch.read[:2], stretch.write[:2]) for stretch in stretches]
    low = 0
    for high in range(1, len(looks) + 1):
        if high == len(looks) or looks[high] != looks[low]:
            yield low, high
            low = high


# -- a story: belief beside hardware, step by step -------------------------------------------------

# How much of memory is in reach, as (fill, hatch, dashed); None is a belief that does not say.
EXTENTS: dict[Extent | None, tuple[str, str, bool]] = {
    Extent.NOTHING: ("", "", False),
    Extent.SOME: ("#56B4E9", "", False),
    Extent.ALL: ("#D55E00", "/", False),
    Extent.UNKNOWN: ("", "x", True),
    None: ("", "", True),
}
LANE, BETWEEN, HEAD, LANES, NARROWEST = 19, 12, 60, 112, 68


def lay_out_story(story: Sequence[Picture]) -> Sheet:
    """A sheet with a column for each picture and, for each device, a lane for belief and one for
    hardware. It is wider than others when there are more steps than fit.
    """
    column = max(NARROWEST, (WIDTH - LANES) / len(story))
    width = LANES + column * len(story)
    marks: list[Mark] = []
    for number, picture in enumerate(story):
        panel = picture.panels[0]
        x = LANES + number * column
        lines = _head(panel, column)
        for line, text in enumerate(lines):
            base = HEAD - 16 - 11 * (len(lines) - 1 - line)
            marks.append(Text(x + 3, base, text, 9.5, "soft"))
        if panel.mark:
            marks.append(Text(x + 3, HEAD - 4, panel.mark, 9.5, "alarm", bold=True))
    y = float(HEAD)
    for device in [row.device for row in story[-1].panels[0].rows]:
        rows = [
            next((r for r in picture.panels[0].rows if r.device == device), None)
            for picture in story
        ]
        marks.append(
            Text(0, y + LANE + 4, cut(device.removeprefix("0000:"), 50, 11), 11, bold=True)
        )
        for lane, label in enumerate(("believed", "done")):
            top = y + lane * (LANE + BETWEEN)
            marks.append(Text(52, top + 13, label, 10.5, "ink" if lane else "soft"))
            marks += _lane(rows, lane, top, column)
        for number, row in enumerate(rows):
            if row is not None and row.agrees is False:
                x = LANES + (number + 0.5) * column
                marks.append(
                    Text(
                        x, y + LANE + BETWEEN / 2 + 5, "≠", 14, "alarm", bold=True, anchor="middle"
                    )
                )
        y += 2 * LANE + BETWEEN + 14
    x = float(LANES)
    for extent in Extent:
        fill, hatch, dashed = EXTENTS[extent]
        alpha = 1.0 if extent is Extent.SOME else 0.6
        marks.append(Box(x, y + 2, 12, 9, fill, hatch, "rule", dashed, alpha))
        text = f"in reach: {extent.value}" if extent is Extent.NOTHING else extent.value
        marks.append(Text(x + 16, y + 10, text, 9.5, "soft"))
        x += 30 + measured(text, 9.5)
    return Sheet(width, y + 16, tuple(marks))


def _head(panel: Panel, column: float) -> list[str]:
    """The step over a column: its verb in pieces, then its arguments."""
    if "(" not in panel.step:
        return [panel.step]
    number, _, call = panel.step.partition(": ")
    verb, _, arguments = call.partition("(")
    pieces = wrapped(verb.replace("_", "_ "), column - 4, 9.5)
    text = arguments.removesuffix(")").replace("'", "")
    lines = [number.removeprefix("step "), *(p.replace("_ ", "_") for p in pieces)]
    return [*lines[:3], cut(text, column - 4, 9.5)]


def _lane(rows: Sequence[Row | None], lane: int, y: float, column: float) -> Iterator[Mark]:
    """What stays the same over several steps is one bar with its word in it."""
    begin = 0
    for number in range(1, len(rows) + 1):
        here = rows[begin]
        if number < len(rows) and _lane_of(rows[number], lane) == _lane_of(here, lane):
            continue
        if here is not None:
            words, extent = _lane_of(here, lane) or (Words(""), None)
            fill, hatch, dashed = EXTENTS[extent]
            x, width = LANES + begin * column, (number - begin) * column
            alpha = 0.6
            yield Box(x + 1, y, width - 2, LANE, fill, hatch, "rule", dashed, alpha)
            whole = f"{words.word} {words.more}" if words.word in NAMED else words.word
            fits = measured(whole, 10.5) < width - 10
            text = whole if fits else cut(words.word, width - 10, 10.5)
            if hatch:  # the word has to be read on it
                room = min(measured(text, 10.5) + 6, width - 8)
                yield Box(x + 4, y + 2, room, LANE - 4, "paper", alpha=0.85)
            yield Text(x + 6, y + 13.5, text, 10.5)
        begin = number


NAMED = {"UNMANAGED", "DMA", "DMA_FQ", "IDENTITY", "page table"}
"""Words that leave open which domain is meant."""


def _lane_of(row: Row | None, lane: int) -> tuple[Words, Extent | None] | None:
    if row is None:
        return None
    return (row.hardware, row.does) if lane else (row.belief, row.believes)


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
    total = size_of(share.region)
    count, may = (share.reached, "") if share.reached else (share.perhaps, "perhaps ")
    if not count:
        return "out of reach" if measured("out of reach", 9.5) < room else "–"
    if count == total:
        ways = [f"{may}all {amount(total)}", f"{may}all"]
    else:
        ways = [f"{may}{amount(count)} of {amount(total)}", f"{may}{amount(count)}"]
    return next((way for way in ways if measured(way, 9.5) < room), cut(ways[-1], room, 9.5))


# -- text without a screen to measure it on --------------------------------------------------------


def measured(text: str, size: float, mono: bool = False, bold: bool = False) -> float:
    """About how wide a text is; a little more than most fonts need."""
    return len(text) * size * (0.61 if mono else 0.7 if bold else 0.58)


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
