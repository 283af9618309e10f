"""Builds the table of a result section: for each arm its accuracy, its difference to the baseline, what the comparison
could have detected, its gain over a random reward, its cost and its responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.arm_estimates import gain_estimate, metric_estimate
from analysis.arms import Arm, Arms
from analysis.budgets import budget_of_arm
from analysis.differences import CORRECTIONS, DESIGN_NOTES, Compared, Options, compare_arms, in_points, p_text
from analysis.estimates import quantity
from analysis.frames import Frames
from simplerl.evals.statistics import Interval
from simplerl.io.tables import Cell, Quantity, Table

ACCURACY, LENGTH, BOXES = "eval/mean/accuracy", "eval/mean/response_length", "eval/mean/box_share"
RANDOM = "simplerl.rewards.controls.random_reward"  # the reward function of the negative control


@dataclass(frozen=True)
class Result:
    """Holds the results of one arm. accuracy: fraction; gain: difference in accuracy to the arm with a random reward,
    as a fraction (None: no such arm, or this is it); responses and seconds: means per run (None: not recorded)."""

    arm: Arm
    accuracy: Interval
    compared: Compared | None
    gain: Interval | None
    responses: float | None
    seconds: float | None


def control_arm(frames: Frames, arms: Arms) -> Arm | None:
    """Return the first arm that was trained with a random reward; None if there is none."""
    if "reward._target_" not in frames.config:
        return None
    return next((arm for arm in arms.arms if frames.config.at[arm.runs[0], "reward._target_"] == RANDOM), None)


def results(frames: Frames, arms: Arms, options: Options) -> list[Result]:
    """Return the results of the evaluated arms, in the order of the arms.

    Raises SourceError if `options.baseline` names no evaluated arm."""
    compared = {one.arm.label: one for one in compare_arms(frames, arms, options)}
    control, gains = control_arm(frames, arms), dict[str, Interval]()
    if control is not None and compared:
        against = compare_arms(frames, arms, replace(options, baseline=control.label))
        gains = {one.arm.label: one.found.both for one in against if one.found is not None}
    found = []
    for arm in arms.arms:
        own = compared.get(arm.label)
        accuracy = own.accuracy if own is not None else _logged_accuracy(frames, arm)
        if accuracy is not None:
            budgets = [budget_of_arm(frames, arm, unit) for unit in ("responses", "seconds")]
            found.append(Result(arm, accuracy, own, gains.get(arm.label), *budgets))
    return found


def _logged_accuracy(frames: Frames, arm: Arm) -> Interval | None:
    """Return the accuracy of an arm that has nothing to be compared with, as a fraction."""
    found = metric_estimate(frames, arm, ACCURACY)
    if found is None:
        return None
    low, high = (None if end is None else end / 100 for end in (found.low, found.high))
    return replace(found, mean=found.mean / 100, low=low, high=high)


# Table


def result_table(frames: Frames, arms: Arms, options: Options, found: Sequence[Result] | None = None) -> Table | None:
    """Return one row per evaluated arm; None if no arm was evaluated. found: the results, if they are known."""
    rows = results(frames, arms, options) if found is None else list(found)
    if not rows:
        return None
    baseline = next((one.arm.label for one in rows if one.compared and one.compared.why == "baseline"), "")
    control = control_arm(frames, arms) if any(one.gain is not None for one in rows) else None
    sets = frames.benchmarks()
    columns = ["arm", "accuracy (%)", "Δ step 0"]
    columns += ["Δ baseline", "corrected p", "at 0.05", "80 % power from"] if baseline else []
    columns += ["Δ random reward"] if control else []
    columns += ["responses", "seconds", "length (tokens)", "boxed (%)", "seeds"]
    starts = [gain_estimate(frames, one.arm, sets) for one in rows]
    body = [
        [*_accuracy_cells(one, start, baseline, control), *_cost_cells(frames, one)]
        for one, start in zip(rows, starts, strict=True)
    ]
    against = f", and difference in percentage points to the baseline {baseline}" if baseline else ""
    caption = f"Held-out accuracy at the last evaluation{against}."
    return Table("results", caption, columns, body, (), _notes(baseline, control, options))


def _accuracy_cells(one: Result, start: Interval | None, baseline: str, control: Arm | None) -> list[Cell]:
    cells = [Cell(one.arm.label), Cell(quantity(in_points(one.accuracy), (0.0, 100.0)))]
    cells.append(Cell(None if start is None else quantity(start), signed=True))
    if baseline:
        cells += _comparison_cells(one.compared)
    if control is not None:
        gain = None if one.gain is None else quantity(in_points(one.gain))
        cells.append(Cell(gain, signed=True, bold=one.gain is not None and one.gain.excludes()))
    return cells


def _comparison_cells(one: Compared | None) -> list[Cell]:
    if one is None or one.found is None or one.p is None:
        return [Cell(), Cell(), Cell(one.verdict if one else None), Cell()]
    seen = "none" if one.smallest is None or math.isinf(one.smallest) else f"{100 * one.smallest:.1f}"
    verdict = Cell(one.verdict, bold=one.verdict == "significant")
    return [Cell(quantity(in_points(one.found.both)), signed=True), Cell(p_text(one.p)), verdict, Cell(seen)]


def _cost_cells(frames: Frames, one: Result) -> list[Cell]:
    costs = [None if cost is None else f"{cost:,.0f}" for cost in (one.responses, one.seconds)]
    length, boxes = (metric_estimate(frames, one.arm, name) for name in (LENGTH, BOXES))
    behaviour = [_mean_cell(length), _mean_cell(boxes)]
    return [*map(Cell, costs), *behaviour, Cell(str(len(one.arm.runs)))]


def _mean_cell(found: Interval | None) -> Cell:
    return Cell() if found is None else Cell(Quantity(found.mean, None, found.n_seeds))


def _notes(baseline: str, control: Arm | None, options: Options) -> list[str]:
    notes = [
        "±: half-width of the 95 % interval for other seeds and other questions; of Δ step 0, the gain since before "
        "training, for other seeds. Responses: sampled per run, discarded "
        "ones included. Seconds: of the steps, without evaluating and saving; they depend on the load of the machine. "
        "Length and boxes: of held-out responses, means over seeds.",
    ]
    if baseline:
        notes.append(
            f"Corrected p: {CORRECTIONS[options.correction]}. {DESIGN_NOTES[options.design]} Not significant does not "
            "mean equal: 80 % power from is the smallest difference that the comparison would have found with "
            "probability 0.8."
        )
    if control is not None:
        notes.append(
            f"Δ random reward: difference to {control.label}, whose reward is chance. It is the gain that the reward "
            "explains; bold: its 95 % interval, not corrected, excludes 0."
        )
    return notes
