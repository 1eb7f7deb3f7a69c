"""Lesson 09: a driver of your own, and the search for its leak."""

from __future__ import annotations

from ..contracts import verify_blocking
from ..domains import DomainType
from ..errors import KernelCrash
from ..lab import Lab
from ..own import OwnDriver, OwnDriverError
from ..search import Finding, shortest
from .feedback import Feedback, a_driver, exercise


def _story(finding: Finding) -> str:
    calls = ", then ".join(map(str, finding.steps))
    return f"after {calls}: {finding.says}"


@exercise("a class of your own driver", a_driver)
def blocks_s390(answer: type[OwnDriver]) -> Feedback:
    """Does this s390 driver of 6.0 give a true blocking domain, in every order of verbs?"""
    if answer.base != "s390":
        return Feedback(False, f'This is about s390; yours stands on {answer.base}: base = "s390".')
    try:
        lab = Lab("6.0", answer)
        lab.claim_dma_owner(0, "user")
        if lab.belief(0) is not DomainType.BLOCKED:
            text = "the core believes an empty table that stands in. Define blocking"
            return Feedback(False, f"Claimed, {text}.")
        contract = verify_blocking(answer, "6.0", depth=4, dmas=10_000)
    except OwnDriverError as mistake:
        return Feedback(False, f"{mistake}.")
    except (OSError, KernelCrash) as end:
        return Feedback(False, f"A claim ends with: {end}.")
    if contract.counterexample is not None:
        return Feedback(False, f"It does not hold {_story(contract.counterexample)}.")
    return Feedback(
        True, "It holds in every order of four verbs, not only in the one that came to mind."
    )


WANTED = ("leak", "disagreement", "crash", "undecided")


@exercise("a class of your own driver", a_driver)
def blocks_qcom_twice(answer: type[OwnDriver]) -> Feedback:
    """Is a qcom device of 6.0 where the core believes it, however often it was attached before?"""
    if answer.base not in ("qcom", "qcom_iommu"):
        return Feedback(False, f'This is about qcom; yours stands on {answer.base}: base = "qcom".')
    try:
        for arch in ("arm64", "arm32"):
            result = shortest("6.0", answer, arch, depth=3, kinds=WANTED)
            if not result.findings:
                continue
            finding = min(result.findings.values(), key=lambda found: len(found.steps))
            same = shortest("6.0", "qcom", arch, depth=3, kinds=[finding.kind])[finding.kind]
            if same is not None and same.steps == finding.steps:
                text = f"On {arch} it still does what qcom does"
            else:
                text = f"On {arch} something is new"
            return Feedback(False, f"{text} {_story(finding)}.")
    except OwnDriverError as mistake:
        return Feedback(False, f"{mistake}.")
    return Feedback(True, "The hardware was asked, and not only the driver's memory of it.")
