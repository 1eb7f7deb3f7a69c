"""Page tables as drivers keep them: what ``iommu_map`` and ``iommu_unmap`` really do.

The core cuts a range into pages and hands them to the driver. Whether an existing mapping is an
error, is replaced or wins, whether a hole counts as unmapped, and what happens to a part of a large
page is the driver's affair. Each page-table format is a row of words in
``data/drivers/pagetables.csv``, and each word is a small function here.

Where the model stops: memory for a table is never short, and on 32-bit Arm an IOVA is as wide as
anywhere else.

Core part: __iommu_map, __iommu_unmap, iommu_pgsize in drivers/iommu/iommu.c (5.10 to 7.2).
"""

from __future__ import annotations

import csv
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from .datafiles import datafile
from .domains import Domain, DomainType
from .errors import KernelCrash, refuse
from .releases import Release
from .releases import release as find_release
from .state import World
from .tables import READ, WRITE, PageTable, Run

LOW32 = 2**32 - 1
CRASH = "crash"
TOP = 2**64 - 1
MINUS_EINVAL = 2**64 - 22
"""What a driver's ``return -EINVAL`` reads like when the caller takes it for a size."""


@dataclass(frozen=True, slots=True)
class Format:
    """One page-table format in one release: a word for each question.

    ``map`` and ``unmap`` name the functions below; a word that they do not read is left out.
    ``inside`` is what a page meets that lies inside a larger one, ``below`` what a page meets that
    covers a table of smaller ones. ``tables`` are the sizes (log2) at which an entry may hold a
    table in place of a page, and ``bare`` what becomes of a table whose last page goes, where a
    later call can tell. ``pages`` says what is stored for a chunk: the chunk's own page size,
    entries of the level below it where the driver offers sizes between two levels, small pages
    whatever was asked for, or one record a page. ``empty`` is the answer to a map of nothing, where
    it is not a success. ``before_…`` is the answer before the driver has finished the domain, which
    most do at its first attach ("crash", with the function if it is another one); ``orphan`` that
    of a domain which nobody is attached to any more.
    """

    pagetable: str
    map: str
    errno: str
    warns: frozenset[str]
    inside: str
    below: str
    unmap: str
    hole: str
    part: str
    tables: tuple[int, ...]
    bare: str
    pages: str
    unaligned: str
    empty: str
    range_map: str
    range_unmap: str
    no_rights: str
    rights: str
    paddr_beyond: str
    paddr_bits: int
    before_map: str
    orphan: str
    before_unmap: str
    before_lookup: str
    lookup: str
    function: str

    def level(self, shift: int) -> int:
        """How many kinds of table stand below a page of this size."""
        return bisect_right(self.tables, shift)

    def base(self, shift: int) -> int:
        """The size (log2) of one entry at the level that holds pages of this size."""
        return max((t for t in self.tables if t <= shift), default=0)

    @staticmethod
    def crashes(word: str, usual: str) -> str:
        """The function in which a call ends whose word is "crash", or "crash FUNCTION"."""
        return word.removeprefix(CRASH).strip() or usual


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with open(datafile("drivers", "pagetables.csv"), newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


@cache
def _format(pagetable: str, driver: str, release: str) -> Format:
    rows = [r for r in _rows() if r["pagetable"] == pagetable]
    rows = [r for r in rows if r["driver"] == driver] or [r for r in rows if not r["driver"]]
    known = {r["release"]: r for r in rows}
    row = next((known[at] for at in find_release(release).lineage() if at in known), rows[0])
    beyond, _, bits = row["paddr"].partition(" ")
    made: dict[str, Any] = {k: row[k] for k in Format.__slots__ if k in row}
    made |= {
        "warns": frozenset(row["warns"].split()),
        "tables": tuple(int(t) for t in row["tables"].split()),
        "paddr_beyond": beyond,
        "paddr_bits": int(bits or 64),
    }
    return Format(**made)


def page_table_format(pagetable: str, release: Release, driver: str = "") -> Format:
    """The row that holds for this release: the nearest one that the release stands on.

    A driver with rows of its own is looked up in those.
    """
    return _format(pagetable, driver, release.name)


def format_of(w: World) -> Format:
    """The page-table format of the world's driver."""
    return page_table_format(w.driver.pagetable, w.release, w.driver.known_as)


def pages(bitmap: int, iova: int, paddr: int, size: int) -> tuple[int, int]:
    """The next page size (log2) and how many pages of it: ``iommu_pgsize``.

    The largest supported page that fits into ``size`` and divides both addresses; the run of equal
    pages ends where a larger page could start.

    >>> pages(0x40201000, 0x1000, 0x8000_1000, 0x40_0000)
    (12, 511)
    """
    usable = bitmap & ((1 << size.bit_length()) - 1)
    together = iova | paddr
    if together:
        usable &= (1 << (together & -together).bit_length()) - 1
    if not usable:
        raise ValueError(f"no page size in {bitmap:#x} fits {iova:#x}, {paddr:#x}, {size:#x}")
    shift = usable.bit_length() - 1
    larger = bitmap >> (shift + 1)
    count = size >> shift
    if larger:
        step = (larger & -larger) << (shift + 1)
        if (iova ^ paddr) & (step - 1) == 0:
            offset = step - (together & (step - 1))
            if offset + step <= size:
                count = offset >> shift
    return shift, count


MOST_PIECES = 100_000
"""How many pieces of one call the lab follows. A kernel would go on for hours or days."""


def _piece(number: int, size: int) -> int:
    """Count one piece more of a call for ``size`` bytes, or refuse to follow it any further."""
    if number == MOST_PIECES:
        raise ValueError(
            f"the lab follows at most {MOST_PIECES:,} pieces of one call; size {size:#x} needs more"
        )
    return number + 1


# -- the core's part -----------------------------------------------------------------------------


def iommu_map(w: World, domain: Domain, iova: int, paddr: int, size: int, prot: int) -> None:
    """Map ``size`` bytes; on an error everything this call has mapped is unmapped again.

    Raises the errno of the core or of the driver; :class:`KernelCrash` where the call would follow
    a NULL pointer or never end.
    """
    job = Job(w, format_of(w), domain)
    form = job.form
    _core_tests(w, form, domain)
    bitmap = pgsizes(w, domain)
    least = bitmap & -bitmap
    if (iova | paddr | size) & (least - 1):
        raise refuse(
            form.unaligned,
            f"iova {iova:#x}, paddr {paddr:#x} and size {size:#x} must be multiples of {least:#x}",
        )
    if not size:
        if form.empty:
            raise refuse(form.empty, "this page table wants at least a page")
        return
    _before_attach(job)
    table = w.table(domain.table)
    mapped = number = 0
    refusal: OSError | None = None
    while mapped < size and refusal is None:
        number = _piece(number, size)
        shift, count = pages(bitmap, iova + mapped, paddr + mapped, size - mapped)
        try:
            chunk = _placed(job, Chunk(iova + mapped, paddr + mapped, shift, count))
            if _rights(form, prot):
                stored = _stored(form, shift, least)
                new = Run(chunk.iova, chunk.size, chunk.paddr, stored, RIGHTS[form.rights](prot))
                table, refusal = MAP[form.map](job, table, new)
        except OSError as error:
            refusal = error
        else:
            mapped += 0 if refusal else chunk.size
    _store(w, domain, table.with_bare(_still_bare(table)))
    if refusal is not None:
        if mapped:
            iommu_unmap(w, domain, iova, mapped)
        raise refusal


def iommu_unmap(w: World, domain: Domain, iova: int, size: int) -> tuple[int, list[Run]]:
    """Unmap and say how many bytes the call returns, which may be more or less than asked for.

    Also the runs that are gone from the table, for an IOTLB that may still hold them. There is no
    error channel: what can't be done returns 0.
    """
    if domain.freed:
        raise KernelCrash("iommu_unmap", f"{domain.name} is freed and followed")
    form = format_of(w)
    if not domain.type.paging or form.map == "none":
        return 0, []
    bitmap = pgsizes(w, domain)
    least = bitmap & -bitmap
    if form.unaligned == "ENXIO":
        size = -(-size // least) * least
    if (iova | size) & (least - 1) or not size:
        return 0, []
    if not domain.ready:
        if form.before_unmap.startswith(CRASH):
            text = f"{domain.name} has no page table to unmap from"
            raise KernelCrash(form.crashes(form.before_unmap, "iommu_unmap"), text)
        return 0, []
    job = Job(w, form, domain)
    table, gone, done = w.table(domain.table), list[Run](), 0
    number = 0
    while done < size:
        number = _piece(number, size)
        at, room = iova + done, size - done
        if form.range_unmap == "truncate":
            at &= LOW32
            room = min(room, LOW32 + 1 - at)
        chunk = Chunk(at, at, *pages(bitmap, at, at, room))
        if _beyond(domain, at, _looked_at(form, chunk, room), form.range_unmap):
            done = _unmap_beyond(job, at, done)
            break
        if form.range_unmap == "zero-each":
            inside = domain.last + 1 - at >> chunk.shift
            chunk = chunk._replace(number=min(chunk.number, inside))
        table, removed, bytes_ = UNMAP[form.unmap](job, table, chunk)
        gone += removed
        if not bytes_:
            break
        done += bytes_
    _store(w, domain, table)
    return done, gone


def iova_to_phys(w: World, domain: Domain, iova: int) -> int:
    """``iommu_iova_to_phys``: identity gives the address itself, blocked and holes give 0.

    Some drivers answer with the page's address and drop the offset in the page; one looks into the
    empty table that it gave to an identity domain.
    """
    if domain.freed:
        raise KernelCrash("iommu_iova_to_phys", f"{domain.name} is freed and followed")
    form = format_of(w)
    if domain.type is DomainType.IDENTITY:
        return 0 if form.lookup == "table-only" else iova
    if not domain.type.paging:
        return 0
    if form.lookup == "window":
        return iova if domain.first <= iova <= domain.last else 0
    if not domain.ready:
        if form.before_lookup == "crash":
            raise KernelCrash("iommu_iova_to_phys", f"{domain.name} has no page table to walk")
        return 0
    found = _records(w, domain).lookup(iova)
    if found is None:
        return 0
    return found[0] & ~0xFFF if form.lookup == "page" else found[0]


def map_many(w: World, domain: Domain, rows: Sequence[tuple[int, int, int]], prot: int) -> int:
    """Many ``(iova, paddr, size)`` as if mapped one by one; returns how many bytes were mapped.

    Ranges that touch nothing that exists and nothing of each other are put in at once; anything
    else goes the long way, so the answer and the table are those of the single calls.
    """
    quick = _all_at_once(w, domain, rows, prot)
    if quick is not None:
        _store(w, domain, quick)
    else:
        for iova, paddr, size in rows:
            iommu_map(w, w.domains[domain.name], iova, paddr, size, prot)
    return sum(size for _, _, size in rows)


def _all_at_once(
    w: World, domain: Domain, rows: Sequence[tuple[int, int, int]], prot: int
) -> PageTable | None:
    """The table with all the rows in it, or None when a row needs a closer look."""
    form = format_of(w)
    rights = prot and (prot & READ or form.no_rights != "needs-read")
    if not rows or not rights or not domain.ready or form.map in ("none", "records"):
        return None
    _core_tests(w, form, domain)
    bitmap = pgsizes(w, domain)
    least = bitmap & -bitmap
    ordered = sorted(rows)
    apart = all(a[0] + a[2] <= b[0] for a, b in pairwise(ordered))
    last = ordered[-1][0] + ordered[-1][2] - 1
    inside = domain.first <= ordered[0][0] and last <= domain.last
    if form.range_map == "truncate":
        inside = last <= LOW32
    elif form.range_map == "EINVAL-at-last":
        inside = inside and last < domain.last
    table = w.table(domain.table)
    if not (apart and inside) or not table.free(ordered):
        return None
    shift = least.bit_length() - 1
    iovas, sizes, paddrs, shifts = array("Q"), array("Q"), array("Q"), array("B")
    for iova, paddr, size in ordered:
        if (iova | paddr | size) & (least - 1) or (paddr + size - 1) >> form.paddr_bits:
            return None
        done = 0
        while done < size:
            one, count = shift, 1
            if size != least:
                one, count = pages(bitmap, iova + done, paddr + done, size - done)
            iovas.append(iova + done)
            sizes.append(count << one)
            paddrs.append(paddr + done)
            shifts.append(_stored(form, one, least))
            done += count << one
    prots = array("B", bytes([RIGHTS[form.rights](prot)]) * len(iovas))
    merged = table.merge(iovas, sizes, paddrs, shifts, prots)
    return merged.with_bare(_still_bare(merged))


def _stored(form: Format, shift: int, least: int) -> int:
    """The page size (log2) of the entries that a chunk of this page size is stored in."""
    small = least.bit_length() - 1
    if form.pages == "small":
        return small
    return max(form.base(shift), small) if form.pages == "entries" else shift


def pgsizes(w: World, domain: Domain) -> int:
    """``domain->pgsize_bitmap``: the page sizes that the core may hand to the driver."""
    return domain.pgsizes or w.driver.pgsizes


def replay(w: World, domain: Domain) -> None:
    """A device that comes to a domain without devices is given the driver's records of it."""
    if domain.table is not None and _book(domain) in w.tables:
        w.tables[domain.table] = w.tables.pop(_book(domain))


def _core_tests(w: World, form: Format, domain: Domain) -> None:
    """The tests that come before the driver is asked, in the release's order."""
    if domain.freed:
        raise KernelCrash("iommu_map", f"{domain.name} is freed and followed")
    paging, order = domain.type.paging, w.release["map.checks"]
    if not paging and order != "ops-first":
        raise refuse("EINVAL", f"a {domain.type.name} domain can't be mapped")
    if form.map == "none":
        errno = "EINVAL" if order == "type-and-sizes-first" else "ENODEV"
        raise refuse(errno, f"{w.driver.name} has no map operation")
    if not paging:
        raise refuse("EINVAL", f"a {domain.type.name} domain can't be mapped")


def _still_bare(table: PageTable) -> frozenset[tuple[int, int]]:
    """The tables that stood empty, without those that something is mapped in now."""
    if not table.bare:
        return table.bare
    return frozenset(b for b in table.bare if not table.overlapping(b[1] << b[0], 1 << b[0]))


def _store(w: World, domain: Domain, table: PageTable) -> None:
    if domain.table is not None and w.tables.get(domain.table) is not table:
        w.tables[domain.table] = table


# -- the driver's tests --------------------------------------------------------------------------


class Job(NamedTuple):
    """One call for one domain: the workbench, the driver's words and whose table it is."""

    w: World
    form: Format
    domain: Domain

    def warn(self, about: str, text: str) -> None:
        """A WARN, where this driver warns about such a thing."""
        if about in self.form.warns:
            self.w.warn(self.form.function, text)

    def corrupts(self, iova: int, page: Run) -> None:
        """The driver takes the memory that a page maps for a page table, and writes into it."""
        self.w.event(
            "note",
            self.form.function,
            iova=iova,
            paddr=page.paddr,
            domain=self.domain.name,
            text="the memory that a large page maps is taken for a page table and written to",
        )


class Chunk(NamedTuple):
    """Equal pages that the core hands to the driver in one go."""

    iova: int
    paddr: int
    shift: int
    number: int

    @property
    def size(self) -> int:
        return self.number << self.shift

    @property
    def end(self) -> int:
        return self.iova + self.size


def _before_attach(job: Job) -> None:
    form, domain = job.form, job.domain
    if not domain.ready:
        text = f"{domain.name} has no page table before its first attach"
        if form.before_map.startswith(CRASH):
            raise KernelCrash(form.crashes(form.before_map, form.function), text)
        raise refuse(form.before_map, text)
    if form.orphan == "endless" and not domain.users:
        raise KernelCrash(
            "__iommu_map", f"nobody is attached to {domain.name}: nothing is mapped, for ever"
        )


def _rights(form: Format, prot: int) -> bool:
    """Is there anything to map with these rights? Refuses or never ends where the driver does."""
    if form.no_rights == "needs-read" and not prot & READ:
        raise refuse("EINVAL", "this page table can't hold a mapping that may not be read")
    if prot & (READ | WRITE) or form.no_rights == "entry":
        return True
    if form.no_rights == "endless":
        raise KernelCrash(
            "__iommu_map", "the driver says yes and maps nothing, so the loop never ends"
        )
    if form.no_rights == "EINVAL":
        raise refuse("EINVAL", "a mapping needs the right to read or to write")
    return False


RIGHTS: dict[str, Callable[[int], int]] = {
    "kept": lambda prot: prot,
    "all": lambda prot: READ | WRITE,
    "reads": lambda prot: prot | READ,
    "write-reads": lambda prot: prot | READ if prot & WRITE else prot,
}
"""What the entries can hold: the rights; none at all; only writing; no writing without reading."""


def _placed(job: Job, chunk: Chunk) -> Chunk:
    """The chunk where the driver really puts it; refuses what is out of its range."""
    form, domain = job.form, job.domain
    iova, paddr, shift, count = chunk
    if form.range_map == "truncate":
        iova &= LOW32
        count = min(count, (LOW32 + 1 - iova) >> shift)
    elif _beyond(domain, iova, chunk.size, form.range_map):
        text = f"{iova:#x}..{chunk.end - 1:#x} is outside {domain.first:#x}..{domain.last:#x}"
        job.warn("range", text)
        errno, _, wrapped = form.range_map.removesuffix("-at-last").partition(" ")
        # Where the end of the range is 2**64 and reads as 0, a later test of the driver refuses it.
        raise refuse(wrapped if wrapped and chunk.end > TOP else errno, text)
    if paddr >> form.paddr_bits:
        if form.paddr_beyond != "truncate":
            job.warn("range", f"{paddr:#x} needs more than {form.paddr_bits} bits")
            raise refuse(form.paddr_beyond, f"{paddr:#x} needs more than {form.paddr_bits} bits")
        paddr &= (1 << form.paddr_bits) - 1
    return Chunk(iova, paddr, shift, count)


def _beyond(domain: Domain, iova: int, size: int, word: str) -> bool:
    """Is a part of this outside the aperture? ``-at-last`` takes the last address for the end."""
    if word in ("none", "", "truncate"):
        return False
    if word in ("zero", "crash"):
        return not domain.first <= iova <= domain.last
    end = iova + size - (0 if word.endswith("-at-last") else 1)
    return not domain.first <= iova or end > domain.last


def _looked_at(form: Format, chunk: Chunk, room: int) -> int:
    """How many bytes the driver's test of the range looks at.

    A driver with ``unmap`` is handed a page at a time, one with ``unmap_pages`` a chunk of them,
    and generic_pt all that is left.
    """
    if form.range_unmap == "zero-rest":
        return room
    return chunk.size if form.range_unmap == "zero-chunk" else 1 << chunk.shift


def _unmap_beyond(job: Job, iova: int, done: int) -> int:
    form, domain = job.form, job.domain
    if form.range_unmap == "crash":
        raise KernelCrash(form.function, f"BUG: {iova:#x} is beyond the width of {domain.name}")
    if form.range_unmap == "huge":
        return MINUS_EINVAL
    for about in ("range", "range-unmap"):
        job.warn(about, f"{iova:#x} is outside {domain.first:#x}..{domain.last:#x}")
    return done


# -- ways to map ---------------------------------------------------------------------------------

Mapped = tuple[PageTable, OSError | None]


def _meets(job: Job, table: PageTable, new: Run) -> list[tuple[Run, str]]:
    """The runs that the new pages meet, in order, and how each lies to them.

    "below" is a table of smaller pages, "inside" a larger page that the new ones lie in.
    """
    level = job.form.level(new.shift)
    found = []
    for row in table.overlapping(new.iova, new.size):
        run = table[row]
        old = job.form.level(run.shift)
        found.append((run, "below" if old < level else "inside" if old > level else "same"))
    return found


def map_refuse(job: Job, table: PageTable, new: Run) -> Mapped:
    """An existing page is an error; a table of smaller pages may have to make room."""
    for run, lies in _meets(job, table, new):
        if lies == "below" and job.form.below == "replace":
            start = max(run.iova, new.iova)
            table = table.clear(start, min(run.end, new.end) - start)
            continue
        job.warn("over", f"{run.iova:#x} is mapped already")
        text = f"{new.iova:#x}..{new.end - 1:#x} meets a mapping at {run.iova:#x}"
        return table, refuse(job.form.errno, text)
    return table.insert(new), None


def map_replace(job: Job, table: PageTable, new: Run) -> Mapped:
    """The new mapping wins. A larger page around it goes whole, or stays and is written to."""
    for run, lies in _meets(job, table, new):
        if lies == "inside" and job.form.inside == "corrupt":
            return _into_a_page(job, table, new, run)
        if lies == "inside":
            page = 1 << run.shift
            start = run.iova + max(0, new.iova - run.iova) // page * page
            stop = run.iova - (run.iova - min(run.end, new.end)) // page * page
            table = table.clear(start, stop - start)
        else:
            job.warn("over", f"{run.iova:#x} is mapped already")
    return _made_free(table, new).insert(new), None


def _into_a_page(job: Job, table: PageTable, new: Run, large: Run) -> Mapped:
    """What goes into a large page is written to the memory behind it; the rest is mapped."""
    job.corrupts(max(new.iova, large.iova), large)
    if new.iova < large.iova:
        before = new._replace(size=large.iova - new.iova)
        table = _made_free(table, before).insert(before)
    if new.end > large.end:
        skip = large.end - new.iova
        rest = new._replace(iova=large.end, size=new.size - skip, paddr=new.paddr + skip)
        return map_replace(job, table, rest)
    return table, None


def _made_free(table: PageTable, new: Run) -> PageTable:
    """A table with room for new pages; what is left of a page that is cut goes on as small ones."""
    for at in (new.iova, new.end):
        row = table.find(at)
        if row is None or table.shift[row] <= new.shift:
            continue
        run = table[row]
        inside = (at - run.iova) % (1 << run.shift)
        if inside:
            page = run.page(at)
            table = table.clear(page.iova, page.size).insert(page._replace(shift=new.shift))
    return table.clear(new.iova, new.size)


def map_keep_old(job: Job, table: PageTable, new: Run) -> Mapped:
    """WARN, and what was there stays; the call says yes all the same."""
    for run, lies in _meets(job, table, new):
        start = max(run.iova, new.iova)
        if lies == "below":
            table = table.clear(start, min(run.end, new.end) - start)
        elif lies == "inside":
            job.corrupts(start, run)
        else:
            job.warn("over", f"an entry for {start:#x} is there already and stays")
    at = new.iova
    while at < new.end:
        row = table.find(at)
        if row is not None:
            at = table[row].end
            continue
        following = table.overlapping(at, new.end - at)
        stop = table.iova[following[0]] if following else new.end
        piece = new._replace(iova=at, size=stop - at, paddr=new.paddr + at - new.iova)
        table = table.insert(piece)
        at = stop
    return table, None


def map_records(job: Job, table: PageTable, new: Run) -> Mapped:
    """The driver notes the mapping and tells the device, which refuses what it has already.

    After a refusal the driver forgets what it has noted from there on, older mappings too, and the
    device goes on with them (viommu_map_pages; the refusal is QEMU's virtio_iommu_map).
    """
    book = _records(job.w, job.domain)
    parted = _book(job.domain) in job.w.tables
    if table.overlapping(new.iova, new.size):
        left, _ = _forget(book, new.iova, new.end)
        if parted or left != table:
            job.w.tables[_book(job.domain)] = left
        return table, refuse(job.form.errno, f"the device has a mapping at {new.iova:#x} already")
    size = 1 << new.shift if job.form.pages == "one-by-one" else new.size
    for at in range(new.iova, new.end, size):
        record = new._replace(iova=at, size=size, paddr=new.paddr + at - new.iova)
        table = table.insert(record)
        book = book.insert(record)
    if parted:
        job.w.tables[_book(job.domain)] = book
    return table, None


MAP: dict[str, Callable[[Job, PageTable, Run], Mapped]] = {
    "refuse": map_refuse,
    "replace": map_replace,
    "keep-old": map_keep_old,
    "records": map_records,
}


# -- ways to unmap -------------------------------------------------------------------------------

Unmapped = tuple[PageTable, list[Run], int]
"""The new table, what is gone from it, and the bytes that the driver says it removed."""


def _wiped(job: Job, table: PageTable, iova: int, size: int) -> Unmapped:
    gone = table.inside(iova, size)
    return _bared(job, table.clear(iova, size), gone, iova, size), gone, size


def _bared(job: Job, table: PageTable, gone: list[Run], iova: int, size: int) -> PageTable:
    """The table with the lower tables that stand empty now, where the driver keeps such."""
    if not job.form.bare or not (gone or table.bare):
        return table
    bare = set(table.bare)
    for run in gone:
        for shift in (t for t in job.form.tables if t > run.shift):
            spans = range(run.iova >> shift, (run.end - 1 >> shift) + 1)
            bare |= {
                (shift, span) for span in spans if not table.overlapping(span << shift, 1 << shift)
            }
    if job.form.bare == "freed-when-covered":
        bare = {
            (shift, span)
            for shift, span in bare
            if span << shift < iova or (span + 1) << shift > iova + size
        }
    return table.with_bare(frozenset(bare))


def unmap_walk(job: Job, table: PageTable, chunk: Chunk) -> Unmapped:
    """Entry by entry of the size that was asked for, up to a hole.

    An entry that is a table goes with all that hangs below it, holes included, and so does a table
    that stands empty. Where a page takes several entries (v7s), none of them may be empty.
    """
    form, at, gone = job.form, chunk.iova, list[Run]()
    slot = 1 << min(form.base(chunk.shift) or 12, chunk.shift)
    while at < chunk.end:
        row = table.find(at)
        if row is not None and table.shift[row] > chunk.shift:
            table, removed, size = _unmap_part(job, table, table[row], chunk._replace(iova=at))
            return table, gone + removed, at + size - chunk.iova
        if row is not None and table.shift[row] == chunk.shift:
            stop = min(table[row].end, chunk.end)
        else:
            stop = at + (1 << chunk.shift)
            level = slot.bit_length() - 1
            if not all(table.holds(level, entry) for entry in range(at, stop, slot)):
                job.warn("hole", f"{at:#x} is not mapped")
                break
        table, removed, _ = _wiped(job, table, at, stop - at)
        gone += removed
        at = stop
    return table, gone, at - chunk.iova


def _unmap_part(job: Job, table: PageTable, run: Run, chunk: Chunk) -> Unmapped:
    """A part of a large page: refused, or the page is split and the part goes."""
    if job.form.part == "refuse":
        job.warn("part", f"{chunk.iova:#x} is a part of a larger page, which is not split")
        return table, [], 0
    page = run.page(chunk.iova)
    stop = min(chunk.end, page.end)
    sizes = (*(t for t in job.form.tables if t > chunk.shift), chunk.shift)
    gone = table.inside(chunk.iova, stop - chunk.iova)
    table = table.clear(page.iova, page.size)
    for piece in _split(page, chunk.iova, stop, sizes):
        table = table.insert(piece)
    return table, gone, stop - chunk.iova


def _split(page: Run, start: int, stop: int, sizes: tuple[int, ...]) -> list[Run]:
    """What is left of a page when a part is cut out, in pages as large as they can stay."""
    shift = max(s for s in sizes if s < page.shift)
    step = 1 << shift
    first, last = start // step * step, -(-stop // step) * step
    left = [
        Run(low, high - low, page.paddr + low - page.iova, shift, page.prot)
        for low, high in ((page.iova, first), (last, page.end))
        if high > low
    ]
    for at in {first, last - step}:
        if at < start or at + step > stop:
            child = Run(at, step, page.paddr + at - page.iova, shift, page.prot)
            left += _split(child, max(start, at), min(stop, at + step), sizes)
    return left


def unmap_entry(job: Job, table: PageTable, chunk: Chunk) -> Unmapped:
    """Whatever entry is found at the address goes, and its size is returned."""
    form, iova = job.form, chunk.iova
    row = table.find(iova)
    if row is None and form.hole == "level" and _above(form, table, iova):
        return _unmap_from_zero(job, table, chunk)
    if row is None:
        return table, [], _hole(job, table, chunk)
    run = table[row]
    page = run.page(iova)
    if form.part == "refuse" and 1 << chunk.shift < page.size:
        job.warn("part", f"{iova:#x} is a part of a larger page")
        return table, [], 0
    number = 1
    if page.iova == iova:
        number = max(1, min((run.end - iova) // page.size, chunk.size // page.size))
    return _wiped(job, table, page.iova, number * page.size)


def _above(form: Format, table: PageTable, iova: int) -> bool:
    """Is the address above a table that has three levels at first and grows with what is mapped?"""
    height = next((shift for shift in form.tables[2:] if not table.last >> shift), 64)
    return iova >> height > 0


def _unmap_from_zero(job: Job, table: PageTable, chunk: Chunk) -> Unmapped:
    """Above the table the walk ends without a page size, and its next address is 0 (fetch_pte)."""
    text = f"{chunk.iova:#x} is above the page table, so what is at address 0 goes"
    job.w.event("note", job.form.function, iova=0, size=chunk.size, text=text)
    gone, done, iova, number = list[Run](), 0, 0, 0
    while done < chunk.size:
        number = _piece(number, chunk.size)
        if table.find(iova) is None and _above(job.form, table, iova):
            iova = 0
        at = Chunk(iova, iova, 12, (chunk.size - done) >> 12)
        table, removed, size = unmap_entry(job, table, at)
        gone += removed
        iova, done = iova + size, done + size
    return table, gone, done


def _hole(job: Job, table: PageTable, chunk: Chunk) -> int:
    """How many bytes a hole counts for."""
    if job.form.hole == "stop":
        return 0
    if job.form.hole == "level":
        return _level_of_hole(job, table, chunk.iova)
    if job.form.hole == "leaf-table":
        return 1 << 12 if table.holds(job.form.tables[0], chunk.iova) else 0
    following = table.overlapping(chunk.iova, chunk.size)
    return (table.iova[following[0]] if following else chunk.end) - chunk.iova


def _level_of_hole(job: Job, table: PageTable, iova: int) -> int:
    """The size of the entry at which the walk ends: below it there is no table.

    A table is as high as the aperture asks for (intel), or grows with what is mapped (amd).
    """
    sizes = (12, *job.form.tables)
    top = table.last if job.form.range_map == "none" else job.domain.last
    height = max(3, sum(1 for size in sizes if top >> size))
    for shift in reversed(sizes[1:height]):
        if not table.holds(shift, iova):
            return 1 << shift
    return 1 << sizes[0]


def unmap_pages(job: Job, table: PageTable, chunk: Chunk) -> Unmapped:
    """Small pages, one after the other, up to the first hole."""
    row = table.find(chunk.iova)
    if row is None:
        return table, [], 0
    return _wiped(job, table, chunk.iova, min(table[row].end - chunk.iova, chunk.size))


def unmap_range(job: Job, table: PageTable, chunk: Chunk) -> Unmapped:
    """The whole chunk is wiped, whatever was in it."""
    if job.form.hole == "zero-always":
        # The driver gets one page size at a time, and the 0 that it returns makes the core stop.
        table, gone, _ = _wiped(job, table, chunk.iova, 1 << chunk.shift)
        return table, gone, 0
    there = table.inside(chunk.iova, chunk.size)
    if sum(run.size for run in there) < chunk.size:
        job.warn("hole", f"a part of {chunk.iova:#x}..{chunk.end - 1:#x} is not mapped")
    elif table.find(chunk.iova - 1) == table.find(chunk.iova) or (
        table.find(chunk.end - 1) == table.find(chunk.end)
    ):
        job.warn("part", f"{chunk.iova:#x}..{chunk.end - 1:#x} was mapped as a part of more")
    return _wiped(job, table, chunk.iova, chunk.size)


def unmap_range_head(job: Job, table: PageTable, chunk: Chunk) -> Unmapped:
    """The first page decides whether there is anything to do; then the chunk is wiped."""
    if table.find(chunk.iova) is None:
        return table, [], 0
    return _wiped(job, table, chunk.iova, 1 << chunk.shift)


def unmap_range_up(job: Job, table: PageTable, chunk: Chunk) -> Unmapped:
    """At least as much as the entry found is large is cleared, counted from the given address.

    From inside a page or a hole the count runs into what follows. A page that is covered in part
    is taken for a table, and stays (intel_iommu_unmap, dma_pte_clear_level). A range that ends
    beyond the table is a BUG, and later a warning: then all stays, and counts (domain_unmap).
    """
    iova = chunk.iova
    row = table.find(iova)
    found = 1 << table.shift[row] if row is not None else _level_of_hole(job, table, iova)
    size = max(chunk.size, found)
    if iova + size - 1 > job.domain.last:
        text = f"{iova:#x}..{iova + size - 1:#x} ends beyond the width of {job.domain.name}"
        if job.form.range_unmap == CRASH:
            raise KernelCrash("domain_unmap", f"BUG: {text}")
        job.warn("end", text)
        return table, [], size
    gone: list[Run] = []
    for row in reversed(table.overlapping(iova, size)):
        run = table[row]
        page = 1 << run.shift
        low, high = max(run.iova, iova), min(run.end, iova + size)
        start = run.iova + -(-(low - run.iova) // page) * page
        stop = run.iova + (high - run.iova) // page * page
        if (start, stop) != (low, high):
            job.corrupts(iova, run)
        if stop > start:
            gone[:0] = table.inside(start, stop - start)
            table = table.clear(start, stop - start)
    return _bared(job, table, gone, iova, size), gone, size


def unmap_from_start(job: Job, table: PageTable, chunk: Chunk) -> Unmapped:
    """Whole entries, beginning at the start of one; the last may reach beyond what was asked."""
    row = table.find(chunk.iova)
    if row is None or (chunk.iova - table.iova[row]) % (1 << table.shift[row]):
        return table, [], 0
    page = 1 << table.shift[row]
    size = min(table[row].end - chunk.iova, -(-chunk.size // page) * page)
    return _wiped(job, table, chunk.iova, size)


def unmap_records(job: Job, table: PageTable, chunk: Chunk) -> Unmapped:
    """Whole records that start in the range; if they are too few, the device is not told.

    The driver has forgotten them by then, and its records and the device's table part
    (viommu_unmap_pages, viommu_del_mappings).
    """
    size = (1 if job.form.pages == "one-by-one" else chunk.number) << chunk.shift
    parted = _book(job.domain) in job.w.tables
    book, found = _forget(_records(job.w, job.domain), chunk.iova, chunk.iova + size)
    done = sum(run.size for run in found)
    if done < size:
        if found:
            job.w.tables[_book(job.domain)] = book
        return table, [], 0
    for run in found:
        table = table.clear(run.iova, run.size)
    if parted:
        job.w.tables[_book(job.domain)] = book
    return table, found, done


def _forget(book: PageTable, iova: int, end: int) -> tuple[PageTable, list[Run]]:
    """The driver's records without those that start in the range; an older one stops the search."""
    rows = book.overlapping(iova, end - iova)
    if not rows or book.iova[rows[0]] < iova:
        return book, []
    found = [book[row] for row in rows]
    return book.clear(found[0].iova, found[-1].end - found[0].iova), found


def _book(domain: Domain) -> str:
    return f"{domain.table}.records"


def _records(w: World, domain: Domain) -> PageTable:
    """What the driver has on record, which is the table itself until they part."""
    return w.tables.get(_book(domain), w.table(domain.table))


UNMAP: dict[str, Callable[[Job, PageTable, Chunk], Unmapped]] = {
    "walk": unmap_walk,
    "entry": unmap_entry,
    "pages": unmap_pages,
    "range": unmap_range,
    "range-head": unmap_range_head,
    "range-up": unmap_range_up,
    "from-start": unmap_from_start,
    "records": unmap_records,
}
