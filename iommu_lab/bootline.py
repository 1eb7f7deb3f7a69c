"""The boot line: what stays fixed once a kernel runs, read from a lab's arguments.

Which release, which driver row, which architecture; and what the words of the boot line make of
pass-through, of strict unmap, and of an IOMMU that is switched off. Words that no rule here knows
are kept and have no effect.

Where it stops: the configuration is that of a distribution kernel (lazy unmap on x86 and s390,
strict elsewhere, as drivers/iommu/Kconfig has it by default; 5.15 to 7.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from .drivers import Driver
from .drivers import driver as find_driver
from .errors import unknown
from .machine import X86_INTERRUPTS, Machine
from .releases import Release
from .releases import release as find_release
from .state import Kernel


class GivesDriver(Protocol):
    """Something that a driver can be made of: a reader's own driver class."""

    def as_driver(self, release: str) -> Driver: ...


def to_driver(driver: str | Driver | GivesDriver, release: str) -> Driver:
    """The driver row of a name, of a row, or of a reader's own driver class.

    Raises ``TypeError`` for what is none of them.
    """
    if isinstance(driver, Driver):
        return driver
    if isinstance(driver, str):
        return find_driver(driver, release)
    if not hasattr(driver, "as_driver"):
        raise TypeError(f"a driver is a name, or a class made from OwnDriver; got {driver!r}")
    return driver.as_driver(release)


def make_kernel(
    release: str,
    driver: str | Driver | GivesDriver,
    machine: Machine | None,
    cmdline: str,
    arch: str | None,
) -> Kernel:
    """The fixed circumstances of a lab, read from its arguments."""
    found = find_release(release)
    row = to_driver(driver, release)
    arch = arch or row.arch
    if arch not in row.arches:
        raise unknown(f"architecture for {row.name}", arch, row.arches)
    if machine is None:
        machine = Machine(msi=(X86_INTERRUPTS,) if arch == "x86_64" else ())
    words = dict(w.partition("=")[::2] for w in cmdline.split())
    if _switched_off(words, row.known_as, arch):
        machine = replace(machine, no_iommu=tuple(d.name for d in machine.devices))
    if row.known_as == "intel" and "sp_off" in _own_words(words, "intel"):
        row = replace(row, pgsizes=_without_large_pages(row.pgsizes))
    passthrough = arch == "x86_64" and "pt" in words.get("iommu", "").split(",")
    return Kernel(
        found,
        row,
        machine,
        arch,
        cmdline,
        passthrough=_switch(words, "iommu.passthrough", passthrough),
        strict=_is_strict(words, row, found, machine, arch),
        disable_bypass=_switch(words, f"{row.known_as}.disable_bypass", True),
    )


DRIVER_WORDS = {"amd": "amd_iommu", "intel": "intel_iommu", "s390": "s390_iommu"}
"""The boot-line words of drivers that have their own."""


def _switch(words: Mapping[str, str], name: str, otherwise: bool) -> bool:
    """A yes or no of the boot line, as kstrtobool reads it."""
    word = words.get(name, "").lower()
    if word in ("on", "off"):
        return word == "on"
    return {"1": True, "y": True, "t": True, "0": False, "n": False, "f": False}.get(
        word[:1], otherwise
    )


def _own_words(words: Mapping[str, str], driver: str) -> list[str]:
    return words.get(DRIVER_WORDS.get(driver, ""), "").split(",")


def _without_large_pages(pgsizes: int) -> int:
    """``sp_off``; a driver that takes any power of two goes on saying so (5.10)."""
    smallest = pgsizes & -pgsizes
    return pgsizes if pgsizes == -smallest & 2**64 - 1 else smallest


def _switched_off(words: Mapping[str, str], driver: str, arch: str) -> bool:
    # The word that stops x86's own IOMMUs (no_iommu) is not asked for by virtio's driver.
    stopped = arch == "x86_64" and driver in ("amd", "intel")
    off = stopped and "off" in words.get("iommu", "").split(",")
    return off or "off" in _own_words(words, driver)


def _is_strict(
    words: Mapping[str, str], driver: Driver, release: Release, machine: Machine, arch: str
) -> bool:
    """Is the IOTLB flushed at each unmap? The driver's own word or an emulator's decides first."""
    minded = ("intel", "amd") if release["amd.np_cache"] == "strict" else ("intel",)
    emulated = machine.caching_mode and driver.known_as in minded
    if emulated or {"strict", "fullflush"} & set(_own_words(words, driver.known_as)):
        return True
    lazy_by_default = arch in ("x86_64", "s390x")
    if release["flush_queue"] == "attribute" and lazy_by_default:
        return False  # in 5.10 the drivers of x86 do not look at iommu.strict
    return _switch(words, "iommu.strict", not lazy_by_default)
