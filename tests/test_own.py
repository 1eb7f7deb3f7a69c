"""A driver of your own: is it held to the kernel's rules, and is the search told the truth?"""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from iommu_lab.contracts import verify_blocking, verify_transition
from iommu_lab.domains import DomainType
from iommu_lab.drivers import driver
from iommu_lab.errors import KernelCrash, UnknownName
from iommu_lab.lab import Lab, Step
from iommu_lab.own import UNSUITED, OwnDriver, OwnDriverError
from iommu_lab.search import (
    DOMAINS,
    Walk,
    alike_names,
    drivers_and_arches,
    opening,
    shortest,
    shortest_leak,
)


class BlockingS390(OwnDriver):
    base = "s390"

    def blocking(self, iommu, domain):
        iommu.block()


class OpenAmd(OwnDriver):
    base = "amd"

    def blocking(self, iommu, domain):
        iommu.bypass()


class OpeningAmd(OwnDriver):
    base = "amd"

    def attach(self, iommu, domain):
        iommu.bypass()
        iommu.translate(domain)


class AsQcomRemembers(OwnDriver):
    """qcom's attach as it is, with its pointer from the domain to the unit written out."""

    base = "qcom"

    def attach(self, iommu, domain):
        if iommu.recall("unit", domain):
            return iommu.keep()
        iommu.remember("unit", True, domain)
        return iommu.translate(domain)


class QcomWritesEachTime(OwnDriver):
    base = "qcom"

    def attach(self, iommu, domain):
        iommu.translate(domain)


def plain_driver(name: str) -> type[OwnDriver]:
    """An attach that does no more than point the hardware at the domain's table."""

    class Plain(OwnDriver):
        base = name

        def attach(self, iommu, domain):
            iommu.translate(domain)

    Plain.__name__ = name  # static domains are called after their driver
    return Plain


def as_the_base(name: str) -> type[OwnDriver]:
    class AsBase(OwnDriver):
        base = name

        def attach(self, iommu, domain):
            return super().attach(iommu, domain)

        def detach(self, iommu, domain):
            return super().detach(iommu, domain)

    AsBase.__name__ = name
    return AsBase


def with_detach_like(name: str) -> type[OwnDriver]:
    """A detach written out, for a base whose detach switches its unit off or blocks."""
    leave = driver(name, "6.0").leave

    class Leaves(OwnDriver):
        base = name

        def detach(self, iommu, domain):
            if leave == "platform-new-table":
                iommu.platform()
            elif leave == "bypass":
                iommu.bypass()
            else:
                iommu.block()

    return Leaves


# -- what the contract and the search say of it ----------------------------------------------------


def test_a_blocking_domain_for_s390_as_of_6_0_holds():
    verdict = verify_blocking(BlockingS390, "6.0", depth=3, dmas=10_000)
    assert verdict
    assert "BlockingS390 (s390x) in 6.0 holds" in str(verdict)
    lab = Lab("6.0", BlockingS390)
    lab.claim_dma_owner(0, "user")
    assert (lab.belief(0), lab.hardware().kind.value) == (DomainType.BLOCKED, "blocked")


def test_amd_with_a_blocking_domain_that_bypasses_is_found_after_one_verb():
    verdict = verify_blocking(OpenAmd, "6.0", depth=2, dmas=1_000)
    assert not verdict
    assert [str(step) for step in verdict.counterexample.steps] == ["claim_dma_owner(0, 'user')"]
    leak = shortest_leak("6.0", OpenAmd, depth=2)
    assert [str(step) for step in leak.steps] == ["claim_dma_owner(0, 'user')"]


def test_a_switch_that_opens_the_door_on_the_way_is_found_and_the_repair_holds():
    assert not verify_transition(OpeningAmd, "6.0", depth=2)

    class Closing(OpeningAmd):
        def attach(self, iommu, domain):
            iommu.block()
            iommu.translate(domain)

    assert verify_transition(Closing, "6.0", depth=2)


def test_qcom_written_out_with_its_memory_does_what_the_row_does():
    written, row = (shortest("6.0", d, depth=3) for d in (AsQcomRemembers, "qcom"))
    for kind in ("disagreement", "lost"):
        assert written[kind].steps == row[kind].steps


def test_qcom_that_writes_each_time_is_where_the_core_believes_it():
    result = shortest("6.0", QcomWritesEachTime, depth=4)
    assert not result.findings


