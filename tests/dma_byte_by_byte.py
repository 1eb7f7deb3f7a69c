"""The checker's rules the slow way: one byte at a time, one mapping at a time.

Written from the rules and not from the checker; it is what the checker must agree with, and it is
short enough to be believed.
"""

from __future__ import annotations

from typing import NamedTuple

from iommu_lab.dma import Verdict
from iommu_lab.hardware import Hardware, Kind
from iommu_lab.machine import Region
from iommu_lab.tables import READ, WRITE


class Fate(NamedTuple):
    verdict: Verdict
    addr: int  # physical where everything passed, else the first byte that was stopped
    reached: int = 0
    paddr: int | None = None
    owner: str = "-"
    reason: Verdict | None = None


def one_byte(hardware: Hardware, device: str, byte: int, write: bool) -> tuple[Verdict, int | None]:
    """What becomes of a one-byte DMA, and where it lands."""
    entry = hardware.entries[device]
    if not hardware.master.get(device, True):
        return Verdict.MASTER_OFF, None
    if entry.kind is Kind.UNKNOWN:
        return Verdict.UNKNOWN, None
    if any(low <= byte <= high for low, high in hardware.msi):
        return (Verdict.MSI, byte) if write else (Verdict.RESERVED, None)
    spoken_for = entry.first <= byte <= entry.last
    bypassed = entry.outside == "bypass" and not spoken_for
    if entry.kind is Kind.BLOCKED and not bypassed:
        return Verdict.BLOCKED, None
    if byte >= 2**hardware.width:
        return Verdict.BEYOND_APERTURE, None
    if bypassed:
        return Verdict.IDENTITY, byte
    if not spoken_for:
        return Verdict.BEYOND_APERTURE, None
    if entry.kind is Kind.BYPASS:
        return Verdict.IDENTITY, byte

    table = hardware.tables[entry.table]
    right = WRITE if write else READ
    mapped = [run for run in table if run.iova <= byte < run.iova + run.size]
    old = [
        stale.paddr + (byte - stale.iova)
        for stale in sorted(table.stale, key=lambda s: s.since_ms)
        if stale.iova <= byte < stale.iova + stale.size and stale.prot & right
    ]
    for run in mapped:
        if run.prot & right:
            paddr = run.paddr + (byte - run.iova)
            if any(other != paddr for other in old):
                return Verdict.STALE, paddr
            platform = entry.kind is Kind.PLATFORM
            return (Verdict.PLATFORM if platform else Verdict.TRANSLATED), paddr
    if old:
        return Verdict.STALE, old[-1]
    return (Verdict.NO_PERMISSION if mapped else Verdict.NOT_MAPPED), None


BADNESS = [Verdict.TRANSLATED, Verdict.PLATFORM, Verdict.IDENTITY, Verdict.MSI, Verdict.STALE]


def fate(
    hardware: Hardware,
    device: str,
    iova: int,
    size: int,
    write: bool,
    memory: tuple[Region, ...] = (),
) -> Fate:
    """What becomes of a DMA: its bytes in order, up to the first that is stopped."""
    met, went = one_byte(hardware, device, iova, write)
    if went is None:
        return Fate(met, iova, reason=met)
    worst, owners = met, []
    for byte in range(iova, iova + size):
        verdict, paddr = one_byte(hardware, device, byte, write)
        if (verdict is Verdict.MSI) != (met is Verdict.MSI):
            verdict, paddr = (
                (verdict, paddr)
                if paddr is None and met is not Verdict.MSI
                else (Verdict.RESERVED, None)
            )
        if paddr is None:
            return Fate(
                Verdict.PARTIAL, byte, byte - iova, went, " + ".join(dict.fromkeys(owners)), verdict
            )
        worst = max(worst, verdict, key=BADNESS.index)
        owners.append(next((r.owner for r in memory if r.first <= paddr <= r.last), "nobody"))
    return Fate(worst, went, size, went, " + ".join(dict.fromkeys(owners)), worst)
