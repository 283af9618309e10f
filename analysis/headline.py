"""Renders the first screen of the report: the result of each arm, its cost, how to repeat it, and its alarms."""

from __future__ import annotations

import html
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from analysis.arms import Arm, Arms, evaluation_rule
from analysis.budgets import budget_of_arm
from analysis.curves import arm_styles
from analysis.differences import (
    Compared,
    Options,
    accuracy_of,
    answers_of,
    compare_arms,
    gain_of,
    in_points,
    p_text,
)
from analysis.fairness import find_differences
from analysis.frames import Frames
from simplerl.evals.statistics import Interval

HOUR = 3600.0
WALL = ("time/step", "time/evaluate", "time/save")


@dataclass(frozen=True)
class Result:
    """Holds what the first screen says of an arm: accuracy at the last evaluation and its change from step 0, as
    fractions (None: not evaluated), the steps of these evaluations, and the comparison with the baseline arm."""

    arm: Arm
    accuracy: Interval | None
    gain: Interval | None
    step: int | None
    compared: Compared | None


def results_of(frames: Frames, arms: Arms, options: Options) -> list[Result]:
    """Return the results of all arms, in their order."""
    compared = {one.arm.label: one for one in compare_arms(frames, arms, options)}
    column = "correct" if len({evaluation_rule(frames, arm.runs) for arm in arms.arms}) < 2 else "correct_strict"
    found = []
    for arm in arms.arms:
        answers = answers_of(frames, arm, column) if arm.seeds(frames) is not None else None
        accuracy = None if answers is None else accuracy_of(answers)
        steps = [frames.curve(run, "eval/mean/accuracy") for run in arm.runs]
        last = max((int(curve.index[-1]) for curve in steps if len(curve)), default=None)
        gain = gain_of(frames, arm, column) if answers is not None else None
        found.append(Result(arm, accuracy, gain, last, compared.get(arm.label)))
    return found


# The result


def headline_html(frames: Frames, results: Sequence[Result]) -> str:
    """Return the headline: one large number for one arm, a comparison of all arms for several."""
    known = [one for one in results if one.accuracy is not None]
    if not known:
        return '<p class="lead">No run was evaluated: <code>evals=</code> chooses held-out problems.</p>'
    if len(results) == 1:
        return _single(frames, known[0])
    return _several(frames, results)


def _single(frames: Frames, one: Result) -> str:
    assert one.accuracy is not None
    shown = in_points(one.accuracy)
    spread = f'<span class="pm">± {shown.half_width:.1f}</span>' if shown.half_width is not None else ""
    parts = [f'<p class="big"><span class="value">{shown.mean:.1f}</span><span class="unit">%</span>{spread}</p>']
    parts.append(f'<p class="lead">held-out accuracy {_when(one)}{_items(frames, one)}</p>')
    if one.gain is not None:
        parts.append(f'<p class="gain">{points(one.gain)} since step 0</p>')
    return "".join(parts)


def _when(one: Result) -> str:
    return "" if one.step is None else f"after {one.step} step{'s' if one.step != 1 else ''}"


def _items(frames: Frames, one: Result) -> str:
    assert one.accuracy is not None
    sets = [name for name in frames.benchmarks() if any(len(frames.curve(run, _metric(name))) for run in one.arm.runs)]
    parts = [" and ".join(sets) if len(sets) < 4 else f"mean of {len(sets)} sets"] if sets else []
    parts += [f"{one.accuracy.n_items:,} problems"] if one.accuracy.n_items else []
    parts += [f"{len(one.arm.runs)} seeds"] if len(one.arm.runs) > 1 else []
    rule = evaluation_rule(frames, one.arm.runs)
    parts += [f"graded by {rule}"] if rule else []
    return html.escape(" · " + ", ".join(parts)) if parts else ""


def _metric(name: str) -> str:
    return f"eval/{name}/accuracy"


def points(found: Interval) -> str:
    """Return a difference in accuracy as HTML: points with the ends of the interval."""
    shown = in_points(found)
    ends = "" if shown.low is None or shown.high is None else f" <small>[{shown.low:+.1f}, {shown.high:+.1f}]</small>"
    return f"<b>{shown.mean:+.1f}</b>{ends} points".replace("-", "−")


