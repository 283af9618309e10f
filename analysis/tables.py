"""The paper's tables with the suite's runs beside the published rows, and a table for any ablation.

python -m analysis.tables RUN... --out DIR [--average five|eight]
RUN is a run folder, a folder of run folders, or anything that W&B exports (see `analysis.sources`); without any, the
published tables alone are written."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from analysis.arms import Arm, Arms, prepared, short
from analysis.curves import is_share, label
from analysis.estimates import Estimate, best, over_seeds, published_estimate
from analysis.frames import Frames, assemble
from analysis.published_tables import (
    HEADINGS,
    OF_EXPERIMENT,
    TABLE_1,
    TABLE_2,
    TABLE_2_COLUMNS,
    TABLE_3,
    TWO_ROWS,
    row_of,
)
from analysis.render import Cell, Table, write
from analysis.sources import SourceError, load
from simplerl.data.benchmarks import BENCHMARKS, PUBLISHED, SUITE5

AVERAGES = {"five": SUITE5, "eight": (*SUITE5, *(name for name in BENCHMARKS if name not in SUITE5))}
BEHAVIOUR = ("response_length", "truncated_share", "box_share", "code_share", "reflection_share")
LOWER_IS_BETTER = ("loss", "truncated_share", "no_answer_fraction", "timeout_fraction", "failed_fraction", "repetition")
NEUTRAL = ("response_length", "code_share", "reflection_share", "box_share", "entropy", "kl", "lr", "step")
INTERVAL = (
    "Ours: mean over n seeds, ± half of the 95 % t interval over seeds, or of that over the benchmark's items where "
    "this is known and wider; with one seed, or seeds that agree, ± that over the items alone."
)
AGAINST = (
    "Δ published: ± is our own error alone (what the published row's items could have made of it is left out; bold "
    "counts it)."
)
BOLD = "Bold: best of its column, where its difference from every other row excludes 0 (95 %)."


def estimate(frames: Frames, arm: Arm, name: str) -> Estimate | None:
    """The last value of a metric over the arm's seeds; shares in per cent; None where no run has it."""
    scale = 100.0 if is_share(name) else 1.0
    found = {run: scale * value for run in arm.runs if (value := frames.last(run, name)) is not None}
    if not found:
        return None
    errors = [frames.last(run, f"{name}_se") if name.endswith("/accuracy") else None for run in found]
    return over_seeds(list(found.values()), [scale * error if error else None for error in errors])


def set_mean(frames: Frames, run: str, sets: Sequence[str], *, start: bool = False) -> float | None:
    """The unweighted mean accuracy (per cent) over the sets at the last evaluation, or at step 0 where another came
    after it; None where the run lacks a set."""
    values = []
    for name in sets:
        value = frames.last(run, f"eval/{name}/accuracy")
        if start:
            curve = frames.curve(run, f"eval/{name}/accuracy")
            value = float(curve.iloc[0]) if len(curve) > 1 and curve.index[0] == 0 else None
        if value is None:
            return None
        values.append(100 * value)
    return math.fsum(values) / len(values) if values else None


def average(frames: Frames, arm: Arm, sets: Sequence[str]) -> Estimate | None:
    """Over the seeds that have every set: of each the mean over the sets, whose errors add up."""
    means, errors = [], []
    for run in arm.runs:
        mean = set_mean(frames, run, sets)
        if mean is not None:
            means.append(mean)
            parts = [frames.last(run, f"eval/{name}/accuracy_se") for name in sets]
            known = [100 * part for part in parts if part]
            errors.append(math.hypot(*known) / len(sets) if len(known) == len(sets) else None)
    return over_seeds(means, errors) if means else None


def gain(frames: Frames, arm: Arm, sets: Sequence[str]) -> Estimate | None:
    """From step 0, paired within each seed, over the seeds that were evaluated there."""
    pairs = [(set_mean(frames, run, sets), set_mean(frames, run, sets, start=True)) for run in arm.runs]
    differences = [last - first for last, first in pairs if last is not None and first is not None]
    return over_seeds(differences) if differences else None