def test_what_is_remembered_is_part_of_the_state():
    class Third(OwnDriver):
        """Opens at the third attach of a device, which only a count can know."""

        base = "s390"

        def attach(self, iommu, domain):
            count = (iommu.recall("attaches") or 0) + 1
            iommu.remember("attaches", min(count, 3))
            if count >= 3:
                return iommu.bypass()
            return iommu.translate(domain)

    leak = shortest_leak("6.0", Third, depth=6)
    again = opening("6.0", Third).replay(leak.steps)
    attaches = again.events.query("name == 'attach_device_to_domain' and device == @leak.device")
    assert len(attaches) == 3
    assert again.hardware(leak.device).kind.value == "bypass"
    one_back = again.undo().replay(leak.steps[-1:])
    assert one_back.hardware(leak.device).kind.value == "bypass"


def test_what_is_remembered_of_a_domain_goes_when_it_is_freed():
    lab = Lab("6.0", AsQcomRemembers)
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    assert lab.state.notes[f"own:domain:{domain}"] == {"unit": True}
    lab.detach_device(domain, "dev0")
    lab.free_domain(domain)
    assert f"own:domain:{domain}" not in lab.state.notes


def test_what_is_remembered_of_a_device_goes_when_it_is_released():
    class Counting(OwnDriver):
        base = "intel"

        def attach(self, iommu, domain):
            iommu.remember("on", domain)
            iommu.translate(domain)

    lab = Lab("6.0", Counting)
    assert lab.state.notes["own:device:dev0"] == {"on": "default0"}
    lab.remove("dev0")
    assert "own:device:dev0" not in lab.state.notes


def test_two_domains_are_alike_only_to_a_driver_that_looks_at_no_name():
    class Favours(OwnDriver):
        base = "s390"

        def attach(self, iommu, domain):
            if domain.name == "dom2":
                return iommu.bypass()
            return iommu.translate(domain)

    def first_opened(made):
        walk = Walk(opening("6.0", made), 1)
        return {str(v.step) for v in walk if v.after and "dom2" in str(v.step)}

    domains = tuple(frozenset((name,)) for name in DOMAINS)
    assert domains in alike_names(opening("6.0", BlockingS390))
    assert domains not in alike_names(opening("6.0", Favours))
    assert "attach_device('dom2', 'dev0')" in first_opened(Favours)


# -- the records of the base -----------------------------------------------------------------------


def records(lab: Lab) -> dict[str, object]:
    """What the driver has on its books, whatever the hardware does."""
    state = lab.state
    return {
        "attached": {name: at.attached for name, at in state.devices.items()},
        "domains": {
            name: (sorted(d.users), d.ready, d.count, d.first, d.last)
            for name, d in state.domains.items()
        },
        "notes": dict(state.notes),
        "addresses": dict(state.iovas),
    }


def writable(release: str) -> list[tuple[str, str]]:
    return [pair for pair in drivers_and_arches(release) if pair[0] not in UNSUITED]


MOVES = (
    ("attach_group", "dom1"),
    ("detach_group", "dom1"),
    ("attach_group", "dom2"),
    ("replace_domain", "dom1"),
    ("replace_domain", "dom2"),
    ("attach_group", "dom1"),
)


def moves(release: str, made, arch: str) -> list[dict[str, object]]:
    """The books after each of several moves, as far as release and base take them."""
    lab = opening(release, made, arch)
    last = max(lab.state.groups, default=0)
    steps = [Step(verb, (domain, last)) for verb, domain in MOVES]
    return [records(lab.replay(steps[:done])) for done in range(1, len(steps) + 1)]


# Drivers whose attach does nothing the second time, refuses, or writes only the first table: a
# translation that is written each time leaves other records there, since it is another driver.
OTHERWISE = {"qcom_iommu", "omap", "sprd", "mtk", "mtk_v1"}


@pytest.mark.parametrize("release", ["5.15", "6.0", "6.3", "6.12", "7.2"])
def test_an_own_attach_leaves_the_records_that_the_base_leaves(release):
    for name, arch in writable(release):
        if name not in OTHERWISE:
            own = moves(release, plain_driver(name), arch)
            assert own == moves(release, name, arch), (name, arch)


def reached(release: str, made, arch: str) -> set[object]:
    """Belief, hardware and books of every state within two verbs."""
    walk = Walk(opening(release, made, arch), 2)
    states = [walk.state(v.after) for v in walk if v.after is not None]
    return {(s.groups, s.devices, s.hardware.entries, s.hardware.tables) for s in states}


