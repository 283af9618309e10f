"""Tests the grade and audit commands on small files."""

from __future__ import annotations

import argparse
import json
import math
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simplerl import audit, grade
from simplerl.errors import ConfigError
from simplerl.types import Problem, Response, Score

ROWS = [
    {"response": r"so \boxed{20\%}", "answer": "20", "tag": "kept"},
    {"response": r"\boxed{(0,1]}", "answer": "[0,1]"},
    {"response": "the answer is 3", "answer": 3},
    {"response": r"\boxed{4}", "answer": ""},
]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_come_back_in_order_with_their_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    grade.main([str(source), str(target), "wrong=-0.25"])
    rows = read(target)
    assert [row["reward"] for row in rows] == [1.0, -0.25, -1.0, -0.25]
    assert [row["status"] for row in rows] == ["equal", "different", "no_answer", "different"]
    assert [row["extracted"] for row in rows] == [r"20\%", "(0,1]", None, "4"]
    assert (
        rows[0]["tag"] == "kept"
        and rows[0]["correct"] is True
        and rows[0]["parts"] == {"boxed": 1.0, "gold_unread": 0.0}
    )
    assert all(row["seconds"] >= 0 for row in rows)
    assert "4 rows graded" in capsys.readouterr().out


def test_a_lone_surrogate_costs_its_row_only(tmp_path: Path) -> None:
    rows = [{"response": r"\boxed{3} " + mark, "answer": "3"} for mark in ("\ud800", "é")]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    grade.main([str(source), str(target)])
    assert [(row["response"], row["status"]) for row in read(target)] == [
        (r"\boxed{3} \ud800", "failed"),  # an escape that pyarrow reads as text
        (rows[1]["response"], "equal"),
    ]