def _several(frames: Frames, results: Sequence[Result]) -> str:
    known = [one for one in results if one.accuracy is not None]
    best = max(known, key=lambda one: one.accuracy.mean if one.accuracy else 0.0)
    base = next((one for one in results if one.compared is not None and one.compared.why == "baseline"), None)
    assert best.accuracy is not None
    shown = in_points(best.accuracy)
    spread = f'<span class="pm">± {shown.half_width:.1f}</span>' if shown.half_width is not None else ""
    parts = [f'<p class="big"><span class="value">{shown.mean:.1f}</span><span class="unit">%</span>{spread}</p>']
    parts.append(
        f'<p class="lead"><b>{html.escape(best.arm.label)}</b> reaches the highest held-out accuracy of '
        f"{len(known)} arms{_items(frames, best)}</p>"
    )
    if base is best:
        parts.append('<p class="gain">It is the baseline arm.</p>')
    elif base is not None and best.compared is not None and best.compared.found is not None:
        parts.append(
            f'<p class="gain">{points(best.compared.found.both)} against {html.escape(base.arm.label)}, '
            f"{best.compared.verdict}</p>"
        )
    return "".join(parts)


def forest_html(frames: Frames, results: Sequence[Result]) -> str:
    """Return a table with one row per arm: accuracy with its interval as number and as a mark on a common scale, the
    change from step 0 and the difference to the baseline; "" for one arm."""
    known = [in_points(one.accuracy) for one in results if one.accuracy is not None]
    if len(results) < 2 or not known:
        return ""
    lows = [one.mean if one.low is None else one.low for one in known]
    highs = [one.mean if one.high is None else one.high for one in known]
    start, end = max(min(lows) - 2, 0.0), min(max(highs) + 2, 100.0)
    styles = arm_styles([one.arm.label for one in results])
    rows = "".join(_forest_row(one, styles[one.arm.label].colour, start, end) for one in results)
    scale = f'<span class="ends"><span>{start:.0f} %</span><span>{end:.0f} %</span></span>'
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Result of each arm"><table class="forest">'
        '<caption class="sr">Result of each arm</caption><thead><tr><th scope="col">arm</th>'
        f'<th scope="col" class="number">accuracy (%)</th><th scope="col" class="marks">{scale}</th>'
        '<th scope="col" class="number desk">since step 0</th><th scope="col" class="number">against baseline</th>'
        '<th scope="col" class="number desk">p</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _forest_row(one: Result, colour: str, start: float, end: float) -> str:
    label = f'<th scope="row"><i class="swatch" style="--arm:{colour}"></i>{html.escape(one.arm.label)}</th>'
    if one.accuracy is None:
        return f'<tr>{label}<td colspan="5">not evaluated</td></tr>'
    shown = in_points(one.accuracy)
    spread = f" <small>± {shown.half_width:.1f}</small>" if shown.half_width is not None else ""
    low, high = (shown.mean if edge is None else edge for edge in (shown.low, shown.high))
    left, right, middle = (100 * (min(max(x, start), end) - start) / (end - start) for x in (low, high, shown.mean))
    mark = (
        f'<span class="track" style="--arm:{colour}"><i style="left:{left:.1f}%;width:{right - left:.1f}%"></i>'
        f'<b style="left:{middle:.1f}%"></b></span>'
    )
    gain = "" if one.gain is None else points(one.gain).removesuffix(" points")
    compared = one.compared
    if compared is None or compared.found is None or compared.p is None:
        against, p = html.escape(compared.why if compared else ""), ""
    else:
        against, p = points(compared.found.both).removesuffix(" points"), p_text(compared.p)
    cells = [f"<b>{shown.mean:.1f}</b>{spread}", mark, gain, against, p]
    kinds = ["number", "marks", "number desk", "number", "number desk"]
    return f"<tr>{label}" + "".join(f'<td class="{k}">{c}</td>' for k, c in zip(kinds, cells, strict=True)) + "</tr>"


# Cost, command, commit


def facts_html(frames: Frames, arms: Arms) -> str:
    """Return what the runs cost and how to repeat them, as a list of terms."""
    facts = [(name, html.escape(value)) for name, value in _costs(frames, arms) if value]
    command, commit = _command(frames), _commits(frames)
    terms = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in [*facts, ("commit", commit)] if value
    )
    line = (
        f'<pre class="command" tabindex="0" role="group" aria-label="Command"><code>{html.escape(command)}</code></pre>'
    )
    return f'<dl class="facts">{terms}</dl>' + (line if command else "")


