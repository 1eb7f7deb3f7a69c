"""What the boot line says when a word is said twice, or spelt with a dash."""

import pytest

from iommu_lab.bootline import Words, make_kernel


def kernel(driver: str, cmdline: str):
    return make_kernel("6.1", driver, None, cmdline, None)


@pytest.mark.parametrize(
    ("cmdline", "passes"),
    [
        ("iommu=pt", True),
        ("iommu=pt iommu=soft", True),
        ("iommu=pt,nopt", False),
        ("iommu=nopt iommu.passthrough=1", True),
        ("iommu.passthrough=1 iommu=nopt", False),
        ("iommu.passthrough=1 iommu.passthrough=0", False),
        ("iommu.passthrough=0 iommu=pt", True),
        ("iommu.passthrough=1 iommu.passthrough=perhaps", True),
    ],
)
def test_of_the_words_for_pass_through_the_last_is_obeyed(cmdline, passes):
    assert kernel("intel", cmdline).passthrough == passes


def test_x86s_own_word_for_pass_through_is_nothing_to_arm64():
    assert not kernel("arm-smmu-v3", "iommu=pt").passthrough


def test_a_drivers_words_add_up_over_the_line():
    both = kernel("intel", "intel_iommu=strict intel_iommu=sp_off")
    assert (both.strict, both.driver.pgsizes) == (True, 0x1000)


@pytest.mark.parametrize(
    ("driver", "cmdline", "off"),
    [
        ("intel", "intel_iommu=off intel_iommu=on", False),
        ("intel", "intel_iommu=on,off", True),
        ("intel", "intel-iommu=off", True),
        ("intel", "iommu=off intel_iommu=on", True),
        ("amd", "amd_iommu=off amd_iommu=force_isolation", True),
    ],
)
def test_intel_can_be_switched_on_again_and_no_other_driver_can(driver, cmdline, off):
    assert bool(kernel(driver, cmdline).machine.no_iommu) == off


def test_a_name_without_a_setting_has_one_empty_option():
    assert Words.of("quiet iommu.forcedac").options("iommu.forcedac") == [""]


@pytest.mark.parametrize(("release", "off"), [("5.10", True), ("5.15", True), ("5.19", False)])
def test_bounce_buffers_that_were_asked_for_stopped_x86s_iommus_once(release, off):
    asked = make_kernel(release, "amd", None, "iommu=soft", None)
    assert bool(asked.machine.no_iommu) == off


def test_the_words_that_stop_x86s_own_iommus_are_nothing_to_virtios():
    assert not make_kernel("5.15", "virtio", None, "iommu=soft,off", "x86_64").machine.no_iommu
