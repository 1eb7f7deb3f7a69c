"""What stopped a DMA: the fault that QEMU traced, beside the one that the model expects.

A transcript says only that no byte arrived. ``NAME.qemu``, which lies beside it, has the reason
that the emulated IOMMU gave: with VT-d a number that tells an empty page table from an entry that
is not there. The model knows what each device's entry holds; ``data/faults/`` has the number that
the hardware gives for it.

The one choice a reader would question: the model's answer is taken from the run that a replay
makes too, by an emulator that writes down each access it stops. No rule is written twice.

Where it stops: iotest's transcripts, and VT-d's reasons. QEMU 7.2 traces no fault of an AMD IOMMU.
An access that its IOTLB refuses is stopped without a fault, and so it is here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..datafiles import datafile
from ..errors import unknown
from ..hardware import Kind
from ..state import World
from .dialects import LARGEST_FILE, read
from .emulated import PAGE, Emulator, Setup, setup
from .iotest import IoTest
from .kernels import build_of
from .transcript import TranscriptError

if TYPE_CHECKING:
    import pandas as pd

TRACED = re.compile(r"(?:step|mark)=(\d+) n=\d+ (\w+) ?(.*)$")
VTD = re.compile(r"sid 0x\w+ fault (\d+) addr 0x\w+(?:\(page\))? write [01]$")
LABEL = {"w": 5, "wphys": 3, "r": 5}
"""The verbs whose DMA a transcript reports, and which of their words is its label."""
NOT_TRACED = "not traced"
"""Stands for the reason where QEMU wrote no trace, or a trace without reasons."""


class Met(NamedTuple):
    """What an access met that was stopped: "entry", "beyond", "hole" or "rights"."""

    what: str
    write: bool


@cache
def _reasons() -> dict[tuple[str, Met], str]:
    found = {}
    with open(datafile("faults", "faults.csv"), newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for write in (True, False):
                if row["access"] in ("any", "write" if write else "read"):
                    found[row["mode"], Met(row["met"], write)] = row["reason"]
    return found


@cache
def _words() -> dict[str, str]:
    with open(datafile("faults", "faults.csv"), newline="", encoding="utf-8") as file:
        return {row["reason"]: row["words"] for row in csv.DictReader(file)}


def in_words(reason: str) -> str:
    """What a VT-d fault reason means: ``in_words("0x2")``; reasons joined by commas in turn.

    Raises :class:`~iommu_lab.errors.UnknownName` for a number that ``data/faults/`` has not.
    """
    said = []
    for one in reason.split(", "):
        if one not in _words():
            raise unknown("fault reason", one, _words())
        said.append(_words()[one])
    return ", ".join(said)


# -- what QEMU traced ----------------------------------------------------------------------------


def traced_reasons(path: str | Path) -> dict[int, tuple[str, ...]]:
    """The VT-d fault reasons in a ``NAME.qemu``, by step, each once, in the order of the trace.

    Raises :class:`~iommu_lab.captures.transcript.TranscriptError` for a file that is none, with the
    line; ``OSError`` for a file that can't be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise TranscriptError(path.name, 1, f"longer than {LARGEST_FILE} bytes: no trace is")
    found: dict[int, list[str]] = {}
    for at, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
        traced = TRACED.match(line)
        if traced is None:
            raise TranscriptError(
                path.name, at, f"a trace has lines of step=N n=COUNT EVENT, got {line[:60]!r}"
            )
        if traced[2] != "vtd_dmar_fault":
            continue
        fault = VTD.match(traced[3])
        if fault is None:
            raise TranscriptError(path.name, at, f"a fault without its reason: {line[:60]!r}")
        reason = f"{int(fault[1]):#x}"
        reasons = found.setdefault(int(traced[1]), [])
        if reason not in reasons:
            reasons.append(reason)
    return {step: tuple(reasons) for step, reasons in found.items()}


# -- what the model expects ----------------------------------------------------------------------


