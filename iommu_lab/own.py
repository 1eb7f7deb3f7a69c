"""Your own driver: change a few lines of one, and ask what the kernel would make of it.

A subclass of :class:`OwnDriver` starts from a real driver's row and replaces what it defines: each
method gets the translation registers of one device and writes them.

>>> class NoBypass(OwnDriver):
...     base = "exynos"
...     def blocking(self, iommu, domain):
...         iommu.block()
>>> from iommu_lab.lab import Lab
>>> lab = Lab("6.0", NoBypass)
>>> lab.claim_dma_owner(0, "user"), lab.belief(0).name, lab.hardware("dev0").kind.value
(0, 'BLOCKED', 'blocked')
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import behaviours
from .domains import Domain, DomainType
from .drivers import Driver, driver
from .errors import unknown
from .hardware import BLOCK, BYPASS, Entry, Kind
from .state import World

METHODS = ("attach", "detach", "blocking", "identity")


class Registers:
    """One device's translation, as a driver can write it."""

    def __init__(self, world: World, device: str) -> None:
        self._world = world
        self.device = device

    @property
    def now(self) -> Entry:
        """What the hardware does with the device at this moment."""
        return self._world.entries[self.device]

    @property
    def attached(self) -> Domain | None:
        """``iommu_get_domain_for_dev``: what the core thinks is attached."""
        return behaviours.current(self._world, self.device)

    def block(self) -> None:
        """No translation is valid: every access faults."""
        self._world.program(self.device, BLOCK)

    def bypass(self) -> None:
        """Translation is off: every address reaches memory as it is."""
        self._world.program(self.device, BYPASS)

    def translate(self, domain: Domain) -> None:
        """The domain's page table decides."""
        behaviours.into(self._world, self._world.domains[domain.name], self.device)

    def platform(self) -> None:
        """The platform's DMA ops get the device back, with a new and empty table."""
        behaviours.leave_platform(self._world, self.device)

    def switch_off(self) -> None:
        """Switch the IOMMU off without knowing whether that passes or stops DMA."""
        self._world.program(self.device, Entry(Kind.UNKNOWN, why="switched off, effect unknown"))


class OwnDriver:
    """A driver of your own: ``base`` names the real one whose other properties it keeps.

    Define any of ``attach(self, iommu, domain)``, ``detach(self, iommu, domain)``,
    ``blocking(self, iommu, domain)`` and ``identity(self, iommu, domain)``. A driver that defines
    ``blocking`` or ``identity`` has such a domain to give; ``domain`` is what the kernel
    hands over.
    """

    base = "s390"

    @classmethod
    def as_driver(cls, release: str) -> Driver:
        """The row of the base driver in this release, with the methods that this class defines."""
        row = driver(cls.base, release)
        made = [name for name in METHODS if callable(getattr(cls, name, None))]
        for name in vars(cls):
            if callable(vars(cls)[name]) and not name.startswith("_") and name not in METHODS:
                raise unknown("driver method", name, METHODS)
        accepts = set(row.accepts)
        for name, kind in (("blocking", DomainType.BLOCKED), ("identity", DomainType.IDENTITY)):
            if name in made:
                accepts.add(kind)
        return replace(
            row,
            name=cls.__name__,
            accepts=frozenset(accepts),
            blocked="block" if "blocking" in made else row.blocked,
            identity="bypass" if "identity" in made else row.identity,
            detach=f"{cls.__name__}.detach" if "detach" in made else row.detach,
            body=f"{cls.__name__}.detach" if "detach" in made else row.body,
            own=tuple((name, _program(cls(), name)) for name in made),
        )


def _program(instance: OwnDriver, name: str) -> Callable[..., None]:
    method = getattr(instance, name)

    def run(world: World, domain: Domain, device: str) -> None:
        method(Registers(world, device), domain)

    return run
