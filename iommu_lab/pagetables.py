"""Page tables as drivers keep them: what ``iommu_map`` and ``iommu_unmap`` really do.

The core cuts a range into pages and hands them to the driver; whether an existing mapping is an
error, is replaced or wins, whether a hole counts as unmapped, and what happens to a part of a large
page is the driver's affair. Each page-table format is a row of words in
``data/drivers/pagetables.csv``; this file carries them out.

Core part: iommu_map, __iommu_map, iommu_unmap, iommu_pgsize in drivers/iommu/iommu.c.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from .datafiles import datafile
from .domains import Domain, DomainType
from .errors import KernelCrash, refuse
from .releases import Release
from .state import World
from .tables import READ, WRITE, PageTable, Run

LOW32 = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Format:
    """One page-table format in one release: a word for each question (see the table)."""

    pagetable: str
    over: str
    over_tables: str
    hole: str
    part: str
    range_map: str
    range_unmap: str
    no_rights: str
    before_attach: str
    function: str


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with open(datafile("drivers", "pagetables.csv"), newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


@cache
def page_table_format(name: str, release: Release) -> Format:
    """The row that holds for this release: the nearest one that the release stands on."""
    found = {row["release"]: row for row in _rows() if row["pagetable"] == name}
    row = next((found[r] for r in release.lineage() if r in found), None)
    if row is None:
        row = next(iter(found.values()))
    return Format(**{field: row[field] for field in Format.__slots__})


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
        next_shift = shift + 1 + (larger & -larger).bit_length() - 1
        step = 1 << next_shift
        if (iova ^ paddr) & (step - 1) == 0:
            offset = step - (iova & (step - 1))
            if offset + step <= size:
                count = offset >> shift
    return shift, count


def iommu_map(w: World, domain: Domain, iova: int, paddr: int, size: int, prot: int) -> None:
    """Map ``size`` bytes; on an error everything this call has mapped is unmapped again.

    Raises the errno of the core or of the driver; :class:`KernelCrash` where the call would follow
    a NULL pointer or never end.
    """
    form = _checked(w, domain)
    bitmap = pgsizes(w, domain)
    least = bitmap & -bitmap
    if (iova | paddr | size) & (least - 1):
        raise refuse(
            "EINVAL",
            f"iova {iova:#x}, paddr {paddr:#x} and size {size:#x} must be multiples of {least:#x}",
        )
    table = w.table(domain.table)
    mapped = 0
    try:
        while mapped < size:
            shift, count = pages(bitmap, iova + mapped, paddr + mapped, size - mapped)
            _rights(form, prot)
            at = _in_range(w, form, domain, iova + mapped, count << shift)
            table = _map_pages(w, form, table, at, paddr + mapped, shift, count, prot)
            mapped += count << shift
    except OSError:
        if mapped:
            _store(w, domain, table)
            iommu_unmap(w, domain, iova, mapped)
        raise
    _store(w, domain, table)


def iommu_unmap(w: World, domain: Domain, iova: int, size: int) -> tuple[int, list[Run]]:
    """Unmap and say how many bytes the call returns, which may be more or less than asked for.

    Also the runs that are gone from the table, for an IOTLB that may still hold them. There is no
    error channel: what can't be done returns 0.
    """
    if not domain.type.paging or w.driver.pagetable in ("fsl_pamu", "none"):
        return 0, []
    form = page_table_format(w.driver.pagetable, w.release)
    bitmap = pgsizes(w, domain)
    least = bitmap & -bitmap
    if (iova | size) & (least - 1) or not domain.ready:
        return 0, []
    table = w.table(domain.table)
    gone: list[Run] = []
    done = 0
    while done < size:
        at = iova + done
        if form.range_unmap == "truncate":
            at &= LOW32
        elif form.range_unmap == "zero" and not domain.first <= at <= domain.last:
            break
        shift, count = pages(bitmap, at, at, size - done)
        table, removed, bytes_ = _unmap_pages(w, form, table, at, shift, count)
        gone += removed
        if bytes_ == 0:
            break
        done += bytes_
    _store(w, domain, table)
    return (0 if form.hole == "zero-always" else done), gone


def iova_to_phys(w: World, domain: Domain, iova: int) -> int:
    """``iommu_iova_to_phys``: identity gives the address itself, blocked and holes give 0."""
    if domain.type is DomainType.IDENTITY:
        return iova
    if not domain.type.paging or not domain.ready:
        return 0
    found = w.table(domain.table).lookup(iova)
    return 0 if found is None else found[0]


def map_many(w: World, domain: Domain, rows: list[tuple[int, int, int]], prot: int) -> int:
    """Many ``(iova, paddr, size)`` as if mapped one by one; returns how many bytes were mapped.

    Ranges that touch nothing that exists are put in at once; anything else goes the long way, so
    the answer and the table are those of the single calls.
    """
    form = _checked(w, domain)
    bitmap = pgsizes(w, domain)
    least = bitmap & -bitmap
    ordered = sorted(rows)
    apart = all(a[0] + a[2] <= b[0] for a, b in pairwise(ordered))
    aligned = not any((i | p | s) & (least - 1) for i, p, s in rows)
    inside = not rows or (
        domain.first <= ordered[0][0] and ordered[-1][0] + ordered[-1][2] - 1 <= domain.last
    )
    table = w.table(domain.table)
    if apart and aligned and inside and prot & READ and form.range_map != "truncate":
        free = not len(table) or not any(table.overlapping(i, s) for i, _, s in rows)
        if free:
            runs: list[Run] = []
            for iova, paddr, size in ordered:
                done = 0
                while done < size:
                    shift, count = pages(bitmap, iova + done, paddr + done, size - done)
                    shift = 12 if form.part == "small" else shift
                    runs.append(Run(iova + done, count << shift, paddr + done, shift, prot))
                    done += count << shift
            _store(w, domain, table.merge(runs))
            return sum(size for _, _, size in rows)
    total = 0
    for iova, paddr, size in rows:
        iommu_map(w, w.domains[domain.name], iova, paddr, size, prot)
        total += size
    return total


# -- the driver's part ---------------------------------------------------------------------------


def _checked(w: World, domain: Domain) -> Format:
    """The tests that come before any page is touched, in the release's order."""
    mappable = w.driver.pagetable not in ("fsl_pamu", "none")
    form = page_table_format(w.driver.pagetable, w.release)
    if w.release["map.checks"] == "type-first" and not domain.type.paging:
        raise refuse("EINVAL", f"a {domain.type.name} domain can't be mapped")
    if not mappable or (
        domain.table is None and domain.type.paging and form.before_attach == "ENODEV"
    ):
        raise refuse("ENODEV", f"{w.driver.name} has no map operation for {domain.name}")
    if not domain.type.paging:
        raise refuse("EINVAL", f"a {domain.type.name} domain can't be mapped")
    if not domain.ready or (
        form.before_attach == "crash" and not domain.users and domain.count <= 1
    ):
        _before_attach(w, form, domain)
    return form


