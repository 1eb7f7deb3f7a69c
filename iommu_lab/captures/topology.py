"""Which functions are on the emulated PCI bus, and which of them share a group?

The groups are worked out from the bus, with the kernel's own rules: aliases behind PCI bridges,
Access Control Services on the way up, functions of one slot (pci_device_group in
drivers/iommu/iommu.c, pci_acs_enabled in drivers/pci/pci.c; 5.10 to 7.2). Nothing here reads what a
kernel said about its groups.

A topology is known by the name that a transcript's MACHINE line gives it. Each is the list of
functions that QEMU shows for the ``-device`` words of that name, parents first.

Where it stops: no SR-IOV, no device-specific quirks, one PCI domain a machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import unknown

ALL_ONES = 2**64 - 1
EDU, E1000 = "1234:11e8", "8086:100e"
ROOT_PORT, HOT_PLUG_BRIDGE = "1b36:000c", "1b36:000e"


@dataclass(frozen=True, slots=True)
class Function:
    """One PCI function.

    ``express`` is its type in the PCI Express capability ("root-port", "upstream", "downstream",
    "pci-bridge") or "" for a conventional one; ``behind`` the bridge it sits behind, "" on a root
    bus. ``mask`` is the device's own limit of DMA addresses.
    """

    name: str
    id: str
    behind: str = ""
    express: str = ""
    bridge: bool = False
    acs: bool = False
    multifunction: bool = False
    announced: bool = True
    """Does its own header say that it is one of several? Only the first function must."""
    driver: str = ""
    """Bound at boot by a kernel that has the driver built in."""
    isa: bool = False
    translated: bool = True
    """Is it in the IOMMU's scope? Not behind a bypassed host bridge, and not the IOMMU itself."""
    mask: int = ALL_ONES

    @property
    def slot(self) -> str:
        return self.name.partition(".")[0]


def _port(name: str, behind: str = "", *, acs: bool = True, scope: bool = True) -> Function:
    return Function(
        name,
        ROOT_PORT,
        behind,
        "root-port",
        bridge=True,
        acs=acs,
        driver="pcieport",
        translated=scope,
    )


def _edu(name: str, behind: str = "", **more: Any) -> Function:
    return Function(f"0000:{name}", EDU, f"0000:{behind}" if behind else "", **more)


Q35 = (
    Function("0000:00:00.0", "8086:29c0"),
    Function("0000:00:1f.0", "8086:2918", multifunction=True, isa=True),
    Function("0000:00:1f.2", "8086:2922", multifunction=True),
    Function("0000:00:1f.3", "8086:2930", multifunction=True),
)
VIRT = (Function("0000:00:00.0", "1b36:0008"),)
BOARDS = {"x86_64": Q35, "arm64": VIRT, "s390x": ()}
# What QEMU puts into the first free slot for an IOMMU that is itself a PCI function.
OWN_FUNCTION = {
    "amd": Function("0000:00:01.0", "1022:0008", translated=False),
    "amdnoir": Function("0000:00:01.0", "1022:0008", translated=False),
    "virtio": Function("0000:00:07.0", "1af4:1057", translated=False),
}

_RP = "0000:00:05.0"
_BRIDGE = Function("0000:01:00.0", HOT_PLUG_BRIDGE, _RP, "pci-bridge", bridge=True)
_OLD_BRIDGE = Function("0000:00:06.0", "8086:244e", bridge=True)
_UP = Function("0000:01:00.0", "104c:8232", _RP, "upstream", bridge=True, driver="pcieport")
_DOWN = Function(
    "0000:02:00.0", "104c:8233", _UP.name, "downstream", bridge=True, driver="pcieport"
)
_FIRST = _edu("00:03.0", multifunction=True)
_SECOND = _edu("00:03.1", multifunction=True, announced=False)

