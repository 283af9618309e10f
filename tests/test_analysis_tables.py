from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import aha, compare
from analysis.arms import evaluation_rule, select_runs
from analysis.estimates import (
    differ_significantly,
    mean_over_seeds,
    published_estimate,
    quantity,
    significantly_best,
)
from analysis.frames import Frames, assemble
from analysis.published_tables import ZOO, ZOO_SETS
from analysis.run_data import RunData, SourceError
from analysis.tables import build_tables, main
from simplerl.data.benchmarks import PUBLISHED
from simplerl.evals.statistics import Interval
from simplerl.io.tables import Cell, Table, as_csv, as_html, escape_latex, latex, markdown, write

# recipe, table 1, as published
TABLE_1 = """
| Qwen2.5-Math-7B-Base | 16.7 | 52.4 | 52.5 | 12.9 | 16.4 | 30.2 |
| Qwen2.5-Math-7B-Base + 8K MATH SFT | 3.3 | 54.6 | 22.5 | 32.7 | 19.6 | 26.5 |
| Qwen-2.5-Math-7B-Instruct | 13.3 | 79.8 | 50.6 | 34.6 | 40.7 | 43.8 |
| Llama-3.1-70B-Instruct | 16.7 | 64.6 | 30.1 | 35.3 | 31.9 | 35.7 |
| rStar-Math-7B | 26.7 | 78.4 | 47.5 | - | 47.1 | - |
| Eurus-2-7B-PRIME | 26.7 | 79.2 | 57.8 | 38.6 | 42.1 | 48.9 |
| Qwen2.5-7B-SimpleRL-Zero | 33.3 | 77.2 | 62.5 | 33.5 | 37.6 | 48.8 |
| Qwen2.5-7B-SimpleRL | 26.7 | 82.4 | 62.5 | 39.7 | 43.3 | 50.9 |
"""
SUITE5 = ("aime24", "math500", "amc23", "minerva_math", "olympiadbench")


def run_of(
    name: str, finals: tuple[float, ...], seed: int, experiment: str = "simplerl_zero", start: int = 0, se: float = 0.02
) -> RunData:
    """A run with accuracies at steps 0 (all 0.1) and 120."""
    rows = {f"eval/{one}/accuracy": [0.1, final] for one, final in zip(SUITE5, finals, strict=True)}
    errors = {f"eval/{one}/accuracy_se": [se, se] for one in SUITE5}
    metrics = pd.DataFrame({"phase": "rl", "step": [start, 120], **rows, **errors})
    config = {"choices.experiment": experiment, "choices.reward": name, "seed": seed}
    return RunData(f"{name}{seed}", name, "finished", "folder", "", config, metrics=metrics)


def rows_of(found: list[RunData]) -> dict[str, dict[str, list[Cell]]]:
    """Table -> row's name -> its cells."""
    return {
        table.name: {str(row[0].value): row[1:] for row in table.rows}
        for table in build_tables(*select_runs(assemble(found)))
    }


def test_accuracies_by_different_rules_are_marked_and_not_compared() -> None:
    """The rule is that of `evals.reward`; if that is null, it is the training reward, as in version 0.1.0."""
    finals = (0.9, 0.8, 0.7, 0.4, 0.4)
    qwen = {"evals.reward._target_": "simplerl.rewards.lenient", "evals.reward.rule": "qwen"}
    ours = {"evals.reward._target_": "simplerl.rewards.strict", "evals.reward.rule": "math_verify"}
    null = {"evals.reward": None, "reward._target_": "my_rewards.brief"}
    runs = [
        replace(run := run_of(name, finals, 0, se=0.001), config=run.config | rule)
        for name, rule in (("a", qwen), ("b", ours), ("c", null))
    ]
    frames, arms = select_runs(assemble(runs))
    assert [evaluation_rule(frames, arm.runs) for arm in arms.arms] == [
        "lenient (qwen)", "strict (math_verify)", "my_rewards.brief"
    ]  # fmt: skip
    assert any(note.startswith("Runs are evaluated by different rules") for note in arms.notes)
    table, *_, ablation = build_tables(frames, arms)
    own = table.rows[-3:]
    assert [cell.text() != "-" for row in own for cell in [row[7]]] == [True, False, False]  # delta published
    assert [row[-1].text() for row in own] == [row[-1].text() for row in ablation.rows]
    assert not any(cell.bold for one in (table, ablation) for row in one.rows for cell in row)

    alone, *_, ablation = build_tables(*select_runs(assemble(runs[:1])))
    assert any(cell.bold for cell in alone.rows[-1]) and alone.columns[-1] == "graded by"
    assert "Accuracy: graded by lenient (qwen)." in ablation.notes and ablation.columns[-1] == "step"


