"""Tests the rewards on real gold answers, labelled cases and hostile responses (data outside the repository)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from simplerl.bench.grader_accuracy import CHOICES, Case, grade_cases, is_verdict_correct, read_cases
from simplerl.bench.published_agreement import disagreements, read_verdicts
from simplerl.rewards import strict
from simplerl.rewards.extract import last_boxed
from simplerl.rewards.pool import Grader
from simplerl.rewards.rules import RULES, Environment
from simplerl.types import Problem, Score

GOLDS: dict[str, Callable[[dict], str]] = {
    "gsm8k": lambda row: row["answer"].split("####")[1].strip(),
    "math500": lambda row: last_boxed(row["solution"]) or "",
    "minerva_math": lambda row: last_boxed(row["solution"]) or "",
    "gaokao2023en": lambda row: row["answer"].strip("$"),
    "olympiadbench": lambda row: row["final_answer"][0].strip("$"),
    "college_math": lambda row: row["answer"].strip("$"),
    "aime24": lambda row: str(row["answer"]),
    "amc23": lambda row: str(row["answer"]),
}
EMPTY = {"gaokao2023en": 2, "math_rl": 2}
# Neighbouring gold answers that are equal although written differently.
TWINS = {
    ("5", "x=5"),
    ("-2", "\\{-2\\}"),
    ("\\frac{1}{2}", "0.5"),
    ("36^\\circ", "36"),
    ("100\\%", "1"),
    ("2", "2\\text{ miles}"),
}


def golds(shared: Path, name: str) -> list[str]:
    if name == "math_rl":
        return [row["answer"] for row in json.loads((shared / "data/math_lvl3to5_8k.json").read_text())]
    lines = (shared / f"data/benchmarks/{name}.jsonl").read_text().splitlines()
    return [GOLDS[name](json.loads(line)) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*GOLDS, "math_rl"])
def test_every_gold_equals_itself_and_not_the_next(shared: Path, name: str) -> None:
    answers = golds(shared, name)
    problems = [Problem(str(i), "", gold, source=name) for i, gold in enumerate(answers)]
    following = [
        next((p for p in problems[i + 1 :] + problems[:i] if p.answer not in ("", gold)), None)
        for i, gold in enumerate(answers)
    ]
    with Grader(partial(strict)) as grader:
        own = grader.grade_pairs((f"\\boxed{{{p.answer}}}", p) for p in problems)
        pairs = [(gold, other) for gold, other in zip(answers, following, strict=True) if gold and other]
        crossed = grader.grade_pairs((f"\\boxed{{{gold}}}", other) for gold, other in pairs)
    assert [p.answer for p, s in zip(problems, own, strict=True) if not s.correct] == [""] * EMPTY.get(name, 0)
    equal = [(gold, other.answer) for (gold, other), s in zip(pairs, crossed, strict=True) if s.status != "different"]
    assert set(equal) <= TWINS


def test_golds_that_fail_themselves_under_the_published_training_reward(shared: Path) -> None:
    lines = (shared / "data/benchmarks/math500.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["level"] in (3, 4, 5)]
    answers = [row["answer"] for row in rows]
    failed = {
        rule: sum(
            not strict(f"\\boxed{{{gold}}}", Problem("", "", gold, source="math500"), rule=rule).correct
            for gold in answers
        )
        for rule in RULES
    }
    assert len(answers) == 367
    assert failed == {"math_verify": 0, "qwen": 1, "exact": 0, "qwen_train": 27}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "environment", "training", "evaluation"),
    [("published_env_b", "training", 0.999, 0.999), ("published_env_a", "evaluation", 0.999, 0.999)],
)
def test_agreement_with_recorded_verdicts_of_the_published_code(
    shared: Path, file: str, environment: Environment, training: float, evaluation: float
) -> None:
    rows = read_verdicts(shared / f"data/grading/{file}.jsonl")
    for found, share in zip(disagreements(rows, environment), (training, evaluation), strict=True):
        assert len(found) <= (1 - share) * len(rows), found


@pytest.fixture(scope="module")
def labelled(shared: Path) -> dict[str, list[tuple[Case, Score, float]]]:
    rows = list(read_cases(shared / "data/grading"))
    groups: dict[str, list[tuple[Case, Score, float]]] = {}
    for row, (result, seconds) in zip(rows, grade_cases(rows, "math_verify"), strict=True):
        groups.setdefault("separate" if row.tag in CHOICES else row.file, []).append((row, result, seconds))
    return groups


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "share"),
    [
        ("real_responses", 0.99),
        ("suites", 0.98),
        ("handmade_bench", 0.98),
        ("tinyv_hard", 0.93),
        ("lenient", 0.97),
        ("hostile", 0.97),
    ],
)
def test_labelled_cases(labelled: dict[str, list[tuple[Case, Score, float]]], file: str, share: float) -> None:
    rows = [(case, result) for case, result, _ in labelled[file] if case.expected is not None]
    wrong = [(case.id, result.status) for case, result in rows if not is_verdict_correct(case, result)]
    assert len(wrong) <= (1 - share) * len(rows), wrong


@pytest.mark.slow
def test_at_most_one_false_positive_in_500(labelled: dict[str, list[tuple[Case, Score, float]]]) -> None:
    rows = [(case, result) for group in labelled.values() for case, result, _ in group if case.expected is False]
    assert sum(result.correct for _, result in rows) <= len(rows) / 500


def hostile(shared: Path) -> list[Case]:
    return [case for case in read_cases(shared / "data/grading") if case.file == "hostile"]


def grade_hostile(rows: list[Case]) -> list[tuple[Score, float]]:
    with Grader(partial(strict)) as grader:
        return grader.grade_timed((row.text, Problem(row.id, "", row.gold)) for row in rows)


PWNED = Path("/tmp/heldout/PWNED")  # the file that the injection payloads create if they are executed


@pytest.fixture
def trap() -> Iterator[None]:
    """Prepare the folder in which an executed payload would create its file, without the file."""
    PWNED.parent.mkdir(parents=True, exist_ok=True)
    PWNED.unlink(missing_ok=True)
    yield
    PWNED.unlink(missing_ok=True)


def check_hostile(rows: list[Case], graded: list[tuple[Score, float]]) -> None:
    assert len(graded) == len(rows)
    assert max(seconds for _, seconds in graded) <= 8
    assert not PWNED.exists()
    judged = [
        is_verdict_correct(row, result)
        for row, (result, _) in zip(rows, graded, strict=True)
        if row.expected is not None
    ]
    assert sum(judged) >= 0.97 * len(judged)


@pytest.mark.slow
def test_hostile_rows_from_a_thread(shared: Path, trap: None) -> None:
    rows, graded = hostile(shared), []
    thread = threading.Thread(target=lambda: graded.extend(grade_hostile(rows)))
    thread.start()
    thread.join()
    check_hostile(rows, graded)


@pytest.mark.slow
def test_hostile_rows_from_a_ray_actor(shared: Path, trap: None, cluster: None) -> None:
    import ray

    class Actor:
        def grade(self, cases: list[Case]) -> list[tuple[Score, float]]:
            with Grader(partial(strict)) as grader:
                return grader.grade_timed((case.text, Problem(case.id, "", case.gold)) for case in cases)

    rows = hostile(shared)
    actor = ray.remote(Actor).remote()
    check_hostile(rows, ray.get(actor.grade.remote(rows), timeout=300))
    ray.kill(actor)