TOPOLOGIES: dict[str, tuple[Function, ...]] = {
    "single": (_edu("00:03.0"),),
    "mask28": (replace(_edu("00:03.0"), mask=2**28 - 1),),
    "two": (_edu("00:03.0"), _edu("00:04.0")),
    "multifn": (_FIRST, _SECOND),
    "mfe1000": (_FIRST, Function(_SECOND.name, E1000, multifunction=True, announced=False)),
    "rp": (_port(_RP), _edu("01:00.0", "00:05.0")),
    "rpnoacs": (_port(_RP, acs=False), _edu("01:00.0", "00:05.0")),
    "bridge": (_port(_RP), _BRIDGE, _edu("02:01.0", "01:00.0"), _edu("02:02.0", "01:00.0")),
    "bridgee1000": (
        _port(_RP),
        _BRIDGE,
        _edu("02:01.0", "01:00.0"),
        Function("0000:02:02.0", E1000, _BRIDGE.name),
    ),
    "rootbridge": (_OLD_BRIDGE, _edu("01:01.0", "00:06.0"), _edu("01:02.0", "00:06.0")),
    "bypass": (
        Function("0000:00:01.0", "1b36:000b"),
        _port("0000:80:00.0", scope=False),
        _edu("81:00.0", "80:00.0", translated=False),
    ),
    "switch": (
        _port(_RP),
        _UP,
        _DOWN,
        replace(_DOWN, name="0000:02:01.0"),
        _edu("03:00.0", "02:00.0"),
        _edu("04:00.0", "02:01.0"),
    ),
    "rng": (Function("0001:00:00.0", "1af4:1044"),),
}


def functions(arch: str, iommu: str, topology: str) -> tuple[Function, ...]:
    """Every function of a machine, in the order in which a kernel finds them.

    Raises :class:`~iommu_lab.errors.UnknownName` for a topology that is not in the table.
    """
    if topology not in TOPOLOGIES:
        raise unknown("topology", topology, TOPOLOGIES)
    if arch not in BOARDS:
        raise unknown("architecture", arch, BOARDS)
    extra = TOPOLOGIES[topology]
    own = OWN_FUNCTION.get(iommu) if arch != "s390x" else None
    if own is not None:
        extra = (own, *(_moved(f, own) for f in extra))
    if iommu == "none":
        extra = tuple(replace(f, translated=True) for f in extra)
    found = in_scan_order((*BOARDS[arch], *extra))
    # A kernel that was told of its host bridge by a device tree looks for no other root bus.
    return tuple(f for f in found if arch != "arm64" or _root(f, found).name.startswith(FIRST_BUS))


def onboard(arch: str, iommu: str) -> dict[str, str]:
    """What every topology of such a machine has: "vendor:device" by address."""
    own = [OWN_FUNCTION[iommu]] if iommu in OWN_FUNCTION and arch != "s390x" else []
    return {f.name: f.id for f in (*BOARDS.get(arch, ()), *own)}


FIRST_BUS = "0000:00:"


def _root(function: Function, found: tuple[Function, ...]) -> Function:
    while function.behind:
        function = next(f for f in found if f.name == function.behind)
    return function


def _moved(function: Function, own: Function) -> Function:
    """A function without a fixed slot takes the next one when the IOMMU has the first."""
    return replace(function, name="0000:00:02.0") if function.name == own.name else function


def in_scan_order(found: Iterable[Function]) -> tuple[Function, ...]:
    """A bus at a time: all its functions by slot, then what is behind each bridge in turn."""
    all_ = tuple(found)

    def below(parent: str) -> list[Function]:
        here = sorted((f for f in all_ if f.behind == parent), key=lambda f: f.name)
        buses = sorted({f.name[:7] for f in here})
        ordered: list[Function] = []
        for bus in buses:
            on_bus = [f for f in here if f.name[:7] == bus]
            ordered += on_bus
            for function in on_bus:
                if function.bridge:
                    ordered += below(function.name)
        return ordered

    return tuple(below(""))


