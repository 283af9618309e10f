"""Write one self-contained HTML page about any set of runs: python -m analysis.report RUN... --out report.html

The page opens from disk without a network. It begins with the result, what it cost, how to repeat it, four curves and
three responses; then come more curves, solve rates per problem, tables, a browser for the responses, and the settings.
Responses and solve rates come from run folders only."""

from __future__ import annotations

import hashlib
import html
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from rich.console import Console

from analysis.arms import Arms, differing_settings, is_missing, run_titles, select_runs, short_name
from analysis.commands import (
    add_comparison_arguments,
    add_run_arguments,
    comparison_options,
    make_parser,
    print_notes,
    reports_source_errors,
)
from analysis.curves import in_percent, metric_label
from analysis.differences import DEFAULT, Options, difference_table
from analysis.frames import Frames
from analysis.headline import Result, alarms_html, facts_html, fairness_html, forest_html, headline_html, results_of
from analysis.marks import fair_tables, fairness_tables
from analysis.published_tables import ZOO_SETS
from analysis.report_data import MAX_POINTS, curve_data
from analysis.report_responses import MEGABYTES, Responses, response_data
from analysis.run_data import SourceError
from analysis.sources import find_run_folders, load
from analysis.tables import AVERAGES, STATISTICS, ablation_table, build_tables, statistics_tables
from analysis.telling import Telling, solve_rates, telling_html, telling_responses
from simplerl.data.benchmarks import SUITE5
from simplerl.io.tables import Table, as_html, text_cells

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("charts.js", "browser.js")
SUMMARY_METRICS = ("eval/mean/accuracy", "eval/mean/response_length", "reward/mean", "rollout/code_share")
HIDDEN_SETTINGS = ("choices.", "run.", "tracking.", "_")
MAX_TITLE = 70  # characters of a title that names every arm
MAX_SETTINGS = 40  # rows of the table of settings


def write_report(
    sources: Sequence[str | Path],
    out: Path,
    title: str = "",
    *,
    average: str = "five",
    unfinished: bool = False,
    options: Options = DEFAULT,
    megabytes: float = MEGABYTES,
) -> Path:
    """Write the page about all runs of `sources` to `out` and return `out`. Raises SourceError if a source cannot be
    read or contains no run.

    title: "" for a title made from the arms. average: benchmarks that averages are over, "five" or "eight". unfinished:
    include failed and crashed runs. megabytes: the most that texts of responses may take in the page."""
    frames, arms = select_runs(load(sources), unfinished=unfinished)
    if frames.runs.empty:
        raise SourceError("there is no run to report on: name a run folder, or a folder of run folders.")
    print_notes([*frames.notes, *arms.notes])
    folders = [folder for source in sources if Path(source).exists() for folder in find_run_folders(Path(source))]
    by_name = {folder.resolve().name: folder for folder in folders}
    results = results_of(frames, arms, options)
    telling = _telling(frames, results, by_name)
    titles = run_titles(frames, arms)
    shown = [(titles[name], folder) for name, folder in by_name.items() if name in titles]
    always = [(Path(one["file"]), int(one["row"])) for _, found in telling for each in found for one in each.rows()]
    responses = response_data(shown, megabytes, always)
    parts = _first_screen(frames, arms, results) | {"telling": _telling_html(telling, titles)}
    text = render_page(frames, arms, responses, title or _default_title(frames, arms), average, options, parts)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return out


def _default_title(frames: Frames, arms: Arms) -> str:
    """Return the labels of the arms or, with one arm, the experiment or the algorithm, model, data and reward."""
    row = frames.config.iloc[0]
    chosen = [row.get(f"choices.{name}") for name in ("experiment", "algorithm", "model", "data", "reward")]
    known = [None if is_missing(one) or one == "None" else str(one) for one in chosen]
    if len(arms.arms) == 1 and any(known):
        return known[0] or " · ".join(dict.fromkeys(one for one in known if one))
    labels = " · ".join(arm.label for arm in arms.arms)
    axes = " × ".join(short_name(axis) for axis in arms.axes)
    return labels if len(labels) < MAX_TITLE or not axes else f"{axes}: {len(arms.arms)} arms"


