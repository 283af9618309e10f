"""Shared prompts compute what the plain pass computes, for every kind of model and batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from simplerl.algorithms.losses import ppo_clip, squared_value
from simplerl.config import Aggregation, OptimizerConfig, Precision
from simplerl.engine.batching import collate
from simplerl.engine.models import Critic
from simplerl.engine.shared_prompts import shared_micro_batches
from simplerl.engine.worker import UpdatePlan, Worker
from simplerl.errors import RunFailed
from simplerl.types import Batch

PLAN = UpdatePlan(minibatch_size=64, epochs=1, aggregation=Aggregation.token_mean)


def batch(groups: list[int], prompts: tuple[int, int] = (1, 30), responses: tuple[int, int] = (1, 12)) -> Batch:
    """Return groups of the given sizes; prompts and responses have random lengths within the bounds."""
    rng = np.random.default_rng(0)
    rows = []
    for size in groups:
        prompt = rng.integers(5, tiny.VOCABULARY, rng.integers(*prompts, endpoint=True))
        rows += [
            (prompt, rng.integers(5, tiny.VOCABULARY, rng.integers(*responses, endpoint=True))) for _ in range(size)
        ]
    numbers = [number for number, size in enumerate(groups) for _ in range(size)]
    made = collate(rows, numbers)
    noise = torch.from_numpy(rng.normal(size=tuple(made.tokens.shape))).float() * made.mask
    return made.with_(advantages=noise, returns=noise, values=0 * noise)


def worker(shared: bool | None, kind: str = "qwen2", attention: str = "simplerl", **options: Any) -> Worker:
    model: Any = tiny.policy("qwen2" if kind == "critic" else kind, attention=attention, tie_word_embeddings=False)
    settings = {"precision": Precision.float32, "tokens_per_micro_batch": 4096, **options}
    return Worker(
        Critic(model.base_model, 0) if kind == "critic" else model,
        shared_prompts=shared,
        optimizer=OptimizerConfig(lr=0.0, grad_clip=1e9),
        **settings,
    )


def outputs_and_gradient(one: Worker, made: Batch) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return log-probs or values, the gradient of a loss, and the share of padding."""
    columns = one.infer(made)
    gradients: list[torch.Tensor] = []
    assert one.stepper is not None
    step = one.stepper.step

    def recorded() -> dict[str, float]:
        gradients.extend(p.grad.flatten() for p in one.model.parameters() if p.grad is not None)
        return step()

    one.stepper.step = recorded  # type: ignore[method-assign]
    loss: Any = squared_value if one.is_critic else ppo_clip
    metrics = one.update(made.with_(logprobs=columns[0]), [loss], PLAN, [0, 0])
    return torch.stack(columns), torch.cat(gradients), metrics["padding_share"]


CASES = {
    "ragged": {"groups": [8, 3, 1, 5]},
    "one group": {"groups": [16]},
    "no groups": {"groups": [1] * 6},
    "one-token prompts": {"groups": [4, 4], "prompts": (1, 1)},
    "one-token responses": {"groups": [4, 4], "responses": (1, 1)},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tokens", [4096, 60])
def test_batches(case: str, tokens: int) -> None:
    made = batch(**CASES[case])  # type: ignore[arg-type]
    plain = outputs_and_gradient(worker(False, tokens_per_micro_batch=tokens), made)
    shared = outputs_and_gradient(worker(True, tokens_per_micro_batch=tokens), made)
    torch.testing.assert_close(shared[:2], plain[:2], atol=2e-5, rtol=1e-5)
    assert 0 <= shared[2] < 0.35


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2", "critic"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_models(kind: str, checkpointing: bool) -> None:
    made = batch([8, 3, 1, 5])
    plain = outputs_and_gradient(worker(False, kind), made)
    shared = outputs_and_gradient(worker(True, kind, gradient_checkpointing=checkpointing), made)
    torch.testing.assert_close(shared[:2], plain[:2], atol=2e-5, rtol=1e-5)


def test_bfloat16() -> None:
    made = batch([8, 3, 1, 5])
    options: dict[str, Any] = {"attention": "simplerl_float32", "precision": Precision.bfloat16}
    plain = outputs_and_gradient(worker(False, **options), made)
    shared = outputs_and_gradient(worker(True, **options), made)
    exact = outputs_and_gradient(worker(False), made)
    error = (plain[0] - exact[0]).abs().mean()
    assert (shared[0] - exact[0]).abs().mean() < 1.5 * error
    assert torch.nn.functional.cosine_similarity(shared[1], plain[1], 0) > 0.99


def test_used_where_it_saves_a_fifth_of_the_tokens() -> None:
    long_prompts, short_prompts = batch([8, 8], (30, 30), (10, 10)), batch([8, 8], (2, 2), (10, 10))
    assert shared_micro_batches(long_prompts, 4096) is not None
    assert shared_micro_batches(short_prompts, 4096) is None
    assert shared_micro_batches(short_prompts, 4096, always=True) is not None
    automatic, off = worker(None)._micro_batches(long_prompts), worker(False)._micro_batches(long_prompts)
    assert sum(m.computed for m in automatic) == 2 * 30 + 16 * 10
    assert sum(m.computed for m in off) == 16 * 40


def test_budget_counts_each_prompt_once_per_micro_batch() -> None:
    made = batch([8, 3, 1, 5] * 4)
    micros = worker(True)._micro_batches(made)
    assert len(micros) == 1
    one = worker(True, tokens_per_micro_batch=100)
    micros = one._micro_batches(made)
    assert torch.cat([m.rows for m in micros]).sort().values.tolist() == list(range(len(made)))
    assert all(m.computed <= 100 or len(m.rows) == 1 for m in micros)


def test_a_window_shorter_than_a_row_uses_the_plain_pass() -> None:
    one = worker(None)
    one.window = 20
    made = batch([8, 8], (30, 30), (10, 10))
    assert all(m.shared is None for m in one._micro_batches(made))


def test_a_model_with_another_attention_is_refused_with_a_remedy_that_works() -> None:
    made = batch([8, 8], (30, 30), (10, 10))
    with pytest.raises(RunFailed, match=r"set train\.shared_prompts=false"):
        worker(None, attention="sdpa").infer(made)
    worker(False, attention="sdpa").infer(made)
