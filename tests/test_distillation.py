"""Distillation: which answers are kept and why, planted near-duplicates and benchmark overlap, resuming after kill -9,
and what other programs read of the data set."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import forked
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from composing import composed
from micro_runs import ROOT
from omegaconf import DictConfig, OmegaConf

from analysis.folders import read_run_folder
from analysis.run_data import SourceError
from simplerl.config import TeacherConfig
from simplerl.config.load import load
from simplerl.data.difficulty import read_solve_rates, within
from simplerl.data.sources import load_problems
from simplerl.distillation import command
from simplerl.distillation.dataset import TRAIN, read_report
from simplerl.distillation.duplicates import NearDuplicates, benchmarks, similarity
from simplerl.distillation.samples import difficulty_rows, samples_table
from simplerl.distillation.selection import (
    DUPLICATE,
    INCORRECT,
    KEPT,
    NOT_CHOSEN,
    OVERLAP,
    REPETITIVE,
    SURPLUS,
    TRUNCATED,
    Answer,
    choose,
    correct,
    everything,
    longest,
    select,
    shortest,
)
from simplerl.errors import ConfigError
from simplerl.micro import corpus
from simplerl.rewards import strict
from simplerl.rollouts import RolloutSource, difficulty_gate
from simplerl.runs.folder import run_folder
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Problem, Prompt, Response, Rollout, Score

LONG = "We add the apples of both baskets, which gives twelve apples, and take away the five that were eaten, so seven."


def answer(problem: str = "p", sample: int = 0, response: str = "", **more: Any) -> Answer:
    text = response or f"response {problem} {sample}"
    given = {"tokens": 10, "finish_reason": FINISH_STOP, "reward": 1.0, "correct": True, "question": f"{problem}?"}
    return Answer(problem_id=problem, sample=sample, response=text, **{**given, **more})


# Selection

FOUR = [
    answer(sample=0, tokens=30),
    answer(sample=1, tokens=10, correct=False),
    answer(sample=2, tokens=20),
    answer(sample=3, tokens=40),
]


@pytest.mark.parametrize(
    ("keep", "samples"), [(correct, [0, 2, 3]), (everything, [0, 1, 2, 3]), (shortest, [2, 0, 3]), (longest, [3, 0, 2])]
)
def test_functions_of_teacher_keep_return_the_best_first(keep: Any, samples: list[int]) -> None:
    assert [one.sample for one in keep(FOUR)] == samples


def test_every_answer_that_is_left_out_has_its_reason() -> None:
    group = [
        answer(sample=0, finish_reason=FINISH_LENGTH),
        answer(sample=1, response="again and again it says the same " * 9),
        answer(sample=2, correct=False),
        answer(sample=3, tokens=5),
        answer(sample=4, tokens=7),
        answer(sample=5, tokens=9),
    ]
    teacher = TeacherConfig(keep=shortest, per_problem=2)
    assert select([group], teacher) == [TRUNCATED, REPETITIVE, INCORRECT, KEPT, KEPT, SURPLUS]
    lenient = replace(teacher, drop_truncated=False, max_repetition=None, keep=everything, per_problem=None)
    assert select([group], lenient) == [KEPT] * 6
    only_first = replace(lenient, keep=lambda answers: answers[:1])
    assert select([group], only_first) == [KEPT, NOT_CHOSEN, INCORRECT, NOT_CHOSEN, NOT_CHOSEN, NOT_CHOSEN]
    assert select([group], teacher, overlapping={"p"}) == [OVERLAP] * 6


@pytest.mark.parametrize("result", [None, "x", [{}], [answer(sample=9)], [FOUR[0], FOUR[0]], tuple(FOUR)])
def test_a_function_that_does_not_return_given_answers_is_refused(result: Any) -> None:
    with pytest.raises(ConfigError, match=r"teacher.keep \(.*must return a list of the answers that it is given"):
        choose(FOUR, TeacherConfig(keep=lambda _: result))


# Near-duplicates


def test_planted_near_duplicates_are_found() -> None:
    pytest.importorskip("datasketch")
    changed = LONG.replace("We add", "So we add")
    groups = [
        [answer("a", 0, LONG), answer("a", 1, changed), answer("a", 2, "Twelve minus five is 7.")],
        [answer("b", 0, "The answer is 4.", question="What is 2 + 2, written as a number?")],
        [answer("c", 0, "The answer is 4.", question="How many sides does every square have?")],
        [answer("d", 0, LONG, question="a?")],  # the problem `a` under another id
    ]
    teacher = TeacherConfig(keep=correct)
    assert select(groups, teacher, NearDuplicates(0.8)) == [KEPT, DUPLICATE, KEPT, KEPT, KEPT, DUPLICATE]
    assert select(groups, teacher, NearDuplicates(1.0))[1] == KEPT


def test_the_next_answer_replaces_a_near_duplicate_within_the_limit_per_problem() -> None:
    pytest.importorskip("datasketch")
    group = [answer("a", i, text) for i, text in enumerate([LONG, LONG, "Seven are left.", "7"])]
    teacher = TeacherConfig(keep=correct, per_problem=2)
    assert select([group], teacher, NearDuplicates(0.8)) == [KEPT, DUPLICATE, KEPT, SURPLUS]


def test_near_duplicates_are_those_of_an_exact_comparison() -> None:
    """Texts at all distances: each is compared with all kept ones, without an index."""
    pytest.importorskip("datasketch")
    rng, texts = Random(0), list[Answer]()
    for number in range(60):
        base = [str(rng.randrange(1000)) for _ in range(40)]
        for variant in range(3):
            changed = [word if rng.random() > 0.02 * variant else "x" for word in base]
            texts.append(answer(str(number // 2), len(texts), " ".join(changed)))
    index, kept, found = NearDuplicates(0.7), list[Answer](), 0
    for one in texts:
        expected = next((other for other in kept if similarity(one, other) >= 0.7), None)
        assert index.find(one) == expected
        found += expected is not None
        if expected is None:
            index.add(one)
            kept.append(one)
    assert 40 < found < 110


def test_a_missing_package_is_named_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(ConfigError, match=r"pip install datasketch, or set teacher.near_duplicates=null"):
        command.distill(composed(), "")


# Overlap

BENCHMARK = Problem(
    "exam/0", "A farmer sells 12 eggs a day for 3 dollars each. How much does he earn in a week?", "252"
)
TINY = Problem("exam/1", "What is 2 + 3 * 4?", "14")


@pytest.mark.parametrize(
    ("question", "response", "items"),
    [
        ("In spring, A FARMER sells 12 eggs a day, for $3$ dollars each... How much does he keep?", "", {"exam/0"}),
        ("A farmer sells 12 eggs a day. How much does he earn in a week?", "", set()),
        ("what is  2 + 3 * 4 ?", "", {"exam/1"}),
        ("What is 2 * 3 + 4?", "", set()),  # the same words with other symbols
        ("Now: what is 2 + 3 * 4?", "", set()),  # too short to be looked for within a text
        ("Who?", "I know: a farmer sells 12 eggs a day for 3 dollars each. How much, then?", {"exam/0"}),
        ("Who?", "What is 2 + 3 * 4?", set()),
    ],
)
def test_overlap_with_a_benchmark(question: str, response: str, items: set[str]) -> None:
    found = benchmarks({"exam": [BENCHMARK, TINY]}, 11)
    assert {item for _, item in found.in_question(question) | found.in_response(response)} == items


def test_drawings_do_not_overlap() -> None:
    drawing = "[asy] size(4cm); draw((0,0)--(4,0)--(4,3)--cycle); label(a, (1,1)); dot((2,2)); [/asy]"
    found = benchmarks({"exam": [Problem("1", f"{BENCHMARK.question} {drawing}", "1")]}, 8)
    assert not found.in_question(f"How long is the longest side of this triangle, in cm? {drawing}")
    assert found.in_question(f"{drawing} {BENCHMARK.question}")


# Difficulty


def rollout(problem: Problem, sample: int, correct: bool) -> Rollout:
    score = Score(float(correct), correct, "equal" if correct else "different", "7")
    prompt = Prompt(problem, problem.question, (1,))
    return Rollout(prompt, sample, f"answer {sample}", (1, 2), (-0.1, -0.1), FINISH_STOP, score)


def write_rates(path: Path, rates: dict[str, float]) -> str:
    path.write_text("".join(json.dumps({"id": id, "solve_rate": rate}) + "\n" for id, rate in rates.items()))
    return str(path)


def test_solve_rates_and_pass_at_k() -> None:
    problem = Problem("x", "6 + 1?", "7", level="easy")
    (row,) = difficulty_rows(samples_table([rollout(problem, i, i == 2) for i in range(4)]))
    assert row == {
        "id": "x", "level": "easy", "samples": 4, "correct": 1, "solve_rate": 0.25,
        "pass@1": 0.25, "pass@2": 0.5, "pass@4": 1.0,
    }  # fmt: skip


def test_problems_are_filtered_by_solve_rate(tmp_path: Path) -> None:
    path = write_rates(tmp_path / "difficulty.jsonl", {"a": 0.0, "b": 0.5, "c": 1.0})
    problems = [Problem(id, f"{id}?", "1") for id in "abcd"]
    assert [p.id for p in within(problems=lambda: problems, path=path, low=0.1)] == ["b", "c"]
    assert [p.id for p in within(problems=lambda: problems, path=path)] == ["a", "b", "c"]
    with pytest.raises(ConfigError, match=r"No problem has a solve rate in \[0.6, 0.9\].*data.low=0 or data.high=1"):
        within(problems=lambda: problems, path=path, low=0.6, high=0.9)
    assert within(problems=lambda: problems, path=path, low=0.0, high=0.9)  # as the message proposes
    with pytest.raises(ConfigError, match=r"data.path=\S+ has none of the 1 problems of data"):
        within(problems=lambda: problems[3:], path=path)
    with pytest.raises(ConfigError, match=r"is not a file: name the difficulty.jsonl"):
        read_solve_rates(str(tmp_path / "no.jsonl"))
    (tmp_path / "bad.jsonl").write_text('{"id": "a"}\n{"id": "b", "solve_rate": 1}\n')
    with pytest.raises(ConfigError, match=r"line 1: solve_rate is missing"):
        read_solve_rates(str(tmp_path / "bad.jsonl"))


def test_the_filter_is_configured_as_a_data_set(tmp_path: Path) -> None:
    path = write_rates(tmp_path / "difficulty.jsonl", {"micro-rl-0-1": 0.5})
    chosen = ["data=solve_rate", "data@data.problems=micro", "data.problems.count=4", f"data.path={path}"]
    assert [problem.id for problem in load(composed(*chosen)).data()] == ["micro-rl-0-1"]
    with pytest.raises(ConfigError, match=r"data.problems.cuont is unknown: did you mean data.problems.count\?"):
        load(composed(*chosen, "+data.problems.cuont=4"))


def test_the_difficulty_gate_starts_from_the_file(tmp_path: Path) -> None:
    """The rates of the file count until a prompt is sampled, and then those of training."""
    path = write_rates(tmp_path / "difficulty.jsonl", {"a": 1.0, "b": 0.5, "c": 1.0})
    prompts = [Prompt(Problem(id, f"{id}?", "1"), "", (1,)) for id in "abcd"]
    asked: list[list[str]] = []

    def sample(chosen: list[Prompt], number: int, greedy: bool = False) -> list[Rollout]:
        asked.append([prompt.problem.id for prompt in chosen])
        return [rollout(prompt.problem, 0, prompt.problem.id == "d") for prompt in chosen]

    gate = partial(difficulty_gate, max_batches=1, solve_rates=path)
    source = RolloutSource(lambda _: prompts, sample, 2)
    state = gate(source, 0, {})[1]
    gate(source, 1, json.loads(json.dumps(state)))
    assert asked == [["b", "d"], ["b", "a"]] and state["accuracy"] == {"a": 1.0, "b": 0.0, "c": 1.0, "d": 1.0}


# Settings


def resolved(*overrides: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(composed(*overrides), resolve=True, enum_to_str=True)
    return found


def test_only_settings_that_change_responses_name_the_folder() -> None:
    def name(kind: str, *overrides: str) -> str:
        return run_folder(resolved(*overrides), "x", kind).name

    selects = ["teacher=shortest", "teacher.near_duplicates=null", "evals=none", "algorithm=grpo", "teacher.name=a"]
    assert {name("distillation", *selects)} == {name("distillation")}
    for samples in ("teacher.samples=8", "teacher.problems_per_chunk=8", "seed=1", "sampling.temperature=0.5"):
        assert name("distillation", samples) != name("distillation")
    assert name("", "teacher=all", "teacher.samples=8") == name("")
    assert len({name(kind) for kind in ("", "evaluation", "distillation")}) == 3


REFUSED = {
    "greedy": (["sampling.temperature=0"], "teacher.samples=4 greedy responses are all the same"),
    "value in place of an option": (["teacher.keep=shortest"], "write teacher=shortest"),
    "no samples": (["teacher.samples=0"], "teacher.samples=0 must be at least 1"),
    "a name with a folder": (["teacher.name=../x"], "teacher.name=../x must be the name of a folder"),
    "similarity": (["teacher.near_duplicates=2"], "teacher.near_duplicates=2 must be at most 1"),
    "no such function": (["teacher.keep._target_=simplerl.distillation.selection.best"], "cannot be imported"),
    "lengths": (["sampling.max_new_tokens=200"], "exceeds the context of"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_refused_with_a_sentence(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", sys)  # any module
    overrides, words = REFUSED[mistake]
    with pytest.raises(ConfigError) as caught:
        command.distill(composed(f"model.path={ROOT}/assets/micro_base", "data.count=4", *overrides), "")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "remedy",
    [
        "teacher=correct",
        "sampling.temperature=0 teacher.samples=1",
        "sampling.temperature=0.5 teacher.name=x",
        "teacher.near_duplicates=null",
    ],
)
def test_remedies_of_the_teachers_settings(remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None if "null" in remedy else sys)
    command._check_settings(load(composed(f"model.path={ROOT}/assets/micro_base", *remedy.split()), trains=False))


def test_settings_of_training_are_not_checked() -> None:
    load(composed("sampling.temperature=0", "train.minibatch_size=100"), trains=False)


# Whole runs


class ScriptedSampler:
    """Answers each problem by its `extra["responses"]`, one per sample."""

    calls: list[str] = []  # noqa: RUF012 (shared by all samplers of a test)

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def load_weights(self, weights: Iterable[Any]) -> None:
        raise AssertionError("weights are read from the model's folder")

    def generate(self, prompts: Sequence[Prompt], sampling: Any, stop: Any, samples: int, *_: int) -> Iterator[Rollout]:
        for prompt in prompts:
            self.calls.append(prompt.problem.id)
            for sample in range(samples):
                text = prompt.problem.extra["responses"][sample]
                tokens = tuple(self.tokenizer.encode(text))
                finish = FINISH_LENGTH if text.endswith("...") else FINISH_STOP
                yield Rollout(prompt, sample, text, tokens, (-0.1,) * len(tokens), finish)


def scripted_sampler(policy: Any, tokenizer: Any, model: Any) -> ScriptedSampler:
    return ScriptedSampler(tokenizer)


LINES = [
    {"q": "What is 1 + 1?", "a": "2", "level": "1", "responses": [r"so \boxed{2}", r"1 + 1 = \boxed{2}", r"\boxed{3}"]},
    {"q": "What is 2 + 2?", "a": "4", "level": "1", "responses": ["\\boxed{5}", "we go on and on...", "\\boxed{1}"]},
    {"q": BENCHMARK.question, "a": "252", "level": "2", "responses": [r"\boxed{252}", r"\boxed{252}", r"\boxed{252}"]},
]  # fmt: skip


def scripted(folder: Path, *overrides: str) -> DictConfig:
    """The configuration of a distillation of LINES, of which the third is also a benchmark question."""
    for name, rows in {"data": LINES, "exam": [{"question": BENCHMARK.question, "answer": "252"}]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ["data.columns.question=q", "data.columns.answer=a", "data.columns.level=level"]
    data = ["data=jsonl", f"data.path={folder}/data.jsonl", "evals=heldout", f"evals.path={folder}/exam.jsonl"]
    data += ["evals.sets.heldout.columns.question=question", "evals.sets.heldout.columns.answer=answer"]
    settings = ["teacher.samples=3", "teacher.problems_per_chunk=2", "teacher.overlap_words=8"]
    settings += ["prompt.max_tokens=150", "sampling.max_new_tokens=100"]
    raw = composed(f"model.path={ROOT}/assets/micro_base", *data, *columns, *settings, *overrides)
    OmegaConf.set_struct(raw, False)
    raw.run.dir, raw.choices = (
        str(folder / "run"),
        {"teacher": "shortest" if "teacher=shortest" in overrides else "correct"},
    )
    raw.sampler = {"_target_": "test_distillation.scripted_sampler", "_partial_": True}
    raw.reward = {"_target_": "light_rewards.boxed", "_partial_": True}
    return raw


@pytest.fixture
def distilled(tmp_path: Path) -> Path:
    pytest.importorskip("datasketch")
    ScriptedSampler.calls.clear()
    return command.distill(scripted(tmp_path), "test")


@pytest.mark.slow
def test_a_data_set_and_its_report(distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pq.read_table(distilled / TRAIN).to_pylist()
    assert [(row["problem_id"][-1], row["sample"]) for row in rows] == [("0", 0), ("0", 1), ("2", 0)]
    first = rows[0]
    assert first["messages"] == first["prompt"] + first["completion"]
    assert first["prompt"] == [{"role": "user", "content": "What is 1 + 1?"}]
    assert first["completion"] == [{"role": "assistant", "content": "so \\boxed{2}"}]
    assert (first["response"], first["answer"], first["level"]) == ("so \\boxed{2}", "2", "1")
    assert (first["finish_reason"], first["score"], first["correct"]) == ("stop", 1.0, True)
    assert first["tokens"] == 6 and first["teacher"].endswith("micro_base")

    report = read_report(distilled)
    dropped = {reason: count for reason, count in report["counts"]["dropped"].items() if count}
    assert dropped == {TRUNCATED: 1, INCORRECT: 3, DUPLICATE: 2}
    assert report["counts"]["total"] | {"tokens": 0} == {
        "problems": 3, "responses": 9, "correct": 5, "solved": 2, "kept": 3, "covered": 2, "tokens": 0
    }  # fmt: skip
    assert report["overlap"] == {
        "heldout": {"items": 1, "questions": [[rows[2]["problem_id"], "exam/0"]], "responses": 0}
    }
    rates = [json.loads(line)["solve_rate"] for line in (tmp_path / "run/difficulty.jsonl").read_text().splitlines()]
    assert rates == [pytest.approx(2 / 3), 0.0, 1.0]

    card = (distilled / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train.parquet"}]
    for text in ("| temperature | 1.0 |", "light_rewards.boxed", "| near-duplicate | 2 | 22.2 |", "| seed | 0 |"):
        assert text in card, text
    assert (
        "1 problems share 8 consecutive words with 1 of its 1 questions" in card and str(tmp_path / "run") not in card
    )
    with pytest.raises(SourceError, match="holds a distillation, not a run"):
        read_run_folder(tmp_path / "run", [])
    command.show(distilled)
    assert f"warmup=distilled warmup.data.path={distilled}" in capsys.readouterr().out


@pytest.mark.slow
def test_other_selections_use_the_same_responses(distilled: Path, tmp_path: Path) -> None:
    sampled = list(ScriptedSampler.calls)
    assert len(sampled) == 3
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.suffix in (".parquet", ".md")}
    assert command.distill(scripted(tmp_path), "test") == distilled
    short = command.distill(scripted(tmp_path, "teacher=shortest", "teacher.drop_overlap=true"), "test")
    assert ScriptedSampler.calls == sampled and short.name == "shortest"
    assert {path: path.read_bytes() for path in before} == before
    assert [row["sample"] for row in pq.read_table(short / TRAIN).to_pylist()] == [0]
    assert read_report(short)["counts"]["dropped"][OVERLAP] == 3
    with pytest.raises(ConfigError, match=r"holds a selection with teacher.per_problem=None, not 1: set teacher.name"):
        command.distill(scripted(tmp_path, "teacher.per_problem=1"), "test")
    named = command.distill(scripted(tmp_path, "teacher.per_problem=1", "teacher.name=one"), "test")
    assert len(pq.read_table(named / TRAIN)) == 2
    pq.write_table(_all_truncated(tmp_path / "run/samples.parquet"), tmp_path / "run/samples.parquet")
    with pytest.raises(ConfigError, match=r"No answer of the teacher is kept: 9 of 9 are left out as truncated"):
        command.distill(scripted(tmp_path, "teacher.name=none"), "test")


def _all_truncated(path: Path) -> pa.Table:
    table = pq.read_table(path)
    index = table.schema.get_field_index("finish_reason")
    return table.set_column(index, "finish_reason", pa.array([FINISH_LENGTH] * len(table)))


@pytest.mark.slow
def test_the_data_set_is_read_by_the_warm_up_and_by_other_libraries(distilled: Path, tmp_path: Path) -> None:
    config = load(composed("warmup=distilled", f"warmup.data.path={distilled}"))
    problems = config.warmup.data()
    assert [p.solution for p in problems] == [r"so \boxed{2}", r"1 + 1 = \boxed{2}", r"\boxed{252}"]
    assert [p.level for p in problems] == ["1", "1", "2"] and len({p.id for p in problems}) == 3
    assert next(iter(load_problems(path=str(distilled)))).question == "What is 1 + 1?"  # its columns are guessed

    import datasets

    loaded = datasets.load_dataset(str(distilled), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded[0]["messages"][1] == {"role": "assistant", "content": "so \\boxed{2}"} and len(loaded) == 3
    trl = pytest.importorskip("trl", reason="needs the extra `bench`")
    assert all(trl.is_conversational(row) for row in loaded)


@pytest.mark.slow
def test_a_data_set_survives_kill_9(tmp_path: Path) -> None:
    """Killed three times during sampling; the micro base is the teacher."""
    pytest.importorskip("datasketch")
    settings = [
        "distill.py", f"model.path={ROOT}/assets/micro_base", "data.count=24", "evals.sets.micro.count=8",
        "teacher.samples=2", "teacher.problems_per_chunk=3", "run.threads=1",
    ]  # fmt: skip

    def start(name: str) -> forked.Command:
        return forked.Command(*settings, f"run.dir={tmp_path / name}")

    for enough in (1, 3, 6):
        process = start("killed")
        while len(list((tmp_path / "killed/chunks").glob("*.parquet"))) < enough:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        assert not (tmp_path / "killed/samples.parquet").exists()
    assert start("killed").wait() == 0 and start("whole").wait() == 0

    def content(name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        files = [*folder.glob("datasets/**/*"), folder / "samples.parquet", folder / "difficulty.jsonl"]
        return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}

    assert content("killed") == content("whole") and len(content("whole")) == 4
    status = json.loads((tmp_path / "killed/status.json").read_text())
    assert (status["state"], status["attempt"], status["kind"]) == ("finished", 3, "distillation")
    samples = pq.read_table(tmp_path / "whole/samples.parquet").to_pylist()
    assert len({(row["problem_id"], row["sample"]) for row in samples}) == len(samples) == 48
    logged = [json.loads(line)["step"] for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()]
    assert len(set(logged)) == len(logged) >= 5


# The arms of sweep=warmup_full


def test_solutions_of_the_micro_world_are_correct_and_have_one_step_per_operator() -> None:
    for problem in corpus.solved_problems(50):
        assert problem.solution is not None and strict(Response(problem.solution), problem).correct
        assert len(problem.solution.splitlines()) == 1 + int((problem.level or "").rstrip("h"))