def _before_attach(w: World, form: Format, domain: Domain) -> None:
    if form.before_attach == "works":
        return
    if form.before_attach == "crash" or w.driver.name == "ipmmu-vmsa":
        raise KernelCrash(form.function, f"{domain.name} has no page table before its first attach")
    raise refuse(form.before_attach, f"{domain.name} has no page table before its first attach")


def _rights(form: Format, prot: int) -> None:
    if form.no_rights == "needs-read" and not prot & READ:
        raise refuse("EINVAL", "this page table can't hold a mapping that may not be read")
    if prot & (READ | WRITE):
        return
    if form.no_rights == "endless":
        raise KernelCrash(
            "__iommu_map", "the driver says yes and maps nothing, so the loop never ends"
        )
    if form.no_rights == "EINVAL":
        raise refuse("EINVAL", "a mapping needs the right to read or to write")


def _in_range(w: World, form: Format, domain: Domain, iova: int, size: int) -> int:
    last = iova + size - 1
    if form.range_map == "truncate":
        return iova & LOW32
    if form.range_map in ("none", "grow"):
        return iova
    top = domain.last - (1 if form.pagetable == "s390" and form.before_attach == "EINVAL" else 0)
    if not domain.first <= iova or last > top:
        if form.range_map == "ERANGE":
            w.warn(form.function, f"iova {iova:#x} is outside {domain.first:#x}..{domain.last:#x}")
        raise refuse(
            form.range_map, f"{iova:#x}..{last:#x} is outside {domain.first:#x}..{domain.last:#x}"
        )
    return iova


