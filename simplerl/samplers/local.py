"""Implements `sampler=local`, which generates responses in this process from a transformers model.

A prompt is prefilled once for all its samples that fit the row limit. The longest prompts start first. Waiting rows
start when enough rows have finished (continuous batching) or, with the generic decoder, when all have. Given the
weights, a response depends only on (seed, step, problem id, sample index); see `simplerl.samplers.token_sampling`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from simplerl.config import ModelConfig
from simplerl.errors import ConfigError
from simplerl.samplers.generic import GenericDecoder
from simplerl.samplers.llama import LlamaDecoder, unsupported_feature
from simplerl.samplers.stopping import StopRule
from simplerl.samplers.token_sampling import response_seed, sample_tokens, uniforms
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Count, Gibibytes, Prompt, Rollout, Sampling, Stop

logger = logging.getLogger(__name__)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Decoder(Protocol):
    """Runs a model on rows of tokens that grow by one token per step, with a key-value cache."""

    continuous_batching: bool  # whether rows may be added while others are being generated
    cache_bytes_per_token: int  # for one row
    device: torch.device

    def add_rows(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> Tensor:
        """Append repeats[i] rows that start with prompts[i]; return float32 logits [rows, V] of their next tokens."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens [rows] and return the float32 logits [rows, V] of the next tokens."""

    def select_rows(self, order: Sequence[int]) -> None:
        """Make the former row order[i] row i; rows not listed are removed."""

    def clear(self) -> None:
        """Remove all rows."""

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the weights, given under Hugging Face names."""


@dataclass
class _Row:
    """Holds a response that is being generated: its prompt, sample index and seed, and the tokens and log-probs so far.
    finish_reason: None until it ends."""

    prompt: Prompt
    sample: int
    seed: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None


class LocalSampler:
    """Implements `simplerl.samplers.Sampler` with a transformers model.

    precision: dtype of the matrix products, float32 or bfloat16.
    max_rows: number of responses generated at the same time.
    max_cache_gib: limit on the key-value cache, computed as if every response had the maximum length.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        precision: str = "float32",
        max_rows: int = 256,
        max_cache_gib: float = 8.0,
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"sampler.precision={precision} is not supported: choose float32 or bfloat16.")
        if max_rows < 1:
            raise ConfigError(f"sampler.max_rows={max_rows} is too small: set it to 1 or more.")
        self.tokenizer = tokenizer
        self.context: int = model.config.max_position_embeddings
        self.max_rows = max_rows
        self.max_cache_bytes = max_cache_gib * 2**30
        dtype = PRECISIONS[precision]
        unsupported = unsupported_feature(model)
        if unsupported is not None:
            logger.info("the fast decoder does not support %s: sampling through the model's own forward", unsupported)
        self.decoder: Decoder = LlamaDecoder(model, dtype) if unsupported is None else GenericDecoder(model, dtype)
        self._stop_rule = lru_cache(maxsize=8)(lambda stop: StopRule(tokenizer, stop))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.decoder.load_weights(weights)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, stop: Stop, samples: int, seed: int, step: int
    ) -> Iterator[Rollout]:
        """Yield finished responses, as `simplerl.samplers.Sampler` requires. Raises ConfigError if a prompt is empty,
        or if it and its response can exceed the context."""
        self._check_context(prompts, sampling)
        rule = self._stop_rule(stop)
        limit = self._row_limit(prompts, sampling)
        waiting = _row_groups(prompts, samples, limit, seed, step)
        rows: list[_Row] = []
        try:
            while waiting or rows:
                new_groups = self._take_groups(waiting, rows, limit)
                if rows:
                    last = torch.tensor([row.tokens[-1] for row in rows], device=self.decoder.device)
                    self._append_tokens(rows, self.decoder.step(last), sampling, rule)
                if new_groups:
                    new_prompts = [group[0].prompt.token_ids for group in new_groups]
                    logits = self.decoder.add_rows(new_prompts, list(map(len, new_groups)))
                    new_rows = [row for group in new_groups for row in group]
                    self._append_tokens(new_rows, logits, sampling, rule)
                    rows += new_rows
                finished = [row for row in rows if row.finish_reason]
                if finished:
                    rows = self._remove_finished(rows)
                    yield from (_rollout(row, rule) for row in finished)
        finally:
            self.decoder.clear()

    def _check_context(self, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        for prompt in prompts:
            if not prompt.token_ids:
                raise ConfigError(
                    f"problem {prompt.problem.id} has an empty prompt: give it a question, or remove it from the data."
                )
            if len(prompt.token_ids) + sampling.max_new_tokens > self.context:
                raise ConfigError(
                    f"problem {prompt.problem.id}: its prompt has {len(prompt.token_ids)} tokens, which with "
                    f"max_new_tokens={sampling.max_new_tokens} exceeds the model's context of {self.context} tokens: "
                    "lower sampling.max_new_tokens or prompt.max_tokens."
                )

    def _row_limit(self, prompts: Sequence[Prompt], sampling: Sampling) -> int:
        """Return how many responses may be generated at the same time within max_rows and max_cache_gib."""
        longest = max((len(prompt.token_ids) for prompt in prompts), default=0) + sampling.max_new_tokens
        return max(1, min(self.max_rows, int(self.max_cache_bytes // (self.decoder.cache_bytes_per_token * longest))))

    def _take_groups(self, waiting: deque[list[_Row]], rows: Sequence[_Row], limit: int) -> list[list[_Row]]:
        """Remove from `waiting` the groups to start now: when no rows are left, or, with continuous batching, when at
        least a quarter of `limit` is free."""
        free = limit - len(rows)
        if rows and not (self.decoder.continuous_batching and free >= limit // 4):
            return []
        taken: list[list[_Row]] = []
        while waiting and len(waiting[0]) <= free:
            taken.append(waiting.popleft())
            free -= len(taken[-1])
        return taken

    def _append_tokens(self, rows: Sequence[_Row], logits: Tensor, sampling: Sampling, rule: StopRule) -> None:
        """Sample one token for each row from its logits, and set finish_reason of the rows that end with it."""
        with torch.inference_mode():
            device = logits.device
            seeds = torch.tensor([row.seed for row in rows], device=device)
            positions = torch.tensor([len(row.tokens) for row in rows], device=device)
            tokens, logprobs = sample_tokens(logits, uniforms(seeds, positions), sampling)
        possible_ends, limit = rule.possible_ends, sampling.max_new_tokens
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if token in possible_ends and rule.reached(row.tokens):
                row.finish_reason = FINISH_STOP
            elif len(row.tokens) == limit:
                row.finish_reason = FINISH_LENGTH

    def _remove_finished(self, rows: Sequence[_Row]) -> list[_Row]:
        """Remove finished rows, also from the decoder, and return the others in their new order: gaps are filled from
        the end, so that little is copied."""
        alive = sum(row.finish_reason is None for row in rows)
        tail = iter([i for i in range(alive, len(rows)) if rows[i].finish_reason is None])
        order = [i if rows[i].finish_reason is None else next(tail) for i in range(alive)]
        self.decoder.select_rows(order)
        return [rows[i] for i in order]


def _row_groups(prompts: Sequence[Prompt], samples: int, limit: int, seed: int, step: int) -> deque[list[_Row]]:
    """Return groups of at most `limit` rows with the same prompt, longest prompts first."""
    groups: deque[list[_Row]] = deque()
    for prompt in sorted(prompts, key=lambda prompt: -len(prompt.token_ids)):
        rows = [_Row(prompt, i, response_seed(seed, step, prompt.problem.id, i)) for i in range(samples)]
        groups.extend(rows[i : i + limit] for i in range(0, samples, limit))
    return groups


def _rollout(row: _Row, rule: StopRule) -> Rollout:
    assert row.finish_reason is not None
    text = rule.text(row.tokens)
    return Rollout(row.prompt, row.sample, text, tuple(row.tokens), tuple(row.logprobs), row.finish_reason)


def local_sampler(
    policy: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    model: ModelConfig,
    *,
    precision: Literal["float32", "bfloat16"] = "float32",
    max_rows: Count = 256,
    max_cache_gib: Gibibytes = 8.0,
) -> LocalSampler:
    """Build the sampler of `sampler=local`. `model` is unused: the policy itself has the architecture."""
    return LocalSampler(policy(), tokenizer, precision=precision, max_rows=max_rows, max_cache_gib=max_cache_gib)
