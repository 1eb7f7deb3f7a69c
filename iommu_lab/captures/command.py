"""``iommu-lab replay``: hold the model against transcripts, from a terminal.

A line a file and one for all; with ``--brief`` a line for each kernel and IOMMU instead of one a
file. A file that can't be replayed is a line too, and the others still run. The exit status is 0
only when every answer in every file was predicted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .dialects import read
from .emulated import PROFILES
from .replay import Row, rows
from .transcript import Inputs, TranscriptError

COUNTED = ("agree", "disagree", "not modelled")


def main(argv: Sequence[str]) -> int:
    """Replay the files that are named and print how far the model agrees."""
    parser = argparse.ArgumentParser(
        prog="iommu-lab replay", description="Does the model say what a real kernel did?"
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a transcript (.out or .log)")
    parser.add_argument("--show", action="store_true", help="print each difference")
    parser.add_argument(
        "--brief", action="store_true", help="a line a kernel and IOMMU, not a file"
    )
    parser.add_argument("--json", metavar="FILE", help="write every answer to a file")
    asked = parser.parse_args(argv)
    kept: list[Row] = []
    tally: dict[tuple[str, str], list[list[Row]]] = {}
    refused = 0
    for name in asked.files:
        try:
            transcript = read(name)
            found = rows(transcript)
        except TranscriptError as error:
            refused += 1
            print(f"{Path(name).name}:{error.line}: {error.reason}")
            continue
        except OSError as error:
            refused += 1
            print(f"{name}: {error.strerror}")
            continue
        kept += found
        if asked.brief:
            tally.setdefault(_where(transcript.inputs), []).append(found)
        else:
            print(f"{Path(name).name}: {_count(found)}")
        for row in found if asked.show else ():
            if row.verdict != "agree":
                empty = "nothing" if row.verdict == "not modelled" else "that it is there"
                print(
                    f"  {Path(name).name}:{row.line}: {row.verb} {row.what}: "
                    f"the model says {row.predicted or empty}, the kernel {row.measured}"
                )
    for kernel, iommu in sorted(tally, key=_in_order):
        files = tally[kernel, iommu]
        counted = _count([row for found in files for row in found])
        plural = "transcript" if len(files) == 1 else "transcripts"
        print(f"{kernel} on {iommu}, {len(files)} {plural}: {counted}")
    agreed = sum(row.verdict == "agree" for row in kept)
    print(f"TOTAL: {agreed} of {len(kept)} agree")
    if asked.json:
        try:
            Path(asked.json).write_text(
                json.dumps([asdict(row) for row in kept], indent=1), encoding="utf-8"
            )
        except OSError as error:
            print(f"{asked.json}: {error.strerror}", file=sys.stderr)
            return 2
    return 0 if agreed == len(kept) and not refused else 1


def _where(inputs: Inputs) -> tuple[str, str]:
    """The kernel's series and the IOMMU's driver: ("6.1", "amd")."""
    series = ".".join(inputs.uname.split(".")[:2])
    return series.partition("-")[0], PROFILES[inputs.iommu].driver or "no IOMMU"


def _in_order(where: tuple[str, str]) -> tuple[list[int], str]:
    return [int(number) for number in where[0].split(".")], where[1]


def _count(found: Sequence[Row]) -> str:
    said: list[str] = [row.verdict for row in found]
    counted = ", ".join(f"{said.count(word)} {word}" for word in COUNTED)
    missing = said.count("no answer")
    return f"{counted}, {missing} without an answer" if missing else counted
