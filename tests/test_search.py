"""Does the search find what is known, and leave out nothing that a plain search would find?"""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest

from iommu_lab import search
from iommu_lab.cli import main
from iommu_lab.datafiles import datafile
from iommu_lab.errors import KernelCrash, UnknownName
from iommu_lab.hardware import Frozen
from iommu_lab.lab import Lab, perform
from iommu_lab.search import LOOKS, Walk, alphabet, drivers_and_arches, opening, shortest
from iommu_lab.search.closed import Alike, may
from iommu_lab.search.memo import Remembered
from iommu_lab.search.nodes import KEPT, States, bits, put
from iommu_lab.search.result import first_of
from iommu_lab.state import State, World
from iommu_lab.tables import EMPTY, READ, Run


def values(state: State, users: bool) -> tuple[object, ...]:
    """A state by what the search keeps of it."""
    domains = {
        name: replace(d, users=tuple(sorted(d.users)) if users else ())
        for name, d in state.domains.items()
    }
    return (Frozen(domains), *(state.part(name) for name in KEPT if name != "domains"))


def plain_search(lab: Lab, depth: int, users: bool) -> tuple[set[object], int]:
    """Every state and the number of crashes, each verb run anew each time it is tried."""
    steps, crashes = alphabet(lab), 0
    seen, frontier = {(lab.kernel, values(lab.state, users))}, [(lab.kernel, lab.state)]
    for _ in range(depth):
        following = []
        for kernel, state in frontier:
            for step in steps:
                world = World(kernel, state)
                if not may(world, step):
                    continue
                try:
                    perform(step)(world)
                except KernelCrash:
                    crashes += 1
                    continue
                except OSError:
                    pass
                world.now_ms = 0.0
                after = (world.kernel, world.freeze())
                key = (after[0], values(after[1], users))
                if key not in seen:
                    seen.add(key)
                    following.append(after)
        frontier = following
    return seen, crashes


@pytest.mark.parametrize("release", ["5.15", "6.0", "patch-v2", "6.4", "7.2"])
def test_remembering_what_verbs_do_changes_no_state_and_no_crash(release):
    for name, arch in drivers_and_arches(release):
        lab = opening(release, name, arch)
        walk = Walk(lab, 2, alike=())
        crashes = sum(visit.effect.crash is not None for visit in walk)
        met = {
            (walk.states.kernel(p.node), values(walk.state(p), walk.states.users_matter))
            for p in walk._came
        }
        assert (met, crashes) == plain_search(lab, 2, walk.states.users_matter), (name, arch)


def test_an_answer_that_coined_a_name_after_looking_at_all_is_asked_for_again():
    states, asked = States(opening("6.0", "amd")), []

    def ask(world):
        asked.append(len(world.notes))
        world.notes.get("a new name")
        return len(world.notes)

    remembered = Remembered(states, ask)
    for _ in range(3):
        remembered(states.start)
    assert len(asked) == 2


def test_the_answer_about_a_thing_is_remembered_and_not_the_thing():
    states, asked = States(opening("6.0", "amd")), []

    def ask(world):
        asked.append(world)
        return world.where("groups", "dom1", "domain", "default")

    def with_group(**changes):
        group = replace(states.part(states.start, "groups")[0], **changes)
        return put(states.start, [states.number(("groups", 0), group)])

    remembered = Remembered(states, ask)
    others = with_group(owner="user"), with_group(domain="dom2"), with_group(domain="dom1")
    assert [remembered(node) for node in (states.start, *others)] == [[], [], [], [0]]
    assert len(asked) == 2


def test_what_was_written_unseen_is_a_change_though_it_was_there_already():
    states = States(opening("6.0", "amd"))

    def ask(world):
        if "default0" in world.tables:
            world.tables["default0"] = EMPTY
        return world.characters()

    remembered = Remembered(states, ask)
    full = EMPTY.insert(Run(0, 4096, 0, 12, READ))
    node = put(states.start, [states.number(("tables", "default0"), full)])
    for remember in (states.start, node):
        assert put(remember, remembered(remember)) == states.start


