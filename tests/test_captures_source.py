"""Are the shipped captures the ones the catalogue names, whole and unchanged?"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "captures"))

import chance

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "data" / "captures"
SCRIPTS = ROOT / "captures" / "scripts"
COMPANIONS = {".out", ".log", ".cmd", ".qemu"}


@pytest.fixture(scope="module")
def catalogue() -> dict[str, str]:
    """The MACHINE line of each capture in the catalogue, by the name of its transcript."""
    listing = subprocess.run(
        [sys.executable, str(ROOT / "captures" / "make.py"), "--list"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(line.split(" ", 1) for line in listing.splitlines())


def transcripts() -> list[Path]:
    return sorted(path for path in SHIPPED.iterdir() if path.suffix in (".out", ".log"))


def test_every_capture_of_the_catalogue_is_shipped_and_no_other(catalogue: dict[str, str]):
    assert {path.name for path in transcripts()} == set(catalogue)


def test_each_transcript_begins_with_the_machine_of_its_catalogue_entry(catalogue: dict[str, str]):
    first = {path.name: path.read_text("utf-8").split("\n", 1)[0] for path in transcripts()}
    assert first == catalogue


@pytest.mark.parametrize("path", transcripts(), ids=lambda path: path.name)
def test_a_transcript_ends_where_the_guest_was_done(path: Path):
    last = path.read_text("utf-8").splitlines()[-1]
    assert re.search(r"^DONE uptime=|attachlab-init DONE$", last)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.out")), ids=lambda path: path.name)
def test_a_transcript_has_every_step_of_its_script(path: Path):
    text = path.read_text("utf-8")
    steps = re.findall(r"^STEP \d+: (.*?)(?: phys=0x\w+)?$", text, re.M)
    name = re.search(r"^MACHINE .*topology=(\S+) script=(\S+)", text)
    assert name
    if name[2].startswith("chance-"):
        # Where a change of chance.py is meant, these are made again.
        script = chance.text(name[2], name[1], iommufd="iommufd" in steps)
    else:
        script = (SCRIPTS / f"{name[2]}.txt").read_text("utf-8")
    assert steps == [line for line in script.splitlines() if line.split("#")[0].strip()]


def test_the_digests_are_those_of_the_files():
    recorded = dict(
        reversed(line.split("  ")) for line in (SHIPPED / "SHA256SUMS").read_text().splitlines()
    )
    files = [path for path in SHIPPED.iterdir() if path.suffix in COMPANIONS]
    assert recorded == {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_source_names_each_transcript_with_its_kernel_and_digest():
    source = (SHIPPED / "SOURCE.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\S+) \| `(\S+) (\S+)` \| `(\w{64})` \|$", source, re.M)
    recorded = {file: digest for file, _, _, _, digest in rows}
    assert recorded == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in transcripts()}
    for file, made, package, version, _ in rows:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", made), file
        assert f"| `{package}` | `{version}` |" in source, file
        text = (SHIPPED / file).read_text("utf-8")
        # A kernel built from a source package is called by its upstream version alone.
        built = package.startswith("linux-source-")
        name = version.partition("-")[0] if built else package.removeprefix("linux-image-")
        assert f"uname={name} " in text, file


def test_the_captures_stay_small():
    sizes = {path.name: path.stat().st_size for path in SHIPPED.iterdir()}
    assert max(sizes.values()) < 100_000
    assert sum(sizes.values()) < 5_000_000
