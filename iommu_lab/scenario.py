"""Scenarios: the whole situation as one value, and that value as a file a person can read.

A scenario says which kernel, which driver, which machine, which verbs were called, and what of it
is looked at. Playing it again gives the lab as it was, because a lab depends on nothing else.

The file is TOML and data only: a verb is a word from :data:`VERBS`, its arguments are checked one
by one, and nothing in it is ever run as code. A file that is not a scenario is refused in one line
that names the file, the key and the rule.

Where it stops: answers are not stored. A newer model may play an old scenario to another end.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from .domains import DomainType
from .drivers import driver as find_driver
from .errors import KernelCrash, NotInRelease, UnknownName, unknown
from .hardware import TOP
from .lab import Lab, Step
from .machine import RESERVED_TYPES, Device, Machine, Region, Reserved
from .releases import release as find_release

SCHEMA, VERSION = "iommu_lab scenario", 1
LARGEST = 1_000_000
"""Bytes of the longest file that is read."""
MOST = {"steps": 10_000, "machine.devices": 1_000, "machine.memory": 1_000}


class NotAScenario(ValueError):
    """Not a scenario; one line says where and by which rule."""


# -- what may stand where --------------------------------------------------------------------------
# A kind takes a value and returns it as the model wants it, or raises NotAScenario with the rule.

Kind = Callable[[Any], Any]


def _is(what: str, value: object) -> NotAScenario:
    shown = hex(value) if type(value) is int and value >= 4096 else repr(value)
    return NotAScenario(f"must be {what}, got {shown if len(shown) <= 60 else shown[:57] + '...'}")


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise _is("text in quotes", value)
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _is("true or false", value)
    return value


def _whole(most: int, what: str) -> Kind:
    def kind(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise _is(what, value)
        return value

    return kind


def _one_of(words: Iterable[str]) -> Kind:
    known = tuple(words)

    def kind(value: Any) -> str:
        if _word(value) not in known:
            raise _is(f"one of {', '.join(map(repr, known))}", value)
        return str(value)

    return kind


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise _is("a number of milliseconds, 0 or more", value)
    return float(value)


def _list_of(kind: Kind) -> Kind:
    def each(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise _is("a list", value)
        return tuple(_at(f"[{number}]", kind, item) for number, item in enumerate(value))

    return each


def _table_of(make: Callable[..., Any], keys: Mapping[str, Kind], needed: Iterable[str]) -> Kind:
    required = tuple(needed)

    def table(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _is("a table", value)
        for key in value:
            if key not in keys:
                raise NotAScenario(f"{unknown('key', key, keys)}")
        for key in required:
            if key not in value:
                raise NotAScenario(f"has no {key!r}")
        return make(**{key: _at(f".{key}", keys[key], item) for key, item in value.items()})

    return table


def _range(value: Any) -> tuple[int, int]:
    first, last = _table_of(_Pair, {"first": _address, "last": _address}, ("first", "last"))(value)
    if first > last:
        raise NotAScenario(f"needs first <= last, got first={first:#x}, last={last:#x}")
    return first, last


def _at(where: str, kind: Kind, value: Any) -> Any:
    """``kind(value)``, with the place put before whatever it complains of."""
    try:
        return kind(value)
    except NotAScenario as error:
        said = str(error)
        raise NotAScenario(f"{where}{said if said[0] in '.[' else ': ' + said}") from None


class _Pair(NamedTuple):
    first: int
    last: int


_address = _whole(TOP, "an address, a whole number from 0 to 2**64 - 1")
_bytes = _whole(TOP, "a number of bytes, whole and from 0 to 2**64 - 1")
_number = _whole(2**31 - 1, "a whole number, 0 or more")


class Argument(NamedTuple):
    """One argument of a verb: its name as in :class:`~iommu_lab.lab.Lab`, and what it may be."""

    name: str
    kind: Kind
    optional: bool = False


def _verb(**kinds: Kind) -> tuple[Argument, ...]:
    return tuple(Argument(name, kind) for name, kind in kinds.items())


_prot = _one_of(("rw", "r", "w", ""))
_owner = (Argument("owner", _word, optional=True),)

VERBS: dict[str, tuple[Argument, ...]] = {
    "alloc_domain": _verb(kind=_one_of(("unmanaged", "identity", "blocked", "dma", "dma-fq"))),
    "free_domain": _verb(domain=_word),
    "map": _verb(domain=_word, iova=_address, paddr=_address, size=_bytes, prot=_prot),
    "map_many": _verb(
        domain=_word,
        iova=_list_of(_address),
        paddr=_list_of(_address),
        size=_list_of(_bytes),
        prot=_prot,
    ),
    "unmap": _verb(domain=_word, iova=_address, size=_bytes),
    "attach_device": _verb(domain=_word, device=_word),
    "detach_device": _verb(domain=_word, device=_word),
    "attach_group": _verb(domain=_word, group=_number),
    "detach_group": _verb(domain=_word, group=_number),
    "replace_domain": _verb(domain=_word, group=_number),
    "claim_dma_owner": (*_verb(group=_number), *_owner),
    "release_dma_owner": _verb(group=_number),
    "claim_device": (*_verb(device=_word), *_owner),
    "release_device_owner": _verb(device=_word),
    "use_default_domain": _verb(device=_word),
    "unuse_default_domain": _verb(device=_word),
    "set_group_type": _verb(group=_number, word=_word),
    "bind": _verb(device=_word, driver=_word),
    "unbind": _verb(device=_word),
    "probe": _verb(device=_word),
    "remove": _verb(device=_word),
    "late_join": _verb(device=_word, group=_number),
    "dma_map": _verb(
        device=_word,
        paddr=_address,
        size=_bytes,
        direction=_one_of(("bidirectional", "to_device", "from_device")),
    ),
    "dma_unmap": _verb(device=_word, iova=_address, size=_bytes),
    "advance": _verb(ms=_time),
    "set_bus_master": _verb(device=_word, on=_truth),
    "power_cycle": _verb(device=_word),
    "fail_next_attach": _verb(device=_word, errno=_word),
}
"""The verbs a step may name, each with its arguments in the order in which Lab takes them."""


def _step(value: Any) -> Step:
    if not isinstance(value, dict):
        raise _is("a table", value)
    if "verb" not in value:
        raise NotAScenario("has no 'verb'")
    verb = _at(".verb", _word, value["verb"])
    if verb not in VERBS:
        raise NotAScenario(f".verb: {unknown('verb', verb, VERBS)}")
    arguments = VERBS[verb]
    for key in value:
        if key != "verb" and key not in (a.name for a in arguments):
            raise NotAScenario(f"{verb} takes no {key!r}, only {_names(arguments)}")
    args = []
    for name, kind, optional in arguments:
        if name not in value and not optional:
            raise NotAScenario(f"{verb} needs {_names(arguments)}; {name!r} is missing")
        args.append(_at(f".{name}", kind, value[name]) if name in value else None)
    return Step(verb, tuple(args))


def _names(arguments: Iterable[Argument]) -> str:
    return ", ".join(a.name for a in arguments)


_reserved = _table_of(
    Reserved,
    {"first": _address, "last": _address, "type": _one_of(RESERVED_TYPES)},
    ("first", "last", "type"),
)
_device = _table_of(
    Device,
    {
        "name": _word,
        "group": _number,
        "id": _word,
        "pci": _truth,
        "untrusted": _truth,
        "requires": lambda value: DomainType[_one_of(DomainType.__members__)(value)],
        "powered": _truth,
        "reserved": _list_of(_reserved),
        "master_at_boot": _truth,
        "deferred": _truth,
        "managed_by": _word,
    },
    ("name", "group"),
)
_region = _table_of(
    Region, {"first": _address, "last": _address, "owner": _word}, ("first", "last", "owner")
)
_machine = _table_of(
    Machine,
    {
        "devices": _list_of(_device),
        "memory": _list_of(_region),
        "msi": _list_of(_range),
        "width": _whole(64, "a number of address bits, at most 64"),
        "caching_mode": _truth,
        "no_iommu": _list_of(_word),
        "windows": _list_of(_range),
    },
    ("devices",),
)
KEYS: dict[str, Kind] = {
    "schema": _word,
    "version": _number,
    "release": _word,
    "driver": _word,
    "arch": _word,
    "cmdline": _word,
    "compare": _word,
    "at": _number,
    "window": _range,
    "steps": _list_of(_step),
    "machine": _machine,
}


# -- the value -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scenario:
    """A situation: kernel, driver, machine, the verbs so far, and what of it is looked at.

    ``arch`` "" is the driver's usual one; ``machine`` None is one device on that architecture.
    ``compare`` names a release to play the same steps under. ``at`` is how many of the steps are
    taken (None: all of them), ``window`` the IOVAs that are looked at (None: all of them).

    >>> sent = Scenario("6.1", "s390", steps=(Step("claim_dma_owner", (0, "vfio")),))
    >>> Scenario.loads(sent.dumps()) == sent
    True
    >>> sent.lab().belief(0).name
    'UNMANAGED'
    """

    release: str = "6.0"
    driver: str = "s390"
    arch: str = ""
    cmdline: str = ""
    machine: Machine | None = None
    steps: tuple[Step, ...] = ()
    compare: str | None = None
    at: int | None = None
    window: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        with _said_of("release"):
            find_release(self.release)
        with _said_of("driver"):
            driver = find_driver(self.driver, self.release)
        if self.arch and self.arch not in driver.arches:
            raise NotAScenario(f"arch: {unknown('architecture', self.arch, driver.arches)}")
        if self.compare is not None:
            with _said_of("compare"):
                find_release(self.compare)
        if self.at == len(self.steps):
            object.__setattr__(self, "at", None)
        if self.at is not None and not 0 <= self.at <= len(self.steps):
            raise NotAScenario(f"at: there are {len(self.steps)} steps, got {self.at}")
        if self.window is not None and not 0 <= self.window[0] <= self.window[1] <= TOP:
            first, last = self.window
            raise NotAScenario(
                f"window: needs 0 <= first <= last < 2**64, got first={first:#x}, last={last:#x}"
            )
        for number, step in enumerate(self.steps):
            if step.verb not in VERBS:
                raise NotAScenario(f"steps[{number}]: {unknown('verb', step.verb, VERBS)}")
        if self.machine is not None and not self.machine.devices:
            raise NotAScenario("machine.devices: at least one is needed, got none")
        for name, most in MOST.items():
            held = self.steps if name == "steps" else getattr(self.machine, name[8:], ())
            if len(held) > most:
                raise NotAScenario(f"{name}: at most {most} are taken, got {len(held)}")

    # -- to and from a lab ----------------------------------------------------------------------

    @classmethod
    def from_lab(cls, lab: Lab, **looked: Any) -> Scenario:
        """The situation of a lab; ``compare``, ``at`` and ``window`` may be given as well.

        Raises NotAScenario for a driver that a reader wrote: it is code, and a file holds none.
        """
        boot = lab.moments[0].kernel
        if boot.driver.own:
            raise NotAScenario(f"driver: {boot.driver.name} is code of your own, not a name")
        return cls(
            boot.release.name,
            boot.driver.name,
            boot.arch,
            boot.cmdline,
            boot.machine,
            lab.steps,
            **looked,
        )

    def lab(self) -> Lab:
        """The steps up to ``at``, played; what the kernel refuses is in the lab's events.

        Raises NotAScenario, with the step's number, for a step that is no call at all, such as one
        that names a device which does not exist.
        """
        try:
            lab = Lab(self.release, self.driver, self.machine, self.cmdline, self.arch or None)
        except (OSError, KernelCrash) as error:
            raise NotAScenario(f"machine: this kernel does not come up on it: {error}") from None
        # Only verbs in VERBS can be steps of a scenario, so nothing else is called here.
        for number, step in enumerate(self.steps[: self.at]):
            try:
                getattr(lab, step.verb)(*step.args)
            except (OSError, KernelCrash, NotInRelease):
                continue
            except (ValueError, TypeError, LookupError) as error:
                raise NotAScenario(f"steps[{number}]: {step.verb}: {error}") from None
        return lab

    # -- to and from a file ---------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path) -> Scenario:
        """The scenario in a file. Raises NotAScenario, in one line that starts with the path."""
        file = Path(path)
        with file.open("rb") as stream:
            raw = stream.read(LARGEST + 1)
        return cls._read(raw, str(file))

    @classmethod
    def loads(cls, text: str, name: str = "scenario") -> Scenario:
        """The scenario in a text; ``name`` stands at the start of a refusal."""
        return cls._read(text.encode("utf-8", "replace"), name)

    @classmethod
    def _read(cls, raw: bytes, name: str) -> Scenario:
        try:
            if len(raw) > LARGEST:
                raise NotAScenario(f"a scenario has at most {LARGEST} bytes, this has more")
            scenario = from_data(parsed(raw))
            scenario.lab()
        except NotAScenario as error:
            raise NotAScenario(f"{name}: {error}") from None
        return scenario

    def save(self, path: str | Path) -> None:
        """Write the scenario to a file."""
        Path(path).write_text(self.dumps(), encoding="utf-8")

    def dumps(self) -> str:
        """The scenario as TOML, addresses in hex."""
        lines = [f'schema = "{SCHEMA}"', f"version = {VERSION}", ""]
        lines += [f"{key} = {_toml(key, value)}" for key, value in self._looked()]
        if self.steps:
            lines += ["", *_rows("steps", [_step_data(step) for step in self.steps])]
        if self.machine is not None:
            lines += ["", "[machine]", *_machine_lines(self.machine)]
        return "\n".join(lines) + "\n"

    def _looked(self) -> list[tuple[str, Any]]:
        """The keys that stand alone on a line; what is at its default is left out."""
        pairs: list[tuple[str, Any]] = [("release", self.release), ("driver", self.driver)]
        pairs += [(key, getattr(self, key)) for key in ("arch", "cmdline") if getattr(self, key)]
        pairs += [
            (key, value)
            for key in ("compare", "at", "window")
            if (value := getattr(self, key)) is not None
        ]
        return pairs


@contextmanager
def _said_of(key: str) -> Iterator[None]:
    """A name that does not exist is refused as what this key says."""
    try:
        yield
    except UnknownName as error:
        raise NotAScenario(f"{key}: {error}") from None


# -- reading and writing TOML ----------------------------------------------------------------------


def parsed(raw: bytes) -> dict[str, Any]:
    """The keys and values of a file, whatever they mean."""
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except RecursionError:
        raise NotAScenario("it is nested too deeply to be read") from None
    except UnicodeDecodeError as error:
        raise NotAScenario(f"it is not text in UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise NotAScenario(f"it is not TOML: {error}") from None


def from_data(data: Mapping[str, Any]) -> Scenario:
    """The scenario that these keys and values are, before its steps are played."""
    if data.get("schema") != SCHEMA:
        has = repr(data["schema"]) if "schema" in data else "none"
        raise NotAScenario(f"schema must be {SCHEMA!r}, got {has}")
    if data.get("version") != VERSION or isinstance(data["version"], bool):
        raise NotAScenario(
            f"version: this program reads version {VERSION}, got {data.get('version')!r}"
        )
    for key in data:
        if key not in KEYS:
            raise NotAScenario(f"{unknown('key', key, KEYS)}")
    given = {}
    for key, value in data.items():
        try:
            given[key] = _at(key, KEYS[key], value)
        except NotAScenario:
            raise
        except ValueError as error:  # what a Machine says of its own parts
            raise NotAScenario(f"{key}: {error}") from None
    del given["schema"], given["version"]
    for key in ("release", "driver"):
        if key not in given:
            raise NotAScenario(f"there is no {key!r}")
    return Scenario(**given)


def _step_data(step: Step) -> dict[str, Any]:
    named = zip(VERBS[step.verb], step.args, strict=True)
    return {"verb": step.verb, **{a.name: value for a, value in named if value is not None}}


def _machine_lines(machine: Machine) -> list[str]:
    lines = _rows("devices", [_changed(d, "name", "group") for d in machine.devices])
    lines += _rows("memory", [r._asdict() for r in machine.memory])
    more = _changed(machine)
    for key in ("devices", "memory"):
        more.pop(key, None)
    return [*lines, *(f"{key} = {_toml(key, value)}" for key, value in more.items())]


def _changed(value: Any, *always: str) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, and those that always stand."""
    found = {}
    for field in fields(value):
        held = getattr(value, field.name)
        default = field.default if field.default is not MISSING else ()
        if field.name in always or held != default:
            found[field.name] = held
    return found


def _rows(key: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"{key} = [", *(f"  {_toml(key, row)}," for row in rows), "]"]


def _toml(key: str, value: Any) -> str:
    """A value as TOML writes it; integers under the name of an address are hex."""
    if isinstance(value, Reserved | Region):
        value = value._asdict()
    elif key in ("window", "msi", "windows") and len(value) == 2 and isinstance(value[0], int):
        value = {"first": value[0], "last": value[1]}
    if isinstance(value, DomainType):
        return f'"{value.name}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:#_x}" if key in ("first", "last", "iova", "paddr", "size") else str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return f'"{_ESCAPED.sub(_escape, value)}"'
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml(k, v)}" for k, v in value.items()) + " }"
    return "[" + ", ".join(_toml(key, item) for item in value) + "]"


# TOML 1.0, "Basic strings": the quote, the backslash and control characters must be escaped.
_ESCAPED = re.compile(r'["\\\x00-\x1f\x7f]')


def _escape(found: re.Match[str]) -> str:
    return f"\\{found[0]}" if found[0] in '"\\' else f"\\u{ord(found[0]):04x}"