def test_an_answer_depends_on_what_was_looked_at_and_on_names_to_come_if_on_all():
    states = States(opening("6.0", "amd"))
    one = Remembered(states, lambda world: world.groups[0]).at(states.start).looked
    every = Remembered(states, lambda world: len(world.groups)).at(states.start).looked
    places = [states.place(("groups", 0)), states.place(("groups", 1)), states.place(("groups", 9))]
    assert [one & bits([place]) != 0 for place in places] == [True, False, False]
    assert [every & bits([place]) != 0 for place in places] == [True, True, True]


def lengths(lab: Lab, depth: int, alike: tuple[Alike, ...] | None) -> dict[str, int]:
    """How long the shortest way to each kind of finding is."""
    walk = Walk(lab, depth, alike=alike)
    looks = {kind: walk.remembered(first_of(look)) for kind, look in LOOKS.items()}
    found: dict[str, int] = {}
    for visit in walk:
        if visit.after is None:
            found.setdefault("crash", len(walk.path(visit.before)) + 1)
            continue
        for kind, look in looks.items():
            if kind not in found and look(visit.after.node) is not None:
                found[kind] = len(walk.path(visit.after))
    return found


@pytest.mark.parametrize(
    ("release", "name"),
    [("6.0", "mtk"), ("6.0", "msm"), ("6.0", "s390"), ("patch-v2", "qcom"), ("7.2", "omap")],
)
def test_taking_alike_names_in_order_loses_no_finding(release, name):
    lab = opening(release, name)
    assert lengths(lab, 3, None) == lengths(lab, 3, ())


KNOWN = [
    ("patch-v2", "exynos", "arm64", "leak", ["claim_dma_owner(0, 'user')"]),
    ("patch-v2", "s390", "s390x", "crash", ["claim_dma_owner(0, 'user')"]),
    (
        "6.0",
        "qcom",
        "arm64",
        "disagreement",
        ["attach_device('dom1', 'dev0')", "detach_device('dom1', 'dev0')"],
    ),
    ("6.0", "fsl_pamu", "ppc64", "leak", ["claim_dma_owner(0, 'user')"]),
    ("6.0", "tegra-gart", "arm32", "leak", ["claim_dma_owner(0, 'user')"]),
    (
        "6.4",
        "intel",
        "x86_64",
        "disagreement",
        ["attach_group('dom1', 0)", "late_join('dev3', 0)"],
    ),
]


@pytest.mark.parametrize(("release", "name", "arch", "kind", "steps"), KNOWN)
def test_the_shortest_way_to_what_is_known(release, name, arch, kind, steps):
    finding = shortest(release, name, arch, depth=3, kinds=[kind])[kind]
    assert finding is not None
    assert [str(step) for step in finding.steps] == steps


def test_sun50i_called_identity_keeps_the_old_table():
    finding = shortest("6.7", "sun50i", depth=1, kinds=["disagreement"])["disagreement"]
    assert [str(step) for step in finding.steps] == ["set_group_type(0, 'identity')"]
    assert "identity" in finding.says
    assert "default0" in finding.says


def test_mtk_gives_its_user_what_a_kernel_driver_mapped():
    finding = search.shortest_leak("6.0", "mtk", depth=4)
    assert finding is not None
    assert "driver buffer" in finding.says
    assert {"dma_map", "claim_dma_owner"} <= {step.verb for step in finding.steps}


@pytest.mark.parametrize("name", ["amd", "intel", "arm-smmu-v3", "exynos", "s390"])
def test_a_group_that_an_empty_table_stops_does_not_leak(name):
    assert search.shortest_leak("6.0", name, depth=4) is None


def test_a_finding_happens_when_its_steps_are_done_in_a_lab():
    result = shortest("patch-v2", "rockchip", depth=2)
    lab = opening("patch-v2", "rockchip").replay(result["leak"].steps)
    asked = lab.check({"device": ["dev0"], "iova": [0x0], "size": [64], "write": [True]})
    assert lab.state.groups[0].owner == "user"
    assert asked.owner.tolist() == ["kernel"]


