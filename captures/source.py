"""SOURCE.md and SHA256SUMS: what the captures in a folder are, and how they came about.

Both are generated. A capture whose transcript is still the one that was recorded keeps its row,
date and kernel included: made captures are not dated anew because a neighbour was.
"""

import datetime
import hashlib
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import boot
import fetch
import machines
import programs
from catalogue import Capture

HEAD = """\
# Where these captures come from

Console transcripts of real kernels, booted under QEMU by the harness in `captures/`. Generated
with the captures by `captures/make.py`; `SHA256SUMS` has the digest of every file here and can be
checked with `sha256sum -c`.

`NAME.out` or `NAME.log` is the transcript, `NAME.cmd` the QEMU command, `NAME.qemu` QEMU's own
trace of faults and invalidations, folded: `step=` the step of the transcript, or `mark=` the mark
of an attachlab DMA, after which they came.

Each is made, and made again, by

    python3 captures/make.py NAME

which resolves the suite's kernel of that day. The transcripts are the output of the programs in
`captures/` and are under this project's licence; kernels and packages are Debian's and are not
shipped.
"""
_ROW = re.compile(
    r"^\| `(?P<file>[^`]+)` \| (?P<made>\S+) \| `(?P<kernel>[^`]+)` \| `(?P<sha>\w+)` \|$"
)
_PROGRAMS = re.compile(r"^- (?P<arch>\w+): (?P<programs>QEMU .*)$")
_PACKAGE = re.compile(r"^\| `(?P<name>[^`]+)` \| `(?P<version>[^`]+)` \| `(?P<sha>\w+)` \|$")


class Row(NamedTuple):
    """One transcript: when it was made, from which image package, and its digest."""

    file: str
    made: str
    kernel: str
    sha256: str


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Recorded(NamedTuple):
    """What an earlier SOURCE.md says."""

    rows: dict[str, Row]  # by file
    packages: dict[str, fetch.Package]  # by name and version
    programs: dict[str, str]  # by architecture


def _recorded(text: str) -> Recorded:
    rows, packages, made_with = {}, {}, {}
    for line in text.splitlines():
        if found := _ROW.match(line):
            rows[found["file"]] = Row(*found.groups())
        elif found := _PACKAGE.match(line):
            packages[" ".join(found.groups()[:2])] = fetch.Package(*found.groups())
        elif found := _PROGRAMS.match(line):
            made_with[found["arch"]] = found["programs"]
    return Recorded(rows, packages, made_with)


def image(packages: Iterable[fetch.Package]) -> fetch.Package:
    """The package that has the kernel, or the source that it was built from."""
    return next(p for p in packages if p.name.startswith(("linux-image-", "linux-source-")))


def _programs(arch: str) -> str:
    """The emulator and the compiler of this machine, as they name themselves."""
    words = [machines.BOARDS[arch].program, "--version"]
    emulator = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return f"{emulator.splitlines()[0]}; {programs.version(arch)}"


def write(folder: Path, captures: Mapping[str, Capture], made: Iterable[str]) -> None:
    """Bring SOURCE.md and SHA256SUMS of a folder up to date; ``made`` names the new captures."""
    source = folder / "SOURCE.md"
    recorded = _recorded(source.read_text(encoding="utf-8") if source.exists() else "")
    packages, made_with = recorded.packages, recorded.programs
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    new, rows = set(made), []
    for name, capture in captures.items():
        path = folder / f"{name}.{capture.suffix}"
        if not path.exists():
            continue
        old = recorded.rows.get(path.name)
        if old and old.sha256 == digest(path) and name not in new:
            rows.append(old)
            continue
        made_with[capture.kernel.arch] = _programs(capture.kernel.arch)
        kernel = boot.kernel(capture.kernel)
        package = image(kernel.packages)
        packages |= {f"{p.name} {p.version}": p for p in kernel.packages}
        rows.append(Row(path.name, today, f"{package.name} {package.version}", digest(path)))
    used = {row.kernel.split(" ")[1] for row in rows}
    lines = [
        HEAD,
        "## Made with\n",
        *(f"- {arch}: {words}" for arch, words in sorted(made_with.items())),
        "\n## Kernel packages\n",
        "| package | version | sha256 of the .deb |",
        "| --- | --- | --- |",
        *(
            f"| `{p.name}` | `{p.version}` | `{p.sha256}` |"
            for _, p in sorted(packages.items())
            if p.version in used
        ),
        "\n## Transcripts\n",
        "| file | made | kernel | sha256 |",
        "| --- | --- | --- | --- |",
        *(f"| `{r.file}` | {r.made} | `{r.kernel}` | `{r.sha256}` |" for r in rows),
    ]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept = sorted(p for p in folder.iterdir() if p.suffix in (".out", ".log", ".cmd", ".qemu"))
    sums = "".join(f"{digest(path)}  {path.name}\n" for path in kept)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")
