"""A worker's forward pass against plain Hugging Face calls, and its update against plain autograd."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from simplerl.algorithms.advantages import gae
from simplerl.algorithms.kl import kl_loss, token_rewards
from simplerl.algorithms.losses import (
    Loss,
    TokenOutput,
    clipped_value,
    entropy_bonus,
    negative_log_likelihood,
    ppo_clip,
)
from simplerl.config import Aggregation, KLConfig, KLEstimator, KLPlace, OptimizerConfig, Precision
from simplerl.engine.batching import minibatches, token_weights
from simplerl.engine.models import Critic, output_weight
from simplerl.engine.worker import UpdatePlan, Worker
from simplerl.errors import NonFinite
from simplerl.types import Batch

# Adam's first steps are the signs of the gradients, whose last bits would then count as much as their first ones;
# without memory and with a large eps a step is proportional to the gradient.
PROPORTIONAL = OptimizerConfig(lr=0.02, betas=[0.0, 0.0], eps=1.0, grad_clip=1e9)
PLAN = UpdatePlan(minibatch_size=6, epochs=2, aggregation=Aggregation.sequence_mean, constant_length=32, entropy=True)
LOSSES: list[Loss] = [
    partial(ppo_clip, clip_high=0.28),
    partial(kl_loss, coef=0.1, estimator=KLEstimator.k3),
    partial(entropy_bonus, coef=0.01),
]


def worker(model: torch.nn.Module | None = None, tokens: int = 10**9, **options: Any) -> Worker:
    options = {"precision": Precision.float32, "optimizer": PROPORTIONAL, **options}
    return Worker(model or tiny.policy(), tokens_per_micro_batch=tokens, **options)


def critic(seed: int = 0) -> Critic:
    body: Any = tiny.policy(seed=seed).base_model
    made = Critic(body, seed)
    with torch.no_grad():
        made.value_head.weight.mul_(10)
    return made


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name, weight in a.items():
        torch.testing.assert_close(weight, b[name], atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


# Forward


@pytest.mark.parametrize("tokens", [10**9, 60, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_infer_is_the_plain_forward_pass(tokens: int, temperature: float) -> None:
    model, batch = tiny.policy(), tiny.batch()
    logprobs, entropy = worker(model, tokens, temperature=temperature, optimizer=None).infer(batch)
    for row in range(len(batch)):
        length = int(batch.attention[row].sum())
        prompt = length - int(batch.mask[row].sum())
        own = batch.tokens[row, :length]
        with torch.no_grad():
            log_p = torch.log_softmax(model(own[None]).logits[0].double() / temperature, -1)
        for t in range(prompt, length):  # column t speaks of token t, which the output at t - 1 predicts
            assert float(logprobs[row, t]) == pytest.approx(float(log_p[t - 1, own[t]]), abs=2e-5)
            exact = -float((log_p[t - 1].exp() * log_p[t - 1]).sum())
            assert float(entropy[row, t]) == pytest.approx(exact, abs=2e-5)
    assert (logprobs[~batch.mask] == 0).all() and (entropy[~batch.mask] == 0).all()
    assert (logprobs[batch.mask] < 0).all()


def test_a_value_is_of_the_state_before_its_token() -> None:
    model, batch = critic(), tiny.batch()
    (values,) = worker(model, 60, optimizer=None).infer(batch)
    for row in range(len(batch)):
        length = int(batch.attention[row].sum())
        prompt = length - int(batch.mask[row].sum())
        with torch.no_grad():
            hidden = model.body(batch.tokens[row, :length][None]).last_hidden_state[0]
            expected = (hidden @ model.value_head.weight[0])[prompt - 1 : length - 1]
        torch.testing.assert_close(values[row, prompt:length], expected, atol=2e-5, rtol=0)
    assert (values[~batch.mask] == 0).all()


def test_a_value_does_not_see_its_token_or_what_follows() -> None:
    batch = tiny.batch(rows=2)
    changed = batch.tokens.clone()
    changed[1, -3:] = (changed[1, -3:] + 11) % tiny.VOCABULARY
    w = worker(critic(), optimizer=None)
    before, after = w.infer(batch)[0][1], w.infer(batch.with_(tokens=changed))[0][1]
    assert batch.attention[1].all()
    torch.testing.assert_close(before[:-2], after[:-2], atol=1e-6, rtol=0)
    assert float((before[-2:] - after[-2:]).abs().min()) > 1e-4


def test_padding_content_is_never_seen() -> None:
    batch = tiny.batch()
    noisy = batch.with_(tokens=torch.where(batch.attention, batch.tokens, torch.full_like(batch.tokens, 3)))
    w = worker(optimizer=None)
    assert torch.equal(w.infer(batch)[0], w.infer(noisy)[0])


# Update


def reference_step(model: Any, batch: Batch, losses: Sequence[Loss], plan: UpdatePlan) -> dict[str, Tensor]:
    """Weights after one proportional step on the whole batch, through plain logits and autograd."""
    log_p = torch.log_softmax(model(batch.tokens, attention_mask=batch.attention.long()).logits[:, :-1], -1)
    shifted = torch.nn.functional.pad(log_p.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1), (1, 0)) * batch.mask
    entropy = torch.nn.functional.pad(-(log_p.exp() * log_p).sum(-1), (1, 0)) * batch.mask
    per_token = torch.stack([loss(TokenOutput(shifted, entropy), batch)[0] for loss in losses]).sum(0)
    (
        per_token * token_weights(batch, plan.aggregation, plan.constant_length, plan.rows, float(batch.mask.sum()))
    ).sum().backward()
    return {n: (p - 0.02 * p.grad / (p.grad.abs() + 1)).detach() for n, p in model.named_parameters()}


@pytest.mark.parametrize("aggregation", list(Aggregation))
@pytest.mark.parametrize("tokens", [10**9, 60])
def test_update_is_the_plain_gradient(aggregation: Aggregation, tokens: int) -> None:
    batch = tiny.batch()
    plan = UpdatePlan(len(batch), 1, aggregation, 32, entropy=True)
    (shuffled,) = minibatches(batch, len(batch), [0, 0])  # micro_batch_token_mean depends on the order
    expected = reference_step(tiny.policy(), shuffled, LOSSES, plan)
    w = worker(tokens=tokens)
    w.update(batch, LOSSES, plan, [0])
    same(weights(w.model), expected, 2e-6)
    assert max(float((expected[n] - p).abs().max()) for n, p in weights(tiny.policy()).items()) > 1e-3


@pytest.mark.parametrize("role", ["ppo", "sft", "critic"])
@pytest.mark.parametrize("optimizer", [PROPORTIONAL, OptimizerConfig(lr=1e-3, eps=1e-3, grad_clip=0.5)])
def test_micro_batch_size_does_not_change_an_update(role: str, optimizer: OptimizerConfig) -> None:
    """Four optimizer steps; the denominators are those of the minibatch, whatever it is cut into."""
    batch = tiny.batch()
    losses = {"ppo": LOSSES, "sft": [negative_log_likelihood], "critic": [clipped_value]}[role]
    results = []
    for tokens in (10**9, 150, 40, 1):
        w = worker(critic() if role == "critic" else tiny.policy(), tokens, optimizer=optimizer, total_steps=4)
        metrics = w.update(batch, losses, PLAN, [0, 3])
        results.append((weights(w.model), metrics))
    first, expected = results[0]
    moved = max(
        float((first[n] - p).abs().max()) for n, p in weights(critic() if role == "critic" else tiny.policy()).items()
    )
    assert moved > 1e-3
    for found, metrics in results[1:]:
        same(found, first, 1e-5)
        assert metrics.pop("padding_share") <= expected["padding_share"]
        for name, value in metrics.items():
            assert value == pytest.approx(expected[name], abs=1e-5, rel=1e-5), name
    assert expected["optimizer_steps"] == 4


def test_metrics_are_means_over_response_tokens() -> None:
    batch = tiny.batch()
    plan = UpdatePlan(len(batch), 1, Aggregation.token_mean, 0)
    frozen = OptimizerConfig(lr=0.0)
    w = worker(tokens=50, optimizer=frozen)
    logprobs = w.infer(batch)[0]
    metrics = w.update(batch, [negative_log_likelihood], plan, [0])
    assert metrics["loss"] == pytest.approx(-float(logprobs[batch.mask].mean()), abs=1e-5)
    ppo = w.update(batch, [ppo_clip], plan, [0])
    assert batch.logprobs is not None
    ratio = (logprobs - batch.logprobs)[batch.mask].exp()
    assert ppo["ratio"] == pytest.approx(float(ratio.mean()), rel=1e-4)
    assert ppo["lr"] == 0.0 and ppo["grad_norm"] > 0


def test_ratios_start_at_one() -> None:
    """The log-probs of the scoring pass and of the update are the same numbers, whatever the micro-batches."""
    w = worker(tokens=70, temperature=0.6, optimizer=OptimizerConfig(lr=0.0))
    batch = tiny.batch()
    logprobs, entropy = w.infer(batch)
    metrics = w.update(batch.with_(logprobs=logprobs, entropy=entropy), [ppo_clip], PLAN, [0])
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["clip_fraction"] == 0.0 and metrics["approx_kl"] == pytest.approx(0.0, abs=1e-6)


def test_policy_learns_what_the_advantages_say() -> None:
    batch = tiny.batch()
    w = worker(optimizer=OptimizerConfig(lr=1e-3))
    logprobs, _ = w.infer(batch)
    assert batch.reward is not None
    good = batch.reward > 0
    assert good.any() and not good.all()
    advantages = torch.where(good, 1.0, -1.0)[:, None] * batch.mask
    w.update(batch.with_(logprobs=logprobs, advantages=advantages), [ppo_clip], PLAN, [0])
    change = (w.infer(batch)[0] - logprobs).sum(-1)
    assert float(change[good].mean()) > 0 > float(change[~good].mean())


def test_critic_learns_the_returns() -> None:
    batch = tiny.batch()
    w = worker(critic(), optimizer=OptimizerConfig(lr=3e-3))

    def error() -> float:
        assert batch.returns is not None
        return float((w.infer(batch)[0] - batch.returns)[batch.mask].square().mean())

    before = error()
    for step in range(10):
        w.update(batch.with_(values=w.infer(batch)[0]), [clipped_value], PLAN, [step])
    assert error() < 0.7 * before


def test_scored_batch_flows_through_gae() -> None:
    batch = tiny.batch().with_(advantages=None, returns=None, values=None, logprobs=None, ref_logprobs=None)
    batch = batch.with_(logprobs=worker(optimizer=None).infer(batch)[0])
    batch = batch.with_(ref_logprobs=worker(tiny.policy(seed=1), optimizer=None).infer(batch)[0])
    batch = batch.with_(values=worker(critic(), optimizer=None).infer(batch)[0])
    batch = gae(token_rewards(batch, KLConfig(KLPlace.reward, KLEstimator.k1, 0.01)))
    metrics = worker().update(batch, [ppo_clip], PLAN, [0])
    assert all(np.isfinite(value) for value in metrics.values())


# Precision, memory


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_gradient_checkpointing_changes_nothing(kind: str) -> None:
    """Even in a model with dropout, which neither mode may apply."""
    batch, results = tiny.batch(), []
    for checkpointing in (False, True):
        w = worker(tiny.policy(kind), 60, gradient_checkpointing=checkpointing)
        logprobs = w.infer(batch)[0]
        metrics = w.update(batch, LOSSES, PLAN, [0])
        results.append((logprobs, weights(w.model), metrics["loss"]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-6, rtol=0)
    same(results[0][1], results[1][1], 1e-6)
    assert results[0][2] == pytest.approx(results[1][2], abs=1e-6)


def test_gradient_checkpointing_is_on() -> None:
    calls = []
    for checkpointing in (False, True):
        model: Any = tiny.policy()
        w = worker(model, gradient_checkpointing=checkpointing)
        first = model.base_model.layers[0].input_layernorm
        first.register_forward_pre_hook(lambda *_, c=checkpointing: calls.append(c))
        w.optimizer_step(_weighted(tiny.batch()), [negative_log_likelihood])
    assert calls.count(True) == 2 * calls.count(False) > 0  # forward, and again in the backward pass


def _weighted(batch: Batch) -> Batch:
    return batch.with_(weights=token_weights(batch, Aggregation.token_mean, 0))


@pytest.mark.parametrize("role", ["policy", "critic"])
def test_bfloat16_is_close(role: str) -> None:
    batch, results = tiny.batch(), []
    for precision in Precision:
        model: PreTrainedModel | Critic = critic() if role == "critic" else tiny.policy(attention="simplerl_float32")
        w = worker(model, 100, precision=precision, optimizer=OptimizerConfig(lr=1e-4))
        column = w.infer(batch)[0]
        losses = [clipped_value] if role == "critic" else LOSSES
        metrics = w.update(batch, losses, PLAN, [0])
        assert {p.dtype for p in w.model.parameters()} == {torch.float32}
        results.append((column[batch.mask], metrics["loss"], metrics["grad_norm"]))
    (exact, loss, norm), (rough, rough_loss, rough_norm) = results
    gap = float((exact - rough).abs().max())
    assert 0 < gap < 0.2
    assert rough_loss == pytest.approx(loss, abs=0.05) and rough_norm == pytest.approx(norm, rel=0.1)


def test_bfloat16_rounds_neither_logits_nor_values() -> None:
    """Autocast would multiply by the output layer and the value head in bfloat16, which keeps 8 bits: the same hidden
    states must give the log-probs and values of float32 products, unless logits_precision says otherwise."""
    batch = tiny.batch()

    def hidden_states(w: Worker) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return w._hidden_before(batch).double()

    def output_of(w: Worker) -> Tensor:
        """Return the values of the whole batch at once, as in `hidden_states`: other shapes round differently."""
        with torch.no_grad():
            return w.forward(batch)[0][batch.mask]

    gaps = {}
    for logits in Precision:
        w = worker(tiny.policy(), precision=Precision.bfloat16, logits_precision=logits, optimizer=None)
        log_p = torch.log_softmax(hidden_states(w) @ output_weight(w.model).double().T, -1)
        exact = log_p.gather(-1, batch.tokens[batch.mask][:, None]).squeeze(-1)
        gaps[logits] = float((output_of(w) - exact).abs().max())
    assert gaps[Precision.float32] < 1e-4 and gaps[Precision.bfloat16] > 0.005, gaps

    w = worker(critic(), precision=Precision.bfloat16, optimizer=None)
    values = output_of(w)
    exact = (hidden_states(w) @ w.model.value_head.weight[0].double()).float()
    assert float((values - exact).abs().max()) < 1e-5
    assert float((values - values.bfloat16().float()).abs().max()) > 1e-3, "they have more than bfloat16's 8 bits"


def test_losses_are_added_and_metrics_kept_together() -> None:
    batch, plan = tiny.batch(), UpdatePlan(12, 1, Aggregation.token_mean, 0, entropy=True)
    frozen = OptimizerConfig(lr=0.0)
    both = worker(optimizer=frozen).update(batch, LOSSES, plan, [0])
    each = [worker(optimizer=frozen).update(batch, [loss], plan, [0]) for loss in LOSSES]
    assert both["loss"] == pytest.approx(sum(one["loss"] for one in each), abs=1e-5)
    for one in each:
        for name in one.keys() - {"loss", "grad_norm"}:
            assert both[name] == pytest.approx(one[name], abs=1e-6), name


# Faults, files


def test_a_loss_that_is_not_finite_stops_with_its_batch() -> None:
    batch = tiny.batch()
    assert batch.advantages is not None
    broken = torch.full_like(batch.advantages, float("nan"))
    w = worker(tokens=60)
    before = weights(w.model)
    with pytest.raises(NonFinite, match="the loss is not finite") as caught:
        w.update(batch.with_(advantages=broken), [ppo_clip], PLAN, [0])
    assert caught.value.batch.advantages is not None and torch.isnan(caught.value.batch.advantages).any()
    assert len(caught.value.batch) == PLAN.minibatch_size
    assert w.stepper is not None and w.stepper.step_count == 0
    same(weights(w.model), before, 0.0)


def test_a_gradient_that_is_not_finite_stops_with_its_batch() -> None:
    def overflowing(output: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return (output.logprobs * 0).sqrt(), {}  # 0, but its slope is infinite

    w = worker()
    before = weights(w.model)
    with pytest.raises(NonFinite, match="the gradient is not finite"):
        w.update(tiny.batch(), [overflowing], PLAN, [0])
    same(weights(w.model), before, 0.0)


def test_a_frozen_model_holds_no_gradients() -> None:
    w = worker(optimizer=None)
    assert not any(p.requires_grad for p in w.model.parameters())
    with pytest.raises(AssertionError, match="frozen"):
        w.optimizer_step(_weighted(tiny.batch()), [negative_log_likelihood])


def test_saved_and_loaded_worker_goes_on_bit_for_bit(tmp_path: Path) -> None:
    batch, optimizer = tiny.batch(), OptimizerConfig(lr=1e-2)
    straight = worker(tokens=60, optimizer=optimizer, total_steps=8)
    for step in range(2):
        straight.update(batch, LOSSES, PLAN, [step])
        if step == 0:
            straight.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    again = worker(model, 60, optimizer=optimizer, total_steps=8)
    again.load_optimizer(tmp_path)
    again.update(batch, LOSSES, PLAN, [1])
    same(weights(again.model), weights(straight.model), 0.0)


def test_weights_are_named_as_hugging_face_names_them_and_tied_ones_once() -> None:
    tied, untied = tiny.policy(), tiny.policy(tie_word_embeddings=False)
    names = [name for name, _ in worker(tied).named_weights()]
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names and len(names) == len(set(names))
    assert "lm_head.weight" in [name for name, _ in worker(untied).named_weights()]
    assert not any(weight.requires_grad for _, weight in worker(tied).named_weights())
