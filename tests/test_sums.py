"""Sums in words: what they say, that splits are disjoint, and that solutions are graded as correct."""

from __future__ import annotations

import re

import pytest

from simplerl.data.sums import SPLITS, Sum, problems
from simplerl.errors import ConfigError
from simplerl.rewards import strict


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def test_a_sum_by_hand() -> None:
    item = Sum((10, 38, -3))
    assert str(item) == "10 + 38 - 3" and item.results == [10, 48, 45]
    assert item.solution() == "10 + 38 = 48. 48 - 3 = 45. The answer is \\boxed{45}."


@pytest.mark.parametrize("losses", [0.0, 0.5, 1.0])
def test_questions_say_the_sum_of_their_solution(losses: float) -> None:
    for problem in problems(split="rl", count=50, steps=(1, 4), losses=losses):
        assert problem.solution is not None and problem.level in ("1", "4")
        steps = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", problem.solution)
        assert len(steps) == int(problem.level)
        assert numbers(problem.question) == [steps[0][0], *(change for _, _, change, _ in steps)]
        assert all(int(a) + (int(b) if sign == "+" else -int(b)) == int(c) for a, sign, b, c in steps)
        assert [c for *_, c in steps[:-1]] == [a for a, *_ in steps[1:]] and problem.answer == steps[-1][3]
        words = re.findall(r"(sold|lost|gave away|bought|found|was given)", problem.question)
        assert [word in ("sold", "lost", "gave away") for word in words] == [sign == "-" for _, sign, _, _ in steps]
        assert strict(problem.solution, problem).correct


def test_splits_share_no_sum() -> None:
    found = {
        split: {tuple(numbers(p.solution or "")) for p in problems(split=split, count=100, seed=seed)}  # type: ignore[arg-type]
        for split in SPLITS
        for seed in (0, 1)
    }
    assert not found["sft"] & found["rl"] and not found["rl"] & found["heldout"] and not found["sft"] & found["heldout"]


def test_problems_depend_on_the_seed_alone() -> None:
    first = problems(split="rl", count=20)
    assert first == problems(split="rl", count=20) and first == problems(split="rl", count=30)[:20]
    assert first != problems(split="rl", count=20, seed=1)


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        (r"data\.steps=\[\] must list", {"steps": []}),
        (r"data\.steps=\[0\] must list", {"steps": [0]}),
        (r"data\.largest=3 leaves few", {"largest": 3}),
    ],
)
def test_mistakes_get_one_sentence(said: str, arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=said):
        problems(split="rl", count=4, **arguments)  # type: ignore[arg-type]


def test_a_count_that_is_too_large_names_one_that_works() -> None:
    few = {"steps": [1], "largest": 9}
    with pytest.raises(ConfigError, match=r"^data\.count=9000 is more than.*or raise data\.largest\.$") as error:
        problems(split="rl", count=9000, **few)  # type: ignore[arg-type]
    most = re.findall(r"set data\.count=(\d+)", str(error.value))
    assert len(problems(split="rl", count=int(most[0]), **few)) == int(most[0]) > 10  # type: ignore[arg-type]
    assert problems(split="rl", count=9000, steps=[3], largest=99)
