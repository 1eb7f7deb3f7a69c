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

The base's records are kept for you: a device that is translated is on the books as the base would
have it there, one that is blocked or detached is off them. What a driver of your own remembers
beyond that has to be part of the state, or going back and searching would mix up what happened in
different states: so a method may keep nothing in ``self`` or in a list outside. It asks
:meth:`Registers.remember`, which stands for a field of the device's or the domain's own struct and
goes when that struct is freed.

Where this stops: the hardware here can do whatever :class:`Registers` offers, even where the real
one can't. What a method reads from a file, a clock or an object of another class is not noticed.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import CodeType, FunctionType
from typing import Any

from . import behaviours
from .domains import Domain, DomainType
from .drivers import Driver, driver
from .errors import ERRNOS, InOneSentence, KernelCrash, errno_name, refuse, unknown
from .hardware import BLOCK, BYPASS, Entry, Frozen, Kind
from .releases import release as find_release
from .state import World

METHODS = ("attach", "detach", "blocking", "identity")

UNSUITED = {
    "msm": "each attach takes a context bank and makes a page table",
    "tegra-gart": "its one window is shared by the whole machine",
    "fsl_pamu": "it has windows and no page tables",
    "powerpc-spapr-tce": "its tables belong to the platform",
    "iommufd-selftest": "its devices make no DMA",
}
"""Drivers whose hardware is not a translation for each device, and what it is instead."""

PLAIN = (type(None), bool, int, str)


class OwnDriverError(InOneSentence, Exception):
    """A driver of your own does what no driver can, or what the lab could not follow."""


class Registers:
    """One device's translation, as a driver can write it while one of its methods runs."""

    def __init__(self, world: World, device: str, program: Program) -> None:
        self._world = world
        self._program = program
        self.device = device
        self.said = False
        """Has the method written to the hardware, or said that it leaves it as it is?"""
        self.kept = False
        """Has the base's function run, which keeps its records itself?"""

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
        self._write(BLOCK)

    def bypass(self) -> None:
        """Translation is off: every address reaches memory as it is."""
        self._write(BYPASS)

    def translate(self, domain: Domain | str | None) -> None:
        """The domain's page table decides, and the driver's records say so.

        A domain that is freed, or none at all, is a pointer that the kernel follows into a crash.
        """
        self.said = True
        if domain is None:
            raise KernelCrash(self._program.title, "handed no domain, it follows a NULL pointer")
        name = domain if isinstance(domain, str) else getattr(domain, "name", None)
        if not isinstance(name, str):
            raise OwnDriverError(f"translate() takes a domain or its name, got {domain!r}")
        at = self._world.domains.get(name)
        if at is None or at.freed:
            raise KernelCrash(self._program.title, f"{name} is freed, and its table is programmed")
        if at.table is None:
            raise OwnDriverError(
                f"{self._program.title} translates through {name}, "
                f"and a domain of type {at.type} has no page table"
            )
        behaviours.enter(self._world, at, self.device)

    def platform(self) -> None:
        """The platform's DMA ops get the device back, with a new and empty table."""
        self.said = True
        behaviours.leave_platform(self._world, self.device)

    def switch_off(self) -> None:
        """Switch the IOMMU off without knowing whether that passes or stops DMA."""
        self._write(Entry(Kind.UNKNOWN, why="switched off, effect unknown"))

    def keep(self) -> None:
        """Write nothing, and mean it: the hardware goes on doing what it does."""
        self.said = True

    def remember(self, word: str, value: Any, domain: Domain | None = None) -> None:
        """Keep a value in the device's own struct, or in the domain's; None forgets it.

        Texts, numbers, truth values, and tuples of them; a domain is kept by its name. It is
        forgotten when the device is released, or the domain freed.
        """
        value = value.name if isinstance(value, Domain) else value
        if not _plain(value):
            raise OwnDriverError(
                f"{self._program.title} remembers {value!r} as {word!r}: "
                "only texts, numbers, truth values and tuples of them can be part of a state"
            )
        place, kept = self._memory(domain)
        if value is None:
            kept = kept.drop(word)
        elif isinstance(word, str):
            kept = kept.set(word, value)
        else:
            raise OwnDriverError(f"a memory has a word for a name, got {word!r}")
        if kept:
            self._world.notes[place] = kept
        else:
            self._world.notes.pop(place, None)

    def recall(self, word: str, domain: Domain | None = None) -> Any:
        """What was remembered under this word for the device, or for the domain; else None."""
        return self._memory(domain)[1].get(word)

    def _memory(self, domain: Domain | None) -> tuple[str, Frozen[str, Any]]:
        if domain is None:
            place = behaviours.memory_of_device(self.device)
        elif isinstance(domain, Domain):
            place = behaviours.memory_of_domain(domain.name)
        else:
            raise OwnDriverError(f"a memory is the device's or a domain's, got {domain!r}")
        return place, self._world.notes.get(place, Frozen())

    def _write(self, entry: Entry) -> None:
        self.said = True
        behaviours.write(self._world, self.device, entry)

    def _as_base(self, name: str, domain: Domain | None) -> None:
        """What the base driver does here, as ``super()`` asks for it."""
        base, world = self._program.row, self._world
        there = {
            "attach": True,
            "detach": bool(base.body),
            "blocking": base.blocked in behaviours.BLOCKED,
            "identity": base.identity in behaviours.IDENTITY,
        }[name]
        if not there:
            raise OwnDriverError(f"{base.name} has no {name} of its own in Linux {base.release}")
        self.said = self.kept = True
        kernel = world.kernel
        world.kernel = replace(kernel, driver=base)
        try:
            if name == "detach":
                behaviours.detach(world, domain, self.device)
            else:
                assert domain is not None
                behaviours.attach(world, domain, self.device)
        finally:
            world.kernel = kernel


