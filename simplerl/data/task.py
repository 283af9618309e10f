"""Prepare and check everything a run needs besides model weights: tokenizer, prompts, number of steps, documents."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simplerl.config import Config, ModelConfig, PromptConfig, ScheduleLength, TooLong
from simplerl.data.difficulty import check_start
from simplerl.data.lengths import check_context, check_documents, check_evals
from simplerl.data.prompts import PromptFormat, generation_eos_ids, prepare_prompts, without_surrogates
from simplerl.data.rows import settings_under
from simplerl.engine.batching import permutation
from simplerl.engine.models import context_length, load_hf_config, load_tokenizer, model_at
from simplerl.errors import ConfigError, require
from simplerl.rewards.pool import Grader, check_reward, made_up_response
from simplerl.types import Problem, Prompt, Sampling

logger = logging.getLogger(__name__)

TOY_SOURCE = "micro"  # `Problem.source` of the micro world
MAX_TOY_VOCABULARY = 1000  # tokens; a larger tokenizer belongs to a real model


@dataclass(frozen=True)
class TrainingSchedule:
    """Holds the numbers of prompts, rollouts and optimizer steps of RL."""

    prompts: int  # usable training problems
    prompts_per_step: int
    samples_per_prompt: int
    minibatch_size: int  # responses per optimizer step
    epochs: int  # passes over the responses of a step
    steps: int  # rollout steps
    passes: float | None = None  # passes over which learning rates are scheduled; None: schedule over `steps`

    @property
    def rollouts(self) -> int:
        return self.prompts_per_step * self.samples_per_prompt

    @property
    def updates_per_step(self) -> int:
        return self.rollouts // self.minibatch_size * self.epochs

    @property
    def optimizer_steps(self) -> int:
        return self.steps * self.updates_per_step

    @property
    def scheduled_steps(self) -> int:
        """Return the number of optimizer steps over which learning rates are scheduled."""
        if self.passes is None:
            return self.optimizer_steps
        return int(self.passes * (self.prompts * self.samples_per_prompt // self.minibatch_size) * self.epochs + 1e-9)

    @property
    def steps_per_pass(self) -> int:
        return self.prompts // self.prompts_per_step

    def __str__(self) -> str:
        passes = self.steps / self.steps_per_pass
        return (
            f"{self.prompts_per_step} prompts x {self.samples_per_prompt} samples = {self.rollouts} responses a step; "
            f"{self.rollouts} responses / {self.minibatch_size} a minibatch x {self.epochs} epoch(s) = "
            f"{self.updates_per_step} optimizer steps a step; {self.steps} steps = {self.optimizer_steps} optimizer "
            f"steps = {passes:.3g} passes over {self.prompts} problems ({self.steps_per_pass} steps each, "
            f"{self.prompts % self.prompts_per_step} problems left over in each pass)."
        )

    def problems_at(self, step: int, seed: int) -> list[int]:
        """Return the indices of the problems of a rollout step. Each pass over the data has its own permutation; its
        last partial step is dropped, as published."""
        epoch, position = divmod(step, self.steps_per_pass)
        order = permutation("problems", [seed, epoch], self.prompts)
        start = position * self.prompts_per_step
        return order[start : start + self.prompts_per_step]


@dataclass(frozen=True)
class EvalSets:
    """Holds the rendered evaluation sets of a run, with prompt format and sampling parameters."""

    prompts: dict[str, list[Prompt]]
    format: PromptFormat
    sampling: Sampling
    # Ids of problems whose prompt leaves no room for a response. They are not sampled: they get an empty response or,
    # if `excludes_too_long`, are not in `prompts`.
    too_long: dict[str, list[str]] = field(default_factory=dict)
    excludes_too_long: bool = False


@dataclass(frozen=True)
class Task:
    """Holds everything that a run needs besides model weights."""

    tokenizer: Any
    format: PromptFormat
    sampling: Sampling
    prompts: list[Prompt]
    evals: EvalSets
    documents: list[tuple[tuple[int, ...], tuple[int, ...]]]  # SFT: prompt and response tokens
    schedule: TrainingSchedule | None  # None: no RL
    seed: int

    def prompts_at(self, step: int) -> list[Prompt]:
        """Return the training prompts of a rollout step."""
        assert self.schedule is not None
        return [self.prompts[i] for i in self.schedule.problems_at(step, self.seed)]


def prepare_task(config: Config) -> Task:
    """Load the tokenizer and the data, and render the prompts. Raises ConfigError for settings that do not fit them;
    quick checks come first."""
    check_model_available(config.model)
    tokenizer = load_tokenizer(config.model)
    _check_role_tokenizers(config, tokenizer)
    context = context_length(config.model, load_hf_config(config.model))
    format = _format(config.prompt, config.model, tokenizer)
    sampling = Sampling(**vars(config.sampling))
    uses_rl = config.algorithm.advantage is not None
    if uses_rl:
        check_context(config, context)
    evals = prepare_evals(config, tokenizer, context)
    prompts: list[Prompt] = []
    schedule = None
    if uses_rl:
        prompts = training_prompts(config, format, context)
        check_start(config.algorithm.rollouts, prompts)
        schedule = make_schedule(config, len(prompts))
        logger.info("%s", schedule)
        _warn_about_overlap(prompts, evals)
    warn_about_toy_questions(config, len(tokenizer), prompts, evals)
    check_rewards(config, tokenizer, prompts, evals)
    return Task(
        tokenizer=tokenizer,
        format=format,
        sampling=sampling,
        prompts=prompts,
        evals=evals,
        documents=_warmup_documents(config, tokenizer, context) if config.warmup.data is not None else [],
        schedule=schedule,
        seed=config.seed,
    )


def training_prompts(config: Config, format: PromptFormat, context: int) -> list[Prompt]:
    """Load and render the problems of `data`, and log how many prompts are kept and dropped. Raises ConfigError if none
    is left, or if ids are not unique."""
    with settings_under("data"):
        prompts, counts = prepare_prompts(config.data(), format, context, config.sampling.max_new_tokens)
    logger.info("training prompts: %s", ", ".join(f"{v} {k}" for k, v in counts.items()))
    _check_unique_ids("data", prompts)
    return prompts


def check_rewards(config: Config, tokenizer: Any, prompts: Sequence[Prompt], evals: EvalSets) -> None:
    """Call the rewards of training and of evaluations once, on a made-up response to their first problem. Raises
    ConfigError if one of them does not return a usable score."""
    questions = [prompt for some in evals.prompts.values() for prompt in some]
    own = [*prompts, *(questions if config.evals.reward is None else [])]  # the problems that config.reward grades
    for reward, asked in ((config.reward, own), (config.evals.reward, questions)):
        if reward is not None and asked:
            problem, grading = asked[0].problem, config.grading
            tokens = tokenizer.encode(made_up_response(problem), add_special_tokens=False)
            check_reward(reward, problem, tokens, grading.seconds_per_answer, grading.memory_gib)


def _check_role_tokenizers(config: Config, tokenizer: Any) -> None:
    """Raise ConfigError if a role's model has a different vocabulary than the policy, whose tokens it reads."""
    for name, role in config.algorithm.roles.items():
        if role.model is None:
            continue
        model = model_at(config.model, role.model)
        check_model_available(model, f"algorithm.roles.{name}.model")
        if load_tokenizer(model).get_vocab() != tokenizer.get_vocab():
            raise ConfigError(
                f"algorithm.roles.{name}.model={role.model} has another vocabulary than "
                f"model.path={config.model.path}: choose a model of the same family."
            )


