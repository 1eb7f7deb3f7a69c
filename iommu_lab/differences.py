"""Differences: do plan, patch, merged series, names and guesses say what the registers are told?

Two measures of right are kept apart: what the registers are told, and the name that a later kernel
gave. The names are partly guesses themselves.

Where this stops: at the seventeen drivers that had a ``detach_dev`` when the patch was written. A
reason is put together from the rows; why a count came out otherwise stands in its table.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from .bootline import to_driver
from .datafiles import datafile
from .domains import DomainType
from .errors import KernelCrash
from .history import (
    BAOLU,
    JASON,
    ROBIN,
    WRITTEN_FOR,
    Guess,
    guess,
    merged,
    named,
    row_of,
    upstream,
    with_detach,
)
from .lab import Lab
from .search import OWNER
from .threesteps import after_claim, after_leaving, default_is_set, verdict

if TYPE_CHECKING:
    import pandas as pd

REGISTERS, WORDED, NEEDED = "the registers", "the plan as worded", "the plan as needed"
VOICES = {"name": "the name of 6.7", "jason": JASON, "baolu": BAOLU}
"""Who says of each driver where its function leaves a device."""


def always_set(driver: str, release: str = WRITTEN_FOR) -> bool:
    """Is a default domain set on every architecture that the driver is built for?"""
    return all(default_is_set(release, driver, a) for a in to_driver(driver, release).arches)


def not_set_on(driver: str, release: str = WRITTEN_FOR) -> list[str]:
    """The architectures on which no default domain is set."""
    arches = to_driver(driver, release).arches
    return [arch for arch in arches if not default_is_set(release, driver, arch)]


def offers(driver: str, release: str = WRITTEN_FOR) -> bool:
    """Can the driver give a DMA domain, whether or not one is ever set?"""
    return DomainType.DMA in to_driver(driver, release).accepts


def patched_claim(driver: str) -> str:
    """What a claim leads to under the patch of August 2022, on each architecture it differs on."""
    if row_of(driver, "patch-v2") is None:
        return ""
    found = to_driver(driver, "patch-v2")
    ends = {arch: after_claim("patch-v2", driver, arch) for arch in found.arches}
    if len(set(ends.values())) == 1:
        return next(iter(ends.values()))
    return ", ".join(f"{arch}: {end}" for arch, end in ends.items())


def compare() -> pd.DataFrame:
    """The seventeen drivers: what is so, what was thought of it, what was done, and do they agree?

    ``leaves`` is where the function of 6.0 leaves a device, by what the registers are told.
    ``needed`` is the mail's advice where a default domain has to be set, ``as_worded`` where it has
    to be offered. Then what a claim led to and would have led to under the patch, what each of
    three people said, what 6.3 did, and the name of 6.7. ``agree`` and ``differ`` name who says
    what the registers say; ``why`` has the reasons, ``inference`` is yes where ``leaves`` is one.
    """
    import pandas as pd

    found = []
    for name in with_detach():
        leaves = after_leaving(WRITTEN_FOR, name)
        voices = {v: said for v, said in _voices(name).items() if said not in ("", "none")}
        found.append(
            {
                "driver": name,
                "leaves": leaves,
                "needed": verdict(leaves, always_set(name), True),
                "as_worded": verdict(leaves, offers(name), True),
                "claim": after_claim(WRITTEN_FOR, name),
                "claim_under_patch": patched_claim(name),
                "jason": _word(guess(JASON, name)),
                "robin": _word(guess(ROBIN, name)),
                "baolu": _word(guess(BAOLU, name)),
                "merged_6_3": merged(name),
                "named_6_7": str(named(name)),
                "agree": ", ".join(v for v, said in voices.items() if said == leaves),
                "differ": ", ".join(v for v, said in voices.items() if said != leaves),
                "why": " ".join(parting(name)),
                "inference": (row_of(name, WRITTEN_FOR) or {})["inference"],
            }
        )
    return pd.DataFrame(found)


def _word(said: Guess | None) -> str:
    """Where somebody thought that a device is left; with how many were meant, if not this one."""
    if said is None or not said.means:
        return ""
    return f"{said.means} ({said.how})" if said.how.startswith("of ") else said.means


def _voices(name: str) -> dict[str, str]:
    """What each of :data:`VOICES` says; "" where nothing was said."""
    jason, baolu = guess(JASON, name), guess(BAOLU, name)
    return {
        "name": named(name).word,
        "jason": jason.means if jason is not None and jason.driver != "*" else "",
        "baolu": baolu.means if baolu is not None else "",
    }


class Difference(NamedTuple):
    """Two that should say one thing and do not, and why."""

    driver: str
    one: str
    one_says: str
    other: str
    other_says: str
    why: str
    inference: bool


def differences_of(name: str) -> list[Difference]:
    """Where plan, patch, series, name and guess part from what is so, for one driver of 6.0."""
    row = row_of(name, WRITTEN_FOR)
    return [] if row is None or not row["detach"] else list(_differences(name, row))


def _differences(name: str, row: dict[str, str]) -> Iterator[Difference]:
    leaves, unset = after_leaving(WRITTEN_FOR, name), not_set_on(name)
    needed, worded = (verdict(leaves, given, True) for given in (not unset, offers(name)))
    if needed != worded:
        why = (
            f"a DMA domain is offered, and none is set on {' and '.join(unset)}"
            if unset
            else "no DMA domain is offered, and a default domain of another type is set"
        )
        yield Difference(name, WORDED, worded, NEEDED, needed, why, False)
    done = merged(name)
    if not _as_planned(name, worded, done):
        why = "step 2 was left out: nothing was put in the function's place"
        yield Difference(name, WORDED, worded, "6.3", done, why, False)
    lost = [arch for arch in unset if not _kept(name, arch)]
    if lost:
        back = [f"put back in {at}" for at, what in upstream(name) if "put back" in what]
        why = f"it was still called on {' and '.join(lost)}; {''.join(back) or 'not put back'}"
        yield Difference(name, NEEDED, needed, "6.3", done, why, False)
    now, patched = after_claim(WRITTEN_FOR, name), patched_claim(name)
    if patched != now:
        why = _under_patch(name)
        yield Difference(name, "a claim", now, "a claim under the patch", patched, why, True)
    told = _meanings()["leave", row["leave"]].rstrip(".")
    for who, says in _voices(name).items():
        if says not in ("", "none", leaves):
            guessed = row["inference"] == "yes"
            yield Difference(name, REGISTERS, leaves, VOICES[who], says, told, guessed)


def parting(name: str) -> list[str]:
    """The differences of one driver as sentences, those with one reason in one."""
    said = []
    for (one, says, why, guessed), found in groupby(
        differences_of(name), key=lambda d: (d.one, d.one_says, d.why, d.inference)
    ):
        others = "; ".join(f"{d.other}: {d.other_says}" for d in found)
        label = " (inference)" if guessed else ""
        said.append(f"{one}: {says}; {others}. Why: {why}{label}.")
    return said


def _kept(name: str, arch: str) -> bool:
    """Has 6.3 the function still, by its new name, on this architecture?"""
    return row_of(name, "6.3") is not None and to_driver(name, "6.3").set_platform_on(arch)


def _as_planned(name: str, worded: str, done: str) -> bool:
    """Does what 6.3 has of this driver amount to the advice?"""
    row = row_of(name, "6.3") or {}
    if worded == "rename to set_platform_dma":
        return done.startswith("renamed")
    if worded == "real blocking domain":
        return row.get("blocked") == "block"
    if worded == "identity domain":
        return row.get("identity") == "as-detach"
    return done.startswith("removed")


def _under_patch(name: str) -> str:
    """What the patch would have done at a claim, in the words of the rows and of the crash."""
    said: dict[str, list[str]] = {}
    for arch in to_driver(name, "patch-v2").arches:
        lab = Lab("patch-v2", name, arch=arch)
        try:
            lab.claim_dma_owner(0, OWNER)
        except KernelCrash as crash:
            what = crash.reason
        except OSError as error:
            what = str(error.strerror)
        else:
            believed = getattr(lab.belief(0), "name", "NULL")
            what = f"{believed} is believed, the hardware is {lab.hardware('dev0').kind.value}"
        said.setdefault(what, []).append(arch)
    return "; ".join(f"{', '.join(arches)}: {what}" for what, arches in said.items())


def differences() -> pd.DataFrame:
    """Every difference of the seventeen drivers, a row each, with its reason."""
    import pandas as pd

    return pd.DataFrame(d for name in with_detach() for d in differences_of(name))


@cache
def _meanings() -> dict[tuple[str, str], str]:
    with open(datafile("drivers", "behaviours.csv"), newline="", encoding="utf-8") as file:
        return {(row["column"], row["word"]): row["meaning"] for row in csv.DictReader(file)}
