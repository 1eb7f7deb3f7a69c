"""A kernel of one's own: Debian's source with a small configuration.

Only for what Debian's kernels leave out (iommufd and VFIO device files, in 6.12 and 7.2). A build
takes about ten minutes of one core, once; its version is that of the source package, without
Debian's suffix.
"""

import os
import shutil
import subprocess
from pathlib import Path

import fetch
import where


class CannotBuild(RuntimeError):
    """The kernel's build failed; the message carries the end of what it said."""


def _make(tree: Path, *words: str) -> None:
    command = ["nice", "make", "-s", "-C", str(tree), f"-j{os.cpu_count() or 1}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise CannotBuild(f"make {' '.join(words)}:\n{tail}")


def built(suite: str, arch: str, config: str) -> fetch.Unpacked:
    """The image of a suite's kernel source, built with ``captures/CONFIG.config``.

    The folder looks like an unpacked kernel package that has no modules.
    """
    if arch != "amd64":
        raise CannotBuild(f"no configuration for {arch}: {config}.config is for amd64")
    wanted = where.HERE / f"{config}.config"

    def fill(root: Path) -> tuple[fetch.Package, ...]:
        # linux-image-amd64 of a suite says which release its current kernel is.
        archive = fetch.Archive(suite, arch)
        release = archive.newest(f"linux-image-{arch}").split("-")[2].split(".")
        package = f"linux-source-{release[0]}.{release[1]}"
        tree = where.build() / "source" / f"{suite}-{config}"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        packages = archive.download([package], tree)
        (tarball,) = tree.glob("usr/src/linux-source-*.tar.xz")
        subprocess.run(
            ["tar", "-xJf", str(tarball), "-C", str(tree), "--strip-components=1"], check=True
        )
        tarball.unlink()
        _make(tree, "allnoconfig", f"KCONFIG_ALLCONFIG={wanted}")
        _make(tree, "bzImage")
        (root / "boot").mkdir()
        shutil.copy(tree / "arch" / "x86" / "boot" / "bzImage", root / "boot" / "vmlinuz-own")
        return packages

    return fetch.unpack_once(where.build() / "kernels" / f"{suite}-{arch}-{config}", fill)
