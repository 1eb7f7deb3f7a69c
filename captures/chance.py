"""Scripts by chance: steps in an order that nobody thought of, the same for the same seed.

The scripts of ``scripts/`` show what their writer had in mind. A script of this file opens, binds,
maps, moves and closes in any order, and mixes what usually comes next with what usually does not:
a second open, a map over a map, a type written in mid-use. ``script = "chance-7"`` in the catalogue
stands for seed 7 on the entry's topology; on a kernel with iommufd the steps are iommufd's as well.

The one choice a reader would question: the script keeps its own rough picture of what is open and
bound, to be steered by and never to be believed. It only avoids what would stop the guest for good:
a driver is not taken from a device that is open.

Where it stops: addresses stay out of the guest's RAM, since a device in pass-through would write
over the kernel.
"""

import random
from dataclasses import dataclass, field

# By topology: the edu functions, and what else there is to bind.
FUNCTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "single": (("00:03.0",), ()),
    "mask28": (("00:03.0",), ()),
    "two": (("00:03.0", "00:04.0"), ()),
    "multifn": (("00:03.0", "00:03.1"), ()),
    "mfe1000": (("00:03.0",), ("00:03.1",)),
    "rp": (("01:00.0",), ("00:05.0",)),
    "rpnoacs": (("01:00.0",), ("00:05.0",)),
    "bridge": (("02:01.0", "02:02.0"), ("01:00.0",)),
    "bridgee1000": (("02:01.0",), ("02:02.0", "01:00.0")),
    "rootbridge": (("01:01.0", "01:02.0"), ("00:06.0",)),
    "bypass": (("81:00.0",), ()),
    "switch": (("03:00.0", "04:00.0"), ("02:00.0",)),
}
PAGES = 8
BACK = 0x9000_0000
BASES = (
    *(0x1000, 0x2000, 0x3000, 0x9100_0000, 0x9100_1000, 0x9100_2000, 0x1_0000_0000),
    *(0xFEDF_F000, 0xFEE0_0000, 0xFEF0_0000, 0x800_0000, 0x80F_F000, 0x810_0000),
    *(0xFC_FFFF_F000, 0xFD_0000_0000, 0x7F_FFFF_F000, 0x80_0000_0000, 0xFFFF_FFFF_F000),
    *(2**48, 2**57 - 0x1000, 2**57, 2**64 - 0x1000),
)
USUAL = BASES[:7]
TYPES = ("DMA", "DMA-FQ", "identity", "auto", "bogus")


@dataclass
class _Picture:
    """What the script believes to have done."""

    bound: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    groups: dict[str, str] = field(default_factory=dict)  # device: its group's name
    held: dict[str, str] = field(default_factory=dict)  # group's name: its container
    ready: set[str] = field(default_factory=set)  # containers with an IOMMU set
    containers: list[str] = field(default_factory=list)
    open: dict[str, str] = field(default_factory=dict)  # device: "group" or "cdev"
    attached: dict[str, str] = field(default_factory=dict)
    maps: list[tuple[str, int, int, int]] = field(default_factory=list)
    spaces: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    made: int = 0


