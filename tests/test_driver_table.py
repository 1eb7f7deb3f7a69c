"""Is the driver table whole: every word explained, every row sourced, no row out of its time?"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

DATA = Path(__file__).resolve().parents[1] / "data" / "drivers"
READ = ["5.10", "5.15", "5.19", "6.0", "6.1", "6.1.192", "6.2", "6.3", "6.4", "6.6", "6.7"]
READ += ["6.12", "6.12.117", "7.2"]
TYPES = {"DMA", "DMA_FQ", "UNMANAGED", "IDENTITY", "BLOCKED", "PLATFORM"}
EXPLAINED = ("identity", "blocked", "leave", "release_effect", "boot", "attach", "pagetable")
EXPLAINED += ("aperture_set",)

# Kconfig of the trees: everything else is there in every release that was read.
CAME = {"apple-dart": "5.15", "sprd": "5.15", "iommufd-selftest": "6.2"}
CAME |= {"powerpc-spapr-tce": "6.4", "riscv": "7.2", "vsi": "7.2"}
WENT = {"tegra-gart": "6.7"}


def table(name: str) -> list[dict[str, str]]:
    with open(DATA / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def history() -> dict:
    return tomllib.loads((DATA / "history.toml").read_text(encoding="utf-8"))


def make_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_table", DATA / "make_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROWS = table("drivers.csv")
AT = {(row["driver"], row["release"]): row for row in ROWS}
REAL = [row for row in ROWS if row["release"] in READ]


def of(release: str) -> dict[str, dict[str, str]]:
    return {row["driver"]: row for row in ROWS if row["release"] == release}


def test_the_table_is_what_the_history_spells_out():
    maker = make_table()
    assert maker.text(maker.rows(history())) == (DATA / "drivers.csv").read_text(encoding="utf-8")


def test_the_digests_in_the_source_note_are_those_of_the_files():
    said = dict(re.findall(r"`(\w+\.\w+)` ([0-9a-f]{64})", (DATA / "SOURCE.md").read_text()))
    assert set(said) == {"drivers.csv", "history.toml", "behaviours.csv", "verdicts.csv"}
    for name, digest in said.items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == digest, name


def test_no_driver_has_two_rows_for_a_release():
    assert len(AT) == len(ROWS)


@pytest.mark.parametrize("release", READ)
def test_a_release_has_exactly_the_drivers_of_its_time(release):
    now = READ.index(release)
    everyone = {row["driver"] for row in ROWS}
    there = {
        name
        for name in everyone
        if READ.index(CAME.get(name, "5.10")) <= now
        and (name not in WENT or now < READ.index(WENT[name]))
    }
    assert len(everyone) == 24
    assert set(of(release)) == there


@pytest.mark.parametrize("column", EXPLAINED)
def test_every_word_is_explained_once(column):
    words = [row["word"] for row in table("behaviours.csv") if row["column"] == column]
    assert len(words) == len(set(words))
    assert {row[column] for row in ROWS} - set(words) <= {""}


def test_every_explanation_says_where_it_was_read_and_how_sure_it_is():
    for row in table("behaviours.csv"):
        assert row["meaning"].endswith("."), row["word"]
        assert row["kernel_function"], row["word"]
        assert row["release_read"], row["word"]
        assert row["confidence"] in ("high", "medium", "low"), row["word"]


def test_every_row_says_what_was_read_where_and_how_sure_it_is():
    for row in ROWS:
        where = f"{row['driver']} {row['release']}"
        assert row["evidence"], where
        assert row["source_function"], where
        assert row["url"].startswith("https://git.kernel.org/"), where
        assert row["url"].endswith(f"/{row['source_file']}?h={row['tree']}"), where
        assert row["confidence"] in ("high", "medium", "low"), where
        assert (row["inference"] == "yes") == bool(row["inference_note"]), where


def test_types_and_numbers_can_be_read_back():
    for row in ROWS:
        named = [*row["accepts"].split(), row["required_type"], row["default_domain"]]
        assert {*named, row["release_domain"]} - {""} <= TYPES
        assert row["accepts"]
        first, last = int(row["aperture_first"], 16), int(row["aperture_last"], 16)
        assert 0 <= first <= last < 2**64
        pages = int(row["pgsizes"], 16)
        assert pages == 0 or pages & -pages >= 0x800


def test_a_blocked_domain_is_offered_exactly_where_its_making_is_named():
    for row in ROWS:
        for kind, how in (("BLOCKED", "blocked"), ("IDENTITY", "identity")):
            assert (kind in row["accepts"].split()) == bool(row[how]), row["driver"]


def test_the_ops_live_in_their_own_years():
    for row in REAL:
        at = READ.index(row["release"])
        if at >= READ.index("6.3"):
            assert not row["detach"], row["driver"]
        if row["set_platform"]:
            assert READ.index("6.3") <= at <= READ.index("6.6"), row["driver"]
        if row["default_domain"]:
            assert at >= READ.index("6.7"), row["driver"]
        if row["release_domain"]:
            assert at >= READ.index("6.12"), row["driver"]
        if row["arm32_default_null"] == "yes":
            assert at <= READ.index("6.6"), row["driver"]
            assert "arm32" in row["other_arch"], row["driver"]
            assert "DMA" in row["accepts"].split(), row["driver"]


def test_lazy_flushing_is_the_drivers_word_up_to_6_4_and_its_capability_later():
    for row in REAL:
        if READ.index(row["release"]) >= READ.index("6.6"):
            assert ("DMA_FQ" in row["accepts"].split()) == (row["deferred_flush"] == "yes")
        else:
            assert row["deferred_flush"] == "no"


def test_seventeen_drivers_had_a_detach_op_at_the_time_of_the_mail():
    assert sum(bool(row["detach"]) for row in of("6.0").values()) == 17


def test_the_patch_renames_every_detach_but_intels():
    renamed = {name for name, row in of("6.0").items() if row["detach"]} - {"intel"}
    assert set(of("patch-v2")) == renamed
    for name, row in of("patch-v2").items():
        assert row["blocked"] == "as-detach"
        assert not row["detach"]
        assert row["leave"] == of("6.0")[name]["leave"]


def test_the_plan_leaves_no_detach_op_and_calls_nothing_blocking_that_is_not():
    assert set(of("plan")) == {name for name, row in of("6.0").items() if row["detach"]}
    for name, row in of("plan").items():
        assert not row["detach"]
        if row["blocked"]:
            assert of("6.0")[name]["leave"] == "block", name
        if row["identity"] == "bypass" and not of("6.0")[name]["identity"]:
            assert of("6.0")[name]["leave"] == "bypass", name


def test_kernels_that_never_were_are_marked_as_inference():
    for row in ROWS:
        if row["release"] not in READ:
            assert row["inference"] == "yes"
            assert row["inference_note"].startswith("Hypothetical")
            assert row["measured"] == ""


def test_only_the_patch_is_asked_what_a_null_domain_does():
    for row in ROWS:
        assert bool(row["v2_null_crash"]) == (row["release"] == "patch-v2")
        assert bool(row["v2_null_note"]) == (row["release"] == "patch-v2")


def test_s390_says_what_was_measured_not_what_was_expected():
    row = AT["s390", "6.1.192"]
    assert row["leave"] == "platform-new-table"
    assert "QEMU" in row["measured"]


def test_a_verdict_cites_people_and_dates_and_no_private_tags():
    for row in table("verdicts.csv"):
        assert not re.search(r"LKML#|\b(LF|S390|PCI|PPC|SAMSUNG):[0-9a-f]{12}|SRC-\d", str(row))
        for source in re.split(r"; (?=[A-Z])", row["sources"]):
            assert re.match(r"[A-Z][\w. ]+, 20\d\d-\d\d-\d\d, ", source), source


def test_a_verdicts_effect_is_the_one_the_table_has_for_6_1():
    for row in table("verdicts.csv"):
        at = AT.get((row["driver"], "6.1"))
        assert row["programmed"] == (at["leave"] if at else "none"), row["driver"]


def test_whatever_the_history_says_of_a_release_was_not_so_before():
    told = history()
    order = list(told.pop("releases"))
    del told["hypothetical"]
    for driver, story in told.items():
        changes, alone = story.get("from", {}), story.get("only", {})
        first = min(changes, key=order.index)
        now = {key: value for key, value in story.items() if not isinstance(value, dict)}
        assert not set(now) & set(changes[first]), driver  # the first release would hide it
        for release in order:
            for change in (changes.get(release, {}), alone.get(release, {})):
                said = {key: value for key, value in change.items() if now.get(key, "") == value}
                assert not said, (driver, release)
            now |= changes.get(release, {})


def test_where_a_function_leaves_a_domain_the_row_says_what_it_leaves():
    for row in ROWS:
        named = row["detach"] or row["set_platform"] or row["default_domain"]
        called = bool(named) or "as-detach" in (row["identity"], row["blocked"])
        mock = row["driver"] == "iommufd-selftest" and row["default_domain"] == "BLOCKED"
        assert called == (row["leave"] != "none") or mock, (row["driver"], row["release"])


def test_a_change_in_a_release_that_was_not_read_is_refused():
    told = history()
    told["amd"]["from"]["6.5"] = {"blocked": "block"}
    with pytest.raises(ValueError, match=r"amd: .* got 6\.5"):
        make_table().rows(told)


def test_a_column_that_does_not_exist_is_refused():
    told = history()
    told["amd"]["from"]["6.3"]["colour"] = "blue"
    with pytest.raises(ValueError, match=r"amd 6\.3: no such column: colour"):
        make_table().rows(told)
