"""Write the published tables with your runs added to their rows, and a table of the runs by their settings:

    python -m analysis.tables RUN... --out tables

Each table is written as Markdown, LaTeX, CSV and HTML. Without RUN only the published tables are written."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from analysis.arm_estimates import (
    FIXED_ACCURACIES,
    LAST_STEPS,
    OF_BATCH,
    average_estimate,
    gain_estimate,
    metric_estimate,
    missing_start_note,
)
from analysis.arms import Arm, Arms, evaluation_rule, select_runs, short_name
from analysis.budgets import UNITS
from analysis.commands import (
    add_comparison_arguments,
    add_run_arguments,
    comma_separated,
    comparison_options,
    find_metrics,
    make_parser,
    print_notes,
    reports_source_errors,
)
from analysis.curves import in_percent, metric_label
from analysis.differences import Options, difference_table
from analysis.estimates import published_estimate, quantity, shifted, significantly_best
from analysis.frames import Frames, assemble
from analysis.learning import learning_table
from analysis.marks import fair_tables
from analysis.published_tables import (
    PUBLISHED_RULE,
    ROW_OF_EXPERIMENT,
    ROWS,
    TABLE_1,
    TABLE_2,
    TABLE_2_COLUMNS,
    TABLE_3,
    TABLE_ZOO,
    TWO_ZERO_ROWS,
    ZOO_CAPTION,
    ZOO_FURTHER,
    ZOO_HEADINGS,
    ZOO_SETS,
    averaged_sets,
    row_in_table,
)
from analysis.result_table import result_table
from analysis.sources import load
from simplerl.data.benchmarks import SUITE5, SUITE8
from simplerl.evals.statistics import Interval
from simplerl.io.tables import Cell, Table, markdown, text_cells, write

STATISTICS = ("results", "differences", "learning")  # names of the tables of `statistics_tables`
AVERAGES = {"five": SUITE5, "eight": SUITE8}
BEHAVIOUR = ("response_length", "truncated_share", "box_share", "code_share", "reflection_share")
LOWER_IS_BETTER = ("loss", "truncated_share", "no_answer_fraction", "timeout_fraction", "failed_fraction", "repetition")
NEUTRAL = ("response_length", "code_share", "reflection_share", "box_share", "entropy", "kl", "lr", "step")
BATCH_NOTE = (
    f"Training metrics (reward/, rollout/) are means over the last {LAST_STEPS} steps, or the last quarter of fewer."
)
INTERVAL_NOTE = (
    "Own runs: mean over n seeds, ± half-width of the 95 % interval over seeds and the benchmark's items (over seeds "
    "alone if the error over items is unknown, over items alone with one seed or equal seeds)."
)
PUBLISHED_NOTE = (
    "Δ published: ± covers the error of our runs only, not that of the published row; bold takes both into account."
)
OTHER_RULES_NOTE = (
    "Rows are graded by different rules, so no accuracy is bold, and Δ published is left out where the rule is not the "
    "published one."
)
BOLD_NOTE = "Bold: best of its column and significantly different from every other row (95 %)."


def _estimate_cell(estimate: Interval | None, seeds: int | None, *, percent: bool = False, **style: Any) -> Cell:
    """Return the estimate's cell, with the remark "n=..." if it has fewer seeds than the row (None: unknown).
    percent: it is a fraction in per cent, so its interval ends at 0 and 100."""
    if estimate is None:
        return Cell(**style)
    value = quantity(estimate, (0.0, 100.0)) if percent else quantity(estimate)
    return Cell(value, remark=f"n={estimate.n_seeds}" if seeds not in (None, estimate.n_seeds) else "", **style)


# Published tables


def accuracy_table(
    name: str,
    caption: str,
    rows: dict[str, str],
    frames: Frames,
    arms: Arms,
    sets: Sequence[str],
    against: str | None,
    further: Sequence[str] = (),
) -> Table:
    """Return a table of published rows followed by one row per arm.

    `rows` maps the title of each published row to its key. The columns are the benchmarks `sets` and `further`, the
    average over `sets`, its difference from the published row `against` (default: that of the arm's experiment), its
    gain since step 0, the number of seeds, and the rule that graded the row, if that is known for some arm. With
    `further` columns only arms that have all of `sets` are shown."""
    shown_sets, enough = [*sets, *further], all if further else any
    headings = [ZOO_HEADINGS[one] for one in (*shown_sets, "mean")]
    columns = ["model", *headings, "Δ published", "Δ base", "n", "graded by"]
    no_gain = [Cell(), Cell(), Cell("published"), Cell(PUBLISHED_RULE)]
    shown: list[tuple[str, int | None, list[Interval | None], list[Cell]]]
    shown = [(title, 0, _published_row(key, sets, further), no_gain) for title, key in rows.items()]
    rules = {PUBLISHED_RULE}
    own = [arm for arm in arms.arms if enough(metric_estimate(frames, arm, f"eval/{one}/accuracy") for one in sets)]
    for arm in own:
        mean = average_estimate(frames, arm, sets)
        published = _published_average(frames, arm, rows, sets, against)
        rule = evaluation_rule(frames, arm.runs) or PUBLISHED_RULE
        rules.add(rule)
        if rule != PUBLISHED_RULE:
            published = None
        difference = None if mean is None or published is None else shifted(mean, -published)
        seeds = arm.seeds(frames)
        gains = [_estimate_cell(one, seeds, signed=True) for one in (difference, gain_estimate(frames, arm, sets))]
        estimates = [*(metric_estimate(frames, arm, f"eval/{one}/accuracy") for one in shown_sets), mean]
        known_rule = Cell(evaluation_rule(frames, arm.runs))
        shown.append((arm.label, seeds, estimates, [*gains, *text_cells([seeds]), known_rule]))
    by_column = list(zip(*(estimates for _, _, estimates, _ in shown), strict=True))
    best = [significantly_best(column) if len(rules) == 1 else None for column in by_column]
    body = []
    for index, (title, seeds, estimates, tail) in enumerate(shown):
        cells = [
            _estimate_cell(one, seeds, percent=True, bold=top == index)
            for one, top in zip(estimates, best, strict=True)
        ]
        body.append([Cell(title), *cells, *tail])
    bold_note = BOLD_NOTE if len(rules) == 1 else OTHER_RULES_NOTE
    notes = [INTERVAL_NOTE, PUBLISHED_NOTE, bold_note, *missing_start_note(frames, arms, sets)] if own else []
    kept = len(columns) if any(evaluation_rule(frames, arm.runs) for arm in own) else len(columns) - 1
    kept = kept if own else len(shown_sets) + 2
    columns, body = columns[:kept], [row[:kept] for row in body]
    notes += [TWO_ZERO_ROWS] if "SimpleRL-Zero" in rows.values() else []
    return Table(name, caption, columns, body, (len(rows) - 1,), notes)


def _published_row(key: str, sets: Sequence[str], further: Sequence[str]) -> list[Interval | None]:
    """Return the published accuracies of `sets` and `further`, and the average over `sets` if that is published."""
    row = ROWS[key]
    names = (*sets, *further)
    cells = [published_estimate(name.removesuffix("_avg32"), row[name]) if name in row else None for name in names]
    has_average = tuple(sets) == averaged_sets(key) and "mean" in row
    return [*cells, published_estimate("mean", row["mean"], sets) if has_average else None]


def _published_average(
    frames: Frames, arm: Arm, rows: dict[str, str], sets: Sequence[str], against: str | None
) -> float | None:
    """Return the published average over `sets` of the arm's recipe; None if there is none."""
    experiment = frames.config.at[arm.runs[0], "choices.experiment"] if "choices.experiment" in frames.config else None
    key = against or ROW_OF_EXPERIMENT.get(str(experiment))
    if key is None or averaged_sets(key) != tuple(sets):
        return None
    return ROWS[row_in_table(key, rows)].get("mean")


# Table of the runs


def ablation_metrics(frames: Frames) -> list[str]:
    """Return the metrics that an ablation shows by default: accuracies, behaviour and training reward.

    For runs of other code, which lack these, every eval/ metric is returned, or else every metric."""
    known = [*frames.metric_names(), *map(str, frames.summary.columns)]
    sets = frames.benchmarks()
    wanted = [f"eval/{name}/accuracy" for name in sets]
    wanted += ["eval/mean/accuracy"] if len(sets) != 1 else []
    shown_set = "mean" if "eval/mean/response_length" in known else sets[0] if sets else "mean"
    rules = {evaluation_rule(frames, [str(run)]) for run in frames.runs.index}
    fixed = [name for name in FIXED_ACCURACIES if rules != {name.replace("accuracy_", "") + " (math_verify)"}]
    wanted += [*(f"eval/{shown_set}/{leaf}" for leaf in (*fixed, *BEHAVIOUR)), "reward/mean"]
    found = [name for name in wanted if name in known]
    others = [name for name in dict.fromkeys(known) if name.startswith("eval/")]
    return found or others or list(dict.fromkeys(known))


def ablation_table(frames: Frames, arms: Arms, metrics: Sequence[str] = ()) -> Table:
    """Return a table with one row per arm.

    The columns are the settings that differ, the last values of `metrics` (default: `ablation_metrics`), the gain in
    accuracy since step 0, the number of seeds, and the last step."""
    known = list(dict.fromkeys([*frames.metric_names(), *map(str, frames.summary.columns)]))
    names = find_metrics(metrics, known) or ablation_metrics(frames)
    axes = [short_name(axis) for axis in arms.axes] or ["run"]
    estimates = [[metric_estimate(frames, arm, name) for arm in arms.arms] for name in names]
    rules = {arm.label: evaluation_rule(frames, arm.runs) for arm in arms.arms}
    one_rule = len({rule for rule in rules.values() if rule is not None}) < 2
    best = [_best_row(name, column, one_rule) for name, column in zip(names, estimates, strict=True)]
    sets = frames.benchmarks()
    rows = []
    for index, arm in enumerate(arms.arms):
        seeds = arm.seeds(frames)
        values = [
            _estimate_cell(
                column[index], seeds, percent=in_percent(name), digits=_digits(name, column), bold=top == index
            )
            for name, column, top in zip(names, estimates, best, strict=True)
        ]
        gain = [_estimate_cell(gain_estimate(frames, arm, sets), seeds, signed=True)] if sets else []
        settings = text_cells(arm.values.values()) or [Cell(arm.label)]
        graded = [] if one_rule else [Cell(rules[arm.label])]
        rows.append([*settings, *values, *gain, *text_cells([seeds, frames.last_step(arm.runs)]), *graded])
    columns = [*axes, *map(metric_label, names), *(["Δ accuracy from step 0"] if sets else []), "n", "step"]
    columns += [] if one_rule else ["graded by"]
    caption = "Runs by the settings that differ" if arms.axes else "The run"
    known_rules = [f"Accuracy: graded by {rule}." for rule in dict.fromkeys(rules.values()) if rule and one_rule]
    of_batch = [BATCH_NOTE] if any(name.startswith(OF_BATCH) for name in names) else []
    notes = [INTERVAL_NOTE, BOLD_NOTE, *of_batch, *known_rules, *arms.notes]
    notes += missing_start_note(frames, arms, sets)
    return Table("runs", f"{caption}; values at the last step.", columns, rows, (), notes)


def _best_row(name: str, column: Sequence[Interval | None], one_rule: bool) -> int | None:
    """Return the row that is significantly best, if any. Returns None for metrics that have no better or worse, such as
    lengths, and for incomparable ones, such as rewards by different functions or accuracies by different rules."""
    leaf = name.rpartition("/")[2]
    if not one_rule and leaf.startswith(("accuracy", "pass@", "maj@")) and leaf not in FIXED_ACCURACIES:
        return None
    if leaf in NEUTRAL or name.startswith(("time/", "reward/mean")) or re.search("length|reward", leaf):
        return None
    return significantly_best(column, higher=leaf not in LOWER_IS_BETTER)


def _digits(name: str, column: Sequence[Interval | None]) -> int:
    """Return the number of digits after the decimal point in a metric's column."""
    if in_percent(name) or "length" in name:
        return 1
    return 0 if all(cell is None or cell.mean.is_integer() for cell in column) else 3


def build_tables(
    frames: Frames, arms: Arms, average: str = "five", against: str | None = None, metrics: Sequence[str] = ()
) -> list[Table]:
    """Return tables 1 to 3 of the blog post and table 1 of SimpleRL-Zoo with the arms added and, if there are runs, the
    table of the runs. average: benchmarks that the averages are over, "five" or "eight". against: published row to
    compare with (None: that of the arm's experiment). metrics: columns of the table of the runs."""
    sets = AVERAGES[average]
    content = f"pass@1 in per cent, the average is over the {average} benchmarks shown, unweighted"
    tables = [
        accuracy_table("table1", f"Table 1: {content}.", TABLE_1, frames, arms, sets, against),
        Table("table2", "Table 2: data used, as published.", ["", *TABLE_2_COLUMNS], list(map(text_cells, TABLE_2))),
        accuracy_table("table3", f"Table 3 (part II): {content}.", TABLE_3, frames, arms, sets, against),
        accuracy_table("table_zoo", ZOO_CAPTION, TABLE_ZOO, frames, arms, ZOO_SETS, against, ZOO_FURTHER),
    ]
    return [*tables, ablation_table(frames, arms, metrics)] if arms.arms else tables


def statistics_tables(frames: Frames, arms: Arms, options: Options) -> list[Table]:
    """Return the tables that compare arms, if they have the data: the arms with costs and the gain over a random
    reward, differences to the baseline arm, and learning."""
    differences = difference_table(frames, arms, options)
    arms_table = result_table(frames, arms, options) if differences is not None else None
    found = [arms_table, differences, learning_table(frames, arms, options.target)]
    return [table for table in found if table is not None]


@reports_source_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("tables", __doc__)
    add_run_arguments(parser, "tables", nargs="*")
    parser.add_argument(
        "--average", choices=AVERAGES, default="five", help="benchmarks of tables 1 and 3 (default: %(default)s)"
    )
    parser.add_argument("--against", choices=ROWS, help="published row for Δ published (default: by the experiment)")
    parser.add_argument("--metrics", type=comma_separated, default="", help="columns of the table of the runs (A,B)")
    parser.add_argument("--equal", choices=UNITS, help="compare at this equal budget (default: the last evaluations)")
    add_comparison_arguments(parser)
    chosen = parser.parse_args(arguments)
    found = load(chosen.sources) if chosen.sources else assemble([])
    frames, arms = select_runs(found, unfinished=chosen.unfinished)
    print_notes([*frames.notes, *arms.notes])
    shown = (chosen.average, chosen.against, chosen.metrics)
    options = comparison_options(chosen)

    def build(cut: Frames) -> list[Table]:
        return [*build_tables(cut, arms, *shown), *statistics_tables(cut, arms, options)]

    for table in fair_tables(frames, arms, build, chosen.equal):
        paths = write(table, chosen.out)
        print(f"{paths[0].with_suffix('')}.{{md,tex,csv,html}}")
        if table.name in ("runs", *STATISTICS):
            print(markdown(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
