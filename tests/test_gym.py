"""Tasks of reasoning-gym: split, mixture, difficulty, scorers, and one sentence for each mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from simplerl.data import gym
from simplerl.data.gym import problems
from simplerl.data.sums import SPLITS, split_of
from simplerl.errors import ConfigError
from simplerl.rewards.gym import reasoning_gym
from simplerl.types import Problem, Response


def library() -> None:
    pytest.importorskip("reasoning_gym", reason="needs pip install 'simplerl[gym]'")


def score(text: str, problem: Problem, **keywords: Any) -> Any:
    return reasoning_gym(Response(text), problem, **keywords)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ConfigError, match=r"data\.task=gcd needs reasoning-gym.*pip install 'simplerl\[gym\]'\.$"):
        problems(task="gcd", split="rl", count=2)


def test_a_foreign_problem_is_refused() -> None:
    with pytest.raises(ValueError, match="is no task of reasoning-gym: choose data=reasoning_gym"):
        score("\\boxed{2}", Problem("1", "1 + 1?", "2"))


def test_tasks_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"^data\.task is empty"):
        problems(task=[], split="rl", count=2)
    with pytest.raises(ConfigError, match=r"data\.options\.x is none of the tasks a, b: .*\+data\.options\.a\.NAME"):
        problems(task=["a", "b"], split="rl", count=2, options={"x": {}})
    with pytest.raises(ConfigError, match=r"data\.options\.a is 3, but must hold options"):
        problems(task=["a", "b"], split="rl", count=2, options={"a": 3})


@pytest.mark.slow
def test_splits_share_neither_seeds_nor_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leg counting of one animal has few questions, so other seeds give the same ones."""
    library()
    opened = list[tuple[str, int]]()
    real = gym.open_task

    def recorded(task: str, options: Any, seed: int, setting: Any) -> Any:
        opened.append((task, seed))
        return real(task, options, seed, setting)

    monkeypatch.setattr(gym, "open_task", recorded)
    few = {"min_animals": 1, "max_animals": 1, "max_instances": 3}
    seeds, questions = dict[str, set[int]](), dict[str, set[str]]()
    for split in SPLITS:
        for seed in (0, 1):
            opened.clear()
            some = problems(task="leg_counting", split=split, count=4, seed=seed, options=few)  # type: ignore[arg-type]
            assert {split_of(one.question) for one in some} == {split}
            questions.setdefault(split, set()).update(one.question for one in some)
            seeds.setdefault(split, set()).update(first for _, first in opened)
    for found in (seeds, questions):
        assert len(set().union(*found.values())) == sum(map(len, found.values()))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_tasks_are_mixed_evenly_with_their_own_options() -> None:
    library()
    options = {"chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}
    some = problems(task=["gcd", "chain_sum"], split="rl", count=7, options=options)
    assert [one.level for one in some] == ["gcd", "chain_sum"] * 3 + ["gcd"]
    assert len({one.id for one in some}) == len({one.question for one in some}) == 7
    assert all(len(one.extra["gym_metadata"]["expression"].split()) == 3 for one in some if one.level == "chain_sum")
    assert some == problems(task=["gcd", "chain_sum"], split="rl", count=7, options=options)
    assert some != problems(task=["gcd", "chain_sum"], split="rl", count=7, options=options, seed=1)


@pytest.mark.slow
def test_scores_are_the_tasks_own() -> None:
    """A countdown is solved by any expression with the value, which no comparison with the gold answer finds."""
    library()
    (sum_,) = problems(task="chain_sum", split="rl", count=1)
    right = score(f"so \\boxed{{{sum_.answer}}}", sum_)
    assert (right.reward, right.correct, right.status, right.parts["boxed"]) == (1.0, True, "equal", 1.0)
    assert score("\\boxed{no}", sum_, wrong=-0.5).reward == -0.5
    absent = score(f"so {sum_.answer}", sum_, no_answer=-1.0)
    assert (absent.reward, absent.correct, absent.status, absent.extracted) == (-1.0, False, "no_answer", None)
    tagged = f"<answer>{sum_.answer}</answer>"
    assert score(tagged, sum_, answer_from="tags").correct and not score(tagged, sum_).correct
    (game,) = problems(task="countdown", split="rl", count=1)
    assert score(f"\\boxed{{({game.answer})}}", game).correct
    (factors,) = problems(task="prime_factorization", split="rl", count=1)
    assert score("\\boxed{none}", factors).status == "different"  # its scorer raises
    (puzzle,) = problems(task="graph_color", split="rl", count=1)
    assert puzzle.answer == "" and score("\\boxed{none}", puzzle).reward == 0  # it has no gold answer
    partly = score("\\boxed{1 + 1}", game)
    assert 0 < partly.reward < 1 and not partly.correct
    assert score("\\boxed{1 + 1}", game, partial_credit=False).reward == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said", "remedy"),
    [
        (
            {"task": "chainsum"},
            r"data\.task=chainsum is unknown to reasoning-gym: .*as data\.task=chain_sum",
            {"task": "chain_sum"},
        ),
        (
            {"options": {"max_vale": 9}},
            r"max_vale is unknown to the task gcd: did you mean max_value\?",
            {"options": {"max_value": 9}},
        ),
        ({"options": {"seed": 9}}, r"seed is unknown to the task gcd", {"options": {}}),
        (
            {"options": {"min_value": 9, "max_value": 1}},
            r"do not fit the task gcd \(.*\): correct them; its defaults are .*max_value=1000",
            {"options": {"max_value": 1000}},
        ),
        (
            {"task": "coin_flip", "count": 300, "options": {"min_trials": 3, "max_trials": 4}},
            r"data\.count=300 needs 300 different questions of the task coin_flip, .*: set data\.count=(?P<count>\d+)",
            {},
        ),
    ],
)
def test_mistakes_get_one_sentence_with_a_remedy(arguments: dict[str, Any], said: str, remedy: dict[str, Any]) -> None:
    library()
    with pytest.raises(ConfigError) as error:
        problems(**{"task": "gcd", "split": "rl", "count": 2, **arguments})
    found = re.search(said, str(error.value))
    assert found is not None, str(error.value)
    remedy |= {name: int(value) for name, value in found.groupdict().items()}
    assert problems(**{"task": "gcd", "split": "rl", "count": 2, **arguments, **remedy})


@pytest.mark.slow
def test_problems_are_the_same_in_every_process() -> None:
    library()
    code = (
        "from simplerl.data.gym import problems\n"
        "for one in problems(task=['gcd', 'knights_knaves'], split='rl', count=6): print(one)"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)
    ]
    assert outputs[0].stdout == outputs[1].stdout != ""