@pytest.mark.parametrize("release", ["5.15", "6.0", "6.3"])
def test_asking_the_base_is_the_base(release):
    for name, arch in writable(release):
        row = driver(name, release)
        if not (row.detach or row.set_platform):
            continue
        own, base = (reached(release, d, arch) for d in (as_the_base(name), name))
        assert own == base, (name, arch)


@pytest.mark.parametrize("name", ["s390", "exynos", "ipmmu-vmsa", "rockchip", "tegra-smmu"])
def test_an_own_detach_leaves_the_records_that_the_base_leaves(name):
    for release in ("5.15", "6.0"):
        for arch in driver(name, release).arches:
            seen = []
            for made in (with_detach_like(name), name):
                lab = opening(release, made, arch)
                last = max(lab.state.groups)
                verbs = ("attach_group", "detach_group", "attach_group", "detach_group")
                lab = lab.replay(Step(verb, ("dom1", last)) for verb in verbs)
                seen.append((records(lab), dict(lab.state.hardware.entries)))
            assert seen[0] == seen[1], (name, release, arch)


def test_a_register_that_was_written_stays_written_when_its_bus_wakes():
    class Blocks(OwnDriver):
        base = "mtk"

        def blocking(self, iommu, domain):
            iommu.block()

    lab = Lab("6.0", Blocks, arch="arm32")
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    assert "pending:dev0" in lab.state.notes
    lab.claim_dma_owner(0, "user")
    lab.power_cycle("dev0")
    assert lab.hardware().kind.value == "blocked"


# -- across releases -------------------------------------------------------------------------------


def test_a_class_is_made_anew_for_another_release():
    lab = Lab("6.0", BlockingS390)
    lab.claim_dma_owner(0, "user")
    later = lab.under("7.2")
    assert later.driver.release == "7.2"
    assert later.driver.attach == driver("s390", "7.2").attach
    assert later.belief(0) is DomainType.BLOCKED


def test_a_class_gives_the_same_row_each_time():
    assert BlockingS390.as_driver("6.0") == BlockingS390.as_driver("6.0")
    assert BlockingS390.as_driver("6.0") != OpenAmd.as_driver("6.0")


def test_a_detach_takes_the_place_that_the_release_has_for_it():
    class Opens(OwnDriver):
        base = "s390"

        def detach(self, iommu, domain):
            iommu.bypass()

    assert Opens.as_driver("6.0").detach == "Opens.detach"
    assert Opens.as_driver("6.3").set_platform == "Opens.detach"
    for release in ("6.0", "6.3"):
        lab = Lab(release, Opens)
        domain = lab.alloc_domain()
        lab.attach_device(domain, "dev0")
        lab.detach_device(domain, "dev0")
        assert lab.hardware().kind.value == "bypass", release
    with pytest.raises(OwnDriverError, match=r"Linux 7\.2 never calls a detach of s390"):
        Lab("7.2", Opens)


def test_a_detach_that_looks_into_no_domain_crashes_as_the_patch_would():
    class Reads(OwnDriver):
        base = "exynos"

        def detach(self, iommu, domain):
            iommu.remember("last", domain.name)
            iommu.bypass()

    class Looks(Reads):
        def detach(self, iommu, domain):
            iommu.bypass()

    with pytest.raises(KernelCrash, match=r"Reads\.detach: handed no domain"):
        Lab("patch-v2", Reads, arch="arm32").claim_dma_owner(0, "user")
    lab = Lab("patch-v2", Looks, arch="arm32")
    lab.claim_dma_owner(0, "user")
    assert lab.hardware().kind.value == "bypass"


def test_a_domain_that_was_freed_and_is_programmed_is_a_crash_that_the_search_finds():
    class Holds(OwnDriver):
        base = "s390"

        def attach(self, iommu, domain):
            iommu.translate(domain)
            iommu.remember("last", domain)

        def detach(self, iommu, domain):
            iommu.translate(iommu.recall("last"))

        def blocking(self, iommu, domain):
            iommu.translate(iommu.recall("last"))

    crash = shortest("6.0", Holds, depth=5, kinds=["crash"])["crash"]
    assert crash.says.startswith("Holds.blocking: ")
    lab = Lab("6.0", Holds)
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    lab.detach_device(domain, "dev0")
    lab.free_domain(domain)
    with pytest.raises(KernelCrash, match="dom1 is freed, and its table is programmed"):
        lab.claim_dma_owner(0, "user")


