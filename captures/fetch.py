"""Debian's kernels and what belongs to them: resolved by suite, unpacked, never installed.

A suite is asked for its *current* kernel through the metapackage (``linux-image-amd64``), because
point releases move on and old ones leave the archive: the version is an answer of this file, never
an input. The questions go through an apt configuration of their own, in the build folder, so that
the machine's package lists and its installed packages are neither used nor changed. Mirror and
keyring are the machine's own, read from its apt sources; ``IOMMU_LAB_MIRROR`` and
``IOMMU_LAB_KEYRING`` replace them on a machine that is not a Debian.

Where it stops: a package is trusted as far as apt trusts the suite it came from; the digest that
is recorded is for a reader who wants the same bytes, not for checking them.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import where


class Mirror(NamedTuple):
    """One archive a suite can be fetched from: its address and the keyring that signs it."""

    address: str
    keyring: str


class Package(NamedTuple):
    """A downloaded package: what a reader needs to get the same one."""

    name: str
    version: str
    sha256: str


class Unpacked(NamedTuple):
    """A folder that packages were unpacked into, and which ones they were."""

    root: Path
    packages: tuple[Package, ...]


class CannotFetch(RuntimeError):
    """The archive has no such package, or this machine cannot ask it."""


def _stanzas(text: str) -> Iterable[dict[str, str]]:
    """The stanzas of a deb822 sources file, comments left out."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        fields = re.findall(r"^(\S+):\s*(.+)$", "\n".join(lines), re.M)
        if fields:
            yield {name.lower(): value.strip() for name, value in fields}


def _one_line_sources(text: str) -> Iterable[dict[str, str]]:
    """The lines of an old-style sources.list, as stanzas."""
    for line in text.splitlines():
        found = re.match(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)", line)
        if found:
            signed = re.search(r"signed-by=(\S+)", found["options"] or "")
            stanza = {"uris": found["uri"], "suites": found["suite"]}
            yield stanza | ({"signed-by": signed[1]} if signed else {})


def mirrors() -> tuple[Mirror, Mirror | None]:
    """The machine's own Debian mirror, and its mirror of the security archive if it has one."""
    fallback = "/usr/share/keyrings/debian-archive-keyring.gpg"
    keyring = os.environ.get("IOMMU_LAB_KEYRING")
    if address := os.environ.get("IOMMU_LAB_MIRROR"):
        security = address.rstrip("/") + "-security"
        return Mirror(address, keyring or fallback), Mirror(security, keyring or fallback)
    etc = Path("/etc/apt")
    stanzas: list[dict[str, str]] = []
    for path in sorted(etc.glob("sources.list.d/*.sources")):
        stanzas += _stanzas(path.read_text(encoding="utf-8"))
    for path in [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))]:
        if path.exists():
            stanzas += _one_line_sources(path.read_text(encoding="utf-8"))
    main: Mirror | None = None
    security_mirror: Mirror | None = None
    for stanza in stanzas:
        address = stanza.get("uris", "").split(" ")[0]
        ours = "debian" in address or "debian" in stanza.get("signed-by", "")
        if not ours or address.startswith(("file:", "cdrom:")):
            continue
        mirror = Mirror(address, keyring or stanza.get("signed-by", fallback))
        if "-security" in stanza.get("suites", ""):
            security_mirror = security_mirror or mirror
        else:
            main = main or mirror
    if main is None:
        raise CannotFetch(
            "no Debian mirror among this machine's apt sources; run on Debian or in a Debian "
            "container, or set IOMMU_LAB_MIRROR and IOMMU_LAB_KEYRING"
        )
    return main, security_mirror


