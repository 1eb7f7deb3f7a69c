"""Lesson 04: what four real kernels did."""

from __future__ import annotations

from collections import Counter
from functools import cache

from ..captures.faults import dma_rows
from ..datafiles import datafile
from .feedback import Feedback, exercise, word

FOUR = ("core-5.10-pt", "core-6.1-pt", "core-6.12-pt", "core-7.x-pt")
SHOWN = "s05"


@cache
def _predicted() -> dict[str, dict[str, str]]:
    """What the model says of each DMA of the four boots: by label, and then by boot."""
    found: dict[str, dict[str, str]] = {}
    for name in FOUR:
        for dma in dma_rows(datafile("captures", f"{name}.out")):
            found.setdefault(dma.label.lower(), {})[name] = dma.predicted
    return found


@exercise("the label of a DMA", word)
def where_else_they_part(answer: str) -> Feedback:
    """In which other DMA of the script do the four kernels not all have the same outcome?"""
    # A whole label, or its number such as S23.
    named = [label for label in _predicted() if answer in (label, label.partition("-")[0])]
    if not named:
        return Feedback(False, f"The script has no DMA called {answer}; labels look like S23-….")
    outcomes = _predicted()[named[0]]
    usual = Counter(outcomes.values()).most_common(1)[0][0]
    odd = [name for name, outcome in outcomes.items() if outcome != usual]
    if named[0].startswith(SHOWN):
        return Feedback(False, "That is the claimed group, which the lesson has shown; one more.")
    if not odd:
        return Feedback(False, f"There all four have the same outcome: {usual}.")
    return Feedback(True, f"{odd[0]} says {outcomes[odd[0]]}, the others {usual}.")
