"""The lines of the README and of the thread: what the core believes, what the hardware does."""

import errno
import re
from contextlib import suppress

import pytest

import iommu_lab as il


def verdicts(lab, *iovas, device="dev0"):
    asked = {"device": device, "iova": list(iovas), "size": 64, "write": True}
    return lab.check(asked)["verdict"].tolist()


@pytest.mark.parametrize("release", ["6.0", "6.1", "6.1.192"])
def test_s390_detach_gives_the_platform_a_new_and_empty_table(release):
    lab = il.Lab(release=release, driver="s390")
    spacer = lab.dma_map("dev0", 0x8000_5000, 0x1000)
    old = lab.dma_map("dev0", 0x8000_0000, 0x1000)
    domain = lab.alloc_domain("unmanaged")
    lab.attach_device(domain, "dev0")
    lab.map(domain, 0x1_1000_0000, 0x8000_1000, 0x1000)
    assert verdicts(lab, old, 0x1_1000_0000) == ["NOT_MAPPED", "TRANSLATED"]
    lab.detach_device(domain, "dev0")
    assert lab.belief(0) is None
    assert lab.hardware("dev0").kind == "platform"
    new = lab.dma_map("dev0", 0x8000_2000, 0x1000)
    assert new == spacer, "the same numbers are handed out again"
    assert verdicts(lab, new, old, 0x1_1000_0000) == ["PLATFORM", "NOT_MAPPED", "NOT_MAPPED"]


def test_exynos_claimed_is_blocked_by_an_empty_table_and_under_the_patch_open():
    today = il.Lab(release="6.0", driver="exynos")
    today.claim_dma_owner(0, "vfio")
    assert today.belief(0) == il.DomainType.UNMANAGED
    assert verdicts(today, 0x4000_0000) == ["NOT_MAPPED"]
    patched = today.under("patch-v2")
    assert patched.belief(0) == il.DomainType.BLOCKED
    assert patched.hardware("dev0").kind == "bypass"
    assert verdicts(patched, 0x4000_0000) == ["IDENTITY"]


@pytest.mark.parametrize("release", ["6.0", "patch-v2", "plan"])
def test_amd_claimed_is_blocked_with_and_without_the_patch(release):
    lab = il.Lab(release=release, driver="amd")
    lab.claim_dma_owner(0, "vfio")
    assert lab.belief(0) == il.DomainType.BLOCKED
    assert verdicts(lab, 0, 0x4000_0000)[0] in ("BLOCKED", "NOT_MAPPED")


def test_s390_under_the_patch_crashes_on_the_first_claim_and_stays_readable():
    lab = il.Lab(release="patch-v2", driver="s390")
    before = lab.state
    with pytest.raises(il.KernelCrash, match=r"handed no domain.*platform"):
        lab.claim_dma_owner(0, "vfio")
    assert lab.state == before
    assert lab.events.iloc[-1]["kind"] == "crash"


def test_the_same_s390_function_blocks_in_2024():
    lab = il.Lab(release="6.12.117", driver="s390")
    lab.claim_dma_owner(0, "vfio")
    assert lab.belief(0) == il.DomainType.BLOCKED
    assert lab.hardware("dev0").kind == "blocked"


def test_a_second_claim_is_refused_even_for_the_same_owner():
    lab = il.Lab(release="6.1", driver="intel")
    lab.claim_dma_owner(0, "vfio")
    with pytest.raises(PermissionError, match="EPERM") as refused:
        lab.claim_dma_owner(0, "vfio")
    assert refused.value.errno == errno.EPERM


def test_a_claim_through_the_device_is_counted_from_6_2():
    lab = il.Lab(release="6.2", driver="intel")
    lab.claim_device("dev0", "vfio")
    lab.claim_device("dev0", "vfio")
    lab.release_device_owner("dev0")
    assert lab.state.groups[0].owner == "vfio"
    lab.release_device_owner("dev0")
    assert lab.state.groups[0].owner is None
    with pytest.raises(il.NotInRelease):
        il.Lab(release="6.1", driver="intel").claim_device("dev0", "vfio")


def test_detach_group_ignores_the_domain_it_is_given():
    lab = il.Lab(release="6.1", driver="intel")
    attached, other = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_group(attached, 0)
    lab.detach_group(other, 0)
    assert lab.state.groups[0].domain == lab.state.groups[0].default


@pytest.mark.parametrize(("release", "undone"), [("5.15", True), ("6.1", False)])
def test_detach_device_looks_at_the_domain_only_from_5_19(release, undone):
    lab = il.Lab(release=release, driver="intel")
    attached, other = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_device(attached, "dev0")
    lab.detach_device(other, "dev0")
    assert (lab.state.groups[0].domain != attached) == undone


def test_without_a_default_domain_5_15_lets_a_second_attach_take_over():
    lab = il.Lab(release="5.15", driver="omap")
    first, second = lab.alloc_domain(), lab.alloc_domain()
    lab.attach_device(first, "dev0")
    lab.attach_device(second, "dev0")
    later = lab.under("6.0")
    assert lab.state.groups[0].domain == second
    assert later.state.groups[0].domain == first
    assert later.moments[-1].result == "EBUSY"


