"""``iommu-lab search``: the shortest way to each kind of trouble, printed.

Where it stops: it reads words and prints; the search itself is :func:`~iommu_lab.search.shortest`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import TextIO

from .result import shortest
from .table import survey
from .walk import check_budget


def say_progress(depth: int, states: int, left: int, to: TextIO | None = None) -> None:
    """One line that is written over: how deep the search is, and what is left at this depth."""
    says = f"depth {depth}: {states:,} states, {left:,} to look at"
    print(f"\r{says:<60}", end="", file=to or sys.stdout, flush=True)


def main(argv: Sequence[str]) -> int:
    """``iommu-lab search``: the shortest way to each kind of trouble, for one driver."""
    parser = argparse.ArgumentParser(
        prog="iommu-lab search",
        description="Try every sequence of verbs up to a length, and print the shortest bad ends.",
    )
    parser.add_argument("--release", default="6.0", help="a kernel release (6.0)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--driver", help="an IOMMU driver of that release")
    what.add_argument("--all", metavar="FILE", help="every driver and design, as a table (CSV)")
    parser.add_argument("--arch", help="an architecture it is built for, for example arm32")
    parser.add_argument("--depth", type=int, default=4, help="how many verbs at most (4)")
    parser.add_argument("--seconds", type=float, default=600.0, help="stop after this (600)")
    asked = parser.parse_args(argv)
    try:
        check_budget(asked.depth, asked.seconds)
        if asked.all:
            open(asked.all, "a").close()  # before the minutes of the search, and not after
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{asked.all}: {error.strerror}")
    started = time.perf_counter()
    if asked.all:
        rows = survey(
            depth=asked.depth,
            seconds=asked.seconds,
            progress=lambda says: print(f"\r{says:<60}", end="", file=sys.stderr, flush=True),
        )
        rows.to_csv(asked.all, index=False, lineterminator="\n")
        took = time.perf_counter() - started
        print(f"\n{len(rows)} searches, {rows.verbs.sum():,} verbs, {took:.0f} s", file=sys.stderr)
        return 0

    show = partial(say_progress, to=sys.stderr) if sys.stderr.isatty() else None
    result = shortest(
        asked.release,
        asked.driver,
        asked.arch,
        depth=asked.depth,
        seconds=asked.seconds,
        progress=show,
    )
    if show is not None:
        print(file=sys.stderr)
    print(result)
    return 0
