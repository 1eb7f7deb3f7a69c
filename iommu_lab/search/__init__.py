"""The search: every sequence of verbs up to a length, and the shortest one that ends badly.

States are values, so a breadth-first search over all verbs and arguments of a small closed world
visits each situation once. It ends with the shortest sequence for each of five findings:

* **leak**: a user-owned device reaches memory that its user was never given;
* **disagreement**: the core believes one thing and the hardware does another;
* **crash**: the kernel would follow a NULL pointer, hit a BUG or never return;
* **lost**: a kernel driver is bound, nobody attached a domain of their own, and the address that
  the DMA API gives is dead;
* **undecided**: a user-owned device is in a hardware state that nobody has described.

The closed world: two devices in one group and one apart (three apart where the driver gives each
device a group of its own), one more that may come late, two domains, two pages of the user's, one
owner, and one kernel driver with one buffer that it maps once at a time.

Nothing is tried twice: a verb is run once for each combination of the things that it looks at in a
state, and its effect on them is remembered. Names that play the same part are taken in order (the
second domain only after the first was used), which leaves out only renamings of other sequences.

Callers keep their contracts: the DMA API is called by a bound kernel driver, nobody frees a domain
that the core believes attached, gives back a default domain that nobody uses, or releases what
nobody claimed. No failure of memory or of a driver is injected. ``map_many`` does what ``map``
does, and binding ``vfio-pci`` does nothing to the IOMMU core.

A finding is what the model does, from sources that were read; it is not a report of a bug in a
kernel.
"""

from .closed import (
    DOMAINS,
    IOVA,
    OWNER,
    PAGE,
    USER_PAGES,
    alike_names,
    alphabet,
    closed_world,
    opening,
)
from .command import main, say_progress
from .result import Result, shortest, shortest_leak
from .table import DESIGNS, drivers_and_arches, survey, survey_row
from .trouble import FINDINGS, LOOKS, Finding
from .walk import Place, Visit, Walk

__all__ = [
    "DESIGNS",
    "DOMAINS",
    "FINDINGS",
    "IOVA",
    "LOOKS",
    "OWNER",
    "PAGE",
    "USER_PAGES",
    "Finding",
    "Place",
    "Result",
    "Visit",
    "Walk",
    "alike_names",
    "alphabet",
    "closed_world",
    "drivers_and_arches",
    "main",
    "opening",
    "say_progress",
    "shortest",
    "shortest_leak",
    "survey",
    "survey_row",
]