def _telling(frames: Frames, results: Sequence[Result], folders: Mapping[str, Path]) -> list[tuple[str, list[Telling]]]:
    """Return the telling responses of the arm of highest accuracy, of its first run that has some: (run, responses)."""
    ranked = sorted(results, key=lambda one: -one.accuracy.mean if one.accuracy else 1.0)
    for run in (run for one in ranked for run in one.arm.runs if run in folders):
        if found := telling_responses(folders[run]):
            return [(run, found)]
    return []


def _telling_html(telling: Sequence[tuple[str, list[Telling]]], titles: Mapping[str, str]) -> str:
    return "".join(telling_html(found, run, titles[run]) for run, found in telling)


def _first_screen(frames: Frames, arms: Arms, results: Sequence[Result]) -> dict[str, str]:
    return {
        "headline": headline_html(frames, results),
        "forest": forest_html(frames, results),
        "facts": facts_html(frames, arms),
        "alarms": alarms_html(frames, run_titles(frames, arms)),
        "fairness": fairness_html(frames, arms),
    }


def render_page(
    frames: Frames,
    arms: Arms,
    responses: Responses,
    title: str,
    average: str,
    options: Options,
    parts: Mapping[str, str],
) -> str:
    """Return the page's HTML. Text from runs is escaped, or embedded as data that scripts insert as text only."""
    curves, heat = _embedded(curve_data(frames, arms)), _embedded(solve_rates(frames, arms))
    steps = frames.metrics.groupby("run", observed=True)["step"].nunique()
    thinned = len(steps) and steps.max() > MAX_POINTS
    built = fair_tables(
        frames, arms, lambda cut: [*statistics_tables(cut, arms, options), *build_tables(cut, arms, average)]
    )
    tables = [table for table in built if _has_own_rows(table, frames)]
    shown = [summary_table(frames, arms), settings_table(frames, run_titles(frames, arms))]
    several = any(len(arm.runs) > 1 for arm in arms.arms)
    seeds = "; lines are means over seeds, bands range from the minimum to the maximum over seeds" if several else ""
    scripts = "".join(
        f'<script type="text/plain" id="chunk-{number}">{chunk}</script>\n'
        for number, chunk in enumerate(responses.chunks)
    )
    return Template((PAGE / "page.html").read_text(encoding="utf-8")).substitute(
        parts,
        title=html.escape(title),
        subtitle=html.escape(f"{_count(len(frames.runs), 'run')}, {_count(len(arms.arms), 'arm')}{seeds}."),
        css=(PAGE / "report.css").read_text(encoding="utf-8"),
        js="\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS),
        nonce=hashlib.sha256((curves + responses.index + title).encode()).hexdigest()[:24],
        runs="".join(map(as_html, [*shown, *fairness_tables(frames, arms)])),
        notes=_notes_html([*frames.notes, *arms.notes]),
        tables="".join(map(_with_folded_notes, tables)),
        curves_note=f"Curves of more than {MAX_POINTS} points are thinned." if thinned else "",
        rollouts_note=html.escape(responses.note),
        curve_data=curves,
        heat_data=heat,
        rollout_data=responses.index,
        chunks=scripts,
        written=time.strftime("of %Y-%m-%d %H:%M"),
    )


