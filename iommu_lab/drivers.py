"""Driver rows: what each IOMMU driver can do in each release, and where that was read.

One row of ``data/drivers/drivers.csv`` is one driver in one release. The columns that the model
acts on are words; each word is a small named behaviour in :mod:`iommu_lab.behaviours` and is
explained in ``data/drivers/behaviours.csv``. The other columns say how we know: source, confidence,
and whether the effect is an inference.

A release without a row of its own uses the row of the release it stands on.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from .datafiles import datafile
from .domains import DomainType
from .errors import UnknownName, unknown
from .releases import release as find_release

ALIASES = {
    "qcom": "qcom_iommu",
    "ipmmu": "ipmmu-vmsa",
    "smmuv3": "arm-smmu-v3",
    "smmu": "arm-smmu",
    "spapr": "powerpc-spapr-tce",
    "selftest": "iommufd-selftest",
}


@dataclass(frozen=True, slots=True)
class Driver:
    """One IOMMU driver in one release.

    >>> exynos = driver("exynos", "6.0")
    >>> exynos.detach, exynos.leave
    ('exynos_iommu_detach_device', 'bypass')
    """

    name: str
    release: str
    arch: str
    other_arch: tuple[str, ...]
    accepts: frozenset[DomainType]
    identity: str
    blocked: str
    required_type: DomainType | None
    default_domain: DomainType | None
    detach: str
    set_platform: str
    set_platform_arch: str
    leave: str
    leaves_on_release: str
    release_domain: DomainType | None
    boot: str
    attach: str
    attach_errno: str
    pagetable: str
    pgsizes: int
    unattached_pgsizes: int
    """The page sizes of a domain that was never attached; 0 where they are the same."""
    first: int
    last: int
    aperture_set: str
    deferred_flush: bool
    defers_attach: bool
    null_crash: bool
    body: str
    """The function that was this driver's detach_dev, under whatever op it stands now."""
    grouping: str
    """Who shares a group: devices behind one "iommu", those behind a "unit" with a single
    translation for all, "pci" devices that can't be told apart, or nobody: each has its "own"."""
    keeps: str
    """What the driver keeps on record, which its detach asks before it acts: the domain of each
    "device" (or "device-any": it leaves the recorded one whatever is named), of the "unit", a
    "list" or a single device of each "domain", whether a domain was ever "programmed", a "count" of
    uses, or "none"."""
    shared: frozenset[DomainType]
    """The types of which all groups share one static object."""
    free: str
    free_function: str
    arm_mapping: tuple[int, ...]
    """First and last address of the one mapping that, on 32-bit Arm, every device is attached to
    when its probe ends; empty where binding a driver makes a mapping for each device."""
    dma_range: tuple[int, ...]
    """First and last address that the hardware takes from a device, whatever a domain's aperture
    says; empty where the aperture says it."""
    reports: frozenset[str]
    """The types of reserved regions that its ``get_resv_regions`` can tell the core of."""
    boot_probe: str
    """How the core learns of its devices at boot, where it reports direct regions: all at once when
    a "bus" is scanned, or "device" by device, as firmware's tables are looked at."""
    lazy_attribute: bool
    """Can its domains be told to flush lazily, where that is an attribute and not a type (5.10)?"""
    own_dma_ops: bool
    """Does it map for the DMA API itself, so that no event of the core tells of it (intel 5.10)?"""
    asks_untrusted: bool
    """Does the driver itself ask for DMA for an untrusted device?"""
    source: str
    confidence: str
    inference: bool
    own: tuple[tuple[str, Callable[..., None]], ...] = ()
    """Functions that a reader wrote in place of the driver's: see :mod:`iommu_lab.own`."""
    base: str = ""
    """The driver that a reader's stands on."""
    sees_names: bool = False
    """Does one of them look at a name, so that two devices or domains may not be alike to it?"""
    maker: Any = None
    """The reader's class that made this row, and can make that of another release."""

    def __hash__(self) -> int:
        return hash((self.name, self.release))

    @property
    def known_as(self) -> str:
        """The name by which tables and boot lines know it: its base's, where a reader wrote it."""
        return self.base or self.name

    def own_program(self, name: str) -> Callable[..., None] | None:
        return dict(self.own).get(name)

    def shares(self, kind: DomainType) -> bool:
        """Is a domain of this type one static object, shared by all groups?"""
        return kind in self.shared

    def grouping_on(self, arch: str) -> str:
        """Who shares a group on this architecture; without dma-iommu it may be nobody."""
        there = _grouping().get(self.known_as, {}).get(f"grouping_{arch}")
        return there or self.grouping

    @property
    def arches(self) -> tuple[str, ...]:
        return (self.arch, *self.other_arch)

    def set_platform_on(self, arch: str) -> bool:
        """Is ``set_platform_dma_ops`` compiled in on this architecture?"""
        return bool(self.set_platform) and self.set_platform_arch in ("", arch)