class Script:
    """One script: :meth:`text` of a seed, a topology and whether the kernel has iommufd."""

    def __init__(self, seed: int, topology: str, *, iommufd: bool, steps: int = 150) -> None:
        self.chance = random.Random(f"{seed} {topology} {iommufd}")
        edus, others = FUNCTIONS[topology]
        self.edus = {f"D{n}": f"0000:{bdf}" for n, bdf in enumerate(edus)}
        self.others = {f"X{n}": f"0000:{bdf}" for n, bdf in enumerate(others)}
        self.iommufd, self.steps = iommufd, steps
        self.now = _Picture()
        self.lines: list[str] = []

    def text(self) -> str:
        """The script, one verb a line."""
        say = self.say
        say(f"buf A {PAGES}", "buf RB 1")
        for name, bdf in (self.edus | self.others).items():
            say(f"dev {name} {bdf}")
        say("groups", f"rb {BACK:#x} RB 0")
        for name in self.edus:
            say(f"bar {name}", f"cmd {name} 0x6", f"gtype {name}", f"wphys {name} A 64")
        if self.iommufd:
            say("iommufd", "ioas I0")
            self.now.spaces.append("I0")
        while len(self.lines) < self.steps:
            move = self.odd if self.chance.random() < 0.4 else self.usual
            move(self.chance.choice(list(self.edus)))
            if self.chance.random() < 0.35:
                self.look()
        if self.now.gone:
            say("rescan", *(f"bar {name}" for name in sorted(self.now.gone)))
        for name in self.edus:
            if name in self.now.open:
                self.close(name)
            say(f"cmd {name} 0x6", f"wphys {name} A 64")
        say("groups")
        return "\n".join(self.lines) + "\n"

    def say(self, *lines: str) -> None:
        self.lines += lines

    # -- what usually comes next ---------------------------------------------------------------

    def usual(self, device: str) -> None:
        """One step further for this device, towards a mapping that it can use."""
        now = self.now
        if now.gone:
            self.say("rescan")
            for name in sorted(now.gone):
                self.say(f"bar {name}", f"cmd {name} 0x6")
            now.gone.clear()
        elif now.bound.get(device) != "vfio-pci":
            self.bind(device, "vfio-pci")
        elif device in now.open:
            self.map_something(device)
        elif self.iommufd and self.chance.random() < 0.7:
            self.open_file(device)
        elif device not in now.groups:
            now.groups[device] = f"G{device}"
            self.say(f"group G{device} {device}")
        elif now.groups[device] not in now.held:
            self.enter(now.groups[device])
        elif now.held[now.groups[device]] not in now.ready:
            container = now.held[now.groups[device]]
            now.ready.add(container)
            self.say(f"setiommu {container} {self.chance.choice((3, 3, 3, 1))}")
        else:
            now.open[device] = "group"
            self.say(f"getdev {now.groups[device]} {device}")
            self.map_back(device)

    def bind(self, device: str, driver: str) -> None:
        if device in self.now.bound and device not in self.now.open:
            self.say(f"unbind {device}")
        self.now.bound[device] = driver
        self.say(f"bind {device} {driver}")

    def enter(self, group: str) -> None:
        now = self.now
        if not now.containers or (len(now.containers) < 4 and self.chance.random() < 0.3):
            now.containers.append(f"C{now.made}")
            now.made += 1
            self.say(f"container {now.containers[-1]}")
        now.held[group] = self.chance.choice(now.containers)
        self.say(f"setcontainer {group} {now.held[group]}")

    def open_file(self, device: str) -> None:
        self.now.open[device] = "cdev"
        self.say(f"cdev {device}", f"fbind {device}", f"cmd {device} 0x6")
        if self.chance.random() < 0.8:
            self.attach(device, self.chance.choice(self.now.spaces))
            self.map_back(device)

    def attach(self, device: str, target: str) -> None:
        self.now.attached[device] = target
        self.say(f"fattach {device} {target}")

    def place(self, device: str) -> str | None:
        """The verb's beginning for a mapping that this device would use."""
        now = self.now
        if now.open.get(device) == "cdev":
            spaces = [s for s in now.spaces if s == now.attached.get(device)] or now.spaces
            return f"fmap {spaces[0]}"
        container = now.held.get(now.groups.get(device, ""))
        return None if container is None else f"map {container}"

    def map_back(self, device: str) -> None:
        place = self.place(device)
        if place is not None:
            self.say(f"{place} {BACK:#x} 0x1000 rw RB 0", f"preload {device} {BACK:#x} RB 0")

    def map_something(self, device: str) -> None:
        place = self.place(device)
        if place is None:
            return
        odd = self.chance.random() < 0.3
        iova = self.chance.choice(BASES if odd else USUAL)
        pages = self.chance.choice((1, 1, 2, 3))
        at = self.chance.randrange(PAGES - pages + 1) * 0x1000
        access = self.chance.choice(("rw", "rw", "rw", "r", "w"))
        self.say(f"{place} {iova:#x} {pages * 0x1000:#x} {access} A {at:#x}")
        self.now.maps.append((place, iova, pages * 0x1000, at))
        self.dma(device, iova, at)

    # -- what usually does not -----------------------------------------------------------------

    def odd(self, device: str) -> None:
        """A step that a tidy program would not take here."""
        moves = [
            *(self.odd_map, self.odd_map, self.unmap, self.unmap, self.unmap, self.leave),
            *(self.again, self.type_file, self.type_file, self.sibling, self.close, self.look_on),
            *(self.go, self.parameter, self.command),
        ]
        if self.iommufd:
            moves += [self.replace, self.replace, self.table, self.destroy, self.detach]
        self.chance.choice(moves)(device)

    def odd_map(self, device: str) -> None:
        place = self.place(device)
        if place is None:
            return
        chance = self.chance
        iova = chance.choice(BASES) + chance.choice((0, 0, 0, 0x800, 0x123))
        size = chance.choice((0x1000, 0x1000, 0x2000, 0x8000, 0, 0x800, 0x1800, 0x9000))
        offset = chance.choice((0, 0x1000, 0x3000, 0x800))
        access = chance.choice(("rw", "rw", "r", "w", "-"))
        self.say(f"{place} {iova:#x} {size:#x} {access} A {offset:#x}")
        self.now.maps.append((place, iova, size, offset))

    def unmap(self, device: str) -> None:
        chance, now = self.chance, self.now
        place = self.place(device)
        if now.maps and chance.random() < 0.8:
            place, iova, size, _ = chance.choice(now.maps)
            iova += chance.choice((0, 0, 0, 0, 0x1000, -0x1000, 0x800))
            size += chance.choice((0, 0, 0, 0, 0x1000, -0x1000, 0x10000))
        else:
            iova, size = chance.choice(((0, 2**39), (0, 2**64 - 1), (0x1000, 0x100000), (0, 0)))
        if place is None:
            return
        words = place.replace("map", "unmap", 1)
        everything = " all" if not place.startswith("f") and chance.random() < 0.15 else ""
        if everything and chance.random() < 0.7:
            iova = size = 0
        self.say(f"{words} {max(iova, 0) % 2**64:#x} {max(size, 0):#x}{everything}")

    def leave(self, device: str) -> None:
        """A group leaves its container, or an open file is closed first."""
        now = self.now
        group = now.groups.get(device)
        if group is None:
            return
        others = [d for d, g in now.groups.items() if g == group and now.open.get(d) == "group"]
        if self.chance.random() < 0.6:
            for other in others:
                self.close(other)
        self.say(f"unsetcontainer {group}")
        if not any(now.open.get(d) == "group" for d in others):
            container = now.held.pop(group, None)
            if container is not None and container not in now.held.values():
                now.ready.discard(container)
            if self.chance.random() < 0.5:
                self.say(f"closegroup {group}")
                for other in [d for d, g in now.groups.items() if g == group]:
                    del now.groups[other]

    def again(self, device: str) -> None:
        """What was done already, once more; or too early."""
        now = self.now
        lines = [f"bind {device} vfio-pci", f"bind {device} pci-stub"]
        if device in now.groups:
            group = now.groups[device]
            lines += [f"gstatus {group}"]
            if group in now.held:
                lines += [
                    f"setiommu {now.held[group]} 3",
                    f"setcontainer {group} {now.held[group]}",
                ]
                lines += [f"info {now.held[group]}", f"ext {now.held[group]}"]
        if now.open.get(device) == "cdev":
            lines += [f"fbind {device}"]
        line = self.chance.choice(lines)
        if line.startswith("bind") and device not in now.bound:
            now.bound[device] = line.split()[-1]
        self.say(line)

    def type_file(self, device: str) -> None:
        target = self.chance.choice([device, *self.others])
        self.say(f"gtype {target} {self.chance.choice(TYPES)}")

    def sibling(self, device: str) -> None:
        """Something with a function that no edu is behind."""
        if not self.others:
            return
        other = self.chance.choice(list(self.others))
        choice = self.chance.choice(("stub", "vfio", "free", "e1000"))
        if choice == "free" and other in self.now.bound:
            del self.now.bound[other]
            self.say(f"unbind {other}")
        elif choice == "stub":
            self.say("insmod /mods/pci_stub.ko")
            self.bind(other, "pci-stub")
        elif choice == "vfio":
            self.bind(other, "vfio-pci")
        elif choice == "e1000":
            self.say("insmod /mods/e1000.ko", f"probe {other} e1000")
            self.now.bound.setdefault(other, "e1000")

    def close(self, device: str) -> None:
        if device in self.now.open:
            del self.now.open[device]
            self.now.attached.pop(device, None)
            self.say(f"closedev {device}")
            if self.chance.random() < 0.7:
                self.say(f"cmd {device} 0x6")

    def go(self, device: str) -> None:
        """Unbound, or out of its slot and back; not while it is open."""
        now = self.now
        if device in now.open or device in now.groups or device in now.gone:
            return
        if self.chance.random() < 0.5 and device in now.bound:
            del now.bound[device]
            self.say(f"unbind {device}")
        elif self.chance.random() < 0.5:
            now.bound.pop(device, None)
            now.gone.add(device)
            self.say(f"remove {device}")
        else:
            now.bound.pop(device, None)
            self.say(f"remove {device}", "groups", "rescan", f"bar {device}", f"cmd {device} 0x6")

    def parameter(self, device: str) -> None:
        module = self.chance.choice(("vfio_iommu_type1", "iommufd"))
        word = self.chance.choice(("1", "1", "0"))
        self.say(f"write /sys/module/{module}/parameters/allow_unsafe_interrupts {word}")

    def command(self, device: str) -> None:
        self.say(f"showcmd {device}", f"cmd {device} {self.chance.choice(('0x6', '0x6', '0x2'))}")

    def look_on(self, device: str) -> None:
        self.say(self.chance.choice(("groups", f"gtype {device}", "settle 50")))

    # -- iommufd ---------------------------------------------------------------------------------

    def replace(self, device: str) -> None:
        if self.now.open.get(device) == "cdev":
            self.attach(device, self.chance.choice(self.now.spaces + self.now.tables))

    def table(self, device: str) -> None:
        now = self.now
        if len(now.spaces) + len(now.tables) > 12:
            return
        if self.chance.random() < 0.5:
            now.spaces.append(f"I{len(now.spaces)}")
            self.say(f"ioas {now.spaces[-1]}")
        else:
            now.tables.append(f"H{len(now.tables)}")
            parent = self.chance.choice(now.spaces + now.tables[:-1])
            self.say(f"hwpt {now.tables[-1]} {device} {parent}")

    def destroy(self, device: str) -> None:
        self.say(f"fdestroy {self.chance.choice(self.now.spaces + self.now.tables)}")

    def detach(self, device: str) -> None:
        if self.now.open.get(device) == "cdev":
            self.say(f"fdetach {device}")
            self.now.attached.pop(device, None)

    # -- looking ---------------------------------------------------------------------------------

    def dma(self, device: str, iova: int, at: int) -> None:
        length = self.chance.choice((64, 64, 64, 4, 256))
        within = self.chance.choice((0, 0, 0x1000 - length, 0xFE0))
        verb = self.chance.choice(("w", "w", "r"))
        place = (iova + within) % 2**64
        if at + within + length > PAGES * 0x1000:  # a read would fill what is not ours
            return
        if place & ~0xFFFFF != 0xFEE0_0000 and not 0xFEE0_0000 - 256 < place < 0xFEF0_0000:
            self.say(f"{verb} {device} {place:#x} {length} A {at + within:#x}")

    def look(self) -> None:
        """DMA to where something was mapped once, or to a buffer's own address."""
        device = self.chance.choice(
            [name for name in self.edus if name not in self.now.gone] or [""]
        )
        if not device:
            return
        if self.now.maps and self.chance.random() < 0.7:
            _, iova, _, at = self.chance.choice(self.now.maps)
            if at < (PAGES - 1) * 0x1000:
                self.dma(device, iova, at)
        else:
            self.say(f"wphys {device} A 64")


def text(name: str, topology: str, *, iommufd: bool) -> str:
    """The script that ``chance-SEED`` stands for on this topology."""
    return Script(int(name.removeprefix("chance-")), topology, iommufd=iommufd).text()
