"""Every value that flows through the loop.

Letters used in shape comments, here and everywhere:
P prompts of a step, G samples of each, B = P*G rollouts (b: those of one micro-batch),
T tokens of prompt + response (padded on the right), L tokens of one response, V vocabulary.

One frame for all per-token tensors: they are [B, T] and column t speaks of token t: the
log-probability *of* it, the value of the state *before* it, the advantage *for* it. The shift by
one between a model's output and this frame happens in `simplerl.engine.worker` and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FINISH_STOP, FINISH_LENGTH = "stop", "length"


@dataclass(frozen=True)
class Bounds:
    """The least and the largest value of a keyword of a configurable function, as in `Annotated[float, Bounds(0, 1)]`.
    Values beyond them are refused when the configuration is loaded."""

    least: float = -math.inf
    most: float = math.inf


Fraction = Annotated[float, Bounds(0.0, 1.0)]
Positive = Annotated[float, Bounds(0.001)]
Count = Annotated[int, Bounds(1)]
Gibibytes = Annotated[float, Bounds(0.01)]


@dataclass(frozen=True)
class Problem:
    """A question with a checkable answer. `id` is unique within its data set and seeds its samples."""

    id: str
    question: str
    answer: str
    source: str = ""
    level: str | None = None
    solution: str | None = None


@dataclass(frozen=True)
class Prompt:
    """A problem as the model reads it: the rendered text and its tokens."""

    problem: Problem
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Stop:
    """What ends a response: any of these token ids, or the first occurrence of any of these strings.

    Belongs to a prompt/model pair; training and evaluation use the same object.
    """

    ids: tuple[int, ...]
    strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. temperature 0 is greedy; top_k 0 and top_p 1 are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256


class Response(str):
    """The text of a response as a reward function receives it: a `str` that also knows how it was generated.

    Everything that a `str` does works unchanged (`len(response)`, `in`, `re`), and every operation on it returns a
    plain `str`.
    """

    tokens: tuple[int, ...]  # [L], the stop token included; empty where only a text is known
    finish_reason: str  # FINISH_STOP | FINISH_LENGTH

    def __new__(cls, text: str, tokens: tuple[int, ...] = (), finish_reason: str = FINISH_STOP) -> Response:
        response = super().__new__(cls, text)
        response.tokens, response.finish_reason = tokens, finish_reason
        return response

    @property
    def truncated(self) -> bool:
        """Whether the response was cut off at sampling.max_new_tokens."""
        return self.finish_reason == FINISH_LENGTH

    def __reduce__(self) -> tuple[type[Response], tuple[str, tuple[int, ...], str]]:
        return Response, (str(self), self.tokens, self.finish_reason)


@dataclass(frozen=True)
class Score:
    """A reward function's verdict on one response.

    `status` is equal | different | no_answer | timeout | failed; `extracted` is the answer that was
    compared; each of `parts` becomes a metric reward/<name>.
    """

    reward: float
    correct: bool
    status: str
    extracted: str | None = None
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """One sampled response. `token_ids` includes the stop token where the model produced one;
    `text` is the response without it, cut at the first stop string."""

    prompt: Prompt
    sample: int  # 0..G-1 within its prompt
    text: str
    token_ids: tuple[int, ...]  # [L]
    logprobs: tuple[float, ...]  # [L], of the sampled tokens, under the sampler's own distribution
    finish_reason: str  # FINISH_STOP | FINISH_LENGTH
    score: Score | None = None
    trained: bool = True  # False: its reward counts in the group, its tokens do not count in the loss

    @property
    def response(self) -> Response:
        """The text as a reward function receives it."""
        return Response(self.text, self.token_ids, self.finish_reason)


def score_of(rollout: Rollout) -> Score:
    if rollout.score is None:
        raise ValueError(f"the rollout of problem {rollout.prompt.problem.id!r} has no score yet")
    return rollout.score


def group_rollouts(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Return the rollouts of each problem, in order."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.prompt.problem.id, []).append(rollout)
    return list(groups.values())


Reward = Callable[[Response, Problem], Score]
Data = Callable[[], list[Problem]]
Shape = Callable[[list["Rollout"]], list["Rollout"]]  # sees the whole graded step, after grading
State = dict[str, Any]  # what an algorithm remembers between steps: plain JSON values, saved with the checkpoint


@dataclass(frozen=True)
class Batch:
    """The rollouts of one step (or the documents of one SFT minibatch) as tensors.

    A batch is never mutated: a stage returns `batch.with_(advantages=...)`. Columns that only one algorithm knows
    are in `extra`; a role adds its column by `with_column`."""

    tokens: Tensor  # [B, T] int64, padded on the right
    attention: Tensor  # [B, T] bool: prompt and response
    mask: Tensor  # [B, T] bool: the response
    group: Tensor  # [B] int64: rows of one prompt share a number
    reward: Tensor | None = None  # [B] float32
    correct: Tensor | None = None  # [B] bool
    trained: Tensor | None = None  # [B] bool: rows that count in the loss; None: all
    # The rest: [B, T] float32, zero outside the mask. From the sampler:
    sampler_logprobs: Tensor | None = None
    # from `Roles.score`, the values where there is a critic:
    logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    entropy: Tensor | None = None
    values: Tensor | None = None
    # from the algorithm's advantage, the returns where there is a critic:
    token_rewards: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    # from the plan of the update: what each token's loss counts; sums to about 1 over an optimizer step.
    weights: Tensor | None = None
    # [B] or [B, T], by name: what other roles and algorithms add
    extra: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def with_(self, **changes: Any) -> Batch:
        return replace(self, **changes)

    def with_column(self, name: str, column: Tensor) -> Batch:
        """The batch with `column` as its field `name`, or, where it has no such field, as `extra[name]`."""
        if name in self.__dataclass_fields__:
            return self.with_(**{name: column})
        return replace(self, extra={**self.extra, name: column})

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        columns: dict[str, Any] = {k: change(v) for k, v in vars(self).items() if v is not None and k != "extra"}
        return replace(self, **columns, extra={k: change(v) for k, v in self.extra.items()})

    def rows(self, index: Tensor | slice) -> Batch:
        """Some rows, cut to the longest of them."""
        attention = self.attention[index]
        width = int(attention.sum(-1).max())
        return self._map(lambda x: x[index] if x.ndim == 1 else x[index][:, :width])

    def to(self, device: torch.device | str) -> Batch:
        return self._map(lambda x: x.to(device))
