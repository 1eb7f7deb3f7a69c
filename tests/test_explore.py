"""The explorer connects: what is on screen is what the lab and the picture say."""

import pytest

from iommu_lab import svg
from iommu_lab.explore import Explorer
from iommu_lab.lab import Lab
from iommu_lab.layout import lay_out
from iommu_lab.picture import describe
from iommu_lab.scenario import Scenario


def press(explorer, *names):
    for name in names:
        explorer.buttons[name].click()


def shown(explorer):
    return explorer.shown.value


def test_a_button_calls_its_verb_and_shows_that_states_own_picture():
    explorer = Explorer(Scenario("6.0", "exynos"))
    press(explorer, "claim")
    lab = Lab("6.0", "exynos")
    lab.claim_dma_owner(0, "vfio")
    assert explorer.lab.state == lab.state
    alone = describe(lab)
    assert shown(explorer) == svg.draw(lay_out(explorer.picture), alone.says, explorer._prefix)
    assert "dev0 reaches nothing" in explorer.says.value


def test_s390_attached_and_detached_ends_with_the_platform():
    explorer = Explorer()
    press(explorer, "attach", "detach")
    assert explorer.lab.hardware("dev0").kind == "platform"
    assert explorer.lab.belief(0) is None


def test_stepping_back_and_forth_gives_the_identical_picture():
    explorer = Explorer()
    first = shown(explorer)
    press(explorer, "attach")
    after = shown(explorer)
    assert after != first
    press(explorer, "back", "back")
    assert shown(explorer) != after
    press(explorer, "forward", "forward")
    assert shown(explorer) == after


def test_the_same_steps_under_the_patch_show_the_crash_beside():
    explorer = Explorer(Scenario("6.0", "s390", compare="patch-v2"))
    press(explorer, "claim")
    assert "patch-v2" in explorer.says.value
    assert "s390_iommu_detach_device" in explorer.says.value


def test_a_refusal_is_a_sentence_and_a_step():
    explorer = Explorer(Scenario("6.1", "intel"))
    press(explorer, "claim", "claim")
    assert "EPERM" in explorer.says.value
    assert len(explorer.lab.steps) == 2


def test_a_verb_that_the_release_lacks_is_a_sentence_too():
    explorer = Explorer(Scenario("5.15", "intel"))
    press(explorer, "claim")
    assert "5.15" in explorer.says.value


def test_what_is_no_address_is_refused_in_words_and_nothing_changes():
    explorer = Explorer()
    before = explorer.lab.state
    explorer.iova.value = "pages"
    press(explorer, "map")
    assert "pages" in explorer.says.value
    assert explorer.lab.state == before


def test_a_scenario_comes_back_as_it_was_sent():
    explorer = Explorer()
    press(explorer, "attach", "map", "detach")
    again = Explorer(Scenario.loads(explorer.scenario.dumps()))
    assert again.lab.state == explorer.lab.state
    assert again.picture == explorer.picture


def test_a_text_that_is_no_scenario_leaves_the_explorer_as_it_is():
    explorer = Explorer()
    before = explorer.scenario
    explorer.as_file.value = True
    explorer.text.value = "schema = 'something else'"
    press(explorer, "Open this text")
    assert explorer.scenario == before
    assert "schema" in explorer.says.value


def test_names_from_a_file_are_text_on_the_page():
    evil = "<img src=x onerror=alert(1)>"
    text = Explorer().scenario.dumps()
    lab = Lab("6.1", "intel").machine.having("a", "b")
    machine = Lab("6.1", "intel", machine=lab.having(evil))
    explorer = Explorer(Scenario.from_lab(machine))
    assert "<img" not in shown(explorer) + explorer.says.value + explorer.events.value
    assert "schema" in text


@pytest.mark.parametrize("driver", ["s390", "exynos", "mtk", "tegra-gart", "fsl_pamu", "sprd"])
def test_every_button_can_be_pressed_on_any_driver(driver):
    explorer = Explorer(Scenario("6.0", driver, compare="6.3"))
    for name in explorer.buttons:
        if name not in ("Open this text",):
            press(explorer, name)
    assert "<svg" in shown(explorer)


def test_the_still_picture_is_there_for_readers_without_a_kernel():
    bundle = Explorer()._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert any(kind in bundle for kind in ("image/png", "text/html"))
