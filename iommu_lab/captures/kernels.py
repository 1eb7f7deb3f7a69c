"""Which release is this kernel, and what was it built with?

``uname -r`` is all that a transcript says about its kernel. Debian's kernels name their series and
a counter of their own ("6.1.0-56-amd64"), so the point release is the newest of that series that
has a row. What a kernel can do also depends on its configuration: ``data/releases/builds.csv`` has
a line for each build that was read.

Where it stops: a point release between two rows is taken for the older one.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache

from ..datafiles import datafile
from ..releases import known
from ..releases import release as find_release

ARCHES = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64", "s390x": "s390x"}


@dataclass(frozen=True, slots=True)
class Build:
    """A kernel as it was built: its release and the options that a replay can tell apart."""

    release: str
    arch: str
    iommufd: bool
    noiommu: bool
    virtio_iommu: bool
    scalable_mode: bool
    """Does the Intel driver use scalable mode without being asked to?"""
    intel_on: bool
    """Is the Intel driver on without ``intel_iommu=on``?"""
    lazy: bool
    agp: bool
    """Is a driver built in that looks at the host bridge of a PC at boot?"""
    extended: bool
    """Can it read extended configuration space, where Access Control Services are?"""
    shpc: bool
    """Is the driver of hot-plug bridges built in?"""
    vfio: bool
    virtio_pci_built_in: bool
    virtio_iommu_built_in: bool
    """Else they are there only once init inserts them, if the kernel has them at all."""


def build_of(uname: str, arch: str) -> Build:
    """The build behind a ``uname -r``.

    >>> debian = build_of("6.12.118+deb13-amd64", "x86_64")
    >>> build_of("6.1.0-56-amd64", "x86_64").release, debian.iommufd
    ('6.1.192', False)

    Raises ``ValueError`` for text that is no kernel version.
    """
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(.*)$", uname)
    if found is None:
        raise ValueError(f"a kernel version starts with two numbers, got {uname!r}")
    debian = "deb" in found[4] or re.search(r"-(amd64|arm64|s390x)$", found[4]) is not None
    series = (int(found[1]), int(found[2]))
    counted = debian and re.match(r"-\d+-", found[4]) is not None
    point = None if counted else int(found[3] or 0)
    return _with_options(_release(series, point), "debian" if debian else "own", arch)


def _number(name: str) -> tuple[int, ...] | None:
    return tuple(int(n) for n in name.split(".")) if re.fullmatch(r"[\d.]+", name) else None


def _release(series: tuple[int, int], point: int | None) -> str:
    numbers = {name: n for name in known() if (n := _number(name)) is not None}
    if point is None:
        wanted: tuple[int, ...] = (*series, 10**9)
    else:
        wanted = (*series, point)
    older = [name for name, n in numbers.items() if n <= wanted]
    if not older:
        return min(numbers, key=numbers.__getitem__)
    return max(older, key=numbers.__getitem__)


@cache
def _builds() -> tuple[dict[str, str], ...]:
    with open(datafile("releases", "builds.csv"), newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def _with_options(release: str, build: str, arch: str) -> Build:
    lineage = find_release(release).lineage()
    lines = [b for b in _builds() if b["build"] == build and b["arch"] == arch]
    row = next((b for name in lineage for b in lines if b["release"] == name), lines[0])
    return Build(
        release,
        arch,
        **{o: row[o] == "yes" for o in Build.__slots__ if o not in ("release", "arch")},
    )
