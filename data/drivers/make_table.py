"""Spell history.toml out as drivers.csv: one row for each driver and release.

``history.toml`` says only what changed and when, so that a reading is written down once. The model
and the readers want the opposite: a row that stands alone. This is the way from one to the other::

    python3 data/drivers/make_table.py            # writes drivers.csv beside it

The one choice a reader would question: a value carries on until a later release changes it, and a
stable release such as 6.1.192 takes part in that line; what it alone has goes under ``only``.
"""

from __future__ import annotations

import csv
import io
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TREE = "https://git.kernel.org/pub/scm/linux/kernel/git/stable/linux.git/tree/{file}?h={tag}"
STANDS_ON = "6.0"
COLUMNS = (
    "driver",
    "release",
    "arch",
    "other_arch",
    "accepts",
    "identity",
    "blocked",
    "required_type",
    "default_domain",
    "detach",
    "set_platform",
    "set_platform_arch",
    "leave",
    "release_effect",
    "release_domain",
    "boot",
    "attach",
    "attach_errno",
    "pagetable",
    "pgsizes",
    "unattached_pgsizes",
    "aperture_first",
    "aperture_last",
    "aperture_set",
    "aperture_forced",
    "deferred_flush",
    "defers_attach",
    "arm32_default_null",
    "v2_null_crash",
    "v2_null_note",
    "evidence",
    "source_file",
    "source_function",
    "tree",
    "url",
    "confidence",
    "inference",
    "inference_note",
    "measured",
    "outcome",
    "note",
)
NO_UNLESS_SAID = ("deferred_flush", "defers_attach", "arm32_default_null", "inference")
# The capability does not exist before 6.5, so a row of an older release cannot have it.
CAPABILITY_SINCE = "6.6"


def releases(history: dict[str, Any]) -> list[str]:
    """The releases that were read, oldest first."""
    return list(history["releases"])


def rows(history: dict[str, Any]) -> list[dict[str, str]]:
    """Every row of the table, drivers in the order of the history, releases oldest first."""
    table = []
    for name, story in history.items():
        if name not in ("releases", "hypothetical"):
            table += _rows_of(name, story, history)
    return table


def _rows_of(name: str, story: dict[str, Any], history: dict[str, Any]) -> list[dict[str, str]]:
    trees, why = history["releases"], history["hypothetical"]
    known = list(trees)
    changes, alone = story.get("from", {}), story.get("only", {})
    strangers = [at for at in (*changes, *alone) if at not in known]
    if strangers:
        raise ValueError(f"{name}: a change must name a release that was read, got {strangers[0]}")
    first, last = min(map(known.index, changes)), known.index(story.get("last", known[-1]))
    now = {key: value for key, value in story.items() if key not in _STRUCTURE}
    found: list[dict[str, str]] = []
    for at in known[first : last + 1]:
        now |= changes.get(at, {})
        found.append(_row(name, at, trees[at], now | alone.get(at, {})))
        if at == STANDS_ON:
            for kernel in (kernel for kernel in why if kernel in story):
                doubt = {"inference": "yes", "inference_note": why[kernel], "measured": ""}
                found.append(_row(name, kernel, trees[at], now | story[kernel] | doubt))
    return found


_STRUCTURE = ("from", "only", "last", "patch-v2", "plan")


def _row(name: str, release: str, tag: str, now: dict[str, Any]) -> dict[str, str]:
    row: dict[str, str] = dict.fromkeys(COLUMNS, "") | dict.fromkeys(NO_UNLESS_SAID, "no")
    for key, value in now.items():
        if key == "aperture":
            first, last, set_at, forced = value
            row |= {
                "aperture_first": f"{first:#x}",
                "aperture_last": f"{last:#x}",
                "aperture_set": set_at,
                "aperture_forced": forced,
            }
        elif key not in COLUMNS:
            raise ValueError(f"{name} {release}: no such column: {key}")
        else:
            row[key] = f"{value:#x}" if isinstance(value, int) else " ".join(value.split())
    if _older(tag, CAPABILITY_SINCE):
        row["deferred_flush"] = "no"
    url = TREE.format(file=row["source_file"], tag=tag)
    return row | {"driver": name, "release": release, "tree": tag, "url": url}


def _older(tag: str, release: str) -> bool:
    def number(text: str) -> list[int]:
        return [int(part) for part in text.lstrip("v").split(".")]

    return number(tag) < number(release)


def text(table: list[dict[str, str]]) -> str:
    """The table as the file has it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def main() -> None:
    history = tomllib.loads((HERE / "history.toml").read_text(encoding="utf-8"))
    (HERE / "drivers.csv").write_text(text(rows(history)), encoding="utf-8")


if __name__ == "__main__":
    main()
