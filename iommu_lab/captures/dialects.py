"""Reading a transcript: what is in this file, and which of the two programs wrote it?

``iotest`` leaves ``STEP`` and ``BOOT`` lines (:mod:`iommu_lab.captures.iotestlog`), the module
``attachlab`` lines that begin with its name (:mod:`iommu_lab.captures.attachlog`).

Where it stops: at files that are no text, or longer than any boot's output.
"""

from __future__ import annotations

import re
from pathlib import Path

from . import attachlog, iotestlog
from .transcript import Transcript, TranscriptError, short

ATTACHLAB = re.compile(r"\battachlab(-init)?:? ")
"""What the module and its init begin each line with; a name of a file goes on with a hyphen."""
LONGEST_LINE = 65536
LARGEST_FILE = 64 * 2**20


def read(path: str | Path) -> Transcript:
    """Read one transcript of either dialect.

    Raises :class:`~iommu_lab.captures.transcript.TranscriptError` for a file that is none, has no
    beginning, names a verb, a device or a buffer that does not exist, holds bytes that are no text
    or a line of more than 64 KiB; and ``OSError`` for a file that can't be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    return parse(data, path.stem)


def parse(data: bytes, name: str) -> Transcript:
    """The transcript in these bytes; see :func:`read`."""
    lines = _lines(data, name)
    if not lines:
        raise TranscriptError(name, 1, "the file is empty")
    if any(line.startswith(("STEP ", "BOOT ")) for line in lines):
        return iotestlog.parse(lines, name)
    if any(ATTACHLAB.search(line) for line in lines):
        return attachlog.parse(lines, name)
    if lines[0].startswith("MACHINE "):
        raise TranscriptError(name, len(lines), "cut off: there is no BOOT line")
    raise TranscriptError(
        name, 1, f"no transcript: it should begin with a MACHINE line, got {short(lines[0])}"
    )


def _lines(data: bytes, name: str) -> list[str]:
    if len(data) > LARGEST_FILE:
        raise TranscriptError(name, 1, f"a transcript is smaller than {LARGEST_FILE >> 20} MiB")
    found = []
    for number, raw in enumerate(data.split(b"\n"), start=1):
        if len(raw) > LONGEST_LINE:
            raise TranscriptError(
                name, number, f"the line is {len(raw)} bytes long; a transcript's are short"
            )
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise TranscriptError(name, number, "the line holds bytes that are no text") from None
        if "\0" in line:
            raise TranscriptError(name, number, "the line holds NUL bytes")
        found.append(line.removeprefix("\ufeff").rstrip("\r"))
    while found and not found[-1]:
        found.pop()
    return found