def test_the_interval_of_a_small_benchmark_ends_at_0_and_100() -> None:
    """None of four questions of one's own is answered: the accuracy is between 0 and 49 %, not 0.0 ± 49.0."""
    metrics = {"eval/heldout/accuracy": 0.0, "eval/heldout/accuracy_se": 0.4899 / 1.96, "reward/mean": -0.5}
    run = RunData(
        "r", "r", "finished", "folder", "", {"seed": 0}, metrics=pd.DataFrame({"phase": "rl", "step": [0], **metrics})
    )
    table = build_tables(*select_runs(assemble([run])))[-1]
    column = table.columns.index("heldout accuracy (%)")
    assert table.rows[0][column].text() == "0.0 [0.0, 49.0]"
    assert "0.0 {[}0.0, 49.0{]}" in latex(table) and "0.0 [0.0, 49.0]" in markdown(table)
    row = next(csv.DictReader(as_csv(table).splitlines()))
    assert (row["heldout accuracy (%) low"], row["heldout accuracy (%) high"]) == ("0", "48.9891")


def texts(cells: list[Cell]) -> list[str]:
    return [cell.text() for cell in cells]


@pytest.fixture
def frames() -> Frames:
    finals = (0.9, 0.8, 0.7, 0.4, 0.4)
    runs = [run_of("strict", tuple(x + d for x in finals), seed) for seed, d in enumerate((-0.01, 0.0, 0.01))]
    return assemble([*runs, run_of("lenient", (0.3, 0.7, 0.6, 0.3, 0.3), 0)])


def body(text: str) -> list[str]:
    return [line.replace("**", "") for line in text.splitlines() if line.startswith("| ")]


def test_published_tables_are_reproduced_exactly() -> None:
    tables = build_tables(*select_runs(assemble([])))
    assert [table.name for table in tables] == ["table1", "table2", "table3", "table_zoo"]
    assert body(markdown(tables[0]))[1:] == TABLE_1.strip().splitlines()
    assert "| Qwen2.5-7B-SimpleRL-Zero | 36.7 | 77.4 | 62.5 | 34.2 | 37.5 | 49.7 |" in markdown(tables[2])
    assert "8K queries x 8 samples" in markdown(tables[1])
    assert "| Qwen-2.5-7B + SimpleRL-Zoo | 91.7 | 78.2 | 38.6 | 40.4 | 20.0 | 62.5 | 15.6 | 55.2 |" in markdown(
        tables[3]
    )


def test_published_averages_of_the_zoo_are_means_of_their_rows() -> None:
    for model, row in ZOO.items():
        assert sum(row[name] for name in ZOO_SETS) / 6 == pytest.approx(row["mean"], abs=0.06), model


def test_a_zoo_run_stands_in_the_table_of_the_zoo() -> None:
    """Only runs with all of its benchmarks are there, and they are compared with the published average of six."""
    five = run_of("strict", (0.2, 0.78, 0.6, 0.4, 0.4), 0, "zoo_qwen2_5_7b")
    assert five.metrics is not None
    six = replace(five, metrics=five.metrics.assign(**{"eval/gsm8k/accuracy": [0.1, 0.98]}))
    tables = {table.name: table for table in build_tables(*select_runs(assemble([six])))}
    own = texts(tables["table_zoo"].rows[-1])
    assert len(tables["table_zoo"].rows) == len(ZOO) + 1
    assert own[7].startswith("-") and own[8].startswith("56.0") and own[9].startswith("+0.8")  # 55.2 is published
    assert texts(tables["table1"].rows[-1])[7] == "-"
    assert len(build_tables(*select_runs(assemble([five])))[3].rows) == len(ZOO)


