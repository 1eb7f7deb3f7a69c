"""Whatever verbs come, in whatever order, under any release and driver: what always holds."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise

from answers import FIRMWARE, answer
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from iommu_lab.core import WRITABLE
from iommu_lab.drivers import rows
from iommu_lab.hardware import Kind
from iommu_lab.lab import ALLOCATABLE, Lab
from iommu_lab.machine import Device, Machine
from iommu_lab.releases import known, release

WHERE = [
    (name, row["driver"], arch)
    for name in known()
    for row in rows(name)
    for arch in (row["arch"], *row["other_arch"].split())
]
SINCE_6_7 = [where for where in WHERE if release(where[0]).at_least("6.7")]
MACHINES = [
    (Device("a"),),
    (Device("a"), Device("b")),
    (Device("a"), Device("b", 1, reserved=FIRMWARE), Device("c", 1)),
    (Device("a", deferred=True), Device("b", powered=False, untrusted=True)),
]

devices = st.sampled_from(["a", "b", "c", "late"])
groups = st.integers(0, 1)
domains = st.sampled_from(["dom1", "dom2", "dom3", "default0", "blocking0", "mapping", "mapping.a"])
owners = st.sampled_from(["vfio", "iommufd", None])
pages = st.integers(0, 6).map(lambda n: 0x1_5800_0000 + n * 0x4000)
sizes = st.sampled_from([0x4000, 0x8000, 0x20_0000])

edges = st.sampled_from([0, 0x10, 2**32 - 0x4000, 2**32, 2**48 - 0x4000, 2**64 - 0x4000])
TWO = st.tuples(sizes, sizes)

STEPS = st.one_of(
    st.tuples(st.just("alloc_domain"), st.sampled_from([*ALLOCATABLE])),
    st.tuples(st.just("free_domain"), domains),
    st.tuples(st.sampled_from(["attach_device", "detach_device"]), domains, devices),
    st.tuples(st.sampled_from(["attach_group", "detach_group", "replace_domain"]), domains, groups),
    st.tuples(st.just("claim_dma_owner"), groups, owners),
    st.tuples(st.just("claim_device"), devices, owners),
    st.tuples(st.just("release_dma_owner"), groups),
    st.tuples(st.sampled_from(["use_default_domain", "unuse_default_domain"]), devices),
    st.tuples(st.sampled_from(["release_device_owner", "remove", "probe", "unbind"]), devices),
    st.tuples(st.just("bind"), devices, st.sampled_from(["nic", "vfio-pci"])),
    st.tuples(st.sampled_from(["power_cycle", "fail_next_attach"]), devices),
    st.tuples(st.just("set_group_type"), groups, st.sampled_from([*WRITABLE, "unmanaged"])),
    st.tuples(st.just("late_join"), st.just("late"), groups),
    st.tuples(st.just("map"), domains, pages, pages, sizes),
    st.tuples(st.just("map"), domains, edges, edges, sizes, st.sampled_from(["r", "w", ""])),
    st.tuples(st.just("map_many"), domains, st.tuples(pages, edges), st.tuples(pages, pages), TWO),
    st.tuples(st.just("iova_to_phys"), domains, pages),
    st.tuples(st.just("unmap"), domains, st.one_of(pages, edges), sizes),
    st.tuples(st.sampled_from(["dma_map", "dma_unmap"]), devices, pages, sizes),
    st.tuples(st.just("advance"), st.sampled_from([5, 20])),
)


def booted(where: tuple[str, str, str], machine: Machine) -> Lab:
    """The lab of a kernel that comes up on this machine."""
    name, driver, arch = where
    return Lab(name, driver, machine, arch=arch)


def told(where, machine, steps) -> Lab:
    """The lab after these verbs; verbs on what isn't there are passed over.

    Whatever else than an errno, a crash or a clear ``ValueError`` a verb ends in fails the test.
    """
    lab = booted(where, replace(Machine(), devices=machine))
    for verb, *args in steps:
        try:
            answer(lab, verb, *args)
        except ValueError:
            continue
    return lab


STORIES = st.sampled_from(MACHINES), st.lists(STEPS, max_size=14)
labs = st.builds(told, st.sampled_from(WHERE), *STORIES)
quick = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(labs)
def test_belief_and_hardware_name_only_what_there_is(lab):
    for moment in lab.moments:
        state = moment.state
        for number, group in state.groups.items():
            named = (group.default, group.blocking, group.domain)
            assert {name for name in named if name is not None} <= state.domains.keys()
            assert group.number == number
        for entry in state.hardware.entries.values():
            walks = entry.kind in (Kind.TABLE, Kind.PLATFORM)
            assert (entry.table in state.hardware.tables) if walks else (entry.table is None)
        for name, domain in state.domains.items():
            assert domain.name == name
            assert set(domain.users) <= state.devices.keys()


@quick
@given(labs)
def test_a_device_that_is_there_is_in_one_group_at_most_and_in_its_own(lab):
    for moment in lab.moments:
        state = moment.state
        listed = [device for group in state.groups.values() for device in group.devices]
        assert len(listed) == len(set(listed))
        for number, group in state.groups.items():
            assert group.devices
            for device in group.devices:
                assert state.devices[device].group == number
                assert state.devices[device].present
        assert set(state.hardware.entries) >= set(listed)
        assert set(state.hardware.master) == set(state.devices)


@quick
@given(labs)
def test_owners_are_counted_and_the_count_is_never_below_zero(lab):
    for moment in lab.moments:
        for group in moment.state.groups.values():
            assert group.owner_cnt >= 0
            # An owner with a count of 0 is one whose claim somebody else has "unused".
            assert group.owner is None or group.blocking is not None


@quick
@given(st.builds(told, st.sampled_from(SINCE_6_7), *STORIES))
def test_since_6_7_a_group_is_always_somewhere(lab):
    for moment in lab.moments:
        for group in moment.state.groups.values():
            assert group.default is not None
            assert group.domain is not None


@quick
@given(labs)
def test_the_same_verbs_make_the_same_states_with_equal_hashes(lab):
    boot = lab.moments[0].kernel
    again = Lab(boot.release.name, boot.driver.name, boot.machine, boot.cmdline, boot.arch)
    again = again.replay(lab.steps)
    other = lab.under(lab.release.name)
    for mine, replayed, under in zip(lab.moments, again.moments, other.moments, strict=True):
        assert mine.state == replayed.state == under.state
        assert hash(mine.state) == hash(replayed.state)
        assert (mine.result, mine.events) == (replayed.result, replayed.events)


@quick
@given(labs)
def test_undo_and_the_same_verb_again_come_to_the_same_state(lab):
    assume(lab.steps)
    again = lab.undo().replay(lab.steps[-1:])
    assert again.state == lab.state
    assert again.moments[-1].result == lab.moments[-1].result


@quick
@given(labs)
def test_looking_changes_nothing_and_a_state_can_be_put_away(lab):
    before = (lab.state, len(lab.moments))
    for number in {device.group for device in lab.state.devices.values()}:
        lab.belief(number)
        lab.group_type(number)
    for device in lab.devices:
        lab.hardware(device)
    assert (lab.state, len(lab.moments)) == before
    assert pickle.loads(pickle.dumps(lab.state)) == lab.state


@quick
@given(labs)
def test_a_verb_that_crashes_leaves_the_state_and_a_refused_one_says_why(lab):
    for before, moment in pairwise(lab.moments):
        if moment.result in ("crash", "not in release"):
            assert moment.state == before.state
        if isinstance(moment.result, str) and moment.result.startswith("E"):
            assert moment.events[-1].kind == "errno"
            assert moment.events[-1].text.startswith(moment.result)


@quick
@given(labs, st.sampled_from(known()))
def test_a_story_is_told_to_its_end_under_every_release_that_comes_up(lab, name):
    boot = lab.moments[0].kernel
    assume((name, boot.driver.name, boot.arch) in WHERE)
    booted((name, boot.driver.name, boot.arch), boot.machine)
    assert len(lab.under(name).moments) == len(lab.moments)
