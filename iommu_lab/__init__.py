"""Which DMA gets through, and to what memory, after each step of the kernel's IOMMU core?

    >>> import iommu_lab as il
    >>> il.releases()[0]
    '5.10'

Names are loaded when they are first asked for. The model's floors need only the
standard library, the checker needs numpy and the face needs pandas; whoever wants
only the floors should not have to install or wait for the rest.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import audit, captures, search
    from .dma import Checker, Verdict
    from .domains import DomainType
    from .errors import KernelCrash, NotInRelease
    from .lab import Lab, drivers, in_hex, releases
    from .machine import Machine
    from .scenario import Scenario

__version__ = "0.1.0"

__all__ = [
    "Checker",
    "DomainType",
    "KernelCrash",
    "Lab",
    "Machine",
    "NotInRelease",
    "Scenario",
    "Verdict",
    "__version__",
    "audit",
    "captures",
    "drivers",
    "in_hex",
    "releases",
    "search",
]

# Where each name of the face lives; a name that is a module lives in itself.
_HOME = {
    "Checker": "dma",
    "DomainType": "domains",
    "KernelCrash": "errors",
    "Lab": "lab",
    "Machine": "machine",
    "NotInRelease": "errors",
    "Scenario": "scenario",
    "Verdict": "dma",
    "audit": "audit",
    "captures": "captures",
    "drivers": "lab",
    "in_hex": "lab",
    "releases": "lab",
    "search": "search",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_HOME[name]}", __name__)
    found: object = module if name == _HOME[name] else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


class _Face(ModuleType):
    """The package itself. Here ``releases`` and ``drivers`` are always the functions.

    The files releases.py and drivers.py share their names with them, and the import
    system would bind a file over the function as soon as any floor imports it: which of
    the two a reader got would depend on what ran before.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name, name) != name:
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
