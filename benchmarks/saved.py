"""The results that are kept: written by ``--save``, quoted by the README, held by a test.

``results.csv`` has a line for each approach in each cell and ``costs.csv`` what is paid besides;
``grid.csv`` and ``cluster.csv`` belong to the other two commands. The ``.md`` beside each is for
reading and says where and when it was measured. What a page quotes stands between two comments
and is written by the same command, so that no number is copied by hand.
"""

from __future__ import annotations

import csv
import os
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from iommu_lab import __version__

HERE = Path(__file__).parent
ROOT = HERE.parent
NAMES = ("numpy", "numba", "pandas", "duckdb", "polars", "pyarrow", "dask")
QUOTED = "<!-- written by {command} -->\n"
END = "<!-- end -->"


class Line(NamedTuple):
    """One approach in one cell of the table; all as text, as it is printed."""

    pattern: str
    mappings: str
    approach: str
    rows: str
    rate: str  # millions a CPU-second: median (quartiles)
    ratio: str  # ours / theirs: median (quartiles)
    gate: str
    goal: str
    met: str
    cores: str
    load: str


class Cost(NamedTuple):
    """One number besides the table, and what is asked of it."""

    what: str
    value: str
    unit: str
    asked: str
    met: str


class Spot(NamedTuple):
    """One combination of the grid."""

    mappings: str
    devices: str
    pattern: str
    layout: str
    rate: str
    ratio: str


HEADS = {
    Line: "pattern|mappings|approach|rows|M/s a CPU-second|ours / theirs|gate|goal|met|cores|load",
    Cost: "what|value|unit|asked|met",
    Spot: "mappings|devices|pattern|layout|M/s a CPU-second|ours / numpy",
}


def cost(what: str, value: float, unit: str, asked: float, *, least: bool, digits: int = 1) -> Cost:
    """A cost with its verdict; ``least`` where the value should be at least what is asked."""
    good = value >= asked if least else value <= asked
    says = f"at {'least' if least else 'most'} {asked:g}"
    return Cost(what, f"{value:.{digits}f}", unit, says, "yes" if good else "NO")


def unasked(what: str, value: float, unit: str) -> Cost:
    """A cost to know: on the wall it is the neighbours' as well."""
    return Cost(what, f"{value:.2f}", unit, "", "")


def table(rows: Sequence[NamedTuple]) -> str:
    """Rows of one kind as Markdown."""
    head = HEADS[type(rows[0])].split("|")  # type: ignore[index]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def machine(load_before: float) -> list[str]:
    """Where and when this was measured: processor, load and versions."""

    def installed(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"no {name}"

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return [
        f"- {date.today().isoformat()}, iommu_lab {__version__}",
        f"- {model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        f"- Python {platform.python_version()}, {', '.join(map(installed, NAMES))}",
        f"- load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after",
    ]


def write(name: str, rows: Sequence[NamedTuple]) -> None:
    """``name.csv``, with the fields' names in its first line."""
    with (HERE / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0]._fields)
        writer.writerows(rows)


def read(name: str, kind: Any) -> list[Any]:
    """The rows of ``name.csv``."""
    with (HERE / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return [kind(**row) for row in csv.DictReader(file)]


def page(name: str, title: str, parts: Iterable[str]) -> None:
    """``name.md``."""
    text = "\n\n".join([f"# {title}", *parts])
    (HERE / f"{name}.md").write_text(text + "\n", encoding="utf-8")


def where(name: str) -> list[str]:
    """The lines of ``name.md`` that :func:`machine` has written."""
    text = (HERE / f"{name}.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("- ")]


def median(spread: str) -> float:
    """The first number of ``median (low-high)``."""
    return float(spread.partition(" ")[0])


def quote(path: Path, command: str, text: str) -> None:
    """Put ``text`` where ``path`` quotes what ``command`` writes."""
    before, _, after = _parted(path, command)
    path.write_text(f"{before}{text}\n{after}", encoding="utf-8")


def quoted(path: Path, command: str) -> str:
    """What ``path`` quotes now."""
    return _parted(path, command)[1].rstrip("\n")


def _parted(path: Path, command: str) -> tuple[str, str, str]:
    text = path.read_text(encoding="utf-8")
    mark = QUOTED.format(command=command)
    found = re.search(rf"(.*{re.escape(mark)})(.*?)({END}.*)", text, re.DOTALL)
    if not found:
        raise ValueError(f"{path.name} has no place for what {command} writes: {mark.strip()}")
    return found[1], found[2], found[3]


COMMAND = "python -m benchmarks --save"
CELLS = (("random", "1000"), ("random", "100000"), ("random", "1000000"), ("local", "1000"))


def how_fast(lines: Sequence[Line], where: Sequence[str]) -> str:
    """The README's table: our rate, and how many times that of each other approach."""
    found = {(line.pattern, line.mappings, line.approach): line for line in lines}
    heads = [f"{pattern}, {int(m):,} mappings" for pattern, m in CELLS]
    rows = [["", *heads], ["---"] * (len(CELLS) + 1)]
    rates = [f"{median(found[*cell, 'iommu_lab'].rate):.0f} million" for cell in CELLS]
    rows.append(["accesses a CPU-second", *rates])
    others = dict.fromkeys(line.approach for line in lines)
    for name in others:
        if name in ("iommu_lab", "iommu_lab, no numba", "two cores") or name.startswith("limit"):
            continue
        against = [found.get((*cell, name)) for cell in CELLS]
        times = [f"{median(x.ratio):.0f} ×" if x else "" for x in against]
        rows.append([f"against {name}", *times])
    stream = [median(found[*cell, "limit: same bytes"].ratio) for cell in CELLS]
    rows.append(["against copying as many bytes", *(f"{x:.2f} ×" for x in stream)])
    told = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    told_of = [*where[:2], where[-1]]
    return f"{told}\n\n" + "; ".join(line.removeprefix("- ") for line in told_of) + "."
