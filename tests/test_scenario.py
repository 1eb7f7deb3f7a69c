"""Does a situation come back as it was sent, and is anything else refused in one clear line?"""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommu_lab.domains import DomainType
from iommu_lab.hardware import TOP
from iommu_lab.lab import Lab, Step
from iommu_lab.machine import RESERVED_TYPES, Device, Machine, Region, Reserved
from iommu_lab.own import OwnDriver
from iommu_lab.scenario import LARGEST, VERBS, NotAScenario, Scenario, from_data, parsed

LOOKING = {"at", "undo", "under", "replay", "check", "belief", "believed_domain", "hardware"}
LOOKING |= {"group_type", "iova_to_phys", "with_state"}

addresses = st.integers(0, TOP)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ranges = st.tuples(addresses, addresses).map(lambda pair: tuple(sorted(pair)))
devices = st.builds(
    Device,
    name=words,
    group=st.integers(0, 9),
    id=words,
    pci=st.booleans(),
    untrusted=st.booleans(),
    requires=st.sampled_from([None, *DomainType]),
    powered=st.booleans(),
    reserved=st.lists(
        st.builds(Reserved, addresses, addresses, st.sampled_from(RESERVED_TYPES)), max_size=2
    ).map(tuple),
    master_at_boot=st.booleans(),
    deferred=st.booleans(),
    managed_by=words,
)
machines = st.builds(
    Machine,
    devices=st.lists(devices, min_size=1, max_size=3, unique_by=lambda d: d.name).map(tuple),
    memory=st.lists(addresses, min_size=4, max_size=4, unique=True).map(
        lambda cuts: (Region(*sorted(cuts)[:2], "kernel"), Region(*sorted(cuts)[2:], 'a "VM"'))
    ),
    msi=st.lists(ranges, max_size=2).map(tuple),
    width=st.integers(0, 64),
    caching_mode=st.booleans(),
    no_iommu=st.lists(words, max_size=2).map(tuple),
    windows=st.lists(ranges, max_size=2).map(tuple),
)
steps = st.one_of(
    st.builds(
        Step, st.just("map"), st.tuples(words, addresses, addresses, addresses, st.just("r"))
    ),
    st.builds(Step, st.just("claim_dma_owner"), st.tuples(st.integers(0, 9), st.none() | words)),
    st.builds(Step, st.just("set_bus_master"), st.tuples(words, st.booleans())),
    st.builds(Step, st.just("advance"), st.tuples(st.floats(0, 1e9))),
    st.builds(
        Step,
        st.just("map_many"),
        st.tuples(words, *[st.lists(addresses, max_size=2).map(tuple)] * 3, st.just("rw")),
    ),
)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    called = tuple(draw(st.lists(steps, max_size=4)))
    return Scenario(
        release=draw(st.sampled_from(["5.15", "6.0", "6.1", "patch-v2"])),
        driver=draw(st.sampled_from(["s390", "exynos", "amd"])),
        cmdline=draw(words),
        machine=draw(st.none() | machines),
        steps=called,
        compare=draw(st.sampled_from([None, "6.12", "plan"])),
        at=draw(st.none() | st.integers(0, len(called))),
        window=draw(st.none() | ranges),
    )


@given(scenarios())
def test_whatever_was_written_down_is_read_back_the_same(scenario):
    assert from_data(parsed(scenario.dumps().encode())) == scenario


def played() -> Lab:
    lab = Lab("6.1", "s390")
    lab.dma_map("dev0", 0x8000_0000, 0x1000)
    dom = lab.alloc_domain()
    lab.attach_device(dom, "dev0")
    lab.map_many(dom, [0x1_1000_0000, 0x1_2000_0000], [0x8000_0000, 0x9000_0000], [0x1000] * 2)
    lab.detach_device(dom, "dev0")
    return lab


def test_a_lab_comes_back_from_a_file_in_the_state_it_was_in(tmp_path):
    lab = played()
    file = tmp_path / "detached.toml"
    Scenario.from_lab(lab).save(file)
    again = Scenario.load(file).lab()
    assert again.moments == lab.moments


def test_addresses_in_the_file_are_hex():
    assert "paddr = 0x8000_0000, size = 0x1000" in Scenario.from_lab(played()).dumps()


def test_a_scenario_that_stepped_back_is_the_lab_of_that_moment():
    lab = played()
    back = Scenario.from_lab(lab, at=3)
    assert back.lab().state == lab.at(3).state
    assert Scenario.loads(back.dumps()) == back


def test_the_last_step_needs_no_number():
    lab = played()
    assert Scenario.from_lab(lab, at=len(lab.steps)) == Scenario.from_lab(lab)


def test_a_refusal_of_the_kernel_is_part_of_the_story_and_not_of_the_file():
    lab = Lab("6.0", "s390")
    with pytest.raises(AttributeError):
        lab.claim_device("dev0", "vfio")
    again = Scenario.loads(Scenario.from_lab(lab).dumps()).lab()
    assert again.moments == lab.moments


def test_every_verb_of_a_lab_can_stand_in_a_file_under_the_names_that_lab_uses():
    methods = {
        name: [p for p in inspect.signature(method).parameters if p != "self"]
        for name, method in inspect.getmembers(Lab, inspect.isfunction)
        if not name.startswith("_") and name not in LOOKING
    }
    assert {verb: [a.name for a in arguments] for verb, arguments in VERBS.items()} == methods


