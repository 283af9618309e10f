"""Chooses three responses that tell what a run has learned, and computes solve rates per problem over steps."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from analysis.arms import Arms
from analysis.folders import evaluation_folders, naming, rollout_files
from analysis.frames import Frames
from analysis.run_data import SourceError
from simplerl.io.files import read_parquet
from simplerl.types import FINISH_LENGTH

COLUMNS = ["set", "problem_id", "sample", "question", "gold", "response", "finish_reason", "length", "correct"]
SHOWN_CHARACTERS = 900  # of a response on the first screen
MAX_PROBLEMS, MAX_STEPS = 1000, 60  # of the heat map


@dataclass(frozen=True)
class Telling:
    """Holds a response of the first screen: its title, the rule that chose it, its row of samples.parquet, and the row
    it is compared with (None: nothing)."""

    title: str
    rule: str
    row: dict[str, Any]  # with step, file and row, its number in the file
    before: dict[str, Any] | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows that the card shows."""
        return [self.row] if self.before is None else [self.before, self.row]


def telling_responses(folder: Path) -> list[Telling]:
    """Return up to three responses of a run's evaluations: the first lasting success after a wrong start, a typical
    success and a typical failure of the last evaluation; [] if it has none that can be read."""
    tables = _evaluations(folder)
    if not tables:
        return []
    last = max(tables)
    found = [_first_success(tables)] if len(tables) > 1 else []
    found += [_typical(tables[last], last, correct) for correct in (True, False)]
    return [one for one in found if one is not None]


def _evaluations(folder: Path) -> dict[int, pd.DataFrame]:
    """Return step -> responses of each evaluation that can be read."""
    tables = {}
    for step, place in evaluation_folders(folder).items():
        path = place / "samples.parquet"
        try:
            with naming(path):
                table = read_parquet(path, columns=COLUMNS).to_pandas()
        except SourceError:  # named by `response_data`
            continue
        if len(table):
            tables[step] = table.assign(step=step, file=str(path), row=range(len(table)))
    return tables


def _first_success(tables: dict[int, pd.DataFrame]) -> Telling | None:
    steps = sorted(tables)
    keys = ["set", "problem_id"]
    solved = pd.concat(
        {step: tables[step].groupby(keys, sort=False)["correct"].mean() for step in steps}, axis=1
    ).dropna()
    wrong_first = solved[solved[steps[0]] == 0]
    for place, step in enumerate(steps[1:], start=1):
        lasting = wrong_first[(wrong_first[steps[place:]] == 1).all(axis=1)]
        if len(lasting):
            name, problem = lasting.index[0]
            rows = [_first_of(tables[one], name, problem) for one in (step, steps[0])]
            rule = (
                f"The first problem of the evaluation set that is wrong at step {steps[0]} and correct in every "
                f"evaluation from step {step}, the earliest such step."
            )
            return Telling("First success after a wrong start", rule, rows[0], rows[1])
    return None


def _first_of(table: pd.DataFrame, name: str, problem: str) -> dict[str, Any]:
    found: dict[str, Any] = table[(table["set"] == name) & (table["problem_id"] == problem)].iloc[0].to_dict()
    return found


def _typical(table: pd.DataFrame, step: int, correct: bool) -> Telling | None:
    """Return the response of median length among the correct or the wrong ones."""
    own = table[table["correct"] == correct]
    if own.empty:
        return None
    distance = (own["length"] - own["length"].median()).abs()
    row: dict[str, Any] = own.loc[distance.idxmin()].to_dict()
    kind = "correct" if correct else "incorrect"
    rule = f"Of the {len(own):,} {kind} responses at step {step}, the first whose length is nearest to their median."
    return Telling(f"Typical {'success' if correct else 'failure'} at the end", rule, row)


# As HTML


def telling_html(found: Sequence[Telling], run: str, title: str) -> str:
    """Return the cards of the first screen. run: id of the run, for links; title: its name on the page."""
    cards = "".join(_card(one, run) for one in found)
    if not cards:
        return ""
    return (
        f'<section id="telling" aria-labelledby="telling-title"><h2 id="telling-title">Three telling responses</h2>'
        f'<p class="hint">From {html.escape(title)}. Each is chosen by the rule below it.</p>'
        f'<div class="cards">{cards}</div></section>'
    )


def _card(one: Telling, run: str) -> str:
    question = html.escape(str(one.row["question"] or ""))
    before = "" if one.before is None else _response(one.before, run)
    arrow = "" if one.before is None else '<p class="then">becomes</p>'
    return (
        f'<article class="card"><h3>{html.escape(one.title)}</h3><p class="question">{question}</p>{before}{arrow}'
        f'{_response(one.row, run)}<p class="rule">{html.escape(one.rule)}</p></article>'
    )


