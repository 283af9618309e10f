"""One model on one device, in any role: policy, reference or critic.

The shift by one between what a model computes (from tokens up to t) and the frame of `Batch`
(column t speaks of token t) happens in `Worker._before` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from simplerl.batching import micro_batches, minibatches, token_weights
from simplerl.config import Aggregation, OptimizerConfig, Precision
from simplerl.losses import LossOutput, TokenOutput
from simplerl.models import Critic, output_weight, token_logprobs
from simplerl.stepping import TorchStepper
from simplerl.types import Batch


class NonFinite(RuntimeError):
    """A loss or gradient that is not a finite number; carries the batch for inspection."""

    def __init__(self, what: str, batch: Batch) -> None:
        super().__init__(f"{what} is not finite")
        self.batch = batch


@dataclass(frozen=True)
class UpdatePlan:
    """How a batch becomes optimizer steps."""

    minibatch_size: int  # rows per optimizer step
    epochs: int
    aggregation: Aggregation
    constant_length: int  # tokens; only for Aggregation.constant_length
    entropy: bool = False  # the loss reads it


class Worker:
    """Forward and update of one model: log-probs and entropy of a causal LM, or values of a `Critic`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        precision: Precision,
        tokens_per_micro_batch: int,
        temperature: float = 1.0,
        gradient_checkpointing: bool = False,
        optimizer: OptimizerConfig | None = None,
        total_steps: int = 1,
        tokenizer: Any = None,
    ) -> None:
        self.model: Any = model
        self.tokenizer = tokenizer
        self.is_critic = isinstance(model, Critic)
        body: Any = self.model.body if self.is_critic else self.model.base_model
        self.body = body
        self.device = next(model.parameters()).device
        self.precision = precision
        self.dtype = torch.bfloat16 if precision is Precision.bfloat16 else torch.float32
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.temperature = temperature
        if gradient_checkpointing:
            self.body.gradient_checkpointing_enable({"use_reentrant": False})
            for module in self.body.modules():  # these alone, so that no dropout wakes up
                module.training = isinstance(module, GradientCheckpointingLayer)
        self.stepper = None if optimizer is None else TorchStepper(model, optimizer, total_steps)
        model.requires_grad_(optimizer is not None)

    def _before(self, micro: Batch) -> Tensor:
        """[N, H]: the hidden state before each token under the mask.

        Rows are padded on the right and attention is causal, so no token that counts sees padding and
        no attention mask is needed."""
        hidden: Tensor = self.body(input_ids=micro.tokens, use_cache=False).last_hidden_state
        return hidden[:, :-1][micro.mask[:, 1:]]

    def forward(self, micro: Batch, entropy: bool = True) -> tuple[Tensor, ...]:
        """One micro-batch in one pass: (logprobs, entropy) or (values,), each [b, T] and zero outside the mask."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision is Precision.bfloat16):
            hidden = self._before(micro)
            if self.is_critic:
                columns: tuple[Tensor, ...] = (self.model.value_head(hidden).squeeze(-1).float(),)
            else:
                targets = micro.tokens[micro.mask]
                weight = output_weight(self.model)
                columns = token_logprobs(hidden, weight, targets, self.temperature, self.dtype, entropy)
        blank = torch.zeros(micro.tokens.shape, device=self.device)
        return tuple(blank.masked_scatter(micro.mask, column) for column in columns)

    @torch.no_grad()
    def infer(self, batch: Batch) -> tuple[Tensor, ...]:
        """`forward` on a whole batch, on the CPU: tensors [B, T]."""
        results: tuple[Tensor, ...] = ()
        for rows in micro_batches(batch.attention.sum(-1), self.tokens_per_micro_batch):
            outputs = self.forward(batch.rows(rows).to(self.device))
            results = results or tuple(torch.zeros(batch.tokens.shape) for _ in outputs)
            for result, output in zip(results, outputs, strict=True):
                result[rows, : output.shape[1]] = output.cpu()
        return results

    def update(
        self, batch: Batch, loss: Callable[[Any, Batch], LossOutput], plan: UpdatePlan, seed: Sequence[int]
    ) -> dict[str, float]:
        """All optimizer steps on one batch. Metrics are means over the response tokens of these steps."""
        steps = []
        for epoch in range(plan.epochs):
            for minibatch in minibatches(batch, plan.minibatch_size, [*seed, epoch]):
                weights = token_weights(minibatch.mask, plan.aggregation, plan.constant_length)
                steps.append(self.optimizer_step(minibatch.with_(weights=weights), loss, plan.entropy))
        tokens = sum(step["tokens"] for step in steps)
        means = {k: sum(s[k] * s["tokens"] for s in steps) / tokens for k in steps[0]}
        means["padding_share"] = 1 - sum(s["real"] for s in steps) / sum(s["computed"] for s in steps)
        means["optimizer_steps"] = float(len(steps))
        means["lr"] = steps[-1]["lr"]
        return {k: v for k, v in means.items() if k not in ("tokens", "real", "computed")}

    def optimizer_step(
        self, minibatch: Batch, loss: Callable[[Any, Batch], LossOutput], entropy: bool = False
    ) -> dict[str, float]:
        """One step on rows whose token weights are set, in micro-batches of the token budget."""
        assert self.stepper is not None, "a frozen model has no optimizer"
        sums: dict[str, Tensor] = {}
        total, computed = torch.zeros((), device=self.device), 0
        for rows in micro_batches(minibatch.attention.sum(-1), self.tokens_per_micro_batch):
            micro = minibatch.rows(rows).to(self.device)
            assert micro.weights is not None
            outputs = self.forward(micro, entropy)
            per_token, metrics = loss(outputs[0] if self.is_critic else TokenOutput(*outputs), micro)
            micro_loss = (per_token * micro.weights).sum()
            self.stepper.backward(micro_loss)
            total += micro_loss.detach()
            computed += micro.tokens.numel()
            for name, values in metrics.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + (values * micro.mask).sum()
        if not torch.isfinite(total):
            raise NonFinite("the loss", minibatch)
        step = self.stepper.step()
        if not torch.isfinite(torch.tensor(step["grad_norm"])):
            raise NonFinite("the gradient", minibatch)
        tokens = float(minibatch.mask.sum())
        real = float(minibatch.attention.sum())
        means = {name: float(value) / tokens for name, value in sums.items()}
        return {"loss": float(total), **means, **step, "tokens": tokens, "real": real, "computed": float(computed)}

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters under their Hugging Face names, each tied weight once."""
        for name, parameter in self.model.named_parameters():
            yield name, parameter.detach()

    def save(self, folder: Path) -> None:
        """A Hugging Face folder, with its tokenizer if given, and the optimizer's state beside the weights."""
        self.model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        if self.stepper is not None:
            self.stepper.save(folder)

    def load_optimizer(self, folder: Path) -> None:
        assert self.stepper is not None
        self.stepper.load(folder)
