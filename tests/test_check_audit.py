"""Do the checks of lesson 05 know what the audit finds, and tell a wrong answer what it said?"""

from __future__ import annotations

import numpy as np
import pytest

from iommu_lab import audit, check
from iommu_lab.own import OwnDriver


class Slipped(OwnDriver):
    base = "amd"

    def blocking(self, iommu, domain):
        iommu.bypass()


class Sound(OwnDriver):
    base = "amd"

    def blocking(self, iommu, domain):
        iommu.block()


class Silent(OwnDriver):
    """It has no blocking domain of its own, and under the patch the first claim crashes."""

    base = "s390"

    def attach(self, iommu, domain):
        iommu.translate(domain)


class Unknown(OwnDriver):
    base = "amd"

    def blocking(self, iommu, domain):
        iommu.switch_off()


def kept(driver, release="6.0"):
    return audit.verify_blocking(driver, release, depth=2, dmas=2_000)


def test_sun50i_has_no_default_domain_on_one_board_and_is_called_there_to_no_effect():
    right = (False, True, "still translating")
    assert check.three_steps(right).passed
    assert check.three_steps([np.False_, np.True_, " Still translating "]).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((True, True, "still translating"), "both boards"),
        ((False, False, "still translating"), "who is asked to leave"),
        ((False, True, "table"), "whose is it"),
        ((False, True, "identity"), "6.7 calls it identity"),
        ((False, True, "blocked"), "Not blocked"),
        ((False, True, "bypass"), "one of: blocked, identity"),
        ((1, 0, "identity"), "wants three answers"),
        ((True, False), "wants three answers"),
        ("yes", "yours is of type str"),
    ],
)
def test_a_wrong_step_is_named(answer, hint):
    said = check.three_steps(answer)
    assert not said.passed
    assert hint in said.text


def test_a_blocking_domain_that_bypasses_breaks_the_promise():
    said = check.a_broken_promise(kept(Slipped))
    assert said.passed
    assert "one step" in said.text


@pytest.mark.parametrize(
    ("contract", "hint"),
    [
        (kept("exynos", "patch-v2"), "the kernel's own"),
        (kept(Sound), "still blocks"),
        (kept(Unknown), "Nobody knows"),
        (kept(Silent, "patch-v2"), "never believed"),
        (True, "wants what verify_blocking returns"),
    ],
    ids=["the kernel's", "sound", "unknown", "never", "no contract"],
)
def test_what_is_no_broken_promise_is_told_why(contract, hint):
    said = check.a_broken_promise(contract)
    assert not said.passed
    assert hint in said.text
