"""The initramfs of one boot: busybox, an init script, modules, and what the capture runs.

Written as a newc archive by hand, because the format is 110 bytes of header a file and the tools
that write it (cpio, depmod, update-initramfs) would have to be installed. Every field that could
differ between two runs (owner, time, order) is fixed, so equal inputs give equal bytes.

Where it stops: no device nodes but the console; devtmpfs makes the rest.
"""

import gzip
import io
import lzma
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


class File(NamedTuple):
    """One member of the archive; ``mode`` carries the file type, as in ``stat``."""

    name: str
    data: bytes = b""
    mode: int = stat.S_IFREG | 0o644
    device: tuple[int, int] = (0, 0)


def folder(name: str) -> File:
    return File(name, mode=stat.S_IFDIR | 0o755)


def program(name: str, data: bytes) -> File:
    return File(name, data, stat.S_IFREG | 0o755)


def archive(files: Iterable[File]) -> bytes:
    """The files as a compressed newc archive, which the kernel unpacks into its root."""
    out = io.BytesIO()
    members = [*files, File("TRAILER!!!", mode=0)]
    for inode, file in enumerate(members, start=1):
        name = file.name.encode() + b"\0"
        # inode mode uid gid links mtime size, device of the file, device it is, name, checksum
        fields = (inode, file.mode, 0, 0, 1, 0, len(file.data), 0, 0, *file.device, len(name), 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
        out.write(b"\0" * (-out.tell() % 4))
        out.write(file.data)
        out.write(b"\0" * (-out.tell() % 4))
    return gzip.compress(out.getvalue(), 6, mtime=0)


def _plain(name: str) -> str:
    """A module's name as the kernel says it: without folder and suffix, with underscores."""
    return re.sub(r"\.ko(\.xz|\.gz|\.zst)?$", "", Path(name).name).replace("-", "_")


class Modules:
    """The modules of an unpacked kernel, found by name, with what they depend on."""

    def __init__(self, root: Path) -> None:
        self._paths = {_plain(path.name): path for path in sorted(root.rglob("*.ko*"))}

    def __contains__(self, name: str) -> bool:
        return _plain(name) in self._paths

    def read(self, name: str) -> bytes:
        """A module, decompressed: busybox's insmod takes it as it is."""
        path = self._paths[_plain(name)]
        data = path.read_bytes()
        if path.suffix == ".xz":
            return lzma.decompress(data)
        if path.suffix == ".gz":
            return gzip.decompress(data)
        if path.suffix == ".zst":
            raise ValueError(f"{path.name}: zstd modules need a newer harness")
        return data

    def in_order(self, names: Iterable[str]) -> dict[str, bytes]:
        """The named modules and all they depend on, each after its dependencies.

        A name the kernel does not have as a module is left out: it is built in, or this release
        has no such thing, and the transcript will tell which.
        """
        loaded: dict[str, bytes] = {}

        def need(name: str) -> None:
            name = _plain(name)
            if name in loaded or name not in self:
                return
            data = self.read(name)
            depends = re.search(rb"\0depends=([^\0]*)\0", data)
            for other in depends[1].decode().split(",") if depends else []:
                if other:
                    need(other)
            loaded[name] = data

        for name in names:
            need(name)
        return loaded


def skeleton(init: Path, busybox: bytes, settings: Mapping[str, str]) -> list[File]:
    """What every capture has: folders, console, init, busybox, and ``/lab/NAME`` settings."""
    folders = ("bin", "proc", "sys", "dev", "mods", "lab", "tmp")
    return [
        *map(folder, folders),
        File("dev/console", mode=stat.S_IFCHR | 0o600, device=(5, 1)),
        program("init", init.read_bytes()),
        program("bin/busybox", busybox),
        *(File(f"lab/{name}", value.encode()) for name, value in settings.items()),
    ]


def with_modules(early: Mapping[str, bytes], late: Mapping[str, bytes]) -> list[File]:
    """Modules under ``/mods``; ``/mods/order`` lists those init inserts before the script."""
    order = "".join(f"{name}.ko\n" for name in early)
    both = {**late, **early}
    return [
        File("mods/order", order.encode()),
        *(File(f"mods/{name}.ko", data) for name, data in both.items()),
    ]
