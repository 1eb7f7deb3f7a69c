"""The result: what is the shortest way to each kind of trouble, and how far was looked?

Breadth first, so the first state that is in trouble is at the end of a shortest sequence.

Where it stops: at the depth and the seconds it was given, which the result names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..bootline import GivesDriver
from ..drivers import Driver
from ..errors import unknown
from ..lab import Lab
from ..state import World
from .closed import opening
from .trouble import FINDINGS, LOOKS, Finding
from .walk import Place, Walk


@dataclass(frozen=True)
class Result:
    """What a search found, and how far it looked."""

    release: str
    driver: str
    arch: str
    findings: dict[str, Finding]
    depth: int
    """Every sequence up to this length was tried."""
    states: int
    verbs: int
    seconds: float
    start: Lab
    """The closed world before the first verb."""

    def __getitem__(self, kind: str) -> Finding | None:
        if kind not in FINDINGS:
            raise unknown("finding", kind, FINDINGS)
        return self.findings.get(kind)

    def after(self, kind: str) -> Lab:
        """The lab in which the steps of this finding were done, one by one.

        Raises ``LookupError`` when there is no such finding.
        """
        finding = self[kind]
        if finding is None:
            raise LookupError(f"no {kind} in any sequence of up to {self.depth} verbs")
        return self.start.replay(finding.steps)

    def __str__(self) -> str:
        found = [str(f) for f in sorted(self.findings.values(), key=lambda f: len(f.steps))]
        missing = [kind for kind in FINDINGS if kind not in self.findings]
        if missing:
            found.append(f"no {', no '.join(missing)} in any sequence of up to {self.depth} verbs")
        looked = f"{self.states:,} states, {self.verbs:,} verbs tried"
        return "\n".join([f"{self.driver} ({self.arch}) in {self.release}: {looked}", *found])

    __repr__ = __str__


def shortest(
    release: str,
    driver: str | Driver | GivesDriver,
    arch: str | None = None,
    *,
    depth: int = 6,
    kinds: Iterable[str] = FINDINGS,
    seconds: float = 600.0,
    progress: Callable[[int, int, int], None] | None = None,
) -> Result:
    """The shortest sequence of verbs for each kind of finding, up to ``depth`` verbs.

    ``seconds`` is the budget: when it is spent the result says which depth was finished.
    ``progress`` is called with (depth, states so far, states to look at) now and then.
    """
    wanted = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in wanted:
        if kind not in FINDINGS:
            raise unknown("finding", kind, FINDINGS)
    lab = opening(release, driver, arch)
    walk = Walk(lab, depth, seconds, progress)
    looks = {
        kind: walk.remembered(first_of(look)) for kind, look in LOOKS.items() if kind in wanted
    }
    found: dict[str, Finding] = {}

    def look_at(place: Place) -> None:
        for kind in list(looks):
            finding = looks[kind](place.node)
            if finding is not None:
                found[kind] = replace(finding, steps=walk.path(place))
                del looks[kind]

    look_at(walk.start)
    for visit in walk:
        if visit.after is not None:
            look_at(visit.after)
        elif "crash" in wanted and "crash" not in found and visit.effect.crash is not None:
            path = walk.path(visit.before, visit.step)
            found["crash"] = Finding("crash", path, str(visit.effect.crash))
        if len(found) == len(wanted):
            break
    return Result(
        release,
        lab.driver.name,
        lab.kernel.arch,
        {kind: found[kind] for kind in wanted if kind in found},
        walk.finished,
        walk.seen,
        walk.verbs,
        walk.spent,
        lab,
    )


def first_of(look: Callable[[World], Iterator[Finding]]) -> Callable[[World], Finding | None]:
    return lambda world: next(look(world), None)


def shortest_leak(
    release: str,
    driver: str | Driver | GivesDriver,
    arch: str | None = None,
    *,
    depth: int = 6,
    **options: Any,
) -> Finding | None:
    """The shortest sequence after which a user-owned device reaches memory it was never given."""
    return shortest(release, driver, arch, depth=depth, kinds=("leak",), **options)["leak"]
