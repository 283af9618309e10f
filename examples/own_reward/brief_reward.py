"""A reward that pays less for a correct answer beyond a budget of tokens."""

from dataclasses import replace

from simplerl.rewards import strict
from simplerl.types import Problem, Response, Score


def brief(response: Response, problem: Problem, *, budget: int = 60, wrong: float = -0.5) -> Score:
    """Score a response by the published rule, and halve the reward of a correct one with more than `budget` tokens.
    wrong: reward of a wrong boxed answer, and of an answer whose grading does not finish."""
    score = strict(response, problem, wrong=wrong)
    length = len(response.tokens) or len(response.split())
    is_brief = length <= budget
    reward = score.reward if is_brief or not score.correct else score.reward / 2
    return replace(score, reward=reward, parts={"brief": float(is_brief)})
