"""Are the lessons' still figures pictures of the model, with their sentence, in any theme?"""

from __future__ import annotations

import io
import itertools
import re

import numpy as np
import pandas as pd
from matplotlib.image import imread

from iommu_lab import figures
from iommu_lab.captures import dmas
from iommu_lab.datafiles import datafile
from iommu_lab.lab import Lab
from iommu_lab.layout import OWNERS
from iommu_lab.machine import Machine
from iommu_lab.picture import describe


def claimed(release):
    lab = Lab(release, "exynos")
    lab.claim_dma_owner(0, "vfio")
    return lab


def pixels(drawing):
    return imread(io.BytesIO(drawing.png()))[..., :3]


def share_of(colour, image):
    """How much of an image has this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return float((np.abs(image - wanted).max(axis=-1) < 0.02).mean())


def test_the_still_says_what_the_picture_says():
    lab = claimed("patch-v2")
    assert figures.reach(lab).says == describe(lab).says


def test_a_blocked_device_shows_no_ones_memory_and_a_bypassing_one_shows_it_all():
    blocked, bypassing = (pixels(figures.reach(claimed(r))) for r in ("6.0", "patch-v2"))
    for colour, _ in OWNERS[:4]:
        assert share_of(colour, bypassing) > 10 * share_of(colour, blocked)


def test_in_grey_what_gets_through_is_still_darker_than_what_is_stopped():
    blocked, bypassing = (
        pixels(figures.reach(claimed(r))).mean(axis=-1) for r in ("6.0", "patch-v2")
    )
    assert (bypassing < 0.85).mean() > 2 * (blocked < 0.85).mean()


def test_two_drawings_of_one_lab_are_the_same_bytes():
    lab = claimed("6.0")
    assert figures.reach(lab).png() == figures.reach(lab).png()


def test_it_carries_its_sentence_wherever_it_is_shown():
    drawing = figures.reach(claimed("patch-v2"), beside="6.0")
    bundle = drawing._repr_mimebundle_()
    assert bundle["text/plain"] == drawing.says
    assert re.search(r'alt="Linux patch-v2: The core believes [^"]+"', bundle["text/html"])
    assert bundle["image/png"] in bundle["text/html"]


def test_a_story_has_two_lanes_for_each_device_and_says_where_they_differ():
    lab = Lab("patch-v2", "exynos", Machine().having("nic", "gpu"))
    lab.claim_dma_owner(0, "vfio")
    drawing = figures.believed_and_done(lab)
    texts = [text.get_text() for axes in drawing.figure.axes for text in axes.texts]
    assert texts.count("believed") == texts.count("done") == 2
    assert texts.count("≠") == 1
    assert "nic reaches all of memory" in drawing.says


def test_a_long_story_is_wider_and_loses_no_step():
    lab = Lab("6.1", "s390")
    for _ in range(20):
        lab.dma_map("dev0", 0x8000_0000, 0x1000)
    drawing = figures.believed_and_done(lab)
    texts = [text.get_text() for axes in drawing.figure.axes for text in axes.texts]
    assert {str(n) for n in range(1, 21)} <= set(texts)


def test_a_name_that_looks_like_mathematics_is_drawn_as_it_is():
    lab = Lab("6.1", "s390", Machine().having("$dev^0$", "b"))
    assert figures.reach(lab).png()


def lives(*names):
    table = pd.concat(dmas(datafile("captures", f"{name}.out")) for name in names)
    return table, {
        "S04-group-fd-open-phys": "opened",
        "S05": "claimed",
    }


def test_transcripts_stand_below_one_another_and_the_sentence_says_where_they_part():
    drawing = figures.in_each_kernel(*lives("core-5.10-pt", "core-6.1-pt", "core-6.12-pt"))
    assert drawing.says == (
        "opened: lands (bypass) in all; claimed: core-5.10-pt lands (bypass), "
        "core-6.1-pt stopped (a page table, 0x5), core-6.12-pt stopped (no entry, 0x2)."
    )


def test_what_a_claimed_device_meets_can_be_told_in_grey():
    names = ("core-5.10-pt", "core-6.12-pt", "core-6.1-pt")
    drawn = [pixels(figures.in_each_kernel(*lives(name))).mean(axis=-1) for name in names]
    strips = [image[62:104, 698:709] for image in drawn]  # beside the words of the second column
    for one, other in itertools.combinations(strips, 2):
        assert np.abs(one - other).mean() > 0.05
