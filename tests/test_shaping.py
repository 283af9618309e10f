"""Group stages: rewards that depend on the other responses of a step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simplerl.algorithms import shaping
from simplerl.algorithms.shaping import (
    cosine_length,
    forced_eos,
    kimi_length,
    mask_truncated,
    repetition,
    soft_overlong,
)
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


def test_cosine_length() -> None:
    """The ends and the middle of half a cosine: correct 2 to 1, wrong -10 to 0, truncated -10."""
    rollouts = [rollout("a", n, correct) for correct in (True, False) for n in (0, 10, 20)]
    shaped = cosine_length([*rollouts, rollout("a", 20, True, FINISH_LENGTH)], max_length=20)
    assert [score_of(one).reward for one in shaped] == pytest.approx([2.0, 1.5, 1.0, -10.0, -5.0, 0.0, -10.0])
    assert shaped[0].score is not None and shaped[0].score.correct


def test_repetition() -> None:
    """A response of 7 equal tokens has 6 bigrams, 5 of which repeat the first."""
    different = replace(rollout("a", 7), token_ids=tuple(range(7)))
    shaped = repetition([rollout("a", 7), different, rollout("a", 1)], ngram=2, penalty=0.6)
    assert [score_of(one).parts["repetition"] for one in shaped] == pytest.approx([-0.5, 0.0, 0.0])


def test_forced_eos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two: the longest loses its last token, the shorter gains one; what ends properly stays."""
    ended = replace(rollout("a", 5), token_ids=(7, 7, 7, 7, 0))
    monkeypatch.setattr(shaping, "_eos_token_id", lambda model: 0)
    first, second, third, fourth, fifth = forced_eos(
        [rollout("a", 3), rollout("a", 5), ended, rollout("a", 2), rollout("a", 4)], model=""
    )
    assert first.token_ids == (7, 7, 7, 0) and len(first.logprobs) == 4
    assert second.token_ids == (7, 7, 7, 7, 0) and len(second.logprobs) == 5
    assert third == ended
    assert fourth.token_ids == (7, 7, 0) and fifth.token_ids == (7, 7, 7, 0)
