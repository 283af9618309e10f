"""Group stages: rewards that depend on the other responses of a step."""

from __future__ import annotations

import pytest

from simplerl.algorithms.shaping import kimi_length
from simplerl.types import FINISH_STOP, Problem, Prompt, Rollout, Score, score_of


def rollout(problem: str, length: int, correct: bool = True, finish: str = FINISH_STOP) -> Rollout:
    prompt = Prompt(Problem(problem, "?", "1"), "?", (1,))
    score = Score(1.0 if correct else -0.5, correct, "equal" if correct else "different")
    return Rollout(prompt, 0, "x" * length, (7,) * length, (-0.1,) * length, finish, score)


def test_kimi_length() -> None:
    """lambda = 0.5 - (len - min) / (max - min) by hand; wrong answers never earn, only lose."""
    rollouts = [rollout("a", 10), rollout("a", 20), rollout("a", 30), rollout("a", 10, False), rollout("a", 30, False)]
    rollouts += [rollout("b", 5), rollout("b", 5, False)]  # all equally long: nothing to reward
    shaped = kimi_length(rollouts, weight=2.0)
    added = [score_of(new).reward - score_of(old).reward for new, old in zip(shaped, rollouts, strict=True)]
    assert added == pytest.approx([1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 0.0])
    assert [score_of(one).parts["length_reward"] for one in shaped] == pytest.approx(added)
    assert [score_of(one).correct for one in shaped] == [score_of(one).correct for one in rollouts]