class OwnDriver:
    """A driver of your own: ``base`` names the real one whose other properties it keeps.

    Define any of the four methods; ``super()`` in one of them is what the base does. A driver that
    defines ``blocking`` or ``identity`` has such a domain to give; ``domain`` is what the kernel
    hands over. A method ends with a write to ``iommu``, or with ``iommu.keep()``; or it refuses, as
    in the kernel, with ``return -errno.EBUSY`` or an ``OSError``. A helper's name starts with _.
    """

    base = "s390"

    def attach(self, iommu: Registers, domain: Domain) -> int | None:
        iommu._as_base("attach", domain)
        return None

    def detach(self, iommu: Registers, domain: Domain) -> None:
        iommu._as_base("detach", domain)

    def blocking(self, iommu: Registers, domain: Domain) -> int | None:
        iommu._as_base("blocking", domain)
        return None

    def identity(self, iommu: Registers, domain: Domain) -> int | None:
        iommu._as_base("identity", domain)
        return None

    def __setattr__(self, name: str, value: object) -> None:
        raise OwnDriverError(
            f"{type(self).__name__} keeps self.{name}, which is no part of a state: "
            f"use iommu.remember({name!r}, ...), or write a constant into the class body"
        )

    @classmethod
    def as_driver(cls, release: str) -> Driver:
        """The row of the base driver in this release, with the methods that this class defines.

        Raises :class:`OwnDriverError`, or :class:`~iommu_lab.errors.UnknownName` for a base that
        the release does not have and for a method that no driver has.
        """
        if not isinstance(cls.base, str):
            raise OwnDriverError(f"{cls.__name__}.base is the name of a driver, got {cls.base!r}")
        row = driver(cls.base, release)
        if row.name in UNSUITED:
            raise OwnDriverError(f"{row.name} can't be a base: {UNSUITED[row.name]}")
        made = _defined(cls)
        if not made:
            raise OwnDriverError(
                f"{cls.__name__} defines none of {', '.join(METHODS)}: it is {row.name} as it is"
            )
        detaches = "detach" in made
        if detaches and not _leaves(row, release):
            raise OwnDriverError(
                f"Linux {release} never calls a detach of {row.name}: define blocking or identity"
            )
        renames = detaches and find_release(release)["set_null"] == "set_platform"
        accepts = set(row.accepts)
        for name, kind in (("blocking", DomainType.BLOCKED), ("identity", DomainType.IDENTITY)):
            if name in made:
                accepts.add(kind)
        mine = f"{cls.__name__}.detach"
        return replace(
            row,
            name=cls.__name__,
            accepts=frozenset(accepts),
            blocked="block" if "blocking" in made else row.blocked,
            identity="bypass" if "identity" in made else row.identity,
            detach=mine if detaches and not renames else row.detach,
            set_platform=mine if renames else row.set_platform,
            set_platform_arch="" if renames else row.set_platform_arch,
            body=mine if detaches else row.body,
            own=tuple((name, Program(cls, name, row)) for name in made),
            base=row.name,
            sees_names=_sees_names(cls),
            maker=cls,
        )