class Archive:
    """One suite for one architecture, asked through an apt configuration of its own."""

    offline = False
    """Is what was fetched before all there is? Then an archive that must be asked says so."""

    def __init__(self, suite: str, arch: str) -> None:
        self.suite, self.arch = suite, arch
        self.folder = where.build() / "apt" / f"{suite}-{arch}"
        self._ready = False

    def __repr__(self) -> str:
        return f"{self.suite} ({self.arch})"

    def _options(self) -> list[str]:
        folder = self.folder
        settings = {
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::Lists": folder / "lists",
            "Dir::Cache": folder / "cache",
            "Dir::State::status": "/dev/null",
            "APT::Architecture": self.arch,
            "APT::Architectures": self.arch,
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        pairs = (("-o", f"{name}={value}") for name, value in settings.items())
        return ["-qq", *itertools.chain.from_iterable(pairs)]

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        words = [command[0], *self._options(), *command[1:]]
        done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, timeout=900)
        if done.returncode:
            raise CannotFetch(f"{' '.join(command)} in {self}: {done.stderr.strip()}")
        return done.stdout

    def _update(self) -> None:
        if self._ready:
            return
        if Archive.offline:
            raise CannotFetch(f"not all that it needs from Debian's {self} was fetched before")
        main, security = mirrors()
        for name in ("lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        lines = [f"deb [signed-by={main.keyring}] {main.address} {self.suite} main"]
        if security and self.suite not in ("sid", "unstable"):
            suite = f"{self.suite}-security"
            lines.append(f"deb [signed-by={security.keyring}] {security.address} {suite} main")
        (self.folder / "sources.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._run("apt-get", "update")
        self._ready = True

    def depends(self, package: str) -> list[str]:
        """The packages a package depends on, as the archive names them."""
        self._update()
        out = self._run("apt-cache", "depends", package)
        return re.findall(r"^\s+(?:Pre)?Depends: (\S+)$", out, re.M)

    def newest(self, package: str) -> str:
        """The package a metapackage stands for: ``linux-image-6.1.0-…`` of ``linux-image-…``."""
        stem = re.match(r"[a-z-]*-", package)
        versioned = re.compile(re.escape(stem[0]) + r"\d") if stem else re.compile("$")
        found = [name for name in self.depends(package) if versioned.match(name)]
        if not found:
            raise CannotFetch(f"{package} in {self} names no versioned package")
        return found[0]

    def download(self, packages: Iterable[str], into: Path) -> tuple[Package, ...]:
        """Download packages and unpack them below ``into``."""
        self._update()
        drop = self.folder / "drop"
        shutil.rmtree(drop, ignore_errors=True)
        drop.mkdir(parents=True)
        self._run("apt-get", "download", *packages, cwd=drop)
        got = []
        for deb in sorted(drop.glob("*.deb")):
            digest = hashlib.sha256(deb.read_bytes()).hexdigest()
            show = ["dpkg-deb", "--show", "--showformat=${Package} ${Version}", str(deb)]
            name, version = subprocess.run(
                show, check=True, capture_output=True, text=True
            ).stdout.split()
            subprocess.run(["dpkg", "-x", str(deb), str(into)], check=True)
            got.append(Package(name, version, digest))
        shutil.rmtree(drop)
        return tuple(got)


def unpack_once(root: Path, fill: Callable[[Path], tuple[Package, ...]]) -> Unpacked:
    """Fill a folder the first time it is asked for; the list of packages is written last."""
    listing = root / "packages.json"
    if not listing.exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        packages = fill(root)
        listing.write_text(json.dumps(packages, indent=1) + "\n", encoding="utf-8")
    packages = tuple(Package(*row) for row in json.loads(listing.read_text(encoding="utf-8")))
    return Unpacked(root, packages)


def kernel(suite: str, arch: str) -> Unpacked:
    """The current kernel image and modules of a suite."""

    def fill(root: Path) -> tuple[Package, ...]:
        archive = Archive(suite, arch)
        image = archive.newest(f"linux-image-{arch}")
        # Newer kernels split the image package; its parts are named as dependencies.
        parts = [p for p in archive.depends(image) if re.match(r"linux-(binary|modules)-\d", p)]
        return archive.download([image, *parts], root)

    return unpack_once(where.build() / "kernels" / f"{suite}-{arch}", fill)


def image(unpacked: Unpacked) -> Path:
    """The bootable image of an unpacked kernel."""
    for pattern in ("boot/vmlinu[xz]-*", "usr/lib/modules/*/vmlinu[xz]"):
        for path in sorted(unpacked.root.glob(pattern)):
            return path
    raise CannotFetch(f"no kernel image among the packages unpacked in {unpacked.root}")


def headers(suite: str, arch: str) -> Unpacked:
    """The headers a module for the suite's kernel is built with, and kbuild's own programs.

    The headers are those of ``arch``; the programs are those of this machine, because they run
    here whatever the module is for. A suite newer than this machine's needs its own C library for
    them, which is unpacked beside (``modules.py`` starts the programs through it).
    """

    def fill(root: Path) -> tuple[Package, ...]:
        archive = Archive(suite, arch)
        ours = archive.newest(f"linux-headers-{arch}")
        parts = archive.depends(ours)
        common = [name for name in parts if name.endswith("-common")]
        kbuild = [name for name in parts if name.startswith("linux-kbuild-")]
        got = archive.download([ours, *common], root)
        tools = Archive(suite, "amd64")
        libraries = ["libc6", "libelf1t64" if suite in ("trixie", "sid") else "libelf1"]
        return got + tools.download([*kbuild, *libraries, "zlib1g", "libzstd1"], root)

    return unpack_once(where.build() / "headers" / f"{suite}-{arch}", fill)


def busybox(suite: str, arch: str) -> Unpacked:
    """A static busybox for the machine that is booted."""

    def fill(root: Path) -> tuple[Package, ...]:
        return Archive(suite, arch).download(["busybox-static"], root)

    return unpack_once(where.build() / "busybox" / f"{suite}-{arch}", fill)
