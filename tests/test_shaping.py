"""Group stages: rewards that depend on the other responses of a step."""

from __future__ import annotations

import pytest

from simplerl.algorithms.shaping import kimi_length, mask_truncated, soft_overlong
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Problem, Prompt, Rollout, Score, score_of


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


def test_soft_overlong() -> None:
    """0 | (L_max - L_cache - len) / L_cache | -1 with L_max 20 and a cache of 4."""
    shaped = soft_overlong([rollout("a", n) for n in (1, 16, 17, 19, 20, 25)], max_length=20, buffer=4)
    assert [score_of(one).reward for one in shaped] == pytest.approx([1.0, 1.0, 0.75, 0.25, 0.0, 0.0])


def test_truncated_responses_leave_the_loss_but_not_the_group() -> None:
    rollouts = [rollout("a", 4), rollout("a", 4, False, FINISH_LENGTH)]
    shaped = mask_truncated(rollouts)
    assert [one.trained for one in shaped] == [True, False]
    assert [one.score for one in shaped] == [one.score for one in rollouts]
