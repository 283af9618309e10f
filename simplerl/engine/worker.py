"""Performs forward passes and optimizer steps of one model on one device, in any role: policy, reference, critic, ...

A model predicts token t from the tokens before it, while column t of a `Batch` describes token t. This shift by one
happens only in `Worker._hidden_before`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from simplerl.algorithms.losses import Loss, TokenOutput
from simplerl.config import Aggregation, OptimizerConfig, Precision
from simplerl.engine.batching import minibatches, token_weights
from simplerl.engine.lora import (
    ADAPTER,
    Adapter,
    adapter_dropout,
    adapter_parameters,
    adapters_off,
    add_adapter,
    has_adapter,
    merged_weights,
    set_trainable,
    weights_of,
    write_adapter,
)
from simplerl.engine.models import Critic, output_weight, token_logprobs
from simplerl.engine.optimizer import Stepper, TorchStepper
from simplerl.engine.shared_prompts import MicroBatch, SharedPrompts, split
from simplerl.engine.tensors import nonfinite_tensor
from simplerl.errors import NonFinite, RunFailed
from simplerl.types import Batch


@dataclass(frozen=True)
class UpdatePlan:
    """Describes how a batch is split into optimizer steps, and how per-token losses are aggregated."""

    minibatch_size: int  # rows per optimizer step
    epochs: int  # passes over the batch
    aggregation: Aggregation
    constant_length: int = 1  # tokens; only for Aggregation.constant_length
    rows: int = 2  # responses; only for Aggregation.micro_batch_token_mean
    entropy: bool = False  # whether a loss reads the entropy


Forward = Callable[..., tuple[Tensor, ...]]
MAX_DIFFERENCE = {Precision.float32: 1e-3, Precision.bfloat16: 0.5}  # of log-probs or values, caused by rounding


class RankContext(Protocol):
    """Defines the interface of one rank to the group of ranks that jointly hold a model. All methods except `prepare`
    are collective: all ranks must call them together."""

    rank: int  # 0 writes the files that are not sharded

    def prepare(
        self, model: nn.Module, forward: Forward, optimizer: OptimizerConfig | None, total_steps: int
    ) -> tuple[Forward, Stepper | None]:
        """Wrap a model for training or inference. Returns the function to call in place of `forward`, and the stepper
        (None without an optimizer)."""
        ...

    def all_reduce_max(self, count: int) -> int:
        """Return the maximum of `count` over all ranks."""
        ...

    def all_reduce_sum(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the sum of each value over all ranks."""
        ...

    def gathered(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        """Return a context manager within which `parameters` are full, unsharded tensors."""
        ...

    def save(self, model: Any, folder: Path) -> None:
        """Save a policy or critic as a Hugging Face folder, with adapters merged into its weights."""
        ...


class SingleRank:
    """Implements `RankContext` for a model on a single rank."""

    rank = 0

    def prepare(
        self, model: nn.Module, forward: Forward, optimizer: OptimizerConfig | None, total_steps: int
    ) -> tuple[Forward, Stepper | None]:
        return forward, None if optimizer is None else TorchStepper(model, optimizer, total_steps)

    def all_reduce_max(self, count: int) -> int:
        return count

    def all_reduce_sum(self, sums: Mapping[str, float]) -> dict[str, float]:
        return dict(sums)

    def gathered(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        return nullcontext()

    def save(self, model: Any, folder: Path) -> None:
        body = model.body if isinstance(model, Critic) else model
        merged = dict(merged_weights(body, self.gathered)) if has_adapter(body) else None
        model.save_pretrained(folder, state_dict=merged)


class UpdateMixin:
    """Adds the method `update` to classes with a method `optimizer_step`: workers and groups of ranks."""

    optimizer_step: Callable[..., dict[str, float]]

    def update(self, batch: Batch, losses: Sequence[Loss], plan: UpdatePlan, seed: Sequence[int]) -> dict[str, float]:
        """Take all optimizer steps on one batch. Returns metrics averaged over the response tokens of these steps, the
        fraction of padding, the number of steps and the last learning rate."""
        steps = []
        trained = batch.mask if batch.trained is None else batch.mask & batch.trained[:, None]
        tokens_per_minibatch = float(trained.sum()) / math.ceil(len(batch) / plan.minibatch_size)
        weigh = partial(token_weights, aggregation=plan.aggregation, constant_length=plan.constant_length)
        for epoch in range(plan.epochs):
            for minibatch in minibatches(batch, plan.minibatch_size, [*seed, epoch]):
                weights = weigh(minibatch, rows=plan.rows, step_tokens=tokens_per_minibatch)
                steps.append(self.optimizer_step(minibatch.with_(weights=weights), losses, plan.entropy))
        tokens = sum(step["tokens"] for step in steps)
        means = {k: sum(s[k] * s["tokens"] for s in steps) / tokens for k in steps[0]}
        means["padding_share"] = 1 - sum(s["real"] for s in steps) / sum(s["computed"] for s in steps)
        means["optimizer_steps"] = float(len(steps))
        means["lr"] = steps[-1]["lr"]
        return {k: v for k, v in means.items() if k not in ("tokens", "real", "computed")}


class Worker(UpdateMixin):
    """Runs and trains one model: log-probs and entropy of a causal LM, or values of a `Critic`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        precision: Precision,
        tokens_per_micro_batch: int,
        logits_precision: Precision = Precision.float32,
        column_precision: Precision = Precision.float32,
        temperature: float = 1.0,
        gradient_checkpointing: bool = False,
        shared_prompts: bool | None = None,
        compiled: bool = False,
        optimizer: OptimizerConfig | None = None,
        total_steps: int = 1,
        tokenizer: Any = None,
        adapter: Adapter | None = None,
        ranks: RankContext | None = None,
    ) -> None:
        self.model: Any = model
        self.adapter = adapter
        self.tokenizer = tokenizer
        self.ranks: RankContext = ranks or SingleRank()
        self.is_critic = isinstance(model, Critic)
        body: Any = self.model.body if self.is_critic else self.model.base_model
        self.body = body
        self.device = next(model.parameters()).device
        self.precision = precision
        self.logits_dtype = getattr(torch, logits_precision.name)
        self.column_dtype = getattr(torch, column_precision.name)
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.temperature = temperature
        if adapter is not None:
            add_adapter(model, adapter, body.config.name_or_path)
        self.shared_prompts = shared_prompts
        self.window = getattr(self.body.config, "sliding_window", None) or math.inf
        self._checked = False
        if gradient_checkpointing:
            self.body.gradient_checkpointing_enable({"use_reentrant": False})
            for module in self.body.modules():  # train mode only for these, so that dropout stays off
                module.training = isinstance(module, GradientCheckpointingLayer)
        if compiled:
            for layer in self.body.modules():
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.compile(dynamic=True)
        set_trainable(model, optimizer is not None)
        self.run_forward, self.stepper = self.ranks.prepare(model, self.forward, optimizer, total_steps)

    def _hidden_before(self, micro: Batch, shared: SharedPrompts | None = None) -> Tensor:
        """Return the hidden state before each of the N tokens under the mask, [N, H].

        Rows are right-padded and attention is causal, so response tokens never attend to padding and no attention mask
        is needed."""
        if shared is None:
            hidden: Tensor = self.body(input_ids=micro.tokens, use_cache=False).last_hidden_state
            return hidden[:, :-1][micro.mask[:, 1:]]
        hidden = self.body(**shared.model_inputs(), use_cache=False).last_hidden_state
        return hidden[0, shared.place[:, :-1][micro.mask[:, 1:]]]

    def forward(self, micro: Batch, entropy: bool = True, shared: SharedPrompts | None = None) -> tuple[Tensor, ...]:
        """Run one micro-batch, by the layout `shared` if there is one. Returns (logprobs, entropy) or (values,), each
        [b, T] float32 and zero outside the mask. The entropy is zero if `entropy` is False."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision is Precision.bfloat16):
            hidden = self._hidden_before(micro, shared)
        if self.is_critic:
            columns: tuple[Tensor, ...] = (self.model.value_head(hidden.float()).squeeze(-1),)
        else:
            targets, weight = micro.tokens[micro.mask], output_weight(self.model)
            columns = token_logprobs(hidden, weight, targets, self.temperature, self.logits_dtype, entropy)
        blank = torch.zeros(micro.tokens.shape, device=self.device)
        return tuple(blank.masked_scatter(micro.mask, column.to(self.column_dtype).float()) for column in columns)

    def _micro_batches(self, batch: Batch) -> list[MicroBatch]:
        """Split a batch on the CPU into micro-batches. All ranks return equally many, because forward passes of ZeRO-3
        are collective."""
        shared = self.shared_prompts if batch.tokens.shape[1] <= self.window else False
        micros = split(batch, self.tokens_per_micro_batch, shared)
        missing = self.ranks.all_reduce_max(len(micros)) - len(micros)
        micros += [MicroBatch(torch.tensor([], dtype=torch.int64), _zero_weight_batch(batch))] * missing
        self._compare_once(micros[0])
        return micros

    @torch.no_grad()
    def _compare_once(self, micro: MicroBatch) -> None:
        """Compare shared prompts with the plain pass on the first micro-batch that uses them. Raises RunFailed if they
        differ by more than rounding."""
        if self._checked or not self.ranks.all_reduce_max(int(micro.shared is not None)):
            return
        self._checked = True
        shared = self._run(micro)[0]
        plain = self._run(replace(micro, shared=None))[0]
        difference = float((shared - plain).abs().max())
        limit = MAX_DIFFERENCE[self.precision]
        if not difference <= limit:
            raise RunFailed(
                f"train.shared_prompts: the model's outputs change by {difference:.2g} (up to {limit} is rounding) if "
                "each prompt is computed once: set train.shared_prompts=false."
            )

    def _run(self, micro: MicroBatch, entropy: bool = False) -> tuple[Tensor, ...]:
        shared = None if micro.shared is None else micro.shared.to(self.device)
        return self.run_forward(micro.batch.to(self.device), entropy, shared)

    @torch.no_grad()
    def infer(self, batch: Batch, entropy: bool = True) -> tuple[Tensor, ...]:
        """Run `forward` on a whole batch without gradients. Returns its tensors as [B, T] on the CPU, zero outside the
        mask."""
        results: tuple[Tensor, ...] = ()
        for micro in self._micro_batches(batch):
            outputs = self._run(micro, entropy)
            results = results or tuple(torch.zeros(batch.tokens.shape) for _ in outputs)
            for result, output in zip(results, outputs, strict=True):
                result[micro.rows, : output.shape[1]] = output.cpu()[: len(micro.rows)]
        return results

    def optimizer_step(self, minibatch: Batch, losses: Sequence[Loss], entropy: bool = False) -> dict[str, float]:
        """Take one optimizer step on rows whose token weights are set, accumulating gradients over micro-batches. Each
        rank receives its own rows; all return the metrics of the whole minibatch. Raises NonFinite if the loss or the
        gradient is not finite. entropy: compute the entropies that the losses read."""
        assert self.stepper is not None, "a frozen model has no optimizer"
        micros = self._micro_batches(minibatch)
        sums: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        for i, micro_batch in enumerate(micros):
            micro = micro_batch.batch.to(self.device)
            assert micro.weights is not None
            with adapter_dropout(self.model, self.adapter, [self.stepper.step_count, i, self.ranks.rank]):
                outputs = self._run(micro_batch, entropy)
                output = outputs[0] if self.is_critic else TokenOutput(*outputs)
                per_token = torch.zeros((), device=self.device)
                for loss in losses:
                    term, metrics = loss(output, micro)
                    per_token = per_token + term
                    for name, values in metrics.items():
                        sums[name] = sums.get(name, torch.zeros((), device=self.device)) + (values * micro.mask).sum()
                micro_loss = (per_token * micro.weights).sum()
                self.stepper.backward(micro_loss, last=i + 1 == len(micros))
            total += micro_loss.detach()
        counts = {
            "loss": float(total),
            "tokens": float(minibatch.mask.sum()),
            "real": float(sum(micro_batch.real for micro_batch in micros)),
            "computed": float(sum(micro_batch.computed for micro_batch in micros)),
        }
        totals = self.ranks.all_reduce_sum({name: float(value) for name, value in sums.items()} | counts)
        if not math.isfinite(totals["loss"]):
            raise NonFinite("the loss", minibatch)
        step = self.stepper.step()
        if not math.isfinite(step["grad_norm"]):
            raise NonFinite("the gradient", minibatch)
        means = {name: totals[name] / totals["tokens"] for name in sums}
        return {"loss": totals["loss"], **means, **step, **{name: totals[name] for name in counts if name != "loss"}}

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the full weights with their Hugging Face names, adapters merged; tied weights are yielded once."""
        yield from merged_weights(self.model, self.ranks.gathered)

    def save(self, folder: Path) -> None:
        """Save a Hugging Face folder with the model, the tokenizer (if any), the optimizer state (if trainable) and the
        adapter (if any) in the subfolder `adapter`. Raises NonFinite, before anything is written, if a weight is not
        finite."""
        if broken := nonfinite_tensor(self.named_weights()):
            raise NonFinite(f"weight {broken} of {folder.name}")
        self.ranks.save(self.model, folder)
        if self.tokenizer is not None and self.ranks.rank == 0:
            self.tokenizer.save_pretrained(folder)
        if self.stepper is not None:
            self.stepper.save(folder)
        if self.adapter is not None:
            self._save_adapter(folder / ADAPTER)

    def _save_adapter(self, folder: Path) -> None:
        tensors = {}
        for name, parameter in adapter_parameters(self.model):
            with self.ranks.gathered([parameter]):
                tensors[name] = parameter.detach().to("cpu", copy=True)
        if self.ranks.rank == 0:
            write_adapter(self.model, tensors, folder)

    def load_optimizer(self, folder: Path) -> None:
        """Load the optimizer state that `save` wrote."""
        assert self.stepper is not None
        self.stepper.load(folder)


class InitialPolicy(Worker):
    """Computes with the initial policy of a worker that trains an adapter: with its base weights, of which no second
    copy exists. It cannot be trained."""

    def __init__(self, policy: Worker) -> None:
        vars(self).update(vars(policy), stepper=None)

    def infer(self, batch: Batch, entropy: bool = True) -> tuple[Tensor, ...]:
        with adapters_off(self.model):
            return super().infer(batch, entropy)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        for weight in weights_of(self.model):
            yield weight.name, weight.base.detach()


def _zero_weight_batch(batch: Batch) -> Batch:
    """Return the shortest row with weight zero, as a micro-batch for a rank with fewer micro-batches than others."""
    shortest = batch.rows(batch.attention.sum(-1).argmin()[None])
    zeros = {"mask": torch.zeros_like(shortest.mask)}
    if shortest.weights is not None:
        zeros["weights"] = torch.zeros_like(shortest.weights)
    return shortest.with_(**zeros)
