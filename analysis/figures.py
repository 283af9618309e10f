"""The paper's figures, each a function (Frames, Arms) -> matplotlib figure, or None where nothing was logged for it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib

from analysis.arms import Arm, Arms
from analysis.curves import SMOOTH_FROM, WINDOW, Band, band, is_share, label, smoothed
from analysis.frames import Frames
from analysis.style import GREY, Look, looks

matplotlib.use("Agg")  # pictures go to files, on machines without a display, too
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

LENGTH_COLOUR = "#A0522D"  # of the second axis, where one arm leaves colours free
PANEL = (3.1, 2.35)  # inches
OVERVIEW = (
    "reward/mean",
    "eval/mean/accuracy",
    "rollout/response_length",
    "rollout/box_share",
    "rollout/code_share",
    "rollout/reflection_share",
)

Drawing = Callable[[Frames, Arms], Any]


def grid(panels: int, columns: int) -> tuple[Any, list[Any]]:
    """A figure and `panels` axes."""
    columns = 2 if panels == 4 else min(columns, panels)
    rows = math.ceil(panels / columns)
    panel = PANEL if panels > 1 else (1.6 * PANEL[0], 1.4 * PANEL[1])
    size = (panel[0] * columns, panel[1] * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    flat = list(axes.flat)
    for extra in flat[panels:]:
        extra.set_axis_off()
    return figure, flat[:panels]


def draw_curves(axis: Any, frames: Frames, arms: Arms, name: str, *, base: bool = True) -> bool:
    """One metric, an arm a colour, with a band over seeds; a dotted line at the value of step 0."""
    drawn = False
    styles = looks([arm.label for arm in arms.arms])
    for arm in arms.arms:
        found = band(frames, arm, name)
        if found is None:
            continue
        drawn = True
        draw_band(axis, found, styles[arm.label], arm.label)
        if base and _from_start(found):
            level = found.table["mean"].iloc[0]
            axis.axhline(level, color=styles[arm.label].colour, linewidth=0.9, linestyle=":", zorder=1)
    if drawn and is_share(name):
        whole_shares(axis)
    axis.set_title(label(name))
    axis.set_xlabel("step")
    axis.xaxis.get_major_locator().set_params(integer=True)
    return drawn


def whole_shares(axis: Any) -> None:
    """From 0 %, to 100 % where that is near, and never so close that noise fills the panel."""
    top = max(axis.get_ylim()[1], 5.0)
    axis.set_ylim(0, 102 if top > 70 else top)


def draw_band(axis: Any, found: Band, look: Look, text: str) -> None:
    table = smoothed(found.table)
    steps = table.index.to_numpy()
    if len(found.table) > SMOOTH_FROM and found.seeds == 1:
        raw = found.table["mean"]
        axis.plot(raw.index.to_numpy(), raw.to_numpy(), color=look.colour, linewidth=0.7, alpha=0.3)
    if found.seeds > 1:
        axis.fill_between(steps, table["low"].to_numpy(), table["high"].to_numpy(), color=look.colour, alpha=0.18, lw=0)
    marker = {"marker": look.marker, "markersize": 4} if len(steps) <= SMOOTH_FROM / 2 else {}
    axis.plot(steps, table["mean"].to_numpy(), color=look.colour, linestyle=look.dash, label=text, **marker)


def legend(figure: Any, frames: Frames, arms: Arms, names: Sequence[str], said: Sequence[str] = ()) -> None:
    """One legend for all panels, and one line that says what the marks in them are."""
    styles = looks([arm.label for arm in arms.arms])
    drawn = [arm for arm in arms.arms if any(name in frames.metrics for name in names)]
    handles = [
        Line2D([], [], color=styles[arm.label].colour, marker=styles[arm.label].marker, markersize=4, label=text)
        for arm in drawn
        if (text := _with_seeds(arm))
    ]
    widest = max((0.55 + 0.08 * len(str(handle.get_label())) for handle in handles), default=1.0)  # inches, about
    columns = max(1, min(4, len(handles), int(figure.get_figwidth() / widest)))
    figure.set_figheight(figure.get_figheight() + 0.19 * max(math.ceil(len(handles) / columns) - 2, 0))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)
    lines = textwrap.wrap("; ".join(said), int(19 * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize=7.5, color=GREY, x=0.01, ha="left")


def marks_of_curves(frames: Frames, arms: Arms, names: Sequence[str]) -> list[str]:
    """What `draw_curves` draws, in words."""
    parts = ["line: mean over seeds, band: the least to the greatest seed"] if _several(arms) else []
    bands = [found for arm in arms.arms for name in names if (found := band(frames, arm, name))]
    if any(_from_start(found) for found in bands):
        parts.append("dotted: the value at step 0, before training")
    if max((len(found.table) for found in bands), default=0) > SMOOTH_FROM:
        pale = "" if _several(arms) else " (pale: each step)"
        parts.append(f"curves of more than {SMOOTH_FROM} points are means over {WINDOW} steps{pale}")
    return parts


def _from_start(found: Band) -> bool:
    return bool(found.table.index[0] == 0)


def _first(frames: Frames, arms: Arms, names: Sequence[str]) -> str:
    """What the first point of these curves is."""
    bands = [found for arm in arms.arms for name in names if (found := band(frames, arm, name))]
    return "step 0" if all(map(_from_start, bands)) else "the first evaluation"


def _several(arms: Arms) -> bool:
    return any(len(arm.runs) > 1 for arm in arms.arms)


def _with_seeds(arm: Arm) -> str:
    return f"{arm.label} ({len(arm.runs)} seeds)" if len(arm.runs) > 1 else arm.label


def panels(frames: Frames, arms: Arms, names: Sequence[str], columns: int = 3) -> Any:
    """A panel for each metric that was logged."""
    present = [name for name in names if name in frames.metrics]
    if not present:
        return None
    figure, axes = grid(len(present), columns)
    for axis, name in zip(axes, present, strict=True):
        draw_curves(axis, frames, arms, name)
    legend(figure, frames, arms, present, marks_of_curves(frames, arms, present))
    return figure


def overview(frames: Frames, arms: Arms) -> Any:
    """What a run did, in one picture: reward, held-out accuracy, length, and what responses look like."""
    return panels(frames, arms, OVERVIEW)


def reward(frames: Frames, arms: Arms) -> Any:
    """Figure 1: training reward and rollout response length against step."""
    return panels(frames, arms, ("reward/mean", "rollout/response_length"), columns=2)


def behaviour(frames: Frames, arms: Arms) -> Any:
    """What responses look like while the policy learns, against the base model's own level."""
    names = ("box_share", "code_share", "reflection_share", "truncated_share", "repetition", "entropy")
    return panels(frames, arms, [f"rollout/{name}" for name in names])


