"""Write the result section of a set of runs: python -m analysis.section RUN... --out section

One command for all that a paper says about a comparison: a summary, the table of the arms with intervals, corrected
p-values, detectable differences and costs, what makes the comparison unfair, what it took to learn, figures, and the
claims of the SimpleRL blog post that the runs can test. Written as section.md, section.html (one file), section.tex
(compiles with pdflatex) and section_body.tex (to \\input into a paper), with tables/ and figures/."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.arms import Arms, select_runs
from analysis.claims import claim_table, examine, read_claims
from analysis.commands import (
    add_comparison_arguments,
    add_run_arguments,
    comparison_options,
    make_parser,
    print_notes,
    reports_source_errors,
)
from analysis.differences import Options
from analysis.fairness import find_differences
from analysis.frames import Frames
from analysis.learning import learning_table
from analysis.marks import fairness_tables, mark_tables
from analysis.plots import MATPLOTLIB_SETTINGS, save_figure
from analysis.result_table import Result, control_arm, result_table, results
from analysis.run_data import SourceError
from analysis.section_formats import Block, Heading, Picture, Text, write_section
from analysis.sources import load
from simplerl.evals.statistics import Interval
from simplerl.io.tables import Table, write

CAPTIONS = {
    "forest": "All arms: final held-out accuracy with 95 % intervals, and accuracy against sampled responses.",
    "overview": "Training of all arms.",
    "accuracy_and_length": "Held-out accuracy and response length.",
    "behaviour": "Form of the sampled responses.",
}
MANY_ARMS = 8  # with more arms only the figure of all arms is readable


def build_section(frames: Frames, arms: Arms, options: Options, out: Path, title: str) -> list[Block]:
    """Return the blocks of the section, and write its tables and figures into `out`.

    Raises SourceError if no run was evaluated."""
    found = results(frames, arms, options)
    if not found:
        raise SourceError("no run has a held-out accuracy: name runs with evaluations (evals.every above 0).")
    table = result_table(frames, arms, options, found)
    assert table is not None
    differences = find_differences(frames, arms)
    [marked] = mark_tables([table], differences, arms)
    letters = replace(marked, notes=[*table.notes, *([MARKS_NOTE] if any(one.marked for one in differences) else [])])
    learning = learning_table(frames, arms, options.target)
    claims = [one for one in examine(frames, read_claims()) if one.tested]
    blocks: list[Block] = [Heading(title, 1), Text(summary(frames, arms, found, options)), letters]
    blocks += [_figure(frames, arms, options, found, out), *_unfair(frames, arms)]
    blocks += [Heading("Learning", 2), learning] if learning is not None else []
    blocks += [] if len(arms.arms) > MANY_ARMS else _curves(frames, arms, out)
    blocks += [Heading("Claims of the blog post", 2), claim_table(claims)] if claims else []
    for block in blocks:
        if isinstance(block, Table):
            write(block, out / "tables")
    return blocks


MARKS_NOTE = "Marks: letters of the differences that the table of fairness lists."


def _unfair(frames: Frames, arms: Arms) -> list[Block]:
    fair: list[Block] = [Text("Nothing that was recorded makes the comparison unfair.")]
    return [Heading("Fairness", 2), *(fairness_tables(frames, arms) or fair)]


def summary(frames: Frames, arms: Arms, found: Sequence[Result], options: Options) -> str:
    """Return sentences that state what was compared, what differs significantly and what could have been seen."""
    runs = sum(len(one.arm.runs) for one in found)
    best = max(found, key=lambda one: one.accuracy.mean)
    parts = [f"{runs} runs in {len(found)} arms. Highest accuracy: {best.arm.label}, {_percent(best.accuracy)}."]
    tests = [one for one in found if one.compared is not None and one.compared.found is not None]
    if tests:
        base = next(one for one in found if one.compared is not None and one.compared.why == "baseline")
        parts[0] += f" Baseline: {base.arm.label}, {_percent(base.accuracy)}."
        differ = [one for one in tests if one.compared is not None and one.compared.verdict.startswith("significant")]
        above = sum(one.accuracy.mean > base.accuracy.mean for one in differ)
        parts.append(
            f"{len(differ)} of {len(tests)} arms differ significantly from the baseline after correction: {above} "
            f"above it, {len(differ) - above} below."
        )
        seen = [one.compared.smallest for one in tests if one.compared is not None and one.compared.smallest]
        finite = sorted(100 * value for value in seen if math.isfinite(value))
        if finite:
            parts.append(f"The smallest difference seen with 80 % power is {finite[0]:.1f} to {finite[-1]:.1f} points.")
    control = control_arm(frames, arms)
    gains = [one for one in found if one.gain is not None and _gained(one)]
    if control is not None and gains:
        top = max(gains, key=lambda one: one.gain.mean if one.gain else 0.0)
        parts.append(
            f"Over the arm with a random reward ({control.label}), {top.arm.label} gains {_points(top.gain)}; gains of "
            "all arms are in the table."
        )
    return " ".join(parts)


def _gained(one: Result) -> bool:
    return one.gain is not None and one.gain.mean > 0


def _percent(found: Interval) -> str:
    width = "" if found.half_width is None else f" ± {100 * found.half_width:.1f}"
    return f"{100 * found.mean:.1f}{width} %"


def _points(found: Interval | None) -> str:
    if found is None:
        return "-"
    width = "" if found.half_width is None else f" ± {100 * found.half_width:.1f}"
    return f"{100 * found.mean:+.1f}{width} points"


# Figures


def _figure(frames: Frames, arms: Arms, options: Options, found: Sequence[Result], out: Path) -> Picture:
    from matplotlib import rc_context

    from analysis.forest import forest

    with rc_context(MATPLOTLIB_SETTINGS):
        return _picture(forest(frames, arms, options, found), "forest", out)


def _curves(frames: Frames, arms: Arms, out: Path) -> list[Block]:
    from matplotlib import rc_context

    from analysis.figures import FIGURES

    with rc_context(MATPLOTLIB_SETTINGS):
        drawn = [(name, FIGURES[name](frames, arms)) for name in CAPTIONS if name != "forest"]
        return [_picture(figure, name, out) for name, figure in drawn if figure is not None]


def _picture(figure: Any, name: str, out: Path) -> Picture:
    save_figure(figure, out / "figures", name)
    return Picture(name, CAPTIONS[name])


@reports_source_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("section", __doc__)
    add_run_arguments(parser, "section")
    parser.add_argument("--title", default="Results", help="heading of the section (default: %(default)s)")
    add_comparison_arguments(parser)
    chosen = parser.parse_args(arguments)
    frames, arms = select_runs(load(chosen.sources), unfinished=chosen.unfinished)
    print_notes([*frames.notes, *arms.notes])
    blocks = build_section(frames, arms, comparison_options(chosen), chosen.out, chosen.title)
    for path in write_section(blocks, chosen.out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
