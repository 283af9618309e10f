"""Every form in which W&B gives out numbers, with the pitfalls of each."""

from __future__ import annotations

import csv
import gzip
import json
import math
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from wandb_server import ServedRun, serving

from analysis.arms import select_runs
from analysis.plots import main as plots
from analysis.run_data import SourceError
from analysis.sources import load
from analysis.tables import build_tables
from analysis.tables import main as tables
from analysis.wandb_readers.offline import read_records
from analysis.wandb_readers.runs_table import result_columns
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
    assert [(arm.label, len(arm.runs)) for arm in arms.arms] == [
        ("reward=strict", 3),
        ("reward=lenient", 3),
    ]  # oldest first
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
    assert len(arms.notes) == 1 and "settings unknown, so each run is a separate arm" in arms.notes[0]
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
    with pytest.raises(SourceError, match=r"not an export of W&B, its columns are a, b: export"):
        load([tmp_path / "other.csv"])


UNREADABLE = {
    "nothing": (b"\xef\xbb\xbf \n", "is empty: export"),
    "a page": (b"<html><body>Sign in</body></html>\n", "is not an export of W&B, its columns are <html>"),
    "system metrics": (b"_runtime,_timestamp,system.cpu\n1,2,3\n", "is not an export of W&B"),
    "a header alone": (b"Name,State,accuracy\n", "has no row with as many cells .3. as the header"),
    "damaged JSON": (b'{"_step": 1, "a"', "is neither JSON nor JSON Lines"),
    "other JSON": (b'{"a": 1}', "is not the history of a run, its columns are a"),
    "a damaged archive": (b"\x1f\x8bnonsense", "cannot be read"),
    "Latin-1": ("Name,State,m/x\nl\u00e4uft,finished,1\n".encode("latin-1"), r"is not UTF-8 text \(byte 16\)"),
    "an endless cell": (
        b'Name,State,m/x\n"' + b"n" * 140_000,
        "(is not a CSV file|has no row)",
    ),  # the limit of a cell is global
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


TABLE = """Name,ID,State,algorithm,seed,accuracy,final_reward,mean_length
a0,i0,finished,ppo,0,0.71,0.40,210.5
"a, 1",i1,finished,ppo,1,0.69,0.38,215.1
b0,i2,finished,grpo,0,0.75,0.45,300.2
b1,i3,finished,grpo,1,0.74,0.44,290.9
"""
SPREADSHEET = TABLE.replace(",", ";").replace('"a; 1"', "a, 1").replace(".", ",")
SAVED = {
    "commas": TABLE.encode(),
    "a byte order mark": TABLE.encode("utf-8-sig"),
    "semicolons": SPREADSHEET.encode("utf-8-sig"),
    "a separator line": ("sep=;\r\n" + SPREADSHEET.replace("\n", "\r\n")).encode(),
    "Unicode text": SPREADSHEET.replace(";", "\t").encode("utf-16"),
    "UTF-16 without mark": TABLE.encode("utf-16-le"),
    "gzip": gzip.compress(TABLE.encode()),
}


@pytest.mark.parametrize("how", SAVED)
def test_a_table_with_plain_names_in_every_form_of_csv(how: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(SAVED[how])
    frames, arms = select_runs(load([path]))
    assert {arm.label: arm.runs for arm in arms.arms} == {"algorithm=ppo": ["i0", "i1"], "algorithm=grpo": ["i2", "i3"]}
    assert frames.summary.loc["i1"].to_dict() == {"accuracy": 0.69, "final_reward": 0.38, "mean_length": 215.1}
    assert frames.runs.at["i1", "name"] == "a, 1"
    assert any("read as results because of their numbers and names: accuracy, final" in one for one in frames.notes)


def test_an_archive_may_hold_several_exports(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.csv.zip", "w") as archive:
        archive.writestr("export/table.csv", TABLE)
        archive.writestr("export/readme.txt", "hello\n")
    frames = load([tmp_path])
    assert len(frames.runs) == 4 and any("readme.txt is not an export" in note for note in frames.notes)


@pytest.mark.parametrize(
    ("name", "cells", "is_result"),
    [
        ("accuracy", "1 1 1 1", True),
        ("bestReward", "1 1 2 2", True),
        ("eval.solve_rate", "1 2 3 4", True),
        ("eval/x", "1 1 1 1", True),
        ("tokens", "10 11 12 13", True),
        ("tokens", "10 - 12 13", True),
        ("em.last", "1 1 2 2", True),
        ("reward_scale", "1 2 3 4", False),
        ("learning_rate", "1 2 3 4", False),
        ("algo.group_size", "1 2 3 4", False),
        ("algo.anything", "1 2 3 4", False),
        ("samples_per_prompt", "1 2 3 4", False),
        ("hidden", "1 1 2 2", False),
        ("hidden", "8 8 8 8", False),
        ("accuracy", "1 2 3 high", False),
        ("Runtime", "1 2 3 4", False),
    ],
)
def test_which_columns_of_a_table_are_results(name: str, cells: str, is_result: bool) -> None:
    assert bool(result_columns([name], [[cell] for cell in cells.split()])) == is_result


def banded(path: Path, axis: str, names: list[str], width: float) -> Path:
    header = [axis, *(column for name in names for column in triple(name, "eval/x/accuracy"))]
    rows = [[str(x), *(str(0.1 + d) for _ in names for d in (0, -width, width))] for x in range(3)]
    return write_csv(path, header, rows)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["reward.name: strict", "reward.name: lenient"], ["reward=strict", "reward=lenient"]),
        (["algorithm: ppo", "algorithm: grpo"], ["algorithm=ppo", "algorithm=grpo"]),
        (["Job Type: a: b - c", "Job Type: d"], ["job type=a: b - c", "job type=d"]),
        (["algorithm: ppo seed: 0", "algorithm: grpo seed: 0"], ["algorithm=ppo", "algorithm=grpo"]),
    ],
)
def test_a_chart_grouped_by_any_setting_has_means_over_unknown_numbers_of_runs(
    names: list[str], labels: list[str], tmp_path: Path
) -> None:
    frames, arms = select_runs(load([banded(tmp_path / "p.csv", "Step", names, 0.05)]))
    assert [arm.label for arm in arms.arms] == labels
    assert any("mean over runs and cannot be separated" in note for note in frames.notes)
    table = build_tables(frames, arms)[-1]
    assert [row[table.columns.index("n")].text() for row in table.rows] == ["-", "-"]
    assert any("means over runs that a grouped chart does not distinguish" in note for note in table.notes)
    assert not any("n=1" in cell.text() or cell.parts()[1] for row in table.rows for cell in row)


