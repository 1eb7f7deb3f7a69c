"""The first dialect: the output of the program iotest, read into inputs and answers.

``iotest`` runs a script line by line; its output has a ``STEP`` line for each and the answers after
it. A script's names and numbers are checked as they are read, so that a replay meets no verb,
device or buffer that does not exist. An answer repeats what was asked; one that repeats something
else is no answer to its step.

Where it stops: kernel messages are not answers, except edulab's own and the trace events of the
IOMMU core.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..errors import ERRNOS
from .kernels import ARCHES
from .transcript import (
    VOID,
    Answer,
    Inputs,
    Step,
    Transcript,
    TranscriptError,
    functions_of,
    machine,
    number,
    short,
    trace_event,
)

# -- what the script says --------------------------------------------------------------------------

VERBS: dict[str, str] = {
    "buf": "+buffer count",
    "dev": "+device function",
    "bar": "device",
    "cmd": "device number",
    "showcmd": "device",
    "bind": "device word",
    "unbind": "device",
    "probe": "device word?",
    "gtype": "device word?",
    "groups": "",
    "cat": "word",
    "container": "+container",
    "group": "+group device",
    "gstatus": "group",
    "setcontainer": "group container",
    "unsetcontainer": "group",
    "setiommu": "container number",
    "info": "container",
    "ext": "container",
    "getdev": "group device",
    "closedev": "device",
    "closegroup": "-group",
    "closecontainer": "-container",
    "map": "container number number word buffer number",
    "unmap": "container number number word?",
    "w": "device number length buffer number word?",
    "r": "device number length buffer? number word?",
    "wphys": "device buffer length word?",
    "rb": "number buffer number",
    "preload": "device number buffer number",
    "preloadphys": "device buffer",
    "slotzero": "device",
    "msi": "device number number word?",
    "iommufd": "",
    "closeiommufd": "",
    "cdev": "device",
    "fbind": "device",
    "ioas": "word",
    "hwpt": "word device word",
    "fdestroy": "word",
    "fattach": "device word",
    "fdetach": "device",
    "fmap": "word number number word buffer number",
    "funmap": "word number number",
    "remove": "device",
    "rescan": "",
    "insmod": "word",
    "write": "word word",
    "sleep": "time",
    "settle": "time",
    "note": "...",
}
"""The verbs of a script and what each takes; ``+`` makes a name, ``-`` ends one, ``?`` may lack."""

LIMITS = {"count": (1, 4096), "length": (0, 4096), "time": (0, 10**6)}
"""The least and the most: a buffer's pages, the bytes of a DMA (edu's own buffer), milliseconds."""


ECHOED: dict[str, dict[str, int]] = {
    "w": {"dev": 0, "iova": 1, "len": 2},
    "r": {"dev": 0, "iova": 1, "len": 2},
    "wphys": {"dev": 0, "len": 2},
    "preload": {"dev": 0, "iova": 1},
    "map": {"iova": 1, "len": 2, "prot": 3},
    "unmap": {"iova": 1, "len": 2},
    "fmap": {"ioas": 0, "iova": 1, "len": 2, "prot": 3},
    "funmap": {"ioas": 0, "iova": 1, "len": 2},
}
"""Which words of a script an answer repeats, and at which place they stand behind the verb."""


class _Script:
    """The names that a script has made so far, to tell a missing one before anything runs."""

    def __init__(self, name: str) -> None:
        self.file = name
        self.made: dict[str, set[str]] = {
            kind: set() for kind in ("buffer", "device", "group", "container")
        }

    def step(self, line: int, text: str, count: int, expected: int) -> Step:
        if count != expected:
            raise TranscriptError(
                self.file, line, f"steps must be in order: {count} comes after {expected - 1}"
            )
        phys = re.search(r"\sphys=0x([0-9a-f]+)\s*$", text)
        said = text[: phys.start()] if phys else text
        words = said.partition("#")[0].split()
        if not words or words[0] not in VERBS:
            verb = short(words[0] if words else "")
            raise TranscriptError(self.file, line, f"unknown verb {verb}")
        verb, wanted = words[0], VERBS[words[0]].split()
        # Words that a verb has no use for are ignored, as the program does.
        args = tuple(words[1:] if wanted == ["..."] else words[1 : 1 + len(wanted)])
        self._check(line, verb, args)
        at = int(phys[1], 16) if phys else None
        return Step(count, line, verb, args, at, said.strip())

    def check_answer(self, step: Step, line: int, text: str) -> None:
        """Refuse an answer that contradicts itself, or the step it stands under."""
        for name, value in re.findall(r"\b(E[A-Z0-9]+)\((-?\d+)\)", text):
            if name in ERRNOS and abs(int(value)) != ERRNOS[name]:
                raise TranscriptError(
                    self.file, line, f"{name} is {ERRNOS[name]}, and the line has {name}({value})"
                )
        if not text.startswith(("RESULT ", "MAP ", "UNMAP ", "PRELOAD ")):
            return
        asked = text.partition(" outcome=")[0].partition(" -> ")[0]
        says = dict(re.findall(r"(\w+)=(\S+)", asked))
        wanted = {word: step.args[at] for word, at in ECHOED.get(step.verb, {}).items()}
        wanted |= {"step": str(step.number)}
        if step.verb == "wphys" and step.phys is not None:
            wanted["iova"] = hex(step.phys)
        for word, want in wanted.items():
            if word in says and not _same_word(says[word], want):
                raise TranscriptError(
                    self.file,
                    line,
                    f"the answer is to {word}={short(says[word])}, "
                    f"and step {step.number} asked for {short(want)}",
                )

    def _check(self, line: int, verb: str, args: tuple[str, ...]) -> None:
        wanted = VERBS[verb].split()
        if wanted == ["..."]:
            return
        least = sum(1 for w in wanted if not (w.endswith("?") and w != "buffer?"))
        if len(args) < least:
            raise TranscriptError(
                self.file, line, f"{verb} takes {least} words, got {len(args)}: {VERBS[verb]}"
            )
        for want, arg in zip(wanted, args, strict=False):
            kind = want.strip("+-?")
            if kind in ("number", *LIMITS):
                try:
                    value = number(arg)
                except ValueError:
                    raise TranscriptError(
                        self.file, line, f"{verb} takes a number, got {short(arg)}"
                    ) from None
                lowest, highest = LIMITS.get(kind, (value, value))
                if not lowest <= value <= highest:
                    raise TranscriptError(
                        self.file,
                        line,
                        f"{verb} takes a {kind} from {lowest} to {highest}, got {short(arg)}",
                    )
            if kind not in self.made or (want == "buffer?" and arg == "-"):
                continue
            if want.startswith("+"):
                self.made[kind].add(arg)
            elif arg not in self.made[kind]:
                raise TranscriptError(self.file, line, f"there is no {kind} named {short(arg)}")
            if want.startswith("-"):
                self.made[kind].discard(arg)


def _same_word(one: str, other: str) -> bool:
    """The same text, or the same number of 64 bits."""
    try:
        return (number(one) - number(other)) % 2**64 == 0
    except ValueError:
        return one == other


# -- what the kernel answered ----------------------------------------------------------------------


def _status(text: str) -> str:
    """``OK`` or the errno's name; the number behind OK is a file descriptor, or 0."""
    return text.partition("(")[0]


