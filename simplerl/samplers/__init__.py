"""Where responses come from: `local` (transformers weights, written for RL) and `vllm`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from simplerl.types import Prompt, Rollout, Sampling, Stop

if TYPE_CHECKING:
    from torch import Tensor


class Sampler(Protocol):
    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, stop: Stop, samples: int, seed: int, step: int
    ) -> Iterator[Rollout]:
        """`samples` responses to each prompt, in order of completion."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """New weights under their Hugging Face parameter names; called after every policy update."""
        ...
