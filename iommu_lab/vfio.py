"""VFIO: what user space may do with a group, a container and a device, release by release.

A container is an address space, a group gives access to it, a device file gives access to the
device. What each ioctl answers and which of the core's verbs it calls is here; what those verbs do
is the core's business. Read from drivers/vfio/ (vfio.c in 5.10; vfio_main.c, container.c, group.c
and vfio_iommu_type1.c after it; 5.10 to 7.2).

Unlike a state, what VFIO keeps lives as long as its file descriptors, so it is held in an object
beside the :class:`~iommu_lab.state.World` that it changes.

Where the model stops: no mediated devices, no dirty tracking, no interrupts; one process, root,
with unlimited locked memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from . import behaviours, core
from .domains import Domain, DomainType
from .errors import KernelCrash, refuse
from .iommufd import Context
from .machine import Reserved
from .pagetables import iommu_map, iommu_unmap, pgsizes
from .rbtree import RangeTree
from .state import Group, World
from .tables import READ, WRITE
from .userpages import PAGE, TOP, USER_PAGES, Dma, contiguous

MAPPINGS = 65535
"""How many mappings a container may have, unless the module is told otherwise."""

SCRATCH = 0x10_0000
"""Two pages that the kernel takes for a moment; where they lie is of no account."""

TYPE1, TYPE1V2, DMA_CC, NESTING, NOIOMMU, UNMAP_ALL, UPDATE_VADDR = 1, 3, 4, 6, 8, 9, 10
NESTS = ("arm-smmu", "arm-smmu-v3")
"""Drivers with ``enable_nesting``, as long as there is such an op."""


@dataclass(slots=True)
class Type1Domain:
    """One IOMMU domain of a container, with the groups attached to it."""

    name: str
    groups: list[int]
    fine_grained: bool = False
    """Does one unmap call take a large page apart from the mapping it was asked about?"""


@dataclass(slots=True)
class Type1:
    """``struct vfio_iommu``: a container's page tables, mappings and usable addresses."""

    v2: bool
    domains: list[Type1Domain] = field(default_factory=list)
    maps: dict[int, Dma] = field(default_factory=dict)
    tree: RangeTree = field(default_factory=RangeTree)
    """The same mappings as the kernel keeps them, which decides the order of some events."""
    usable: list[tuple[int, int]] = field(default_factory=list)
    """Ranges (first, last) that may be mapped; an empty list allows all."""
    pgsizes: int = TOP & ~(PAGE - 1)
    limit: int = MAPPINGS


@dataclass(slots=True)
class Container:
    """An open ``/dev/vfio/vfio``."""

    groups: list[int] = field(default_factory=list)
    """The newest first, as the kernel's list has them."""
    iommu: Type1 | None = None
    noiommu: bool = False


@dataclass(slots=True)
class OpenGroup:
    """An open ``/dev/vfio/N``."""

    number: int
    container: Container | None = None
    devices: list[str] = field(default_factory=list)
    """Devices opened through it."""
    closed: bool = False


@dataclass(slots=True, eq=False)
class DeviceFile:
    """An open ``/dev/vfio/devices/vfioN``, and the iommufd that its device is bound to."""

    device: str
    context: Context | None = None


def _bound(file: DeviceFile) -> Context:
    if file.context is None:
        raise refuse("EINVAL", f"{file.device} is bound to no iommufd")
    return file.context


@dataclass(frozen=True, slots=True)
class Info:
    """What VFIO_IOMMU_GET_INFO answers."""

    pgsizes: int
    available: int
    usable: tuple[tuple[int, int], ...]


