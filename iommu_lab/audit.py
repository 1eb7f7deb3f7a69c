"""The audit: every driver of a release put through the three steps that the mail asks for.

This is the face. The steps themselves are in :mod:`~iommu_lab.threesteps`, the promises of a
blocking domain in :mod:`~iommu_lab.contracts`, what people said and what was done in
:mod:`~iommu_lab.history`, how far they agree in :mod:`~iommu_lab.differences`, recounted in
:mod:`~iommu_lab.counts`, a driver's page in :mod:`~iommu_lab.cards`; their names are here too.

Where the audit stops: it is as good as the driver rows; a row that is an inference makes an answer
that is an inference, and the table says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .bootline import to_driver
from .cards import Card, card
from .contracts import Contract, verify_blocking, verify_transition
from .counts import counts
from .differences import always_set, compare, differences, not_set_on, offers, patched_claim
from .drivers import rows as driver_rows
from .errors import unknown
from .history import guess, guesses, merged, named, upstream, with_detach
from .releases import release as find_release
from .releases import releases
from .threesteps import (
    ENDS,
    after_claim,
    after_detach,
    after_leaving,
    default_is_set,
    detach_is_reachable,
    verdict,
    where,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "AFTER",
    "ENDS",
    "Card",
    "Contract",
    "after_claim",
    "after_detach",
    "after_leaving",
    "always_set",
    "card",
    "compare",
    "counts",
    "default_is_set",
    "detach_is_reachable",
    "differences",
    "guess",
    "guesses",
    "matrix",
    "merged",
    "named",
    "not_set_on",
    "offers",
    "patched_claim",
    "table",
    "upstream",
    "verdict",
    "verify_blocking",
    "verify_transition",
    "where",
    "with_detach",
]

AFTER = {"leaving": after_leaving, "detach": after_detach, "claim": after_claim}
"""What a matrix can ask about: the driver's own function alone; the core's verb, which prefers the
default domain; and what a user of VFIO relies on."""


def table(release: str = "6.0") -> pd.DataFrame:
    """The audit of one release, a row a driver.

    ``offers`` is whether the driver can give a DMA domain, ``set_on`` the architectures on which a
    default domain is set, ``reachable`` whether the function is ever called on any of them,
    ``after`` what the hardware does after it. ``as_worded`` is the advice if offering counted as
    setting, which is how the mail and the merged series read it. Then what the patch would have
    made of a claim, and how sure the row is; what people said is in :func:`compare`.
    """
    import pandas as pd

    found = []
    for row in driver_rows(release):
        name = row["driver"]
        driver = to_driver(name, release)
        body = driver.detach or driver.set_platform
        after, unset = after_leaving(release, name), not_set_on(name, release)
        found.append(
            {
                "driver": name,
                "function": body,
                "offers": offers(name, release),
                "set_on": " ".join(a for a in driver.arches if a not in unset),
                "not_set_on": " ".join(unset),
                "reachable": bool(body)
                and any(detach_is_reachable(release, name, arch) for arch in driver.arches),
                "after": after,
                "verdict": verdict(after, not unset, bool(body)),
                "as_worded": verdict(after, offers(name, release), bool(body)),
                "claim": after_claim(release, name),
                "claim_under_patch": patched_claim(name),
                "confidence": row["confidence"],
                "inference": row["inference"],
                "source": row["url"],
            }
        )
    return pd.DataFrame(found)


def matrix(after: str = "leaving") -> pd.DataFrame:
    """Driver by release: where a device is after one of :data:`AFTER`; "" for none."""
    import pandas as pd

    if after not in AFTER:
        raise unknown("step", after, AFTER)
    ask = AFTER[after]
    columns = {
        release: {row["driver"]: ask(release, row["driver"]) for row in driver_rows(release)}
        for release in releases()
    }
    return pd.DataFrame(columns).fillna("")


def main(argv: Sequence[str]) -> int:
    """``iommu-lab audit``: print the audit of a release, the card of a driver, or a matrix."""
    parser = argparse.ArgumentParser(
        prog="iommu-lab audit",
        description="Put every driver of a release through the three steps that the mail asks for.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("driver", nargs="?", help="a driver: its card, with its sources")
    parser.add_argument("--release", default="6.0", help="a kernel release (6.0)")
    what.add_argument("--driver", dest="named", metavar="DRIVER", help="the same, by name")
    what.add_argument(
        "--matrix", choices=tuple(AFTER), help="driver by release: where a device is after this"
    )
    asked = parser.parse_args(argv)
    find_release(asked.release)
    driver = asked.driver or asked.named
    if driver:
        print(card(driver, asked.release))
    elif asked.matrix:
        print(matrix(asked.matrix).to_string())
    else:
        columns = ["function", "set_on", "not_set_on", "reachable", "after", "verdict", "claim"]
        rows = table(asked.release).set_index("driver")
        print(rows[columns].replace("", "-").rename_axis(None).to_string())
    return 0
