"""The second dialect: the log of the module attachlab, read into inputs and answers.

The module runs a fixed program, so its calls are not read from the log: only what was chosen for
this boot is (which sequences, at which addresses, where the kernel put the module's pages). The
rest of a line, from what a call returned to how many bytes of a DMA arrived, is an answer.

Older logs have no MACHINE line. The machine is then taken from the list of PCI functions, the boot
line and what the kernel said while it booted; and what the module was told, from the calls and DMAs
that are there: nothing else tells.

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
    number,
    trace_event,
)

STAMP = re.compile(r"^(?:.* kernel: )?(?:<\d+>)?(?:\[ *\d+\.\d+\] ?)?(?:\[ *[CT]\d+\] ?)?")
"""What may stand before a line: syslog's words, its level, the time, the task or CPU."""
KERNEL = re.compile(r"attachlab-init uname=(\S+) (\S+) cmdline=(.*)$")
LISTED = re.compile(r"attachlab-init (pci|after) (\S+) (?:0x(\w{4}):0x(\w{4}) )?(driver=.*)$")
TRACED = re.compile(r"(attach_device_to_domain|detach_device_from_domain): IOMMU: (.*)$")
BEGIN = re.compile(r"attachlab BEGIN bind=(\d+) seq=(\S*)")
BOOT = re.compile(
    r"attachlab boot-domain (type=0x[0-9a-f]+) *(NULL|) *"
    r"pa\(P\)=(\S+) pa\(Q\)=(\S+) pa\(S\)=(\S+) T=(\S+)"
)
BLOCK = re.compile(r"attachlab step=\S+ bp=(0x[0-9a-f]+)")
PART = re.compile(r"attachlab step=\S+ call=iommu_map args=\w+,.*,pa=(\S+?),.* why=4-pages ")
RING = re.compile(r"attachlab step=\S+ call=iommu_map args=\w+,iova=(\S+?),.* why=ring ")
FIRST_BYTES = "0:C15:2M+0"
KILLED = ("rc=137", "rc=139")
"""What a shell says of a program that a kernel oops ended, by SIGKILL or by SIGSEGV."""
STOPPED = "killed"
CHOSEN = ("dma_map_single", "dma_map_single(ring)")
"""Calls whose result is an address that the kernel chose."""
IOMMUS = {"s390x": "zpci", "arm64": "smmuv3"}
DMAR = re.compile(
    r"DMAR: dmar\d+: reg_base_addr .* cap (?P<cap>[0-9a-f]+) ecap (?P<ecap>[0-9a-f]+)"
)
"""The registers of a VT-d unit: bits 7 and 16-21 of the first, bit 43 of the second are used."""
DANGERS = (
    (re.compile(r"attachlab step=\S+ call=iommu_map .* why=size-0 "), 1),
    (re.compile(r"attachlab step=\S+ call=iommu_unmap .* why=beyond "), 2),
    (re.compile(r"attachlab step=\S+ call=iommu_unmap .* why=straddle-cleanup "), 3),
    (re.compile(r"attachlab step=\S+ call=iommu_unmap .* why=nothing-there"), 4),
    (re.compile(r"attachlab step=\S+ call=iommu_map .* why=top-of-64-bit "), 6),
    (re.compile(r"attachlab step=A03-api\S+ call=dma_map_single "), 5),
)
"""Calls that the module makes only when it is told to."""
LAST = (
    (re.compile(r"attachlab step=\S+ call=iommu_iova_to_phys .* why=beyond "), 2),
    (re.compile(r"attachlab step=\S+ call=iommu_iova_to_phys .* why=straddle-first-page "), 3),
    (re.compile(r"attachlab step=\S+ call=iommu_\w+ .* why=iova-2\^39 "), 4),
    (re.compile(r"attachlab step=A03 call=iommu_attach_device "), 5),
)
"""What stands before such a call, which is not in the log if the kernel stopped in it."""
API = "attachlab step=A01 call=dma_map_single "
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
    driven: bool = False
    """Did an IOMMU's driver attach anything before the module was there?"""
    vtd: tuple[int, int] | None = None
    """What a VT-d unit says it can do: its capability and extended capability registers."""
    used_api: bool = False
    dangers: set[int] = field(default_factory=set)
    called: str = ""
    """The module's last line."""
    killed: bool = False
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
    first = next((line for line in lines if line.startswith("MACHINE ")), None)
    if first is not None:
        log.words = machine(first, name)
        for word in log.words.get("args", "").split():
            key, _, value = word.partition("=")
            log.arguments[key] = value
    for at, stamped in enumerate(lines, start=1):
        _line(log, at, STAMP.sub("", stamped))
    return _transcript(log, len(lines))