def test_published_tables_equal_those_of_the_recipe(shared: Path) -> None:
    recipe = (shared / "recipe.md").read_text()
    one, two, three, _ = map(markdown, build_tables(*select_runs(assemble([]))))
    for table in (one, three):
        assert all(line in recipe for line in body(table)[1:])
    assert all(line.replace("|  |", "| |") in recipe for line in body(two))


def test_own_rows_follow_the_published(frames: Frames) -> None:
    tables = {table.name: table for table in build_tables(*select_runs(frames))}
    rows = {row[0].parts()[0]: texts(row[1:]) for row in tables["table1"].rows}
    # Seeds 63, 64, 65 on average: A = 1/3, B = 2^2 of a benchmark and 2^2 / 5 of the average; the gain has A alone,
    # t(2) 4.303 / sqrt 3.
    assert rows["reward=strict"] == [
        *("90.0 ± 4.1", "80.0 ± 4.1", "70.0 ± 4.1", "40.0 ± 4.1", "40.0 ± 4.1", "64.0 ± 2.4"),
        *("+15.2 ± 2.4", "+54.0 ± 2.5", "3"),
    ]
    # One seed: items, 1.96 * 2; the mean of five: 1.96 * 2 / sqrt 5.
    assert rows["reward=lenient"][:6] == [
        "30.0 ± 3.9",
        "70.0 ± 3.9",
        "60.0 ± 3.9",
        "30.0 ± 3.9",
        "30.0 ± 3.9",
        "44.0 ± 1.8",
    ]
    strict = next(row for row in tables["table1"].rows if row[0].value == "reward=strict")
    assert strict[1].bold and strict[6].bold  # AIME 90 and the average stand out
    assert not any(row[2].bold for row in tables["table1"].rows)  # 82.4 and 80.0 do not differ significantly
    assert "five benchmarks" in tables["table1"].caption
    assert any(note.startswith("Δ published: ± covers the error of our runs only") for note in tables["table1"].notes)


def test_eight_benchmarks_are_averaged_only_if_all_are_there(frames: Frames) -> None:
    table = build_tables(*select_runs(frames), average="eight")[0]
    assert "eight benchmarks" in table.caption and len(table.columns) == 13
    ours = next(row for row in table.rows if row[0].value == "reward=strict")
    assert ours[9].value is None  # three benchmarks are missing, so there is no average


def test_the_ablation_table_has_axes_for_rows(frames: Frames) -> None:
    table = build_tables(*select_runs(frames))[-1]
    assert table.columns[0] == "reward" and table.columns[-3:] == ["Δ accuracy from step 0", "n", "step"]
    assert [row[0].value for row in table.rows] == ["strict", "lenient"]  # in the order of the runs
    assert table.rows[1][-1].value == "120"


def test_intervals_by_hand() -> None:
    assert mean_over_seeds([1.0, 2.0, 3.0]).half_width == pytest.approx(4.302653 / math.sqrt(3))
    assert mean_over_seeds([1.0], [0.5]).half_width == pytest.approx(0.98, abs=1e-3)
    assert mean_over_seeds([1.0]).half_width is None
    aime = published_estimate("aime24", 50.0)
    assert aime.se == pytest.approx(100 * math.sqrt(0.25 / 30))
    assert not differ_significantly(aime, published_estimate("aime24", 33.3))
    assert differ_significantly(published_estimate("math500", 52.4), published_estimate("math500", 82.4))
    low, near, high = (Interval(mean, 0.1, mean - 0.2, mean + 0.2) for mean in (1.0, 1.1, 3.0))
    assert significantly_best([low, None, high]) == 2
    assert significantly_best([low, near]) is None
    assert significantly_best([low]) is None