@dataclass(frozen=True, slots=True)
class Program:
    """One method of a reader's class, as the model calls it in place of the base's function."""

    cls: type[OwnDriver]
    name: str
    row: Driver

    @property
    def title(self) -> str:
        return f"{self.cls.__name__}.{self.name}"

    def __call__(self, world: World, domain: Domain | None, device: str) -> None:
        iommu = Registers(world, device, self)
        try:
            answer = getattr(self.cls(), self.name)(iommu, domain)
        except (KernelCrash, OwnDriverError):
            raise
        except OSError as error:
            self._refuse(error.errno, str(error))
        except Exception as error:
            if domain is None and isinstance(error, AttributeError) and error.obj is None:
                text = "handed no domain, it follows a NULL pointer"
                raise KernelCrash(self.title, text) from error
            says = f"{self.title} raised {type(error).__name__}: {error}"
            raise OwnDriverError(says) from error
        else:
            self._judge(answer, iommu)
            if self.name == "detach" and domain is not None and not iommu.kept:
                behaviours.forget(world, world.domains[domain.name], device)

    def _judge(self, answer: object, iommu: Registers) -> None:
        """What a method returned, and whether it has spoken to the hardware at all."""
        if type(answer) is int and answer < 0:
            self._refuse(-answer, f"{self.title} refused {iommu.device}")
        if callable(answer):
            name = getattr(answer, "__name__", repr(answer))
            raise OwnDriverError(f"{self.title} returned {name} and did not call it: {name}()")
        if answer is not None and not (type(answer) is int and answer == 0):
            raise OwnDriverError(
                f"{self.title} returned {answer!r}: return nothing, 0, or a negative errno"
            )
        if not iommu.said:
            raise OwnDriverError(
                f"{self.title} wrote nothing to the hardware: "
                "end it with a write such as iommu.block(), or with iommu.keep() if you mean it"
            )

    def _refuse(self, number: int | None, says: str) -> None:
        if self.name == "detach":
            raise OwnDriverError(f"{self.title} refuses ({says}), and a detach has no result")
        if number not in ERRNOS.values():
            raise OwnDriverError(f"{self.title} refuses with {number!r}, which is no errno")
        why = says.partition(": ")[2] or says
        raise refuse(errno_name(OSError(number, "")), why)


# -- is this a driver at all? ----------------------------------------------------------------------


def _defined(cls: type[OwnDriver]) -> list[str]:
    """The methods that a class defines, itself or in what it inherits; checked one by one."""
    above = cls.__mro__[: cls.__mro__.index(OwnDriver)]
    found = {name: value for part in reversed(above) for name, value in vars(part).items()}
    for name, value in found.items():
        title = f"{cls.__name__}.{name}"
        if name in METHODS:
            _check_method(cls, name)
        elif callable(value) and not name.startswith("_"):
            raise unknown(f"driver method in {cls.__name__}:", name, METHODS)
        elif "base" not in found and get_close_matches(name.lower(), ["base"], cutoff=0.8):
            raise OwnDriverError(f"{title} is nothing that is looked at: write base = {value!r}")
        elif not name.startswith("__"):
            _check_constant(title, value)
        function = getattr(value, "__func__", value)  # of a static method
        if inspect.isfunction(function):
            _check_writes(title, function)
    return [name for name in METHODS if name in found]


def _check_method(cls: type[OwnDriver], name: str) -> None:
    title, method = f"{cls.__name__}.{name}", getattr(object.__new__(cls), name)
    if not callable(method):
        raise OwnDriverError(f"{title} is {method!r}, and not a function")
    try:
        signature = inspect.signature(method)
        signature.bind(object(), object())
    except TypeError:
        shown = inspect.signature(getattr(cls, name))
        says = f"{title} takes (self, iommu, domain), yours takes {shown}"
        raise OwnDriverError(says) from None
    if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
        raise OwnDriverError(f"{title} has to run at once: no yield, no async")
    plain = inspect.unwrap(getattr(method, "__func__", method))
    if inspect.isfunction(plain):
        outside = inspect.getclosurevars(plain)
        for word, value in {**outside.globals, **outside.nonlocals}.items():
            _check_constant(f"{word}, used in {title},", value)


def _check_writes(title: str, function: FunctionType) -> None:
    """Refuse a write to anything that outlives the call: an attribute, a name of the module."""
    outside = function.__code__.co_freevars
    for code in _codes(function.__code__):
        for step in dis.get_instructions(code):
            free = step.opname == "STORE_DEREF" and step.argval in outside
            if free or step.opname in ("STORE_ATTR", "STORE_GLOBAL"):
                raise OwnDriverError(
                    f"{title} keeps {step.argval!r} outside of any state: "
                    f"use iommu.remember({step.argval!r}, ...), or write a constant into the class"
                )
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        _check_constant(f"a default in {title}", value)


def _check_constant(what: str, value: object) -> None:
    if isinstance(value, (list, dict, set, bytearray)):
        raise OwnDriverError(
            f"{what} is a {type(value).__name__} and could change outside of any state: "
            "use a tuple, or iommu.remember(...)"
        )


NAMED = {"device", "name", "users", "attached", "getattr"}
"""Attributes that lead to the name of a device or a domain."""


def _sees_names(cls: type[OwnDriver]) -> bool:
    """Does any method look at a name, itself or in a function of the reader's own?"""
    above = cls.__mro__[: cls.__mro__.index(OwnDriver)]
    for part in above:
        for function in filter(inspect.isfunction, vars(part).values()):
            outside = inspect.getclosurevars(function)
            if any(map(inspect.isfunction, {**outside.globals, **outside.nonlocals}.values())):
                return True
            if any(NAMED & set(code.co_names) for code in _codes(function.__code__)):
                return True
    return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _leaves(row: Driver, release: str) -> bool:
    """Does this release, or what is left of the driver in it, ever call a function to leave?"""
    has_op = find_release(release)["set_null"] in ("detach_dev", "set_platform")
    return has_op or "as-detach" in (row.blocked, row.identity)


def _plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain, value))
    return type(value) in PLAIN
