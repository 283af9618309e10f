"""Every form in which W&B gives out numbers, with the pitfalls of each."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import Any

import pytest
from wandb_server import ServedRun, serving

from analysis.arms import select_runs
from analysis.run_data import SourceError
from analysis.sources import load
from analysis.tables import build_tables
from analysis.tables import main as tables
from analysis.wandb_readers.offline import read_offline, read_records
from simplerl.runs.folder import INTERRUPTED

STEPS = ("9", "19", "29")


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    return path


def triple(name: str, metric: str) -> list[str]:
    return [f"{name} - {metric}{part}" for part in ("", "__MIN", "__MAX")]


def line_plot(path: Path, axis: str, curves: list[tuple[str, str, list[str]]], steps: tuple[str, ...] = STEPS) -> Path:
    header = [axis, *(column for name, metric, _ in curves for column in triple(name, metric))]
    rows = [[step, *(cell for _, _, cells in curves for cell in [cells[i]] * 3)] for i, step in enumerate(steps)]
    return write_csv(path, header, rows)


@pytest.fixture
def samples(shared: Path) -> Path:
    return shared / "wandb_samples"


def test_all_sample_exports_together(samples: Path) -> None:
    frames = load([samples])
    assert set(frames.runs.index) == {
        *("st0a1b2c", "st1crash", "st1again", "st2resum", "le0x9y8z", "le1q7w6e", "le2nometr", "le9debug"),
    }
    # Placed at the run's own step (train/global_step 152), which the other chart shows beside _step 19.
    assert frames.curve("st1crash", "eval/exact_match").index.tolist() == [72, 152]
    assert frames.curve("st1again", "eval/exact_match")[472] == 0.5375403521485212
    assert frames.curve("st1again", "eval/pass@8").index.tolist() == [72, 152, 232, 312, 392, 472]
    assert frames.runs.at["le1q7w6e", "name"] == 'lenient λ=0.5 – s1, "v2"'
    assert frames.runs.at["le2nometr", "name"] == "grpo-lenient - s2"
    assert math.isnan(frames.summary.at["le2nometr", "eval/lenient_match"])
    assert frames.config.at["st1crash", "slurm.job_id"] == "4711_1"
    assert any("identified by their last values: column 1 is st1crash" in note for note in frames.notes)
    assert any(note.startswith("Group: strict, Group: lenient: means over groups") for note in frames.notes)
    ended, arms = select_runs(frames)
    assert [(arm.label, len(arm.runs)) for arm in arms.arms] == [("reward=lenient", 3), ("reward=strict", 3)]
    assert "st1crash (name grpo-strict-s1): skipped, its state is crashed." in ended.notes


def test_sample_exports_without_ids_are_identified(samples: Path) -> None:
    frames = load([samples / "runs_table.csv", samples / "line_step_exact_match.csv"])
    assert frames.runs.at["grpo-strict-s1", "state"] == "finished"
    assert frames.runs.at["grpo-strict-s1 (2)", "state"] == "crashed"
    assert frames.curve("grpo-strict-s1 (2)", "eval/exact_match").index.tolist() == [9, 19]
    assert any("x axis is W&B's own Step" in note for note in frames.notes)


@pytest.mark.parametrize("file", ["line_step_exact_match.csv", "line_globalstep_pass8.csv"])
def test_runs_of_unknown_settings_are_not_averaged(samples: Path, file: str) -> None:
    frames, arms = select_runs(load([samples / file]))
    names = ["strict, seed=0", "grpo-strict-s1", "grpo-strict-s1 (2)", "grpo-strict-s2", "grpo-lenient-s0"]
    names += ['lenient λ=0.5 – s1, "v2"', "grpo-lenient - s2"]
    assert sorted(arm.label for arm in arms.arms) == sorted(names)
    assert [len(arm.runs) for arm in arms.arms] == [1] * 7 and arms.axes == ["run"]
    assert len(arms.notes) == 1 and "settings unknown, so each run is an arm of its own" in arms.notes[0]
    rows = build_tables(frames, arms)[-1].rows
    assert sorted(row[0].parts()[0] for row in rows) == sorted(names)
    assert not any(cell.bold or cell.parts()[1] for row in rows for cell in row)


def test_a_grouped_chart_alone_is_read_with_a_note(samples: Path) -> None:
    frames = load([samples / "line_grouped_exact_match.csv"])
    assert list(frames.runs.index) == ["Group: strict", "Group: lenient"]
    assert any("mean over runs and cannot be separated" in note for note in frames.notes)


def test_a_line_plot_alone_keeps_runs_of_one_name_separate(tmp_path: Path) -> None:
    curves = [("a - b, c", "m/x", ["1", "2", ""]), ("a - b, c", "m/x", ["3", "NaN", "Infinity"])]
    frames = load([line_plot(tmp_path / "x.csv", "rl/step", curves)])
    assert frames.curve("a - b, c", "m/x").to_dict() == {9: 1.0, 19: 2.0}
    assert frames.curve("a - b, c (2)", "m/x").to_dict() == {9: 3.0, 29: math.inf}
    assert frames.notes == [
        "a - b, c: 2 runs have this name; they are numbered in the file's order.",
        "a - b, c (2): infinite values are shown as inf: m/x.",
    ]


def test_curves_that_fit_no_run_of_their_name_stay_separate(tmp_path: Path) -> None:
    table = write_csv(
        tmp_path / "t.csv",
        ["Name", "ID", "State", "seed", "m/x"],
        [["n", "i1", "finished", "0", "5"], ["n", "i2", "crashed", "0", "5"]],
    )
    plot = line_plot(tmp_path / "p.csv", "rl/step", [("n", "m/x", ["1", "2", "5"]), ("n", "m/x", ["1", "5", ""])])
    frames = load([table, plot])
    assert set(frames.runs.index) == {"i1", "i2", "n?", "n (2)?"}
    assert any("Show the ID column" in note for note in frames.notes)


def test_a_thinned_chart_has_a_note(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "p.csv", ["rl/step", *triple("run", "m/x")], [["0", "2", "1", "3"], ["5", "4", "4", "4"]]
    )
    assert any("the page thinned this chart" in note for note in load([path]).notes)


def test_time_on_the_x_axis_gives_last_values_only(tmp_path: Path) -> None:
    path = line_plot(tmp_path / "p.csv", "Relative Time (Process)", [("run", "m/x", ["1", "2", ""])])
    frames = load([path])
    assert frames.last_value("run", "m/x") == 2.0 and frames.metrics.empty
    assert any("not a step" in note for note in frames.notes)


def test_a_table_without_state_seed_or_id(tmp_path: Path) -> None:
    rows = [["one", "none", "0.10", "0.5"], ["two", "strict", "0.1", "0.7"]]
    frames = load([write_csv(tmp_path / "t.csv", ["Name", "reward.name", "algo.lr", "eval/x/accuracy"], rows)])
    assert frames.config.at["one", "reward.name"] == "none"
    assert [arm.label for arm in select_runs(frames)[1].arms] == ["reward=none", "reward=strict"]
    assert frames.last_value("two", "eval/x/accuracy") == 0.7
    assert [note.partition(": ")[2][:19] for note in frames.notes] == ["State and ID hidden", "has no seed column;"]


TWICE = [["A", "0", "0.5"], ["A", "1", "0.6"], ["B", "0", "0.7"], ["B", "1", "0.9"]]


@pytest.mark.parametrize("created", [None, "", "2026-01-01T00:00:00.000Z"])
def test_rows_of_one_name_without_ids_are_different_runs(tmp_path: Path, created: str | None) -> None:
    header, rows = ["Name", "State", "seed", "eval/x/accuracy"], [[row[0], "finished", *row[1:]] for row in TWICE]
    if created is not None:
        header, rows = [*header, "Created"], [[*row, created] for row in rows]
    frames = load([write_csv(tmp_path / "t.csv", header, rows)])
    found = {run: frames.last_value(run, "eval/x/accuracy") for run in frames.runs.index}
    assert found == {"A": 0.5, "A (2)": 0.6, "B": 0.7, "B (2)": 0.9}
    for name in "AB":
        assert any(note.startswith(f"t.csv: 2 runs have the name {name} and ") for note in frames.notes)


def test_one_name_in_two_tables_without_creation_times_is_one_run_with_a_note(tmp_path: Path) -> None:
    one = write_csv(tmp_path / "a.csv", ["Name", "State", "seed", "m/x"], [["n", "finished", "0", "1"]])
    two = write_csv(tmp_path / "b.csv", ["Name", "State", "seed", "m/y"], [["n", "finished", "0", "2"]])
    frames = load([one, two])
    assert frames.summary.loc["n"].to_dict() == {"m/x": 1.0, "m/y": 2.0}
    assert any(note.startswith("n: treated as one run in a.csv and b.csv, which have no") for note in frames.notes)


def test_rows_with_a_creation_time_belong_to_the_runs_of_another_table(tmp_path: Path) -> None:
    header = ["Name", "ID", "State", "seed", "Created", "m/x"]
    known = [["n", "i1", "finished", "0", "T1", "1"], ["n", "i2", "finished", "1", "T2", "2"]]
    other = [["n", "finished", "1", "T2", "4"], ["n", "finished", "0", "T1", "3"], ["n", "finished", "0", "T3", "5"]]
    frames = load(
        [
            write_csv(tmp_path / "a.csv", header, known),
            write_csv(tmp_path / "b.csv", ["Name", "State", "seed", "Created", "m/y"], other),
        ]
    )
    assert frames.summary["m/y"].to_dict() == {"i1": 3.0, "i2": 4.0, "n (3)": 5.0}


def test_results_kept_as_last_and_max(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "t.csv",
        ["Name", "ID", "State", "seed", "e/a.last", "e/a.max"],
        [["n", "i", "finished", "0", "1", "3"]],
    )
    assert load([path]).summary.loc["i"].to_dict() == {"e/a": 1.0, "e/a.max": 3.0}


def test_another_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match="holds no run"):
        load([tmp_path / "other.csv"])


UNREADABLE = {
    "semicolons": (b"Name;State;eval/x/accuracy\nn;finished;0,5\n", "is separated by semicolons"),
    "tabs": (b"Step\trun - m/x\n1\t2\n", "is separated by tabs"),
    "Latin-1": ("Name,State,m/x\nl\u00e4uft,finished,1\n".encode("latin-1"), r"is not UTF-8 text \(byte 16\)"),
    "an endless cell": (b'Name,State,m/x\n"' + b"n" * 140_000, "is not a CSV file"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_csv_in_another_format_is_refused_with_the_cause(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, sentence = UNREADABLE[name]
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(SourceError, match=rf"t\.csv {sentence}"):
        load([tmp_path])
    assert tables([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_infinite_loss_has_a_note(tmp_path: Path) -> None:
    rows = [["one", "i1", "finished", "0", "ppo", "Infinity"], ["two", "i2", "finished", "1", "ppo", "-Infinity"]]
    path = write_csv(tmp_path / "t.csv", ["Name", "ID", "State", "seed", "algo.name", "policy/loss"], rows)
    frames = load([path])
    assert [note for note in frames.notes if "policy/loss" in note] == [
        f"{run}: infinite values are shown as inf: policy/loss." for run in ("i1", "i2")
    ]
    assert tables([str(path), "--out", str(tmp_path / "out")]) == 0
    assert "nan" in (tmp_path / "out/runs.md").read_text()


# Offline


def log_offline(folder: Path, run: str, rows: list[dict[str, Any]], *, name: str | None = None, **config: Any) -> Path:
    """A real offline run; its .wandb file."""
    import wandb

    settings = wandb.Settings(console="off", silent=True)
    with wandb.init(
        mode="offline", dir=folder, id=run, name=name, project="math", config=config, settings=settings
    ) as own:
        for row in rows:
            own.log(row)
    (file,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    _await_exit(file)
    return file


def _await_exit(file: Path) -> None:
    """wandb-core may still be writing."""
    end = time.monotonic() + 30
    while read_offline(file, []) is None or load([file]).runs["state"].iloc[0] == "crashed":
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run, resumed: steps 0-2, then 2-3; the redone step 2 counts."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    rows = [{"rl/step": step, "reward/mean": float(step), "odd": math.nan} for step in range(3)]
    again = [{"rl/step": step, "reward/mean": 10.0 + step, "eval/x/accuracy": 0.5} for step in (2, 3)]
    again.append({"warmup/step": 7, "warmup/loss": math.inf, "text": "hello"})
    return {
        "first": log_offline(first, "abc", rows, name="a, b", seed=0, reward={"name": "none"}),
        "second": log_offline(second, "abc", again, name="a, b", seed=0, reward={"name": "none"}),
    }


@pytest.mark.slow
def test_offline_runs_are_read_and_a_resumed_one_is_one(offline: dict[str, Path]) -> None:
    frames = load([offline["second"], offline["first"]])
    assert frames.runs.loc["abc", ["name", "state"]].tolist() == ["a, b", "finished"]
    assert frames.curve("abc", "reward/mean").to_dict() == {0: 0.0, 1: 1.0, 2: 12.0, 3: 13.0}
    assert frames.curve("abc", "warmup/loss", "warmup").to_dict() == {7: math.inf}
    assert frames.config.at["abc", "reward.name"] == "none"
    assert "abc: step 2 was written more than once; the last written value of each metric counts." in frames.notes
    assert "abc: values that are not numbers were skipped: text." in frames.notes


@pytest.mark.slow
def test_a_run_stopped_by_a_signal_is_interrupted(tmp_path: Path) -> None:
    import wandb

    run = wandb.init(mode="offline", dir=tmp_path, id="left", settings=wandb.Settings(console="off", silent=True))
    run.log({"rl/step": 0, "reward/mean": 0.5})
    run.finish(exit_code=INTERRUPTED)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    _await_exit(file)
    assert load([file]).runs["state"].tolist() == ["interrupted"]


@pytest.mark.slow
def test_an_incomplete_offline_file_is_read_up_to_its_end(offline: dict[str, Path], tmp_path: Path) -> None:
    whole = offline["first"].read_bytes()
    assert None not in list(read_records(whole))
    for size in (7, 300, len(whole) // 2, len(whole) - 3):
        place = tmp_path / f"offline-run-{size}" / "run-abc.wandb"
        place.parent.mkdir()
        place.write_bytes(whole[:size])
    frames = load([tmp_path / f"offline-run-{len(whole) - 3}"])
    assert frames.runs.at["abc", "state"] == "crashed"
    assert any("ends with an incomplete record" in note for note in frames.notes)
    with pytest.raises(SourceError, match="holds no run"):
        load([tmp_path / "offline-run-7"])


def test_records_that_span_blocks_are_joined() -> None:
    import struct
    import zlib

    def record(kind: int, data: bytes) -> bytes:
        return struct.pack("<IHB", zlib.crc32(bytes([kind]) + data), len(data), kind) + data

    head = b":W&B" + struct.pack("<HB", 0xBEE1, 1)
    first = 32768 - 7 - 7  # fills the first block
    content = head + record(2, b"a" * first) + record(4, b"b" * 5) + record(1, b"c")
    assert list(read_records(content)) == [b"a" * first + b"b" * 5, b"c"]
    assert list(read_records(content[:-1]))[-1] is None


# The API


@pytest.mark.slow
def test_full_histories_are_read_through_the_real_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        {"_step": i, "rl/step": i // 2, ("eval/x/accuracy" if i % 2 else "reward/mean"): i / 10} for i in range(1500)
    ]
    rows[4]["reward/mean"] = "NaN"
    runs = [
        ServedRun(
            "r1", "same name", "finished", {"seed": 0, "reward": {"name": "none"}}, {"a/b": {"last": 1, "max": 2}}, rows
        ),
        ServedRun("r2", "same name", "crashed", {"seed": 0}, {"a/b": "Infinity"}, rows[:4]),
    ]
    with serving(runs) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path))
        frames = load(["wandb:lab/math"])
        with pytest.raises(SourceError, match="lab/absent cannot be read"):
            load(["wandb:lab/absent"])
    assert frames.runs["state"].to_dict() == {"r1": "finished", "r2": "crashed"}
    assert len(frames.curve("r1", "eval/x/accuracy")) == 750  # all, not a sample of 500
    assert 2 not in frames.curve("r1", "reward/mean").index
    assert frames.config.at["r1", "reward.name"] == "none"
    assert frames.summary.at["r1", "a/b"] == 1.0 and frames.summary.at["r2", "a/b"] == math.inf