def _check_unique_ids(key: str, prompts: Sequence[Prompt]) -> None:
    """Raise ConfigError if two problems have the same id, by which samples are grouped and seeded."""
    counts = Counter(prompt.problem.id for prompt in prompts)
    if len(counts) < len(prompts):
        id, count = counts.most_common(1)[0]
        raise ConfigError(f"{key}: {count} problems have the id {id!r}, by which samples are grouped: make ids unique.")


def _format(prompt: PromptConfig, model: ModelConfig, tokenizer: Any, key: str = "prompt") -> PromptFormat:
    return PromptFormat(prompt, tokenizer, generation_eos_ids(model.path, model.revision), key)


def warn_about_toy_questions(config: Config, vocabulary: int, prompts: Sequence[Prompt], evals: EvalSets) -> None:
    """Log a warning if a model other than the micro model uses the default micro-world data or evaluations."""
    sets = {"data": prompts} | {f"evals.sets.{name}": one for name, one in evals.prompts.items()}
    toys = [key for key, some in sets.items() if some and some[0].problem.source == TOY_SOURCE]
    if toys and vocabulary > MAX_TOY_VOCABULARY:
        logger.warning(
            "%s: still the micro-world default, on which %s was not trained: choose data=... and evals=...",
            " and ".join(toys),
            config.model.path,
        )


