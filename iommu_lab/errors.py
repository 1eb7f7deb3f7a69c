"""What a verb can answer besides success: the kernel's refusals, its crashes, and our own.

A refusal is the kernel's errno and is raised as ``OSError``. A crash is what would take the kernel
down or hang it. The third kind is ours: a name that does not exist, a verb the release lacks.
"""

from __future__ import annotations

import errno as _errno
import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from sysconfig import get_path
from traceback import extract_tb
from typing import cast


class InOneSentence:
    """A mix-in for an exception whose sentence says all: a notebook shows no line of ours with it.

    What is left of the traceback are the reader's own lines, in the order in which they ran.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of the traceback; it looks for this very name."""
        told = [f"{type(self).__name__}: {self}"]
        error: BaseException | None = cast("BaseException", self)
        while error is not None:
            told[-1:-1] = [
                f"line {at.lineno}, in {at.name}:  {at.line}"
                for at in extract_tb(error.__traceback__)
                if not any(Path(at.filename).is_relative_to(place) for place in NOT_THE_READERS)
            ]
            error = error.__cause__
        return told


NOT_THE_READERS = (Path(__file__).parent, Path(sys.prefix), Path(get_path("stdlib")))
"""Where the code lies that a reader has not written: ours, what is installed, and Python's own."""


class KernelCrash(InOneSentence, Exception):
    """The kernel would dereference NULL, hit BUG() or never return.

    ``function`` is the kernel function, ``reason`` a sentence; the Lab stays readable at the state
    before the verb.
    """

    def __init__(self, function: str, reason: str) -> None:
        super().__init__(f"{function}: {reason}")
        self.function = function
        self.reason = reason


class NotInRelease(InOneSentence, AttributeError):
    """A verb that this kernel release does not have."""


class UnknownName(InOneSentence, ValueError, KeyError):
    """A device, driver, domain or release that does not exist; says which names are near."""

    def __str__(self) -> str:
        return str(self.args[0])


KERNEL_ONLY = {"EPROBE_DEFER": 517, "ENOTSUPP": 524}
"""Numbers that the kernel keeps to itself (include/linux/errno.h)."""
ERRNOS: dict[str, int] = {
    "EOPNOTSUPP" if name == "ENOTSUP" else name: number for number, name in _errno.errorcode.items()
} | KERNEL_ONLY
"""Every errno by the kernel's name: number 95 is EOPNOTSUPP, and only a C library says ENOTSUP."""


_NAMES = {number: name for name, number in ERRNOS.items()}


def refuse(name: str, why: str) -> OSError:
    """The kernel's refusal as an exception: ``refuse("EBUSY", "…")``.

    >>> refuse("EBUSY", "group 0 is attached elsewhere")
    OSError(16, 'EBUSY: group 0 is attached elsewhere')
    """
    return OSError(ERRNOS[name], f"{name}: {why}")


def errno_name(error: OSError) -> str:
    """``EBUSY`` for an error made by :func:`refuse` or by the operating system."""
    number = error.errno or 0
    return _NAMES.get(number) or os.strerror(number)


def unknown(kind: str, name: object, known: Iterable[object]) -> UnknownName:
    """One line that lists the nearest names.

    >>> str(unknown("driver", "exinos", ["amd", "exynos", "intel"]))
    "unknown driver 'exinos': nearest is exynos"
    """
    names = [str(k) for k in known]
    if not names:
        return UnknownName(f"unknown {kind} {str(name)!r}: there is none")
    low = str(name).lower()
    near = [k for k in names if k.lower() == low]
    near = near or get_close_matches(str(name), names, n=3, cutoff=0.5)
    listed = near or names[:12]
    says = f"{'nearest' if near else 'known'} {'is' if len(listed) == 1 else 'are'}"
    return UnknownName(f"unknown {kind} {str(name)!r}: {says} {', '.join(listed)}")
