"""One capture: one boot of one kernel in one emulated machine, and the files it leaves.

TCG only: ``/dev/kvm`` may open and still hang the guest, and only TCG counts instructions, which
makes a run repeat itself. A kernel that has hit a BUG may not be able to power off, so every boot
has its own time limit.
"""

import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import chance
import fetch
import initramfs
import machines
import own_kernel
import programs
import transcript
import where
from catalogue import Capture, Kernel

# Inserted by init; a kernel that has one built in, or not at all, is fine.
EARLY = (
    "irqbypass",
    "vfio",
    "vfio_virqfd",
    "vfio_iommu_type1",
    "vfio-pci-core",
    "vfio-pci",
    "virtio_pci",
    "virtio-iommu",
)
# Only carried: a script inserts them.
LATE = ("e1000", "pci-stub")


class CannotBoot(RuntimeError):
    """No emulator for the architecture is installed here."""


class Booted(NamedTuple):
    """How a boot went."""

    capture: Capture
    transcript: Path
    seconds: float
    done: bool
    complaints: list[str]


def missing(arch: str) -> str | None:
    """Why this machine cannot boot a kernel of this architecture, or None if it can."""
    program = machines.BOARDS[arch].program
    if shutil.which(program) is None:
        return f"{program} is not installed; see captures/packages.txt"
    return None


def kernel(wanted: Kernel) -> fetch.Unpacked:
    """The kernel of a label: Debian's own, or one built from its source."""
    if wanted.config:
        return own_kernel.built(wanted.suite, wanted.arch, wanted.config)
    return fetch.kernel(wanted.suite, wanted.arch)


def _script(capture: Capture) -> str:
    """The steps of a capture: a file of ``scripts/``, or steps by chance."""
    name = str(capture.script)
    if name.startswith("chance-"):
        return chance.text(name, capture.topology, iommufd=bool(capture.kernel.config))
    return (where.HERE / "scripts" / f"{name}.txt").read_text(encoding="utf-8")


def _initramfs(capture: Capture) -> bytes:
    wanted = capture.kernel
    board = machines.BOARDS[wanted.arch]
    busybox = fetch.busybox(wanted.suite, wanted.arch).root / "bin" / "busybox"
    if not busybox.exists():
        busybox = busybox.parents[1] / "usr" / "bin" / "busybox"
    if capture.module:
        files = initramfs.skeleton(
            where.HERE / "init" / "attachlab.sh", busybox.read_bytes(), {"args": capture.args}
        )
        module = programs.module(capture.module, wanted)
        return initramfs.archive([*files, initramfs.File(f"mods/{capture.module}.ko", module)])
    script = _script(capture)
    settings = {
        "machine": f"{capture.machine}\n",
        "tty": board.transcript,
        "script": script,
    }
    files = initramfs.skeleton(where.HERE / "init" / "iotest.sh", busybox.read_bytes(), settings)
    modules = initramfs.Modules(kernel(wanted).root)
    late = modules.in_order(LATE)
    if "/mods/edulab.ko" in script:
        late["edulab"] = programs.module("edulab", wanted)
    files += initramfs.with_modules(modules.in_order(EARLY), late)
    files.append(initramfs.program("bin/iotest", programs.iotest(wanted.arch)))
    return initramfs.archive(files)


def _append(capture: Capture) -> str:
    board = machines.BOARDS[capture.kernel.arch]
    # Where transcript and console share a port, the kernel keeps quiet on it.
    quiet = 0 if board.console == board.transcript else 7
    level = "8 tp_printk" if capture.module else str(quiet)
    words = (
        f"console={board.console} loglevel={level} panic=-1 nokaslr iomem=relaxed",
        board.append,
        "trace_event=iommu:*",
        capture.append,
    )
    return " ".join(word for word in words if word)


def command(capture: Capture, image: str, initrd: str, log: str, trace: str) -> list[str]:
    """The QEMU command of a capture, for the given file names."""
    arch = capture.kernel.arch
    board = machines.BOARDS[arch]
    words = [board.program, "-accel", "tcg", *board.base, *machines.processor(arch, capture.iommu)]
    words += ["-smp", "1", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"]
    if capture.script and board.console != board.transcript:
        words += ["-chardev", "null,id=console", "-serial", "chardev:console"]
    words += ["-chardev", f"file,id=log,path={log}", *board.kernel_log.split()]
    words += ["-kernel", image, "-initrd", initrd, "-append", _append(capture)]
    words += machines.iommu(capture.iommu)
    words += machines.devices(machines.TOPOLOGIES[capture.topology])
    words += [*machines.DETERMINISTIC, "-D", trace]
    for name in machines.TRACES[arch]:
        words += ["-trace", name]
    return words


def _write_files(capture: Capture, folder: Path, log: bytes, trace: str, words: list[str]) -> Path:
    text = transcript.tidy(log)
    if capture.module:
        # The kernel's log begins before anything of ours runs, so the harness says the machine.
        text = f"{capture.machine}\n{transcript.thin_log(text)}"
    else:
        # Whatever a shared port carried before init ran is not part of the transcript.
        text = text[max(text.find("MACHINE "), 0) :]
    path = folder / f"{capture.name}.{capture.suffix}"
    path.write_text(text, encoding="utf-8")
    (folder / f"{capture.name}.cmd").write_text(f"{shlex.join(words)}\n", encoding="utf-8")
    folded = transcript.fold(trace, mark_of_step=capture.script is not None)
    faults = folder / f"{capture.name}.qemu"
    faults.unlink(missing_ok=True)
    if folded:
        faults.write_text(folded, encoding="utf-8")
    return path


def boot(capture: Capture, folder: Path, *, limit: float = 300) -> Booted:
    """Boot a capture and write NAME.out or NAME.log, NAME.cmd and NAME.qemu into ``folder``."""
    reason = missing(capture.kernel.arch)
    if reason:
        raise CannotBoot(reason)
    image = fetch.image(kernel(capture.kernel))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="capture-") as scratch:
        initrd, log, trace = (Path(scratch) / name for name in ("initrd.img", "log", "trace"))
        initrd.write_bytes(_initramfs(capture))
        words = command(capture, str(image), str(initrd), str(log), str(trace))
        started = time.monotonic()
        try:
            with (Path(scratch) / "qemu").open("wb") as noise:
                subprocess.run(
                    ["nice", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=noise,
                    stderr=subprocess.STDOUT,
                    timeout=limit,
                    check=False,
                )
        except subprocess.TimeoutExpired:
            pass  # what was written until then is still a transcript, and says that it is cut off
        seconds = time.monotonic() - started
        shown = command(
            capture, image.name, "initrd.img", f"{capture.name}.{capture.suffix}", "trace"
        )
        path = _write_files(
            capture,
            folder,
            log.read_bytes() if log.exists() else b"",
            trace.read_text(encoding="utf-8", errors="replace") if trace.exists() else "",
            shown,
        )
    text = path.read_text(encoding="utf-8")
    done = transcript.finished(text)
    return Booted(capture, path, seconds, done, transcript.unread(text))