def test_equal_seeds_have_no_interval_of_width_0() -> None:
    one, two = mean_over_seeds([36.7, 36.7]), mean_over_seeds([33.3, 33.3])
    assert one.half_width is None and significantly_best([one, two]) is None
    assert mean_over_seeds([0.1 + 0.2, 0.3]).half_width is None  # they differ by rounding alone
    # One more item of AIME 2024 in both seeds: the error over items is 8.8, also of the mean of two seeds.
    one, two = mean_over_seeds([36.7, 36.7], [8.8, 8.8]), mean_over_seeds([33.3, 33.3], [8.6, 8.6])
    assert one.half_width == pytest.approx(1.96 * 8.8, abs=1e-3)
    assert significantly_best([one, two]) is None
    assert mean_over_seeds([36.7, 36.7], [8.8, None]).half_width is None
    assert mean_over_seeds([36.7, 36.7], [8.8, 0.0]).half_width is None


def test_an_interval_is_never_narrower_than_the_one_over_items() -> None:
    close = [mean_over_seeds([mean - 0.01, mean, mean + 0.01], [3.0] * 3) for mean in (50.0, 53.0, 60.0)]
    assert close[0].half_width == pytest.approx(1.96 * 3, abs=1e-3)
    assert not differ_significantly(close[0], close[1]) and differ_significantly(close[0], close[2])
    assert mean_over_seeds([40.0, 50.0, 60.0], [1.0] * 3).half_width == pytest.approx(
        4.302653 * 10 / math.sqrt(3), rel=1e-2
    )


def test_one_more_item_in_every_seed_is_not_bold() -> None:
    finals = {"strict": (0.367, 0.7, 0.6, 0.3, 0.3), "lenient": (0.333, 0.7, 0.6, 0.3, 0.3)}
    for se, width in ((0.088, " ± 17.2"), (0.0, "")):
        row = rows_of([run_of(name, own, seed, se=se) for name, own in finals.items() for seed in (0, 1)])
        strict = row["table1"]["reward=strict"]
        assert texts(strict)[0] == f"36.7{width}" and not any(cell.bold for cell in strict)
        assert not any(cell.bold for cell in row["runs"]["strict"])


def test_each_table_takes_its_own_published_row() -> None:
    published = tuple(PUBLISHED["SimpleRL-Zero (table 3)"][name] / 100 for name in SUITE5)
    rows = rows_of([run_of("strict", published, 0)])
    assert rows["table1"]["reward=strict"][6].parts()[0] == "+0.9"
    assert rows["table3"]["reward=strict"][6].parts()[0] == "+0.0"
    rows = rows_of([run_of("strict", published, 0, "simplerl")])
    assert rows["table1"]["reward=strict"][6].parts() == rows["table3"]["reward=strict"][6].parts()


def test_a_gain_needs_an_evaluation_at_step_0() -> None:
    finals = (0.3, 0.3, 0.3, 0.3, 0.3)
    late = [run_of("strict", finals, 0, start=4), run_of("lenient", finals, 0), run_of("lenient", finals, 1, start=4)]
    rows = rows_of(late)
    assert texts(rows["table1"]["reward=strict"])[7] == "-"
    assert texts(rows["table1"]["reward=lenient"])[7] == "+20.0 (n=1)"
    assert texts(rows["runs"]["strict"])[-3] == "-" and texts(rows["runs"]["lenient"])[-3] == "+20.0 (n=1)"
    note = "Without a gain since step 0 (not evaluated there): reward=strict; 1 of 2 seeds of reward=lenient."
    for table in build_tables(*select_runs(assemble(late))):
        assert (note in table.notes) == (table.name not in ("table2", "table_zoo"))
    assert not any(
        "step 0" in note for table in build_tables(*select_runs(assemble(late[1:2]))) for note in table.notes
    )


def test_seeds_without_a_benchmark_are_not_averaged_and_marked() -> None:
    runs = [run_of("strict", (0.9 + d, 0.8, 0.7, 0.4, 0.4), seed) for seed, d in enumerate((-0.01, 0.01, 0.0))]
    assert runs[2].metrics is not None
    lacking = replace(runs[2], metrics=runs[2].metrics.drop(columns="eval/aime24/accuracy"))
    cells = rows_of([*runs[:2], lacking])["table1"]["reward=strict"]
    # AIME: 89 and 91, A = 1, B = 4, sqrt(12.71^2 - 7.88 * 4); the average 63.8 and 64.2 of the same two.
    assert texts(cells) == [
        *("90.0 [78.6, 100.0] (n=2)", "80.0 ± 3.9", "70.0 ± 3.9", "40.0 ± 3.9", "40.0 ± 3.9", "64.0 ± 1.8 (n=2)"),
        *("+15.2 ± 1.8 (n=2)", "+54.0 ± 2.5 (n=2)", "3"),
    ]
    table = build_tables(*select_runs(assemble([*runs[:2], lacking])))[0]
    ours = list(csv.DictReader(as_csv(table).splitlines()))[-1]
    assert ours["AIME 2024 n"] == "2" and ours["n"] == "3" and "MATH 500 n" not in ours


