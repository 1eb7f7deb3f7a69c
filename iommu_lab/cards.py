"""A card: all that is known of one driver's detach on one page, with where it was read.

The rows of a card are text and say the same in a terminal, in a notebook and in Markdown. What is
an inference is called one on the card, beside the answer that stands on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from .bootline import to_driver
from .differences import always_set, not_set_on, offers, parting, patched_claim
from .drivers import rows
from .history import WRITTEN_FOR, said_of, upstream, verdicts
from .threesteps import after_claim, after_leaving, detach_is_reachable, verdict

WIDTH = 96


@dataclass(frozen=True, slots=True)
class Card:
    """One driver in one release: what its function does, who thought what, and what was done."""

    driver: str
    release: str
    rows: tuple[tuple[str, str], ...]
    """(what is asked, the answer); an answer of several lines has line breaks."""
    source: str
    """Where the driver's file of that release can be read."""

    @property
    def title(self) -> str:
        return f"{self.driver} in Linux {self.release}"

    def __str__(self) -> str:
        wide = max(len(what) for what, _ in self.rows)
        lines = [self.title]
        for what, answer in self.rows:
            for number, line in enumerate(answer.splitlines()):
                lines += _wrapped(f"  {what if not number else '':<{wide}}  ", line, wide + 4)
        return "\n".join([*lines, f"  {'source':<{wide}}  {self.source}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left;vertical-align:top;white-space:nowrap">'
            f'{escape(what)}</th><td style="text-align:left">'
            f"{escape(answer).replace(chr(10), '<br>')}</td></tr>"
            for what, answer in self.rows
        )
        link = f'<a href="{escape(self.source)}">{escape(self.source)}</a>'
        return (
            f'<table><caption style="text-align:left"><strong>{escape(self.title)}</strong>'
            f'</caption><tbody>{rows}<tr><th scope="row" style="text-align:left">source</th>'
            f'<td style="text-align:left">{link}</td></tr></tbody></table>'
        )

    def _repr_markdown_(self) -> str:
        rows = [
            f"| {what} | {_cell(answer)} |"
            for what, answer in (*self.rows, ("source", self.source))
        ]
        return "\n".join([f"| {_cell(self.title)} | |", "| --- | --- |", *rows])


def card(driver: str, release: str = "6.0") -> Card:
    """The card of a driver: the three steps, their evidence, the guesses of 2022 and what came.

    Raises :class:`~iommu_lab.errors.UnknownName` for a driver that the release has not.
    """
    found = to_driver(driver, release)
    name = found.name
    row = next(r for r in rows(release) if r["driver"] == name)
    unsure = " (inference)" if found.inference else ""
    after = after_leaving(release, name)
    body = found.detach or found.set_platform
    unset = not_set_on(name, release)
    called = [a for a in found.arches if body and detach_is_reachable(release, name, a)]
    needed = verdict(after, always_set(name, release), bool(body))
    worded = verdict(after, offers(name, release), bool(body))
    there = release == WRITTEN_FOR
    past = verdicts().get(name, {})
    patched = patched_claim(name)
    asked = (
        ("function", f"{body or 'none'}, {found.source}"),
        ("evidence", row["evidence"]),
        ("how sure", _sureness(row)),
        ("1: a default domain", f"not set on {', '.join(unset)}" if unset else "always set"),
        ("   is it called?", f"on {', '.join(called)}" if called else "never"),
        ("2: it leaves a device", f"{after}{unsure}" if body else "none"),
        ("3: the advice", needed if needed == worded else f"{needed}; as worded: {worded}"),
        ("a claim", after_claim(release, name)),
        ("a claim, patched", f"{patched} (inference: the patch never ran)" if patched else ""),
        ("said in 2022", "\n".join(_said(name)) if there and body else ""),
        ("said of it, too", past.get("said", "")),
        ("what was done", "\n".join(f"{at}: {what}" for at, what in upstream(name))),
        ("what differs", "\n".join(parting(name)) if there else ""),
        ("remark", past.get("remark", "")),
    )
    return Card(name, release, tuple((w, a) for w, a in asked if a), row["url"])


def _sureness(row: dict[str, str]) -> str:
    said = [f"{row['confidence']} confidence"]
    said += [f"measured: {row['measured']}"] if row["measured"] else []
    if row["inference"] == "yes":
        said.append(f"inference: {row['inference_note'] or 'read from the registers written'}")
    return "; ".join(said)


def _said(name: str) -> list[str]:
    """What was said of this driver, and the last that each person said of all or of many."""
    mine = [g for g in said_of(name) if g.driver == name]
    last = {g.who: g for g in said_of(name) if g.driver == "*"}
    return [
        str(g) + (" (inference: our reading)" if g.inferred else "")
        for g in [*mine, *last.values()]
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def _wrapped(lead: str, text: str, indent: int) -> list[str]:
    """The text after its lead, broken at spaces, later lines under the first."""
    import textwrap

    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