def test_every_verb_of_the_face_is_tried_where_the_release_has_it():
    always = {"attach_device", "attach_group", "detach_device", "detach_group", "map", "unmap"}
    always |= {"bind", "unbind", "probe", "remove", "late_join", "dma_map", "dma_unmap"}
    always |= {"advance", "set_bus_master", "set_group_type", "power_cycle", "free_domain"}
    owned = {"claim_dma_owner", "release_dma_owner", "use_default_domain", "unuse_default_domain"}
    verbs = {r: {s.verb for s in alphabet(opening(r, "intel"))} for r in ("5.15", "6.0", "7.2")}
    assert verbs["5.15"] == always
    assert verbs["6.0"] == always | owned
    assert verbs["7.2"] == always | owned | {
        "claim_device",
        "release_device_owner",
        "replace_domain",
    }


def test_a_search_says_the_same_each_time():
    once, again = (shortest("6.7", "mtk", depth=3) for _ in range(2))
    assert (once.findings, once.states, once.verbs) == (again.findings, again.states, again.verbs)


def test_a_budget_that_is_spent_says_how_far_the_search_came():
    told = []
    result = shortest("6.0", "amd", depth=6, seconds=0.2, progress=lambda *at: told.append(at))
    assert 0 < result.depth < 6
    assert told[0][0] == 1


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ({"depth": 0}, "a search is 1 verb deep or more, a whole number: got 0"),
        ({"depth": "4"}, "a search is 1 verb deep or more, a whole number: got '4'"),
        ({"depth": 2.5}, "a search is 1 verb deep or more, a whole number: got 2.5"),
        ({"seconds": None}, "a search has a number of seconds, 0 or more: got None"),
        ({"seconds": -1}, "a search has a number of seconds, 0 or more: got -1"),
        ({"seconds": float("nan")}, "a search has a number of seconds, 0 or more: got nan"),
    ],
)
def test_a_budget_that_is_none_is_refused_and_nothing_is_said_to_hold(budget, says):
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        shortest("6.0", "amd", **budget)


def test_the_command_refuses_what_it_could_not_finish_before_it_searches(tmp_path, capsys):
    nowhere = tmp_path / "absent" / "table.csv"
    for words in (["--driver", "amd", "--depth", "0"], ["--all", str(nowhere)]):
        with pytest.raises(SystemExit, match="2"):
            main(["search", *words])
    said = capsys.readouterr().err
    assert "got 0" in said
    assert f"{nowhere}: No such file or directory" in said


def test_one_kind_of_finding_needs_no_list():
    assert shortest("6.0", "mtk", depth=1, kinds="crash")["crash"] is not None


def test_an_unknown_kind_of_finding_is_refused_by_name():
    with pytest.raises(UnknownName, match="unknown finding 'leek': nearest is leak"):
        shortest("6.0", "amd", kinds=["leek"])


SAMPLE = [
    ("5.19", "tegra-smmu", "arm32"),
    ("6.0", "mtk", "arm64"),
    ("patch-v2", "rockchip", "arm64"),
    ("patch-v2", "s390", "s390x"),
    ("plan", "fsl_pamu", "ppc64"),
    ("6.3", "omap", "arm32"),
    ("6.7", "sun50i", "arm64"),
    ("7.2", "qcom_iommu", "arm64"),
]


@pytest.mark.parametrize(("release", "name", "arch"), SAMPLE)
def test_a_row_of_the_table_comes_out_the_same_again(release, name, arch):
    kept = pd.read_csv(datafile("search", "search.csv"), keep_default_na=False)
    row = kept[(kept.release == release) & (kept.driver == name) & (kept.arch == arch)]
    again = search.survey_row((release, name, arch, 4, 600.0))
    timed = row.to_dict("records")[0]
    assert timed.pop("seconds") > 0
    assert again.pop("seconds") > 0
    assert timed == again


def test_the_table_has_every_driver_of_every_design_and_no_search_that_was_cut_short():
    kept = pd.read_csv(datafile("search", "search.csv"), keep_default_na=False)
    wanted = [(r, *row) for r in search.DESIGNS for row in drivers_and_arches(r)]
    assert list(zip(kept.release, kept.driver, kept.arch, strict=True)) == wanted
    everything = kept[list(search.FINDINGS)].gt(0).all(axis="columns")
    assert (kept.depth.eq(4) | everything).all()