def _embedded(data: Any) -> str:
    """Return data as JSON that cannot end a script element."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _has_own_rows(table: Table, frames: Frames) -> bool:
    """Return whether a table has rows for `frames`: a published table has some only if a run has its benchmarks."""
    if table.name == "table_zoo":
        return set(ZOO_SETS) <= set(frames.benchmarks())
    return table.name in ("runs", *STATISTICS) or (
        table.name != "table2" and bool(set(frames.benchmarks()) & set(SUITE5))
    )


def _with_folded_notes(table: Table) -> str:
    """Return a table as HTML whose notes are shown on demand."""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    notes = f"<details class='notes'><summary>Notes</summary><ul>{items}</ul></details>" if items else ""
    return as_html(replace(table, notes=[])).replace("</figure>", f"{notes}</figure>")


def _notes_html(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    summary = f"{_count(len(notes), 'note')} on what was skipped or merged while reading"
    return f"<details><summary>{summary}</summary><ul>{items}</ul></details>"


def summary_table(frames: Frames, arms: Arms) -> Table:
    """Return one row per run with its state, last step, time, and the first and last value of some metrics."""
    metrics = [name for name in SUMMARY_METRICS if name in frames.metrics]
    titles = run_titles(frames, arms)
    rows = []
    for run in (run for arm in arms.arms for run in arm.runs):
        facts = frames.runs.loc[run]
        seconds = facts["seconds"]
        cells = [titles[run], facts["name"], facts["state"] or "unknown", frames.last_step([run])]
        cells += [None if pd.isna(seconds) else f"{seconds / 60:.1f} min", str(facts["created"] or "-")[:16]]
        rows.append(text_cells([*cells, *(_first_to_last(frames, run, name) for name in metrics)]))
    columns = ["arm", "run", "state", "last step", "time", "started"]
    columns += [f"{metric_label(name)}: first → last" for name in metrics]
    return Table("summary", "Each run", columns, rows, align="l" * len(columns))


def _first_to_last(frames: Frames, run: str, name: str) -> str | None:
    curve = frames.curve(run, name) * (100 if in_percent(name) else 1)
    if not len(curve):
        return None
    digits = 1 if abs(curve).max() > 10 else 2
    return f"{curve.iloc[0]:.{digits}f} → {curve.iloc[-1]:.{digits}f}"


def settings_table(frames: Frames, titles: dict[str, str]) -> Table:
    """Return one row per setting that differs between runs, choices of groups first; if none differs, the choices."""
    keys = differing_settings(frames.config)
    keys = [key for key in keys if key.startswith("choices.")] + [
        key for key in keys if not key.startswith(HIDDEN_SETTINGS)
    ]
    rows = [[key, *_shown_values(frames, key)] for key in keys[:MAX_SETTINGS]]
    caption = "Settings that differ" if rows else "All settings are equal"
    if len(keys) > MAX_SETTINGS:
        caption += f" ({MAX_SETTINGS} of {len(keys)})"
    if not rows and "choices.reward" in frames.config:
        choices = [key for key in map(str, frames.config.columns) if key.startswith("choices.")]
        choices = [key for key in choices if key != "choices.local" and str(frames.config[key].iloc[0]) != "None"]
        rows = [[short_name(key), *_shown_values(frames, key)] for key in choices]
        caption = "Chosen option of each configuration group"
    columns = ["setting", *(titles[str(run)] for run in frames.runs.index)]
    return Table("differences", caption, columns, [text_cells(row) for row in rows], align="l" * len(columns))


def _shown_values(frames: Frames, key: str) -> list[str | None]:
    return [None if is_missing(value) else str(value) for value in frames.config[key]]


def show_sweep(folder: Path) -> None:
    """Print the results of a sweep, each arm against the first or, with one arm, its runs, and write its report.html.
    Runs that cannot be read are named."""
    try:
        frames, arms = select_runs(load([folder]))
        Console().print(difference_table(frames, arms, DEFAULT) or ablation_table(frames, arms))
        print(f"Report: {write_report([folder], folder / 'report.html')}", flush=True)
    except SourceError as error:
        print(f"No report: {error}", file=sys.stderr)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@reports_source_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("report", __doc__)
    add_run_arguments(parser, "report.html")
    parser.add_argument("--title", default="", help="title of the page (default: the arms)")
    parser.add_argument(
        "--average", choices=AVERAGES, default="five", help="benchmarks of tables 1 and 3 (default: %(default)s)"
    )
    help_size = "the most that texts of responses take in the page (default: %(default)g)"
    parser.add_argument("--megabytes", type=float, default=MEGABYTES, metavar="N", help=help_size)
    add_comparison_arguments(parser)
    chosen = parser.parse_args(arguments)
    out = write_report(
        chosen.sources,
        chosen.out,
        chosen.title,
        average=chosen.average,
        unfinished=chosen.unfinished,
        options=comparison_options(chosen),
        megabytes=chosen.megabytes,
    )
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
