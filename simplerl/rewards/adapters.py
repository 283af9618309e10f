"""Adapts reward functions that were written for TRL or verl: `reward=trl reward.function=my_module.my_reward`.

The function runs unchanged, on one response at a time. Columns of the data that `Problem` has no field for come from
`Problem.extra`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from simplerl.errors import ConfigError
from simplerl.types import Problem, Response


def trl(response: Response, problem: Problem, *, function: str, conversational: bool = False) -> Any:
    """Call a TRL reward function, (completions, **columns) -> one number per completion, and return its number.

    function: its dotted name. Each parameter that it declares gets a list of one item: prompts (the bare question),
    completions, completion_ids, or a column of the problem (question, answer, solution, source, level, id or one of
    `Problem.extra`). conversational: completions and prompts are lists of messages, as in TRL's conversational data
    sets. Raises TypeError if it does not return a list of one number.
    """
    call = _find(function)
    text, prompt = str(response), problem.question
    arguments: dict[str, Any] = _columns(problem) | {
        "prompts": [{"role": "user", "content": prompt}] if conversational else prompt,
        "completions": [{"role": "assistant", "content": text}] if conversational else text,
        "completion_ids": list(response.tokens),
    }
    rewards = call(**{name: [arguments[name]] for name in _accepted(call, tuple(arguments))})
    if not isinstance(rewards, list | tuple) or len(rewards) != 1:
        raise TypeError(f"{function} returned {rewards!r} for one completion: return a list with one number for each")
    return rewards[0]


def verl(response: Response, problem: Problem, *, function: str) -> Any:
    """Call a verl reward function, (data_source, solution_str, ground_truth, extra_info) -> a number or a dict, and
    return its score.

    function: its dotted name. `Problem.source` is the data source; extra_info has the question and `Problem.extra`. In
    a dict, "score" is the reward, "acc" tells whether the answer is correct (if absent: a positive score), "pred" is
    the extracted answer, and other numbers become parts of the score.
    """
    extra = {"question": problem.question} | problem.extra
    result = _find(function)(
        data_source=problem.source, solution_str=str(response), ground_truth=problem.answer, extra_info=extra
    )
    if not isinstance(result, Mapping):
        return result
    fields = dict(result)
    names = {"score": "reward", "acc": "correct", "pred": "extracted"}
    score: dict[str, Any] = {ours: fields.pop(theirs) for theirs, ours in names.items() if theirs in fields}
    return {**score, "parts": {name: value for name, value in fields.items() if isinstance(value, int | float)}}


def _columns(problem: Problem) -> dict[str, Any]:
    return {name: value for name, value in vars(problem).items() if name != "extra"} | problem.extra


@lru_cache(maxsize=8)
def _find(function: str) -> Callable[..., Any]:
    """Import a function by its dotted name. Raises ConfigError if it cannot be imported or is not callable."""
    module, _, name = function.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"reward.function={function} cannot be imported ({error}): give the dotted name of a function in a module "
            "that is importable from where you run"
        ) from error
    if not callable(found):
        raise ConfigError(f"reward.function={function} is not a function: give the dotted name of one")
    return found  # type: ignore[no-any-return]


@lru_cache(maxsize=8)
def _accepted(call: Callable[..., Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that are parameters of a function; all `names` if it has **keywords."""
    parameters = inspect.signature(call).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return names
    known = {parameter.name for parameter in parameters}
    return tuple(name for name in names if name in known)