@dataclass(slots=True)
class _Watching(Emulator):
    """An emulated IOMMU that writes down what each access met which it stopped."""

    stopped: list[Met] = field(default_factory=list)

    def reach(self, world: World, device: str, iova: int, write: bool) -> tuple[str, int]:
        silent = self._refused_by_iotlb(world, device, iova)
        # Named in full: a class with slots is made anew, and super() would look for the old one.
        ended = Emulator.reach(self, world, device, iova, write)
        if ended[0] == "fault" and world.master.get(device, False) and not silent:
            self.stopped.append(Met(self._met(world, device, iova), write))
        return ended

    def holds(self, world: World, device: str) -> str:
        """The model's word for the entry that this device's requests get now."""
        there = device in self.setup.bus.functions
        entry = self._entry(world, device) if there else None
        return "none" if entry is None else entry.kind.value

    def _refused_by_iotlb(self, world: World, device: str, iova: int) -> bool:
        entry = self._entry(world, device)
        return entry is not None and (entry.table, iova - iova % PAGE) in self.seen

    def _met(self, world: World, device: str, iova: int) -> str:
        entry = self._entry(world, device)
        if entry is not None and entry.kind is Kind.BYPASS:
            return "beyond"
        if entry is None or entry.kind in (Kind.BLOCKED, Kind.UNKNOWN) or entry.table is None:
            return "entry"
        if iova >= 2**self.setup.profile.width:
            return "beyond"
        table = world.tables.get(entry.table)
        return "hole" if table is None or table.lookup(iova) is None else "rights"


@dataclass(frozen=True, slots=True)
class Dma:
    """One DMA of a script: what the model says about it before it looks, and what came.

    ``hardware`` is the model's word for the entry that the device's requests get at that moment
    ("none" where no driver has configured one). ``expects`` and ``fault`` are reasons, "" for none.
    """

    file: str
    step: int
    label: str
    hardware: str
    predicted: str
    measured: str
    expects: str
    fault: str


def dma_rows(path: str | Path) -> list[Dma]:
    """Each DMA that a script of iotest's makes: see :func:`dmas`."""
    path = Path(path)
    transcript = read(path)
    inputs = transcript.inputs
    if inputs.dialect != "iotest":
        raise TranscriptError(inputs.name, 1, "only scripts of iotest's say which DMA they make")
    build = build_of(inputs.uname, inputs.arch)
    machine = setup(inputs.arch, inputs.iommu, build, inputs.cmdline, inputs.functions)
    trace = path.with_suffix(".qemu")
    intel = machine.profile.driver == "intel"
    traced = traced_reasons(trace) if intel and trace.exists() else None
    outcomes = {a.step: a.value.split()[0] for a in transcript.answers if a.kind == "result"}
    run = IoTest(machine, inputs)
    watching = _Watching(machine)
    watching.settle(run.world)
    run.iommu = watching
    found: list[Dma] = []

    for step in inputs.steps:
        at = LABEL.get(step.verb)
        hardware = "" if at is None else watching.holds(run.world, run.devices[step.args[0]].bdf)
        watching.stopped.clear()
        run.run([step])
        if run.crashed is not None:
            return found
        if at is None:
            continue
        said = [p.value for p in run.said if p.step == step.number and p.kind == "result"]
        predicted = said[0].split()[0] if said and isinstance(said[0], str) else ""
        fault = NOT_TRACED if traced is None else ", ".join(traced.get(step.number, ()))
        label = step.args[at] if len(step.args) > at else ""
        measured = outcomes.get(step.number, "")
        expects = _expected(machine, watching.stopped) if intel else NOT_TRACED
        found.append(
            Dma(inputs.name, step.number, label, hardware, predicted, measured, expects, fault)
        )
    if transcript.answers and not transcript.finished:
        raise TranscriptError(
            inputs.name, transcript.last_line, "cut off: the last line is missing"
        )
    return found


def _expected(machine: Setup, met: Iterable[Met]) -> str:
    # QEMU has scalable mode only in the IOMMU whose pass-through sticks.
    mode = "scalable" if machine.sticky else "legacy"
    return ", ".join(dict.fromkeys(_reasons()[mode, one] for one in met))


def dmas(path: str | Path) -> pd.DataFrame:
    """Each DMA of a transcript beside the model, a row a DMA, with the reason why it was stopped.

    Columns, all text but ``step``: file, step, label, hardware (the model's word for the entry that
    the device's requests get: "table", "blocked", "bypass", …), predicted and measured (the
    outcome's first word), expects (the VT-d fault reasons that the model's entry leads to), fault
    (those that QEMU traced; "not traced" where it traced none), "" for no fault. Raises
    :class:`~iommu_lab.captures.transcript.TranscriptError` for a file that is no whole transcript
    of iotest's, and for a trace that is none.
    """
    import pandas as pd

    columns = list(Dma.__slots__)
    return pd.DataFrame([[getattr(d, c) for c in columns] for d in dma_rows(path)], columns=columns)