def test_runs_whose_names_hold_a_colon_are_runs(tmp_path: Path) -> None:
    frames = load([banded(tmp_path / "p.csv", "Step", ["try: a", "try: b"], 0.0)])
    assert frames.runs["source"].tolist() == ["wandb plot"] * 2
    assert not any("grouped" in note for note in frames.notes)


def test_a_run_of_the_table_is_no_group(tmp_path: Path) -> None:
    names = ["try: a", "try: b"]
    rows = [[name, f"i{i}", "finished", str(i)] for i, name in enumerate(names)]
    table = write_csv(tmp_path / "t.csv", ["Name", "ID", "State", "seed"], rows)
    frames = load([table, banded(tmp_path / "p.csv", "rl/step", names, 0.05)])  # thinned, so its bounds differ
    assert frames.runs.index.tolist() == ["i0", "i1"] and len(frames.curve("i1", "eval/x/accuracy")) == 3


def test_points_on_a_fractional_axis_stay(tmp_path: Path) -> None:
    epochs = [f"{x / 20:.2f}" for x in range(1, 31)]
    path = line_plot(tmp_path / "p.csv", "train/epoch", [("a", "m/x", epochs), ("b", "m/x", epochs)], tuple(epochs))
    frames = load([path])
    assert frames.curve("a", "m/x").to_dict() == {float(x): float(x) for x in epochs}
    assert frames.last_step(["a"]) == 1.5 and not any("written more than once" in note for note in frames.notes)
    assert (
        tables([str(path), "--out", str(tmp_path / "out")]) == 0 == plots([str(path), "--out", str(tmp_path / "out")])
    )


@pytest.mark.parametrize("axis", ["Step", "_step", "global_step", "trainer/global_step", "rl/step"])
def test_step_axes_of_any_name(axis: str, tmp_path: Path) -> None:
    frames = load([line_plot(tmp_path / "p.csv", axis, [("a", "m/x", ["1", "2", "3"])])])
    assert frames.curve("a", "m/x").to_dict() == {9: 1.0, 19: 2.0, 29: 3.0}