class Vfio:
    """The VFIO of one machine.

    ``isolated`` says whether interrupts of devices are isolated from each other (remapping);
    ``coherent`` whether the IOMMU can enforce snooping for a domain; ``unsafe`` is the module
    parameter ``allow_unsafe_interrupts``.
    """

    def __init__(
        self, world: World, *, isolated: bool, coherent: bool, coherent_bus: bool = True
    ) -> None:
        self.world = world
        self.isolated = isolated
        self.coherent = coherent
        self.coherent_bus = coherent_bus
        self.unsafe = False
        self.entry_limit = MAPPINGS
        """The module parameter ``dma_entry_limit``, for address spaces made from now on."""
        self.noiommu = False
        """The module parameter ``enable_unsafe_noiommu_mode``."""
        self.devices: dict[str, int] = {}
        """Devices bound to vfio-pci, with their group."""
        self.open: dict[int, OpenGroup] = {}
        self.files: list[DeviceFile] = []
        self.without_iommu: set[int] = set()
        self.domains_made = 0

    def rule(self, name: str) -> str:
        return self.world.release[name]

    # -- binding ----------------------------------------------------------------------------

    def register(self, device: str) -> None:
        """``vfio_register_group_dev``: EINVAL without a group, or when DMA can bypass caches.

        Without an IOMMU, and if that is allowed, the device gets a group of VFIO's own making.
        """
        group = self.world.group_of(device)
        if group is None and self.noiommu:
            group = self._group_without_iommu(device)
        elif group is None or not self.coherent_bus:
            raise refuse("EINVAL", f"{device} has no IOMMU group that VFIO can use")
        self.devices[device] = group.number

    def _group_without_iommu(self, device: str) -> Group:
        """``vfio_noiommu_group_alloc``: a group that no IOMMU driver knows."""
        world = self.world
        number = next(n for n in range(len(world.groups) + 1) if n not in world.groups)
        world.groups[number] = Group(number, (device,))
        world.set_device(device, group=number)
        world.event("trace", "add_device_to_group", device=device, text=f"groupID={number}")
        self.without_iommu.add(number)
        return world.groups[number]

    def unregister(self, device: str) -> None:
        """``vfio_unregister_group_dev``: waits for the close; the last one may take the group."""
        number = self.devices[device]
        at = self.open.get(number)
        opened = any(file.device == device for file in self.files)
        if opened or (at is not None and device in at.devices):
            raise KernelCrash("vfio_unregister_group_dev", f"waits for ever: {device} is open")
        last = list(self.devices.values()).count(number) == 1
        kept = self.rule("vfio.last_device") != "detaches"
        if last and at is not None and at.container is not None:
            if self.rule("vfio.last_device") == "waits":
                raise KernelCrash(
                    "vfio_unregister_group_dev", f"waits for ever: group {number} is in use"
                )
            if not kept:
                self._leave_container(at)
        del self.devices[device]
        if last and not kept:
            self.open.pop(number, None)
        if number in self.without_iommu:
            text = f"groupID={number}"
            self.world.event("trace", "remove_device_from_group", device=device, text=text)
            self.without_iommu.remove(number)
            del self.world.groups[number]

    # -- groups and containers --------------------------------------------------------------

    def open_group(self, number: int) -> OpenGroup:
        """Open ``/dev/vfio/N``: ENOENT when no device of the group is VFIO's, EBUSY when open.

        Up to 6.0 an open file keeps a group that has lost its last device.
        """
        there = number in self.devices.values() or number in self.open
        if not there or number in self.without_iommu:
            # A group without an IOMMU has another name, /dev/vfio/noiommu-N.
            raise refuse("ENOENT", f"/dev/vfio/{number} does not exist")
        if number in self.open or self._in_iommufd(number):
            raise refuse("EBUSY", f"group {number} is in use already")
        self.open[number] = OpenGroup(number)
        return self.open[number]

    def viable(self, group: OpenGroup) -> bool:
        """Does VFIO_GROUP_GET_STATUS say "viable"?"""
        if self.rule("ownership") != "none":
            owned = self.world.groups[group.number].owner_cnt
            return group.container is not None or not owned
        return all(self._allowed(d) for d in self.world.groups[group.number].devices)

    def _allowed(self, device: str) -> bool:
        """``vfio_dev_viable`` (5.10): no driver, VFIO's, a stub or a bridge's own."""
        driver = self.world.devices[device].driver
        return driver is None or device in self.devices or driver in ("pci-stub", "pcieport")

    def driver_bound(self, device: str, driver: str) -> None:
        """A driver was bound to a device of a group in use: 5.10 stops the machine for it."""
        group = self.world.group_of(device)
        if group is None or self.rule("ownership") != "none":
            return
        at = self.open.get(group.number)
        if at is not None and at.container is not None and not self._allowed(device):
            raise KernelCrash(
                "vfio_iommu_group_notifier", f"{driver} was bound in a group that is in use"
            )

    def known(self, group: OpenGroup) -> None:
        """ENODEV when the group's last VFIO device went while its file was open."""
        if self.open.get(group.number) is not group:
            raise refuse("ENODEV", f"group {group.number} has lost its last VFIO device")

    def set_container(self, group: OpenGroup, container: Container) -> None:
        """VFIO_GROUP_SET_CONTAINER: claim the group, and attach it where the others are."""
        if group.container is not None:
            raise refuse("EINVAL", f"group {group.number} has a container already")
        self.known(group)
        claims = self.rule("ownership") != "none"
        if claims:
            core.claim_dma_owner(self.world, group.number, f"vfio group {group.number}")
        if container.iommu is not None:
            try:
                self._attach_group(container.iommu, group.number)
            except OSError:
                if claims:
                    core.release_dma_owner(self.world, group.number)
                raise
        group.container = container
        container.groups.insert(0, group.number)

    def unset_container(self, group: OpenGroup) -> None:
        """VFIO_GROUP_UNSET_CONTAINER: EINVAL without one, EBUSY while a device is open."""
        if group.container is None:
            raise refuse("EINVAL", f"group {group.number} has no container")
        if group.devices:
            raise refuse("EBUSY", f"{group.devices[0]} is open")
        self._leave_container(group)

    def _leave_container(self, group: OpenGroup) -> None:
        """``vfio_group_detach_container``: detach, give the group back, drop an empty space."""
        container = group.container
        assert container is not None
        if container.iommu is not None:
            self._detach_group(container.iommu, group.number)
        if self.rule("ownership") != "none":
            core.release_dma_owner(self.world, group.number)
        group.container = None
        container.groups.remove(group.number)
        if not container.groups:
            container.iommu = None

    def close_group(self, group: OpenGroup) -> None:
        """Close the group's file; what it holds goes when its last device is closed too."""
        group.closed = True
        self._dissolve(group)

    def _dissolve(self, group: OpenGroup) -> None:
        if group.closed and not group.devices:
            if group.container is not None:
                self._leave_container(group)
            if self.open.get(group.number) is group:
                del self.open[group.number]

    # -- devices ----------------------------------------------------------------------------

    def get_device(self, group: OpenGroup, device: str) -> None:
        """VFIO_GROUP_GET_DEVICE_FD: ENODEV for a device that is not VFIO's, EINVAL too early."""
        early = group.container is None or group.container.iommu is None
        # A group that lost its last device stays without one, though the device comes back.
        lost = self.open.get(group.number) is not group
        mine = self.devices.get(device) == group.number and not lost
        if self.rule("ownership") == "none":
            if early or not self.viable(group):
                raise refuse("EINVAL", f"group {group.number} has no IOMMU set, or is not viable")
            early = False
        if not mine:
            raise refuse("ENODEV", f"{device} is not bound to vfio-pci in group {group.number}")
        if early:
            raise refuse("EINVAL", f"group {group.number} has no container with an IOMMU set")
        group.devices.append(device)

    def close_device(self, group: OpenGroup, device: str) -> None:
        """Close a device file that came from this group."""
        group.devices.remove(device)
        self._dissolve(group)

    # -- device files of their own (6.6 and later) --------------------------------------------

    def _in_iommufd(self, number: int) -> bool:
        """``group->cdev_device_open_cnt``: is a device of the group bound through its own file?"""
        return any(f.context and self.devices.get(f.device) == number for f in self.files)

    def open_file(self, device: str) -> DeviceFile:
        """Open ``/dev/vfio/devices/vfioN``."""
        if self.devices.get(device, -1) in self.without_iommu or device not in self.devices:
            raise refuse("ENOENT", f"{device} is not VFIO's, or has no IOMMU")
        file = DeviceFile(device)
        self.files.append(file)
        return file

    def bind_file(self, file: DeviceFile, context: Context) -> int:
        """VFIO_DEVICE_BIND_IOMMUFD: the number of the device's object in the context."""
        if self.devices[file.device] in self.open:
            raise refuse("EBUSY", f"the group of {file.device} is open")
        if any(f.context and f.device == file.device for f in self.files):
            raise refuse("EINVAL", f"{file.device} is bound already")
        number = context.bind(file.device)
        file.context = context
        return number

    def attach_file(self, file: DeviceFile, number: int) -> int:
        """VFIO_DEVICE_ATTACH_IOMMUFD_PT: the page table that the device came to."""
        return _bound(file).attach(file.device, number)

    def detach_file(self, file: DeviceFile) -> None:
        """VFIO_DEVICE_DETACH_IOMMUFD_PT: fine when nothing is attached, too."""
        _bound(file).detach(file.device)

    def close_file(self, file: DeviceFile) -> None:
        """Close the device's own file, which detaches and unbinds it."""
        self.files.remove(file)
        if file.context is not None:
            file.context.unbind(file.device)

    # -- the container's ioctls -------------------------------------------------------------

    def check_extension(self, container: Container, number: int) -> int:
        """VFIO_CHECK_EXTENSION."""
        if number in (TYPE1, TYPE1V2):
            return 1
        if number == NESTING:
            return int(self.rule("vfio.nesting") == "yes")
        if number == UNMAP_ALL:
            return int(self.rule("vfio.unmap_all") == "yes")
        if number == UPDATE_VADDR:
            later = self.rule("vfio.unmap_all") == "yes"
            return int(later and (container.iommu is not None or self.rule("vfio.vaddr") == "any"))
        if number == NOIOMMU:
            return int(self.noiommu and not container.groups)
        if number == DMA_CC:
            return int(container.iommu is not None and self.coherent)
        return 0

    def set_iommu(self, container: Container, number: int) -> None:
        """VFIO_SET_IOMMU: make the address space and attach every group of the container to it."""
        if not container.groups or container.iommu is not None:
            raise refuse("EINVAL", "the container has no group, or an IOMMU already")
        if number == NOIOMMU or self.check_extension(Container(), number) <= 0:
            raise refuse("ENODEV", f"no IOMMU driver of VFIO knows type {number}")
        if number not in (TYPE1, TYPE1V2, NESTING):
            raise refuse("EINVAL", f"{number} is an extension, not a type of IOMMU")
        tree = RangeTree(wraps=self.rule("vfio.wrap") == "EINVAL")
        iommu = Type1(v2=number != TYPE1, tree=tree, limit=self.entry_limit)
        if number == NESTING and self.world.driver.known_as not in NESTS:
            # VT-d nests in scalable mode with hardware that can; none is modelled.
            intel = self.world.driver.known_as == "intel"
            said = self.rule("vfio.nesting_intel") if intel else "EINVAL"
            raise refuse(said, f"{self.world.driver.name} has no nested domains")
        done: list[int] = []
        for group in container.groups:
            try:
                self._attach_group(iommu, group)
            except OSError:
                for other in reversed(done):
                    self._detach_group(iommu, other)
                raise
            done.append(group)
        container.iommu = iommu

    def info(self, container: Container) -> Info:
        """VFIO_IOMMU_GET_INFO: EINVAL before an IOMMU is set."""
        iommu = self._iommu(container)
        return Info(iommu.pgsizes, iommu.limit - len(iommu.maps), tuple(iommu.usable))

    def _iommu(self, container: Container) -> Type1:
        if container.iommu is None:
            raise refuse("EINVAL", "the container has no IOMMU set")
        return container.iommu

    def map_dma(
        self,
        container: Container,
        iova: int,
        size: int,
        prot: int,
        pages: Sequence[int],
        offset: int = 0,
    ) -> None:
        """VFIO_IOMMU_MAP_DMA of ``size`` bytes that begin ``offset`` bytes into a page.

        ``pages`` says where each page lies. EFAULT when the process has no page there.
        """
        iommu = self._iommu(container)
        wraps = size and iova + size - 1 > TOP
        if wraps and self.rule("vfio.wrap") == "EOVERFLOW":
            raise refuse("EOVERFLOW", f"{iova:#x} + {size:#x} wraps")
        if not size or not prot & (READ | WRITE):
            raise refuse("EINVAL", "a mapping needs a size, and the right to read or to write")
        smallest = iommu.pgsizes & -iommu.pgsizes
        if (size | iova | offset) & (smallest - 1) or wraps:
            raise refuse("EINVAL", f"iova {iova:#x} and size {size:#x} must be whole pages")
        if iommu.tree.find(iova, size) is not None:
            raise refuse("EEXIST", f"{iova:#x}..{iova + size - 1:#x} is mapped already")
        if len(iommu.maps) >= iommu.limit:
            raise refuse("ENOSPC", f"this container takes {iommu.limit} mappings")
        last = iova + size - 1
        if iommu.usable and not any(a <= iova and last <= b for a, b in iommu.usable):
            raise refuse("EINVAL", f"{iova:#x}..{last:#x} is not in the valid IOVA ranges")
        dma = Dma(iova, size, prot, tuple(pages[: size // PAGE]))
        missing = len(dma.pages) * PAGE < size
        runs = contiguous(dma)
        done = 0
        try:
            # While the kernel looks for the end of the last run, the pinning fails.
            never = missing and self.rule("vfio.pin") == "batches"
            for run in runs[:-1] if never else runs:
                self._map_everywhere(iommu, run, prot)
                done += len(run.pages) * PAGE
            if missing:
                raise refuse("EFAULT", "the process has no memory there")
        except OSError:
            if done:
                self._unmap(iommu, replace(dma, size=done, pages=dma.pages[: done // PAGE]))
            raise
        iommu.maps[iova] = dma
        iommu.tree.insert(iova, size)

    def unmap_dma(
        self, container: Container, iova: int, size: int, everything: bool = False
    ) -> int:
        """VFIO_IOMMU_UNMAP_DMA: the bytes unmapped. A mapping can't be cut (type1v2)."""
        iommu = self._iommu(container)
        if everything and self.rule("vfio.unmap_all") != "yes":
            raise refuse("EINVAL", "this release can't unmap everything at once")
        smallest = iommu.pgsizes & -iommu.pgsizes
        if iova & (smallest - 1) or (everything and (iova or size)):
            raise refuse("EINVAL", f"iova {iova:#x} must be a whole page")
        if everything:
            size = TOP
        else:
            if not size or size & (smallest - 1):
                raise refuse("EINVAL", f"size {size:#x} must be whole pages")
            if iova + size - 1 > TOP:
                raise refuse(self.rule("vfio.wrap"), f"{iova:#x} + {size:#x} wraps")
        if iommu.v2 and not everything:
            self._refuse_to_cut(iommu, iova, size)
        unmapped = 0
        for at in self._hits(iommu, iova, size):
            if not iommu.v2 and iova > at:
                break
            unmapped += iommu.maps[at].size
            self._unmap(iommu, iommu.maps[at])
            self._forget(iommu, at)
        return unmapped

    def _hits(self, iommu: Type1, iova: int, size: int) -> Iterator[int]:
        """The mappings in a range, in the order in which the kernel takes them away."""
        if self.rule("vfio.unmap_order") == "tree":
            while (at := iommu.tree.find(iova, size)) is not None:
                yield at
        else:
            yield from list(iommu.tree.onwards(iova, size))

    def _refuse_to_cut(self, iommu: Type1, iova: int, size: int) -> None:
        tree = iommu.tree
        first, last = tree.find(iova, 1), tree.find(iova + size - 1, 0)
        if first is not None and first != iova:
            raise refuse("EINVAL", f"the mapping at {first:#x} would be cut")
        if last is not None and tree.end(last) != iova + size:
            raise refuse("EINVAL", f"the mapping at {last:#x} would be cut")

    def _forget(self, iommu: Type1, iova: int) -> None:
        del iommu.maps[iova]
        iommu.tree.remove(iova)

    def _overlapping(self, iommu: Type1, iova: int, size: int) -> list[Dma]:
        hits = (d for d in iommu.maps.values() if d.iova < iova + size and iova < d.end)
        return sorted(hits, key=lambda d: d.iova)

    # -- type1: page tables -----------------------------------------------------------------

    def _map_everywhere(self, iommu: Type1, run: Dma, prot: int) -> None:
        for index, domain in enumerate(iommu.domains):
            try:
                self._map(domain.name, run.iova, run.pages[0], run.size, prot, USER_PAGES)
            except OSError:
                for done in reversed(iommu.domains[:index]):
                    self._unmap_one(done.name, run.iova, run.size, USER_PAGES)
                raise

    def _unmap(self, iommu: Type1, dma: Dma) -> None:
        """``vfio_unmap_unpin``: the first domain says where the pages are, so it goes last.

        Where the end of a mapping is counted in 64 bits, one that ends with the last address seems
        to end before it begins: nothing is unmapped from the first domain, and the pages stay.
        """
        if not iommu.domains:
            return
        first, *others = iommu.domains
        for domain in others:
            self._unmap_one(domain.name, dma.iova, dma.size, USER_PAGES)
        if dma.end > TOP and self.rule("vfio.wrap") == "EINVAL":
            return
        at = dma.iova
        runs = contiguous(dma)
        while at < dma.end:
            run = next(r for r in runs if r.iova <= at < r.end)
            length = PAGE if first.fine_grained else run.end - at
            at += self._unmap_one(first.name, at, length, USER_PAGES) or PAGE

    def _map(self, name: str, iova: int, paddr: int, size: int, prot: int, text: str = "") -> None:
        iommu_map(self.world, self.world.domains[name], iova, paddr, size, prot)
        self.world.event("trace", "map", domain=name, iova=iova, size=size, paddr=paddr, text=text)

    def _unmap_one(self, name: str, iova: int, size: int, text: str = "") -> int:
        done, _ = iommu_unmap(self.world, self.world.domains[name], iova, size)
        self.world.event("trace", "unmap", domain=name, iova=iova, size=done, text=text)
        return done

    def _domain(self, name: str) -> Domain:
        return self.world.domains[name]

    # -- type1: groups ----------------------------------------------------------------------

    def _attach_group(self, iommu: Type1, number: int) -> None:
        """``vfio_iommu_type1_attach_group``: a new domain, or the one that the others have."""
        world = self.world
        if any(number in d.groups for d in iommu.domains):
            raise refuse("EINVAL", f"group {number} is attached already")
        self.domains_made += 1
        made = behaviours.alloc(world, DomainType.UNMANAGED, f"vfio{self.domains_made}")
        if made is None:
            raise refuse("EIO", f"{world.driver.name} has no domain to give")
        name = made.name
        try:
            core.attach_group(world, name, number)
        except OSError:
            behaviours.free(world, self._domain(name))
            raise
        try:
            usable = self._usable_with(iommu, name, number)
            if not self.unsafe and not self.isolated:
                raise refuse("EPERM", "interrupts are not remapped, and unsafe ones not allowed")
            if iommu.domains:
                # Every domain here is of one driver and enforces snooping alike: they are shared.
                core.detach_group(world, name, number)
                shared = iommu.domains[0]
                core.attach_group(world, shared.name, number)
                shared.groups.insert(0, number)
                behaviours.free(world, self._domain(name))
            else:
                fine = self._is_fine_grained(name, usable)
                self._replay(iommu, name)
                iommu.domains.insert(0, Type1Domain(name, [number], fine))
        except OSError:
            core.detach_group(world, name, number)
            behaviours.free(world, self._domain(name))
            raise
        self._update_pgsizes(iommu)
        iommu.usable = usable

    def _usable_with(self, iommu: Type1, name: str, number: int) -> list[tuple[int, int]]:
        """The valid IOVA ranges once this group's reserved regions are taken out."""
        domain = self._domain(name)
        if iommu.usable:
            low, high = iommu.usable[0][0], iommu.usable[-1][1]
            outside = domain.first > high or domain.last < low
            below = domain.first > low and self._overlapping(iommu, low, domain.first - low)
            above = domain.last < high and self._overlapping(
                iommu, domain.last + 1, high - domain.last
            )
            if outside or below or above:
                raise refuse("EINVAL", f"the aperture of group {number} does not fit the mappings")
        reserved = [r for r in self._reserved(number) if r.type != "direct-relaxable"]
        if any(self._overlapping(iommu, r.first, r.last - r.first + 1) for r in reserved):
            raise refuse("EINVAL", f"a reserved region of group {number} is mapped")
        usable = iommu.usable or [(domain.first, domain.last)]
        clipped = [(max(a, domain.first), min(b, domain.last)) for a, b in usable]
        usable = _without([(a, b) for a, b in clipped if a <= b], reserved)
        if not usable:
            raise refuse("EINVAL", f"group {number} leaves no address that may be mapped")
        return usable

    def _reserved(self, number: int) -> tuple[Reserved, ...]:
        return self.world.reserved_of(self.world.groups[number].devices)

    def _is_fine_grained(self, name: str, usable: list[tuple[int, int]]) -> bool:
        """``vfio_test_domain_fgsp``: map two pages, unmap one and see how much goes."""
        rule = self.rule("vfio.fgsp")
        if rule == "no":
            return False
        starts = [0] if rule == "at-zero" else [_up(a, 2 * PAGE) for a, _ in usable]
        start = starts[0]
        try:
            self._map(name, start, SCRATCH, 2 * PAGE, READ | WRITE)
        except OSError:
            return False
        if self._unmap_one(name, start, PAGE) != PAGE:
            return True
        self._unmap_one(name, start + PAGE, PAGE)
        return False

    def _replay(self, iommu: Type1, name: str) -> None:
        for dma in sorted(iommu.maps.values(), key=lambda d: d.iova):
            if dma.end > TOP and self.rule("vfio.wrap") == "EINVAL":
                continue
            for run in contiguous(dma):
                self._map(name, run.iova, run.pages[0], run.size, dma.prot, USER_PAGES)

    def _detach_group(self, iommu: Type1, number: int) -> None:
        """``vfio_iommu_type1_detach_group``: the last group takes the mappings with it."""
        for domain in list(iommu.domains):
            if number not in domain.groups:
                continue
            core.detach_group(self.world, domain.name, number)
            domain.groups.remove(number)
            if not domain.groups:
                if len(iommu.domains) == 1:
                    for dma in sorted(iommu.maps.values(), key=lambda d: d.iova):
                        self._unmap(iommu, dma)
                        self._forget(iommu, dma.iova)
                behaviours.free(self.world, self._domain(domain.name))
                iommu.domains.remove(domain)
                self._update_pgsizes(iommu)
        self._refresh_usable(iommu)

    def _refresh_usable(self, iommu: Type1) -> None:
        if not iommu.domains:
            iommu.usable = []
            return
        domains = [self._domain(d.name) for d in iommu.domains]
        whole = [(max(d.first for d in domains), min(d.last for d in domains))]
        reserved = [r for d in iommu.domains for g in d.groups for r in self._reserved(g)]
        iommu.usable = _without(whole, [r for r in reserved if r.type != "direct-relaxable"])

    def _update_pgsizes(self, iommu: Type1) -> None:
        bits = TOP
        for domain in iommu.domains:
            bits &= pgsizes(self.world, self._domain(domain.name))
        if bits & (PAGE - 1):
            bits = bits & ~(PAGE - 1) | PAGE
        iommu.pgsizes = bits


def _without(
    ranges: Iterable[tuple[int, int]], reserved: Iterable[Reserved]
) -> list[tuple[int, int]]:
    """Ranges (first, last) with the reserved regions cut out."""
    left = list(ranges)
    for region in reserved:
        cut: list[tuple[int, int]] = []
        for first, last in left:
            if region.first > last or region.last < first:
                cut.append((first, last))
                continue
            if region.first > first:
                cut.append((first, region.first - 1))
            if region.last < last:
                cut.append((region.last + 1, last))
        left = cut
    return left


def _up(address: int, align: int) -> int:
    return -(-address // align) * align
