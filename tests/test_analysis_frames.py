from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from composing import composed
from omegaconf import OmegaConf

from analysis.arms import group_runs, select_runs
from analysis.curves import arm_styles
from analysis.frames import assemble
from analysis.plots import main, write_figures
from analysis.report import main as report
from analysis.run_data import RunData, SourceError, flatten_config, parse_number, parse_setting
from analysis.sources import load
from analysis.tables import build_tables
from analysis.tables import main as tables
from simplerl.sweeps.manifest import Sweep, SweepRun


def write_run(root: Path, name: str, rows: list[dict[str, Any]], *, state: str = "finished", **config: Any) -> Path:
    """A run folder as `simplerl.runs.folder` leaves it, without responses."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps({"commit": "abc", "started": "2026-01-01T00:00:00+0000"}))
    (folder / "status.json").write_text(json.dumps({"state": state, "attempt": 0}))
    lines = [json.dumps({"phase": "rl", "attempt": 0, **row}) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def curve(values: list[float], name: str = "reward/mean") -> list[dict[str, Any]]:
    return [{"step": step, name: value} for step, value in enumerate(values)]


def ablation(root: Path) -> Path:
    for reward, base in (("strict", 0.0), ("lenient", 1.0)):
        for seed in (0, 1):
            own = {"choices": {"reward": reward}, "reward": {"_target_": reward}, "seed": seed, "run": {"root": reward}}
            write_run(root, f"{reward}-{seed}", curve([base, base + 1 + seed]), **own)
    return root


def test_numbers_and_settings_read_the_same_from_text() -> None:
    assert parse_number("0.5") == 0.5
    assert math.isnan(parse_number("NaN") or 0.0)
    assert parse_number("-Infinity") == -math.inf
    assert parse_number("4711_0") is None
    assert parse_number({"max": 3, "last": 2}) == 2.0
    assert parse_number("table-file") is None
    assert parse_setting("0.000001") == parse_setting(1e-6)
    assert parse_setting("8.0") == 8 and isinstance(parse_setting("8.0"), int)
    assert parse_setting("none") == "none" and parse_setting("null") == "null" and parse_setting("") is None
    assert parse_setting("4711_0") == "4711_0"
    assert parse_setting("0123", "git_sha") == "0123"
    assert parse_setting("true") is True
    assert flatten_config({"a": {"value": {"b": 1}}, "c": {}}) == {"a.b": 1, "c": {}}


@pytest.mark.filterwarnings("error")
def test_run_folders_become_frames(tmp_path: Path) -> None:
    frames = load([ablation(tmp_path)])
    assert list(frames.runs.index) == ["lenient-0", "lenient-1", "strict-0", "strict-1"]
    assert frames.config.at["strict-1", "choices.reward"] == "strict"
    assert frames.curve("strict-1", "reward/mean").to_dict() == {0: 0.0, 1: 2.0}
    assert frames.last_value("lenient-0", "reward/mean") == 2.0
    assert frames.notes == []


def test_an_incomplete_line_is_skipped_with_a_note_and_text_numbers_are_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "one", [{"step": 0, "a": 1}, {"step": 1, "a": "NaN"}, {"step": 2, "a": 2.5}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "a": 9')
    frames = load([folder])
    assert frames.curve("one", "a").to_dict() == {0: 1.0, 2: 2.5}
    assert frames.notes == [
        "one: 1 unreadable lines of metrics.jsonl were skipped (was the run killed while writing?)."
    ]


def test_bare_nan_and_infinity_are_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "one", curve([1.0, math.nan, math.inf], "a"))
    assert frames_values(folder) == {0: 1.0, 2: math.inf}
    assert load([folder]).notes == ["one: infinite values are shown as inf: a."]


def frames_values(folder: Path) -> dict[int, float]:
    return load([folder]).curve(folder.name, "a").to_dict()


def test_the_last_written_value_of_a_step_counts(tmp_path: Path) -> None:
    rows = [{"step": 0, "a": 1.0}, {"step": 1, "a": 2.0, "b": 7.0}, {"step": 1, "a": 3.0}]
    frames = load([write_run(tmp_path, "one", rows)])
    assert frames.curve("one", "a").to_dict() == {0: 1.0, 1: 3.0}
    assert frames.curve("one", "b").to_dict() == {1: 7.0}
    assert frames.notes == ["one: step 1 was written more than once; the last written value of each metric counts."]


def test_arms_differ_in_more_than_the_seed(tmp_path: Path) -> None:
    arms = group_runs(load([ablation(tmp_path)]))
    assert arms.axes == ["choices.reward"]
    assert [(arm.label, arm.runs) for arm in arms.arms] == [
        ("reward=lenient", ["lenient-0", "lenient-1"]),
        ("reward=strict", ["strict-0", "strict-1"]),
    ]


def test_settings_that_change_together_are_named() -> None:
    config = [{"algo.lr": 1, "algo.kl": 0.1, "seed": 0}, {"algo.lr": 2, "algo.kl": 0.2, "seed": 0}]
    arms = group_runs(assemble([RunData(str(i), "same", None, "folder", "", own) for i, own in enumerate(config)]))
    assert arms.axes == ["algo.lr"]
    assert arms.notes == ["algo.kl changes together with algo.lr: their effects cannot be separated."]
    assert [arm.label for arm in arms.arms] == ["algo.lr=1", "algo.lr=2"]


def test_a_run_of_unknown_settings_is_an_arm_beside_known_ones() -> None:
    known = [RunData(f"i{seed}", "n", None, "", "", {"reward.name": "strict", "seed": seed}) for seed in (0, 1)]
    arms = group_runs(assemble([*known, RunData("r", "reward=lenient,seed=0", None, "", "")]))
    assert [(arm.label, arm.runs) for arm in arms.arms] == [
        ("reward=strict", ["i0", "i1"]),
        ("reward=lenient,seed=0", ["r"]),
    ]
    assert len(arms.notes) == 1 and arms.notes[0].startswith("reward=lenient,seed=0: settings unknown")


def test_runs_of_which_only_the_seed_is_known_are_not_averaged() -> None:
    found = [RunData(f"i{place}", name, None, "", "", {"seed": 0}) for place, name in enumerate("ABB")]
    arms = select_runs(assemble(found))[1]
    assert [(arm.label, arm.runs) for arm in arms.arms] == [("A", ["i0"]), ("i1", ["i1"]), ("i2", ["i2"])]


def test_failed_and_repeated_runs_are_skipped_with_a_note(tmp_path: Path) -> None:
    ablation(tmp_path)
    own = {"choices": {"reward": "strict"}, "reward": {"_target_": "strict"}, "run": {"root": "strict"}}
    write_run(tmp_path, "crash", curve([0.0]), state="failed", seed=1, **own)
    write_run(tmp_path, "short", curve([0.0]), state="interrupted", seed=0, **own)
    frames, arms = select_runs(load([tmp_path]))
    assert [arm.runs for arm in arms.arms] == [["lenient-0", "lenient-1"], ["strict-0", "strict-1"]]
    assert frames.notes == [
        "crash (name crash): skipped, its state is failed.",
        "short: skipped, strict-0 has the same settings and seed (0) and more steps, or is newer.",
    ]


def test_one_run_known_twice_is_one_run() -> None:
    first = RunData(
        "id", "x", None, "a", "A", {"seed": 1}, metrics=pd.DataFrame({"phase": "rl", "step": [0], "m": 1.0})
    )
    second = RunData(
        "id", "x", "finished", "b", "B", {"lr": 2}, metrics=pd.DataFrame({"phase": "rl", "step": [1], "m": 2.0})
    )
    frames = assemble([first, second])
    assert frames.runs.at["id", "state"] == "finished"
    assert frames.config.loc["id"].to_dict() == {"seed": 1, "lr": 2}
    assert frames.curve("id", "m").to_dict() == {0: 1.0, 1: 2.0}
    assert frames.notes == ["id: merged from 2 parts (a A and b B)."]


def test_an_arm_has_the_same_colour_beside_any_others() -> None:
    alone = arm_styles(["reward=lenient"])["reward=lenient"]
    beside = arm_styles(["reward=binary", "reward=strict", "reward=lenient"])
    assert beside["reward=lenient"] == alone
    many = arm_styles([f"lr={i}" for i in range(14)])
    assert len({(style.colour, str(style.dash)) for style in many.values()}) == 14


def test_figures_are_drawn_for_what_was_logged(tmp_path: Path) -> None:
    paths = write_figures([ablation(tmp_path / "runs")], tmp_path / "out", ["reward_and_length"])
    assert [path.name for path in paths] == ["reward_and_length.png", "reward_and_length.pdf"]
    assert paths[0].read_bytes()[:4] == b"\x89PNG" and paths[1].read_bytes()[:4] == b"%PDF"


def test_a_source_without_runs_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        load([tmp_path / "absent"])
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "contains no run" in capsys.readouterr().err


def overwrite(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def append(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + content)


DEEP = b"[" * 100_000
# Settings that cannot be read cost the run; what else is damaged costs only itself.
LEFT_OUT = {
    "settings torn": overwrite("config.yaml", b"a: [1"),
    "settings no mapping": overwrite("config.yaml", b"- 1\n"),
    "settings binary": overwrite("config.yaml", bytes(range(256))),
    "settings empty": overwrite("config.yaml", b""),
    "settings absent": lambda folder: (folder / "config.yaml").unlink(),
}
KEPT = {
    "status torn": overwrite("status.json", b'{"state": '),
    "status a list": overwrite("status.json", b"[]"),
    "status of other types": overwrite("status.json", b'{"state": 3, "attempt": "x"}'),
    "environment binary": overwrite("environment.json", b"\0\xff\xfe"),
    "environment absent": lambda folder: (folder / "environment.json").unlink(),
    "environment nested": overwrite("environment.json", DEEP),
    "a torn line": append("metrics.jsonl", b'{"step": 7, "rew'),
    "a line of zeros": append("metrics.jsonl", b"\0" * 100 + b"\n"),
    "a line without a step": append("metrics.jsonl", b'{"reward/mean": 1}\n'),
    "a line that is a list": append("metrics.jsonl", b"[1]\n"),
    "an infinite step": append("metrics.jsonl", b'{"step": Infinity}\n'),
    "an enormous step": append("metrics.jsonl", b'{"step": 1e300}\n'),
    "an enormous value": append("metrics.jsonl", b'{"step": 9, "reward/mean": 1' + b"0" * 400 + b"}\n"),
    "a nested line": append("metrics.jsonl", DEEP + b"\n"),
    "another type of phase": append("metrics.jsonl", b'{"step": 1, "phase": 3}\n'),
    "no metrics": overwrite("metrics.jsonl", b""),
    "no line of metrics": overwrite("metrics.jsonl", b"damaged\n"),
}


@pytest.mark.parametrize("damage", [*LEFT_OUT, *KEPT])
def test_one_damaged_run_does_not_take_the_others(damage: str, tmp_path: Path) -> None:
    {**LEFT_OUT, **KEPT}[damage](ablation(tmp_path) / "strict-1")
    frames, arms = select_runs(load([tmp_path]))
    assert [len(arm.runs) for arm in arms.arms] == ([2, 1] if damage in LEFT_OUT else [2, 2])
    left_out = [note for note in frames.notes if note.startswith("Left out: ") and "strict-1" in note]
    assert len(left_out) == (damage in LEFT_OUT)
    assert build_tables(frames, arms)[-1].rows[0][0].value == "lenient"


def test_settings_that_are_new_do_not_distinguish_earlier_runs(tmp_path: Path) -> None:
    """A run of a version without train.lora is in the arm of later ones at the defaults; other values make another."""
    full = OmegaConf.to_container(composed("evals=none"), resolve=True, enum_to_str=True)
    assert isinstance(full, dict)
    choices = {"choices": {"algorithm": "ppo", "model": "micro", "train": "micro"}}
    lora, others = full["train"]["lora"], {key: value for key, value in full["train"].items() if key != "lora"}
    earlier = {**full, "algorithm": {**full["algorithm"], "roles": {"critic": {"kind": "critic"}}}}
    later = {**full, "algorithm": {**full["algorithm"], "roles": {"critic": {"kind": "critic", "head": "normal"}}}}
    for seed, train in enumerate([others, {**others, "lora": lora}, {**others, "lora": {**lora, "rank": 8}}]):
        own = {**(later if seed else earlier), **choices, "train": train, "seed": seed}
        write_run(tmp_path, f"r{seed}", curve([0.0, 1.0]), **own)
    frames, arms = select_runs(load([tmp_path]))
    assert [arm.runs for arm in arms.arms] == [["r0", "r1"], ["r2"]] and arms.axes == ["train.lora.rank"]
    [note] = [note for note in frames.notes if note.startswith("r0: of an earlier version")]
    assert "train.lora.rank" in note and "algorithm.roles.critic.head" in note


def test_commands_name_what_they_leave_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ablation(tmp_path)
    (tmp_path / "strict-1/config.yaml").write_text("a: [1")
    damaged = f"note: Left out: {tmp_path}/strict-1/config.yaml is damaged"
    for command, out in ((tables, "tables"), (main, "figures"), (report, "report.html")):
        assert command([*map(str, sorted(tmp_path.glob("*-[01]"))), "--out", str(tmp_path / out)]) == 0
        assert damaged in capsys.readouterr().err
    assert tables([str(tmp_path / "strict-1")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/strict-1/config.yaml is damaged")


def test_arms_have_the_order_of_the_sweep(tmp_path: Path) -> None:
    root = ablation(tmp_path / "runs")
    names = ["strict-1", "strict-0", "lenient-0", "lenient-1"]
    runs = [SweepRun([], str(root / name), ["train.py"], "local") for name in names]
    sweep = Sweep(root / ".sweeps/one", str(tmp_path), runs=runs)
    sweep.folder.mkdir(parents=True)
    sweep.write()
    for sources in ([root], [sweep.folder], sorted(root.glob("*-*"))):
        assert list(load(sources).runs.index) == names
        assert [arm.label for arm in select_runs(load(sources))[1].arms] == ["reward=strict", "reward=lenient"]
    for number, name in enumerate(names):  # without the sweep, by the time of their start
        started = {"started": f"2026-01-01T0{9 - number}:00:00+0000"}
        (root / name / "environment.json").write_text(json.dumps(started))
    (sweep.folder / "sweep.json").write_text("{")
    assert list(load([root]).runs.index) == names[::-1]
    with pytest.raises(SourceError, match=r"one/sweep\.json is damaged"):
        load([sweep.folder])
