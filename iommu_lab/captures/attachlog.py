"""The second dialect: the log of the module attachlab, read into inputs and answers.

The module runs a fixed program, so its calls are not read from the log: only what was chosen for
this boot is (which sequences, at which addresses, where the kernel put the module's pages). The
rest of a line, from what a call returned to how many bytes of a DMA arrived, is an answer.

Older logs have no MACHINE line. The machine is then taken from the list of PCI functions and the
boot line, and which DMAs were left out from the DMAs that are there: nothing else tells.

Where it stops: the kernel's log is thinned before it is kept, so of the trace events only attach
and detach are compared; addresses that the kernel chose and times are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..errors import UnknownName
from . import topology
from .kernels import ARCHES
from .transcript import (
    VOID,
    Answer,
    Inputs,
    Transcript,
    TranscriptError,
    functions_of,
    machine,
    trace_event,
)

STAMP = re.compile(r"^\[ *\d+\.\d+\] ")
KERNEL = re.compile(r"attachlab-init uname=(\S+) (\S+) cmdline=(.*)$")
LISTED = re.compile(r"attachlab-init (pci|after) (\S+) (?:0x(\w{4}):0x(\w{4}) )?(driver=.*)$")
TRACED = re.compile(r"(attach_device_to_domain|detach_device_from_domain): IOMMU: (.*)$")
BEGIN = re.compile(r"attachlab BEGIN bind=(\d+) seq=(\S*)")
BOOT = re.compile(
    r"attachlab boot-domain (type=0x[0-9a-f]+) *(NULL|) *"
    r"pa\(P\)=(\S+) pa\(Q\)=(\S+) pa\(S\)=(\S+) T=(\S+)"
)
BLOCK = re.compile(r"attachlab step=\S+ bp=(0x[0-9a-f]+)")
RING = re.compile(r"attachlab step=\S+ call=iommu_map args=\w+,iova=(\S+?),.* why=ring ")
FIRST_BYTES = "0:C15:2M+0"
CHOSEN = ("dma_map_single", "dma_map_single(ring)")
"""Calls whose result is an address that the kernel chose."""
IOMMUS = {"s390x": "zpci", "arm64": "smmuv3"}
DEFAULTS = {
    "bind": "0",
    "seq": "detach,claim,maps",
    "T": "0x50000000",
    "R": "0x60000000",
    "danger": "0",
    "refresh": "0",
    "useapi": "1",
}


@dataclass(slots=True)
class _Log:
    """What has been read of one log so far."""

    name: str
    words: dict[str, str] = field(default_factory=dict)
    uname: str = ""
    machine: str = ""
    cmdline: str = ""
    listed: list[tuple[str, str]] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)
    pages: dict[str, int] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    answers: list[Answer] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    events_line: int = 0
    begun: bool = False
    finished: bool = False

    def answer(self, at: int, kind: str, key: str, value: str) -> None:
        self.before(key)
        self.answers.append(Answer(0, at, kind, key, value))

    def before(self, key: str) -> None:
        """Whatever was traced since the last line belongs to this one."""
        if self.events:
            text = "; ".join(self.events)
            self.answers.append(Answer(0, self.events_line, "trace", f"before {key}", text))
            self.events = []


def parse(lines: list[str], name: str) -> Transcript:
    """The transcript in the lines of an attachlab log.

    Raises :class:`~iommu_lab.captures.transcript.TranscriptError` for a log that is none.
    """
    log = _Log(name)
    if lines[0].startswith("MACHINE "):
        log.words = machine(lines[0], name)
        for word in log.words.get("args", "").split():
            key, _, value = word.partition("=")
            log.arguments[key] = value
    for at, stamped in enumerate(lines, start=1):
        _line(log, at, STAMP.sub("", stamped))
    return _transcript(log, len(lines))


def _line(log: _Log, at: int, line: str) -> None:
    traced = TRACED.match(line)
    if traced and log.begun:
        log.events_line = log.events_line if log.events else at
        log.events.append(trace_event(traced[1], traced[2]) or "")
    elif line.startswith("attachlab-init "):
        _init(log, at, line)
    elif line.startswith("attachlab "):
        _module(log, at, line)


def _init(log: _Log, at: int, line: str) -> None:
    kernel, listed = KERNEL.match(line), LISTED.match(line)
    if kernel:
        log.uname, log.machine, log.cmdline = kernel[1], kernel[2], kernel[3]
    elif listed:
        if listed[3]:
            log.listed.append((listed[2], f"{listed[3]}:{listed[4]}"))
        words = listed[5].split()
        said = " ".join(w for w in words if w[-1] != "=")
        log.answer(at, "group", f"{listed[1]} {listed[2]}", said)
    elif line.startswith("attachlab-init insmod "):
        log.answer(at, "call", "insmod", line.rpartition(" ")[2])
    elif line == "attachlab-init DONE":
        log.finished = True


def _module(log: _Log, at: int, line: str) -> None:
    begin, boot, block, ring = (p.match(line) for p in (BEGIN, BOOT, BLOCK, RING))
    if begin:
        log.begun = True
        log.arguments |= {"bind": begin[1], "seq": begin[2]}
        return
    if block:
        log.pages["block"] = int(block[1], 16)
        return
    if boot:
        log.pages |= {p: int(boot[i], 16) for p, i in (("P", 3), ("Q", 4), ("S", 5))}
        log.arguments.setdefault("T", boot[6])
        log.answer(at, "call", "boot domain", f"{boot[1]} {boot[2]}".strip())
        return
    if ring:
        log.arguments.setdefault("R", ring[1])
    dma = re.match(r"attachlab dma(?:read)? dev=(\d) step=(\S+) what=(.*?) iova=", line)
    if dma:
        log.ran.add(f"{dma[1]}:{dma[2]}:{dma[3]}")
    if line == "attachlab END":
        log.before("END")
        log.finished = True
        return
    for pattern, kind, key, value in LINES:
        found = pattern.match(line)
        if found:
            words = found.groupdict()
            if key.endswith("first bytes") and FIRST_BYTES not in log.ran:
                value = VOID  # the DMA that should have filled them was left out
            log.answer(at, kind, key.format(**words), value.format(**words))
            return
    held = re.match(r"attachlab step=(\S+) s390-table at=\S+ (.*)$", line)
    if held:
        # Which of the tables on the way is missing is not told: an entry is valid or it is not.
        says = {"VALID": "VALID", "-": "-"}
        entries = re.findall(r"(\w+):\S+?=(\S+)", held[2])
        text = " ".join(f"{place}={says.get(entry, 'no')}" for place, entry in entries)
        log.answer(at, "call", f"{held[1]} s390-table", text)
    call = re.match(r"attachlab step=(\S+) call=(.*)$", line)
    if call:
        _call(log, at, call[1], call[2])


LINES = tuple(
    (re.compile(f"attachlab {pattern}"), kind, key, value)
    for pattern, kind, key, value in (
        (
            r"dma dev=(?P<dev>\d) step=(?P<step>\S+) what=(?P<what>.*?) "
            r"iova=\S+ landed=(?P<n>\S+) mark=",
            "dma",
            "{step} dma dev{dev} {what}",
            "landed={n}",
        ),
        (
            r"dma dev=(?P<dev>\d) step=(?P<step>\S+) what=(?P<what>.*?) iova=\S+ landed=(?P<n>\S+) "
            r"ring=\S+ (?P<rest>used=.*)$",
            "dma",
            "{step} dma dev{dev} {what}",
            "landed={n} {rest}",
        ),
        (
            r"dmaread dev=(?P<dev>\d) step=(?P<step>\S+) what=(?P<what>.*?) iova=\S+ "
            r"(?P<rest>got=\S+ zeros=\S+)",
            "dma",
            "{step} dmaread dev{dev} {what}",
            "{rest}",
        ),
        (
            r"(?P<dev>dev\d)=(?P<rest>\S+) id=\S+ (?P<more>driver=\S+ group=\S+)",
            "call",
            "{dev}",
            "{rest} {more}",
        ),
        (
            r"selftest (?P<dev>dev\d) .*(?P<rest>landed=\S+)",
            "dma",
            "selftest {dev}",
            "{rest}",
        ),
        (r"pci_register_driver (?P<rest>rc=.*)$", "call", "pci_register_driver", "{rest}"),
        (r"virtio-rng find (?P<rest>rc=\S+)", "call", "find virtio-rng", "{rest}"),
        (r"(?P<rest>no iommu group|no device)$", "call", "no group", "{rest}"),
        (
            r"step=(?P<step>\S+) domain (?P<name>\w+) (?P<rest>type=.*)$",
            "domain",
            "{step} domain {name}",
            "{rest}",
        ),
        (
            r"step=(?P<step>\S+) (?P<rest>same-group=\d|need two devices)$",
            "call",
            "{step} groups",
            "{rest}",
        ),
        (
            r"step=(?P<step>\S+) check first-bytes-of-2M (?P<rest>landed=\d+)",
            "dma",
            "{step} first bytes",
            "{rest}",
        ),
        (
            r"step=(?P<step>\S+) call=check-data\S* args=filled-with-0x33,(?P<rest>\S+ rc=\d+)",
            "call",
            "{step} check-data",
            "{rest}",
        ),
        (
            r"step=(?P<step>\S+) zpci (?P<table>dma_table=\S+)(?: iommu_pages=\S+)?"
            r"(?P<rest>(?: bitmap=\S+)? s390_domain=.*)$",
            "call",
            "{step} zpci",
            "{table}{rest}",
        ),
        (r"fault_handler called (?P<rest>.*)$", "call", "fault handler", "{rest}"),
    )
)


def _call(log: _Log, at: int, step: str, text: str) -> None:
    """One call: which it is makes the key; what it was told and what it returned is the answer.

    Why it was made is the program's remark, and was worded otherwise in older ones.
    """
    words = dict(re.findall(r"(\w+)=(\S+)", text))
    function = text.partition(" ")[0]
    names, numbers = [], []
    for arg in words.pop("args", "").split(","):
        key, is_number, _ = arg.partition("=")
        if not is_number:
            names.append(arg)
        elif key != "pa":
            numbers.append(arg)
    words.pop("why", "")
    key = " ".join(w for w in (step, function, ",".join(names)) if w)
    if text.endswith(" enter"):
        log.before(f"{key} enter")
        return
    if function == "iommu_get_domain_for_dev":
        key += f" dev{words.pop('dev', '')}"
    if function in CHOSEN:
        words = {k: v for k, v in words.items() if k in ("same", "err")}
    if "current(" in key:
        numbers = []
    said = [*numbers, *(f"{k}={v}" for k, v in words.items())]
    log.answer(at, "call", key, " ".join(said))


def _transcript(log: _Log, last: int) -> Transcript:
    if not log.uname:
        raise TranscriptError(log.name, last, "cut off: no attachlab-init line has a uname=")
    if not re.match(r"\d+\.\d+", log.uname):
        reason = f"a kernel version starts with two numbers, got {log.uname!r}"
        raise TranscriptError(log.name, 1, reason)
    if not log.begun:
        raise TranscriptError(log.name, last, "cut off: there is no line 'attachlab BEGIN'")
    if log.machine not in ARCHES:
        raise TranscriptError(log.name, 1, f"unknown architecture {log.machine!r}")
    _check(log)
    arch = ARCHES[log.machine]
    if log.words:
        iommu, found = log.words["iommu"], functions_of(log.words, log.name)
    else:
        iommu = IOMMUS.get(arch) or ("intel" if "intel_iommu=" in log.cmdline else "amd")
        try:
            found = topology.of_listing(log.listed)
        except UnknownName as error:
            raise TranscriptError(log.name, 1, str(error)) from None
    inputs = Inputs(
        log.name,
        "attachlab",
        arch,
        iommu,
        log.uname,
        log.cmdline,
        found,
        arguments=DEFAULTS | log.arguments,
        pages=log.pages,
        ran=None if log.words else frozenset(log.ran),
    )
    return Transcript(inputs, tuple(log.answers), log.finished, last)


def _check(log: _Log) -> None:
    for key in ("bind", "T", "R", "danger", "refresh", "useapi"):
        value = log.arguments.get(key, "0")
        if not re.fullmatch(r"0x[0-9a-fA-F]+|\d+", value):
            raise TranscriptError(log.name, 1, f"{key} takes a number, got {value!r}")


def sequences(text: str, known: Iterable[str]) -> list[str]:
    """Which of the known sequences the word of the module's parameter names, in their order."""
    return [name for name in known if name in text]
