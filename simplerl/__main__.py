"""Runs `simplerl COMMAND ...`, the entry point of an installed package: `python -m simplerl COMMAND` is the same.

A command is the script or module of a checkout, run as the main program, so that both have the same options, messages
and exit statuses.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence

from simplerl import __version__, exit_on_ctrl_c
from simplerl.io.places import COMMANDS, CONF, PROGRAM, place

USAGE = f"""\
{PROGRAM} {__version__}: reinforcement learning of reasoning models as a suite of ablations

  {PROGRAM} train OVERRIDES       run, resume or reuse one run; with -m a sweep
  {PROGRAM} evaluate OVERRIDES    evaluate a model or checkpoint
  {PROGRAM} sweep status          the state of all sweeps; also status, cancel or resume SWEEP
  {PROGRAM} plan OVERRIDES        memory, time and cost before a run
  {PROGRAM} distill OVERRIDES     sample a teacher and write a data set
  {PROGRAM} report RUN...         one page with curves, tables and responses
  {PROGRAM} section RUN...        the result section of a comparison, with its tables and figure
  {PROGRAM} tables RUN...         tables as Markdown, LaTeX, CSV and HTML
  {PROGRAM} plots RUN...          figures as PNG and PDF
  {PROGRAM} compare A B           two evaluations, item by item
  {PROGRAM} diff RUN RUN          every setting that differs
  {PROGRAM} aha RUN...            when reflection emerges, with examples
  {PROGRAM} claims RUN...         the claims of the blog post, tested on runs
  {PROGRAM} benchmark             time and memory for reading synthetic runs
  {PROGRAM} grade IN OUT          grade a file of responses
  {PROGRAM} audit RESPONSES       where the grading rules disagree
  {PROGRAM} fetch NAME...         download published problems and benchmarks

{PROGRAM} COMMAND --help lists the options of a command. Options of your own are YAML files in a folder DIR that has the
layout of {CONF}:
{PROGRAM} train --config-dir DIR reward=NAME
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, as the main program. Returns the exit status if the command does not
    exit itself."""
    exit_on_ctrl_c()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "--version"):
        print(__version__ if words[:1] == ["--version"] else USAGE, end="\n" if words[:1] == ["--version"] else "")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        print(f"{name} is not a command: choose {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    folder = os.getcwd()
    if not {"", folder} & set(
        sys.path
    ):  # a console script does not find modules of the current folder, such as rewards
        sys.path.append(folder)
    sys.argv = [f"{PROGRAM} {name}", *rest]
    if COMMANDS[name].endswith(".py"):
        runpy.run_path(str(place(COMMANDS[name])), run_name="__main__")
    else:
        runpy.run_module(COMMANDS[name], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
