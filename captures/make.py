#!/usr/bin/env python3
"""Make captures: ``python3 captures/make.py [NAME…]``.

Without names, every capture of the catalogue that is not there yet; with names (or patterns such
as ``core-6.1-*``), those again. One boot at a time: two emulators that share a core make each
other's timers late, and the guest notices.
"""

import argparse
import fnmatch
import sys
from pathlib import Path

import boot
import catalogue
import fetch
import own_kernel
import programs
import source
import where

REASONS = (
    *(fetch.CannotFetch, programs.CannotCompile),
    *(own_kernel.CannotBuild, boot.CannotBoot),
)


def _chosen(captures: dict[str, catalogue.Capture], patterns: list[str], folder: Path) -> list[str]:
    if not patterns:
        return [n for n, c in captures.items() if not (folder / f"{n}.{c.suffix}").exists()]
    chosen: list[str] = []
    for pattern in patterns:
        found = fnmatch.filter(captures, pattern)
        if not found:
            raise SystemExit(f"no capture is called {pattern}; --list shows them")
        chosen += [name for name in found if name not in chosen]
    return chosen


def _moved(kernel: catalogue.Kernel) -> str | None:
    """A sentence if the suite has moved on to another release than its label says."""
    version = source.image(boot.kernel(kernel).packages).version
    if version.startswith(kernel.release):
        return None
    return f"{kernel.suite} now has {version}: {kernel.label} is another kernel's label"


def _make(capture: catalogue.Capture, folder: Path, limit: float) -> bool:
    """Boot a capture and say how it went."""
    try:
        absent = boot.missing(capture.kernel.arch)
        if absent:
            raise boot.CannotBoot(absent)
        moved = _moved(capture.kernel)
        if moved:
            raise fetch.CannotFetch(moved)
        result = boot.boot(capture, folder, limit=limit)
    except REASONS as error:
        print(f"{capture.name}: not made: {error}", flush=True)
        return False
    state = "done" if result.done else f"NOT FINISHED after {limit:.0f} s"
    print(f"{capture.name}: {state}, {result.seconds:.0f} s", flush=True)
    for line in result.complaints:
        print(f"  {line}", flush=True)
    return result.done


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="names or patterns; none: missing")
    parser.add_argument("--into", type=Path, default=where.SHIPPED, help="folder for the files")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one boot")
    parser.add_argument("--offline", action="store_true", help="use what was fetched before")
    parser.add_argument("--list", action="store_true", help="show the catalogue and stop")
    parser.add_argument("--source", action="store_true", help="only write SOURCE.md anew")
    options = parser.parse_args(arguments)
    fetch.Archive.offline = options.offline
    captures = catalogue.load()
    if options.list:
        for name, capture in captures.items():
            print(f"{name}.{capture.suffix} {capture.machine}")
        return 0
    names = [] if options.source else _chosen(captures, options.names, options.into)
    made = [name for name in names if _make(captures[name], options.into, options.limit)]
    source.write(options.into, captures, made)
    return 0 if len(made) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
