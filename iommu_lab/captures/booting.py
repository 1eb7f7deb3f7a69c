"""Boot a real kernel on this machine, now, and hold the model against what it does.

The harness in a checkout's ``captures/`` boots it; this starts the harness, reads the transcript
that it leaves and replays it. Whatever is missing here is answered with a sentence.

The one choice a reader would question: nothing is downloaded. A lesson has to run offline, and a
kernel is a hundred megabytes; the sentence says which command fetches it.

Where it stops: the time is bounded. A kernel that is still busy then is stopped, and what it had
said by then is not replayed, since half a transcript has no number.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .dialects import read
from .faults import NOT_TRACED, dma_rows
from .replay import Row, rows
from .transcript import TranscriptError

if TYPE_CHECKING:
    import pandas as pd

HARNESS = Path(__file__).resolve().parents[2] / "captures" / "make.py"
GRACE = 3.0
"""Seconds that the harness has beside the boot itself, to compile and to tidy up."""


@dataclass(frozen=True, repr=False)
class Booted:
    """How it went, as a sentence, and each answer beside its prediction if there was a boot."""

    says: str
    rows: tuple[Row, ...] = ()

    def __repr__(self) -> str:
        return self.says

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.says)}</p>"

    @property
    def table(self) -> pd.DataFrame:
        """The answers as a DataFrame: see :func:`~iommu_lab.captures.replay.replay`."""
        import pandas as pd

        columns = list(Row.__slots__)
        return pd.DataFrame([[getattr(r, c) for c in columns] for r in self.rows], columns=columns)


def boot_here(name: str = "core-6.1-pt", seconds: float = 10.0) -> Booted:
    """Boot the kernel of a capture's name and replay what it did; never raises for what is missing.

    ``name`` is one of ``captures/make.py --list``; ``seconds`` bounds the boot.
    """
    if not HARNESS.is_file():
        return _none("the harness is in a checkout of the project, and this is an installed copy")
    with tempfile.TemporaryDirectory(prefix="boot-") as folder:
        try:
            said = _make(name, Path(folder), seconds)
        except subprocess.TimeoutExpired:
            return _none(f"it was not done within {seconds + GRACE:g} s")
        except OSError as error:
            return _none(f"the harness could not be started: {error.strerror}")
        made = [p for p in Path(folder).glob(f"{name}.*") if p.suffix in (".out", ".log")]
        if f"{name}: done" in said and made:
            return _replayed(made[0])
    return _none(_reason(name, said, seconds))


def _make(name: str, folder: Path, seconds: float) -> str:
    """What the harness says; it and the emulator it started are ended when time is up."""
    command = [sys.executable, str(HARNESS), name, "--into", str(folder), "--offline"]
    with subprocess.Popen(
        [*command, "--limit", str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env=os.environ | {"LC_ALL": "C"},
    ) as harness:
        try:
            return harness.communicate(timeout=seconds + GRACE)[0]
        except BaseException:
            # Its own group: the emulator would outlive the harness.
            os.killpg(harness.pid, signal.SIGKILL)
            raise


def _reason(name: str, said: str, seconds: float) -> str:
    if "NOT FINISHED" in said:
        return (
            f"it was stopped after {seconds:g} s, before the end of its script; "
            "boot_here(seconds=120) gives it longer"
        )
    lines = said.strip().splitlines() or ["the harness said nothing"]
    reason = next((line for line in lines if line.startswith(f"{name}: not made: ")), lines[-1])
    reason = reason.removeprefix(f"{name}: not made: ").rstrip(":. ")
    if "was fetched before" in reason:
        reason += f"; `python3 captures/make.py {name} --into build` fetches it once"
    return reason


def _none(reason: str) -> Booted:
    return Booted(f"No kernel was booted here: {reason}.")


def _replayed(path: Path) -> Booted:
    try:
        transcript = read(path)
        found = rows(transcript)
        uname = transcript.inputs.uname
        said = f"Linux {uname} was booted here just now: {_counted(found)}"
        if transcript.inputs.dialect == "iotest":
            said += _stops(path)
    except TranscriptError as error:
        return _none(f"it left no whole transcript ({error.reason})")
    return Booted(f"{said}.", tuple(found))


def _counted(found: list[Row]) -> str:
    agreed = sum(row.verdict == "agree" for row in found)
    return f"{agreed} of its {len(found)} answers are those that the model had predicted"


def _stops(path: Path) -> str:
    known = [d for d in dma_rows(path) if NOT_TRACED not in (d.expects, d.fault)]
    if not known:
        return ""
    right = sum(d.expects == d.fault for d in known)
    return f", and {right} of {len(known)} DMAs met the fault that it expects, or none"