def without_start(frames: Frames, arms: Arms, sets: Sequence[str]) -> list[str]:
    """A note on runs whose evaluations do not begin at step 0."""
    late = []
    for arm in arms.arms:
        runs = [run for run in arm.runs if set_mean(frames, run, sets) is not None]
        lack = [run for run in runs if not all(_starts(frames, run, name) for name in sets)]
        if lack:
            late.append(arm.label if len(lack) == len(runs) else f"{len(lack)} of {len(runs)} of {arm.label}")
    return [f"No evaluation at step 0, so left out of the difference from there: {'; '.join(late)}."] if late else []


def _starts(frames: Frames, run: str, name: str) -> bool:
    return 0 in frames.curve(run, f"eval/{name}/accuracy").index


def accuracy_table(
    name: str, caption: str, rows: dict[str, str], frames: Frames, arms: Arms, sets: Sequence[str], against: str | None
) -> Table:
    """Published rows, then an arm a row; columns: benchmarks, average, its difference from the published row of the
    same recipe and from the run's own start, seeds."""
    columns = ["model", *(HEADINGS[one] for one in sets), HEADINGS["mean"], "Δ published", "Δ base", "n"]
    table: list[list[Estimate | None]] = []
    names, tails = [], list[list[Cell]]()
    for title, key in rows.items():
        own = PUBLISHED[key]
        complete = tuple(sets) == SUITE5 and "mean" in own
        cells = [published_estimate(one, own[one]) if one in own else None for one in sets]
        table.append([*cells, published_estimate("mean", own["mean"], SUITE5) if complete else None])
        names.append(title)
        tails.append([Cell(), Cell(), Cell("published")])
    ours = [arm for arm in arms.arms if any(estimate(frames, arm, f"eval/{one}/accuracy") for one in sets)]
    for arm in ours:
        mean = average(frames, arm, sets)
        table.append([*(estimate(frames, arm, f"eval/{one}/accuracy") for one in sets), mean])
        names.append(arm.label)
        own_row = _own_row(frames, arm, rows, against) if tuple(sets) == SUITE5 else None
        published = None if mean is None or own_row is None else replace(mean, mean=mean.mean - own_row)
        base = gain(frames, arm, sets)
        differences = [Cell(one, signed=True, mark=_fewer(one, len(arm.runs))) for one in (published, base)]
        tails.append([*differences, Cell(str(len(arm.runs)))])
    tops = [best([row[i] for row in table]) for i in range(len(sets) + 1)]
    seeds = [0] * len(rows) + [len(arm.runs) for arm in ours]
    body = [
        [
            Cell(title),
            *(Cell(cell, bold=tops[i] == place, mark=_fewer(cell, n)) for i, cell in enumerate(cells)),
            *tail,
        ]
        for place, (title, cells, tail, n) in enumerate(zip(names, table, tails, seeds, strict=True))
    ]
    notes = [INTERVAL, AGAINST, BOLD, *without_start(frames, arms, sets)] if ours else []
    if not ours:
        columns, body = columns[: len(sets) + 2], [row[: len(sets) + 2] for row in body]
    return Table(name, caption, columns, body, (len(rows) - 1,), [*notes, TWO_ROWS])


def _own_row(frames: Frames, arm: Arm, rows: dict[str, str], against: str | None) -> float | None:
    """The published average of the same recipe."""
    experiment = frames.config.at[arm.runs[0], "choices.experiment"] if "choices.experiment" in frames.config else None
    key = against or OF_EXPERIMENT.get(str(experiment))
    return PUBLISHED[row_of(key, rows)].get("mean") if key is not None else None


def data_table() -> Table:
    rows = [[Cell(text) for text in row] for row in TABLE_2]
    return Table("table2", "Table 2: data used, as published.", ["", *TABLE_2_COLUMNS], rows)


def ablation_metrics(frames: Frames) -> list[str]:
    """What an ablation's columns are: accuracies and behaviour of the suite's own runs; of others, every eval/ metric,
    or else everything."""
    known = [*frames.names(), *map(str, frames.summary.columns)]
    sets = frames.eval_sets()
    wanted = [f"eval/{name}/accuracy" for name in sets]
    wanted += ["eval/mean/accuracy"] if len(sets) != 1 else []
    behind = "mean" if "eval/mean/response_length" in known else sets[0] if sets else "mean"
    wanted += [f"eval/{behind}/{leaf}" for leaf in BEHAVIOUR]
    wanted += ["reward/mean"]
    found = [name for name in wanted if name in known]
    others = [name for name in dict.fromkeys(known) if name.startswith("eval/")]
    return found or others or list(dict.fromkeys(known))


