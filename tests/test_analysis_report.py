"""What the report's page holds. tests/test_analysis_report_page.py opens it in a browser."""

from __future__ import annotations

import base64
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from micro_runs import ROOT
from report_runs import metrics, row, three_runs, with_responses
from test_analysis_frames import write_run
from tokenizers import Tokenizer, decoders, models

from analysis import aha, compare, report_responses
from analysis.arms import select_runs
from analysis.differences import DEFAULT
from analysis.headline import forest_html, headline_html, results_of
from analysis.report import main, show_sweep, write_report
from analysis.report_data import thin_curve
from analysis.report_responses import response_data
from analysis.report_tokens import TokenTexts, split_text
from analysis.sources import load
from analysis.telling import response_key, solve_rates, telling_responses
from simplerl.engine.batching import collate_rollouts
from simplerl.runs.rollout_table import SCHEMA, TRAINER_LOGPROBS, rollout_table
from simplerl.types import Problem, Prompt, Rollout, Score


def unpacked(packed: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_runs(tmp_path_factory.mktemp("runs"))


# Responses


def test_responses_are_packed_whole(runs: Path) -> None:
    found = response_data([("strict", runs / "strict"), ("lenient", runs / "lenient")])
    data = unpacked(found.index)
    texts = [unpacked(chunk) for chunk in found.chunks]
    assert found.note == "All 150 responses." and len(data["step"]) == 150  # 2 runs x 3 steps x (5 x 4 + 5)
    assert data["kinds"] == ["aime24", "training"] and data["runs"] == data["ids"] == ["strict", "lenient"]
    assert len(data["problems"]["id"]) == 10  # the same problem in two runs is one
    place = next(i for i in range(150) if data["kind"][i] == 1 and data["sample"][i] == 3)
    assert data["shows"][place] == 2 and data["truncated"][place] == 1 and data["correct"][place] == 0
    assert data["shows"][0] == 1 | 4 and data["surprise"][0] == 0.0
    text = texts[data["chunk"][place]][data["place"][place]]["text"]
    assert text.startswith("```python") and text.endswith(data["ending"][place])


def test_every_response_is_listed_and_texts_fill_the_budget_evenly(tmp_path: Path) -> None:
    """Each file contributes the same fraction of its texts, and rows that are asked for are always included."""
    folder = with_responses(write_run(tmp_path, "a", metrics(2)), 2, 20, response="".join(map(chr, range(32, 2000))))
    last = folder / "rollouts/step_000001.parquet"
    found = response_data([("a", folder)], 0.02, always=[(last, 79)])
    data = unpacked(found.index)
    whole = [i for i in range(len(data["step"])) if data["chunk"][i] >= 0]
    assert len(data["step"]) == 200 and 8 < len(whole) < 150
    assert f"{len(whole):,} with their whole text" in found.note and "--megabytes=" in found.note
    held = pd.DataFrame({"step": data["step"], "kind": data["kind"], "held": [one >= 0 for one in data["chunk"]]})
    counts = held.groupby(["kind", "step"])["held"].agg(["sum", "size"])
    fractions = (counts["sum"] / counts["size"]).tolist()
    assert max(fractions) - min(fractions) < 0.06
    assert data["sample"][whole[-1]] == 3 and data["step"][whole[-1]] == 1


def test_more_responses_than_a_page_lists_are_thinned_and_said(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_responses, "MAX_RESPONSES", 50)
    found = response_data([("strict", runs / "strict")])
    data = unpacked(found.index)
    assert len(data["step"]) <= 50 and {0, 2} <= set(data["step"])
    assert found.note.startswith(f"{len(data['step'])} of 75 responses.")


def test_long_texts_are_split_into_chunks(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = unpacked(response_data([("strict", runs / "strict")]).index)
    monkeypatch.setattr(report_responses, "CHUNK_CHARACTERS", 300)
    found = response_data([("strict", runs / "strict")])
    data = unpacked(found.index)
    texts = [unpacked(chunk) for chunk in found.chunks]
    assert len(texts) > 5 and whole["ending"] == data["ending"]
    for chunk, place, ending in zip(data["chunk"], data["place"], data["ending"], strict=True):
        assert texts[chunk][place]["text"].endswith(ending)


# Tokens


def tokens_of(text: str) -> list[int]:
    found: list[int] = Tokenizer.from_file(str(ROOT / "assets/micro_base/tokenizer.json")).encode(text).ids
    return found


def test_tokens_are_aligned_with_the_text(tmp_path: Path) -> None:
    text = "First 2 + 2 = 4\nThe answer is \\boxed{4}"
    tokens = [*tokens_of(text), *tokens_of("<|endoftext|>")]
    (tmp_path / "config.yaml").write_text(f"model: {{path: {ROOT / 'assets/micro_base'}}}")
    texts = TokenTexts(tmp_path)
    sampled = [-0.5] * len(tokens)
    found = texts.of(text, {"tokens": tokens, "logprobs": sampled, TRAINER_LOGPROBS: [-0.25] * len(tokens)})
    assert sum(found["pieces"]) == len(text) + len("<|endoftext|>") and found["after"] == "<|endoftext|>"
    assert set(found["logprobs"]) == {25} and set(found["gaps"]) == {250} and len(found["pieces"]) == len(tokens)
    assert "gaps" not in texts.of(text, {"tokens": tokens, "logprobs": sampled})
    assert texts.of("another text", {"tokens": tokens, "logprobs": sampled}) == {}
    assert texts.of(text, {"tokens": tokens, "logprobs": sampled[1:]}) == {}
    (tmp_path / "config.yaml").write_text("model: {path: owner/name}")
    assert TokenTexts(tmp_path).of(text, {"tokens": tokens, "logprobs": sampled}) == {}


def test_a_character_of_several_tokens_belongs_to_the_last() -> None:
    """Tokens of a byte-level tokenizer may end within a character."""
    tokenizer = Tokenizer(models.BPE(vocab={"\u00c3": 0, "\u00a9": 1, "a": 2}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    assert split_text(tokenizer, [2, 0, 1, 2]) == ["a", "", "\u00e9", "a"]


def test_log_probs_of_the_trainer_are_saved_per_token() -> None:
    """One column more, with a value for each token of a response and none for the padding."""
    prompt = Prompt(Problem("1", "?", "1"), "?", (1, 2))
    score = Score(1.0, True, "equal")
    rollouts = [Rollout(prompt, i, "1", (3,) * n, (-0.5,) * n, "stop", score) for i, n in enumerate((1, 3))]
    batch = collate_rollouts(rollouts)
    scored = batch.with_(logprobs=-0.25 * batch.tokens.float())
    found = rollout_table(rollouts, 0, scored)
    assert found[TRAINER_LOGPROBS].to_pylist() == [[-0.75], [-0.75] * 3]
    assert found.drop_columns([TRAINER_LOGPROBS]).equals(rollout_table(rollouts, 0))


# What the first screen says


def test_telling_responses_follow_their_rules(tmp_path: Path) -> None:
    """h0 is wrong at first and again at the end, h1 becomes and stays correct at step 2, h2 at step 1."""
    folder = with_responses(write_run(tmp_path, "a", metrics(4)), 4, 1)
    correct = {"h0": (0, 1, 1, 0), "h1": (0, 0, 1, 1), "h2": (0, 1, 1, 1), "h3": (1, 1, 1, 1)}
    lengths = {"h0": 7, "h1": 30, "h2": 20, "h3": 90}
    schema = pa.schema([("set", pa.string()), *SCHEMA])
    for step in range(4):
        rows = [
            {"set": "s", **row(name, step, 0, correct=bool(own[step]), length=lengths[name])}
            for name, own in correct.items()
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"evals/step_{step:06d}/samples.parquet")
    first, success, failure = telling_responses(folder)
    assert (first.row["problem_id"], first.row["step"]) == ("h2", 1) and first.before is not None
    assert (first.before["problem_id"], first.before["step"]) == ("h2", 0)
    assert (success.row["problem_id"], success.row["step"]) == ("h1", 3)  # of 20, 30 and 90 tokens
    assert (failure.row["problem_id"], failure.row["step"]) == ("h0", 3)
    assert response_key("a b", success.row) == "a%20b/s/3/h1/0"
    frames, arms = select_runs(load([folder]))
    heat = solve_rates(frames, arms)
    assert heat["evaluated"] and [one["id"] for one in heat["problems"]] == ["h3", "h2", "h0", "h1"]
    (arm,) = heat["arms"]
    assert arm["values"][1] == [0, 100, 100, 100] and arm["steps"] == [0, 1, 2, 3]
    assert [arm[name] for name in ("kept", "gained", "lost", "never")] == [1, 2, 0, 1]


def test_solve_rates_of_training_problems_that_return(tmp_path: Path) -> None:
    folder = with_responses(write_run(tmp_path, "a", metrics(4)), 2, 3)
    for place in (folder / "evals").iterdir():
        (place / "results.json").unlink()
    frames, arms = select_runs(load([folder]))
    heat = solve_rates(frames, arms)
    assert not heat["evaluated"] and [arm["values"] for arm in heat["arms"]] == [[[50, 50]] * 3]


def evaluated(root: Path, reward: str, seed: int, accuracies: list[float]) -> Path:
    rows = [{"step": i, "eval/mean/accuracy": x, "eval/s/accuracy": x} for i, x in enumerate(accuracies)]
    return write_run(root, f"{reward}{seed}", rows, choices={"reward": reward}, seed=seed)


def test_the_headline_of_one_arm_and_of_several(tmp_path: Path) -> None:
    for seed, shift in ((0, 0.0), (1, 0.02)):
        evaluated(tmp_path, "base", seed, [0.2, 0.5 + shift])
        evaluated(tmp_path, "better", seed, [0.2, 0.7 + shift])
    frames, arms = select_runs(load([tmp_path]))
    results = results_of(frames, arms, DEFAULT)
    base, better = results
    assert base.accuracy is not None and base.accuracy.mean == pytest.approx(0.51) and base.step == 1
    assert better.gain is not None and better.gain.mean == pytest.approx(0.51)
    shown = headline_html(frames, results)
    assert '<span class="value">71.0</span>' in shown and "<b>reward=better</b> reaches the highest" in shown
    assert "<b>+20.0</b> points against reward=base, not significant" in shown
    table = forest_html(frames, results)
    assert table.count("<tr>") == 3 and "baseline" in table
    frames, arms = select_runs(load([tmp_path / "base0"]))
    shown = headline_html(frames, results_of(frames, arms, DEFAULT))
    assert '<span class="value">50.0</span>' in shown and "<b>+30.0</b> points since step 0" in shown
    assert forest_html(frames, results_of(frames, arms, DEFAULT)) == ""


def test_alarms_and_the_command_are_on_the_first_screen(tmp_path: Path) -> None:
    folder = evaluated(tmp_path, "base", 0, [0.2, 0.5])
    alarm = {"kind": "no_box", "step": 0, "text": "0 of 8 responses <have> one."}
    (folder / "alarms.json").write_text(json.dumps({"alarms": [alarm]}))
    (folder / "environment.json").write_text(json.dumps({"commit": "abc", "command": "python train.py seed=0"}))
    text = write_report([folder], tmp_path / "r.html").read_text()
    assert "1 alarm</h2>" in text and "step 0: 0 of 8 responses &lt;have&gt; one." in text
    assert "python train.py seed=0" in text and "<code>abc</code>" in text


# The page


def test_damaged_responses_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        with_responses(write_run(tmp_path, name, metrics(3), choices={"reward": name}), 3, 2)
    whole = unpacked(response_data([("one", tmp_path / "one")]).index)
    broken = [tmp_path / "one" / name for name in ("rollouts/step_000001.parquet", "evals/step_000002/samples.parquet")]
    broken[0].write_bytes(broken[0].read_bytes()[:-40])
    pq.write_table(pa.table({"response": ["x"]}), broken[1])
    (tmp_path / "one/rollouts/step_last.parquet").write_text("")
    found = response_data([("one", tmp_path / "one"), ("two", tmp_path / "two")])
    rows = unpacked(found.index)
    assert len(rows["step"]) == 2 * len(whole["step"]) - 8 - 2
    assert all(str(path) in found.note for path in broken) and "it has no column correct" in found.note
    assert aha.main([str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "# two" in printed.out and f"note: Left out: {broken[0]}" in printed.err
    assert aha.main([str(tmp_path / "one")]) == 2 and f"error: {broken[0]}" in capsys.readouterr().err
    assert compare.main([str(tmp_path / "one"), str(tmp_path / "two")]) == 2
    assert f"error: {broken[1]} cannot be read (it has no column correct)" in capsys.readouterr().err
    (tmp_path / "two/evals/step_000002/results.json").write_text("[")
    assert compare.main([str(tmp_path / "one"), str(tmp_path / "two"), "--step", "1"]) == 0
    assert compare.main([str(tmp_path / "two"), str(tmp_path / "two")]) == 2
    assert "results.json is damaged" in capsys.readouterr().err


def test_long_curves_keep_their_ends_and_means() -> None:
    table = pd.DataFrame({"mean": [float(i) for i in range(1000)]}, index=range(0, 2000, 2))
    short = thin_curve(table)
    assert len(short) == 334 and short.index[0] == 0 and short.index[-1] == 1998
    assert short["mean"].iloc[0] == 1.0 and short["mean"].iloc[-1] == 999.0


def test_the_page_is_whole_and_escaped(runs: Path, tmp_path: Path) -> None:
    out = write_report([runs], tmp_path / "report.html", title="<b>mine</b>")
    text = out.read_text()
    assert out.stat().st_size < 1e6
    assert "&lt;b&gt;mine&lt;/b&gt;" in text and "<b>mine" not in text
    assert "<script>window.hacked" not in text and "<img src=x" not in text
    assert text.count("</script>") == 5  # curves, solve rates, index, one chunk, code
    assert 'src="http' not in text and 'href="http' not in text
    assert "Table 1" in text and "&lt;b&gt;strict&lt;/b&gt;" in text


def test_runs_without_responses_or_metrics_have_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", "bare", [{"step": 0, "a/b": math.nan}], seed=0)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "r.html")]) == 0
    assert main([str(tmp_path / "absent"), "--out", str(tmp_path / "r.html")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_sweep_ends_with_its_results_and_its_report(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_sweep(runs)
    printed = capsys.readouterr().out
    assert "Difference to the baseline" in printed and f"Report: {runs / 'report.html'}" in printed
    (runs / "report.html").unlink()
    show_sweep(runs / "absent")
    assert capsys.readouterr().err.startswith("No report: ")
