"""Generates problems of reasoning-gym (arXiv:2505.24760): about a hundred kinds of tasks with their own scorers.

    python train.py data=reasoning_gym data.task=chain_sum reward=reasoning_gym evals=reasoning_gym \\
        reward@evals.reward=reasoning_gym

An item is a pure function of task, options and a number. The splits use different numbers, and since two numbers may
give the same question, a hash of the question decides to which split it belongs (as in `simplerl.data.sums`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from simplerl.data.rows import setting
from simplerl.data.sums import SPLITS, Split, split_of
from simplerl.errors import ConfigError, require
from simplerl.rewards.gym import BLOCK, open_task
from simplerl.types import Bounds, Count, Problem

NUMBERS = 1_000_000  # items of one seed and split; more are never generated
FRUITLESS = 2000  # stop after this many items in a row that are no new question of the split


def _items(task: str, options: Mapping[str, Any], split: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the items of a task from the first number of `seed` and `split` on."""
    first = (len(SPLITS) * seed + list(SPLITS).index(split)) * NUMBERS
    for start in range(first, first + NUMBERS, BLOCK):
        block = open_task(task, options, start, setting)
        yield from (block[index] for index in range(BLOCK))


def _problems(task: str, options: Mapping[str, Any], split: str, seed: int) -> Iterator[Problem]:
    """Yield different problems of a split. Ends if no new one is found among FRUITLESS items."""
    found = set[str]()
    fruitless = 0
    for item in _items(task, options, split, seed):
        question = str(item["question"]).strip()
        if question in found or split_of(question) != split:
            fruitless += 1
            if fruitless > FRUITLESS:
                return
            continue
        name, fruitless = f"gym-{task}-{split}-{seed}-{len(found)}", 0
        found.add(question)
        extra = {"gym_task": task, "gym_options": dict(options), "gym_metadata": item["metadata"]}
        answer = "" if item["answer"] is None else str(item["answer"])  # some tasks have only a scorer
        yield Problem(name, question, answer, "reasoning_gym", task, extra=extra)


def _options_of(task: str, tasks: Sequence[str], options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of one of several tasks."""
    own = options.get(task) or {}
    require(
        isinstance(own, Mapping), f"{setting('options')}.{task} is {own}, but must hold options of the task {task}."
    )
    return own  # type: ignore[no-any-return]


def problems(
    *,
    task: Any,
    split: Split,
    count: Count,
    seed: Annotated[int, Bounds(0, 1000)] = 0,
    options: Mapping[str, Any] | None = None,
) -> list[Problem]:
    """Return `count` different problems of a split: as many of each task, in turn. Their level is the task.

    split: sft and rl for training, heldout for evaluation; no question is in two of them.
    task: a task of reasoning-gym, or a list of them. options: the task's difficulty parameters; if there are several
    tasks, those of each by its name. Raises ConfigError for unknown tasks and options, and if a task has fewer
    questions."""
    tasks = [task] if isinstance(task, str) else list(task)
    given = options or {}
    require(len(tasks) > 0, f"{setting('task')} is empty: name a task, such as {setting('task')}=chain_sum.")
    if len(tasks) > 1:
        for name in given:
            require(
                name in tasks,
                f"{setting('options')}.{name} is none of the tasks {', '.join(tasks)}: write the options of each task "
                f"below its name, such as +{setting('options')}.{tasks[0]}.NAME=VALUE.",
            )
        streams = [_problems(one, _options_of(one, tasks, given), split, seed) for one in tasks]
    else:
        streams = [_problems(tasks[0], given, split, seed)]
    share = -(-count // len(tasks))
    taken = [list(itertools.islice(stream, share)) for stream in streams]
    for name, some in zip(tasks, taken, strict=True):
        if len(some) < share:
            most = len(some) * len(tasks)
            raise ConfigError(
                f"{setting('count')}={count} needs {share} different questions of the task {name}, of which "
                f"{len(some)} were found in split={split}: set {setting('count')}={most} or vary the task by its "
                "options."
            )
    return [one for turn in zip(*taken, strict=True) for one in turn][:count]
