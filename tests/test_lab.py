"""The face: are names, values, errors and steps back what lessons and outside checks rely on?"""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from answers import answer, on, together, traces

import iommu_lab as il
from iommu_lab.domains import DomainType
from iommu_lab.drivers import driver as find_driver
from iommu_lab.errors import KernelCrash, NotInRelease, UnknownName
from iommu_lab.lab import ALLOCATABLE, RUNS, Lab, Step, drivers
from iommu_lab.machine import Device, Machine
from iommu_lab.releases import releases

BUFFER = 0x8000_0000


# -- making one -----------------------------------------------------------------------------------


def test_a_lab_is_one_device_alone_in_group_0_of_the_drivers_own_architecture():
    lab = Lab(release="6.0", driver="s390")
    assert (lab.devices, lab.kernel.arch, lab.kernel.cmdline) == (["dev0"], "s390x", "")
    assert lab.state.devices["dev0"].driver is None
    assert Lab(release="6.0", driver="rockchip").kernel.arch == "arm64"
    assert Lab(release="6.0", driver="rockchip", arch="arm32").belief(0) is None


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"release": "6.8"}, "unknown release '6.8': nearest are"),
        ({"driver": "exinos"}, "unknown driver 'exinos': nearest is exynos"),
        ({"driver": "tegra-gart", "release": "6.7"}, "'tegra-gart' is absent from 6.7"),
        ({"driver": "s390", "arch": "x86_64"}, "unknown architecture for s390 'x86_64'"),
    ],
)
def test_a_lab_that_can_not_be_says_so_in_one_line_with_the_nearest_names(named, says):
    with pytest.raises(UnknownName) as error:
        Lab(**named)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda lab: lab.attach_device("dom1", "nic"), "unknown device 'nic': known is dev0"),
        (lambda lab: lab.attach_device("dom2", "dev0"), "unknown domain 'dom2': nearest is dom1"),
        (lambda lab: lab.attach_group("dom1", 7), "unknown group '7': known is 0"),
        (lambda lab: lab.hardware("dev1"), "unknown device 'dev1': nearest is dev0"),
        (lambda lab: lab.belief(3), "unknown group '3'"),
        (lambda lab: lab.alloc_domain("blokked"), "unknown domain type 'blokked': nearest"),
        (lambda lab: lab.map("dom7", 0, 0, 4096), "unknown domain 'dom7'"),
        (lambda lab: lab.dma_map("dev0", 0, 1, "up"), "unknown direction 'up'"),
        (lambda lab: lab.fail_next_attach("dev0", "EWHAT"), "unknown errno 'EWHAT'"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest_and_no_step(call, says):
    lab = Lab(driver="amd")
    lab.alloc_domain()
    steps = lab.steps
    with pytest.raises(UnknownName) as error:
        call(lab)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert lab.steps == steps


def test_an_unknown_name_is_a_value_error_and_a_key_error():
    with pytest.raises(ValueError, match="nearest"):
        Lab(driver="exinos")
    with pytest.raises(KeyError, match="nearest"):
        Lab(driver="exinos")


def test_a_driver_may_be_given_as_a_row():
    row = replace(find_driver("exynos", "6.0"), accepts=frozenset({DomainType.UNMANAGED}))
    assert Lab("6.0", row).belief(0) is None


# -- what verbs say -------------------------------------------------------------------------------


def test_verbs_return_0_or_a_value():
    lab = Lab(driver="amd")
    domain = lab.alloc_domain("unmanaged")
    assert lab.map(domain, iova=0x1000, paddr=BUFFER, size=0x1000, prot="rw") == 0
    assert lab.map_many(domain, [0x2000], [BUFFER], [0x1000], prot="r") == 0x1000
    assert lab.attach_device(domain, "dev0") == 0
    assert lab.detach_device(domain, "dev0") is None
    assert lab.attach_group(domain, 0) == 0
    assert lab.detach_group(domain, 0) is None
    assert lab.claim_dma_owner(0, "vfio") == 0
    assert lab.release_dma_owner(0) is None
    assert lab.use_default_domain("dev0") == 0
    assert lab.unuse_default_domain("dev0") is None
    assert lab.set_group_type(0, "identity") == 0
    assert lab.unmap(domain, 0x1000, 0x1000) == 0x1000
    assert lab.iova_to_phys(domain, 0x2004) == BUFFER + 4


def test_a_refusal_is_an_oserror_with_the_errno_and_the_reason():
    lab = Lab(driver="amd")
    lab.claim_dma_owner(0, "vfio")
    with pytest.raises(OSError, match="group 0 has an owner") as refusal:
        lab.claim_dma_owner(0, "vfio")
    assert refusal.value.errno == errno.EPERM
    assert lab.moments[-1].result == "EPERM"


def test_a_crash_is_an_event_and_leaves_the_lab_where_it_was():
    lab = Lab("6.0", "mtk")
    domain = lab.alloc_domain()
    before = lab.state
    with pytest.raises(KernelCrash, match="no page table") as crash:
        lab.map(domain, 0x1000, BUFFER, 0x1000)
    assert lab.state == before
    assert crash.value.function
    assert lab.events.iloc[-1][["kind", "name"]].tolist() == ["crash", crash.value.function]
    assert lab.attach_device(domain, "dev0") == 0


def test_asking_for_an_address_may_crash_too():
    lab = Lab("6.0", "msm")
    domain = lab.alloc_domain()
    with pytest.raises(KernelCrash):
        lab.iova_to_phys(domain, 0)
    assert lab.moments[-1].result == "crash"


def test_a_verb_that_a_release_has_not_is_an_attribute_error_of_its_own():
    lab = Lab("5.15", "amd")
    before = lab.state
    with pytest.raises(NotInRelease, match=r"claim_dma_owner is not in 5.15"):
        lab.claim_dma_owner(0, "vfio")
    assert issubclass(NotInRelease, AttributeError)
    assert lab.state == before


def test_a_warning_is_an_event_and_no_exception():
    lab = Lab("6.0", "amd")
    assert lab.release_dma_owner(0) is None
    assert lab.events.iloc[-1]["kind"] == "warn"


def test_addresses_are_written_in_hex_for_reading_and_stay_numbers_in_the_answer():
    lab = Lab("6.0", "intel")
    at = lab.dma_map("dev0", BUFFER, 0x1000)
    asked = {"device": "dev0", "iova": [at, 0x1000], "size": 64, "write": True}
    given = pd.DataFrame(asked)
    answers = given.join(lab.check(given))
    shown = il.in_hex(answers)
    assert shown["iova"].tolist() == [hex(at), "0x1000"]
    assert shown["paddr"].tolist() == [hex(BUFFER), ""]
    assert shown["fault_iova"].tolist() == ["", "0x1000"]
    assert shown["reached"].tolist() == [64, 0]
    assert answers["paddr"].dtype == "UInt64"
    last = il.in_hex(lab.events).iloc[-1]
    assert (last["iova"], last["size"], last["paddr"]) == (hex(at), "0x1000", hex(BUFFER))


def test_events_are_rows_with_the_kernels_names_and_whole_numbers():
    lab = Lab("6.0", "amd")
    domain = lab.alloc_domain()
    lab.map(domain, 2**60, BUFFER, 0x1000)
    lab.attach_device(domain, "dev0")
    events = lab.events
    assert events.columns.tolist() == (
        ["step", "verb", "kind", "name", "device", "domain", "iova", "size", "paddr", "text"]
    )
    mapped = events[events["name"] == "map"].iloc[-1]
    assert (mapped["iova"], mapped["size"], mapped["paddr"]) == (2**60, 0x1000, BUFFER)
    assert traces(lab) == ["attach_device_to_domain dev0 dom1"]
    assert events["step"].is_monotonic_increasing
    assert events.iloc[0]["verb"] == "boot"


def test_hardware_kinds_are_their_words_and_a_belief_is_a_type_or_none():
    lab = Lab("6.0", "exynos")
    kinds = {lab.hardware().kind == "table", lab.hardware("dev0").domain == "default0"}
    assert kinds == {True}
    assert lab.belief(0) is DomainType.DMA
    assert Lab("6.0", "s390").belief(0) is None
    assert Lab("6.0", "s390").hardware().kind == "platform"
    assert Lab("6.0", "sprd").hardware().why == ""


def test_a_group_is_named_by_its_number_or_by_a_device_in_it():
    lab = Lab("6.0", "amd", replace(Machine(), devices=(Device("a"), Device("b", 3))))
    assert lab.belief("b") is lab.belief(3)
    assert lab.group_type("b") == "DMA-FQ"
    assert lab.believed_domain(3).name == "default3"


def test_names_of_domains_count_the_calls_under_every_release():
    lab = Lab("6.12", "arm-smmu")
    names = [lab.alloc_domain(kind) for kind in ("blocked", "unmanaged", "blocked")]
    assert names == ["dom1", "dom2", "dom3"]
    lab.attach_device("dom1", "dev0")
    assert lab.believed_domain(0).name == "arm-smmu.blocked"
    older = lab.under("6.0")  # where the driver gives no blocked domain
    assert older.state.domains["dom2"].type is DomainType.UNMANAGED
    assert older.moments[1].result == "EOPNOTSUPP"


def test_a_driver_without_a_type_says_so_with_the_releases_name():
    lab = Lab("6.0", "arm-smmu")
    with pytest.raises(OSError, match=r"arm-smmu has no blocked domain in 6.0") as refusal:
        lab.alloc_domain("blocked")
    assert refusal.value.errno == errno.EOPNOTSUPP


def test_freeing_a_domain_frees_its_name():
    lab = Lab("6.0", "amd")
    domain = lab.alloc_domain()
    lab.free_domain(domain)
    with pytest.raises(UnknownName):
        lab.attach_device(domain, "dev0")


# -- bad arguments --------------------------------------------------------------------------------

WRONG = [True, 1.0, "4096", None, float("nan"), np.float64(4096), np.bool_(True)]
TOO_MUCH = [-1, 2**64, -(2**70)]


def amd() -> tuple[Lab, str]:
    lab = Lab("6.0", "amd")
    return lab, lab.alloc_domain()


@pytest.mark.parametrize("value", WRONG + TOO_MUCH, ids=repr)
@pytest.mark.parametrize("place", [1, 2, 3])
def test_an_address_or_size_that_is_none_is_refused_and_nothing_is_a_step(place, value):
    lab, domain = amd()
    args = [domain, 0x1000, BUFFER, 0x1000]
    args[place] = value
    named = ("domain", "iova", "paddr", "size")[place]
    with pytest.raises((TypeError, ValueError), match=named) as error:
        lab.map(*args)
    assert "\n" not in str(error.value)
    assert len(lab.steps) == 1


@pytest.mark.parametrize("value", WRONG + TOO_MUCH, ids=repr)
def test_other_verbs_refuse_such_numbers_too(value):
    lab, domain = amd()
    for call in (
        lambda: lab.unmap(domain, value, 0x1000),
        lambda: lab.unmap(domain, 0x1000, value),
        lambda: lab.iova_to_phys(domain, value),
        lambda: lab.dma_map("dev0", value, 0x1000),
        lambda: lab.dma_map("dev0", BUFFER, value),
        lambda: lab.dma_unmap("dev0", BUFFER, value),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    assert len(lab.steps) == 1


def test_numbers_of_numpy_are_numbers():
    lab, domain = amd()
    lab.map(domain, np.uint64(0x1000), np.int64(BUFFER), np.uint32(0x1000))
    assert lab.iova_to_phys(domain, np.uint64(0x1000)) == BUFFER


@pytest.mark.parametrize(("iova", "paddr"), [(2**64 - 0x1000, 0), (0, 2**64 - 0x1000)])
def test_a_range_may_end_at_the_top_and_not_wrap(iova, paddr):
    lab, domain = amd()
    assert lab.map(domain, iova, paddr, 0x1000) == 0
    with pytest.raises(ValueError, match="may not wrap"):
        lab.map(domain, iova, paddr, 0x2000)


def test_rights_owners_types_and_drivers_are_words():
    lab, domain = amd()
    for call in (
        lambda: lab.map(domain, 0, 0, 0x1000, "x"),
        lambda: lab.claim_dma_owner(0, ""),
        lambda: lab.claim_dma_owner(0, 5),
        lambda: lab.set_group_type(0, None),
        lambda: lab.bind("dev0", ""),
        lambda: lab.late_join("dev0", 0),
        lambda: lab.late_join("new", -1),
        lambda: lab.late_join("", 0),
        lambda: lab.attach_group(domain, True),
        lambda: lab.attach_group(domain, 0.0),
        lambda: lab.set_bus_master("dev0", "yes"),
        lambda: lab.dma_map("dev0", 0, 0),
        lambda: lab.dma_unmap("dev0", 0, 0),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
    assert len(lab.steps) == 1


@pytest.mark.parametrize("ms", [-1, float("nan"), float("inf"), "10", True, None])
def test_time_only_goes_forward(ms):
    with pytest.raises(ValueError, match="time only goes forward"):
        Lab(driver="amd").advance(ms)


# -- many mappings --------------------------------------------------------------------------------


def test_many_mappings_take_any_columns_of_integers():
    for columns in (
        [[0x1000, 0x3000], [BUFFER, BUFFER], [0x1000, 0x1000]],
        [np.array(c, np.uint64) for c in ([0x1000, 0x3000], [BUFFER, BUFFER], [0x1000, 0x1000])],
        [pd.Series(c) for c in ([0x1000, 0x3000], [BUFFER, BUFFER], [0x1000, 0x1000])],
        [range(0x1000, 0x5000, 0x2000), (BUFFER, BUFFER), iter([0x1000, 0x1000])],
    ):
        lab, domain = amd()
        assert lab.map_many(domain, *columns) == 0x2000
        assert lab.iova_to_phys(domain, 0x3000) == BUFFER
    assert lab.map_many(domain, [], [], []) == 0


@pytest.mark.parametrize("value", WRONG + TOO_MUCH, ids=repr)
@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_bad_row_is_refused_by_its_number_and_nothing_is_mapped(column, value):
    lab, domain = amd()
    columns = [[0x1000, 0x2000, 0x3000], [BUFFER] * 3, [0x1000] * 3]
    columns[column][1] = value
    with pytest.raises((TypeError, ValueError), match="row 1: ") as error:
        lab.map_many(domain, *columns)
    assert "\n" not in str(error.value)
    assert len(lab.state.hardware.tables[domain]) == 0
    assert len(lab.steps) == 1


def test_rows_that_wrap_and_columns_of_different_lengths_are_refused():
    lab, domain = amd()
    with pytest.raises(ValueError, match="row 1: a range may not wrap"):
        lab.map_many(domain, [0, 2**64 - 0x1000], [0, 0], [0x1000, 0x2000])
    with pytest.raises(ValueError, match=r"one length, got \[2, 1, 1\]"):
        lab.map_many(domain, [0, 0x1000], [0], [0x1000])
    with pytest.raises(TypeError, match="a column of integers"):
        lab.map_many(domain, 5, [0], [0x1000])
    with pytest.raises(TypeError, match=r"row 0: iova must be an integer, got 4096.0"):
        lab.map_many(domain, np.array([4096.0]), [0], [0x1000])


def test_an_error_among_many_leaves_what_came_before_it_mapped():
    lab = Lab("6.0", "exynos")
    domain = lab.alloc_domain()
    rows = [[0x1000, 0x2000, 0x2000, 0x3000], [BUFFER] * 4, [0x1000] * 4]
    assert answer(lab, "map_many", domain, *rows) == "EADDRINUSE"
    found = [lab.iova_to_phys(domain, a) for a in (0x1000, 0x2000, 0x3000)]
    assert found == [BUFFER, BUFFER, 0]
    assert len(lab.steps) == 2


def test_a_hundred_thousand_mappings_are_one_step():
    lab, domain = amd()
    iova = np.arange(100_000, dtype=np.uint64) * 0x2000
    lab.map_many(domain, iova, iova, np.full(100_000, 0x1000))
    assert lab.iova_to_phys(domain, int(iova[-1])) == int(iova[-1])
    assert len(lab.state.hardware.tables[domain]) == 100_000


# -- checking -------------------------------------------------------------------------------------


def test_check_takes_a_frame_or_columns_and_answers_with_the_same_rows():
    lab, domain = amd()
    lab.attach_device(domain, "dev0")
    lab.map(domain, 0x1000, BUFFER, 0x1000, "r")
    rows = {"device": ["dev0"] * 3, "iova": [0x1000, 0x1000, 0x1FFC], "size": [4, 4, 8]}
    rows["write"] = [False, True, False]
    frame = pd.DataFrame(rows, index=[5, 6, 7])
    found = lab.check(frame)
    assert found["verdict"].tolist() == ["TRANSLATED", "NO_PERMISSION", "PARTIAL"]
    assert found["reached"].tolist() == [4, 0, 4]
    assert found["paddr"].tolist()[0] == BUFFER
    assert found.index.tolist() == [5, 6, 7]
    assert lab.check(rows)["verdict"].tolist() == found["verdict"].tolist()
    assert len(lab.check(frame.iloc[:0])) == 0


# -- going back and across ------------------------------------------------------------------------


def story() -> Lab:
    lab = Lab("6.0", "exynos")
    lab.claim_dma_owner(0, "vfio")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.map(domain, 0x1000, BUFFER, 0x1000)
    return lab


def test_undo_is_the_lab_before_the_last_verb_and_leaves_this_one():
    lab = story()
    before = lab.undo()
    assert before.iova_to_phys("dom1", 0x1000) == 0
    assert lab.iova_to_phys("dom1", 0x1000) == BUFFER
    assert before.map("dom1", 0x1000, BUFFER + 0x1000, 0x1000) == 0
    assert lab.iova_to_phys("dom1", 0x1000) == BUFFER


def test_undo_at_boot_is_the_boot():
    lab = Lab("6.0", "amd")
    assert lab.undo().moments == lab.moments


def test_at_is_any_moment_and_0_is_the_boot():
    lab = story()
    assert lab.at(0).state == Lab("6.0", "exynos").state
    assert lab.at(4).state == lab.state
    assert [on(lab.at(n))[0][1] for n in range(5)] == [
        "default0",
        "blocking0",
        "blocking0",
        "dom1",
        "dom1",
    ]
    for step in (-1, 5):
        with pytest.raises(IndexError, match="from 0 to 4"):
            lab.at(step)


@pytest.mark.parametrize("release", releases())
def test_under_another_release_every_verb_is_called_again_and_none_raises(release):
    lab = story()
    lab.detach_device("dom1", "dev0")
    lab.release_dma_owner(0)
    other = lab.under(release)
    assert other.steps == lab.steps
    assert other.release.name == release
    assert len(other.moments) == len(lab.moments)


def test_what_another_release_refuses_lacks_or_crashes_on_is_in_its_moments():
    lab = Lab("6.0", "s390")
    lab.claim_dma_owner(0, "vfio")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    said = {r: [m.result for m in lab.under(r).moments[1:]] for r in ("5.15", "patch-v2", "7.2")}
    assert said == {
        "5.15": ["not in release", "dom1", 0],
        "patch-v2": ["crash", "dom1", 0],
        "7.2": [0, "dom1", 0],
    }


def test_verbs_on_a_domain_that_another_release_could_not_make_are_noted():
    lab = Lab("6.2", "intel")
    blocked = lab.alloc_domain("blocked")
    lab.attach_device(blocked, "dev0")
    older = lab.under("6.1")
    assert [m.result for m in older.moments[1:]] == ["EOPNOTSUPP", "unknown name"]
    assert older.belief(0) is DomainType.DMA_FQ


def test_a_driver_that_another_release_has_not_can_not_go_there():
    with pytest.raises(UnknownName, match=r"absent from 6.7"):
        Lab("6.0", "tegra-gart").under("6.7")


def test_handles_are_valid_in_the_labs_that_come_from_a_lab():
    lab = story()
    for other in (lab.undo(), lab.at(3), lab.under("7.2")):
        assert other.map("dom1", 0x5000, BUFFER, 0x1000) == 0


def test_a_state_from_elsewhere_can_be_looked_at_without_a_step():
    lab = story()
    shown = lab.with_state(lab.at(0).state)
    assert (len(shown.steps), shown.belief(0)) == (4, DomainType.DMA)
    assert lab.belief(0) is DomainType.UNMANAGED


def test_a_step_shows_itself_as_it_would_be_written():
    assert str(Step("map", ("dom1", 0x1000, BUFFER, 0x1000, "rw"))) == (
        "map('dom1', 0x1000, 0x80000000, 0x1000, 'rw')"
    )
    assert "step=4" in repr(story())


def test_every_verb_of_the_face_runs_without_a_lab_too():
    for verb in RUNS:
        assert callable(getattr(Lab, verb)), verb


# -- tables of drivers and releases ---------------------------------------------------------------


@pytest.mark.parametrize("release", releases())
def test_drivers_are_a_row_each_with_their_evidence(release):
    table = drivers(release)
    wanted = ["driver", "release", "detach_dev", "effect", "evidence", "source", "confidence"]
    assert table.columns.tolist()[: len(wanted)] == wanted
    assert table["driver"].is_unique
    assert set(table["release"]) == {release}
    assert set(table["confidence"]) <= {"high", "medium", "low"}
    assert (table["evidence"] != "").all()


def test_the_package_gives_the_face_lazily():
    assert il.Lab is Lab
    assert il.releases() == releases()
    assert il.drivers("6.0").equals(drivers("6.0"))
    assert il.KernelCrash is KernelCrash
    assert il.NotInRelease is NotInRelease


def test_a_lab_reads_a_real_machines_groups(tmp_path):
    (tmp_path / "4" / "devices" / "0000:00:03.0").mkdir(parents=True)
    lab = il.Lab("6.1", "intel", il.Machine.from_sysfs(tmp_path), cmdline="iommu=pt iommu.strict=1")
    assert (lab.devices, lab.belief(4)) == (["0000:00:03.0"], DomainType.IDENTITY)


@pytest.mark.parametrize(("word", "kind"), ALLOCATABLE.items())
def test_every_kind_of_domain_can_be_asked_for_by_its_word(word, kind):
    lab = Lab("6.0", "amd")
    name = lab.alloc_domain(word)
    assert lab.state.domains[name].type is kind


def test_devices_of_a_group_are_checked_by_name():
    lab = Lab("6.0", "amd", together("a", "b"))
    domain = lab.alloc_domain()
    lab.attach_group(domain, 0)
    assert on(lab) == [("table", domain)] * 2
