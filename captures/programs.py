"""Compiling what runs inside a capture: iotest for user space, edulab and attachlab for the kernel.

Headers of a newer suite come with kbuild programs that need a newer C library than this machine
may have; each of them is replaced by a two-line script that starts it through its own suite's
loader. The compiler is this machine's: its version differs from the one the kernel was built with,
which the module loader does not mind, but options that only a newer compiler knows, or does as the
kernel wants them, are switched off by name in ``NEWER_COMPILER`` and ``UNLIKE_OURS``.
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import fetch
import where
from catalogue import Kernel

CROSS = {"amd64": "", "arm64": "aarch64-linux-gnu-", "s390x": "s390x-linux-gnu-"}
KERNEL_ARCH = {"amd64": "x86", "arm64": "arm64", "s390x": "s390"}
NEWER_COMPILER = (
    "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=",
    "CONFIG_DEBUG_INFO_BTF_MODULES=",
)
UNLIKE_OURS = {
    "amd64": (),
    # ftrace wants every function aligned, which older compilers do not do to cold ones: a BUG.
    "arm64": ("CC_FLAGS_FTRACE=",),
    "s390x": ("CONFIG_STACKPROTECTOR=", "CONFIG_STACKPROTECTOR_STRONG="),
}


class CannotCompile(RuntimeError):
    """The compiler or kbuild refused; the message carries the end of what it said."""


def _run(command: list[str]) -> None:
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=900, check=False
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise CannotCompile(f"{' '.join(command[:4])} …:\n{tail}")


def _newest(paths: list[Path]) -> float:
    return max(path.stat().st_mtime for path in paths)


def _compiler(arch: str) -> str:
    for name in ("gcc", "gcc-12", "gcc-13", "gcc-14"):
        if shutil.which(CROSS[arch] + name):
            return CROSS[arch] + name
    raise CannotCompile(f"no {CROSS[arch]}gcc on this machine; see captures/packages.txt")


def iotest(arch: str) -> bytes:
    """The script interpreter, linked statically: the initramfs has no libraries."""
    sources = sorted((where.HERE / "iotest").glob("*.[ch]"))
    made = where.build() / "iotest" / arch
    if not made.exists() or made.stat().st_mtime < _newest(sources):
        made.parent.mkdir(parents=True, exist_ok=True)
        units = [str(path) for path in sources if path.suffix == ".c"]
        _run([_compiler(arch), "-O1", "-Wall", "-static", "-s", "-o", str(made), *units])
    return made.read_bytes()


def _needs_own_loader(unpacked: fetch.Unpacked) -> bool:
    """Whether the suite's C library is newer than this machine's."""

    def numbers(text: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", text)[:2]]

    (theirs,) = (p.version for p in unpacked.packages if p.name == "libc6")
    return numbers(theirs) > numbers(platform.libc_ver()[1])


def _start_through_own_loader(root: Path) -> None:
    """Make the kbuild programs below ``root`` run with the C library unpacked beside them."""
    libraries = {path.parent for path in root.glob("**/x86_64-linux-gnu/*.so.*")}
    search = ":".join(str(folder) for folder in sorted(libraries))
    loader = next(p for p in sorted(root.glob("**/ld-linux-x86-64.so.2")) if p.is_file())
    for program in sorted(root.glob("usr/lib/linux-kbuild-*/**/*")):
        if program.is_symlink() or not program.is_file() or not os.access(program, os.X_OK):
            continue
        with program.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                continue
        real = program.with_name(f".{program.name}.elf")
        program.rename(real)
        # The programs find each other by the name they were started with.
        program.write_text(
            f'#!/bin/sh\nexec {loader} --library-path {search} --argv0 "$0" {real} "$@"\n',
            encoding="utf-8",
        )
        program.chmod(0o755)


def _relocate(unpacked: fetch.Unpacked) -> Path:
    """Headers name the place where they would be installed; make them name where they are.

    Returns the folder a module is built with.
    """
    root = unpacked.root
    sources = root / "usr" / "src"
    (common,) = sources.glob("linux-headers-*-common")
    (flavour,) = (path for path in sources.glob("linux-headers-*") if path != common)
    if not (root / "relocated").exists():
        makefile = flavour / "Makefile"
        text = makefile.read_text(encoding="utf-8")
        makefile.write_text(text.replace("/usr/src/", f"{sources}/"), encoding="utf-8")
        if _needs_own_loader(unpacked):
            _start_through_own_loader(root)
        (root / "relocated").touch()
    return flavour


def module(name: str, kernel: Kernel) -> bytes:
    """``edulab`` or ``attachlab`` for a kernel, without debug information."""
    sources = sorted((where.HERE / name).iterdir())
    made = where.build() / "modules" / f"{kernel.suite}-{kernel.arch}" / name / f"{name}.ko"
    if made.exists() and made.stat().st_mtime >= _newest(sources):
        return made.read_bytes()
    shutil.rmtree(made.parent, ignore_errors=True)
    made.parent.mkdir(parents=True)
    for source in sources:
        shutil.copy(source, made.parent)
    flavour = _relocate(fetch.headers(kernel.suite, kernel.arch))
    cross = CROSS[kernel.arch]
    _run(
        [
            "make",
            "-s",
            "-C",
            str(flavour),
            f"M={made.parent}",
            f"ARCH={KERNEL_ARCH[kernel.arch]}",
            f"CROSS_COMPILE={cross}",
            f"CC={_compiler(kernel.arch)}",
            *NEWER_COMPILER,
            *UNLIKE_OURS[kernel.arch],
            "modules",
        ]
    )
    _run([f"{cross}objcopy", "--strip-debug", str(made)])
    return made.read_bytes()


def version(arch: str) -> str:
    """The compiler, as it names itself."""
    out = subprocess.run(
        [_compiler(arch), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return re.sub(r"\s+", " ", out.splitlines()[0])
