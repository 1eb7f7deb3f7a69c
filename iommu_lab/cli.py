"""What can be asked for from a terminal?

Each command is a row below and one function in the module that does the work, loaded only
when it is called: ``iommu-lab --help`` must not wait for pandas. A command takes the words
after its name and returns an exit status; 0 is success, 2 a question that made no sense. If it is
interrupted, or its reader has gone, it ends with the shell's number for that and no traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple, cast

from .errors import UnknownName, unknown


class Command(NamedTuple):
    """A word on the command line, the function behind it, and what it does for you."""

    name: str
    where: str  # "module:function" in this package
    says: str

    def __call__(self, argv: Sequence[str]) -> int:
        module, _, function = self.where.partition(":")
        run = getattr(import_module(f"{__package__}.{module}"), function)
        return cast("Callable[[Sequence[str]], int]", run)(argv)


COMMANDS = (
    Command("lab", "lessons:open_lab", "open JupyterLab on the first lesson"),
    Command("doctor", "doctor:examine_here", "look at every part and say what is missing"),
    Command("reset", "lessons:reset", "bring back the original of a lesson: reset 03"),
    Command(
        "audit", "audit:main", "what each driver's detach does, and what the mail would advise"
    ),
    Command(
        "replay", "captures.command:main", "hold the model against transcripts of real kernels"
    ),
    Command("check", "scale:main", "judge every DMA of a trace in Parquet under a scenario"),
    Command("search", "search:main", "the shortest sequence of verbs that leaks, crashes, …"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the entry point of ``iommu-lab`` and of ``python -m iommu_lab``."""
    words = list(sys.argv[1:] if argv is None else argv)
    commands = {command.name: command for command in COMMANDS}
    if not words or words[0].startswith("-"):
        parser = _parser()
        parser.parse_args(words)
        parser.print_help()
        return 0
    name, *rest = words
    try:
        if name not in commands:
            raise unknown("command", name, commands)
        status = commands[name](rest)
        sys.stdout.flush()
        return status
    except UnknownName as error:
        print(f"iommu-lab: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read has read enough (| head). Python would complain once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    width = max(len(command.name) for command in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="iommu-lab",
        usage="iommu-lab COMMAND ...",
        description="Which DMA gets through, and to what memory?",
        epilog="commands:\n"
        + "\n".join(f"  {name:<{width}}  {says}" for name, _, says in COMMANDS)
        + "\n\niommu-lab COMMAND --help says more about one of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"iommu_lab {__version__}")
    return parser