@pytest.mark.parametrize(
    ("release", "split"), [("6.1", True), ("6.1.192", False), ("6.2", False), ("6.6", False)]
)
def test_a_group_attach_that_fails_half_way_is_rolled_back_from_6_2(release, split):
    machine = il.Machine().having("nic", "disk", group=0)
    lab = il.Lab(release=release, driver="intel", machine=machine)
    domain = lab.alloc_domain()
    lab.fail_next_attach("disk", "ENOMEM")
    with pytest.raises(OSError, match="ENOMEM"):
        lab.attach_group(domain, 0)
    assert lab.state.groups[0].domain == lab.state.groups[0].default
    assert (lab.hardware("nic").domain == domain) == split


def test_a_default_domain_is_offered_and_not_set_on_32_bit_arm():
    assert il.Lab("6.0", "rockchip").state.groups[0].default is not None
    arm32 = il.Lab("6.0", "rockchip", arch="arm32")
    assert arm32.state.groups[0].default is None
    assert arm32.group_type(0) == "unknown"


def test_32_bit_arm_is_left_on_the_old_table_with_a_warning_in_6_3():
    lab = il.Lab("6.3", "rockchip", arch="arm32")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    assert lab.belief(0) is None
    assert lab.hardware("dev0").domain == domain
    assert "warn" in set(lab.events["kind"])


def test_qcom_programs_a_domain_once_and_has_no_way_back():
    lab = il.Lab("6.0", "qcom")
    lab.claim_dma_owner(0, "vfio")
    blocking = lab.state.groups[0].blocking
    lab.release_dma_owner(0)
    assert lab.state.groups[0].domain == lab.state.groups[0].default
    assert lab.hardware("dev0").domain == blocking


def test_a_device_locked_by_firmware_cannot_be_claimed_from_6_6():
    from iommu_lab.machine import Device, Machine, Reserved

    machine = Machine((Device("dev0", reserved=(Reserved(0x7000_0000, 0x7000_FFFF, "direct"),)),))
    il.Lab("6.4", "amd", machine=machine).claim_dma_owner(0, "vfio")
    with pytest.raises(OSError, match="EINVAL") as refused:
        il.Lab("6.6", "amd", machine=machine).claim_dma_owner(0, "vfio")
    assert refused.value.errno == errno.EINVAL


def test_lazy_unmap_leaves_a_stale_translation_until_the_queue_is_flushed():
    lab = il.Lab("6.1", "amd")
    iova = lab.dma_map("dev0", 0x8000_0000, 0x1000, "from_device")
    lab.dma_unmap("dev0", iova, 0x1000)
    assert verdicts(lab, iova) == ["STALE"]
    lab.advance(ms=11)
    assert verdicts(lab, iova) == ["NOT_MAPPED"]


def test_strict_unmap_leaves_nothing():
    lab = il.Lab("6.1", "amd", cmdline="iommu.strict=1")
    iova = lab.dma_map("dev0", 0x8000_0000, 0x1000, "from_device")
    lab.dma_unmap("dev0", iova, 0x1000)
    assert verdicts(lab, iova) == ["NOT_MAPPED"]


def test_a_device_without_bus_mastering_makes_no_dma():
    lab = il.Lab("6.1", "intel", cmdline="iommu=pt")
    assert verdicts(lab, 0x4000_0000) == ["IDENTITY"]
    lab.set_bus_master("dev0", False)
    assert verdicts(lab, 0x4000_0000) == ["MASTER_OFF"]


def test_undo_and_a_look_back_leave_the_lab_as_it_is():
    lab = il.Lab("6.0", "exynos")
    boot = lab.state
    lab.claim_dma_owner(0, "vfio")
    assert lab.undo().state == lab.at(0).state == boot
    assert lab.undo().undo().state == boot
    assert lab.belief(0) == il.DomainType.UNMANAGED


@pytest.mark.parametrize("release", [r for r in il.releases() if r not in ("plan",)])
def test_every_driver_of_a_release_boots_attaches_and_is_judged(release):
    for name in il.drivers(release)["driver"]:
        lab = il.Lab(release=release, driver=name)
        with suppress(OSError, il.KernelCrash):
            lab.attach_device(lab.alloc_domain(), "dev0")
        assert len(verdicts(lab, 0, 0x4000_0000, 2**64 - 64)) == 3


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: il.Lab(driver="exinos"), "unknown driver 'exinos': nearest is exynos"),
        (lambda: il.Lab(release="6.5"), "unknown release '6.5'"),
        (lambda: il.Lab("6.7", "tegra-gart"), "absent from 6.7"),
        (lambda: il.Lab().detach_device("dom1", "dev0"), "unknown domain 'dom1'"),
        (lambda: il.Lab().set_bus_master("dev9", True), "unknown device 'dev9': nearest is dev0"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest_names(call, line):
    with pytest.raises(ValueError, match=re.escape(line)) as refused:
        call()
    assert "\n" not in str(refused.value)
