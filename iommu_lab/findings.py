"""Findings, for reading: one told step by step, and all that the search has found as tables.

:func:`told` lays belief and hardware of one device beside each call of a lab, and :func:`story`
does so for the steps of a finding. :func:`kept` is the table in ``data/search``, :func:`totals` and
:func:`shortest_by_driver` are two cuts of it. Nothing is searched here, and nothing is judged.

Where it stops: a number in a table is the length of the *shortest* sequence of its kind. Longer
ones were not kept.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from .datafiles import datafile
from .errors import unknown
from .lab import Lab
from .owners import NOBODY, NOTHING_REACHED, Owners
from .reach import reach
from .search import DESIGNS, FINDINGS, Result

if TYPE_CHECKING:
    import pandas as pd


def told(lab: Lab, device: str = "dev0", since: int = 0) -> pd.DataFrame:
    """A row a call: who owned this device then, and where it was in belief and in hardware.

    Columns ``call``, ``owner`` (a kernel driver counts as "kernel"), ``believed``, ``hardware`` and
    ``reaches``; and ``answer``, where a call was refused or was fatal. Row 0 is the moment before
    the first call, or after the ``since``-th.
    """
    import pandas as pd

    rows = [_row(lab.at(number), device) for number in range(since, len(lab.moments))]
    table = pd.DataFrame(rows)
    table.loc[0, ["call", "answer"]] = "–", ""
    return table if table.answer.any() else table.drop(columns="answer")


def story(result: Result, kind: str) -> pd.DataFrame:
    """The steps of one finding, as :func:`told` shows them for the device that it is about.

    Raises ``LookupError`` when the search had no such finding.
    """
    lab, finding = result.after(kind), result[kind]
    assert finding is not None
    return told(lab, finding.device or "dev0", since=len(lab.steps) - len(finding.steps))


def _row(lab: Lab, device: str) -> dict[str, str]:
    moment = lab.moments[-1]
    row = dict.fromkeys(("call", "answer", "owner", "believed", "hardware", "reaches"), "")
    row["call"] = str(moment.step)
    row["answer"] = moment.failure
    at = lab.state.devices.get(device)
    if at is None or device not in lab.state.hardware.entries:
        return row
    group = lab.state.groups.get(at.group)
    if group is not None and device in group.devices:
        row["owner"] = group.owner or ("kernel" if group.owner_cnt else "")
        row["believed"] = "NULL" if group.domain is None else _domain(lab, group.domain)
    hardware = lab.hardware(device)
    row["hardware"] = hardware.kind.value if not hardware.table else f"table of {hardware.table}"
    row["reaches"] = _reached(lab, device)
    return row


def _domain(lab: Lab, name: str) -> str:
    domain = lab.state.domains[name]
    return domain.type.name if domain.static else f"{name} ({domain.type.name})"


def _reached(lab: Lab, device: str) -> str:
    """Whose memory the device reaches, the gaps between the regions left out."""
    ranges = [(found.first, found.last) for found in reach(lab.state.hardware, device)]
    met = Owners(lab.machine.memory).along(ranges).split(" + ")
    return ", ".join(owner for owner in met if owner not in ("", NOBODY)) or NOTHING_REACHED


@cache
def _read() -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(datafile("search", "search.csv"), keep_default_na=False)


def kept() -> pd.DataFrame:
    """``data/search/search.csv``: a row a driver, architecture and design.

    For each kind of finding the length of the shortest sequence (0 for none up to ``depth``), its
    ``_steps`` and what it ``_says``; then ``depth``, ``states``, ``verbs`` and ``seconds``.
    """
    return _read().copy()


def totals() -> pd.DataFrame:
    """A row a design: how many searches, in how many of them each kind of finding, and the effort.

    ``seconds`` is the time of one core, as it was when the table was made.
    """
    table = kept()
    by_design = table.groupby("release", sort=False)
    found = by_design.agg(searches=("driver", "count"))
    for kind in FINDINGS:
        found[kind] = table[kind].gt(0).groupby(table.release, sort=False).sum()
    found["verbs tried"] = by_design.verbs.sum().map("{:,}".format)
    found["seconds"] = by_design.seconds.sum().round(1)
    return found


def shortest_by_driver(kind: str = "leak") -> pd.DataFrame:
    """Driver by design: the length of the shortest sequence of one kind of finding.

    A dot where none was found, nothing where the design does not have the driver. Drivers without
    any such finding are left out.
    """
    if kind not in FINDINGS:
        raise unknown("finding", kind, FINDINGS)
    table = kept()
    cells = table.assign(cell=table[kind].map(lambda length: str(length or "·")))
    wide = cells.pivot(index=["driver", "arch"], columns="release", values="cell")
    wide = wide.reindex(columns=list(DESIGNS)).fillna("")
    some = wide.apply(lambda row: any(cell.isdigit() for cell in row), axis="columns")
    order = list(dict.fromkeys(zip(table.driver, table.arch, strict=True)))
    return wide[some].reindex([pair for pair in order if some[pair]]).rename_axis(columns=None)
