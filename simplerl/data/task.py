"""What a run will do, made and checked before any model's weights load: tokenizer, prompts, arithmetic."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simplerl.config import Config, ModelConfig, PromptConfig
from simplerl.data.prompts import PromptFormat, generation_eos_ids, prepare_prompts
from simplerl.engine.batching import permutation
from simplerl.engine.models import context_of, load_hf_config, load_tokenizer, model_at
from simplerl.errors import ConfigError
from simplerl.rewards.pool import Grader
from simplerl.types import Problem, Prompt, Sampling

logger = logging.getLogger(__name__)

LARGEST_TOY, TOY_SOURCE = 1000, "micro"  # tokens of a vocabulary, and the source of the micro world's problems


@dataclass(frozen=True)
class Arithmetic:
    """How prompts become optimizer steps."""

    prompts: int  # usable problems
    prompts_per_step: int
    samples_per_prompt: int
    minibatch_size: int
    epochs: int
    steps: int  # rollout steps

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
        """Indices of the problems of a rollout step: each pass is a permutation of its own, and what is left
        over at its end is dropped, as published."""
        epoch, position = divmod(step, self.steps_per_pass)
        order = permutation("problems", [seed, epoch], self.prompts)
        start = position * self.prompts_per_step
        return order[start : start + self.prompts_per_step]


@dataclass(frozen=True)
class EvalSets:
    """The benchmarks of a run, rendered, with the rules that they are sampled under."""

    prompts: dict[str, list[Prompt]]
    format: PromptFormat
    sampling: Sampling
    # ids of the problems that could not be asked, reported beside each accuracy
    too_long: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    tokenizer: Any
    format: PromptFormat
    sampling: Sampling
    prompts: list[Prompt]
    evals: EvalSets
    documents: list[tuple[tuple[int, ...], tuple[int, ...]]]  # SFT: prompt and response tokens
    arithmetic: Arithmetic | None  # None: no RL
    seed: int

    def prompts_at(self, step: int) -> list[Prompt]:
        assert self.arithmetic is not None
        return [self.prompts[i] for i in self.arithmetic.problems_at(step, self.seed)]


def prepare(config: Config) -> Task:
    """Raises ConfigError for whatever can be refused without weights, the quick checks first."""
    require_model(config.model)
    tokenizer = load_tokenizer(config.model)
    _check_role_tokenizers(config, tokenizer)
    context = context_of(config.model, load_hf_config(config.model))
    format = _format(config.prompt, config.model, tokenizer)
    sampling = Sampling(**vars(config.sampling))
    reinforced = config.algorithm.advantage is not None
    if reinforced:
        _check_room(config, context)
    evals = prepare_evals(config, tokenizer, context)
    prompts: list[Prompt] = []
    arithmetic = None
    if reinforced:
        prompts, counts = prepare_prompts(config.data(), format, context, sampling.max_new_tokens)
        logger.info("training prompts: %s", ", ".join(f"{v} {k}" for k, v in counts.items()))
        _check_ids("data", prompts)
        arithmetic = _arithmetic(config, len(prompts))
        logger.info("%s", arithmetic)
        _report_overlap(prompts, evals)
    _report_toy_questions(config, len(tokenizer), prompts, evals)
    return Task(
        tokenizer=tokenizer,
        format=format,
        sampling=sampling,
        prompts=prompts,
        evals=evals,
        documents=_documents(config, tokenizer, context) if config.warmup.data is not None else [],
        arithmetic=arithmetic,
        seed=config.seed,
    )


def _check_role_tokenizers(config: Config, tokenizer: Any) -> None:
    """A role with a model of its own reads the policy's tokens, so its vocabulary must be the same."""
    for name, role in config.algorithm.roles.items():
        if role.model is None:
            continue
        model = model_at(config.model, role.model)
        require_model(model)
        if load_tokenizer(model).get_vocab() != tokenizer.get_vocab():
            raise ConfigError(
                f"algorithm.roles.{name}.model={role.model} has another vocabulary than "
                f"model.path={config.model.path}, whose tokens it would have to read: choose "
                "a model of the same family."
            )


def _check_ids(place: str, prompts: Sequence[Prompt]) -> None:
    """Samples are grouped and seeded by the problem's id, which a data function of one's own may repeat."""
    counts = Counter(prompt.problem.id for prompt in prompts)
    if len(counts) < len(prompts):
        id, count = counts.most_common(1)[0]
        raise ConfigError(
            f"{place}: {count} problems have the id {id!r}, by which samples are grouped: make ids unique."
        )


def _format(prompt: PromptConfig, model: ModelConfig, tokenizer: Any) -> PromptFormat:
    return PromptFormat(prompt, tokenizer, generation_eos_ids(model.path, model.revision))


def _report_toy_questions(config: Config, vocabulary: int, prompts: Sequence[Prompt], evals: EvalSets) -> None:
    """Warn where a real model is still asked the questions of the default run."""
    asked = {"data": prompts} | {f"evals.sets.{name}": one for name, one in evals.prompts.items()}
    toys = [key for key, some in asked.items() if some and some[0].problem.source == TOY_SOURCE]
    if toys and vocabulary > LARGEST_TOY:
        logger.warning(
            "%s: still the arithmetic of the micro world, which %s was not trained on: choose data=... and evals=...",
            " and ".join(toys),
            config.model.path,
        )


