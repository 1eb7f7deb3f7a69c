"""History: what was said of each driver's detach in 2022, and what has been done to it since?

What three people said is a table of facts with their mails, ``data/audit/guesses.csv``. What the
merged series did in 6.3, and how later kernels call the function, is read off the driver rows,
release by release.

Where this stops: Robin Murphy spoke of most drivers and named none, so he is counted and not marked
driver by driver. What changed between two releases is known to that bracket only.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from .datafiles import datafile
from .drivers import rows
from .releases import release as find_release
from .releases import releases

JASON, ROBIN, BAOLU = "Jason Gunthorpe", "Robin Murphy", "Lu Baolu"
WRITTEN_FOR = "6.0"
"""The release that the patch of August 2022 was written for."""
NAMES = "6.7"
"""The release in which every group got a default domain, and most of the functions a name."""


# -- what was said ---------------------------------------------------------------------------------


class Guess(NamedTuple):
    """What somebody said or did about one driver's detach, and in which mail."""

    driver: str
    """A driver, or "*" for what was said of many at once."""
    who: str
    date: str
    means: str
    """Where it says the device is left, a word of :data:`~iommu_lab.threesteps.ENDS`; or ""."""
    how: str
    """What kind of word it is: a guess, none, what a patch does, or "of most" and the like."""
    inferred: bool
    """Is it our reading of the mail that it speaks of this driver, or says this?"""
    said: str
    subject: str
    message_id: str

    def __str__(self) -> str:
        return f"{self.who}, {self.date}: {self.said}"


@cache
def guesses() -> tuple[Guess, ...]:
    """Everything that was said, oldest first, from ``data/audit/guesses.csv``."""
    with open(datafile("audit", "guesses.csv"), newline="", encoding="utf-8") as file:
        return tuple(
            Guess(inferred=row.pop("inferred") == "yes", **row) for row in csv.DictReader(file)
        )


def said_of(driver: str) -> list[Guess]:
    """What was said of this driver by name, and then of all of them."""
    return [g for g in guesses() if g.driver == driver] + [g for g in guesses() if g.driver == "*"]


def guess(who: str, driver: str) -> Guess | None:
    """The last thing that somebody said of this driver by name, else of all of them."""
    said = [g for g in said_of(driver) if g.who == who]
    return max(said, key=lambda g: (g.driver != "*", g.date)) if said else None


@cache
def verdicts() -> dict[str, dict[str, str]]:
    """What was said and done about each driver since, from ``data/drivers/verdicts.csv``."""
    with open(datafile("drivers", "verdicts.csv"), newline="", encoding="utf-8") as file:
        return {row["driver"]: row for row in csv.DictReader(file)}


def with_detach() -> list[str]:
    """The seventeen drivers that had a ``detach_dev`` when the patch was written."""
    return [row["driver"] for row in rows(WRITTEN_FOR) if row["detach"]]


# -- what was done ---------------------------------------------------------------------------------


@cache
def row_of(driver: str, release: str) -> dict[str, str] | None:
    """The driver's row in this release; None where the release has no such driver."""
    return next((row for row in rows(release) if row["driver"] == driver), None)


def _mainline(since: str) -> list[str]:
    names = [name for name in releases() if find_release(name).kind == "mainline"]
    return names[names.index(since) :]


def upstream(driver: str, since: str = WRITTEN_FOR) -> list[tuple[str, str]]:
    """What became of the function that leaves a domain: (release, what changed), oldest first.

    Read off the rows of the releases; a change between two of them is known to that bracket only.
    """
    done = []
    names = _mainline(since)
    for before, after in pairwise(names):
        old, new = row_of(driver, before), row_of(driver, after)
        if old is not None:
            done += [(after, what) for what in _changes(old, new)]
    return done


def _changes(old: dict[str, str], new: dict[str, str] | None) -> Iterator[str]:
    if new is None:
        yield "driver removed"
        return
    only = new["set_platform_arch"]
    if old["detach"] and not new["detach"]:
        if new["set_platform"] and not only:
            yield "renamed"
        else:
            yield f"removed but for {only}" if only else "removed"
    elif new["set_platform"] and not old["set_platform"]:
        yield f"put back for {only}, as set_platform_dma_ops"
    if old["set_platform"] and not new["set_platform"]:
        yield "set_platform_dma_ops is gone"
    if new["identity"] == "as-detach" != old["identity"]:
        yield "the function is called IDENTITY"
    if new["blocked"] == "block" != old["blocked"]:
        yield "BLOCKED is a setting of the hardware"
    if new["default_domain"] == "PLATFORM" != old["default_domain"]:
        yield "the function is called PLATFORM"


def merged(driver: str) -> str:
    """What the merged series had made of the function by 6.3; "" where there was none.

    "renamed" is to ``set_platform_dma_ops``.
    """
    row = row_of(driver, WRITTEN_FOR)
    if row is None or not row["detach"]:
        return ""
    at, what = next((at, w) for at, w in upstream(driver) if w.startswith(("removed", "renamed")))
    return what if at == "6.3" else f"{what} in {at}"


class Name(NamedTuple):
    """The name that a later kernel has for what the function did, and from which release on."""

    word: str
    """ "blocked", "identity", "platform" or "none"."""
    release: str

    def __str__(self) -> str:
        return self.word if self.release in ("", NAMES) else f"{self.word} ({self.release})"


def named(driver: str, release: str = NAMES) -> Name:
    """How this release calls what the function did; else how an earlier one did, else a later.

    An earlier name is "platform", from ``set_platform_dma_ops``; it counts for a driver that 6.7
    gave the DMA API or removed.
    """
    names = _mainline(WRITTEN_FOR)
    here = names.index(release)
    for at in (release, *names[here + 1 :]):
        row = row_of(driver, at)
        if row is None:
            continue
        if row["identity"] == "as-detach":
            return Name("identity", at)
        if row["default_domain"] == "PLATFORM":
            return Name("platform", at)
        if row["blocked"] == "block" and not (at != release and _had_ops(driver, release)):
            return Name("blocked", at)
    last = [at for at in names[: here + 1] if (row_of(driver, at) or {}).get("set_platform")]
    return Name("platform", last[-1]) if last else Name("none", "")


def _had_ops(driver: str, release: str) -> bool:
    """Did it have set_platform_dma_ops in any release before this one?"""
    names = _mainline(WRITTEN_FOR)
    return any(
        (row_of(driver, at) or {}).get("set_platform") for at in names[: names.index(release)]
    )