def test_a_refusal_is_the_kernels_whichever_way_it_is_said():
    class Returns(OwnDriver):
        base = "s390"

        def attach(self, iommu, domain):
            return -errno.EBUSY

    class Raises(OwnDriver):
        base = "s390"

        def attach(self, iommu, domain):
            raise OSError(errno.EBUSY, "EBUSY: no room")

    for made in (Returns, Raises):
        lab = Lab("6.0", made)
        domain = lab.alloc_domain()
        with pytest.raises(OSError, match="EBUSY") as refusal:
            lab.attach_device(domain, "dev0")
        assert refusal.value.errno == errno.EBUSY
        assert lab.moments[-1].result == "EBUSY"


# -- one sentence for what can't be a driver -------------------------------------------------------


def made_of(**parts: object) -> type[OwnDriver]:
    return type("Mine", (OwnDriver,), {"base": "s390", **parts})


SEEN: list[str] = []


def blocking_that_appends(self, iommu, domain):
    SEEN.append(iommu.device)
    iommu.block()


async def later(self, iommu, domain):
    iommu.block()


class Elsewhere:
    count = 0


def keeps_a_count(self, iommu, domain):
    self.count = 1
    iommu.block()


def counts_in_the_module(self, iommu, domain):
    global COUNT
    COUNT = iommu.device
    iommu.block()


def counts_in_a_class(self, iommu, domain):
    Elsewhere.count += 1
    iommu.block()


def marks_the_registers(self, iommu, domain):
    iommu.count = 1
    iommu.block()


def counts_around_itself():
    count = 0

    def blocking(self, iommu, domain):
        nonlocal count
        count += 1
        iommu.block()

    return blocking


def appends_to_its_default(self, iommu, domain, seen=[]):  # noqa: B006
    iommu.block()


def has_a_variable_of_its_own(self, iommu, domain):
    count = 0

    def more():
        nonlocal count
        count += 1

    more()
    iommu.block()


class KeepsStatic(OwnDriver):
    @staticmethod
    def blocking(iommu, domain):
        Elsewhere.count = 1
        iommu.block()


WRONG = [
    (
        {"blocking": vars(KeepsStatic)["blocking"]},
        OwnDriverError,
        "Mine.blocking keeps 'count' outside",
    ),
    ({"blocking": keeps_a_count}, OwnDriverError, "Mine.blocking keeps 'count' outside of any"),
    ({"blocking": counts_in_the_module}, OwnDriverError, "keeps 'COUNT' outside of any"),
    ({"blocking": counts_in_a_class}, OwnDriverError, "Mine.blocking keeps 'count'"),
    ({"blocking": marks_the_registers}, OwnDriverError, "use iommu.remember('count', ...)"),
    ({"blocking": counts_around_itself()}, OwnDriverError, "Mine.blocking keeps 'count'"),
    (
        {"_note": keeps_a_count, "blocking": lambda self, iommu, domain: iommu.block()},
        OwnDriverError,
        "Mine._note keeps 'count'",
    ),
    (
        {"blocking": appends_to_its_default},
        OwnDriverError,
        "a default in Mine.blocking is a list and could change",
    ),
    (
        {"_seen": [], "blocking": lambda self, iommu, domain: iommu.block()},
        OwnDriverError,
        "Mine._seen is a list and could change outside of any state",
    ),
    ({}, OwnDriverError, "Mine defines none of attach, detach, blocking, identity"),
    ({"base": "exinos"}, UnknownName, "unknown driver 'exinos': nearest is exynos"),
    ({"base": "vsi"}, UnknownName, "driver 'vsi' is absent from 6.0: it is in 7.2"),
    ({"base": None}, OwnDriverError, "Mine.base is the name of a driver, got None"),
    ({"base": "msm"}, OwnDriverError, "msm can't be a base: each attach takes a context bank"),
    ({"atach": lambda self, iommu, domain: None}, UnknownName, "'atach': nearest are attach"),
    (
        {"attach": lambda self, domain: None},
        OwnDriverError,
        "Mine.attach takes (self, iommu, domain), yours takes (self, domain)",
    ),
    ({"attach": 3}, OwnDriverError, "Mine.attach is 3, and not a function"),
    ({"blocking": later}, OwnDriverError, "Mine.blocking has to run at once"),
    (
        {"blocking": blocking_that_appends},
        OwnDriverError,
        "SEEN, used in Mine.blocking, is a list and could change outside of any state",
    ),
    (
        {"seen": {}, "blocking": lambda self, iommu, domain: iommu.block()},
        OwnDriverError,
        "Mine.seen is a dict and could change outside of any state",
    ),
]