def _report_overlap(prompts: Sequence[Prompt], evals: EvalSets) -> None:
    """Training questions that are also asked in an evaluation."""
    trained = {" ".join(prompt.problem.question.split()) for prompt in prompts}
    for name, asked in evals.prompts.items():
        both = sum(" ".join(prompt.problem.question.split()) in trained for prompt in asked)
        if both:
            logger.warning("evals.%s: %d of its %d questions are training questions too", name, both, len(asked))


def require_model(model: ModelConfig) -> None:
    """A hub id that is not in the cache, with no hub to ask, would otherwise be retried for most of a minute."""
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
    except Exception as error:  # whatever the network layer of the day raises, and ids that are none
        reason = str(error).strip().splitlines()[0]
    raise ConfigError(
        f"model.path={model.path} is neither a folder here (relative paths start at {Path.cwd()}) nor in the cache "
        f"of the Hugging Face Hub, which cannot be asked ({reason})."
    )


def _check_room(config: Config, context: int) -> None:
    """The longest allowed prompt and response must fit together: prompts that do not would be dropped."""
    prompt, response = config.prompt.max_tokens, config.sampling.max_new_tokens
    if prompt + response > context:
        raise ConfigError(
            f"prompt.max_tokens={prompt} + sampling.max_new_tokens={response} = {prompt + response} tokens is over the "
            f"{context} that {config.model.path} takes: lower one of them{_or_raise_context(config.model)}."
        )


def _or_raise_context(model: ModelConfig) -> str:
    return "" if model.context is None else f", or raise model.context={model.context}"


def prepare_evals(config: Config, tokenizer: Any, context: int) -> EvalSets:
    format = _format(config.evals.prompt or config.prompt, config.model, tokenizer)
    sampling = Sampling(**vars(config.evals.sampling))
    prompts, too_long = {}, {}
    if config.evals.sets and sampling.max_new_tokens >= context:
        raise ConfigError(
            f"evals.sampling.max_new_tokens={sampling.max_new_tokens} leaves no room for a prompt in the {context} "
            f"tokens that {config.model.path} takes: lower it{_or_raise_context(config.model)}."
        )
    for name, source in config.evals.sets.items():
        problems: Sequence[Problem] = source()[: config.evals.limit]
        prompts[name], _ = prepare_prompts(problems, format, context, sampling.max_new_tokens)
        _check_ids(f"evals.sets.{name}", prompts[name])
        asked = {prompt.problem.id for prompt in prompts[name]}
        too_long[name] = [problem.id for problem in problems if problem.id not in asked]
        if too_long[name]:
            logger.warning("evals.%s: %d prompts are too long and left out", name, len(too_long[name]))
    return EvalSets(prompts, format, sampling, too_long)


def _arithmetic(config: Config, prompts: int) -> Arithmetic:
    train = config.train
    steps_per_pass = prompts // train.prompts_per_step
    if steps_per_pass == 0:
        raise ConfigError(
            f"train.prompts_per_step={train.prompts_per_step} is more than the {prompts} usable problems of data: "
            "lower it or take more data."
        )
    steps = (
        train.steps if train.steps is not None else int((train.passes or 0) * steps_per_pass + 1e-9)
    )  # 0.29 * 100 is a little under 29
    if steps < 1:
        raise ConfigError(
            f"train.passes={train.passes} makes no whole step of {train.prompts_per_step} prompts: raise it."
        )
    return Arithmetic(
        prompts, train.prompts_per_step, train.samples_per_prompt, train.minibatch_size, train.epochs, steps
    )


def _documents(config: Config, tokenizer: Any, context: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The warm-up's documents that fit; those that do not are counted."""
    format = _format(config.warmup.prompt or config.prompt, config.model, tokenizer)
    limit = min(context, config.warmup.max_tokens)
    documents = []
    problems: Sequence[Problem] = config.warmup.data()[: config.warmup.limit]
    if config.warmup.correct_only:
        with Grader(config.reward, **vars(config.grading)) as grader:
            scores = grader.grade_pairs((format.response(problem), problem) for problem in problems)
        correct = [problem for problem, score in zip(problems, scores, strict=True) if score.correct]
        logger.info("warm-up: %d of %d solutions are right and kept", len(correct), len(problems))
        problems = correct
    for problem in problems:
        prompt, response = format.document(problem)
        if len(prompt.token_ids) + len(response) <= limit:
            documents.append((prompt.token_ids, response))
    logger.info(
        "warm-up: %d documents, %d over %d tokens dropped", len(documents), len(problems) - len(documents), limit
    )
    if len(documents) < config.warmup.minibatch_size:
        raise ConfigError(
            f"warmup.minibatch_size={config.warmup.minibatch_size} is more than the {len(documents)} usable documents."
        )
    return documents