def _result(found: re.Match[str]) -> tuple[str, str, str]:
    outcome, rest = found["outcome"], found["rest"]
    if outcome == "MSI-WRITE":
        codes = re.search(r"rc=(\S+)", rest)
        return "result", "RESULT", f"MSI-WRITE rc={codes[1] if codes else '?'}"
    rest = re.sub(r"\s+label=.*$", "", rest)
    return "result", "RESULT", f"{outcome} {rest.strip()}"


Reader = Callable[[re.Match[str]], tuple[str, str, str]]


def _control(key: str, value: str = "{status}") -> Reader:
    """A control result: named groups of the match fill in the key and the value."""

    def made(found: re.Match[str]) -> tuple[str, str, str]:
        words = {k: v for k, v in found.groupdict().items() if v is not None}
        if "status" in words:
            words["status"] = _status(words["status"])
        return "control", key.format(**words), value.format(**words)

    return made


_S = r"(?P<status>[A-Z][A-Z0-9]*\(-?\d+\))"
ANSWERS: tuple[tuple[re.Pattern[str], Reader], ...] = tuple(
    (re.compile(pattern), made)
    for pattern, made in (
        (r"RESULT step=\d+ .*?outcome=(?P<outcome>\S+) (?P<rest>.*)$", _result),
        (rf"MAP step=.* -> {_S}$", lambda m: ("map", "MAP", _status(m["status"]))),
        (
            rf"UNMAP step=.* -> {_S} unmapped=(?P<size>\S+)$",
            lambda m: ("unmap", "UNMAP", f"{_status(m['status'])} unmapped={m['size']}"),
        ),
        (
            r"GROUP (?P<n>\d+) (?P<rest>type=.*)$",
            lambda m: ("group", f"GROUP {m['n']}", m["rest"].rstrip()),
        ),
        (r"NOGROUP (?P<n>\S+)$", lambda m: ("group", f"NOGROUP {m['n']}", "no group")),
        (
            rf"INFO rc={_S} (?P<rest>.*)$",
            lambda m: ("control", "INFO", f"{_status(m['status'])} {m['rest']}"),
        ),
        (r"  cap id=(?P<n>\d+) (?P<rest>.*)$", _control("cap {n}", "{rest}")),
        (r"PRELOAD .*rc=(?P<rc>\S+)", lambda m: ("control", "PRELOAD", f"rc={m['rc']}")),
        (rf"  open /dev/vfio/(?P<n>-?\d+) -> {_S}$", _control("open group", "{n} {status}")),
        (r"  open /dev/vfio/devices/.* -> (?P<status>\S+)$", _control("open device")),
        (rf"  open /dev/iommu -> {_S}$", _control("open /dev/iommu")),
        (
            rf"  group status rc={_S} (?P<rest>.*)$",
            _control("group status", "{status} {rest}"),
        ),
        (
            rf"  region0 rc={_S} (?P<rest>.*)$",
            _control("region0", "{status} {rest}"),
        ),
        (r"  bar mmap (?P<rest>\S+)$", lambda m: ("control", "bar", _status(m["rest"]))),
        (r"  edu id=(?P<rest>\S+)$", _control("edu id", "{rest}")),
        (r"  ext (?P<n>\w+)=(?P<rest>-?\d+)$", _control("ext {n}", "{rest}")),
        (r"  group type=(?P<rest>.*)$", _control("group type", "{rest}")),
        (
            rf"  set type (?P<n>\S+) -> {_S} now=(?P<rest>.*)$",
            _control("set type {n}", "{status} now={rest}"),
        ),
        (r"  PCI_COMMAND write=\S+ (?P<rest>.*)$", _control("PCI_COMMAND", "{rest}")),
        (r"  PCI_COMMAND=(?P<rest>.*)$", _control("PCI_COMMAND", "{rest}")),
        (rf"  BIND_IOMMUFD -> {_S} (?P<rest>.*)$", _control("BIND_IOMMUFD", "{status} {rest}")),
        (rf"  IOAS_ALLOC -> {_S} (?P<rest>.*)$", _control("IOAS_ALLOC", "{status} {rest}")),
        (
            rf"  HWPT_ALLOC\(.*\) -> {_S} (?P<rest>.*)$",
            _control("HWPT_ALLOC", "{status} {rest}"),
        ),
        (
            rf"  ATTACH_IOMMUFD_PT\(.*\) -> {_S} (?P<rest>.*)$",
            _control("ATTACH_IOMMUFD_PT", "{status} {rest}"),
        ),
        (rf"  (?P<n>[A-Za-z][^|>]*?) (?:-> )?{_S}$", _control("{n}")),
    )
)
TRACE = re.compile(r"  \| trace (?P<event>\w+): IOMMU: (?P<rest>.*)$")
EDULAB = re.compile(r"  \| kmsg edulab:? (?P<rest>.*)$")


