"""How an exercise's answer is read, and what is said to it.

A check never raises: a stub runs as it stands, and whatever a reader types is met with a sentence.
"""

from __future__ import annotations

import html
import operator
from collections.abc import Callable, Iterable
from enum import Enum
from functools import wraps
from typing import NamedTuple, TypeVar

import pandas as pd

from ..drivers import ALIASES
from ..lab import Lab
from ..own import OwnDriver

T = TypeVar("T")


class Feedback(NamedTuple):
    """What is shown under an exercise."""

    passed: bool
    text: str

    def __repr__(self) -> str:
        return f"{'Right.' if self.passed else 'Not yet.'} {self.text}"

    def _repr_html_(self) -> str:
        verdict = "Right." if self.passed else "Not yet."
        return f"<p><strong>{verdict}</strong> {html.escape(self.text)}</p>"


def exercise(
    wants: str, read: Callable[[object], T]
) -> Callable[[Callable[[T], Feedback]], Callable[[object], Feedback]]:
    """A check that is asked only about answers of the kind it wants; the others get a sentence."""

    def made(judge: Callable[[T], Feedback]) -> Callable[[object], Feedback]:
        @wraps(judge)
        def check(answer: object) -> Feedback:
            if answer is None or answer is ...:
                return Feedback(False, f"Put {wants} in place of the dots.")
            # An answer is a reader's own object: whatever its methods do, a check does not raise.
            try:
                given = read(answer)
            except Exception:
                return Feedback(
                    False, f"This wants {wants}; yours is of type {type(answer).__name__}."
                )
            try:
                return judge(given)
            except Exception as error:
                what = f"{type(error).__name__}: {error}".rstrip(".")
                return Feedback(False, f"That can't be judged: {what}.")

        return check

    return made


def number(answer: object) -> int:
    if isinstance(answer, bool):
        raise TypeError
    return operator.index(answer)  # type: ignore[arg-type]  # it raises for what is no number


def word(answer: object) -> str:
    """A word, or an enum member by its name."""
    name = answer.name if isinstance(answer, Enum) else answer
    if not isinstance(name, str):
        raise TypeError
    return name.strip().lower()


def names(answer: object) -> frozenset[str]:
    """Names in any collection or in one text; the drivers' aliases stand for their drivers."""
    given = answer.replace(",", " ").split() if isinstance(answer, str) else answer
    if not isinstance(given, Iterable):
        raise TypeError
    found = [word(name) for name in given]
    return frozenset(ALIASES.get(name, name) for name in found)


def a_lab(answer: object) -> Lab:
    if not isinstance(answer, Lab):
        raise TypeError
    return answer


def a_driver(answer: object) -> type[OwnDriver]:
    """A class of the reader's own, or one made from it."""
    made = answer if isinstance(answer, type) else type(answer)
    if not issubclass(made, OwnDriver):
        raise TypeError
    return made


def listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def writes(lab: Lab, device: str, iova: Iterable[int], size: int = 64) -> pd.DataFrame:
    """What becomes of a write to each of these addresses."""
    asked = pd.DataFrame({"device": device, "iova": list(iova), "size": size, "write": True})
    return lab.check(asked)