@pytest.fixture
def hostile() -> Table:
    rows = [
        [Cell("a_b & 50% | <script>λ 中"), Cell(quantity(mean_over_seeds([1.0, 3.0])), bold=True)],
        [Cell("x"), Cell()],
    ]
    return Table("t", "A {caption} #1", ["name", "metric ±"], rows, (0,), ["note_1"])


def test_every_format_escapes(hostile: Table) -> None:
    assert "a_b & 50% \\| \\<script>" in markdown(hostile)
    assert "<script>" not in as_html(hostile) and "&lt;script&gt;" in as_html(hostile)
    assert escape_latex("Δ base, λ") == r"$\Delta$ base, $\lambda$"
    powers = r"10\textsuperscript{$-$}\textsuperscript{6} $\le$ x\textsubscript{1}, U+4E2D"
    assert escape_latex("10⁻⁶ ≤ x₁, 中") == powers
    assert escape_latex("a_b & 50% \\") == r"a\_b \& 50\% \textbackslash{}"
    rows = list(csv.reader(as_csv(hostile).splitlines()))
    assert rows[0] == ["name", "metric ±", "metric ± low", "metric ± high"]
    assert rows[1][1:] == ["2", "-10.7062", "14.7062"] and rows[2] == ["x", "", "", ""]


def test_labels_are_text_in_markdown_and_no_formulas_in_spreadsheets() -> None:
    texts = [
        "[a](http://x)",
        "![i](u)",
        "`c` *b* \\* \\boxed{}",
        "=1+1",
        "@SUM(A1)",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "\t=1",
    ]
    numbers = ["-0.5", "+1.2", "1e-06", "-", "-inf", "nan"]
    table = Table("t", "*c*", ["=x"], [[Cell(text)] for text in [*texts, *numbers]], notes=["[n](u)"])
    shown = markdown(table)
    assert all(line in shown for line in (r"\[a\](http://x)", r"!\[i\](u)", r"- \[n\](u)", r"**\*c\***"))
    assert r"\`c\` \*b\* \\\* \boxed{}" in shown
    rows = [row[0] for row in csv.reader(as_csv(table).splitlines())]
    assert rows == ["'=x", *texts[:3], *(f"'{text}" for text in texts[3:]), *numbers]
    code = Table("t", "", ["x"], [[Cell(r"\boxed{[0,1]} | `", code=True)]])
    assert r"| `\boxed{[0,1]} \| '` |" in markdown(code)


def test_an_unknown_metric_is_refused_with_the_nearest_names(frames: Frames) -> None:
    chosen = select_runs(frames)
    for name in ("eval/amc23/accuracy", "amc23 accuracy (%)"):  # as logged, and as tables show it
        table = build_tables(*chosen, metrics=[name])[-1]
        assert table.columns[1] == "amc23 accuracy (%)"
    with pytest.raises(SourceError, match=r"no run logged the metric 'eval/amc/accuracy': did you mean eval/amc23/acc"):
        build_tables(*chosen, metrics=["eval/amc/accuracy"])


def test_training_metrics_are_means_over_the_last_steps() -> None:
    steps = list(range(60))
    metrics = pd.DataFrame({"phase": "rl", "step": steps, "reward/mean": [float(x) for x in steps], "policy/lr": 1.0})
    run = RunData("a", "a", "finished", "folder", "", {"choices.reward": "strict"}, metrics=metrics)
    few = replace(run, id="b", config={"choices.reward": "own"}, metrics=metrics.iloc[:8])
    table = build_tables(*select_runs(assemble([run, few])), metrics=["reward/mean", "policy/lr"])[-1]
    assert [texts(row)[1] for row in table.rows] == ["54.500", "6.500"]
    assert any(note.startswith("Training metrics (reward/, rollout/) are means") for note in table.notes)