def edulab_answer(rest: str) -> tuple[str, str] | None:
    """One line of edulab's log: what it answers and the answer, without addresses and times.

    Which freed address is handed out next is the allocator's choice, and whether a DMA was still
    pending is the clock's: neither is an answer.
    """
    found = re.match(r"RESULT label=(\S+) iova=\S+ len=(\d+) landed=(\d+) outcome=(\S+)", rest)
    if found:
        return found[1], f"{found[4]} landed={found[3]}/{found[2]}"
    found = re.match(r"mask64 rc=(-?\d+)", rest)
    if found:
        return "dma_set_mask_and_coherent", f"rc={found[1]}"
    found = re.match(r"(coherent|map_single \S+) .*same=(\d)", rest)
    if found:
        return found[1], f"same={found[2]}"
    found = re.match(r"(X\S+) unmap finished .*pending at unmap=0", rest)
    if found:
        # The guest's clock ran late: what the DMA met was not the state after the unmap.
        return found[1], VOID
    found = re.match(r"second map of same page iova=(\S+) first=(\S+)", rest)
    if found:
        same = int(found[1], 0) // 4096 == int(found[2], 0) // 4096
        return "second map of the page", "the same IOVA" if same else "another IOVA"
    return None


def _answer(line: str) -> tuple[str, str, str] | None:
    for pattern, made in ANSWERS:
        found = pattern.match(line)
        if found:
            return made(found)
    return None


