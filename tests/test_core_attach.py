"""Attach, detach and replace: who may, what is refused, and what a failure leaves behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers import FIRMWARE, answer, on, together, traces, warnings

from iommu_lab.domains import DomainType
from iommu_lab.drivers import driver as find_driver
from iommu_lab.lab import Lab
from iommu_lab.machine import Device, Machine
from iommu_lab.releases import releases

THREE = together("a", "b", "c")
MAINLINE = [r for r in releases() if r[0].isdigit()]


def arm32(release: str, driver: str = "exynos", machine: Machine | None = None) -> Lab:
    """A lab whose groups have no default domain, up to 6.6."""
    return Lab(release, driver, machine, arch="arm32")


def without_default(lab: Lab) -> Lab:
    """The lab with a group that has lost its default domain, which no verb can do since 6.7."""
    group = lab.state.groups[0]
    groups = lab.state.groups.set(0, replace(group, default=None))
    return lab.with_state(replace(lab.state, groups=groups))


# -- attach ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", MAINLINE)
def test_a_device_behind_no_iommu_has_no_group_to_attach(release):
    machine = replace(Machine(), no_iommu=("dev0",))
    lab = Lab(release, "amd", machine)
    domain = lab.alloc_domain()
    assert answer(lab, "attach_device", domain, "dev0") == "ENODEV"
    assert answer(lab, "attach_group", domain, 0) == "ENODEV"


@pytest.mark.parametrize("release", MAINLINE)
def test_one_device_of_a_group_can_not_be_attached_without_the_others(release):
    lab = Lab(release, "intel", THREE)
    domain = lab.alloc_domain()
    assert answer(lab, "attach_device", domain, "a") == "EINVAL"
    assert lab.attach_group(domain, 0) == 0
    assert on(lab) == [("table", domain)] * 3


@pytest.mark.parametrize("release", MAINLINE)
def test_a_group_that_is_attached_elsewhere_is_busy(release):
    lab = Lab(release, "amd")
    one, other = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_device(one, "dev0")
    assert answer(lab, "attach_device", other, "dev0") == "EBUSY"
    assert lab.believed_domain(0).name == one
    assert on(lab) == [("table", one)]


def test_without_a_default_domain_5_15_lets_a_second_attach_take_over():
    for release, says in (("5.15", 0), ("5.19", "EBUSY"), ("6.6", "EBUSY")):
        lab = arm32(release)
        one, other = lab.alloc_domain(), lab.alloc_domain()
        lab.attach_device(one, "dev0")
        assert answer(lab, "attach_device", other, "dev0") == says
        assert on(lab) == [("table", one if says else other)]


@pytest.mark.parametrize("release", ["5.19", "6.4", "6.12", "7.2"])
def test_nobody_has_to_own_a_group_to_attach_it(release):
    lab = Lab(release, "amd")
    assert lab.attach_device(lab.alloc_domain(), "dev0") == 0
    owned = Lab(release, "amd")
    owned.claim_dma_owner(0, "vfio")
    assert owned.attach_device(owned.alloc_domain(), "dev0") == 0


def test_attaching_what_is_attached_asks_the_driver_again_until_6_4():
    for release, says in (("6.3", "EINVAL"), ("6.6", 0)):
        lab = Lab(release, "sprd")
        default = lab.believed_domain(0).name
        assert answer(lab, "attach_device", default, "dev0") == says
        assert traces(lab) == []
    lab = Lab("6.4", "amd")
    lab.attach_device(lab.believed_domain(0).name, "dev0")
    assert traces(lab) == ["attach_device_to_domain dev0 default0"]


@pytest.mark.parametrize(
    ("release", "left"),
    [
        ("5.15", [("table", "dom1"), ("table", "default0"), ("table", "default0")]),
        ("6.1", [("table", "dom1"), ("table", "default0"), ("table", "default0")]),
        ("6.1.192", [("table", "default0")] * 3),
        ("6.2", [("table", "default0")] * 3),
        ("6.6", [("table", "default0")] * 3),
        ("7.2", [("table", "default0")] * 3),
    ],
)
def test_an_attach_that_fails_half_way_leaves_the_group_split_until_6_2(release, left):
    lab = Lab(release, "arm-smmu", THREE)
    domain = lab.alloc_domain()
    lab.fail_next_attach("b")
    assert answer(lab, "attach_group", domain, 0) == "ENOMEM"
    assert on(lab) == left
    assert lab.believed_domain(0).name == "default0"


def test_without_an_old_domain_the_way_back_of_6_2_does_nothing():
    kinds = {}
    for release in ("6.2", "6.4"):
        lab = arm32(release, "tegra-smmu", THREE)
        domain = lab.alloc_domain()
        lab.fail_next_attach("b")
        assert answer(lab, "attach_group", domain, 0) == "ENOMEM"
        kinds[release] = on(lab)
        assert lab.belief(0) is None
    assert kinds["6.2"] == kinds["6.4"] == [("table", "dom1"), ("bypass", None), ("bypass", None)]


def test_without_an_old_domain_6_6_hands_the_devices_to_the_platform():
    lab = arm32("6.6", "tegra-smmu", THREE)
    domain = lab.alloc_domain()
    lab.fail_next_attach("b")
    assert answer(lab, "attach_group", domain, 0) == "ENOMEM"
    assert lab.belief(0) is None


@pytest.mark.parametrize(("release", "left"), [("6.12", "table"), ("7.2", "blocked")])
def test_7_2_does_not_send_the_failing_device_back_to_where_it_was(release, left):
    lab = Lab(release, "intel", THREE)
    lab.fail_next_attach("b")
    assert answer(lab, "attach_group", lab.alloc_domain(), 0) == "ENOMEM"
    assert [kind for kind, _ in on(lab)] == ["table", left, "table"]
    assert lab.believed_domain(0).name == "default0"


@pytest.mark.parametrize(
    ("driver", "left"),
    [
        ("amd", "blocked"),
        ("intel", "blocked"),
        ("arm-smmu-v3", "blocked"),
        ("exynos", "bypass"),
        ("arm-smmu", "table"),
        ("tegra-smmu", "bypass"),
    ],
)
def test_a_driver_that_leaves_first_has_left_when_its_attach_fails(driver, left):
    lab = Lab("6.0", driver)
    believed = lab.state.groups[0].domain
    lab.fail_next_attach("dev0", "EINVAL")
    assert answer(lab, "attach_device", lab.alloc_domain(), "dev0") == "EINVAL"
    assert lab.state.groups[0].domain == believed
    assert lab.hardware().kind == left


def test_a_stream_that_has_left_its_domain_is_let_through_if_the_boot_line_says_so():
    lab = Lab("6.0", "arm-smmu-v3", cmdline="arm-smmu-v3.disable_bypass=0")
    lab.fail_next_attach("dev0")
    assert answer(lab, "attach_device", lab.alloc_domain(), "dev0") == "ENOMEM"
    assert lab.hardware().kind == "bypass"


def test_intel_refuses_an_unmanaged_domain_to_a_device_that_firmware_uses():
    lab = Lab("6.0", "intel", together("dev0", reserved=FIRMWARE))
    assert answer(lab, "attach_device", lab.alloc_domain(), "dev0") == "EPERM"
    assert on(lab) == [("table", "default0")]
    free = Lab("6.0", "amd", together("dev0", reserved=FIRMWARE))
    assert free.attach_device(free.alloc_domain(), "dev0") == 0


@pytest.mark.parametrize(("release", "says"), [("6.1", "EFAULT"), ("6.2", "EINVAL")])
def test_a_domain_that_reaches_too_far_does_not_fit_and_the_errno_became_einval(release, says):
    lab = Lab(release, "intel", replace(Machine(), width=39))
    domain = lab.alloc_domain()
    lab.map(domain, 2**40, 0x8000_0000, 0x1000)
    assert answer(lab, "attach_device", domain, "dev0") == says


def test_a_true_blocking_domain_is_refused_to_a_device_that_firmware_uses_since_6_6():
    for release, says in (("6.4", 0), ("6.6", "EINVAL"), ("7.2", "EINVAL")):
        lab = Lab(release, "intel", together("dev0", reserved=FIRMWARE))
        assert answer(lab, "attach_device", lab.alloc_domain("blocked"), "dev0") == says


# -- detach ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", MAINLINE)
def test_detach_attaches_the_default_domain_where_there_is_one(release):
    lab = Lab(release, "amd")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    assert traces(lab) == ["attach_device_to_domain dev0 default0"]
    assert on(lab) == [("table", "default0")]


@pytest.mark.parametrize(
    ("driver", "left"),
    [
        ("exynos", "bypass"),
        ("ipmmu-vmsa", "bypass"),
        ("rockchip", "bypass"),
        ("tegra-smmu", "bypass"),
        ("msm", "bypass"),
        ("omap", "bypass"),
        ("mtk", "table"),
        ("mtk_v1", "table"),
        ("sun50i", "table"),
        ("tegra-gart", "table"),
        ("fsl_pamu", "blocked"),
        ("s390", "platform"),
    ],
)
def test_without_a_default_domain_detach_is_the_drivers_and_each_has_its_own(driver, left):
    arch = {"fsl_pamu": "ppc64", "s390": "s390x"}.get(driver, "arm32")
    lab = Lab("6.0", driver, arch=arch)
    believed = lab.believed_domain(0)
    if believed is None:
        domain = lab.alloc_domain()
        lab.attach_device(domain, "dev0")
    else:
        domain = believed.name  # the one mapping that some drivers attach when a probe ends
    lab.detach_device(domain, "dev0")
    assert lab.hardware().kind == left
    assert lab.belief(0) in (None, DomainType.UNMANAGED)


def test_sprd_switched_off_is_in_a_state_that_nobody_has_described():
    row = find_driver("sprd", "6.0")
    lab = Lab("6.0", replace(row, accepts=frozenset({DomainType.UNMANAGED})))
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    assert lab.hardware().kind == "unknown"
    assert "nothing says" in lab.hardware().why


def test_5_15_hands_the_driver_the_domain_that_the_caller_names():
    lab = arm32("5.15")
    one, other = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_device(one, "dev0")
    lab.detach_device(other, "dev0")
    assert lab.belief(0) is None
    assert on(lab) == [("table", one)]  # exynos asks its own record, and does nothing


def test_a_wrong_domain_is_a_warning_since_5_19_and_nothing_is_done():
    lab = arm32("5.19")
    one, other = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_device(one, "dev0")
    assert lab.detach_device(other, "dev0") is None
    assert warnings(lab) == ["iommu_detach_device"]
    assert lab.believed_domain(0).name == one


@pytest.mark.parametrize("release", MAINLINE)
def test_one_device_of_a_group_can_not_be_detached_without_the_others(release):
    lab = Lab(release, "amd", THREE)
    domain = lab.alloc_domain()
    lab.attach_group(domain, 0)
    lab.detach_device(domain, "a")
    assert warnings(lab) == ["iommu_detach_device"]
    assert on(lab) == [("table", domain)] * 3


@pytest.mark.parametrize("release", MAINLINE)
def test_detaching_a_group_never_looks_at_the_domain_it_is_handed(release):
    lab = Lab(release, "amd", THREE)
    one, other = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_group(one, 0)
    lab.detach_group(other, 0)
    assert warnings(lab) == []
    assert on(lab) == [("table", "default0")] * 3


@pytest.mark.parametrize("release", ["5.19", "6.0", "6.4", "6.12", "7.2"])
def test_detach_with_an_owner_ends_on_the_blocking_domain(release):
    lab = Lab(release, "exynos")
    domain = lab.alloc_domain()
    lab.claim_dma_owner(0, "vfio")
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    group = lab.state.groups[0]
    assert group.domain == group.blocking != group.default


def test_detaching_what_is_on_the_default_already_touches_no_hardware():
    lab = Lab("6.0", "amd")
    lab.detach_group(lab.alloc_domain(), 0)
    assert lab.moments[-1].events == ()


# -- the NULL domain ------------------------------------------------------------------------------


def test_a_driver_without_a_detach_function_can_not_be_sent_to_no_domain():
    row = replace(find_driver("tegra-smmu", "6.0"), detach="")
    lab = Lab("6.0", row)
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    assert warnings(lab) == ["__iommu_group_set_domain", "__iommu_group_set_core_domain"]
    assert lab.believed_domain(0).name == domain


def test_6_3_forgets_the_domain_of_a_driver_that_lost_its_detach():
    lab = arm32("6.3", "rockchip")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    assert warnings(lab) == ["iommu_group_do_set_platform_dma"]
    assert lab.belief(0) is None
    assert on(lab) == [("table", domain)]


def test_6_4_has_given_rockchip_its_old_body_back():
    lab = arm32("6.4", "rockchip")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    assert (lab.belief(0), on(lab)) == (None, [("bypass", None)])


def test_there_is_no_null_domain_since_6_7():
    for release, warned in (("6.6", False), ("6.7", True)):
        lab = Lab(release, "amd")
        domain = lab.alloc_domain()
        lab.attach_device(domain, "dev0")
        lost = without_default(lab)
        lost.detach_device(domain, "dev0")
        assert ("__iommu_group_set_domain_internal" in warnings(lost)) == warned
        assert (lost.belief(0) is None) != warned


def test_the_plan_renames_what_detach_does_and_a_driver_without_it_is_warned_of():
    lab = Lab("plan", "tegra-smmu")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    assert (lab.belief(0), lab.hardware().kind) == (None, "bypass")


def test_the_patch_puts_blocked_where_the_null_domain_was():
    lab = arm32("patch-v2", "tegra-smmu")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    assert lab.belief(0) is DomainType.BLOCKED
    assert lab.hardware().kind == "bypass"


# -- switching must succeed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "believed", "left"),
    [
        ("6.4", "dom1", ("table", "dom1")),
        ("6.6", "default0", ("table", "blocking0")),
        ("6.12", "default0", ("blocked", None)),
    ],
)
def test_a_way_back_that_fails_tries_the_blocking_domain_since_6_6(release, believed, left):
    lab = Lab(release, "arm-smmu")
    domain = lab.alloc_domain()
    lab.claim_dma_owner(0, "vfio")
    lab.attach_device(domain, "dev0")
    lab.fail_next_attach("dev0")
    lab.release_dma_owner(0)
    assert warnings(lab) == ["iommu_group_release_dma_owner"]
    assert lab.believed_domain(0).name == believed
    assert on(lab) == [left]


def test_detach_has_no_result_and_a_failure_of_it_is_a_warning():
    lab = Lab("6.0", "arm-smmu")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.fail_next_attach("dev0")
    assert lab.detach_device(domain, "dev0") is None
    assert warnings(lab) == ["__iommu_group_set_core_domain"]
    assert lab.believed_domain(0).name == domain


def test_up_to_6_4_the_devices_before_the_failure_have_moved():
    lab = Lab("6.0", "arm-smmu", THREE)
    domain = lab.alloc_domain()
    lab.attach_group(domain, 0)
    lab.fail_next_attach("b")
    lab.detach_group(domain, 0)
    assert on(lab) == [("table", "default0"), ("table", domain), ("table", domain)]
    assert lab.believed_domain(0).name == domain


# -- replace --------------------------------------------------------------------------------------


def test_replace_asks_nobody_what_is_attached():
    lab = Lab("6.6", "amd")
    one, other = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_device(one, "dev0")
    assert lab.replace_domain(other, 0) == 0
    assert on(lab) == [("table", other)]
    assert one in lab.state.domains


def test_a_replace_that_fails_goes_back():
    lab = Lab("6.6", "arm-smmu", THREE)
    one, other = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_group(one, 0)
    lab.fail_next_attach("c", "EINVAL")
    assert answer(lab, "replace_domain", other, 0) == "EINVAL"
    assert on(lab) == [("table", one)] * 3
    assert lab.believed_domain(0).name == one


def test_only_some_releases_can_replace_a_domain():
    have = set()
    for release in MAINLINE:
        lab = Lab(release, "amd")
        if answer(lab, "replace_domain", lab.alloc_domain(), 0) == 0:
            have.add(release)
    assert have == {"6.6", "6.7", "6.12", "7.2"}


# -- a group that is not there --------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["attach_group", "detach_group"])
def test_a_group_whose_last_device_is_gone_is_gone(verb):
    lab = Lab("6.0", "amd", replace(Machine(), devices=(Device("a"), Device("b", 1))))
    domain = lab.alloc_domain()
    lab.remove("b")
    assert answer(lab, verb, domain, 1) == "ENODEV"
    assert lab.belief(1) is None
