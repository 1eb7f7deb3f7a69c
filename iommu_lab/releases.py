"""Kernel releases: which rule of the IOMMU core holds in which release.

A release stands on an older one and lists only what differs, so a new kernel is a row in
``data/releases/releases.csv`` and a few in ``rules.csv``, never a branch here. The hypothetical
kernels of the mail thread, ``patch-v2`` and ``plan``, are rows as well; both stand on 6.0.

Where the model stops: a rule is dated by the trees that were read, so a change between two of them
is known only to within that bracket.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import cache

from .datafiles import datafile
from .errors import UnknownName, unknown


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the core in one release, and where it can be read."""

    rule: str
    value: str
    release: str
    function: str
    confidence: str
    note: str


@dataclass(frozen=True)
class Release:
    """One kernel release with every rule of its core.

    >>> release("6.0")["set_null"], release("6.3")["set_null"], release("7.2")["set_null"]
    ('detach_dev', 'set_platform', 'refused')
    """

    name: str
    stands_on: str
    kind: str
    tree: str
    note: str
    rules: tuple[Rule, ...]

    values: dict[str, str] = field(compare=False, repr=False)

    def __getitem__(self, rule: str) -> str:
        return self.values[rule]

    @property
    def mainline(self) -> str:
        """The listed release that a stable release belongs to; itself for all others."""
        return self.name if self.kind != "stable" else release(self.stands_on).mainline

    def lineage(self) -> tuple[str, ...]:
        """Itself and all the releases it stands on, nearest first."""
        names, name = [], self.name
        while name:
            names.append(name)
            name = _rows()[name]["stands_on"]
        return tuple(names)

    def at_least(self, name: str) -> bool:
        """Does this release stand on ``name``, or is it that release?"""
        return name in self.lineage()


@cache
def _rows() -> dict[str, dict[str, str]]:
    with open(datafile("releases", "releases.csv"), newline="", encoding="utf-8") as file:
        return {row["release"]: row for row in csv.DictReader(file)}


@cache
def _rules() -> tuple[Rule, ...]:
    with open(datafile("releases", "rules.csv"), newline="", encoding="utf-8") as file:
        return tuple(Rule(**row) for row in csv.DictReader(file))


def releases() -> list[str]:
    """The names of the listed releases, oldest first; the hypothetical ones follow 6.0.

    Stable kernels that the captures ran ("6.1.192" …) are accepted by :func:`release` too.
    """
    return [name for name, row in _rows().items() if row["kind"] != "stable"]


def known() -> list[str]:
    """Every release with a row, the stable kernels that the captures ran too."""
    return list(_rows())


@cache
def release(name: str) -> Release:
    """The release of this name; one line with the nearest names when there is none."""
    rows = _rows()
    if not isinstance(name, str):
        raise UnknownName(f"a release is a name in quotes such as '6.0', got {name!r}")
    if name not in rows:
        raise unknown("release", name, rows)
    row = rows[name]
    found: dict[str, Rule] = {}
    at = name
    while at:
        for rule in _rules():
            if rule.release == at:
                found.setdefault(rule.rule, rule)
        at = rows[at]["stands_on"]
    return Release(
        name,
        row["stands_on"],
        row["kind"],
        row["tree"],
        row["note"],
        tuple(found.values()),
        {rule.rule: rule.value for rule in found.values()},
    )
