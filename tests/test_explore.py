"""The explorer connects: what is on screen is what the lab and the picture say."""

from datetime import UTC, datetime

import ipywidgets as widgets
import pytest

from iommu_lab import svg
from iommu_lab.explore import Explorer
from iommu_lab.lab import Lab
from iommu_lab.layout import lay_out
from iommu_lab.machine import Machine, Region
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
    lab = Lab("6.1", "intel", Machine(memory=(Region(0, 0xFFFF, evil),)).having(evil))
    explorer = Explorer(Scenario.from_lab(lab))
    press(explorer, "claim", "attach")
    assert "<img" not in shown(explorer) + explorer.says.value + explorer.events.value


def test_another_release_plays_the_same_steps():
    explorer = Explorer(Scenario("6.0", "exynos"))
    press(explorer, "claim")
    explorer.release.value = "patch-v2"
    assert explorer.scenario.release == "patch-v2"
    assert "reaches all of memory" in explorer.says.value


def test_a_release_without_the_driver_is_answered_in_words_and_nothing_changes():
    explorer = Explorer(Scenario("6.0", "tegra-gart"))
    press(explorer, "claim")
    before = explorer.scenario
    explorer.release.value = "7.2"
    assert "tegra-gart" in explorer.says.value
    assert "7.2" in explorer.says.value
    assert explorer.scenario == before
    assert explorer.release.value == "6.0"


def test_a_group_of_three_is_attached_as_a_group():
    explorer = Explorer(Scenario("6.1", "intel"))
    explorer.machine.value = explorer.machine.options[1]
    explorer.who.value = 3
    press(explorer, "claim", "attach", "map")
    group = explorer.lab.machine.groups[3]
    assert len(group) == 3
    assert {explorer.lab.hardware(d.name).domain for d in group} == {"dom1"}
    assert "Of the other 7 devices, 5 reach memory." in explorer.says.value


def test_what_lies_ahead_is_dropped_when_the_story_takes_another_turn():
    explorer = Explorer(Scenario("6.1", "amd"))
    press(explorer, "attach", "map", "back", "detach")
    assert [step.verb for step in explorer.lab.steps] == [
        "alloc_domain",
        "attach_device",
        "detach_device",
    ]


def test_the_slider_goes_to_any_step():
    explorer = Explorer()
    press(explorer, "attach", "map", "detach")
    explorer.step.value = 3
    assert explorer.lab.steps[-1].verb == "attach_device"
    assert explorer.scenario.at == 3


def test_an_address_from_the_dma_api_is_the_next_one_to_be_unmapped():
    explorer = Explorer(Scenario("6.1", "intel"))
    press(explorer, "dma_map")
    assert int(explorer.iova.value, 0) == 0xFFFF_F000
    press(explorer, "dma_unmap")
    assert "perhaps 4 KiB of driver buffer" in explorer.says.value
    press(explorer, "10 ms pass")
    assert "dev0 reaches nothing" in explorer.says.value


def test_a_file_is_opened_and_a_wrong_one_is_refused_by_its_name():
    explorer = Explorer()
    text = Scenario("6.0", "exynos", compare="patch-v2").dumps()
    upload(explorer, "mine.toml", text)
    assert (explorer.driver.value, explorer.beside.value) == ("exynos", "patch-v2")
    upload(explorer, "mine.toml", text.replace("exynos", "exinos"))
    assert "mine.toml: driver: unknown driver" in explorer.says.value
    assert explorer.scenario.driver == "exynos"


def upload(explorer, name, text):
    content = memoryview(text.encode())
    about = {"type": "", "size": len(content), "last_modified": datetime(2022, 8, 24, tzinfo=UTC)}
    explorer.upload.value = ({"name": name, "content": content, **about},)


def test_the_file_on_screen_follows_the_story():
    explorer = Explorer(Scenario("6.1", "amd"))
    explorer.as_file.value = True
    press(explorer, "claim")
    assert Scenario.loads(explorer.text.value) == explorer.scenario
    assert 'verb = "claim_dma_owner"' in explorer.text.value


def test_the_log_tells_every_step_with_what_happened_in_it():
    explorer = Explorer()
    press(explorer, "attach", "detach")
    assert "detach_device" in explorer.events.value
    assert "detach_device_from_domain" in explorer.events.value


def test_no_name_of_the_explorer_hides_one_that_widgets_need():
    mine = set(vars(Explorer())) - set(vars(widgets.VBox()))
    assert {name for name in mine if hasattr(widgets.VBox, name)} == set()
    assert {n for n in vars(Explorer) if n[:1] != "_" and hasattr(widgets.VBox, n)} == set()


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
    assert 'alt="Linux 6.1: The core believes' in bundle["text/html"]
    assert bundle["image/png"]
