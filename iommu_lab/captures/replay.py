"""Is the model right? Replay a transcript and hold each prediction against the kernel's answer.

:func:`predict` sees the inputs of a transcript and nothing else; :func:`compare` then lays its
predictions beside the answers. The two never meet earlier, so a transcript whose answers were
removed gets the same predictions.

Compared are outcomes and the order of events, never addresses that the kernel chose nor times. A
kernel may report one long mapping in several trace events, since it maps pages as they lie in
memory; pieces that tile the predicted range agree with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .attachlab import Attachlab
from .dialects import read
from .emulated import setup
from .iotest import IoTest
from .kernels import build_of
from .predictions import Prediction, Traced
from .sequences import module
from .transcript import VOID, Answer, Inputs, Transcript, TranscriptError

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["agree", "disagree", "not modelled", "no answer"]
NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Row:
    """One answer beside its prediction.

    ``line`` is the answer's line in the file, or the step's where there is no answer. ``verdict``
    is "no answer" when the transcript holds no answers at all.
    """

    file: str
    line: int
    step: int
    verb: str
    kind: str
    what: str
    predicted: str
    measured: str
    verdict: Verdict


@dataclass(frozen=True)
class Predicted:
    """What the model says to a transcript's inputs, and whether it says the kernel stops there."""

    predictions: tuple[Prediction, ...]
    crash_at: int | None = None
    crash: str = ""


def predict(inputs: Inputs) -> Predicted:
    """The model's answers to the inputs of a transcript, in order.

    Raises :class:`~iommu_lab.captures.transcript.TranscriptError`, with the step's line, where the
    model itself fails: a defect that one file brings up is not to hide what others say.
    """
    run: IoTest | None = None
    try:
        build = build_of(inputs.uname, inputs.arch)
        alone = inputs.dialect == "attachlab"  # whose init inserts that one module
        machine = setup(
            inputs.arch, inputs.iommu, build, inputs.cmdline, inputs.functions, inserts=not alone
        )
        if alone:
            lab = Attachlab(machine, inputs)
            said, crash, at = lab.run(module), lab.crashed, 0
        else:
            run = IoTest(machine, inputs)
            said, crash, at = run.run(inputs.steps), run.crashed, run.step
    except Exception as error:
        raise _defect(inputs, 0 if run is None else run.step, error) from error
    return Predicted(tuple(said), None if crash is None else at, str(crash or ""))


def _defect(inputs: Inputs, step: int, error: Exception) -> TranscriptError:
    line = next((s.line for s in inputs.steps if s.number == step), 1)
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return TranscriptError(inputs.name, line, f"the model fails here ({what})")


def rows(transcript: Transcript) -> list[Row]:
    """Every prediction beside its answer, and every answer that nothing was predicted for.

    Raises :class:`~iommu_lab.captures.transcript.TranscriptError` for a transcript that is cut off
    where the model does not see the kernel stop.
    """
    predicted = predict(transcript.inputs)
    _whole(transcript, predicted)
    return compare(transcript, predicted)


def _whole(transcript: Transcript, predicted: Predicted) -> None:
    inputs = transcript.inputs
    if not transcript.answers and not predicted.predictions:
        raise TranscriptError(
            inputs.name, transcript.last_line, "cut off: no answer was asked for, and there is none"
        )
    if transcript.finished or not transcript.answers:
        return
    last = inputs.steps[-1].number if inputs.steps else 0
    if predicted.crash_at is not None and predicted.crash_at == last:
        return
    where = f" after step {last} of the script" if last else ""
    raise TranscriptError(
        inputs.name, transcript.last_line, f"cut off{where}: the last line is missing"
    )


def compare(transcript: Transcript, predicted: Predicted) -> list[Row]:
    """Lay predictions beside answers, step by step and key by key."""
    sheet = _Sheet(transcript)
    for prediction in predicted.predictions:
        sheet.lay(prediction)
    sheet.rest()
    return sorted(sheet.rows, key=lambda r: (r.step, r.line))


