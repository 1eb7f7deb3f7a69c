"""Predictions: what the model says to one step, in the words in which a transcript has the answer.

Both programs make them, and a comparison lays them beside the answers. A trace event is the one
answer that two right kernels give differently, so it says how far it is predicted.

Where it stops: events of the model that no transcript shows are none.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..state import Event, World
from ..userpages import USER_PAGES


@dataclass(frozen=True, slots=True)
class Traced:
    """One predicted trace event.

    ``pieces``: the kernel may report it in several. ``anywhere``: the kernel chose the address, and
    only the size is predicted.
    """

    text: str
    iova: int | None = None
    size: int = 0
    pieces: bool = False
    anywhere: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says to one step: ``value`` is a word, or for "trace" a tuple of events.

    ``optional``: whether the question comes up at all hangs on an address that the kernel chose, or
    on which build of the program it was. ``why`` is a remark for a reader.
    """

    step: int
    kind: str
    key: str
    value: str | tuple[Traced, ...]
    optional: bool = False
    why: str = ""


def traced(event: Event, world: World) -> Traced | None:
    """A trace event of the model as a transcript would have it."""
    if event.kind != "trace":
        return None
    if event.name in ("attach_device_to_domain", "detach_device_from_domain"):
        return Traced(f"{event.name.partition('_')[0]} {event.device}")
    if event.name in ("add_device_to_group", "remove_device_from_group"):
        group = event.text.partition("=")[2]
        return Traced(f"{event.name.partition('_')[0]} {event.device} group {group}")
    if event.name in ("map", "unmap") and event.iova is not None:
        size = event.size or 0
        pieces = event.text == USER_PAGES
        domain = world.domains.get(event.domain)
        chosen = domain is not None and domain.type.dma_api and event.paddr != event.iova
        text = f"{event.name} {event.iova:#x}+{size:#x}"
        return Traced(text, event.iova, size, pieces, anywhere=chosen)
    return None