def compile_latex(tables: list[Table], folder: Path) -> str:
    """Return what pdflatex prints for a document of `tables` and a list of tables."""
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex (Debian: texlive-latex-base and texlive-latex-recommended)")
    for index, table in enumerate(tables):
        (folder / f"{index}.tex").write_text(latex(table))
    inputs = "\n".join(rf"\input{{{index}}}\clearpage" for index in range(len(tables)))
    packages = r"\documentclass{article}\usepackage{booktabs,graphicx}"
    (folder / "all.tex").write_text(rf"{packages}\begin{{document}}\listoftables {inputs}\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    for _ in range(2):  # the second run reads the list of tables
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@pytest.mark.slow
def test_latex_compiles(hostile: Table, frames: Frames, tmp_path: Path) -> None:
    assert "Overfull" not in compile_latex([*build_tables(*select_runs(frames)), hostile], tmp_path)


@pytest.mark.slow
def test_latex_of_any_characters_compiles(tmp_path: Path) -> None:
    symbols = "α → β ≤ 10⁻⁶, ‖x₁‖ ≈ ∞ “quoted” — \u2212½ × µ ∈ ℓ² Ł ą «» `a` --flag [0] *"
    rows = [[Cell("[a]"), Cell(symbols, bold=True, remark="n_1 = λ")], [Cell("*"), Cell("ΑΩ ω ς ϕ")]]
    greek = Table("β table Δ", f"Caption {symbols}", [f"[{symbols}", "Σ Π"], rows, (0,), [symbols, "_note_ %"])
    known = [chr(code) for code in (*range(0x3000), *range(0xFE00, 0x10000)) if not 0xD800 <= code < 0xE000]
    parts = ["".join(known[start : start + 64]) for start in range(0, len(known), 64)]
    pages = [parts[start : start + 24] for start in range(0, len(parts), 24)]
    tables = [
        Table(f"t{i}", "", ["x", page[0]], [[Cell(part), Cell("1")] for part in page]) for i, page in enumerate(pages)
    ]
    compile_latex([greek, *tables], tmp_path)
    assert r"\label{tab:beta-table-delta}" in latex(greek).lower()


def test_the_command_writes_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 0
    assert {path.suffix for path in tmp_path.glob("table1.*")} == {".md", ".tex", ".csv", ".html"}
    assert main([str(tmp_path / "absent"), "--out", str(tmp_path)]) == 2
    assert "does not exist" in capsys.readouterr().err


# Paired comparison


def write_evaluation(folder: Path, right: dict[str, list[bool]], gold: str = "1", **settings: Any) -> Path:
    folder.mkdir(parents=True)
    rows = [
        {"set": name, "problem_id": f"{name}/{i}", "question": f"q{i}", "gold": gold, "sample": 0, "correct": correct}
        for name, all_right in right.items()
        for i, correct in enumerate(all_right)
    ]
    pd.DataFrame(rows).to_parquet(folder / "samples.parquet")
    (folder / "results.json").write_text(json.dumps(settings))
    return folder


def test_a_paired_comparison_by_hand(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", {"x": [True] * 10 + [False] * 30, "y": [True, False]}, prompt="p")
    second = write_evaluation(tmp_path / "b", {"x": [True] * 30 + [False] * 10, "y": [False]}, prompt="other")
    found = compare.compare(first, second)
    one = found.sets["x"]
    assert (one.items, one.first, one.second, one.wins, one.losses) == (40, 0.25, 0.75, 20, 0)
    # Differences are 20 ones and 20 zeros: 0.5 with standard error 0.5 / sqrt 40.
    assert one.difference.mean == 0.5 and one.difference.se == pytest.approx(0.5 / math.sqrt(40), rel=0.05)
    assert one.difference.low is not None and one.difference.low > 0.3
    assert found.notes == [
        "prompt differs between A and B.",
        "y: 1 items that only one of the two has were skipped.",
    ]
    text = markdown(compare.comparison_table(found, "a", "b"))
    assert "| x | 40 | 25.0 | 75.0 | +50.0 |" in text and "| yes | 20 : 0 |" in text


def test_evaluations_by_different_rules_are_compared_by_one(tmp_path: Path) -> None:
    def by(rule: str, right: list[bool]) -> Path:
        settings = {"reward": f"simplerl.rewards.{rule}", "reward_keywords": {"rule": "math_verify"}}
        folder = write_evaluation(tmp_path / rule, {"x": right}, **settings)
        rows = pd.read_parquet(folder / "samples.parquet").assign(correct_lenient=[True, True, False, False])
        rows.to_parquet(folder / "samples.parquet")
        return folder

    first, second = by("strict", [True, False, False, False]), by("lenient", [True, True, False, False])
    with pytest.raises(SourceError, match=r"A is graded by .*strict by rule math_verify and B by .*--by lenient"):
        compare.compare(first, second)
    found = compare.compare(first, second, "lenient").sets["x"]
    assert (found.first, found.second) == (0.5, 0.5)
    with pytest.raises(SourceError, match=r"strict has no verdicts by the rule strict: evaluate the model"):
        compare.compare(first, second, "strict")


def test_three_items_that_all_flip_are_not_significant(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", {"x": [False] * 3, "y": [False] * 30})
    second = write_evaluation(tmp_path / "b", {"x": [True] * 3, "y": [True] * 30})
    text = markdown(compare.comparison_table(compare.compare(first, second), "a", "b"))
    assert "| x | 3 | 0.0 | 100.0 | +100.0 | -12.3 to +100.0 | no | 3 : 0 |" in text
    assert "| y | 30 | 0.0 | 100.0 | +100.0 | +77.3 to +100.0 | yes | 30 : 0 |" in text
    # 100 - sqrt(112.3^2 + 22.7^2) / 2
    assert "| mean |  | 0.0 | 100.0 | +100.0 | +42.7 to +100.0 | yes |  |" in text


def test_other_questions_are_not_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_evaluation(tmp_path / "a", {"x": [True, True]})
    second = write_evaluation(tmp_path / "run/evals/step_000004", {"x": [True, True]}, gold="2")
    with pytest.raises(SourceError, match="x/0 has a different gold"):
        compare.compare(first, second)
    assert compare.main([str(first), str(tmp_path / "run"), "--step", "3"]) == 2
    assert "has no evaluation at step 3: choose from 4." in capsys.readouterr().err
    assert compare.find_evaluation(tmp_path / "run") == second


# Reflection


def responses(shares: list[float], count: int = 100) -> pd.DataFrame:
    rows = []
    for step, share in enumerate(shares):
        for i in range(count):
            text = (
                "First 1 + 1 = 3\nwait, recheck: 1 + 1 = 2\nThe answer is 2"
                if i < share * count
                else "It is 3, I think."
            )
            rows.append({"step": step, "problem_id": f"p{i % 60}", "sample": i // 60, "question": "1 + 1", "gold": "2"})
            rows[-1] |= {"response": text, "finish_reason": "stop", "correct": "wait" in text, "extracted": "2"}
    return pd.DataFrame(rows)


def test_reflection_emerges_at_the_first_step_that_stays_above_the_base() -> None:
    table = responses([0.05, 0.30, 0.04, 0.20, 0.25, 0.30, 0.40])
    found = aha.find_emergence(table, "wait")
    assert found.step == 3  # step 1 did not last
    share, low, high = found.base
    assert share == 0.05 and low == pytest.approx(0.0215, abs=1e-3) and high == pytest.approx(0.1118, abs=1e-3)
    assert aha.find_emergence(table, "however").step is None


def test_convincing_examples_are_correct_on_problems_that_fail_without_reflection() -> None:
    rows = aha.convincing_examples(responses([0.05, 0.70]), 2, since=1)
    assert len(rows) == 2 and rows["step"].tolist() == [1, 1]
    assert all("wait" in text for text in rows["response"])
    assert rows["needed"].tolist() == [True, True]


def test_a_table_is_written_in_four_formats(hostile: Table, tmp_path: Path) -> None:
    assert [path.name for path in write(hostile, tmp_path)] == ["t.md", "t.tex", "t.csv", "t.html"]
