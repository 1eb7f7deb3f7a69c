"""A sheet of marks as SVG, for the explorer.

Colours that a theme decides are JupyterLab's own variables, so the picture follows light and dark.
Every text is escaped: names come from files.
"""

from __future__ import annotations

from html import escape

from .layout import TONES, Box, Flow, Line, Mark, Sheet, Text

THEMED = {
    "ink": "var(--jp-content-font-color1, #1f1f1f)",
    "soft": "var(--jp-content-font-color2, #5c5c5c)",
    "rule": "var(--jp-border-color1, #9e9e9e)",
    "paper": "#ffffff",
}
SANS = "var(--jp-ui-font-family, system-ui, sans-serif)"
MONO = "var(--jp-code-font-family, monospace)"

# How a hatch is drawn in a tile of 8 by 8.
TILES = {
    "/": '<path d="M-2 2L2 -2M0 8L8 0M6 10L10 6"/>',
    "\\": '<path d="M-2 6L2 10M0 0L8 8M6 -2L10 2"/>',
    "-": '<path d="M0 2H8M0 6H8"/>',
    "|": '<path d="M2 0V8M6 0V8"/>',
    "x": '<path d="M-2 2L2 -2M0 8L8 0M6 10L10 6M-2 6L2 10M0 0L8 8M6 -2L10 2"/>',
    ".": '<path d="M2 2h.01M6 6h.01" stroke-width="2.4" stroke-linecap="round"/>',
}


def draw(sheet: Sheet, says: str, prefix: str = "hatch") -> str:
    """The sheet as one ``<svg>`` element that says what it shows.

    ``prefix`` begins the ids of its patterns; two pictures on one page need two.
    """
    used = sorted({m.hatch for m in sheet.marks if isinstance(m, Box) and m.hatch})
    ids = {hatch: f"{prefix}{number}" for number, hatch in enumerate(TILES)}
    patterns = "".join(
        f'<pattern id="{ids[hatch]}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<g stroke="#000" stroke-opacity=".45" fill="none">{TILES[hatch]}</g></pattern>'
        for hatch in used
    )
    body = "".join(_mark(mark, ids) for mark in sheet.marks)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(says)}" '
        f'width="{_n(sheet.width)}" height="{_n(sheet.height)}" '
        f'viewBox="0 0 {_n(sheet.width)} {_n(sheet.height)}" '
        f'style="max-width:100%;height:auto;display:block" font-family="{SANS}">'
        f"<defs>{patterns}</defs>{body}</svg>"
    )


def _mark(mark: Mark, ids: dict[str, str]) -> str:
    if isinstance(mark, Box):
        return _box(mark, ids)
    if isinstance(mark, Text):
        return _text(mark)
    if isinstance(mark, Flow):
        return _flow(mark)
    return _line(mark)


def _box(box: Box, ids: dict[str, str]) -> str:
    shape = f'x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}"'
    if box.round:
        shape += f' rx="{_n(box.round)}"'
    look = f' fill="{_colour(box.fill)}"'
    if box.edge:
        look += f' stroke="{_colour(box.edge)}"'
    if box.dashed:
        look += ' stroke-dasharray="3 2"'
    if box.alpha < 1:
        look += f' fill-opacity="{_n(box.alpha)}"'
    if box.says and not box.fill:
        look += ' pointer-events="all"'
    drawn = f"<rect {shape}{look}/>"
    if box.hatch:
        drawn += f'<rect {shape} fill="url(#{ids[box.hatch]})"/>'
    return f"<g><title>{escape(box.says)}</title>{drawn}</g>" if box.says else drawn


def _text(text: Text) -> str:
    if not text.text:
        return ""
    look = f'x="{_n(text.x)}" y="{_n(text.y)}" font-size="{_n(text.size)}"'
    look += f' fill="{_colour(text.tone)}"'
    if text.bold:
        look += ' font-weight="600"'
    if text.mono:
        look += f' font-family="{MONO}"'
    if text.anchor != "start":
        look += f' text-anchor="{text.anchor}"'
    return f"<text {look}>{escape(text.text)}</text>"


def _flow(flow: Flow) -> str:
    (a, b), (c, d) = flow.top, flow.bottom
    middle = (flow.y + flow.to) / 2
    path = (
        f"M{_n(a)} {_n(flow.y)}C{_n(a)} {_n(middle)} {_n(c)} {_n(middle)} {_n(c)} {_n(flow.to)}"
        f"H{_n(d)}C{_n(d)} {_n(middle)} {_n(b)} {_n(middle)} {_n(b)} {_n(flow.y)}Z"
    )
    dash = ' stroke-dasharray="3 2" fill-opacity=".12"' if flow.dashed else ' fill-opacity=".3"'
    colour = _colour(flow.fill)
    return f'<path d="{path}" fill="{colour}" stroke="{colour}" stroke-opacity=".6"{dash}/>'


def _line(line: Line) -> str:
    return (
        f'<path d="M{_n(line.x)} {_n(line.y)}L{_n(line.to_x)} {_n(line.to_y)}" '
        f'stroke="{_colour(line.tone)}" stroke-width="{_n(line.width)}"/>'
    )


def _colour(name: str) -> str:
    return THEMED.get(name) or TONES.get(name) or name or "none"


def _n(value: float) -> str:
    """A number without needless digits."""
    return f"{value:.1f}".removesuffix(".0")
