"""Does the matrix show the audit cell by cell, in colour and in grey, and is the picture new?"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_figures import pixels, share_of

from iommu_lab import audit, figures
from iommu_lab.errors import UnknownName
from iommu_lab.layout import Box, Text
from iommu_lab.matrix import LOOKS, describe_matrix, lay_out_matrix
from iommu_lab.threesteps import ENDS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", params=audit.AFTER)
def table(request):
    return audit.matrix(request.param)


@pytest.fixture(scope="module")
def picture():
    with Image.open(ROOT / "docs" / "matrix.png") as image:
        image.load()
        return image


def test_every_coloured_cell_is_the_audits_and_stands_in_its_row_and_column(table):
    marks = lay_out_matrix(table).marks
    rows = {m.text: m.y for m in marks if isinstance(m, Text) and m.text in table.index}
    columns = {m.text: m.x for m in marks if isinstance(m, Text) and m.text in table.columns}
    end_of = {look: end for end, look in LOOKS.items()}
    drawn = pd.DataFrame("", index=table.index, columns=table.columns)
    for box in (m for m in marks if isinstance(m, Box) and m.says):
        row = min(rows, key=lambda d: abs(rows[d] - (box.y + box.height)))
        column = min(columns, key=lambda r: abs(columns[r] - (box.x + box.width / 2)))
        end = end_of[box.fill, box.hatch]
        assert box.says == f"{row} {column}: {end}"
        drawn.loc[row, column] = end
    pd.testing.assert_frame_equal(drawn, table.where(table.isin(ENDS), ""))


def test_a_word_that_is_no_end_is_written_out():
    marks = lay_out_matrix(audit.matrix("claim")).marks
    words = {m.text for m in marks if isinstance(m, Text)}
    assert {"crash", "EBUSY"} <= words


def test_no_two_ends_share_a_colour_or_a_hatch():
    assert set(LOOKS) == set(ENDS)
    for part in zip(*LOOKS.values(), strict=True):
        assert len(set(part)) == len(ENDS)


def test_the_pixels_show_as_much_of_each_colour_as_the_table_has_cells():
    table, image = audit.matrix("claim"), pixels(figures.matrix("claim"))
    cells = {end: int((table == end).to_numpy().sum()) for end in ENDS}
    shares = {end: share_of(LOOKS[end][0], image) for end in ENDS if cells[end]}
    assert all(shares.values())
    assert max(shares, key=shares.get) == max(cells, key=cells.get) == "blocked"
    assert share_of(LOOKS["platform"][0], image) == 0


def test_the_hatch_is_drawn_so_that_grey_tells_blocked_from_bypassed():
    one = pd.DataFrame({"6.0": {"amd": "blocked", "exynos": "identity"}})
    image = pixels(figures.Drawing(figures.drawn(lay_out_matrix(one)), "")).mean(axis=-1)
    scale = image.shape[1] / figures.drawn(lay_out_matrix(one)).get_figwidth() / figures.DPI
    boxes = [m for m in lay_out_matrix(one).marks if isinstance(m, Box) and m.says]
    spread = []
    for box in boxes:
        x, y, w, h = ((v * scale) for v in (box.x + 6, box.y + 6, box.width, box.height))
        cell = image[int(y + 3) : int(y + h - 3), int(x + 3) : int(x + w - 3)]
        spread.append(float(np.ptp(cell)))
    assert spread[0] < 0.02 < 0.1 < spread[1]


def test_the_sentence_counts_what_the_table_has():
    says = describe_matrix(audit.matrix("leaving"), "leaving")
    assert "In Linux 6.0: identity 7, blocked 4, still translating 3," in says
    assert figures.matrix("leaving").says == says


def test_a_matrix_of_something_else_is_refused():
    with pytest.raises(UnknownName, match="unknown step 'clam': nearest"):
        audit.matrix("clam")


# -- the README's picture --------------------------------------------------------------------------


def test_the_picture_in_the_readme_was_drawn_from_the_audit_of_today(picture):
    import draw_matrix

    assert picture.text["Description"] == figures.matrix("leaving").says, "see docs/draw_matrix.py"
    assert picture.text["Comment"] == draw_matrix.digest(), "stale: run docs/draw_matrix.py"


def test_the_picture_has_the_size_of_a_fresh_one(picture):
    height, width, _ = pixels(figures.matrix("leaving")).shape
    assert picture.size == (width, height)


def test_the_readme_gives_the_pictures_sentence_as_its_alternative_text(picture):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    alt = re.search(r"!\[([^\]]*)\]\(docs/matrix\.png\)", readme)[1]
    assert re.sub(r"\s+", " ", alt) == picture.text["Description"]
