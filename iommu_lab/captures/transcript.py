"""Transcripts: what a real kernel was asked, and what it answered, kept apart.

A transcript is the console output of one boot: its inputs, which are all that a replay may look at
before it predicts, and beside them the answers, each with its line. Here is what both dialects have
in common; :mod:`iommu_lab.captures.dialects` reads a file of either.

The one choice a reader would question: a bad file is refused whole. Half a transcript would still
replay up to where it ends, but its number would look like a whole one's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from ..errors import UnknownName
from . import topology
from .emulated import PROFILES
from .kernels import ARCHES

SHOWN = 60
VOID = "no measurement"
"""The value of an answer which says that its question was not put: it is not compared."""


class TranscriptError(ValueError):
    """A file that can't be replayed: one sentence with the file's name and the line."""

    def __init__(self, name: str, line: int, reason: str) -> None:
        super().__init__(f"{name}:{line}: {reason}")
        self.name = name
        self.line = line
        self.reason = reason


class Step(NamedTuple):
    """One line of a script: ``number`` counts the script's lines, ``line`` the file's."""

    number: int
    line: int
    verb: str
    args: tuple[str, ...]
    phys: int | None
    text: str


class Answer(NamedTuple):
    """One answer of the kernel: ``kind`` and ``key`` say what it answers, ``value`` is compared."""

    step: int
    line: int
    kind: str
    key: str
    value: str


@dataclass(frozen=True)
class Inputs:
    """All that is known before the first answer."""

    name: str
    dialect: str
    """"iotest" or "attachlab"."""
    arch: str
    iommu: str
    uname: str
    cmdline: str
    functions: tuple[topology.Function, ...]
    steps: tuple[Step, ...] = ()
    arguments: dict[str, str] = field(default_factory=dict)
    """Module parameters of attachlab."""
    pages: dict[str, int] = field(default_factory=dict)
    """Where attachlab's pages lie, by their names."""
    ran: frozenset[str] | None = None
    """The DMAs that attachlab made, for a log which doesn't say which were asked for."""
    traced: bool = True


@dataclass(frozen=True)
class Transcript:
    """The inputs of one boot and, apart from them, its answers in the order of the file."""

    inputs: Inputs
    answers: tuple[Answer, ...]
    finished: bool
    """Did the program get to its last line?"""
    last_line: int


def short(text: str) -> str:
    """Some text of a file as an error quotes it."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")


def number(text: str) -> int:
    """A number as C's strtoull reads it: decimal, 0x or a leading 0 for octal; 64 bits."""
    negative, digits = text.startswith("-"), text.lstrip("+-")
    base = 16 if digits.lower().startswith("0x") else 8 if digits.startswith("0") else 10
    value = int(digits, base) if digits != "0" else 0
    return -value if negative else value


def trace_event(event: str, rest: str) -> str | None:
    """One trace event without its physical address: "attach 0000:00:03.0", "map 0x1000+0x1000"."""
    words = dict(re.findall(r"(\w+)=(\S+)", rest))
    if event in ("attach_device_to_domain", "detach_device_from_domain"):
        return f"{event.partition('_')[0]} {words.get('device', '?')}"
    if event in ("add_device_to_group", "remove_device_from_group"):
        word = event.partition("_")[0]
        return f"{word} {words.get('device', '?')} group {words.get('groupID', '?')}"
    if event == "map":
        return f"map {_hex(words.get('iova'))}+{_hex(words.get('size'))}"
    if event == "unmap":
        return f"unmap {_hex(words.get('iova'))}+{_hex(words.get('unmapped_size'))}"
    return None


def _hex(text: str | None) -> str:
    try:
        return f"{int(text or '', 0):#x}"
    except ValueError:
        return text or "?"


# -- the MACHINE line ----------------------------------------------------------------------------


def machine_words(line: str) -> dict[str, str]:
    """The settings of a MACHINE line: ``name=word`` or ``name="several words"``."""
    return {
        key: quoted or plain
        for key, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|(\S*))', line)
    }


def machine(line: str, name: str, number: int = 1) -> dict[str, str]:
    """The MACHINE line's settings, once each is known to name something that exists."""
    words = machine_words(line)
    for key in ("arch", "iommu", "topology"):
        if key not in words:
            raise TranscriptError(name, number, f"the MACHINE line does not say {key}=")
    if words["arch"] not in ARCHES:
        raise TranscriptError(name, number, f"unknown architecture {short(words['arch'])}")
    if words["iommu"] not in PROFILES:
        known = ", ".join(PROFILES)
        raise TranscriptError(
            name, number, f"unknown IOMMU {short(words['iommu'])}: known are {known}"
        )
    return words


def functions_of(
    words: dict[str, str], name: str, listed: Mapping[str, str] = MappingProxyType({})
) -> tuple[topology.Function, ...]:
    """The functions of the machine that ``words`` name.

    A topology that is not in the table is taken from what the transcript lists: "vendor:device"
    by address, "" where it was not said. Which functions there are is then input; in which groups
    they are stays to be predicted.
    """
    if listed and words["topology"] not in topology.TOPOLOGIES:
        known = topology.onboard(ARCHES.get(words["arch"], ""), words["iommu"])
        pairs = [(at, ident or known.get(at, "")) for at, ident in sorted(listed.items())]
        return topology.of_listing([pair for pair in pairs if pair[1]])
    try:
        return topology.functions(ARCHES[words["arch"]], words["iommu"], words["topology"])
    except UnknownName as error:
        raise TranscriptError(name, 1, str(error)) from None