def _costs(frames: Frames, arms: Arms) -> list[tuple[str, str]]:
    runs = [run for arm in arms.arms for run in arm.runs]
    each = " per run" if len(runs) > 1 else ""
    wall = [seconds for run in runs if (seconds := _wall_seconds(frames, run))]
    means = {unit: [budget_of_arm(frames, arm, unit) for arm in arms.arms] for unit in ("responses", "tokens")}
    known = {unit: [one for one in found if one is not None] for unit, found in means.items()}
    return [
        (f"time{each}", duration(fmean(wall)) if wall else ""),
        *((f"{unit}{each}", _amount(fmean(found)) if found else "") for unit, found in known.items()),
        ("devices", _devices(frames, runs)),
        ("runs", str(len(runs)) if len(runs) > 1 else ""),
    ]


def _wall_seconds(frames: Frames, run: str) -> float:
    return sum(float(frames.curve(run, name, phase).sum()) for name in WALL for phase in ("rl", "warmup"))


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def _amount(value: float) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1000.0 if unit == 'k' else limit):.3g} {unit}"
    return f"{value:,.0f}"


def _devices(frames: Frames, runs: Sequence[str]) -> str:
    found: dict[str, None] = {}
    for run in runs:
        environment = frames.environment(run)
        machine: dict[str, Any] = environment.get("machine") or {}
        gpus = [str(gpu) for gpu in machine.get("gpus") or []]
        if gpus:
            found[f"{len(gpus)} × {gpus[0]}"] = None
        elif environment.get("cpus"):
            found[f"{environment['cpus']} × {machine.get('cpu') or 'CPU'}"] = None
    return ", ".join(found)


def _command(frames: Frames) -> str:
    commands = {str(frames.environment(run).get("command") or "") for run in map(str, frames.runs.index)} - {""}
    if len(commands) == 1:
        return commands.pop()
    return "" if commands else _chosen_options(frames)


def _chosen_options(frames: Frames) -> str:
    """Return a command with the options that the only run was composed of; "" if they are unknown. For runs that did
    not record their command."""
    if len(frames.runs) > 1 or "choices.reward" not in frames.config:
        return ""
    row = frames.config.iloc[0]
    names = ("experiment", "model", "data", "reward", "algorithm", "train", "sampling", "warmup", "backend", "evals")
    chosen = [(name, row.get(f"choices.{name}")) for name in names]
    words = [f"{name}={value}" for name, value in chosen if not pd.isna(value) and str(value) not in ("None", "none")]
    return shlex.join(["python", "train.py", *words, f"seed={row.get('seed', 0)}"])


def _commits(frames: Frames) -> str:
    found: dict[str, None] = {}
    for run in map(str, frames.runs.index):
        environment = frames.environment(run)
        if commit := str(environment.get("commit") or ""):
            changed = " (modified)" if environment.get("modified") else ""
            found[f"<code>{html.escape(commit[:10])}</code>{changed}"] = None
    return ", ".join(found)


# Alarms


def alarms_html(frames: Frames, titles: dict[str, str]) -> str:
    """Return the alarms of all runs, or the statement that there are none; "" if only W&B recorded the runs."""
    rows, recorded = [], False
    for run, title in titles.items():
        for part in frames.parts.get(run, []):
            recorded = recorded or part.source == "folder"
            rows += [f"<li><b>{html.escape(title)}</b> {html.escape(alarm)}</li>" for alarm in part.alarms]
    if rows:
        count = f"{len(rows)} alarm{'s' if len(rows) > 1 else ''}"
        return f'<div class="alarms bad"><h2>{count}</h2><ul>{"".join(rows)}</ul></div>'
    return '<p class="alarms good">No alarms</p>' if recorded else ""


def fairness_html(frames: Frames, arms: Arms) -> str:
    """Return a warning that names the kinds of differences that make the comparison of arms unfair; "" without any."""
    kinds = list(dict.fromkeys(one.kind for one in find_differences(frames, arms)))
    if not kinds:
        return ""
    named = html.escape(", ".join(kinds))
    return f'<p class="alarms fair">The arms differ in more than their axes: <a href="#runs">{named}</a></p>'