def test_rule_reward_and_bare(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    grade.main([str(source), str(target), "reward=lenient", "rule=qwen"])
    assert [row["reward"] for row in read(target)] == [
        1.0,
        1.0,
        1.0,
        0.0,
    ]  # an empty gold answer takes only an empty answer
    bare = write(tmp_path / "bare.jsonl", [{"response": "0.5", "answer": "1/2"}, {"response": "2", "answer": "1/2"}])
    grade.main([str(bare), str(target), "--bare", "reward=simplerl.rewards.binary"])
    assert [row["reward"] for row in read(target)] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.jsonl", "out.jsonl", "reward=best"], "reward=best is unknown"),
        (["in.jsonl", "out.jsonl", "rule=sympy"], "rule=sympy is unknown"),
        (["in.jsonl", "out.jsonl", "right=2"], "unexpected keyword argument 'right'"),
        (["absent.jsonl", "out.jsonl"], "absent.jsonl does not exist"),
        (["in.jsonl", "out.jsonl", "reward=strikt"], "reward=strikt is unknown: did you mean strict"),
        (["in.jsonl", "out.jsonl", "reward=light_rewards.absent"], "reward=light_rewards.absent is not a function"),
        (["in.jsonl", "out.jsonl", "reward=math.dist"], "reward=math.dist is not a function"),
        (["in.jsonl", "out.jsonl", "columns.text=x"], "columns.text is unknown: choose among columns.response"),
        (["in.jsonl", "out.jsonl", "columns=x"], "columns is not a setting itself: write columns.response=NAME"),
        (["in.jsonl", "out.jsonl", "columns.response=a"], 'no column "a"; its .* name the correct .*response=response'),
        (["in.jsonl", "out.parquet"], "out.parquet would hold JSON Lines: name it out.jsonl"),
        (
            ["poor.jsonl", "out.jsonl"],
            'no column "response" and "answer"; its .*response=completion columns.answer=gts',
        ),
        (["true.jsonl", "out.jsonl"], "true.jsonl, line 1: the answer must be a string or a number, not True. No row"),
        (["..", "out.jsonl"], "is a folder: name a file with one response per row"),
        (["empty.jsonl", "out.jsonl"], "empty.jsonl has no rows"),
        (["latin.jsonl", "out.jsonl"], "latin.jsonl, line 1: it is not UTF-8 text"),
        (["bad.parquet", "out.jsonl"], "bad.parquet is not a valid Parquet file"),
        (["in.jsonl", "absent/out.jsonl"], "the folder absent does not exist"),
        (["in.jsonl", "."], "cannot be written: choose another output file"),
        (["in.jsonl", "out.jsonl", "wrong=abc"], "wrong=abc must be a number"),
        (["in.jsonl", "out.jsonl", "fbox=1"], "fbox=1 must be true or false"),
        (["in.jsonl", "out.jsonl", "rule=1"], "rule=1 must be a name"),
        (["in.jsonl", "out.jsonl", "workers=x"], "workers=x must be an integer"),
        (["in.jsonl", "out.jsonl", "workers=1.5"], "workers=1.5 must be an integer"),
        (["in.jsonl", "out.jsonl", "memory_gib=true"], "memory_gib=True must be a number"),
        (["in.jsonl", "out.jsonl", "seconds_per_answer=0"], "seconds_per_answer=0 must be greater than 0"),
        (["in.jsonl", "out.jsonl", "wrong=[1"], "settings wrong=.1 cannot be parsed"),
    ],
)
def test_errors_name_the_cause(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("in.jsonl"), ROWS)
    Path("empty.jsonl").write_text("\n")
    write(Path("poor.jsonl"), [{"completion": "1", "gts": "1"}])
    write(Path("true.jsonl"), [{"response": "1", "answer": True}])
    Path("latin.jsonl").write_bytes('{"response": "é", "answer": "1"}'.encode("latin-1"))
    Path("bad.parquet").write_text("no table")
    with pytest.raises(ConfigError, match=message):
        grade.main(arguments)
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("command", ["grade", "audit"])
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--help"], 0, "seconds_per_answer=8"),
        (["-h"], 0, "--bare"),
        ([], 2, "the following arguments are required: INPUT"),
        (["in.jsonl", "out.jsonl", "--naked"], 2, "unrecognized arguments: --naked"),
    ],
)
def test_usage(
    command: str, arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        {"grade": grade, "audit": audit}[command].main(arguments)
    printed = capsys.readouterr()
    assert exited.value.code == status
    assert f"usage: python -m simplerl.{command}" in printed.out + printed.err
    assert message in printed.out + printed.err


def test_settings_may_be_anywhere_and_a_reward_sees_the_finish_reason(tmp_path: Path) -> None:
    rows = [{"response": "a", "answer": "1", "finish_reason": "length"}, {"response": "b", "answer": "1"}]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    grade.main(["reward=light_rewards.generation", str(source), "workers=1", str(target)])
    assert [(row["status"], row["parts"]["truncated"], row["reward"]) for row in read(target)] == [
        ("length", 1.0, 0.0),
        ("stop", 0.0, 0.0),
    ]


@pytest.mark.parametrize("command", [grade.main, audit.main])
def test_the_input_is_never_the_output(command: Callable[[list[str]], None], tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    (tmp_path / "link.jsonl").symlink_to(source)
    before = source.read_text()
    for target in ("in.jsonl", "link.jsonl"):
        with pytest.raises(ConfigError, match="is the input file: choose another output file"):
            command([str(source), str(tmp_path / target)])
    assert source.read_text() == before


def test_an_output_is_complete_or_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    target.write_text("before")

    def full(path: Path, text: str, **_: object) -> int:
        path.open("w").write(text[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        grade.main([str(source), str(target)])
    assert target.read_text() == "before" and sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


BAD = {
    "torn": ('{"resp', "it is not valid JSON"),
    "not an object": ("[1]", "it is not an object"),
    "a list": (
        '{"response": ["1", "2"], "answer": "1", "id": 7}',
        "the response is a list of 2; write one",
    ),
    "a truth value": ('{"response": true, "answer": "1"}', "the response must be a string or a number, not True"),
    "no gold": ('{"response": "1", "answer": null}', "the answer is null"),
    "no column": ('{"answer": "1", "tag": "kept"}', 'it has no column "response"'),
    "a lone surrogate": (
        r'{"response": "\ud800", "answer": "1", "tag": "\udfff"}',
        "the response has a lone surrogate",
    ),
}


def test_a_bad_row_costs_only_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"response": "a", "answer": "1", "tag": "\ud800 is text here", "when": math.inf}
    lines = [json.dumps(good), *(line for line, _ in BAD.values()), json.dumps({"response": None, "answer": "1"})]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines))
    grade.main([str(source), str(target), "reward=light_rewards.generation"])
    rows = [json.loads(line) for line in target.read_bytes().decode().splitlines()]
    assert [row["status"] for row in rows] == ["stop", *["failed"] * len(BAD), "stop"]
    for number, (row, (_, reason)) in enumerate(zip(rows[1:-1], BAD.values(), strict=True), start=2):
        assert f"in.jsonl, line {number}: {reason}" in row["reason"]
        assert (row["reward"], row["correct"]) == (0.0, False)
    assert rows[0]["reason"] is None and rows[0]["tag"] == r"\ud800 is text here"
    assert (rows[3]["id"], rows[6]["tag"], rows[7]["tag"], rows[-1]["response"]) == (7, "kept", r"\udfff", None)
    assert f"{len(BAD)} of {len(rows)} rows failed; the first: {source}, line 2" in capsys.readouterr().err


def test_the_reason_of_a_failing_reward_stands_in_its_row(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", ROWS[:2]), tmp_path / "out.jsonl"
    grade.main([str(source), str(target), "reward=test_grade.picky"])
    assert [row["status"] for row in read(target)] == ["equal", "failed"]
    assert "AssertionError: no percentage" in read(target)[1]["reason"] and read(target)[0]["reason"] is None


def picky(response: str, problem: Problem) -> Score:
    assert "%" in response, "no percentage"
    return Score(1.0, True, "equal")


def test_columns_may_have_other_names_and_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "id": 3,
        "completion": [{"role": "assistant", "content": "b"}],
        "reward_model": {"ground_truth": 5},
        "score": 1.5,
        "status": "old",
    }
    source, target = write(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl"
    names = ["columns.response=completion", "columns.answer=reward_model.ground_truth"]
    grade.main([str(source), str(target), "reward=light_rewards.generation", *names])
    (graded,) = read(target)
    assert {key: graded[key] for key in row} == row | {"status": "stop"} and graded["extracted"] == "b"
    assert "columns of the input were replaced: status" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [("in.jsonl", "\ufeff" + json.dumps(ROWS[0]) + "\n"), ("in.json", json.dumps(ROWS[:1], indent=1))],
)
def test_files_that_training_reads_are_graded(name: str, content: str, tmp_path: Path) -> None:
    source, target = tmp_path / name, tmp_path / "out.jsonl"
    source.write_text(content, encoding="utf-8")
    grade.main([str(source), str(target), "reward=light_rewards.generation"])
    assert [row["tag"] for row in read(target)] == ["kept"]


def test_a_file_in_a_folder_named_by_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reward=strict-1234").mkdir()
    source = write(Path("reward=strict-1234/in.jsonl"), ROWS[:1])
    grade.main([str(source), "reward=strict-1234/out.jsonl", "reward=light_rewards.generation"])
    assert len(read(Path("reward=strict-1234/out.jsonl"))) == 1


def numpy_reward(response: str, problem: Problem) -> Score:
    return Score(np.float32(0.5), np.bool_(True), "equal", parts={"share": np.float64(0.25)})


def test_numbers_of_numpy_are_numbers_and_booleans(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", ROWS[:1]), tmp_path / "out.jsonl"
    grade.main([str(source), str(target), "reward=test_grade.numpy_reward"])
    (row,) = read(target)
    assert row["reward"] == 0.5 and row["correct"] is True and row["parts"] == {"share": 0.25}


def test_a_reward_is_an_option_of_conf_with_changed_values(tmp_path: Path) -> None:
    (tmp_path / "reward").mkdir()
    option = "_target_: light_rewards.patient\n_partial_: true\nhold: absent\n"
    (tmp_path / "reward/own.yaml").write_text(option)
    (tmp_path / "reward/heir.yaml").write_text("defaults: [own, _self_]\nrule: exact\n")
    (tmp_path / "reward/bound.yaml").write_text(option + "rule: ${run.root}\n")
    assert grade.find_reward("own", {"rule": "qwen"}, tmp_path).keywords == {"hold": "absent", "rule": "qwen"}
    assert grade.find_reward("heir", {}, tmp_path).keywords == {"hold": "absent", "rule": "exact"}
    with pytest.raises(ConfigError, match=r"reward=own does not accept these settings \(.* argument 'limit'"):
        grade.find_reward("own", {"limit": 60}, tmp_path)
    with pytest.raises(ConfigError, match=r"bound\.yaml needs the rest of a run's configuration .*run\.root"):
        grade.find_reward("bound", {}, tmp_path)
    with pytest.raises(ConfigError, match="reward=one is unknown: did you mean own"):
        grade.find_reward("one", {}, tmp_path)


def test_values_of_an_option_are_overridden_as_in_training() -> None:
    words = ["reward.wrong=-0.25", "a", "reward=strict", "+reward.unboxed=-2", "b", "rule=qwen"]
    options, _, settings = grade.parse_command(_parser_with_output(), words)
    assert (str(options.input), str(options.output)) == ("a", "b")
    reward = grade.find_reward(settings.pop("reward"), settings)
    assert reward.keywords == {"correct": 1.0, "wrong": -0.25, "unboxed": -2, "rule": "qwen", "fbox": False}


def _parser_with_output() -> argparse.ArgumentParser:
    parser = grade.command_parser("grade", "", "", "")
    parser.add_argument("output")
    return parser


def test_audit_of_rollouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step.parquet"
    rows = [
        {"problem_id": f"p{i}", "source": "s", "response": r["response"], "gold": str(r["answer"])}
        for i, r in enumerate(ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    audit.main([str(path)])
    report = (tmp_path / "step.audit.md").read_text()
    assert "| math_verify | 25.00 % | 1 | 2 | 1 | 0 | 0 |" in report
    assert "| qwen | 50.00 % | 2 | 1 | 1 | 0 | 0 |" in report
    assert "## Disagreements (3)" in report
    assert "## Gold answers not equal to themselves (1)\n" in report and "| s | p3 |  | no_answer |" in report
    assert "3 disagreements, 1 gold answers not equal to themselves" in capsys.readouterr().out


def test_audit_lists_a_row_on_which_any_two_rules_disagree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": r"\boxed{0.5}", "answer": "1/2"}, {"text": "the answer is 1/2", "answer": "1/2"}]
    source = write(tmp_path / "in.jsonl", [*rows, {"text": "1", "answer": None}])
    audit.main([str(source), str(tmp_path / "report.md"), "columns.response=text"])
    report = (tmp_path / "report.md").read_text()
    assert "1 of 3 rows were left out; the first" in capsys.readouterr().err and "2 responses" in report
    assert "## Disagreements (2)" in report
    assert "| 0 | correct | correct | different | correct | correct | 0.5 |" in report
    assert "| 1 | no_answer | no_answer | no_answer | no_answer | correct | 1/2 |" in report


@pytest.mark.parametrize(("command", "rows"), [("grade", "1 rows graded"), ("audit", "# Audit of in.jsonl")])
def test_the_modules_run_as_commands(
    command: str, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.jsonl", ROWS[:1])
    monkeypatch.delitem(sys.modules, f"simplerl.{command}")
    monkeypatch.setattr(sys, "argv", [command, str(source), str(tmp_path / "out.html")])
    runpy.run_module(f"simplerl.{command}", run_name="__main__")
    assert rows in capsys.readouterr().out
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>") == (command == "audit")
    monkeypatch.delitem(sys.modules, f"simplerl.{command}", raising=False)
    monkeypatch.setattr(sys, "argv", [command, str(tmp_path / "absent.jsonl"), str(tmp_path / "out.md")])
    with pytest.raises(SystemExit, match=r"^error: .*absent\.jsonl does not exist"):
        runpy.run_module(f"simplerl.{command}", run_name="__main__")


def test_audit_checks_its_settings(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(ConfigError, match="workers=x must be an integer"):
        audit.main([str(source), "workers=x"])
    with pytest.raises(ConfigError, match="reward is not a setting of audit"):
        audit.main([str(source), "reward=strict"])
    with pytest.raises(ConfigError, match="does not exist; create it"):
        audit.main([str(source), str(tmp_path / "absent/report.md")])


def test_a_report_in_html_shows_text_as_text() -> None:
    problem = Problem("<b>p</b>", "", "1300")
    pairs = [(Response(rf"\boxed{{{text}}}"), problem) for text in ("<script>alert(1)</script>", "13")]
    graded = {name: [(reward(*pair), 0.0) for pair in pairs] for name, reward in audit.REWARDS.items()}
    page = audit.as_page(audit.report_tables(pairs, graded, [(problem, "different")]), "<i>title</i>")
    assert "&lt;script&gt;" in page and "Disagreements" in page
    assert not any(tag in page for tag in ("<script>", "<b>", "<i>"))
