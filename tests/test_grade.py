"""Tests the grade and audit commands on small files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simplerl import audit, grade
from simplerl.errors import ConfigError

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
        (["torn.jsonl", "out.jsonl"], "torn.jsonl, line 2: it is not valid JSON"),
        (["poor.jsonl", "out.jsonl"], 'poor.jsonl, line 1: "answer" must be'),
        (["true.jsonl", "out.jsonl"], 'true.jsonl, line 1: "answer" must be a string or a number, not True'),
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
    Path("torn.jsonl").write_text('{"response": "1", "answer": "1"}\n{"resp\n')
    write(Path("poor.jsonl"), [{"response": "1"}])
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


def test_audit_lists_a_row_on_which_any_two_rules_disagree(tmp_path: Path) -> None:
    rows = [{"response": r"\boxed{0.5}", "answer": "1/2"}, {"response": "the answer is 1/2", "answer": "1/2"}]
    audit.main([str(write(tmp_path / "in.jsonl", rows)), str(tmp_path / "report.md")])
    report = (tmp_path / "report.md").read_text()
    assert "## Disagreements (2)" in report
    assert "| 0 | correct | correct | different | correct | correct | 0.5 |" in report
    assert "| 1 | no_answer | no_answer | no_answer | no_answer | correct | 1/2 |" in report


def test_audit_checks_its_settings(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(ConfigError, match="workers=x must be an integer"):
        audit.main([str(source), "workers=x"])
    with pytest.raises(ConfigError, match="reward is not a setting of audit"):
        audit.main([str(source), "reward=strict"])
    with pytest.raises(ConfigError, match="does not exist; create it"):
        audit.main([str(source), str(tmp_path / "absent/report.md")])


def test_audit_in_html_shows_text_as_text(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.jsonl",
        [
            {"response": r"\boxed{<script>alert(1)</script>}", "answer": "1300"},
            {"response": r"\boxed{13}", "answer": "1300"},
        ],
    )
    audit.main([str(source), str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page and "Disagreements" in page