def _map_pages(
    w: World,
    form: Format,
    table: PageTable,
    iova: int,
    paddr: int,
    shift: int,
    count: int,
    prot: int,
) -> PageTable:
    size = count << shift
    shift = 12 if form.part == "small" else shift
    rows = table.overlapping(iova, size)
    if not rows:
        return table.insert(Run(iova, size, paddr, shift, prot))
    smaller = all(table.shift[r] < shift for r in rows)
    how = form.over_tables if smaller else form.over
    first = table[rows[0]]
    if how == "replace":
        for row in list(rows):
            run = table[row]
            if run.shift > shift:
                # A large page can't keep a part of itself: it goes whole.
                whole = 1 << run.shift
                start = max(run.iova, iova - (iova - run.iova) % whole)
                stop = min(run.end, start + whole * (1 + (iova + size - 1 - start) // whole))
                table = table.clear(start, stop - start)
                break
        return table.clear(iova, size).insert(Run(iova, size, paddr, shift, prot))
    if how == "keep-old":
        w.warn(form.function, f"an entry for {first.iova:#x} is there already and stays")
        at = iova
        while at < iova + size:
            row_ = table.find(at)
            if row_ is not None:
                at = table[row_].end
                continue
            following = table.overlapping(at, iova + size - at)
            stop = table.iova[following[0]] if following else iova + size
            table = table.insert(Run(at, stop - at, paddr + at - iova, shift, prot))
            at = stop
        return table
    if how == "EEXIST" or how == "EADDRINUSE":
        w.warn(form.function, f"{first.iova:#x} is mapped already")
    raise refuse(how, f"{iova:#x}..{iova + size - 1:#x} meets a mapping at {first.iova:#x}")


def _unmap_pages(
    w: World, form: Format, table: PageTable, iova: int, shift: int, count: int
) -> tuple[PageTable, list[Run], int]:
    """Remove up to ``count`` pages of ``2**shift`` bytes; the new table, what went, bytes said."""
    size = count << shift
    row = table.find(iova)
    if row is None:
        return _unmap_hole(w, form, table, iova, shift)
    run = table[row]
    inside = iova - run.iova
    page = 1 << run.shift
    if run.shift <= shift or form.part == "small":
        amount = min(run.size - inside, size)
        if form.over_tables == "replace" and form.over == "EEXIST" and shift > run.shift:
            # The chunk is as large as a table: the whole table goes, holes and all.
            amount = 1 << shift
        gone = _within(table, iova, amount)
        return table.clear(iova, amount), gone, amount
    start = iova - inside % page
    if form.part == "split":
        amount = min(size, start + page - iova)
        split = table.clear(start, page)
        for at, stop in ((start, iova), (iova + amount, start + page)):
            if stop > at:
                split = split.insert(Run(at, stop - at, run.paddr + at - run.iova, shift, run.prot))
        gone = [Run(iova, amount, run.paddr + inside, shift, run.prot)]
        return split, gone, amount
    if form.part == "whole":
        if form.pagetable == "generic_pt" and start != iova:
            return table, [], 0
        return (
            table.clear(start, page),
            [run._replace(iova=start, size=page, paddr=run.paddr + start - run.iova)],
            start + page - iova,
        )
    w.warn(form.function, f"{iova:#x} is a part of a larger page, which is not split")
    return table, [], 0


def _unmap_hole(
    w: World, form: Format, table: PageTable, iova: int, shift: int
) -> tuple[PageTable, list[Run], int]:
    if form.hole in ("count", "zero-always"):
        return table, [], 1 << shift
    if form.over == "EEXIST" and form.range_unmap != "none":
        w.warn(form.function, f"{iova:#x} is not mapped")
    return table, [], 0


def _within(table: PageTable, iova: int, size: int) -> list[Run]:
    found = []
    for row in table.overlapping(iova, size):
        run = table[row]
        start, stop = max(run.iova, iova), min(run.end, iova + size)
        found.append(Run(start, stop - start, run.paddr + start - run.iova, run.shift, run.prot))
    return found


def pgsizes(w: World, domain: Domain) -> int:
    """``domain->pgsize_bitmap``: the page sizes that the core may hand to the driver."""
    return domain.pgsizes or w.driver.pgsizes


def _store(w: World, domain: Domain, table: PageTable) -> None:
    if domain.table is not None and w.tables.get(domain.table) != table:
        w.tables[domain.table] = table
