"""The local sampler: responses from a transformers model, written for reinforcement learning.

A prompt is prefilled once for all its samples; prompts go longest first, rows that finish make way
for waiting ones; each response depends on (seed, step, problem id, sample index) alone (`draws`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from simplerl.config import ModelConfig
from simplerl.errors import ConfigError
from simplerl.samplers.generic import GenericDecoder
from simplerl.samplers.llama import LlamaDecoder, refusal
from simplerl.samplers.randomness import choose, row_key, uniforms
from simplerl.samplers.stopping import StopRule
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Prompt, Rollout, Sampling, Stop

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Decoder(Protocol):
    """Rows of text that grow by a token at a time."""

    refills: bool  # rows may join while others are running
    row_bytes: int  # of cache, for one token of one row
    device: torch.device

    def admit(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> Tensor: ...

    def step(self, tokens: Tensor) -> Tensor: ...

    def keep(self, order: Sequence[int]) -> None: ...

    def clear(self) -> None: ...

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None: ...


@dataclass
class _Row:
    """A response in the making."""

    prompt: Prompt
    sample: int
    key: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None


class LocalSampler:
    """Samples from a transformers model; see `simplerl.samplers.Sampler` for the two methods.

    precision: of the matrix products, float32 | bfloat16.
    max_rows: responses that grow side by side.
    max_cache_gib: upper limit of the key-value cache, counted as if every response ran to its full length.
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
            raise ConfigError(f"sampler.precision={precision} is unknown: choose float32 or bfloat16.")
        if max_rows < 1:
            raise ConfigError(f"sampler.max_rows={max_rows} must be at least 1.")
        self.tokenizer = tokenizer
        self.context: int = model.config.max_position_embeddings
        self.max_rows = max_rows
        self.max_cache_bytes = max_cache_gib * 2**30
        dtype = PRECISIONS[precision]
        self.decoder: Decoder = LlamaDecoder(model, dtype) if refusal(model) is None else GenericDecoder(model, dtype)
        self._rule = lru_cache(maxsize=8)(lambda stop: StopRule(tokenizer, stop))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.decoder.load(weights)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, stop: Stop, samples: int, seed: int, step: int
    ) -> Iterator[Rollout]:
        """Raises ConfigError where a prompt and its response cannot fit the model's context."""
        self._check(prompts, sampling)
        rule = self._rule(stop)
        limit = self._row_limit(prompts, sampling)
        waiting = _work(prompts, samples, limit, seed, step)
        rows: list[_Row] = []
        try:
            while waiting or rows:
                fresh = self._next(waiting, rows, limit)
                if rows:
                    last = torch.tensor([row.tokens[-1] for row in rows], device=self.decoder.device)
                    self._extend(rows, self.decoder.step(last), sampling, rule)
                if fresh:
                    logits = self.decoder.admit([group[0].prompt.token_ids for group in fresh], list(map(len, fresh)))
                    new = [row for group in fresh for row in group]
                    self._extend(new, logits, sampling, rule)
                    rows += new
                done = [row for row in rows if row.finish]
                if done:
                    rows = self._compact(rows)
                    yield from (_rollout(row, rule) for row in done)
        finally:
            self.decoder.clear()

    def _check(self, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        for prompt in prompts:
            need = len(prompt.token_ids) + sampling.max_new_tokens
            if not prompt.token_ids or need > self.context:
                raise ConfigError(
                    f"Problem {prompt.problem.id}: a prompt of {len(prompt.token_ids)} tokens and "
                    f"max_new_tokens={sampling.max_new_tokens} do not fit the model's context of {self.context}: "
                    "lower max_new_tokens or prompt.max_tokens."
                )

    def _row_limit(self, prompts: Sequence[Prompt], sampling: Sampling) -> int:
        longest = max((len(prompt.token_ids) for prompt in prompts), default=0) + sampling.max_new_tokens
        return max(1, min(self.max_rows, int(self.max_cache_bytes // (self.decoder.row_bytes * longest))))

    def _next(self, waiting: deque[list[_Row]], rows: Sequence[_Row], limit: int) -> list[list[_Row]]:
        """Groups to admit now: when all rows are done, or (where the decoder can) a quarter of them is free."""
        if rows and not (self.decoder.refills and limit - len(rows) >= limit // 4):
            return []
        fresh: list[list[_Row]] = []
        free = limit - len(rows)
        while waiting and len(waiting[0]) <= free:
            fresh.append(waiting.popleft())
            free -= len(fresh[-1])
        return fresh

    def _extend(self, rows: Sequence[_Row], logits: Tensor, sampling: Sampling, rule: StopRule) -> None:
        """Adds a token to each row and marks those that it finishes."""
        with torch.inference_mode():
            device = logits.device
            keys = torch.tensor([row.key for row in rows], device=device)
            positions = torch.tensor([len(row.tokens) for row in rows], device=device)
            tokens, logprobs = choose(logits, uniforms(keys, positions), sampling)
        watched, limit = rule.watched, sampling.max_new_tokens
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if token in watched and rule.reached(row.tokens):
                row.finish = FINISH_STOP
            elif len(row.tokens) == limit:
                row.finish = FINISH_LENGTH

    def _compact(self, rows: Sequence[_Row]) -> list[_Row]:
        """Running rows only; rows from the end fill the gaps, so that little is copied."""
        alive = sum(row.finish is None for row in rows)
        tail = iter([i for i in range(alive, len(rows)) if rows[i].finish is None])
        order = [i if rows[i].finish is None else next(tail) for i in range(alive)]
        self.decoder.keep(order)
        return [rows[i] for i in order]


def _work(prompts: Sequence[Prompt], samples: int, limit: int, seed: int, step: int) -> deque[list[_Row]]:
    """Groups of at most `limit` rows that share a prompt, longest prompts first."""
    work: deque[list[_Row]] = deque()
    for prompt in sorted(prompts, key=lambda prompt: -len(prompt.token_ids)):
        rows = [_Row(prompt, i, row_key(seed, step, prompt.problem.id, i)) for i in range(samples)]
        work.extend(rows[i : i + limit] for i in range(0, samples, limit))
    return work


def _rollout(row: _Row, rule: StopRule) -> Rollout:
    assert row.finish is not None
    return Rollout(row.prompt, row.sample, rule.text(row.tokens), tuple(row.tokens), tuple(row.logprobs), row.finish)


def local_sampler(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    model: ModelConfig,
    *,
    precision: Literal["float32", "bfloat16"] = "float32",
    max_rows: int = 256,
    max_cache_gib: float = 8.0,
) -> LocalSampler:
    """`sampler=local`; `model` is what other engines load the architecture from."""
    return LocalSampler(policy, tokenizer, precision=precision, max_rows=max_rows, max_cache_gib=max_cache_gib)