def _response(row: dict[str, Any], run: str) -> str:
    kind = "correct" if row["correct"] else "incorrect"
    text = str(row["response"] or "")
    shown = (
        text
        if len(text) <= SHOWN_CHARACTERS
        else f"{text[: SHOWN_CHARACTERS // 2]}\n…\n{text[-SHOWN_CHARACTERS // 2 :]}"
    )
    end = ", truncated" if row["finish_reason"] == FINISH_LENGTH else ""
    link = f"#response={response_key(run, row)}"
    return (
        f'<p class="verdict"><span class="{kind}">{kind}</span> step {row["step"]} · {row["length"]} tokens{end} · '
        f'gold <code>{html.escape(str(row["gold"] or ""))}</code> · <a href="{html.escape(link)}">open</a></p>'
        f'<pre tabindex="0" role="group" aria-label="Response at step {row["step"]}">{html.escape(shown)}</pre>'
    )


def response_key(run: str, row: dict[str, Any]) -> str:
    """Return the key of a response in permanent links, as page/browser.js makes it."""
    return "/".join(
        quote(str(part), safe="") for part in (run, row["set"], row["step"], row["problem_id"], row["sample"])
    )


# Solve rates


def solve_rates(frames: Frames, arms: Arms) -> dict[str, Any]:
    """Return, for the heat map, the per cent of correct responses (None: not sampled) per problem and step of each arm,
    over its seeds: of the evaluations or, without two of them, of the problems that were trained on in several steps;
    {} without either. Problems are sorted by their mean rate."""
    for evaluated in (True, False):
        found = {arm.label: _rates(frames, arm.runs, evaluated) for arm in arms.arms}
        known = {label: table for label, table in found.items() if table is not None and table.shape[1] > 1}
        if known:
            return _heat_map(known, evaluated)
    return {}


def _rates(frames: Frames, runs: Sequence[str], evaluated: bool) -> pd.DataFrame | None:
    """Return the solve rates of an arm, one row per problem (kind, id, question) and one column per step."""
    parts = []
    for run in runs:
        if frames.runs.at[run, "source"] != "folder":
            continue
        folder = Path(str(frames.runs.at[run, "where"]))
        places = {step: path / "samples.parquet" for step, path in evaluation_folders(folder).items()}
        files = places if evaluated else rollout_files(folder)
        for step in _evenly(sorted(files), MAX_STEPS):
            columns = [*(["set"] if evaluated else []), "problem_id", "question", "correct"]
            try:
                with naming(files[step]):
                    table = read_parquet(files[step], columns=columns).to_pandas()
            except SourceError:  # named by `response_data`
                continue
            table["set"] = table["set"] if evaluated else "training"
            parts.append(table.groupby(["set", "problem_id", "question"], sort=False)["correct"].mean().rename(step))
    if not parts:
        return None
    rates = pd.concat([part.reset_index().rename(columns={part.name: "rate"}).assign(step=part.name) for part in parts])
    wide = rates.pivot_table("rate", ["set", "problem_id", "question"], "step", aggfunc="mean", sort=True)
    return wide if evaluated else wide[wide.notna().sum(axis=1) > 1]


def _evenly(values: Sequence[int], most: int) -> list[int]:
    if len(values) <= most:
        return list(values)
    return [values[i] for i in sorted({round(k * (len(values) - 1) / (most - 1)) for k in range(most)})]


def _heat_map(tables: dict[str, pd.DataFrame], evaluated: bool) -> dict[str, Any]:
    mean = pd.concat([table.mean(axis=1) for table in tables.values()], axis=1).mean(axis=1)
    order = mean.sort_values(ascending=False, kind="stable").index
    order = order[_evenly(range(len(order)), MAX_PROBLEMS)]
    shown = []
    for label, table in tables.items():
        values = table.reindex(order)
        cells = [[None if pd.isna(x) else round(100 * x) for x in row] for row in values.to_numpy()]
        shown.append(
            {"label": label, "steps": [int(step) for step in table.columns], "values": cells, **_moves(values)}
        )
    problems = [{"kind": kind, "id": str(id), "question": str(question)[:160]} for kind, id, question in order]
    return {"evaluated": evaluated, "problems": problems, "all": len(mean), "arms": shown}


def _moves(rates: pd.DataFrame) -> dict[str, int]:
    """Return how many problems are mostly solved (at least half of the samples) at the first and the last step."""
    first, last = rates.bfill(axis=1).iloc[:, 0] >= 0.5, rates.ffill(axis=1).iloc[:, -1] >= 0.5
    return {
        "kept": int((first & last).sum()),
        "gained": int((~first & last).sum()),
        "lost": int((first & ~last).sum()),
        "never": int((~first & ~last).sum()),
    }
