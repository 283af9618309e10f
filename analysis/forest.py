"""Draws all arms in one picture: final accuracies with intervals (a forest plot), and accuracy against responses."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.arms import Arm, Arms, short_name
from analysis.budgets import spending
from analysis.curves import arm_styles, seed_band
from analysis.differences import DEFAULT, Options
from analysis.frames import Frames
from analysis.result_table import ACCURACY, Result, results

GREY = "#767676"
FEW_ARMS = 7  # with more arms, a colour scale in the order of the accuracies replaces the arms' own colours
NEAR = 30.0  # percentage points below the best arm within which arms are drawn
APART = 4.5  # percentage points between two names beside the curves
MOST_NAMES = 9
WIDEST = 44  # characters of a label in one line


def forest(frames: Frames, arms: Arms, options: Options = DEFAULT, found: Sequence[Result] | None = None) -> Any:
    """Draw the arms in the order of their accuracies; None if no arm was evaluated. found: the results, if known.

    A filled marker differs significantly from the baseline, an open one does not."""
    import matplotlib.pyplot as plt

    known = results(frames, arms, options) if found is None else found
    rows = sorted(known, key=lambda one: one.accuracy.mean)
    if not rows:
        return None
    colours, names = _colours(rows), short_labels(rows)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.2, max(0.19 * len(rows) + 1.1, 3.2)), width_ratios=(1, 1), layout="constrained"
    )
    _draw_intervals(left, rows, colours, names)
    unit = _draw_paths(right, frames, rows, colours, names)
    start = _start(frames, arms)
    if start is not None and start > left.get_xlim()[0]:
        left.axvline(start, color=GREY, linewidth=0.9, linestyle=":", zorder=1)
    left.set_xlabel("held-out accuracy (%), last evaluation")
    right.set_xlabel(unit)
    right.set_ylabel("held-out accuracy (%)")
    right.set_ylim(-2, 102)
    if start is not None:
        right.axhline(start, color=GREY, linewidth=0.9, linestyle=":", zorder=1)
    _explain(figure, rows, start is not None)
    return figure


def baseline_of(rows: Sequence[Result]) -> Arm | None:
    """Return the arm that the others are compared with; None if nothing was compared."""
    return next((one.arm for one in rows if one.compared is not None and one.compared.why == "baseline"), None)


def short_labels(rows: Sequence[Result]) -> dict[str, str]:
    """Return label -> what distinguishes the arm from the baseline, whose own label is kept."""
    base = baseline_of(rows)
    found = {one.arm.label: one.arm.label for one in rows}
    for arm in (one.arm for one in rows):
        if base is not None and arm is not base and arm.values.keys() == base.values.keys():
            other = {axis: value for axis, value in arm.values.items() if value != base.values[axis]}
            found[arm.label] = ", ".join(f"{short_name(axis)}={value}" for axis, value in other.items()) or arm.label
    return found if len(set(found.values())) == len(found) else {label: label for label in found}


def _colours(rows: Sequence[Result]) -> dict[str, Any]:
    import matplotlib as mpl

    labels = [one.arm.label for one in rows]
    if len(labels) <= FEW_ARMS:
        return {label: style.colour for label, style in arm_styles(labels).items()}
    scale = mpl.colormaps["viridis"]
    return dict(zip(labels, (scale(value) for value in np.linspace(0.88, 0.0, len(labels))), strict=True))


def _draw_intervals(axis: Any, rows: Sequence[Result], colours: dict[str, Any], names: dict[str, str]) -> None:
    lowest = _left_limit(rows)
    for place, one in enumerate(rows):
        mean, width = 100 * one.accuracy.mean, 100 * (one.accuracy.half_width or 0.0)
        ends = [[min(width, mean)], [min(width, 100 - mean)]]
        colour = colours[one.arm.label]
        if mean < lowest:
            weight = "bold" if _differs(one) else "normal"
            text = f"◂ {mean:.1f} [{mean - ends[0][0]:.1f}, {mean + ends[1][0]:.1f}]"
            axis.annotate(
                text, (lowest, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7, weight=weight
            )
            continue
        face = colour if _differs(one) else "white"
        axis.errorbar([mean], [place], xerr=ends, color=colour, fmt="o", markersize=5, mfc=face, capsize=2, lw=1.3)
    texts = ["\n".join(textwrap.wrap(f"{names[one.arm.label]} ({len(one.arm.runs)})", WIDEST)) for one in rows]
    axis.set_yticks(range(len(rows)), texts, fontsize=7.5)
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlim(lowest, 101.5)
    for label, one in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if one.arm is baseline_of(rows) else "normal")


def _left_limit(rows: Sequence[Result]) -> float:
    """Return the left end of the axis: below the intervals of all arms within NEAR of the best, at least -1.5. The
    results of the other arms are written as text, so that they do not compress the scale."""
    best = max(100 * one.accuracy.mean for one in rows)
    ends = [100 * (one.accuracy.mean - (one.accuracy.half_width or 0.0)) for one in rows]
    near = [end for one, end in zip(rows, ends, strict=True) if 100 * one.accuracy.mean > best - NEAR]
    return max(min(near) - 2.0, -1.5)


def _differs(one: Result) -> bool:
    return one.compared is not None and one.compared.verdict.startswith("significant")


def path_of(frames: Frames, arm: Arm) -> tuple[pd.Series, bool] | None:
    """Return the mean accuracy in per cent by the mean number of responses sampled before, and whether these are
    recorded (otherwise it is by step); None without a curve."""
    band = seed_band(frames, arm, ACCURACY)
    if band is None:
        return None
    steps = band.table.index
    spent = [one.before.reindex(steps) for run in arm.runs if (one := spending(frames, run, "responses"))]
    places = pd.concat(spent, axis=1).mean(axis=1) if spent else pd.Series(steps, index=steps, dtype=float)
    known = places.notna()
    return pd.Series(band.table["mean"][known].to_numpy(), index=places[known].to_numpy()), bool(spent)


def _draw_paths(
    axis: Any, frames: Frames, rows: Sequence[Result], colours: dict[str, Any], names: dict[str, str]
) -> str:
    """Draw the curves, name those that are far enough from others, and return the label of the x axis."""
    found = {one.arm.label: path for one in rows if (path := path_of(frames, one.arm)) is not None}
    recorded = all(known for _, known in found.values())
    for label, (path, _) in found.items():
        axis.plot(path.index, path.to_numpy(), color=colours[label], linewidth=1.3, marker=".", markersize=3)
    for label in _named({label: path for label, (path, _) in found.items()}):
        path = found[label][0]
        text = {"fontsize": 6.5, "color": colours[label], "va": "center", "textcoords": "offset points"}
        end = (float(path.index[-1]), float(path.iloc[-1]))
        axis.annotate(
            textwrap.shorten(names[label], WIDEST, placeholder="…"), end, xytext=(4, 0), annotation_clip=False, **text
        )
    last = max((float(path.index[-1]) for path, _ in found.values()), default=1.0)
    axis.set_xlim(-0.02 * last, 1.4 * last)  # room for the names
    if not found:
        axis.plot([], [])
    return "responses" if recorded else "step"


def _named(paths: Mapping[str, pd.Series]) -> list[str]:
    """Return the arms whose names fit beside the ends of their curves: at most MOST_NAMES, APART from each other and
    from curves that go on, those with the most responses first."""
    chosen: list[str] = []
    for label in sorted(paths, key=lambda one: (-paths[one].index[-1], paths[one].iloc[-1])):
        end, last = float(paths[label].iloc[-1]), paths[label].index[-1]
        longer = [other[other.index > 1.05 * last] for other in paths.values()]
        heights = [*(paths[one].iloc[-1] for one in chosen), *(value for other in longer for value in other)]
        if len(chosen) < MOST_NAMES and all(abs(end - height) >= APART for height in heights):
            chosen.append(label)
    return chosen


def _start(frames: Frames, arms: Arms) -> float | None:
    """Return the mean accuracy at step 0 in per cent; None if some curve does not start there."""
    curves = [curve for arm in arms.arms for run in arm.runs if len(curve := frames.curve(run, ACCURACY)) > 1]
    if not curves or any(curve.index[0] != 0 for curve in curves):
        return None
    return 100 * float(np.mean([curve.iloc[0] for curve in curves]))


def _explain(figure: Any, rows: Sequence[Result], start: bool) -> None:
    from matplotlib.lines import Line2D

    arm = baseline_of(rows)
    baseline = arm.label if arm is not None else ""
    marks = [("baseline, or not significantly different from it", "white")] if baseline else [("arm", "white")]
    marks += [(f"significantly different (also: bold) from the baseline {baseline}", GREY)] if baseline else []
    handles = [Line2D([], [], color=GREY, marker="o", linestyle="", mfc=face, label=text) for text, face in marks]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize=7.5)
    parts = ["bars: 95 % interval over seeds and items, number of seeds in parentheses", "curves: means over seeds"]
    parts += ["dotted: step 0"] if start else []
    figure.supxlabel("\n".join(textwrap.wrap("; ".join(parts), 165)), fontsize=7.5, color=GREY, x=0.01, ha="left")