def _warn_about_overlap(prompts: Sequence[Prompt], evals: EvalSets) -> None:
    """Log a warning about evaluation questions that are also training questions, up to whitespace."""
    training = {" ".join(prompt.problem.question.split()) for prompt in prompts}
    for name, some in evals.prompts.items():
        overlap = sum(" ".join(prompt.problem.question.split()) in training for prompt in some)
        if overlap:
            logger.warning("evals.sets.%s: %d of %d questions are also training questions", name, overlap, len(some))


def check_model_available(model: ModelConfig, key: str = "model.path") -> None:
    """Raise ConfigError if the model is neither a local folder nor cached and the Hub cannot be reached; transformers
    would retry for most of a minute."""
    if Path(model.path).is_dir():
        return
    from huggingface_hub import constants, get_session, try_to_load_from_cache

    try:
        if isinstance(try_to_load_from_cache(model.path, "config.json", revision=model.revision), str):
            return
        if not constants.HF_HUB_OFFLINE:
            get_session().head(constants.ENDPOINT, timeout=5)
            return
        reason = "HF_HUB_OFFLINE is set"
    except Exception as error:  # any network error, or an invalid Hub id
        reason = str(error).strip().splitlines()[0]
    raise ConfigError(
        f"{key}={model.path} is neither a local folder (relative paths start at {Path.cwd()}) nor in the Hugging "
        f"Face cache, and the Hub cannot be reached ({reason}): correct the path, or download the model first."
    )


def prepare_evals(config: Config, tokenizer: Any, context: int) -> EvalSets:
    """Load and render the evaluation sets. Raises ConfigError if no prompt of a set leaves room for a response."""
    key = "prompt" if config.evals.prompt is None else "evals.prompt"
    format = _format(config.evals.prompt or config.prompt, config.model, tokenizer, key)
    sampling = Sampling(**vars(config.evals.sampling))
    prompts, too_long = {}, dict[str, list[str]]()
    excludes = config.evals.too_long is TooLong.exclude
    sets = dict[str, list[Prompt]]()
    for name, source in config.evals.sets.items():
        with settings_under(f"evals.sets.{name}"):
            sets[name] = format.render_all(source()[: config.evals.limit])
        _check_unique_ids(f"evals.sets.{name}", sets[name])

    def lengths(format: PromptFormat | None = None) -> dict[str, list[int]]:
        """Return the lengths of the prompts, rendered by another format if it is given."""
        items = sets.items()
        some = {n: one if format is None else format.render_all([p.problem for p in one]) for n, one in items}
        return {name: [len(prompt.token_ids) for prompt in one] for name, one in some.items()}

    check_evals(config, context, lengths(), lambda: lengths(format.without_shots()))
    limit = context - sampling.max_new_tokens
    for name, rendered in sets.items():
        too_long[name] = [one.problem.id for one in rendered if len(one.token_ids) > limit]
        if too_long[name]:
            fate = "are excluded" if excludes else "count as wrong; evals.too_long=exclude leaves them out"
            message = "evals.sets.%s: %d of %d prompts leave no room for a response and %s"
            logger.warning(message, name, len(too_long[name]), len(rendered), fate)
        prompts[name] = [one for one in rendered if not excludes or len(one.token_ids) <= limit]
    return EvalSets(prompts, format, sampling, too_long, excludes)


