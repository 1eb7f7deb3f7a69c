"""The boot line: what stays fixed once a kernel runs, read from a lab's arguments.

Which release, which driver row, which architecture; and what the words of the boot line make of
pass-through, of strict unmap, and of an IOMMU that is switched off. Words that no rule here knows
are kept and have no effect.

Where it stops: the configuration is that of a distribution kernel (lazy unmap on x86 and s390,
strict elsewhere, as drivers/iommu/Kconfig has it by default; 5.15 to 7.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True)
class Words:
    """A boot line taken apart: names and settings in their order, since a later word wins.

    A dash in a name is as good as an underscore (parameq in kernel/params.c).

    >>> words = Words.of("intel-iommu=on iommu=pt intel_iommu=sm_on")
    >>> words.options("intel_iommu"), words.has("iommu", "pt")
    (['on', 'sm_on'], True)
    """

    said: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, cmdline: str) -> Words:
        pairs = (word.partition("=")[::2] for word in cmdline.split())
        return cls(tuple((name.replace("-", "_"), setting) for name, setting in pairs))

    def options(self, name: str) -> list[str]:
        """What follows this name, all of it: a word may be said twice, and hold a list."""
        return [o for word, setting in self.said if word == name for o in setting.split(",")]

    def has(self, name: str, option: str) -> bool:
        return option in self.options(name)

    def chosen(self, name: str, yes: str, no: str, otherwise: bool) -> bool:
        """Which of two options was said last."""
        found = [option == yes for option in self.options(name) if option in (yes, no)]
        return found[-1] if found else otherwise

    def switch(self, name: str, otherwise: bool) -> bool:
        """A yes or no, as kstrtobool reads it; what it can't read changes nothing."""
        for setting in (setting.lower() for word, setting in self.said if word == name):
            otherwise = _truth(setting, otherwise)
        return otherwise

    @property
    def bounces(self) -> bool:
        """Is every direct mapping to be a copy elsewhere, whatever the device can address?"""
        return self.has("swiotlb", "force")

    def stops_x86(self, release: Release) -> bool:
        """Do x86's own IOMMUs stay off, as these words have it?

        Up to 5.15 whoever asked for bounce buffers got them in the place of an IOMMU.
        """
        buffers = self.bounces or self.has("iommu", "soft")
        return self.has("iommu", "off") or (release["iommu.soft"] == "instead" and buffers)

    def passes_through(self, arch: str) -> bool:
        """Is the default domain to be pass-through? x86 has a word of its own for it."""
        answer = False
        for name, setting in self.said:
            if name == "iommu.passthrough":
                answer = _truth(setting.lower(), answer)
            elif name == "iommu" and arch == "x86_64":
                answer = Words(((name, setting),)).chosen("iommu", "pt", "nopt", answer)
        return answer


def _truth(word: str, otherwise: bool) -> bool:
    if word in ("on", "off"):
        return word == "on"
    return {"1": True, "y": True, "t": True, "0": False, "n": False, "f": False}.get(
        word[:1], otherwise
    )


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
    words = Words.of(cmdline)
    if _switched_off(words, row.known_as, found, arch):
        machine = replace(machine, no_iommu=tuple(d.name for d in machine.devices))
    if row.known_as == "intel" and "sp_off" in _own_words(words, "intel"):
        row = replace(row, pgsizes=_without_large_pages(row.pgsizes))
    return Kernel(
        found,
        row,
        machine,
        arch,
        cmdline,
        passthrough=words.passes_through(arch),
        strict=_is_strict(words, row, found, machine, arch),
        disable_bypass=words.switch(f"{row.known_as.replace('-', '_')}.disable_bypass", True),
    )


DRIVER_WORDS = {"amd": "amd_iommu", "intel": "intel_iommu", "s390": "s390_iommu"}
"""The boot-line words of drivers that have their own."""


def _own_words(words: Words, driver: str) -> list[str]:
    return words.options(DRIVER_WORDS.get(driver, ""))


def _without_large_pages(pgsizes: int) -> int:
    """``sp_off``; a driver that takes any power of two goes on saying so (5.10)."""
    smallest = pgsizes & -pgsizes
    return pgsizes if pgsizes == -smallest & 2**64 - 1 else smallest


def _switched_off(words: Words, driver: str, release: Release, arch: str) -> bool:
    # The words that stop x86's own IOMMUs (no_iommu) are not asked for by virtio's driver.
    own = arch == "x86_64" and driver in ("amd", "intel")
    if own and words.stops_x86(release):
        return True
    # Intel's can be switched on again by a later word, the others' can't.
    if driver == "intel":
        return not words.chosen("intel_iommu", "on", "off", True)
    return "off" in _own_words(words, driver)


def _is_strict(words: Words, driver: Driver, release: Release, machine: Machine, arch: str) -> bool:
    """Is the IOTLB flushed at each unmap? The driver's own word or an emulator's decides first."""
    minded = ("intel", "amd") if release["amd.np_cache"] == "strict" else ("intel",)
    emulated = machine.caching_mode and driver.known_as in minded
    if emulated or {"strict", "fullflush"} & set(_own_words(words, driver.known_as)):
        return True
    lazy_by_default = arch in ("x86_64", "s390x")
    if release["flush_queue"] == "attribute" and lazy_by_default:
        return False  # in 5.10 the drivers of x86 do not look at iommu.strict
    return words.switch("iommu.strict", not lazy_by_default)
