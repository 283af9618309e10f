"""Scores answers to tasks of reasoning-gym (arXiv:2505.24760) with the task's own scorer.

`reward=reasoning_gym` grades problems of `data=reasoning_gym` (`simplerl.data.gym`). The library is optional:
pip install 'simplerl[gym]'. It is imported when a task is opened, which takes a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal

from simplerl.errors import ConfigError
from simplerl.rewards.extract import boxed_answer
from simplerl.rewards.rules import DIFFERENT, EQUAL, NO_ANSWER
from simplerl.types import Problem, Response, Score

BLOCK = 500  # items of one data set object; items of consecutive seeds are generated from consecutive seeds
RESERVED = ("seed", "size")  # options that the suite sets
CORRECT = 1 - 1e-6  # score from which an answer counts as correct


@lru_cache(maxsize=64)
def _opened(task: str, seed: int, options: str) -> Any:
    from reasoning_gym.factory import create_dataset

    return create_dataset(task, seed=seed, size=BLOCK, **json.loads(options))


def open_task(task: str, options: Mapping[str, Any], seed: int = 0, setting: Callable[[str], str] = str) -> Any:
    """Return the library's data set of BLOCK items of a task. Raises ConfigError if the library is absent, or if the
    task or one of its options is unknown or invalid. setting: returns the full key of a setting, for messages."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ConfigError(
            f"{setting('task')}={task} needs reasoning-gym, which cannot be imported ({error}): install it with pip "
            "install 'simplerl[gym]'."
        ) from error
    names = sorted(set(DATASETS) - {"composite"})
    if task not in names:
        near = get_close_matches(str(task), names, 3) or names[:3]
        raise ConfigError(
            f"{setting('task')}={task} is unknown to reasoning-gym: choose one of its {len(names)} tasks, such as "
            f"data.task={near[0]}{''.join(f' or {one}' for one in near[1:])}."
        )
    accepted = [one.name for one in fields(DATASETS[task][1]) if one.name not in RESERVED]
    for option in options:
        if option not in accepted:
            near = get_close_matches(str(option), accepted, 1)
            suggestion = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"{setting('options')}: {option} is unknown to the task {task}: {suggestion}It accepts "
                f"{', '.join(accepted) or 'no options'}."
            )
    try:
        return _opened(task, seed, json.dumps(dict(options), sort_keys=True))
    except (AssertionError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{setting('options')}={dict(options)} do not fit the task {task} ({reason.rstrip('.')}): correct them; "
            f"its defaults are {_defaults(DATASETS[task][1])}."
        ) from error


def _defaults(kind: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in asdict(kind()).items() if name not in RESERVED)


def reasoning_gym(
    response: Response,
    problem: Problem,
    *,
    answer_from: Literal["box", "tags"] = "box",
    partial_credit: bool = True,
    wrong: float = 0.0,
    no_answer: float = 0.0,
) -> Score:
    r"""Score a response by the scorer of the problem's task, which gives 0 to 1; 1 is correct.

    answer_from: where the answer is: box (the last \boxed{}) or tags (the last <answer>...</answer>, the library's own
    convention). partial_credit: give answers that are not correct the scorer's number if it is positive, such as the
    fraction of correct cells. wrong: reward of other answers that are not correct. no_answer: reward of a response
    without an answer. Raises ValueError if the problem is not of data=reasoning_gym."""
    if "gym_task" not in problem.extra:
        raise ValueError(f"problem {problem.id!r} is no task of reasoning-gym: choose data=reasoning_gym")
    answer = boxed_answer(response) if answer_from == "box" else _tagged(response)
    found = {"boxed": float(boxed_answer(response) is not None)}
    if answer is None:
        return Score(no_answer, False, NO_ANSWER, None, found)
    task = open_task(problem.extra["gym_task"], problem.extra["gym_options"])
    gold = problem.answer or None
    entry = {"question": problem.question, "answer": gold, "metadata": problem.extra["gym_metadata"]}
    points = _points(task, answer, entry)
    correct = points >= CORRECT
    reward = points if correct or (partial_credit and points > 0) else wrong
    return Score(reward, correct, EQUAL if correct else DIFFERENT, answer, {**found, "points": points})


def _points(task: Any, answer: str, entry: dict[str, Any]) -> float:
    """Return the scorer's number for an answer; 0 if it cannot read the answer, for which some scorers raise."""
    try:
        return float(task.score_answer(answer, entry))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, SyntaxError):
        return 0.0


def _tagged(response: str) -> str | None:
    from reasoning_gym.utils import extract_answer

    return extract_answer(response) or None
