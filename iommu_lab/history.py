"""History: what was thought of each driver's detach, what was done to it, and was that so?

Beside what the hardware does stand what three people said of it in 2022 (facts, with their mails,
in ``data/audit/guesses.csv``), what the merged series did in 6.3 and how later kernels call it
(read off the driver rows, release by release). Two measures of right are kept apart: what the
registers are told, and the name that a later kernel gave. The names are partly guesses themselves.

Where this stops: Robin Murphy spoke of most drivers and named none, so he is counted and not marked
driver by driver. A reason is derived where the rows hold it; the few others stand in a table.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

from .bootline import to_driver
from .datafiles import datafile
from .domains import DomainType
from .drivers import rows
from .errors import KernelCrash
from .lab import Lab
from .releases import release as find_release
from .releases import releases
from .search import OWNER
from .threesteps import after_claim, after_leaving, default_is_set, verdict

if TYPE_CHECKING:
    import pandas as pd

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


@cache
def _meanings() -> dict[tuple[str, str], str]:
    with open(datafile("drivers", "behaviours.csv"), newline="", encoding="utf-8") as file:
        return {(row["column"], row["word"]): row["meaning"] for row in csv.DictReader(file)}


# -- what was done ---------------------------------------------------------------------------------


@cache
def _row(driver: str, release: str) -> dict[str, str] | None:
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
        old, new = _row(driver, before), _row(driver, after)
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
    row = _row(driver, WRITTEN_FOR)
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
        row = _row(driver, at)
        if row is None:
            continue
        if row["identity"] == "as-detach":
            return Name("identity", at)
        if row["default_domain"] == "PLATFORM":
            return Name("platform", at)
        if row["blocked"] == "block" and not (at != release and _had_ops(driver, release)):
            return Name("blocked", at)
    last = [at for at in names[: here + 1] if (_row(driver, at) or {}).get("set_platform")]
    return Name("platform", last[-1]) if last else Name("none", "")


def _had_ops(driver: str, release: str) -> bool:
    """Did it have set_platform_dma_ops in any release before this one?"""
    names = _mainline(WRITTEN_FOR)
    return any((_row(driver, at) or {}).get("set_platform") for at in names[: names.index(release)])


# -- the plan, the patch, the series, the names ----------------------------------------------------


def with_detach() -> list[str]:
    """The seventeen drivers that had a ``detach_dev`` when the patch was written."""
    return [row["driver"] for row in rows(WRITTEN_FOR) if row["detach"]]


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
    if _row(driver, "patch-v2") is None:
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
                "inference": (_row(name, WRITTEN_FOR) or {})["inference"],
            }
        )
    return pd.DataFrame(found)


def _word(said: Guess | None) -> str:
    """Where somebody thought that a device is left; with how many were meant, if not this one."""
    if said is None or not said.means:
        return ""
    return f"{said.means} ({said.how})" if said.how.startswith("of ") else said.means


VOICES = {"name": "the name of 6.7", "jason": JASON, "baolu": BAOLU}
"""Who says of each driver where its function leaves a device."""


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


REGISTERS, WORDED, NEEDED = "the registers", "the plan as worded", "the plan as needed"


def differences_of(name: str) -> list[Difference]:
    """Where plan, patch, series, name and guess part from what is so, for one driver of 6.0."""
    row = _row(name, WRITTEN_FOR)
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
    return _row(name, "6.3") is not None and to_driver(name, "6.3").set_platform_on(arch)


def _as_planned(name: str, worded: str, done: str) -> bool:
    """Does what 6.3 has of this driver amount to the advice?"""
    row = _row(name, "6.3") or {}
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


# -- the counts ------------------------------------------------------------------------------------


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
