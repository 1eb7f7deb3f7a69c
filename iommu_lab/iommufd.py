"""iommufd: address spaces and page tables as objects of their own, and devices bound to them.

A context is one open of ``/dev/iommu``. In it live numbered objects: address spaces (IOAS), page
tables (HWPT) and bound devices. A device attaches to a page table, or to an address space that then
finds or makes a page table for it. Read from drivers/iommu/iommufd/ (6.12 and 7.2): device.c,
hw_pagetable.c, ioas.c, io_pagetable.c, main.c.

The one choice a reader would question: a context is an object beside the
:class:`~iommu_lab.state.World` that it changes. As with :mod:`iommu_lab.vfio`, what it keeps lives
as long as its file descriptor.

Where the model stops: no nested page tables, PASIDs, dirty tracking, copies, file mappings or
emulated devices; addresses are always given by the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from . import behaviours, core
from .domains import Domain, DomainType
from .errors import refuse
from .pagetables import iommu_map, iommu_unmap, pgsizes
from .state import World
from .tables import READ, WRITE
from .userpages import PAGE, TOP, USER_PAGES, Dma, contiguous


@dataclass(slots=True)
class Space:
    """An IOAS: what the user mapped, and the domains that are kept filled with it."""

    number: int
    areas: dict[int, Dma] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    """How far into its first page each area begins."""
    domains: list[str] = field(default_factory=list)
    """The first is the one that the pages are read back from when they are let go."""
    reserved: list[tuple[int, int, str]] = field(default_factory=list)
    """(first, last, whose): a device's or a domain's."""

    def between(self, first: int, last: int) -> list[Dma]:
        """The areas that touch this range, in order."""
        hits = (a for a in self.areas.values() if a.iova <= last and first < a.end)
        return sorted(hits, key=lambda a: a.iova)


@dataclass(slots=True)
class PageTable:
    """A HWPT: one domain, filled from an address space.

    ``auto``: an attach to the space made it.
    """

    number: int
    domain: str
    space: Space
    auto: bool = False


@dataclass(slots=True)
class Bound:
    """A device that is bound to the context."""

    number: int
    device: str
    group: int


Object = Space | PageTable | Bound


def aperture(w: World, domain: Domain) -> tuple[int, int, bool]:
    """``domain->geometry``: first, last and whether it binds; zeros until the driver has set it."""
    if w.driver.aperture_set == "attach" and not domain.ready:
        return 0, 0, False
    return domain.first, domain.last, True


class Context:
    """One open ``/dev/iommu``.

    ``owner`` is the name under which it claims groups; ``isolated`` and ``unsafe`` are those of
    :class:`~iommu_lab.vfio.Vfio`, and iommufd has a module parameter of its own.
    """

    def __init__(self, world: World, owner: str, *, isolated: bool, unsafe: bool = False) -> None:
        self.world = world
        self.owner = owner
        self.isolated = isolated
        self.unsafe = unsafe
        self.objects: dict[int, Object] = {}
        self.tables: dict[int, PageTable] = {}
        """Where each group is attached."""
        self.attached: dict[int, list[str]] = {}
        """The devices of a group that were attached, one by one."""
        self.closed = False
        self._made = 0

    def _free_number(self) -> int:
        return next(n for n in range(1, len(self.objects) + 2) if n not in self.objects)

    def _space(self, number: int) -> Space:
        found = self.objects.get(number)
        if not isinstance(found, Space):
            raise refuse("ENOENT", f"{number} is no address space")
        return found

    def bound(self, device: str) -> Bound:
        """The object of a bound device."""
        found = (o for o in self.objects.values() if isinstance(o, Bound) and o.device == device)
        return next(found)

    def alloc_space(self) -> int:
        """IOMMU_IOAS_ALLOC."""
        number = self._free_number()
        self.objects[number] = Space(number)
        return number

    # -- devices ----------------------------------------------------------------------------

    def bind(self, device: str) -> int:
        """``iommufd_device_bind``: claims the group; its devices are blocked from here on."""
        group = self.world.group_of(device)
        if group is None:
            raise refuse("ENODEV", f"{device} is in no group")
        if not self.isolated and not self.unsafe:
            raise refuse("EPERM", "interrupts are not remapped, and unsafe ones not allowed")
        core.claim_device(self.world, device, self.owner)
        number = self._free_number()
        self.objects[number] = Bound(number, device, group.number)
        return number

    def unbind(self, device: str) -> None:
        """``iommufd_device_unbind``, and before it the detach that VFIO sees to."""
        self.detach(device)
        del self.objects[self.bound(device).number]
        core.release_device_owner(self.world, device)
        if self.closed and not any(isinstance(o, Bound) for o in self.objects.values()):
            self._clear()

    def attach(self, device: str, number: int) -> int:
        """Attach, or replace what is attached; the number of the page table it came to."""
        found = self.objects.get(number)
        if found is None:
            raise refuse("ENOENT", f"there is no object {number}")
        bound = self.bound(device)
        replaces = device in self.attached.get(bound.group, [])
        switch = self._replace if replaces else self._attach
        if isinstance(found, PageTable):
            old = switch(bound, found)
        elif isinstance(found, Space):
            found, old = self._find_table(bound, found, replaces)
        else:
            raise refuse("EINVAL", f"{number} is a device")
        if old is not None:
            self._put(old)
        return found.number

    def _find_table(
        self, bound: Bound, space: Space, replaces: bool
    ) -> tuple[PageTable, PageTable | None]:
        """``iommufd_device_auto_get_domain``: a page table that takes the device, or a new one."""
        for table in [o for o in self.objects.values() if isinstance(o, PageTable)]:
            if table.space is not space or not table.auto:
                continue
            try:
                return table, (self._replace if replaces else self._attach)(bound, table)
            except OSError as error:
                if not str(error.strerror).startswith("EINVAL"):
                    raise
        if not replaces:
            return self._new_table(bound, space, attaches=True), None
        table = self._new_table(bound, space, attaches=False)
        table.auto = True
        try:
            return table, self._replace(bound, table)
        except OSError:
            self._destroy_table(table)
            raise

    def _attach(self, bound: Bound, table: PageTable) -> None:
        """``iommufd_hw_pagetable_attach``: the first device of a group attaches the group."""
        at = self.tables.get(bound.group)
        if at is not None and at is not table:
            raise refuse("EINVAL", f"group {bound.group} is attached to {at.number}")
        self._reserve_for(table.space, bound.device)
        devices = self.attached.setdefault(bound.group, [])
        if not devices:
            try:
                core.attach_group(self.world, table.domain, bound.group)
            except OSError:
                self._unreserve(table.space, bound.device)
                raise
            self.tables[bound.group] = table
        devices.append(bound.device)

    def _replace(self, bound: Bound, table: PageTable) -> PageTable | None:
        """``iommufd_device_do_replace``: the whole group goes, and translates all the while."""
        old = self.tables[bound.group]
        if table is old:
            return None
        devices = self.attached[bound.group]
        elsewhere = table.space is not old.space
        try:
            for device in devices if elsewhere else ():
                self._reserve_for(table.space, device)
            core.replace_domain(self.world, table.domain, bound.group)
        except OSError:
            for device in devices if elsewhere else ():
                self._unreserve(table.space, device)
            raise
        for device in devices if elsewhere else ():
            self._unreserve(old.space, device)
        self.tables[bound.group] = table
        return old

    def detach(self, device: str) -> None:
        """``iommufd_device_detach``: the last device of a group takes it back to blocked."""
        bound = self.bound(device)
        devices = self.attached.get(bound.group, [])
        if device not in devices:
            return
        table = self.tables[bound.group]
        devices.remove(device)
        if not devices:
            core.detach_group(self.world, table.domain, bound.group)
            del self.tables[bound.group]
        self._unreserve(table.space, device)
        self._put(table)

    # -- page tables ------------------------------------------------------------------------

    def alloc_table(self, device: int, parent: int) -> int:
        """IOMMU_HWPT_ALLOC: a page table of an address space, made for this device."""
        bound, space = self.objects.get(device), self.objects.get(parent)
        if not isinstance(bound, Bound):
            raise refuse("ENOENT", f"{device} is no device")
        if isinstance(space, PageTable):
            raise refuse("EOPNOTSUPP", "a nested page table needs data for its driver")
        if not isinstance(space, Space):
            raise refuse("EINVAL", f"{parent} is no address space")
        return self._new_table(bound, space, attaches=False).number

    def _new_table(self, bound: Bound, space: Space, *, attaches: bool) -> PageTable:
        """``iommufd_hwpt_paging_alloc``; an attach comes before the filling, as some need it."""
        self._made += 1
        made = behaviours.alloc(self.world, DomainType.UNMANAGED, f"{self.owner}.{self._made}")
        if made is None:
            raise refuse("EOPNOTSUPP", f"{self.world.driver.name} has no domain to give")
        if self.world.release["iommufd.domain"] == "of-device":
            made = behaviours.narrowed(self.world, made)
        number = self._free_number()
        table = PageTable(number, made.name, space, auto=attaches)
        self.objects[number] = table
        try:
            if attaches:
                self._attach(bound, table)
            try:
                self._add_domain(space, made.name)
            except OSError:
                if attaches:
                    self._undo_attach(bound, table)
                raise
        except OSError:
            del self.objects[number]
            behaviours.free(self.world, self.world.domains[made.name])
            raise
        return table

    def _undo_attach(self, bound: Bound, table: PageTable) -> None:
        core.detach_group(self.world, table.domain, bound.group)
        self.attached[bound.group].remove(bound.device)
        del self.tables[bound.group]
        self._unreserve(table.space, bound.device)

    def _put(self, table: PageTable) -> None:
        """A page table that an attach made goes with its last device."""
        if table.auto and table not in self.tables.values():
            self._destroy_table(table)

    def _destroy_table(self, table: PageTable) -> None:
        del self.objects[table.number]
        self._remove_domain(table.space, table.domain)
        behaviours.free(self.world, self.world.domains[table.domain])

    def destroy(self, number: int) -> None:
        """IOMMU_DESTROY: EBUSY for what is in use, and a bound device always is."""
        found = self.objects.get(number)
        if found is None:
            raise refuse("ENOENT", f"there is no object {number}")
        if self._in_use(found):
            raise refuse("EBUSY", f"{number} is in use")
        if isinstance(found, PageTable):
            self._destroy_table(found)
        else:
            del self.objects[number]

    def _in_use(self, found: Object) -> bool:
        if isinstance(found, Space):
            tables = (o for o in self.objects.values() if isinstance(o, PageTable))
            return any(t.space is found for t in tables)
        return isinstance(found, Bound) or found in self.tables.values()

    def close(self) -> None:
        """Close the file: what is left goes once no device is bound any more."""
        self.closed = True
        if not any(isinstance(o, Bound) for o in self.objects.values()):
            self._clear()

    def _clear(self) -> None:
        while self.objects:
            for number, found in sorted(self.objects.items()):
                if not self._in_use(found):
                    self.destroy(number)

    # -- mapping ----------------------------------------------------------------------------

    def map(
        self, number: int, iova: int, size: int, prot: int, pages: Sequence[int], offset: int = 0
    ) -> None:
        """IOMMU_IOAS_MAP at a fixed address, of bytes that begin ``offset`` into a page."""
        if iova >= TOP or size >= TOP:
            raise refuse("EOVERFLOW", f"{iova:#x} and {size:#x} are too large")
        if not prot & (READ | WRITE):
            raise refuse("EINVAL", "a mapping needs the right to read or to write")
        space = self._space(number)
        align = self._alignment(space)
        if not size or (size | iova | offset) & (align - 1):
            raise refuse("EINVAL", f"iova {iova:#x} and size {size:#x} must be whole pages")
        last = iova + size - 1
        if last > TOP:
            raise refuse("EOVERFLOW", f"{iova:#x} + {size:#x} wraps")
        if any(first <= last and iova <= end for first, end, _ in space.reserved):
            raise refuse("EINVAL", f"{iova:#x}..{last:#x} is reserved")
        if space.between(iova, last):
            raise refuse("EEXIST", f"{iova:#x}..{last:#x} is mapped already")
        count = -(-(offset + size) // PAGE)
        area = Dma(iova, size, prot, tuple(pages[:count]))
        done: list[str] = []
        try:
            for domain in space.domains:
                self._fill(domain, area)
                done.append(domain)
        except OSError:
            for domain in done:
                self._unfill(domain, area)
            raise
        space.areas[iova] = area
        space.offsets[iova] = offset

    def unmap(self, number: int, iova: int, size: int) -> int:
        """IOMMU_IOAS_UNMAP: the bytes unmapped. An area goes whole or is ENOENT."""
        space = self._space(number)
        everything = iova == 0 and size == TOP
        if not everything and (iova >= TOP or size >= TOP):
            raise refuse("EOVERFLOW", f"{iova:#x} and {size:#x} are too large")
        if not size:
            raise refuse("EINVAL", "nothing to unmap")
        last = TOP if everything else iova + size - 1
        if last > TOP:
            raise refuse("EOVERFLOW", f"{iova:#x} + {size:#x} wraps")
        done = 0
        for area in space.between(iova, last):
            if area.iova < iova or area.end - 1 > last:
                raise refuse("ENOENT", f"the mapping at {area.iova:#x} would be cut")
            first, *others = space.domains or [""]
            for domain in [*others, first] if first else ():
                self._unfill(domain, area)
            del space.areas[area.iova], space.offsets[area.iova]
            done += area.size
        if not done and not everything:
            raise refuse("ENOENT", f"nothing is mapped at {iova:#x}")
        return done

    def _fill(self, domain: str, area: Dma) -> None:
        """Map an area into one domain, a run of neighbouring pages at a time."""
        world, done = self.world, 0
        try:
            for run in contiguous(area):
                size = min(run.size, area.size - done)
                at = world.domains[domain]
                iommu_map(world, at, run.iova, run.pages[0], size, area.prot)
                self._tell("map", domain, run.iova, size, run.pages[0])
                done += size
            if done < area.size:
                raise refuse("EFAULT", "the process has no memory there")
        except OSError:
            if done:
                self._unfill(domain, replace(area, size=done))
            raise

    def _unfill(self, domain: str, area: Dma) -> None:
        done, _ = iommu_unmap(self.world, self.world.domains[domain], area.iova, area.size)
        self._tell("unmap", domain, area.iova, done)

    def _tell(self, name: str, domain: str, iova: int, size: int, paddr: int | None = None) -> None:
        self.world.event(
            "trace", name, domain=domain, iova=iova, size=size, paddr=paddr, text=USER_PAGES
        )

    def _alignment(self, space: Space) -> int:
        """The largest of the domains' smallest pages; a space without domains takes any address."""
        sizes = [pgsizes(self.world, self.world.domains[d]) for d in space.domains]
        return max((s & -s for s in sizes), default=1)

    def _add_domain(self, space: Space, domain: str) -> None:
        """``iopt_table_add_domain``: EADDRINUSE when something mapped does not fit into it."""
        at = self.world.domains[domain]
        sizes = pgsizes(self.world, at)
        smallest = max(sizes & -sizes, self._alignment(space))
        if smallest > PAGE:
            raise refuse("EINVAL", f"{domain} has no page as small as {PAGE:#x}")
        for area in space.areas.values():
            if (area.iova | area.size | space.offsets[area.iova]) & (smallest - 1):
                raise refuse("EADDRINUSE", f"the mapping at {area.iova:#x} is no whole pages")
        first, last, _ = aperture(self.world, at)
        done: list[Dma] = []
        try:
            if first:
                self._reserve(space, 0, first - 1, domain)
            if last != TOP:
                self._reserve(space, last + 1, TOP, domain)
            for area in space.between(0, TOP):
                self._fill(domain, area)
                done.append(area)
        except OSError:
            for area in done:
                self._unfill(domain, area)
            self._unreserve(space, domain)
            raise
        space.domains.append(domain)

    def _remove_domain(self, space: Space, domain: str) -> None:
        """``iopt_table_remove_domain``: the last of the list takes the empty place."""
        at = space.domains.index(domain)
        last = space.domains.pop()
        if at < len(space.domains):
            space.domains[at] = last
        for area in space.between(0, TOP):
            self._unfill(domain, area)
        self._unreserve(space, domain)

    # -- reserved addresses -------------------------------------------------------------------

    def _reserve(self, space: Space, first: int, last: int, whose: str) -> None:
        if space.between(first, last):
            raise refuse("EADDRINUSE", f"{first:#x}..{last:#x} is reserved, and mapped")
        space.reserved.append((first, last, whose))

    def _reserve_for(self, space: Space, device: str) -> None:
        """``iopt_table_enforce_dev_resv_regions``: this device's own regions."""
        try:
            for region in self.world.reserved(device):
                if region.type != "direct-relaxable":
                    self._reserve(space, region.first, region.last, device)
        except OSError:
            self._unreserve(space, device)
            raise

    def _unreserve(self, space: Space, whose: str) -> None:
        space.reserved = [r for r in space.reserved if r[2] != whose]
