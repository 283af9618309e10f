"""Checks the data, the tokenizer and the gold answers of a run, as far as they can be read, without loading a model."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simplerl.config import Config, ModelConfig
from simplerl.data.prompts import PromptFormat, generation_eos_ids
from simplerl.data.rows import settings_under
from simplerl.data.task import TrainingSchedule, make_schedule
from simplerl.engine.models import load_tokenizer
from simplerl.errors import ConfigError
from simplerl.io.places import spelled
from simplerl.rewards.decorations import describe_golds
from simplerl.rewards.extract import cut_at_stop
from simplerl.rewards.pool import Grader
from simplerl.types import Problem, Response

BINS, BAR = 8, 40  # of a histogram: rows, and characters of the longest bar
GOLDS = 200  # gold answers that are graded
END_NAME = re.compile(r"end|eo[tms]|/s", re.I)  # in the name of a token that ends a turn, unlike <|im_start|>


@dataclass
class Inputs:
    """Holds what `read_inputs` found about a run: token lengths of its prompts and of the data's own solutions ([]:
    unknown), the training schedule (None: unknown), and the lines to print."""

    problems: int | None = None  # usable training problems
    prompts: list[int] = field(default_factory=list)
    solutions: list[int] = field(default_factory=list)
    schedule: TrainingSchedule | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def prompt_lengths(self) -> tuple[int, float] | None:
        """Return the longest and the mean prompt; None if they are unknown."""
        return (max(self.prompts), sum(self.prompts) / len(self.prompts)) if self.prompts else None


def read_inputs(config: Config, golds: int = GOLDS) -> Inputs:
    """Read the training data and the tokenizer, grade up to `golds` gold answers, and return the results. If the data
    or the tokenizer cannot be read, the returned lines state why and the remedy."""
    found = Inputs()
    if config.algorithm.advantage is None:
        found.lines.append("no RL (algorithm=none): training data and gold answers are not read")
        return found
    problems = _problems(config, found)
    tokenizer = _tokenizer(config.model, found)
    if problems and tokenizer is not None:
        _describe_lengths(config, problems, tokenizer, found)
    elif problems:
        found.problems = len(problems)
    if problems:
        with _noted(found, "schedule"):
            found.schedule = make_schedule(config, found.problems or len(problems))
            found.lines.insert(0, str(found.schedule))
        found.lines += describe_golds(problems)
        found.lines.append(_graded_golds(config, problems, golds))
    if found.schedule is None:
        train = config.train
        rollouts = train.prompts_per_step * train.samples_per_prompt
        found.lines.insert(
            0,
            f"{train.prompts_per_step} prompts x {train.samples_per_prompt} samples = {rollouts} responses a step; "
            f"{rollouts} / {train.minibatch_size} a minibatch x {train.epochs} epoch(s) = "
            f"{rollouts // train.minibatch_size * train.epochs} optimizer steps a step.",
        )
    return found


@contextmanager
def _noted(found: Inputs, what: str) -> Any:
    """Turn a ConfigError raised in the block into a line that says that `what` was not checked, and why."""
    try:
        yield
    except ConfigError as error:
        found.lines.append(f"{what} not checked: {error}")


def _problems(config: Config, found: Inputs) -> list[Problem]:
    problems: list[Problem] = []
    with _noted(found, "data"), settings_under("data"):
        logging.disable(logging.INFO)
        try:
            problems = list(config.data())
        finally:
            logging.disable(logging.NOTSET)
    return problems


def _tokenizer(model: ModelConfig, found: Inputs) -> Any:
    """Return the tokenizer if it is in a local folder or in the cache; otherwise add a line that says so and return
    None."""
    from huggingface_hub import try_to_load_from_cache

    local = Path(model.path).is_dir()
    if not local and not isinstance(try_to_load_from_cache(model.path, "tokenizer_config.json"), str):
        found.lines.append(
            f"prompt lengths and stop tokens not checked: the tokenizer of {model.path} is neither in a local folder "
            f"nor in the cache: hf download {model.path} --include '*token*' config.json"
        )
        return None
    with _noted(found, "tokenizer"):
        return load_tokenizer(model)
    return None


def _describe_lengths(config: Config, problems: Sequence[Problem], tokenizer: Any, found: Inputs) -> None:
    """Record in `found` the number of problems whose prompts fit prompt.max_tokens and the token lengths of these
    prompts ([prompt.max_tokens] if none fits) and of the solutions. Adds lines that compare all lengths with their
    limits and list the stop tokens."""
    found.problems = len(problems)
    with _noted(found, "prompts"):
        format = PromptFormat(config.prompt, tokenizer, generation_eos_ids(config.model.path, config.model.revision))
        lengths = [len(prompt.token_ids) for prompt in format.render_all(list(problems))]
        limit = config.prompt.max_tokens
        found.prompts = [length for length in lengths if length <= limit] or [limit]
        found.problems = sum(length <= limit for length in lengths)
        found.lines += histogram("prompt tokens", lengths, limit, "prompt.max_tokens")
        solved = [problem.solution for problem in problems if problem.solution]
        if solved:
            found.solutions = [len(tokenizer.encode(text, add_special_tokens=False)) for text in solved]
            limit = config.sampling.max_new_tokens
            found.lines += histogram("solution tokens", found.solutions, limit, "sampling.max_new_tokens")
        else:
            found.lines.append("solution lengths not shown: the data has no solutions, only answers")
        found.lines += _stop_lines(format, tokenizer, format.text(problems[0]))


def histogram(title: str, lengths: Sequence[int], limit: int, key: str) -> list[str]:
    """Return the lines of a histogram of lengths in tokens; the first one has the quantiles and the number of texts
    longer than `limit`, the value of the setting `key`."""
    ordered = sorted(lengths)
    low, high = ordered[0], ordered[-1]
    width = max(1, -(-(high - low + 1) // BINS))
    counts = [sum(start <= length < start + width for length in ordered) for start in range(low, high + 1, width)]
    over = sum(length > limit for length in ordered)
    middle, late = ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))]
    lines = [f"{title}: {len(ordered)} texts, median {middle}, 95 % {late}, longest {high}; {over} over {key}={limit}"]
    for number, count in enumerate(counts):
        start = low + number * width
        bar = "#" * round(BAR * count / max(counts))
        lines.append(f"  {start:>6}-{start + width - 1:<6} {count:>6} {bar}")
    return lines


def _stop_lines(format: PromptFormat, tokenizer: Any, prompt: str) -> list[str]:
    """Return the tokens that end a response, and a warning about an end token of the prompt that is not among them."""
    names = tokenizer.convert_ids_to_tokens(list(format.stop.ids))
    strings = f"; stop strings {', '.join(map(repr, format.stop.strings))}" if format.stop.strings else ""
    lines = [f"a response ends with {', '.join(map(repr, names))}{strings}"]
    ends = [name for name in tokenizer.all_special_tokens if cut_at_stop(name) == "" and END_NAME.search(name)]
    absent = [name for name in ends if name in prompt and name not in {*names, *format.stop.strings}]
    if absent:
        lines.append(
            f"warning: {', '.join(map(repr, absent))} ends a turn of the prompt, but not a response: add it to "
            "prompt.stop_tokens"
        )
    return lines


def _graded_golds(config: Config, problems: Sequence[Problem], limit: int) -> str:
    """Return how many gold answers, written in a box, the run's reward does not accept."""
    distinct = list({problem.answer: problem for problem in problems}.values())
    distinct = distinct[:: max(1, len(distinct) // limit)][:limit]
    with Grader(config.reward, **vars(config.grading)) as grader:
        scores = grader.grade_pairs((Response(f"\\boxed{{{one.answer}}}"), one) for one in distinct)
    missed = [one for one, score in zip(distinct, scores, strict=True) if not score.correct]
    if not missed:
        return f"gold answers: all of {len(distinct)} distinct ones that were tried are graded as correct in a box"
    shown = ", ".join(repr(one.answer) for one in missed[:3])
    return (
        f"gold answers: {len(missed)} of {len(distinct)} distinct ones that were tried are not graded as correct in a "
        f"box, such as {shown}: even a correct answer gets no reward for them ({spelled('audit')} golds FILE)"
    )
