"""The table: what does the search find for every driver, under every release or design?

A row a search, made in processes of their own. ``data/search/search.csv`` is what it says.

Where it stops: a row is one driver's; that several rows have one cause is for a reader to see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..drivers import driver as find_driver
from ..drivers import rows as driver_rows
from .result import shortest
from .trouble import FINDINGS

if TYPE_CHECKING:
    import pandas as pd

DESIGNS = ("5.19", "6.0", "patch-v2", "plan", "6.3", "6.7", "6.12", "7.2")


def survey(
    releases: Iterable[str] = DESIGNS,
    drivers: Iterable[str] | None = None,
    *,
    depth: int = 4,
    seconds: float = 120.0,
    workers: int = 2,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Every driver under every release or design, on every architecture it is built for.

    A row a search: the shortest length of each finding (0 for none within ``depth``), its steps
    and what is wrong then, how far the search came, and its seconds.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    import pandas as pd

    jobs = [
        (release, name, arch, depth, seconds)
        for release in releases
        for name, arch in drivers_and_arches(release, drivers)
    ]
    rows = []
    # Fresh interpreters: a fork of a process that runs threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for row in pool.map(survey_row, jobs):
            rows.append(row)
            if progress is not None:
                progress(f"{len(rows)} of {len(jobs)}: {row['release']} {row['driver']}")
    return pd.DataFrame(rows)


def drivers_and_arches(
    release: str, drivers: Iterable[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Each driver of the release with each architecture it is built for."""
    for name in drivers if drivers is not None else (r["driver"] for r in driver_rows(release)):
        for arch in find_driver(name, release).arches:
            yield find_driver(name, release).name, arch


def survey_row(job: tuple[str, str, str, int, float]) -> dict[str, Any]:
    """One row of the table: release, driver, architecture, depth and budget in seconds."""
    release, name, arch, depth, seconds = job
    started = time.process_time()  # of this process alone, whatever else the machine does
    result = shortest(release, name, arch, depth=depth, seconds=seconds)
    took = time.process_time() - started
    row: dict[str, Any] = {"release": release, "driver": name, "arch": arch}
    for kind in FINDINGS:
        finding = result[kind]
        row[kind] = 0 if finding is None else len(finding.steps)
        row[f"{kind}_steps"] = "" if finding is None else "; ".join(map(str, finding.steps))
        row[f"{kind}_says"] = "" if finding is None else finding.says
    row |= {"depth": result.depth, "states": result.states, "verbs": result.verbs}
    return {**row, "seconds": round(took, 2)}