def test_a_chart_of_bounds_alone_says_so(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", ["Step", "a - m/x__MIN", "a - m/x__MAX"], [["0", "1", "2"]])
    with pytest.raises(SourceError, match=r"contains only the minimum and maximum of m/x: export"):
        load([path])


HISTORY = [{"_step": i, "rl/step": 2 * i, "rl/reward": i / 4, "_runtime": 3.1 * i, "_timestamp": 1.0} for i in range(5)]
SPARSE = [{"_step": i, "a/loss" if i % 2 else "a/reward": float(i), "note": "x"} for i in range(6)]


def history_file(rows: list[dict[str, Any]], path: Path) -> Path:
    table = pd.DataFrame(rows)
    {
        ".csv": lambda: table.to_csv(path),
        ".gz": lambda: table.to_csv(path, index=False),
        ".parquet": lambda: table.to_parquet(path),
        ".json": lambda: table.to_json(path),
        ".jsonl": lambda: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
        ".ndjson": lambda: path.write_text(json.dumps(rows)),
    }[path.suffix]()
    return path


@pytest.mark.parametrize("file", ["h.csv", "h.csv.gz", "h.parquet", "h.json", "h.jsonl", "h.ndjson"])
def test_a_history_that_pandas_saved_is_one_run(file: str, tmp_path: Path) -> None:
    frames = load([history_file(HISTORY, tmp_path / file)])
    assert frames.runs.index.tolist() == ["h"] and frames.metric_names() == ["rl/reward"]
    assert frames.curve("h", "rl/reward").to_dict() == {0: 0.0, 2: 0.25, 4: 0.5, 6: 0.75, 8: 1.0}
    sparse = load([history_file(SPARSE, tmp_path / f"sparse_{file}")])
    assert sparse.curve("sparse_h", "a/loss").to_dict() == {1: 1.0, 3: 3.0, 5: 5.0}
    assert any("values that are not numbers were skipped: note" in note for note in sparse.notes)


def test_unreadable_parts_of_an_export_are_skipped_with_a_note(tmp_path: Path) -> None:
    whole = history_file(HISTORY, tmp_path / "h.jsonl")
    whole.write_text(whole.read_text() + '{"_step": 9, "rl/re')
    frames = load([whole])
    assert (
        len(frames.curve("h", "rl/reward")) == 5 and "h.jsonl: 1 lines that are not JSON were skipped." in frames.notes
    )
    path = write_csv(tmp_path / "p.csv", ["Step", "a - m/x"], [["0", "1. May"], ["1", "2"], ["2", "3", "4"]])
    assert load([path]).notes[:2] == [
        "p.csv: 1 rows with more or fewer cells than the header were skipped.",
        "p.csv: 1 cells that are not numbers were skipped, such as '1. May' (did a spreadsheet change them?).",
    ]


def test_histories_of_one_file_name_and_of_several_runs_stay_separate(tmp_path: Path) -> None:
    for folder in ("seed0", "seed1"):
        (tmp_path / folder).mkdir()
        history_file(HISTORY, tmp_path / folder / "history.csv")
    assert load([tmp_path]).runs.index.tolist() == ["seed0/history", "seed1/history"]
    both = [{"run_id": run, **row} for run in ("r1", "r2") for row in HISTORY]
    table = write_csv(tmp_path / "t.csv", ["Name", "ID", "State", "seed"], [["n", "r1", "finished", "0"]])
    frames = load([history_file(both, tmp_path / "all.csv"), table])
    assert frames.runs["name"].to_dict() == {"r1": "n", "r2": "r2"} and len(frames.curve("r2", "rl/reward")) == 5


def test_a_table_of_the_api_holds_dicts(tmp_path: Path) -> None:
    rows = [
        {"summary": {"acc": x, "_runtime": 9, "loss": math.nan}, "config": {"algo": {"name": a}, "seed": s}, "name": a}
        for a, s, x in (("ppo", 0, 0.5), ("ppo", 1, 0.7), ("grpo", 0, 0.6))
    ]
    pd.DataFrame([*rows, {"summary": "x", "config": "y", "name": "z"}]).to_csv(tmp_path / "project.csv")
    frames, arms = select_runs(load([tmp_path / "project.csv"]))
    assert [(arm.label, len(arm.runs)) for arm in arms.arms] == [("algo=ppo", 2), ("algo=grpo", 1)]
    assert frames.last_value("ppo (2)", "acc") == 0.7 and any("1 rows whose config" in note for note in frames.notes)


def test_a_damaged_export_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text(TABLE)
    (tmp_path / "b.csv").write_bytes(b"")
    assert tables([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert f"note: Left out: {tmp_path}/b.csv is empty" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert tables([str(tmp_path / "a.csv"), "--out", str(tmp_path / "file")]) == 2
    assert f"error: {tmp_path}/file cannot be read or written" in capsys.readouterr().err


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
    while True:
        with suppress(SourceError):
            if load([file]).runs["state"].iloc[0] != "crashed":
                return
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
    with pytest.raises(SourceError, match="contains no run"):
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