def accuracy(frames: Frames, arms: Arms) -> Any:
    """Figure 2: accuracy and response length against step, a panel for each benchmark and their mean, twin axes."""
    sets = [name for name in frames.eval_sets() if f"eval/{name}/accuracy" in frames.metrics]
    if len(sets) > 1:
        sets.append("mean")
    if not sets:
        return None
    figure, axes = grid(len(sets), 3)
    for axis, name in zip(axes, sets, strict=True):
        _accuracy_panel(axis, frames, arms, name)
    names = [f"eval/{name}/accuracy" for name in sets]
    said = ["full: accuracy (left axis), dashed: response length (right axis)"]
    if any(_from_start(found) for arm in arms.arms for name in names if (found := band(frames, arm, name))):
        said.append("ringed and dotted: step 0")
    said += ["bands: the least to the greatest seed"] if _several(arms) else []
    legend(figure, frames, arms, names, said)
    return figure


def _accuracy_panel(axis: Any, frames: Frames, arms: Arms, name: str) -> None:
    styles = looks([arm.label for arm in arms.arms])
    other = axis.twinx()
    other.spines["right"].set_visible(True)
    other.grid(False)
    alone = len(arms.arms) == 1
    for arm in arms.arms:
        look = styles[arm.label]
        for place, leaf, style in ((axis, "accuracy", "-"), (other, "response_length", "--")):
            found = band(frames, arm, f"eval/{name}/{leaf}")
            if found is None:
                continue
            colour = LENGTH_COLOUR if alone and leaf == "response_length" else look.colour
            steps, table = found.table.index.to_numpy(), found.table
            if found.seeds > 1:
                low, high = table["low"].to_numpy(), table["high"].to_numpy()
                place.fill_between(steps, low, high, color=colour, alpha=0.13, lw=0)
            place.plot(steps, table["mean"].to_numpy(), color=colour, linestyle=style, linewidth=1.4)
            if steps[0] == 0:
                start = table["mean"].iloc[0]
                ring = {"marker": "o", "markersize": 6, "markerfacecolor": "white", "zorder": 5}
                place.plot([0], [start], color=colour, clip_on=False, linestyle="", **ring)
                place.axhline(start, color=colour, linewidth=0.8, linestyle=":", zorder=1)
    whole_shares(axis)
    axis.xaxis.get_major_locator().set_params(integer=True)
    only = next(iter(styles.values())).colour if alone else "black"
    axis.set_title("mean of the benchmarks" if name == "mean" else name)
    axis.set_ylabel("accuracy (%)", color=only)
    other.set_ylabel("tokens", color=LENGTH_COLOUR if alone else "black")
    axis.set_xlabel("step")