def ablation_table(frames: Frames, arms: Arms, metrics: Sequence[str] = ()) -> Table:
    """Rows: what differs between the runs. Columns: metrics at the last step, the change of the accuracy from step 0,
    seeds and the last step."""
    names = list(metrics) or ablation_metrics(frames)
    axes = [short(axis) for axis in arms.axes] or ["run"]
    cells = [[estimate(frames, arm, name) for arm in arms.arms] for name in names]
    tops = [_best(name, column) for name, column in zip(names, cells, strict=True)]
    sets = frames.eval_sets()
    rows = []
    for place, arm in enumerate(arms.arms):
        left = [Cell(str(value) if value is not None else None) for value in arm.values.values()] or [Cell(arm.label)]
        middle = [
            Cell(
                column[place],
                digits=_digits(name, column),
                bold=top == place,
                mark=_fewer(column[place], len(arm.runs)),
            )
            for name, column, top in zip(names, cells, tops, strict=True)
        ]
        change = gain(frames, arm, sets)
        base = Cell(change, signed=True, mark=_fewer(change, len(arm.runs)))
        steps = frames.metrics.loc[frames.metrics["run"].isin(arm.runs), "step"]
        last = str(steps.max()) if len(steps) else None
        rows.append([*left, *middle, *([base] if sets else []), Cell(str(len(arm.runs))), Cell(last)])
    columns = [*axes, *map(label, names), *(["Δ accuracy from step 0"] if sets else []), "n", "step"]
    caption = "Runs by what differs between them" if arms.axes else "The run"
    notes = [INTERVAL, BOLD, *arms.notes, *without_start(frames, arms, sets)]
    return Table("runs", f"{caption}; values at the last step.", columns, rows, (), notes)


def _fewer(cell: Estimate | None, seeds: int) -> str:
    """Where not all of the arm's seeds stand behind a number."""
    return f"n={cell.n}" if cell is not None and cell.n != seeds else ""


def _best(name: str, column: Sequence[Estimate | None]) -> int | None:
    leaf = name.rpartition("/")[2]
    if leaf in NEUTRAL or name.startswith(("time/", "reward/mean")):
        return None  # no better or worse: another reward function's scale, a length
    return best(column, higher=leaf not in LOWER_IS_BETTER)


def _digits(name: str, column: Sequence[Estimate | None]) -> int:
    if is_share(name) or "length" in name:
        return 1
    return 0 if all(cell is None or cell.mean.is_integer() for cell in column) else 3


def tables_of(
    frames: Frames, arms: Arms, average_of: str = "five", against: str | None = None, metrics: Sequence[str] = ()
) -> list[Table]:
    sets = AVERAGES[average_of]
    said = f"pass@1 in per cent, the average is over the {average_of} benchmarks shown, unweighted"
    tables = [
        accuracy_table("table1", f"Table 1: {said}.", TABLE_1, frames, arms, sets, against),
        data_table(),
        accuracy_table("table3", f"Table 3 (part II): {said}.", TABLE_3, frames, arms, sets, against),
    ]
    return [*tables, ablation_table(frames, arms, metrics)] if arms.arms else tables


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("tables"))
    parser.add_argument("--average", choices=AVERAGES, default="five", help="benchmarks of tables 1 and 3")
    parser.add_argument("--against", choices=PUBLISHED, help="published row for Δ published (default: by experiment)")
    parser.add_argument("--metrics", default="", help="columns of the table of runs (names with commas between them)")
    parser.add_argument("--unfinished", action="store_true", help="show failed and crashed runs, too")
    chosen = parser.parse_args(arguments)
    try:
        found = load(chosen.sources) if chosen.sources else assemble([])
    except SourceError as error:
        print(error, file=sys.stderr)
        return 2
    frames, arms = prepared(found, unfinished=chosen.unfinished)
    for note in [*frames.notes, *arms.notes]:
        print(f"note: {note}", file=sys.stderr)
    names = [name for name in chosen.metrics.split(",") if name]
    for table in tables_of(frames, arms, chosen.average, chosen.against, names):
        paths = write(table, chosen.out)
        print(f"{paths[0].with_suffix('')}.{{md,tex,csv,html}}")
        if table.name == "runs":
            print(paths[0].read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
