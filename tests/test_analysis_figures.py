from __future__ import annotations

import re
from pathlib import Path

import forked
import numpy as np
import pandas as pd
import pytest

from analysis import benchmark
from analysis.arms import group_runs, select_runs
from analysis.curves import SMOOTH_FROM, metric_label, seed_band, smooth
from analysis.figures import FIGURES, explain_curves, grid, panels
from analysis.frames import Frames, assemble
from analysis.run_data import RunData
from analysis.sources import load
from analysis.tables import build_tables
from simplerl.io.tables import as_csv, markdown

ROOT = Path(__file__).resolve().parent.parent


def frames_of(steps: int = 50, start: int = 0) -> Frames:
    runs = []
    for seed in (0, 1):
        at = np.arange(steps, dtype=float)
        metrics = pd.DataFrame({"phase": "rl", "step": np.arange(steps), "reward/mean": at + seed})
        metrics["rollout/code_share"] = 0.5
        for name in ("x", "y", "mean"):
            metrics[f"eval/{name}/accuracy"] = np.where(at % 10 == 0, at / 100 + seed / 10, np.nan)
            metrics[f"eval/{name}/response_length"] = np.where(at % 10 == 0, 50 - at, np.nan)
            metrics[f"eval/{name}/pass@4"] = np.where(at % 10 == 0, 0.5 + at / 100, np.nan)
        for name in ("correct", "wrong"):
            metrics[f"rollout/response_length_{name}"] = 30 + at
        metrics = metrics[metrics["step"] >= start]
        runs.append(
            RunData(
                f"r{seed}", "r", "finished", "folder", "", {"seed": seed, "choices.reward": "strict"}, metrics=metrics
            )
        )
    return assemble(runs)


def test_a_band_is_the_mean_and_the_extremes_over_seeds_in_per_cent() -> None:
    frames = frames_of()
    found = seed_band(frames, group_runs(frames).arms[0], "eval/x/accuracy")
    assert found is not None and found.seeds == 2
    assert found.table.loc[40].tolist() == pytest.approx([45.0, 40.0, 50.0])
    assert found.table.index.tolist() == [0, 10, 20, 30, 40]


def test_steps_that_only_one_seed_reached_are_not_averaged() -> None:
    parts = [pd.DataFrame({"phase": "rl", "step": range(n), "m": 1.0 * n}) for n in (3, 5)]
    own = [{"reward.name": "strict", "seed": seed} for seed in (0, 1)]
    frames = assemble([RunData(str(i), "", None, "", "", own[i], metrics=part) for i, part in enumerate(parts)])
    found = seed_band(frames, group_runs(frames).arms[0], "m")
    assert found is not None and found.table["mean"].tolist() == [4.0, 4.0, 4.0]


def test_long_curves_are_moving_averages() -> None:
    table = pd.DataFrame({"mean": np.arange(SMOOTH_FROM + 1.0)})
    assert smooth(table)["mean"].iloc[:4].tolist() == [1.0, 1.5, 2.0, 3.0]
    assert smooth(table.iloc[:10]).equals(table.iloc[:10])
    long = smooth(pd.DataFrame({"mean": np.arange(5000.0)}))
    assert long.index[:3].tolist() == [0, 5, 10] and long.index[-1] == 4999 and long["mean"].iloc[1] == 5.0


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_and_explained(name: str) -> None:
    import matplotlib.pyplot as plt

    frames, arms = select_runs(frames_of())
    figure = FIGURES[name](frames, arms)
    assert "seed" in figure.get_supxlabel() and figure.legends
    assert all(axis.lines for axis in figure.axes if axis.axison)
    plt.close(figure)


def test_metrics_have_labels() -> None:
    assert metric_label("rollout/repetition") == "repetition"
    assert metric_label("eval/mean/code_share") == "held-out responses with code (%)"
    assert metric_label("eval/aime24/response_length") == "aime24 response length (tokens)"
    assert metric_label("eval/aime24/accuracy") == "aime24 accuracy (%)"