class _Sheet:
    """The answers of a transcript, each crossed out when its prediction is laid beside it."""

    def __init__(self, transcript: Transcript) -> None:
        self.name = transcript.inputs.name
        self.steps = {s.number: s for s in transcript.inputs.steps}
        self.answered = bool(transcript.answers)
        self.stopped = self.answered and not transcript.finished
        self.waiting: dict[tuple[int, str, str], list[Answer]] = defaultdict(list)
        self.rows: list[Row] = []
        self.line = 0
        for answer in transcript.answers:
            self.waiting[answer.step, answer.kind, answer.key].append(answer)
        self.void = {
            at for at, answers in self.waiting.items() if any(a.value == VOID for a in answers)
        }

    def lay(self, p: Prediction) -> None:
        """Lay one prediction beside the first answer to its question."""
        queue = self.waiting.get((p.step, p.kind, p.key))
        if p.kind == "crash":
            stopped = self.stopped or bool(queue and queue.pop(0))
            was = "the kernel stopped" if stopped else NOTHING
            self._beside(p, was, "agree" if stopped else "disagree")
        elif queue:
            answer = queue.pop(0)
            self.line = answer.line
            if answer.value != VOID:
                same = _same(p.value, answer.value)
                self._beside(p, answer.value, "agree" if same else "disagree")
        elif not (self.answered and p.optional):
            self._beside(p, NOTHING, "disagree")

    def _beside(self, p: Prediction, was: str, verdict: Verdict) -> None:
        if not self.answered:
            was, verdict = "", "no answer"
        step = self.steps.get(p.step)
        verb = p.why if step is None else step.text
        line = self.line if step is None or self.line > step.line else step.line
        said = _says(p.value)
        self.rows.append(Row(self.name, line, p.step, verb, p.kind, p.key, said, was, verdict))

    def rest(self) -> None:
        """What is left over are answers that nothing was predicted for."""
        for at, left in self.waiting.items():
            number, kind, key = at
            step = self.steps.get(number)
            denied = kind == "trace"
            said = NOTHING if denied else ""
            verdict: Verdict = "disagree" if denied else "not modelled"
            for answer in () if at in self.void else left:
                verb = "" if step is None else step.text
                was = answer.value
                self.rows.append(
                    Row(self.name, answer.line, number, verb, kind, key, said, was, verdict)
                )


def _says(value: str | tuple[Traced, ...]) -> str:
    return value if isinstance(value, str) else "; ".join(t.text for t in value)


def _same(value: str | tuple[Traced, ...], measured: str) -> bool:
    if isinstance(value, str):
        return value == measured
    return _same_events(value, measured.split("; "))


def _same_events(predicted: Sequence[Traced], measured: Sequence[str]) -> bool:
    """Do the events follow one another as predicted, counting pieces that tile one event as it?"""
    said = list(_joined(predicted))
    at = 0
    for event in said:
        if event.iova is None or not event.pieces:
            if at >= len(measured) or not _same_event(event, measured[at]):
                return False
            at += 1
            continue
        word, end = event.text.partition(" ")[0], event.iova + event.size
        reached = event.iova
        while reached < end:
            piece = _range(measured[at], word) if at < len(measured) else None
            if piece is None or piece[0] != reached or reached + piece[1] > end:
                return False
            reached += piece[1]
            at += 1
            if not piece[1]:
                return False
    return at == len(measured)


def _same_event(event: Traced, measured: str) -> bool:
    if not event.anywhere:
        return measured == event.text
    piece = _range(measured, event.text.partition(" ")[0])
    return piece is not None and piece[1] == event.size


def _joined(events: Iterable[Traced]) -> Iterable[Traced]:
    """Neighbouring pieces as the one range that they cover."""
    held: Traced | None = None
    for event in events:
        if (
            held is not None
            and event.pieces
            and held.iova is not None
            and event.iova == held.iova + held.size
            and event.text.partition(" ")[0] == held.text.partition(" ")[0]
        ):
            size = held.size + event.size
            word = held.text.partition(" ")[0]
            held = Traced(f"{word} {held.iova:#x}+{size:#x}", held.iova, size, True)
            continue
        if held is not None:
            yield held
            held = None
        if event.pieces:
            held = event
        else:
            yield event
    if held is not None:
        yield held


def _range(event: str, word: str) -> tuple[int, int] | None:
    kind, _, rest = event.partition(" ")
    iova, _, size = rest.partition("+")
    if kind != word:
        return None
    try:
        return int(iova, 0), int(size, 0)
    except ValueError:
        return None


def replay(path: str | Path) -> pd.DataFrame:
    """One transcript as a DataFrame, a row an answer: predicted, measured and the verdict.

    Columns: file, line, step, verb, kind, what, predicted, measured, verdict ("agree", "disagree",
    "not modelled", or "no answer" for a transcript without any). Raises
    :class:`~iommu_lab.captures.transcript.TranscriptError` for a file that is no whole transcript.
    """
    return replay_files([path])


def replay_files(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Several transcripts, as one DataFrame; see :func:`replay`."""
    import pandas as pd

    found = [row for path in paths for row in rows(read(path))]
    columns = list(Row.__slots__)
    return pd.DataFrame([[getattr(r, c) for c in columns] for r in found], columns=columns)