SOUND = Scenario(
    "6.1",
    "intel",
    machine=Machine().having("a", "b"),
    steps=(
        Step("claim_dma_owner", (0, "vfio")),
        Step("map", ("default0", 0x1000, 0, 0x1000, "rw")),
    ),
    window=(0x1000, 0x2000),
).dumps()


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        (SOUND, "", "schema must be 'iommu_lab scenario', got none"),
        ('schema = "iommu_lab scenario"', 'schema = "other"', "schema must be .*, got 'other'"),
        ("version = 1", "version = 2", "version: this program reads version 1, got 2"),
        ("version = 1", "version = true", "version: this program reads version 1, got True"),
        ("release =", "releese =", "unknown key 'releese': nearest is release"),
        ('release = "6.1"\n', "", "there is no 'release'"),
        ('"6.1"', '"6.5"', r"release: unknown release '6.5': nearest are"),
        ('"6.1"', "6.1", "release: must be text in quotes, got 6.1"),
        ('"intel"', '"intl"', "driver: unknown driver 'intl': nearest is intel"),
        ('"intel"', '"intel"\narch = "s390x"', "arch: unknown architecture 's390x'.* x86_64"),
        ('"intel"', '"intel"\ncompare = "7"', "compare: unknown release '7'"),
        ('"intel"', '"intel"\nat = 3', "at: there are 2 steps, got 3"),
        ('"intel"', '"intel"\nat = -1', "at: must be a whole number, 0 or more, got -1"),
        ('"intel"', '"intel"\ndriver = "amd"', "not TOML: Cannot overwrite a value"),
        ('"claim_dma_owner"', '"__init__"', r"steps\[0\].verb: unknown verb '__init__'"),
        ('verb = "map", ', "", r"steps\[1\]: has no 'verb'"),
        ('domain = "default0", ', "", r"steps\[1\]: map needs domain, .*; 'domain' is missing"),
        ("group = 0, owner", "grup = 0, owner", r"steps\[0\]: claim_dma_owner takes no 'grup'"),
        ('name = "b", group', 'name = "b", grop', r"machine.devices\[1\]: unknown key 'grop'"),
        ('name = "b", ', "", r"machine.devices\[1\]: has no 'name'"),
        ("iova = 0x1000", "iova = 1.5", r"steps\[1\].iova: must be an address, .*, got 1.5"),
        ("iova = 0x1000", "iova = -1", r"steps\[1\].iova: must be an address, .*, got -1"),
        ("iova = 0x1000", "iova = true", r"steps\[1\].iova: must be an address, .*, got True"),
        ("iova = 0x1000", f"iova = {2**64}", r"steps\[1\].iova: .* to 2\*\*64 - 1, got 0x1"),
        ('"rw"', '"x"', r"steps\[1\].prot: must be one of 'rw', 'r', 'w', '', got 'x'"),
        ("last = 0x2000", "last = 0x0", "window: needs first <= last, got first=0x1000, last=0x0"),
        ('name = "b"', 'name = "a"', "machine: device names must differ, got 'a' twice"),
        ('owner = "kernel"', "owner = []", r"machine.memory\[0\].owner: must be text in quotes"),
        ("[machine]\n", "[machine]\nwidth = 65\n", "machine.width: must be .* at most 64, got 65"),
        ("window = {", "window = 3\nx = {", "unknown key 'x'"),
        ('"vfio"', '"\\ud800"', "not TOML"),
        ('"default0"', '"dom9"', r"steps\[1\]: map: unknown domain 'dom9'"),
    ],
)
def test_what_is_no_scenario_is_refused_in_one_line(was, becomes, said):
    assert was in SOUND
    with pytest.raises(NotAScenario, match=rf"^it\.toml: .*{said}") as refusal:
        Scenario.loads(SOUND.replace(was, becomes, 1), "it.toml")
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_too_large_is_not_even_parsed(tmp_path):
    file = tmp_path / "long.toml"
    file.write_text("#" * (LARGEST + 1))
    with pytest.raises(NotAScenario, match=r"long.toml: a scenario has at most 1000000 bytes"):
        Scenario.load(file)


@pytest.mark.parametrize("text", ["a = " + "[" * 90_000, "a = " + "{a = " * 90_000])
def test_a_file_that_is_nested_deeply_is_refused(text):
    with pytest.raises(NotAScenario, match="nested too deeply"):
        Scenario.loads(text)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "picture.toml"
    file.write_bytes(b"\x89PNG")
    with pytest.raises(NotAScenario, match=r"picture.toml: it is not text in UTF-8 \(byte 0\)"):
        Scenario.load(file)


def test_too_many_steps_are_refused_when_the_scenario_is_made():
    with pytest.raises(NotAScenario, match="steps: at most 10000 are taken, got 10001"):
        Scenario(steps=(Step("unbind", ("dev0",)),) * 10_001)


def test_a_drivers_code_is_not_put_into_a_file():
    class Mine(OwnDriver):
        base = "exynos"

        def blocking(self, iommu, domain):
            iommu.block()

    with pytest.raises(NotAScenario, match="is code of your own, not a name"):
        Scenario.from_lab(Lab("6.0", Mine))


def test_a_refused_change_leaves_the_scenario_as_it_was():
    scenario = Scenario("6.1", "s390")
    with pytest.raises(NotAScenario):
        replace(scenario, driver="s309")
    assert scenario == Scenario("6.1", "s390")