def lengths(frames: Frames, arms: Arms) -> Any:
    """Length of right against wrong responses, and how many are cut off at the limit (which count as wrong)."""
    names = ("rollout/response_length_correct", "rollout/response_length_wrong", "rollout/truncated_share")
    present = [name for name in names if name in frames.metrics]
    if len(present) < 2:
        return panels(frames, arms, present)
    figure, axes = grid(len(present), 3)
    for axis, name in zip(axes, present, strict=True):
        draw_curves(axis, frames, arms, name)
    pair = [axis for axis, name in zip(axes, present, strict=True) if not is_share(name)]
    low, high = min(axis.get_ylim()[0] for axis in pair), max(axis.get_ylim()[1] for axis in pair)
    for axis in pair:
        axis.set_ylim(low, high)
    legend(figure, frames, arms, present, [*marks_of_curves(frames, arms, present), "both lengths on one scale"])
    return figure


def accuracy_against_length(frames: Frames, arms: Arms) -> Any:
    """The path of a run in the plane of response length and accuracy, from the ring (step 0) to the cross (the end)."""
    names = [f"eval/mean/{leaf}" for leaf in ("response_length", "accuracy")]
    if not all(name in frames.metrics for name in names):
        return None
    figure, (axis,) = grid(1, 1)
    styles = looks([arm.label for arm in arms.arms])
    for arm in arms.arms:
        one, two = (band(frames, arm, name) for name in names)
        if one is None or two is None:
            continue
        path = one.table[["mean"]].join(two.table[["mean"]], lsuffix="_length", rsuffix="_accuracy", how="inner")
        x, y = path["mean_length"].to_numpy(), path["mean_accuracy"].to_numpy()
        look = styles[arm.label]
        axis.plot(x, y, color=look.colour, linestyle=look.dash, marker=".", markersize=4)
        axis.plot(x[:1], y[:1], color=look.colour, marker="o", markersize=8, markerfacecolor="white", zorder=5)
        axis.plot(x[-1:], y[-1:], color=look.colour, marker="X", markersize=8, zorder=5)
        for place in sorted({len(path) // 3, 2 * len(path) // 3} - {0, len(path) - 1}):
            axis.annotate(
                f"{path.index[place]}", (x[place], y[place]), fontsize=7, xytext=(3, 3), textcoords="offset points"
            )
    axis.set_xlabel("response length, held-out (tokens)")
    axis.set_ylabel("accuracy, held-out (%)")
    seeds = ["means over seeds"] if _several(arms) else []
    legend(
        figure,
        frames,
        arms,
        names,
        [f"ring: {_first(frames, arms, names)}, cross: the last step, small numbers: steps", *seeds],
    )
    return figure


def pass_at_k(frames: Frames, arms: Arms) -> Any:
    """pass@k against k at the last evaluation, full, and at the first, dashed: does training add solutions, or only
    make known ones likelier? k = 1 is the accuracy."""
    sets = [
        name
        for name in [*frames.eval_sets(), "mean"]
        if any(n.startswith(f"eval/{name}/pass@") for n in frames.names())
    ]
    if not sets:
        return None
    sets = sets[:-1] if len(sets) == 2 and sets[-1] == "mean" else sets
    figure, axes = grid(len(sets), 3)
    styles = looks([arm.label for arm in arms.arms])
    for axis, name in zip(axes, sets, strict=True):
        prefix = f"eval/{name}/pass@"
        ks = sorted(int(metric.removeprefix(prefix)) for metric in frames.names() if metric.startswith(prefix))
        for arm in arms.arms:
            found = [band(frames, arm, metric) for metric in (f"eval/{name}/accuracy", *(f"{prefix}{k}" for k in ks))]
            known = [(k, one) for k, one in zip((1, *ks), found, strict=True) if one is not None]
            look = styles[arm.label]
            for place, line in ((0, "--"), (-1, "-")):
                x = [k for k, _ in known]
                y = [one.table["mean"].iloc[place] for _, one in known]
                axis.plot(x, y, color=look.colour, linestyle=line, marker=look.marker, markersize=4)
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, *ks], [str(k) for k in (1, *ks)])
        axis.set_title("mean of the benchmarks" if name == "mean" else name)
        axis.set_xlabel("k")
        axis.set_ylabel("pass@k (%)")
        whole_shares(axis)
    seeds = ["means over seeds"] if _several(arms) else []
    first = _first(frames, arms, [name for name in frames.names() if "/pass@" in name])
    legend(figure, frames, arms, frames.names(), [f"dashed: {first}, full: the last step", *seeds])
    return figure


FIGURES: dict[str, Drawing] = {
    "overview": overview,
    "reward_and_length": reward,
    "accuracy_and_length": accuracy,
    "behaviour": behaviour,
    "lengths": lengths,
    "accuracy_against_length": accuracy_against_length,
    "pass_at_k": pass_at_k,
}
