"""Defines the data types that are passed between the stages of the training loop.

Letters in shape comments throughout the project: P prompts per step, G samples per prompt, B = P*G rollouts (b rollouts
in a micro-batch), T tokens of prompt + response (right-padded), L tokens of one response, V vocabulary size.

All per-token tensors are [B, T] and aligned: column t holds the log-probability of token t, the value of the state
before token t, and the advantage of token t. Only `simplerl.engine.worker` shifts a model's output by one position to
match this alignment.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FINISH_STOP, FINISH_LENGTH = "stop", "length"


@dataclass(frozen=True)
class Bounds:
    """Declares inclusive bounds of a keyword of a configurable function: `Annotated[float, Bounds(0, 1)]`. Values
    outside them are refused when the configuration is loaded."""

    minimum: float = -math.inf
    maximum: float = math.inf


Fraction = Annotated[float, Bounds(0.0, 1.0)]
Positive = Annotated[float, Bounds(0.001)]
Count = Annotated[int, Bounds(1)]
Gibibytes = Annotated[float, Bounds(0.01)]


@dataclass(frozen=True)
class Problem:
    """Holds a question with a verifiable answer. `id` is unique within its data set and seeds the samples."""

    id: str
    question: str
    answer: str  # the gold answer; "" if there is none
    source: str = ""  # name of the data set, which some grading rules depend on
    level: str | None = None  # difficulty, as the data set states it
    solution: str | None = None  # a worked solution, for fine-tuning
    system: str | None = None  # system message of the question's chat
    extra: dict[str, Any] = field(default_factory=dict, compare=False)  # other columns of the row, for rewards


@dataclass(frozen=True)
class Prompt:
    """Holds a problem and its prompt for the model, as text and as tokens."""

    problem: Problem
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Stop:
    """Holds the stop conditions of sampling: any of these token ids, or the first occurrence of any of these strings.
    They depend on the prompt format and the model."""

    ids: tuple[int, ...]
    strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """Holds the sampling parameters. temperature=0 is greedy decoding; top_k=0 and top_p=1 disable truncation."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256  # the stop token included


class Response(str):
    """Represents the response passed to a reward function: a `str` with the attributes `tokens` and `finish_reason`.

    All operations on `str` work (`len(response)`, `in`, `re`); their results are plain `str`.
    """

    tokens: tuple[int, ...]  # [L], including the stop token; empty if only the text is known
    finish_reason: str  # FINISH_STOP | FINISH_LENGTH

    key: int  # differs between samples with the same text

    def __new__(
        cls, text: str, tokens: tuple[int, ...] = (), finish_reason: str = FINISH_STOP, key: int = 0
    ) -> Response:
        response = super().__new__(cls, text)
        response.tokens, response.finish_reason, response.key = tokens, finish_reason, key
        return response

    @property
    def truncated(self) -> bool:
        """Return whether the response reached sampling.max_new_tokens without a stop token."""
        return self.finish_reason == FINISH_LENGTH

    def __reduce__(self) -> tuple[type[Response], tuple[str, tuple[int, ...], str, int]]:
        return Response, (str(self), self.tokens, self.finish_reason, self.key)


@dataclass(frozen=True)
class Score:
    """Holds the result of a reward function for one response."""

    reward: float
    correct: bool  # whether accuracies count the response as correct
    status: str  # equal | different | no_answer | timeout | failed
    extracted: str | None = None  # the answer that was extracted and compared
    parts: dict[str, float] = field(default_factory=dict)  # each is logged as the metric reward/<name>


@dataclass(frozen=True)
class Rollout:
    """Holds one sampled response to a prompt and, once graded, its score."""

    prompt: Prompt
    sample: int  # 0..G-1 within its prompt
    text: str  # without the stop token, cut at the first stop string
    token_ids: tuple[int, ...]  # [L], including the stop token if the model produced one
    logprobs: tuple[float, ...]  # [L], of the sampled tokens under the sampler's distribution
    finish_reason: str  # FINISH_STOP | FINISH_LENGTH
    score: Score | None = None
    trained: bool = True  # False: its reward counts in group statistics, but its tokens are masked in the loss
    extra: dict[str, float] = field(default_factory=dict)  # columns of `Batch.extra` for an advantage estimator

    @property
    def response(self) -> Response:
        """Return the response as it is passed to reward functions."""
        key = zlib.crc32(struct.pack(f"{len(self.logprobs)}d", *self.logprobs))
        return Response(self.text, self.token_ids, self.finish_reason, key)


def score_of(rollout: Rollout) -> Score:
    """Return the rollout's score. Raises ValueError if it has not been graded."""
    if rollout.score is None:
        raise ValueError(f"the rollout of problem {rollout.prompt.problem.id!r} has no score: grade it first")
    return rollout.score


def group_rollouts(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Group rollouts by problem, in order of first appearance."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.prompt.problem.id, []).append(rollout)
    return list(groups.values())


Reward = Callable[[Response, Problem], Any]  # -> Score, or a value that `simplerl.rewards.returned` converts
Data = Callable[[], list[Problem]]
RewardShaping = Callable[[list["Rollout"]], list["Rollout"]]  # all graded rollouts of a step
State = dict[str, Any]  # state of an algorithm between steps: JSON values, saved in checkpoints


@dataclass(frozen=True)
class Batch:
    """Holds the rollouts of one step (or the documents of one SFT minibatch) as tensors.

    A batch is never mutated; a stage returns `batch.with_(advantages=...)`. Columns that are specific to one algorithm
    are in `extra`."""

    tokens: Tensor  # [B, T] int64, right-padded
    attention: Tensor  # [B, T] bool: True for prompt and response tokens
    mask: Tensor  # [B, T] bool: True for response tokens
    group: Tensor  # [B] int64: rows of the same prompt share a number
    reward: Tensor | None = None  # [B] float32
    correct: Tensor | None = None  # [B] bool
    trained: Tensor | None = None  # [B] bool: rows that count in the loss; None: all
    # All other columns are [B, T] float32 and zero outside the mask. From the sampler:
    sampler_logprobs: Tensor | None = None
    # From `Roles.score`; values only with a critic:
    logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    entropy: Tensor | None = None
    values: Tensor | None = None
    # From the advantage estimator; returns only with a critic:
    token_rewards: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    # Weight of each token's loss, see `simplerl.engine.batching.token_weights`:
    weights: Tensor | None = None
    # Columns [B] or [B, T] of other roles and algorithms, by name:
    extra: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def with_(self, **changes: Any) -> Batch:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)

    def with_column(self, name: str, column: Tensor) -> Batch:
        """Return a copy with `column` as the field `name` or, if there is no such field, as `extra[name]`."""
        if name in self.__dataclass_fields__:
            return self.with_(**{name: column})
        return replace(self, extra={**self.extra, name: column})

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        columns: dict[str, Any] = {k: change(v) for k, v in vars(self).items() if v is not None and k != "extra"}
        return replace(self, **columns, extra={k: change(v) for k, v in self.extra.items()})

    def rows(self, index: Tensor | slice) -> Batch:
        """Return the selected rows, truncated to the longest of them."""
        attention = self.attention[index]
        width = int(attention.sum(-1).max())
        return self._map(lambda x: x[index] if x.ndim == 1 else x[index][:, :width])

    def to(self, device: torch.device | str) -> Batch:
        """Return a copy on `device`."""
        return self._map(lambda x: x.to(device))