def make_schedule(config: Config, prompts: int) -> TrainingSchedule:
    """Return the batch arithmetic of RL on `prompts` usable problems. Raises ConfigError if they are too few."""
    train = config.train
    steps_per_pass = prompts // train.prompts_per_step
    if steps_per_pass == 0:
        raise ConfigError(
            f"train.prompts_per_step={train.prompts_per_step} exceeds the {prompts} usable problems of data: lower it "
            "or choose more data."
        )
    # In floating point, 0.29 * 100 is less than 29.
    steps = train.steps if train.steps is not None else int((train.passes or 0) * steps_per_pass + 1e-9)
    if steps < 1:
        raise ConfigError(
            f"train.passes={train.passes} is less than one step of {train.prompts_per_step} prompts: raise it, such as "
            "train.passes=1."
        )
    passes = train.passes if train.schedule_length is ScheduleLength.passes else None
    sizes = train.prompts_per_step, train.samples_per_prompt, train.minibatch_size, train.epochs
    return TrainingSchedule(prompts, *sizes, steps, passes)


def _warmup_documents(config: Config, tokenizer: Any, context: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return prompt and response tokens of the warm-up's documents. Documents that are too long are dropped and counted
    in the log, and so are, with warmup.correct_only, incorrect ones."""
    key = "prompt" if config.warmup.prompt is None else "warmup.prompt"
    format = _format(config.warmup.prompt or config.prompt, config.model, tokenizer, key)
    with settings_under(_warmup_key(config)):
        return _documents(config, format, context)


def _warmup_key(config: Config) -> str:
    """Return the key of the warm-up's data: `data` if it is the training data (warmup=own_solutions)."""
    return (
        "data" if getattr(config.warmup.data, "keywords", 0) == getattr(config.data, "keywords", 1) else "warmup.data"
    )


def _documents(config: Config, format: PromptFormat, context: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Load the warm-up's problems and return the documents that are short enough, only those graded as correct with
    warmup.correct_only. Raises ConfigError if there are fewer than a minibatch."""
    documents = []
    limit = min(context, config.warmup.max_tokens)
    problems: Sequence[Problem] = without_surrogates(config.warmup.data()[: config.warmup.limit])
    if config.warmup.correct_only:
        with Grader(config.reward, **vars(config.grading)) as grader:
            scores = grader.grade_pairs((format.response(problem), problem) for problem in problems)
        correct = [problem for problem, score in zip(problems, scores, strict=True) if score.correct]
        logger.info("warm-up: kept %d of %d solutions, which are correct", len(correct), len(problems))
        require(bool(correct), "No solution of the warm-up is graded as correct: set warmup.correct_only=false.")
        problems = correct
    lengths = []
    for problem in problems:
        prompt, response = format.document(problem)
        lengths.append(len(prompt.token_ids) + len(response))
        if lengths[-1] <= limit:
            documents.append((prompt.token_ids, response))
    logger.info(
        "warm-up: %d documents; dropped %d over %d tokens", len(documents), len(problems) - len(documents), limit
    )
    check_documents(config, lengths, limit, context)
    if len(documents) < config.warmup.minibatch_size:
        raise ConfigError(
            f"warmup.minibatch_size={config.warmup.minibatch_size} exceeds the {len(documents)} usable documents: "
            f"lower it, such as warmup.minibatch_size={max(len(documents), 1)}, or choose more data."
        )
    return documents
