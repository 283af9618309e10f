"""Draws the paper's figures. Functions return a matplotlib figure, or None if the runs did not log its metrics."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib

from analysis.arms import Arm, Arms
from analysis.curves import (
    SMOOTH_FROM,
    WINDOW,
    Band,
    LineStyle,
    arm_styles,
    in_percent,
    metric_label,
    seed_band,
    smooth,
)
from analysis.forest import forest
from analysis.frames import Frames

matplotlib.use("Agg")  # draws to files and needs no display
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

GREY = "#767676"
LENGTH_COLOUR = "#A0522D"  # colour of response lengths if there is only one arm; otherwise the arm's colour
PANEL = (3.1, 2.35)  # width and height in inches
STYLE = ("rollout/box_share", "rollout/code_share", "rollout/reflection_share")
BEHAVIOUR = (*STYLE, "rollout/truncated_share", "rollout/repetition", "rollout/entropy")
OVERVIEW = ("reward/mean", "eval/mean/accuracy", "rollout/response_length", *STYLE)

Figure = Callable[[Frames, Arms], Any]


def grid(panels: int, columns: int) -> tuple[Any, list[Any]]:
    """Return a figure and the axes of `panels` panels in rows of at most `columns`; four panels form a square."""
    columns = 2 if panels == 4 else min(columns, panels)
    rows = math.ceil(panels / columns)
    panel = PANEL if panels > 1 else (1.6 * PANEL[0], 1.4 * PANEL[1])
    size = (panel[0] * columns, panel[1] * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    flat = list(axes.flat)
    for extra in flat[panels:]:
        extra.set_axis_off()
    return figure, flat[:panels]


def draw_curves(axis: Any, frames: Frames, arms: Arms, name: str) -> None:
    """Draw one metric with a curve and a seed band for each arm; a dotted line marks the value at step 0."""
    styles = arm_styles([arm.label for arm in arms.arms])
    for arm in arms.arms:
        found = seed_band(frames, arm, name)
        if found is None:
            continue
        draw_band(axis, found, styles[arm.label], arm.label)
        if _starts_at_0(found):
            level = found.table["mean"].iloc[0]
            axis.axhline(level, color=styles[arm.label].colour, linewidth=0.9, linestyle=":", zorder=1)
    if axis.lines and in_percent(name):
        set_percent_limits(axis)
    axis.set_title(metric_label(name))
    axis.set_xlabel("step")
    axis.xaxis.get_major_locator().set_params(integer=True)


def set_percent_limits(axis: Any) -> None:
    """Scale a percentage axis from 0: to 100 if values come near it, otherwise to the largest value, but at least to 5
    so that noise is not magnified."""
    top = max(axis.get_ylim()[1], 5.0)
    axis.set_ylim(0, 102 if top > 70 else top)


def draw_band(axis: Any, found: Band, style: LineStyle, text: str) -> None:
    """Draw the mean over seeds and, behind it, their range, both smoothed if the curve is long. Behind a long curve of
    a single seed, its unsmoothed values are drawn instead."""
    table = smooth(found.table)
    steps = table.index.to_numpy()
    if len(found.table) > SMOOTH_FROM and found.seeds == 1:
        raw = found.table["mean"]
        axis.plot(raw.index.to_numpy(), raw.to_numpy(), color=style.colour, linewidth=0.7, alpha=0.3)
    if found.seeds > 1:
        axis.fill_between(
            steps, table["low"].to_numpy(), table["high"].to_numpy(), color=style.colour, alpha=0.18, lw=0
        )
    marker = {"marker": style.marker, "markersize": 4} if len(steps) <= SMOOTH_FROM / 2 else {}
    axis.plot(steps, table["mean"].to_numpy(), color=style.colour, linestyle=style.dash, label=text, **marker)


def add_legend(figure: Any, frames: Frames, arms: Arms, names: Sequence[str], explanation: Sequence[str]) -> None:
    """Add one legend for all panels and, below them, an explanation of lines and markers."""
    styles = arm_styles([arm.label for arm in arms.arms])
    drawn = [arm for arm in arms.arms if any(name in frames.metrics for name in names)]
    handles = [
        Line2D([], [], color=styles[arm.label].colour, marker=styles[arm.label].marker, markersize=4, label=text)
        for arm in drawn
        if (text := _label_with_seeds(arm))
    ]
    widest = max((0.55 + 0.08 * len(str(handle.get_label())) for handle in handles), default=1.0)  # inches, estimated
    columns = max(1, min(4, len(handles), int(figure.get_figwidth() / widest)))
    figure.set_figheight(figure.get_figheight() + 0.19 * max(math.ceil(len(handles) / columns) - 2, 0))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)
    lines = textwrap.wrap("; ".join(explanation), int(19 * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize=7.5, color=GREY, x=0.01, ha="left")


def explain_curves(frames: Frames, arms: Arms, names: Sequence[str]) -> list[str]:
    """Return phrases that explain the lines and bands drawn by `draw_curves`."""
    parts = ["line: mean over seeds, band: minimum to maximum over seeds"] if _has_seeds(arms) else []
    bands = _bands(frames, arms, names)
    if any(map(_starts_at_0, bands)):
        parts.append("dotted: value at step 0, before training")
    if max((len(found.table) for found in bands), default=0) > SMOOTH_FROM:
        pale = "" if _has_seeds(arms) else " (pale: unsmoothed)"
        parts.append(f"curves of more than {SMOOTH_FROM} points are means over {WINDOW} steps{pale}")
    return parts


def _bands(frames: Frames, arms: Arms, names: Sequence[str]) -> list[Band]:
    return [found for arm in arms.arms for name in names if (found := seed_band(frames, arm, name))]


def _starts_at_0(found: Band) -> bool:
    return bool(found.table.index[0] == 0)


def _first_point(frames: Frames, arms: Arms, names: Sequence[str]) -> str:
    """Return "step 0" if all these curves start there, otherwise "first evaluation"."""
    return "step 0" if all(map(_starts_at_0, _bands(frames, arms, names))) else "first evaluation"


def _has_seeds(arms: Arms) -> bool:
    return any(len(arm.runs) > 1 for arm in arms.arms)


def _label_with_seeds(arm: Arm) -> str:
    return f"{arm.label} ({len(arm.runs)} seeds)" if len(arm.runs) > 1 else arm.label


def panels(frames: Frames, arms: Arms, names: Sequence[str], columns: int = 3) -> Any:
    """Return a figure with a panel for each of `names` that was logged; None if none was."""
    present = [name for name in names if name in frames.metrics]
    if not present:
        return None
    figure, axes = grid(len(present), columns)
    for axis, name in zip(axes, present, strict=True):
        draw_curves(axis, frames, arms, name)
    add_legend(figure, frames, arms, present, explain_curves(frames, arms, present))
    return figure


def accuracy(frames: Frames, arms: Arms) -> Any:
    """Draw figure 2 of the blog post: accuracy and response length against step on twin axes, with a panel for each
    benchmark and their mean. Returns the figure, or None if no accuracy was logged."""
    sets = [name for name in frames.benchmarks() if f"eval/{name}/accuracy" in frames.metrics]
    if len(sets) > 1:
        sets.append("mean")
    if not sets:
        return None
    figure, axes = grid(len(sets), 3)
    for axis, name in zip(axes, sets, strict=True):
        _accuracy_panel(axis, frames, arms, name)
    names = [f"eval/{name}/accuracy" for name in sets]
    explanation = ["solid: accuracy (left axis), dashed: response length (right axis)"]
    if any(map(_starts_at_0, _bands(frames, arms, names))):
        explanation.append("circle and dotted line: step 0")
    explanation += ["bands: minimum to maximum over seeds"] if _has_seeds(arms) else []
    add_legend(figure, frames, arms, names, explanation)
    return figure


def _accuracy_panel(axis: Any, frames: Frames, arms: Arms, name: str) -> None:
    styles = arm_styles([arm.label for arm in arms.arms])
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    right.grid(False)
    single = len(arms.arms) == 1
    for arm in arms.arms:
        style = styles[arm.label]
        for side, leaf, dash in ((axis, "accuracy", "-"), (right, "response_length", "--")):
            found = seed_band(frames, arm, f"eval/{name}/{leaf}")
            if found is None:
                continue
            colour = LENGTH_COLOUR if single and leaf == "response_length" else style.colour
            steps, table = found.table.index.to_numpy(), found.table
            if found.seeds > 1:
                low, high = table["low"].to_numpy(), table["high"].to_numpy()
                side.fill_between(steps, low, high, color=colour, alpha=0.13, lw=0)
            side.plot(steps, table["mean"].to_numpy(), color=colour, linestyle=dash, linewidth=1.4)
            if steps[0] == 0:
                start = table["mean"].iloc[0]
                circle = {"marker": "o", "markersize": 6, "markerfacecolor": "white", "zorder": 5}
                side.plot([0], [start], color=colour, clip_on=False, linestyle="", **circle)
                side.axhline(start, color=colour, linewidth=0.8, linestyle=":", zorder=1)
    set_percent_limits(axis)
    axis.xaxis.get_major_locator().set_params(integer=True)
    colour = next(iter(styles.values())).colour if single else "black"
    axis.set_title("mean of the benchmarks" if name == "mean" else name)
    axis.set_ylabel("accuracy (%)", color=colour)
    right.set_ylabel("tokens", color=LENGTH_COLOUR if single else "black")
    axis.set_xlabel("step")


def lengths(frames: Frames, arms: Arms) -> Any:
    """Draw the lengths of correct and of incorrect responses, and the fraction of truncated responses. Returns the
    figure, or None if none of these was logged."""
    names = ("rollout/response_length_correct", "rollout/response_length_wrong", "rollout/truncated_share")
    present = [name for name in names if name in frames.metrics]
    if len(present) < 2:
        return panels(frames, arms, present)
    figure, axes = grid(len(present), 3)
    for axis, name in zip(axes, present, strict=True):
        draw_curves(axis, frames, arms, name)
    pair = [axis for axis, name in zip(axes, present, strict=True) if not in_percent(name)]
    low, high = min(axis.get_ylim()[0] for axis in pair), max(axis.get_ylim()[1] for axis in pair)
    for axis in pair:
        axis.set_ylim(low, high)
    explanation = [*explain_curves(frames, arms, present), "both lengths have the same scale"]
    add_legend(figure, frames, arms, present, explanation)
    return figure


def accuracy_against_length(frames: Frames, arms: Arms) -> Any:
    """Draw each arm's path in the plane of response length and accuracy, from a circle (first) to a cross (last).
    Returns the figure, or None if one of the two was not logged."""
    names = [f"eval/mean/{leaf}" for leaf in ("response_length", "accuracy")]
    if not all(name in frames.metrics for name in names):
        return None
    figure, (axis,) = grid(1, 1)
    styles = arm_styles([arm.label for arm in arms.arms])
    for arm in arms.arms:
        one, two = (seed_band(frames, arm, name) for name in names)
        if one is None or two is None:
            continue
        path = one.table[["mean"]].join(two.table[["mean"]], lsuffix="_length", rsuffix="_accuracy", how="inner")
        x, y = path["mean_length"].to_numpy(), path["mean_accuracy"].to_numpy()
        style = styles[arm.label]
        axis.plot(x, y, color=style.colour, linestyle=style.dash, marker=".", markersize=4)
        axis.plot(x[:1], y[:1], color=style.colour, marker="o", markersize=8, markerfacecolor="white", zorder=5)
        axis.plot(x[-1:], y[-1:], color=style.colour, marker="X", markersize=8, zorder=5)
        for i in sorted({len(path) // 3, 2 * len(path) // 3} - {0, len(path) - 1}):
            axis.annotate(f"{path.index[i]}", (x[i], y[i]), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axis.set_xlabel("held-out response length (tokens)")
    axis.set_ylabel("held-out accuracy (%)")
    seeds = ["means over seeds"] if _has_seeds(arms) else []
    first = _first_point(frames, arms, names)
    add_legend(figure, frames, arms, names, [f"circle: {first}, cross: last step, small numbers: steps", *seeds])
    return figure


def pass_at_k(frames: Frames, arms: Arms) -> Any:
    """Draw pass@k against k at the last (solid) and the first (dashed) evaluation. Returns the figure, or None if no
    pass@k was logged.

    It shows whether training adds solutions or only makes known ones more likely. pass@1 is the accuracy."""
    metrics = frames.metric_names()
    sets = [name for name in [*frames.benchmarks(), "mean"] if any(m.startswith(f"eval/{name}/pass@") for m in metrics)]
    if not sets:
        return None
    sets = sets[:-1] if len(sets) == 2 and sets[-1] == "mean" else sets
    figure, axes = grid(len(sets), 3)
    styles = arm_styles([arm.label for arm in arms.arms])
    for axis, name in zip(axes, sets, strict=True):
        prefix = f"eval/{name}/pass@"
        ks = sorted(int(metric.removeprefix(prefix)) for metric in metrics if metric.startswith(prefix))
        for arm in arms.arms:
            names = [(1, f"eval/{name}/accuracy"), *((k, f"{prefix}{k}") for k in ks)]
            known = [(k, one) for k, metric in names if (one := seed_band(frames, arm, metric))]
            style = styles[arm.label]
            for index, dash in ((0, "--"), (-1, "-")):
                x = [k for k, _ in known]
                y = [one.table["mean"].iloc[index] for _, one in known]
                axis.plot(x, y, color=style.colour, linestyle=dash, marker=style.marker, markersize=4)
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, *ks], [str(k) for k in (1, *ks)])
        axis.set_title("mean of the benchmarks" if name == "mean" else name)
        axis.set_xlabel("k")
        axis.set_ylabel("pass@k (%)")
        set_percent_limits(axis)
    seeds = ["means over seeds"] if _has_seeds(arms) else []
    first = _first_point(frames, arms, [name for name in metrics if "/pass@" in name])
    add_legend(figure, frames, arms, metrics, [f"dashed: {first}, solid: last step", *seeds])
    return figure


FIGURES: dict[str, Figure] = {
    "overview": partial(panels, names=OVERVIEW),
    "reward_and_length": partial(panels, names=("reward/mean", "rollout/response_length"), columns=2),  # figure 1
    "accuracy_and_length": accuracy,
    "behaviour": partial(panels, names=BEHAVIOUR),
    "lengths": lengths,
    "accuracy_against_length": accuracy_against_length,
    "pass_at_k": pass_at_k,
    "forest": forest,
}
