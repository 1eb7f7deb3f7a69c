"""Does the audit find by running the model what the thread argued about?"""

from __future__ import annotations

import pytest

from iommu_lab import audit, behaviours
from iommu_lab.cli import main
from iommu_lab.contracts import verify_blocking
from iommu_lab.hardware import BYPASS
from iommu_lab.own import OwnDriver


@pytest.fixture(scope="module")
def table():
    return audit.table("6.0").set_index("driver")


def test_offering_a_default_domain_is_not_setting_one(table):
    broken = table[table.offers & table.not_set_on.str.contains("arm32") & table.function.ne("")]
    assert {"exynos", "rockchip", "qcom_iommu", "ipmmu-vmsa", "mtk", "sun50i"} == set(broken.index)
    assert broken.reachable.all()
    assert (broken.verdict != broken.as_worded).all()


def test_a_driver_may_have_a_default_that_it_never_offered(table):
    assert not table.offers["mtk_v1"]
    assert table.set_on["mtk_v1"] == "arm32"


def test_where_a_default_is_always_set_the_function_is_never_called(table):
    settled = table[table.not_set_on.eq("") & table.function.ne("")]
    assert {"amd", "intel", "apple-dart", "sprd"} <= set(settled.index)
    assert not settled.reachable.any()


def test_the_advice_follows_from_where_the_function_leaves_the_device(table):
    assert table.verdict["amd"] == "real blocking domain"
    assert table.as_worded["exynos"] == "identity domain"
    assert table.verdict["s390"] == "rename to set_platform_dma"
    assert table.verdict["sprd"] == "unknown"


@pytest.mark.parametrize(
    ("name", "now", "patched"),
    [
        ("exynos", "blocked", "identity"),
        ("rockchip", "blocked", "identity"),
        ("s390", "blocked", "crash"),
        ("fsl_pamu", "identity", "crash"),
        ("amd", "blocked", "blocked"),
    ],
)
def test_what_a_claim_gave_and_what_it_would_have_given(name, now, patched):
    assert audit.after_claim("6.0", name) == now
    assert audit.after_claim("patch-v2", name) == patched


@pytest.mark.parametrize(("name", "release"), [("amd", "6.0"), ("s390", "6.0"), ("intel", "7.2")])
def test_the_blocking_contract_holds_where_the_hardware_blocks(name, release):
    contract = audit.verify_blocking(name, release, depth=3, dmas=200_000)
    assert contract
    assert "every order of up to 3 verbs" in str(contract)


def test_a_blocking_domain_that_bypasses_is_found_in_one_step(monkeypatch):
    assert audit.verify_blocking("amd", "6.0", depth=2, dmas=10_000)
    monkeypatch.setitem(behaviours.ATTACH, "leaves-first", lambda w, _, d: w.program(d, BYPASS))
    contract = audit.verify_blocking("amd", "6.0", depth=2, dmas=10_000)
    assert not contract
    assert contract.counterexample.kind == "leak"
    assert [step.verb for step in contract.counterexample.steps] == ["claim_dma_owner"]


def test_a_detach_that_bypasses_breaks_the_transition_rule(monkeypatch):
    assert audit.verify_transition("amd", "6.0", depth=2)
    monkeypatch.setitem(behaviours.LEAVE, "block", lambda w, d: w.program(d, BYPASS))
    contract = audit.verify_transition("amd", "6.0", depth=2)
    assert not contract
    assert "bypass" in contract.counterexample.says


def test_a_switch_that_was_never_made_proves_nothing():
    contract = audit.verify_transition("amd", "6.0", seconds=0)
    assert not contract
    assert contract.counterexample is None
    assert "never put to it" in str(contract)


def test_exynos_passes_through_bypass_at_every_switch():
    contract = audit.verify_transition("exynos", "7.2", depth=1)
    assert not contract
    assert len(contract.counterexample.steps) == 1


def test_nobody_knows_what_sprd_does_when_it_is_switched_off():
    contract = audit.verify_blocking("sprd", "patch-v2", depth=2, dmas=1_000)
    assert not contract
    assert contract.counterexample.kind == "undecided"


def test_the_contract_says_the_same_each_time():
    once, again = (audit.verify_blocking("mtk", "6.0", depth=4, dmas=20_000) for _ in range(2))
    assert once == again


def test_a_promise_that_is_never_given_neither_holds_nor_breaks():
    contract = audit.verify_blocking("s390", "patch-v2", depth=2, dmas=1_000)
    assert not contract
    assert contract.counterexample is None
    assert "was never put to it:\n  no claimed group is believed blocked" in str(contract)


def test_a_driver_of_ones_own_is_held_to_its_promise():
    class Slipped(OwnDriver):
        base = "amd"

        def blocking(self, iommu, domain):
            iommu.bypass()

    contract = audit.verify_blocking(Slipped, "6.0", depth=3, dmas=1_000)
    assert not contract
    assert (contract.driver, len(contract.counterexample.steps)) == ("Slipped", 1)


def test_the_command_prints_a_table_a_card_and_a_matrix(capsys):
    for argv, words in (
        (["--release", "6.0"], ("s390", "rename to set_platform_dma", "real blocking domain")),
        (["exynos"], ("exynos in Linux 6.0", "removed but for arm32")),
        (["--driver", "exynos", "--release", "6.3"], ("exynos in Linux 6.3",)),
        (["--matrix", "claim"], ("patch-v2", "crash")),
    ):
        assert audit.main(argv) == 0
        printed = capsys.readouterr().out
        assert [word for word in words if word not in printed] == []


def test_the_command_answers_one_question_at_a_time(capsys):
    for words in (["amd", "--matrix", "claim"], ["amd", "--driver", "s390"]):
        with pytest.raises(SystemExit, match="2"):
            main(["audit", *words])
        assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("dmas", [1e6, -1, "many"])
def test_a_number_of_dmas_is_a_whole_number(dmas):
    with pytest.raises(ValueError, match="dmas is how many to make, a whole number: got "):
        verify_blocking("amd", "6.0", dmas=dmas)
