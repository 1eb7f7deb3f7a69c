"""What a verb answered, in one word, and what the kernel printed on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iommu_lab.errors import KernelCrash, NotInRelease, errno_name
from iommu_lab.lab import Lab
from iommu_lab.machine import Device, Machine, Reserved

FIRMWARE = (Reserved(0x1000_0000, 0x1000_0FFF, "direct"),)
"""A region that firmware wants mapped one to one (RMRR, IVMD, iommu-addresses)."""


def answer(lab: Lab, verb: str, *args: Any, **named: Any) -> Any:
    """The verb's value; the errno's name, "crash" or "not in release" where it has none."""
    try:
        return getattr(lab, verb)(*args, **named)
    except OSError as error:
        return errno_name(error)
    except KernelCrash:
        return "crash"
    except NotInRelease:
        return "not in release"


def warnings(lab: Lab) -> list[str]:
    """The functions that printed a WARN in the last verb."""
    return [event.name for event in lab.moments[-1].events if event.kind == "warn"]


def traces(lab: Lab) -> list[str]:
    """The core's trace events of the last verb, with the device and the domain they name."""
    return [
        f"{event.name} {event.device} {event.domain}".strip()
        for event in lab.moments[-1].events
        if event.kind == "trace"
    ]


def together(*names: str, **about: Any) -> Machine:
    """A machine whose devices share group 0; ``about`` holds for each of them."""
    return replace(Machine(), devices=tuple(Device(name, **about) for name in names))


def on(lab: Lab, *devices: str) -> list[tuple[str, str | None]]:
    """What the IOMMU does with each device: its kind, and the domain it walks."""
    looks = [lab.hardware(name) for name in devices or lab.devices]
    return [(look.kind.value, look.domain) for look in looks]
