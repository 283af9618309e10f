"""Provides what the command lines of this package share: help, arguments and the reporting of errors.

This short module is separate because every command imports it, and it imports none of them."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from analysis.curves import metric_label
from analysis.differences import CORRECTIONS, HOLM, Options
from analysis.run_data import SourceError
from simplerl.errors import ConfigError
from simplerl.evals.two_level import DESIGNS, PAIRED
from simplerl.io.places import spelled


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command of analysis, whose help begins with the module's docstring."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(spelled(name), description=description, formatter_class=formatter)


def add_run_arguments(parser: argparse.ArgumentParser, out: str, *, nargs: str = "+") -> None:
    """Add RUN... (`sources`), --unfinished and --out, a file if its default has a suffix and a folder otherwise."""
    sources = "run folder, sweep folder, folder of run folders, W&B export, or wandb:ENTITY/PROJECT"
    parser.add_argument("sources", nargs=nargs, metavar="RUN", help=sources)
    parser.add_argument("--unfinished", action="store_true", help="also show failed and crashed runs")
    kind = "file to write" if Path(out).suffix else "folder to write to"
    parser.add_argument("--out", type=Path, default=Path(out), help=f"{kind} (default: %(default)s)")


def add_comparison_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --baseline, --correction, --seeds and --target, which `comparison_options` reads."""
    parser.add_argument("--baseline", default="", help="label, or part of it, of the baseline arm (default: the first)")
    parser.add_argument(
        "--correction", choices=CORRECTIONS, default=HOLM, help="for the number of arms (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", choices=DESIGNS, default=PAIRED, help="how seeds enter a comparison (default: %(default)s)"
    )
    help_target = "accuracy in per cent of the time to reach it (default: one that all arms reach)"
    parser.add_argument("--target", type=float, metavar="PERCENT", help=help_target)


def comparison_options(chosen: argparse.Namespace) -> Options:
    """Return the options that the arguments of `add_comparison_arguments` give."""
    target = None if chosen.target is None else chosen.target / 100
    return Options(chosen.baseline, chosen.correction, chosen.seeds, target)


def comma_separated(text: str) -> list[str]:
    """Split "a,b" into its names; used as the type of an argparse argument."""
    return [name for name in text.split(",") if name]


def print_notes(notes: Sequence[str]) -> None:
    """Print notes, on data that were skipped or merged while reading, to stderr."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def find_metrics(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the logged names of the metrics in `names`, each of which is a logged name or a label as tables and
    figures show it. Raises SourceError, with the most similar names, for a metric that no run logged."""
    of_label = {metric_label(name): name for name in known}
    found = []
    for name in names:
        if name not in known and name not in of_label:
            similar = get_close_matches(name, [*known, *of_label], 4, 0.5) or [one for one in known if name in one][:3]
            near = list(dict.fromkeys(of_label.get(one, one) for one in similar))
            hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}."
            raise SourceError(f"no run logged the metric {name!r}: {hint}")
        found.append(name if name in known else of_label[name])
    return found


def reports_source_errors(command: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Decorate a command so that an error that a user can correct becomes one line on stderr and exit status 2."""

    @functools.wraps(command)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return command(arguments)
        except (SourceError, ConfigError) as error:
            print(f"error: {error}", file=sys.stderr)
        except BrokenPipeError:  # the reader of a pipe, such as `head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            place = f"{error.filename} cannot be read or written" if error.filename else "a file cannot be written"
            print(f"error: {place} ({error.strerror or error}): choose another path or --out.", file=sys.stderr)
        except KeyboardInterrupt:
            return 130
        return 2

    return run
