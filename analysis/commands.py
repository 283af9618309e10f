"""The command line shared by this package's commands: one style of help, arguments and errors.

Kept apart, though short, because every command imports it and it imports none of them."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.run_data import SourceError


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of `python -m analysis.NAME`, whose help begins with the module's docstring."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(f"python -m analysis.{name}", description=description, formatter_class=formatter)


def add_run_arguments(parser: argparse.ArgumentParser, out: str, *, nargs: str = "+") -> None:
    """Add RUN... (`sources`), --unfinished and --out, a file if its default has a suffix and a folder otherwise."""
    sources = "run folder, sweep folder, folder of run folders, W&B export, or wandb:ENTITY/PROJECT"
    parser.add_argument("sources", nargs=nargs, metavar="RUN", help=sources)
    parser.add_argument("--unfinished", action="store_true", help="also show failed and crashed runs")
    kind = "file to write" if Path(out).suffix else "folder to write to"
    parser.add_argument("--out", type=Path, default=Path(out), help=f"{kind} (default: %(default)s)")


def comma_separated(text: str) -> list[str]:
    """Return the names in "a,b"; an argparse type."""
    return [name for name in text.split(",") if name]


def print_notes(notes: Sequence[str]) -> None:
    """Print what reading dropped or merged to stderr."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def reports_source_errors(command: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Decorate a command so that a SourceError is printed to stderr as one line and the exit status is 2."""

    @functools.wraps(command)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return command(arguments)
        except SourceError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return run
