"""One self-contained page about any runs: python -m analysis.report RUN... --out report.html

It opens from disk without a network: summary and configuration of each run, the tables, interactive curves, and a
browser for the responses. RUN is whatever `analysis.sources` reads; responses come from run folders only."""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from analysis.arms import Arms, prepared, short, titles, varying
from analysis.curves import label
from analysis.frames import Frames
from analysis.render import Cell, Table, as_html
from analysis.report_data import POINTS, Responses, curve_data, response_data
from analysis.sources import SourceError, load, run_folders
from analysis.tables import tables_of
from simplerl.data.benchmarks import SUITE5

PAGE = Path(__file__).parent / "page"
FIRST_AND_LAST = ("eval/mean/accuracy", "eval/mean/response_length", "reward/mean", "rollout/code_share")
NOT_SHOWN = ("choices.", "run.", "tracking.", "_")
SETTINGS = 40  # rows of the table of differences


def write_report(
    sources: Sequence[str | Path], out: Path, title: str = "", *, average: str = "five", unfinished: bool = False
) -> Path:
    """Raises SourceError where a source cannot be read."""
    frames, arms = prepared(load(sources), unfinished=unfinished)
    if frames.runs.empty:
        raise SourceError("There is no run to report on.")
    kept = set(frames.runs.index)
    folders = [folder for source in sources if Path(source).exists() for folder in run_folders(Path(source))]
    names = [(folder.resolve().name, folder) for folder in folders]
    called = titles(frames, arms)
    responses = response_data([(called[name], folder) for name, folder in dict(names).items() if name in kept])
    text = page(frames, arms, responses, title or _title(arms), average)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return out


def _title(arms: Arms) -> str:
    return "SimpleRL: " + (" · ".join(arm.label for arm in arms.arms[:6]) + (" · …" if len(arms.arms) > 6 else ""))


def page(frames: Frames, arms: Arms, responses: Responses, title: str, average: str) -> str:
    """The whole HTML. Text from runs is escaped, or stands in data that scripts only read as text."""
    from plotly.offline import get_plotlyjs

    curves = json.dumps(curve_data(frames, arms), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    steps = frames.metrics.groupby("run", observed=True)["step"].nunique()
    thinned = f"Curves of more than {POINTS} points are thinned." if len(steps) and steps.max() > POINTS else ""
    tables = [table for table in tables_of(frames, arms, average) if _has_ours(table, frames)]
    notes = [*frames.notes, *arms.notes]
    nonce = hashlib.sha256((curves + responses.packed + title).encode()).hexdigest()[:24]
    seeds = (
        ""
        if all(len(arm.runs) == 1 for arm in arms.arms)
        else "; lines are means over seeds, bands the least to the greatest"
    )
    return Template((PAGE / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        subtitle=html.escape(f"{_counted(len(frames.runs), 'run')}, {_counted(len(arms.arms), 'arm')}{seeds}."),
        css=(PAGE / "report.css").read_text(encoding="utf-8"),
        js=(PAGE / "report.js").read_text(encoding="utf-8"),
        nonce=nonce,
        runs="".join(map(as_html, (summary_table(frames, arms), difference_table(frames, titles(frames, arms))))),
        notes=_notes(notes),
        tables="".join(map(as_html, tables)),
        curves_note=thinned,
        rollouts_note=html.escape(responses.note),
        curve_data=curves,
        rollout_data=responses.packed,
        plotly=get_plotlyjs(),
    )


def _has_ours(table: Table, frames: Frames) -> bool:
    """The published tables only where a run has their benchmarks."""
    return table.name == "runs" or (table.name != "table2" and bool(set(frames.eval_sets()) & set(SUITE5)))


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return (
        f"<details><summary>{len(notes)} notes on what was left out or put together</summary><ul>{items}</ul></details>"
    )


def summary_table(frames: Frames, arms: Arms) -> Table:
    """A run a row: state, steps, time, first and last values."""
    metrics = [name for name in FIRST_AND_LAST if name in frames.metrics]
    called = titles(frames, arms)
    rows = []
    for arm in arms.arms:
        for run in arm.runs:
            facts = frames.runs.loc[run]
            steps = frames.metrics.loc[frames.metrics["run"] == run, "step"]
            seconds = facts["seconds"]
            cells = [facts["name"], facts["state"] or "unknown", str(steps.max()) if len(steps) else "-"]
            cells += ["-" if pd.isna(seconds) else f"{seconds / 60:.1f} min", str(facts["created"] or "-")[:16]]
            cells += [_first_to_last(frames, run, name) for name in metrics]
            rows.append([Cell(text) for text in (called[run], *map(str, cells))])
    columns = [
        "arm",
        "run",
        "state",
        "last step",
        "time",
        "started",
        *(f"{label(name)}: first → last" for name in metrics),
    ]
    return Table("summary", "Each run", columns, rows)


def _first_to_last(frames: Frames, run: str, name: str) -> str:
    from analysis.curves import is_share

    curve = frames.curve(run, name) * (100 if is_share(name) else 1)
    if not len(curve):
        return "-"
    return (
        f"{curve.iloc[0]:.1f} → {curve.iloc[-1]:.1f}"
        if abs(curve).max() > 10
        else f"{curve.iloc[0]:.2f} → {curve.iloc[-1]:.2f}"
    )


def difference_table(frames: Frames, called: dict[str, str]) -> Table:
    """A setting a row, where runs differ; the choices first."""
    keys = varying(frames.config)
    keys = [key for key in keys if key.startswith("choices.")] + [key for key in keys if not key.startswith(NOT_SHOWN)]
    rows = [
        [Cell(key), *(Cell("-" if _absent(value) else str(value)) for value in frames.config[key])]
        for key in keys[:SETTINGS]
    ]
    caption = "What differs between their configurations" if rows else "Their configurations are the same"
    if len(keys) > SETTINGS:
        caption += f" ({SETTINGS} of {len(keys)} settings)"
    if not rows and "choices.reward" in frames.config:
        chosen = [
            str(key) for key in frames.config.columns if str(key).startswith("choices.") and key != "choices.local"
        ]
        chosen = [key for key in chosen if str(frames.config[key].iloc[0]) != "None"]
        rows = [[Cell(short(key)), *(Cell(str(value)) for value in frames.config[key])] for key in chosen]
        caption = "The option of each group"
    return Table("differences", caption, ["setting", *(called[str(run)] for run in frames.runs.index)], rows)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and pd.isna(value))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    parser.add_argument("--title", default="")
    parser.add_argument("--average", choices=("five", "eight"), default="five", help="benchmarks of tables 1 and 3")
    parser.add_argument("--unfinished", action="store_true", help="show failed and crashed runs, too")
    chosen = parser.parse_args(arguments)
    try:
        out = write_report(
            chosen.sources, chosen.out, chosen.title, average=chosen.average, unfinished=chosen.unfinished
        )
    except SourceError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