def _line(log: _Log, at: int, line: str) -> None:
    traced, vtd = TRACED.match(line), DMAR.match(line)
    if vtd:
        log.vtd = int(vtd["cap"], 16), int(vtd["ecap"], 16)
    log.driven |= traced is not None and not log.begun
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
        returned = line.rpartition(" ")[2]
        if returned in KILLED:
            returned = STOPPED
            log.before("the end")
            log.killed = True
            log.answers.append(Answer(0, at, "crash", "crash", "the kernel stopped"))
        log.answer(at, "call", "insmod", returned)
    elif line == "attachlab-init DONE":
        log.finished = True


def _module(log: _Log, at: int, line: str) -> None:
    begin, boot, block, ring, part = (p.match(line) for p in (BEGIN, BOOT, BLOCK, RING, PART))
    if begin:
        log.begun = True
        for key, ran in (("bind", begin[1]), ("seq", begin[2])):
            told = log.arguments.setdefault(key, ran)
            if told != ran:
                reason = f"the module began with {key}={ran}, and the MACHINE line told it {told}"
                raise TranscriptError(log.name, at, reason)
        return
    if block:
        log.pages["block"] = int(block[1], 16)
        return
    if boot:
        log.pages |= {p: int(boot[i], 16) for p, i in (("P", 3), ("Q", 4), ("S", 5))}
        log.arguments.setdefault("T", boot[6])
        log.answer(at, "call", "boot domain", f"{boot[1]} {boot[2]}".strip())
        return
    if part:
        log.pages["block"] = int(part[1], 16)
    if ring:
        log.arguments.setdefault("R", ring[1])
    log.used_api |= line.startswith(API)
    log.dangers |= {danger for pattern, danger in DANGERS if pattern.match(line)}
    log.called = line
    dma = re.match(r"attachlab dma(?:read)? dev=(\d) step=(\S+) what=(.*?) iova=", line)
    if dma:
        log.ran.add(f"{dma[1]}:{dma[2]}:{dma[3]}")
    if line == "attachlab END":
        log.before("END")
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
    log.before("the end")
    _check(log)
    arch = ARCHES[log.machine]
    if log.words:
        iommu, found = log.words["iommu"], functions_of(log.words, log.name)
    else:
        iommu = _iommu(log, arch)
        log.arguments |= {"danger": str(_danger(log)), "useapi": str(int(log.used_api))}
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


def _iommu(log: _Log, arch: str) -> str:
    """Which of the emulated IOMMUs it is, as far as the log shows.

    Two are PCI functions themselves, and some boards have their own. VT-d is no function, but a
    kernel that traces to its console shows each device that it attaches at boot.
    """
    listed = {ident for _, ident in log.listed}
    for iommu, function in topology.OWN_FUNCTION.items():
        if function.id in listed:
            return iommu
    if arch in IOMMUS:
        return IOMMUS[arch]
    words = log.cmdline.split()
    if "tp_printk" in words and "trace_event=iommu:*" in words and not log.driven:
        return "none"
    if log.vtd is None:
        return _vtd_by_words(log)
    cap, ecap = log.vtd
    if ecap >> 43 & 1:
        return "intelsm"
    if (cap >> 16 & 0x3F) >= 47:
        return "intel48"
    return "intel" if cap >> 7 & 1 else "intelnocm"


def _vtd_by_words(log: _Log) -> str:
    """The VT-d unit that what was asked for makes sense on, where the kernel didn't describe it."""
    options = dict(word.partition("=")[::2] for word in log.cmdline.split())
    if "sm_on" in options.get("intel_iommu", "").split(","):
        return "intelsm"
    if number(log.arguments.get("T", "0")) >= 2**39:
        return "intel48"
    return "intelnocm" if options.get("iommu.strict") == "0" else "intel"


def _danger(log: _Log) -> int:
    """Which of the calls that the module makes only when told to it made, or was stopped in."""
    if log.killed or not log.finished:
        log.dangers |= {danger for pattern, danger in LAST if pattern.match(log.called)}
    return max(log.dangers - {5}, default=max(log.dangers, default=0))


def _check(log: _Log) -> None:
    for key in ("bind", "T", "R", "danger", "refresh", "useapi"):
        value = log.arguments.get(key, "0")
        if not re.fullmatch(r"0x[0-9a-fA-F]+|\d+", value):
            raise TranscriptError(log.name, 1, f"{key} takes a number, got {value!r}")


def sequences(text: str, known: Iterable[str]) -> list[str]:
    """Which of the known sequences the word of the module's parameter names, in their order."""
    return [name for name in known if name in text]