@pytest.mark.parametrize(("parts", "error", "says"), WRONG, ids=[row[2][:40] for row in WRONG])
def test_what_is_no_driver_is_refused_in_one_sentence(parts, error, says):
    with pytest.raises(error) as refusal:
        shortest_leak("6.0", made_of(**parts), depth=1)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("word", ["Base", "BASE", "bas"])
def test_a_base_that_is_misspelt_is_not_taken_for_s390(word):
    mine = type("Mine", (OwnDriver,), {word: "amd", "blocking": OwnDriver.blocking})
    with pytest.raises(OwnDriverError, match=f"Mine.{word} is nothing .*: write base = 'amd'"):
        Lab("6.0", mine)


def test_a_variable_that_ends_with_the_call_is_no_memory():
    made = made_of(blocking=has_a_variable_of_its_own, limit=3)
    assert verify_blocking(made, "6.0", depth=1, dmas=0)


def keeps_a_count_by_name(self, iommu, domain):
    setattr(self, "count", 1)  # noqa: B010
    iommu.block()


def returns_a_word(self, iommu, domain):
    iommu.block()
    return "done"


def divides(self, iommu, domain):
    return 1 // 0


def knows_no_errno(self, iommu, domain):
    raise OSError("no")


MISTAKES = [
    (lambda self, iommu, domain: None, "Mine.blocking wrote nothing to the hardware"),
    (divides, "Mine.blocking raised ZeroDivisionError: integer division or modulo by zero"),
    (
        keeps_a_count_by_name,
        "Mine keeps self.count, which is no part of a state: use iommu.remember",
    ),
    (lambda self, iommu, domain: iommu.block, "Mine.blocking returned block and did not call it"),
    (returns_a_word, "Mine.blocking returned 'done': return nothing, 0, or a negative errno"),
    (knows_no_errno, "Mine.blocking refuses with None, which is no errno"),
    (
        lambda self, iommu, domain: iommu.translate(domain),
        "Mine.blocking translates through Mine.blocked, and a domain of type BLOCKED has no page",
    ),
    (lambda self, iommu, domain: iommu.translate(7), "translate() takes a domain or its name"),
    (
        lambda self, iommu, domain: iommu.remember("seen", []),
        "remembers [] as 'seen': only texts, numbers, truth values and tuples",
    ),
    (lambda self, iommu, domain: iommu.remember(7, 1), "a memory has a word for a name, got 7"),
    (
        lambda self, iommu, domain: super(OwnDriver, self).blocking(iommu, domain),
        "Mine.blocking raised AttributeError",
    ),
    (OwnDriver.blocking, "s390 has no blocking of its own in Linux 6.0"),
]


@pytest.mark.parametrize(("blocking", "says"), MISTAKES, ids=[row[1][:40] for row in MISTAKES])
def test_a_mistake_in_a_method_is_told_in_one_sentence_and_changes_nothing(blocking, says):
    lab = Lab("6.0", made_of(blocking=blocking))
    with pytest.raises(OwnDriverError) as mistake:
        lab.claim_dma_owner(0, "user")
    assert says in str(mistake.value)
    assert "\n" not in str(mistake.value)
    assert len(lab.moments) == 1
    with pytest.raises(OwnDriverError):
        verify_blocking(made_of(blocking=blocking), "6.0", depth=1)


def test_a_detach_has_no_result():
    made = made_of(detach=lambda self, iommu, domain: -errno.EBUSY)
    lab = Lab("6.0", made)
    domain = lab.alloc_domain()
    lab.attach_device(domain, "dev0")
    with pytest.raises(OwnDriverError, match=r"Mine\.detach refuses"):
        lab.detach_device(domain, "dev0")


@pytest.mark.parametrize("wrong", [42, None, ["amd"]])
def test_what_is_neither_a_name_nor_a_class_is_said_so(wrong):
    with pytest.raises(TypeError, match="a driver is a name, or a class made from OwnDriver"):
        verify_blocking(wrong, "6.0")


def test_an_attach_that_was_made_to_fail_fails_before_the_readers_code():
    lab = Lab("6.0", BlockingS390)
    lab.fail_next_attach("dev0", "ENOMEM")
    with pytest.raises(OSError, match="ENOMEM"):
        lab.claim_dma_owner(0, "user")


def test_a_changed_row_is_still_a_row():
    row = replace(BlockingS390.as_driver("6.0"), name="other")
    assert verify_blocking(row, "6.0", depth=1, dmas=100)