def answers_of(step: int, lines: Iterable[tuple[int, str]]) -> list[Answer]:
    """The answers in the lines after one step; trace events become one answer, their sequence."""
    found: list[Answer] = []
    events: list[str] = []
    first, late = 0, ""
    for at, line in lines:
        traced = TRACE.match(line)
        said = EDULAB.match(line)
        if traced:
            event = trace_event(traced["event"], traced["rest"])
            if event is not None:
                first = first or at
                events.append(event)
        elif said:
            answer = edulab_answer(said["rest"])
            if answer is not None and answer[0] != late:
                found.append(Answer(step, at, "edulab", *answer))
            # What a late DMA met is told next, and stands for nothing.
            late = answer[0] if answer is not None and answer[1] == VOID else ""
        elif not line.startswith(("  |", "  !", "  >", "CAT ", "ERR ")):
            made = _answer(line)
            if made is not None:
                found.append(Answer(step, at, *made))
    if events:
        found.append(Answer(step, first, "trace", "trace", "; ".join(events)))
    return found


def parse(lines: list[str], name: str) -> Transcript:
    """The transcript in the lines of iotest's output.

    Raises :class:`~iommu_lab.captures.transcript.TranscriptError` for lines that are none.
    """
    if not lines[0].startswith("MACHINE "):
        raise TranscriptError(
            name, 1, f"no transcript: it should begin with a MACHINE line, got {short(lines[0])}"
        )
    words = machine(lines[0], name)
    uname, cmdline = "", ""
    script = _Script(name)
    steps: list[Step] = []
    answers: list[Answer] = []
    pending: list[tuple[int, str]] = []
    finished, traced = False, False
    for at, line in enumerate(lines, start=1):
        step = re.match(r"STEP (\d+): (.*)$", line)
        end = re.match(r"END steps=(\d+)$", line)
        if (step or end) and steps:
            answers += answers_of(steps[-1].number, pending)
        if step or end:
            pending = []
        if step:
            if finished:
                raise TranscriptError(name, at, "a step after the last one")
            steps.append(script.step(at, step[2], int(step[1]), len(steps) + 1))
        elif end:
            finished = True
            if int(end[1]) != len(steps):
                raise TranscriptError(
                    name, at, f"the script had {end[1]} steps, the file has {len(steps)}"
                )
        elif steps and not finished:
            script.check_answer(steps[-1], at, line)
            pending.append((at, line))
        elif line.startswith("BOOT "):
            found = re.search(r"uname=(\S+)", line)
            uname = found[1] if found else ""
        elif line.startswith("CMDLINE "):
            cmdline = line.removeprefix("CMDLINE ")
        elif line.startswith("TRACE_EVENT iommu:"):
            traced = True
    if not uname:
        raise TranscriptError(name, len(lines), "there is no BOOT line that says uname=")
    if not re.match(r"\d+\.\d+", uname):
        raise TranscriptError(name, 2, f"a kernel version starts with two numbers, got {uname!r}")
    if not steps:
        raise TranscriptError(name, len(lines), "cut off: there is no STEP line")
    if pending and not finished:
        answers += answers_of(steps[-1].number, pending)
    inputs = Inputs(
        name,
        "iotest",
        ARCHES[words["arch"]],
        words["iommu"],
        uname,
        cmdline or words.get("append", ""),
        functions_of(words, name, _listed(lines)),
        tuple(steps),
        traced=traced,
    )
    return Transcript(inputs, tuple(answers), finished, len(lines))


def _listed(lines: Iterable[str]) -> dict[str, str]:
    """Each function that a transcript lists: its address, and "vendor:device" if it says so."""
    found: dict[str, str] = {}
    for line in lines:
        if line.startswith("NOGROUP "):
            found.setdefault(line.split()[1], "")
        elif line.startswith("GROUP "):
            found.update(_MEMBER.findall(line))
    return found


_MEMBER = re.compile(r"([\da-f]{4}:[\da-f]{2}:[\da-f]{2}\.[0-7])\(([\da-f]{4}:[\da-f]{4}),drv=")
