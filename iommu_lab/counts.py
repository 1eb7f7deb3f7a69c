"""Counts: how many drivers does each sentence about all of them hold for?

What was counted by hand, from mails and source, stands in ``data/audit/counts.csv`` beside what the
model counts, with the drivers by name.

Where this stops: at the seventeen drivers that had a ``detach_dev`` when the patch was written.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import TYPE_CHECKING

from .datafiles import datafile
from .differences import not_set_on
from .history import JASON, WRITTEN_FOR, guess, merged, named, with_detach
from .threesteps import after_leaving

if TYPE_CHECKING:
    import pandas as pd


def _left(*ends: str) -> list[str]:
    return [name for name in with_detach() if after_leaving(WRITTEN_FOR, name) in ends]


def _guessed(right: bool, by_name: bool) -> list[str]:
    found = []
    for name in with_detach():
        said = guess(JASON, name)
        if said is not None and said.how == "guess":
            so = named(name).word if by_name else after_leaving(WRITTEN_FOR, name)
            found += [name] if (said.means == so) == right else []
    return found


def removed() -> list[str]:
    """The drivers whose function 6.3 removed: the series did, and a fix kept one for arm32."""
    return [
        name
        for name in with_detach()
        if merged(name).startswith("removed") and not merged(name).endswith("in 6.2")
    ]


def _back(word: str) -> list[str]:
    return [name for name in removed() if named(name).word == word]


COUNTS: dict[str, Callable[[], list[str]]] = {
    "drivers": with_detach,
    "blocked": lambda: _left("blocked"),
    "not-blocked": lambda: _left("identity", "platform", "window", "still translating"),
    "unknown": lambda: _left("unknown"),
    "bypass": lambda: _left("identity"),
    "bypass-by-name": lambda: [n for n in with_detach() if named(n).word == "identity"],
    "platform": lambda: _left("platform"),
    "nothing-written": lambda: _left("window", "still translating"),
    "right": lambda: _guessed(True, by_name=False),
    "wrong": lambda: _guessed(False, by_name=False),
    "right-by-name": lambda: _guessed(True, by_name=True),
    "wrong-by-name": lambda: _guessed(False, by_name=True),
    "removed": removed,
    "removed-but-called": lambda: [name for name in removed() if not_set_on(name)],
    "back-as-identity": lambda: _back("identity"),
    "back-as-blocked": lambda: _back("blocked"),
    "never-back": lambda: _back("none"),
    "back-and-bypass": lambda: [n for n in _back("identity") if n in _left("identity")],
}
"""The counts of ``data/audit/counts.csv``, by their id: which drivers are counted."""


def counts() -> pd.DataFrame:
    """What was counted by hand from mails and source, and what the model counts now.

    ``by_hand`` is empty for what nobody had counted; ``why`` says where the two differ and for what
    reason; ``claim`` is the row of ``data/claims/claims.csv`` that the count belongs to.
    """
    import pandas as pd

    with open(datafile("audit", "counts.csv"), newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    for row in table:
        counted = COUNTS[row["id"]]()
        row["model"], row["drivers"] = str(len(counted)), ", ".join(counted)
    return pd.DataFrame(table)