def test_a_figure_without_numbers_is_none() -> None:
    frames, arms = select_runs(assemble([RunData("r", "r", None, "", "", {"seed": 0})]))
    assert [FIGURES[name](frames, arms) for name in FIGURES] == [None] * len(FIGURES)


def test_the_explanation_says_when_curves_are_smoothed() -> None:
    frames, arms = select_runs(frames_of(30))
    assert not any("means over" in part for part in explain_curves(frames, arms, ["reward/mean"]))
    frames, arms = select_runs(frames_of(60))
    assert any("means over 5 steps" in part for part in explain_curves(frames, arms, ["reward/mean"]))


@pytest.mark.parametrize("name", FIGURES)
def test_step_0_is_explained_only_if_there_is_one(name: str) -> None:
    import matplotlib.pyplot as plt

    for start in (0, 1):
        figure = FIGURES[name](*select_runs(frames_of(start=start)))
        assert ("step 0" in figure.get_supxlabel()) == (start == 0)
        plt.close(figure)


@pytest.mark.filterwarnings("error")
def test_a_legend_of_long_names_fits_its_figure() -> None:
    import matplotlib.pyplot as plt

    metrics = pd.DataFrame({"phase": "rl", "step": range(3), "m": 1.0})
    names = [f"a rather long name of a run, the {place}th" for place in range(30)]
    frames, arms = select_runs(assemble([RunData(name, name, None, "", "", metrics=metrics) for name in names]))
    figure = panels(frames, arms, ["m"])
    figure.draw_without_rendering()
    (box,) = [found.get_window_extent() for found in figure.legends]
    assert box.x1 <= figure.bbox.x1 and figure.axes[0].get_window_extent().height > figure.dpi
    plt.close(figure)


def test_four_panels_form_a_square() -> None:
    import matplotlib.pyplot as plt

    figure, axes = grid(4, 3)
    assert len(axes) == 4 and axes[0].get_gridspec().ncols == 2
    plt.close(figure)


@pytest.mark.slow
def test_the_benchmark_prints_seconds_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--runs", "6", "--steps", "10", "--metrics", "15"]) == 0
    first, load_line, draw_line = capsys.readouterr().out.splitlines()
    assert first == "6 runs x 10 steps x 15 metrics:"
    assert re.fullmatch(r"load: \d+\.\d s, peak \d+\.\d\d GB", load_line)
    assert re.fullmatch(rf"draw: {len(FIGURES)} figures, \d+\.\d s, peak \d+\.\d\d GB", draw_line)


def test_the_benchmark_writes_runs_that_differ_in_seed_and_arm(tmp_path: Path) -> None:
    benchmark.write_synthetic_runs(tmp_path, 6, 100, 15)
    frames, arms = select_runs(load([tmp_path]))
    assert [len(arm.runs) for arm in arms.arms] == [5, 1] and arms.axes == ["train.lr"]
    assert len(frames.metric_names()) == 15 + 18 and len(frames.metrics) == 600 and frames.notes == []
    assert frames.curve("run-000", "eval/mean/accuracy").index.tolist() == list(range(0, 100, 2))


@pytest.mark.slow
def test_wandb_and_run_folders_give_the_same_tables_for_real_runs(tmp_path: Path) -> None:
    settings = ["train.steps=2", "train.prompts_per_step=2", "train.samples_per_prompt=4", "train.minibatch_size=8"]
    settings += ["evals.every=1", "evals.limit=4", "tracking=wandb", "tracking.mode=offline"]
    done = forked.run("train.py", "-m", "reward=strict,lenient", *settings, f"run.root={tmp_path}")
    assert done.returncode == 0, done.stderr[-2000:]
    folders = sorted(path.parent for path in tmp_path.glob("*/config.yaml"))
    own = build_tables(*select_runs(load(folders)))
    exported = build_tables(*select_runs(load([folder / "wandb" for folder in folders])))
    assert [row[0].value for row in own[-1].rows] == ["strict", "lenient"]  # the sweep's order
    assert [markdown(table) for table in own] == [markdown(table) for table in exported]
    assert [as_csv(table) for table in own] == [as_csv(table) for table in exported]
