"""A sampler that gives again the responses of an earlier run, so that two backends train on the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from torch import Tensor

from simplerl.types import Prompt, Rollout, Sampling, Stop


class Replay:
    """See `simplerl.samplers.Sampler`. Weights are taken and not used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, stop: Stop, samples: int, seed: int, step: int
    ) -> Iterator[Rollout]:
        by_id = {prompt.problem.id: prompt for prompt in prompts}
        for row in pq.read_table(self.folder / f"step_{step:06d}.parquet").to_pylist():
            numbers = tuple(row["tokens"]), tuple(row["logprobs"])
            yield Rollout(by_id[row["problem_id"]], row["sample"], row["response"], *numbers, row["finish_reason"])

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        assert [name for name, _ in weights]


def replay(model: Any, tokenizer: Any, path: str, *, folder: str) -> Replay:
    return Replay(Path(folder))