@cache
def _table() -> dict[tuple[str, str], dict[str, str]]:
    with open(datafile("drivers", "drivers.csv"), newline="", encoding="utf-8") as file:
        return {(row["driver"], row["release"]): row for row in csv.DictReader(file)}


@cache
def _grouping() -> dict[str, dict[str, str]]:
    with open(datafile("drivers", "groups.csv"), newline="", encoding="utf-8") as file:
        return {row["driver"]: row for row in csv.DictReader(file)}


@cache
def _records() -> dict[tuple[str, str], dict[str, str]]:
    with open(datafile("drivers", "records.csv"), newline="", encoding="utf-8") as file:
        return {(row["driver"], row["release"]): row for row in csv.DictReader(file)}


@cache
def driver_names() -> tuple[str, ...]:
    """Every driver that any release has, in the order of the table."""
    return tuple(dict.fromkeys(name for name, _ in _table()))


def rows(release: str) -> list[dict[str, str]]:
    """The table's rows that hold for this release, a row a driver, as the file has them."""
    lineage = find_release(release).lineage()
    found = []
    for name in driver_names():
        at = _row_for(name, lineage)
        if at is not None:
            found.append({**at, "release": release})
    return found


def driver(name: str, release: str) -> Driver:
    """The driver of this name (or alias) in this release.

    Raises :class:`~iommu_lab.errors.UnknownName` with the nearest names, or with the releases
    that have the driver when this one has not.
    """
    return _driver(ALIASES.get(name, name), release)


@cache
def _driver(name: str, release: str) -> Driver:
    found = find_release(release)
    if name not in driver_names():
        raise unknown("driver", name, [*driver_names(), *ALIASES])
    row = _row_for(name, found.lineage())
    if row is None:
        have = [r for n, r in _table() if n == name and find_release(r).kind == "mainline"]
        raise UnknownName(f"driver {name!r} is absent from {release}: it is in {', '.join(have)}")
    record = next(_records()[name, at] for at in found.lineage() if (name, at) in _records())
    return Driver(
        name=name,
        release=release,
        arch=row["arch"],
        other_arch=tuple(row["other_arch"].split()),
        accepts=frozenset(DomainType[t] for t in row["accepts"].split()),
        identity=row["identity"],
        blocked=row["blocked"],
        required_type=_type(row["required_type"]),
        default_domain=_type(row["default_domain"]),
        detach=row["detach"],
        set_platform=row["set_platform"],
        set_platform_arch=row["set_platform_arch"],
        leave=row["leave"],
        leaves_on_release=row["release_effect"],
        release_domain=_type(row["release_domain"]),
        boot=row["boot"],
        attach=row["attach"],
        attach_errno=row["attach_errno"],
        pagetable=row["pagetable"],
        pgsizes=int(row["pgsizes"] or "0", 0),
        unattached_pgsizes=int(row["unattached_pgsizes"] or "0", 0),
        first=int(row["aperture_first"] or "0", 0),
        last=int(row["aperture_last"] or "0xffffffffffffffff", 0),
        aperture_set=row["aperture_set"],
        deferred_flush=row["deferred_flush"] == "yes",
        defers_attach=row["defers_attach"] == "yes",
        null_crash=row["v2_null_crash"] == "yes",
        body=_body(name, found.lineage()),
        grouping=_grouping()[name]["grouping"],
        keeps=record["keeps"],
        shared=frozenset(
            kind
            for kind, column in (
                (DomainType.IDENTITY, "identity_object"),
                (DomainType.BLOCKED, "blocked_object"),
            )
            if record[column] == "shared" or row[kind.name.lower()] == "as-detach"
        ),
        free=record["free"],
        free_function=record["function"],
        arm_mapping=tuple(int(end, 0) for end in record["arm_mapping"].split()),
        dma_range=tuple(int(end, 0) for end in record["dma_range"].split()),
        reports=frozenset(record["reports"].split()),
        boot_probe=record["boot_probe"],
        lazy_attribute=record["lazy_attribute"] == "yes",
        own_dma_ops=record["own_dma_ops"] == "yes",
        asks_untrusted=record["untrusted"] == "yes",
        source=f"{row['source_file']}: {row['source_function']} ({row['tree']})",
        confidence=row["confidence"],
        inference=row["inference"] == "yes",
    )


def _row_for(name: str, lineage: tuple[str, ...]) -> dict[str, str] | None:
    """The row of the nearest release, unless the driver is gone or not there yet.

    A hypothetical or stable release without a row of its own takes the one it stands on; a mainline
    release without a row does not have the driver.
    """
    table = _table()
    for at in lineage:
        row = table.get((name, at))
        if row is not None:
            return row
        if find_release(at).kind == "mainline":
            return None
    return None


def _body(name: str, lineage: tuple[str, ...]) -> str:
    """The nearest name of the function that leaves a domain: set_platform_dma_ops or detach_dev."""
    for at in lineage:
        row = _table().get((name, at), {})
        if row.get("set_platform") or row.get("detach"):
            return row["set_platform"] or row["detach"]
    return ""


def _type(word: str) -> DomainType | None:
    return DomainType[word] if word else None