class Bus:
    """The functions of a machine and the way from each to its root.

    ``isolation``: did the kernel switch Access Control Services on, where functions have them?

    >>> Bus(functions("x86_64", "intel", "rpnoacs")).groups()["0000:01:00.0"]
    1
    """

    def __init__(self, found: Iterable[Function], *, isolation: bool = True) -> None:
        self.functions = {f.name: f for f in found}
        self.isolation = isolation
        self.added_late: set[str] = set()
        """Functions that came after boot: for them the services are always on."""

    def __iter__(self) -> Iterator[Function]:
        return iter(self.functions.values())

    def path(self, function: Function) -> list[Function]:
        """The bridges from this function up to the root bus."""
        way = []
        while function.behind:
            function = self.functions[function.behind]
            way.append(function)
        return way

    def groups(self, found: Iterable[Function] | None = None) -> dict[str, int]:
        """The group of each function that the IOMMU translates, probed in this order."""
        placed: dict[str, int] = {}
        for function in self.functions.values() if found is None else found:
            if function.translated:
                placed[function.name] = self.group_for(function, placed)
        return placed

    def streams(self, function: Function) -> set[str]:
        """The requester IDs that its DMA may carry: ``pci_for_each_dma_alias``.

        A bridge to PCI takes an ID of the bus behind it, a conventional bridge its own.

        >>> bus = Bus(functions("arm64", "smmuv3", "bridge"))
        >>> sorted(bus.streams(bus.functions["0000:02:01.0"]))
        ['0000:02:00.0', '0000:02:01.0']
        """
        found, below = {function.name}, function
        for bridge in self.path(function):
            if bridge.express == "pci-bridge":
                found.add(f"{below.name[:BUS]}00.0")
            elif not bridge.express:
                found.add(bridge.name)
            below = bridge
        return found

    def group_for(self, function: Function, placed: dict[str, int]) -> int:
        """``pci_device_group``: the group that a newly probed function joins or opens."""
        lowest = function
        for bridge in self.path(function):
            if bridge.express in ("", "pci-bridge"):
                # A PCI bridge takes its own requester ID for everything behind it.
                lowest = bridge
                if bridge.name in placed:
                    return placed[bridge.name]
        for bridge in self.path(lowest):
            if self._isolated_up_from(bridge):
                break
            lowest = bridge
            if bridge.name in placed:
                return placed[bridge.name]
        if lowest.multifunction and not self._isolates(lowest):
            for other in self.functions.values():
                same_slot = other.slot == lowest.slot and other is not lowest
                if same_slot and not self._isolates(other) and other.name in placed:
                    return placed[other.name]
        used = set(placed.values())
        return next(n for n in range(len(used) + 1) if n not in used)

    def _isolated_up_from(self, bridge: Function) -> bool:
        return all(self._isolates(f) for f in (bridge, *self.path(bridge)))

    def _isolates(self, function: Function) -> bool:
        """``pci_acs_enabled`` for the flags that groups ask for."""
        on = function.acs and (self.isolation or function.name in self.added_late)
        if function.express in ("root-port", "downstream"):
            return on
        return function.express == "upstream" and (not function.multifunction or on)

    def behind_old_bridge(self, function: Function) -> Function | None:
        """The conventional bridge nearest the root whose address a function's requests carry."""
        old = [f for f in self.path(function) if f.express in ("", "pci-bridge")]
        return old[-1] if old else None

    def carried_beyond(self, bridge: Function) -> str:
        """The address that requests from behind a bridge carry upstream of it.

        A bridge from PCI Express to PCI uses slot 0 of the bus behind it, a conventional one its
        own address (pci_for_each_dma_alias in drivers/pci/search.c).
        """
        behind = next((f for f in self.functions.values() if f.behind == bridge.name), bridge)
        return f"{behind.name[:7]}:00.0" if bridge.express == "pci-bridge" else bridge.name


def of_listing(lines: Sequence[tuple[str, str]]) -> tuple[Function, ...]:
    """Functions from (address, "vendor:device") pairs, for a log that names no topology.

    What the pairs leave open, such as ACS, is taken to be as QEMU has it by default; an expander's
    root bus, as the one topology that has an expander: outside the IOMMU's scope.
    """
    named = {f.id: f for names in TOPOLOGIES.values() for f in names}
    named |= {f.id: f for board in BOARDS.values() for f in board}
    kinds = {name: named.get(ident, Function(name, ident)) for name, ident in lines}
    own = {f.id for f in OWN_FUNCTION.values()}
    onboard = {f.id for f in Q35}
    above, roots = _numbered({name: kind.bridge for name, kind in kinds.items()})
    slots = [name.partition(".")[0] for name in kinds]
    found: list[Function] = []
    for name, ident in lines:
        kind, slot = kinds[name], name.partition(".")[0]
        behind = above.get(name[:BUS], "")
        root = next((f.name for f in found if f.name == behind), name)
        inside = next((f.translated for f in found if f.name == root), name[:BUS] not in roots)
        found.append(
            replace(
                kind,
                name=name,
                behind=behind,
                multifunction=slots.count(slot) > 1,
                announced=ident in onboard or name.endswith(".0"),
                translated=inside and ident not in own,
            )
        )
    return tuple(found)


BUS = len("0000:00:")


def _numbered(bridges: dict[str, bool]) -> tuple[dict[str, str], set[str]]:
    """The bridge above each bus, and the further root buses: buses are numbered depth first."""
    above: dict[str, str] = {}
    roots: set[str] = set()

    def number(bus: str) -> None:
        for name in sorted(name for name, bridge in bridges.items() if bridge):
            if name.startswith(bus):
                used = max(int(b.split(":")[1], 16) for b in (bus, *above))
                below = f"{bus[:5]}{used + 1:02x}:"
                above[below] = name
                number(below)

    for bus in sorted({name[:BUS] for name in bridges}):
        if bus not in above:
            if not bus.endswith(":00:"):
                roots.add(bus)
            number(bus)
    return above, roots
