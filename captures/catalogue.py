"""The catalogue: which captures there are, and what each one boots.

``catalogue.toml`` is the only list. An entry may name several kernels and IOMMUs, and for
attachlab several choices of DMAs (``only``); it then stands for one capture of each, and its
``name`` says where the words go.
"""

import itertools
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import machines
import where


class Kernel(NamedTuple):
    """A kernel the captures speak of: which suite has it, for which architecture."""

    label: str
    suite: str
    arch: str
    release: str  # what its version starts with, so that a moved suite is noticed
    config: str = ""  # built from the suite's source with this configuration


class Capture(NamedTuple):
    """One boot, and what it runs: a script of iotest's, or a module with arguments."""

    name: str
    kernel: Kernel
    iommu: str
    topology: str
    append: str
    script: str | None
    module: str | None
    args: str

    @property
    def suffix(self) -> str:
        """``out``: iotest's transcript. ``log``: the kernel's own, with attachlab's lines."""
        return "log" if self.module else "out"

    @property
    def machine(self) -> str:
        """The first line of the transcript: all that a replay is told about the machine."""
        board = machines.BOARDS[self.kernel.arch]
        program = f"module={self.module}" if self.module else f"script={self.script}"
        line = (
            f"MACHINE arch={board.says} iommu={self.iommu} topology={self.topology} {program} "
            f'append="{self.append}"'
        )
        return f'{line} args="{self.args}"' if self.module else line


SETTINGS = {
    *("name", "kernel", "iommu", "topology", "append"),
    *("script", "module", "args", "only"),
}


class CatalogueError(ValueError):
    """An entry of the catalogue that cannot be booted, with its name and the reason."""


def _entry(kernels: dict[str, Kernel], row: dict[str, Any]) -> list[Capture]:
    name = row.get("name", "an entry without a name")
    unknown = set(row) - SETTINGS
    if unknown:
        raise CatalogueError(f"{name}: unknown settings {', '.join(sorted(unknown))}")
    if ("script" in row) == ("module" in row):
        raise CatalogueError(f"{name}: an entry runs either a script or a module")

    def several(key: str, default: str) -> list[str]:
        value = row.get(key, default)
        return [value] if isinstance(value, str) else list(value)

    choices: dict[str, str] = row.get("only", {"": ""})
    found = []
    for label, iommu, case in itertools.product(
        several("kernel", ""), several("iommu", "intel"), choices
    ):
        if label not in kernels:
            raise CatalogueError(f"{name}: unknown kernel {label!r}")
        if iommu not in machines.IOMMUS:
            raise CatalogueError(f"{name}: unknown iommu {iommu!r}")
        topology = row.get("topology", "single")
        if topology not in machines.TOPOLOGIES:
            raise CatalogueError(f"{name}: unknown topology {topology!r}")
        words = {"kernel": label, "iommu": iommu, "case": case}
        args = row.get("args", "")
        if case:
            args = f"{args} only={choices[case].strip()}"
        found.append(
            Capture(
                name.format(**words),
                kernels[label],
                iommu,
                topology,
                row.get("append", ""),
                row.get("script"),
                row.get("module"),
                args,
            )
        )
    return found


def load(path: Path = where.HERE / "catalogue.toml") -> dict[str, Capture]:
    """All captures by name, in the order of the file."""
    with path.open("rb") as file:
        table = tomllib.load(file)
    kernels = {label: Kernel(label, **row) for label, row in table["kernels"].items()}
    captures: dict[str, Capture] = {}
    for row in table["capture"]:
        for capture in _entry(kernels, row):
            if capture.name in captures:
                raise CatalogueError(f"{capture.name}: two entries of this name")
            captures[capture.name] = capture
    return captures
