"""Trains one model on several ranks with DeepSpeed's ZeRO; on a single rank, a `Worker` uses plain PyTorch.

The results equal those of a single rank. Weights, gradients, gradient sums and Adam's moments are float32; bfloat16 is
used by autocast in the forward pass only, on CPUs and GPUs alike (DeepSpeed's own bfloat16 mode would also round
weights, norms and the residual stream). The denominators of a loss are fixed before its rows are distributed, so the
loss is multiplied by the number of ranks to undo DeepSpeed's average over ranks, and DeepSpeed's division by the number
of micro-steps is turned off.

Memory per parameter, summed over the ranks of ZeRO-3: 4 bytes of weights, 4 of DeepSpeed's master copy, 4 of gradients
and 8 of moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.zero import GatheredParameters, register_external_parameter
from safetensors.torch import save_file
from torch import Tensor, nn

from simplerl.cluster.layout import Sharding
from simplerl.config import OptimizerConfig
from simplerl.engine.lora import merged_weights
from simplerl.engine.models import VALUE_HEAD, Critic, output_weight
from simplerl.engine.optimizer import (
    MOMENTS,
    OPTIMIZER,
    Stepper,
    TorchStepper,
    adamw,
    learning_rate,
    read_moments,
    write_step,
)
from simplerl.engine.tensors import shard_name, write_index
from simplerl.engine.worker import Forward


class DistributedRanks:
    """Implements `simplerl.engine.worker.RankContext` with the default process group of torch.distributed."""

    def __init__(self, sharding: Sharding) -> None:
        self.sharding = sharding
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"

    def prepare(
        self, model: nn.Module, forward: Forward, optimizer: OptimizerConfig | None, total_steps: int
    ) -> tuple[Forward, Stepper | None]:
        if optimizer is not None and self.sharding.zero_stage > 0:
            stepper = DeepSpeedStepper(model, forward, optimizer, total_steps, self)
            return stepper.engine, stepper
        if optimizer is not None:
            return forward, ReplicatedStepper(model, optimizer, total_steps)
        if self.sharding.zero_stage == 3:
            config = _deepspeed_config(self.sharding, 1.0)
            engine, *_ = deepspeed.initialize(model=_ForwardModule(model, forward, sharded=True), config=config)
            return engine, None
        return forward, None

    def all_reduce_max(self, count: int) -> int:
        counts = torch.tensor(count, device=self.device)
        dist.all_reduce(counts, dist.ReduceOp.MAX)
        return int(counts)

    def all_reduce_sum(self, sums: Mapping[str, float]) -> dict[str, float]:
        names = sorted(sums)
        values = torch.tensor([sums[name] for name in names], dtype=torch.float64, device=self.device)
        dist.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    def gathered(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        if self.sharding.zero_stage < 3:
            return nullcontext()
        return GatheredParameters(list(parameters))  # type: ignore[no-any-return]

    def save(self, model: Any, folder: Path) -> None:
        """Write the model as a Hugging Face checkpoint with one file per rank. Parameters are gathered one at a time,
        and each is written by one rank."""
        body = model.body if isinstance(model, Critic) else model
        folder.mkdir(parents=True, exist_ok=True)
        self.write(folder, "model", merged_weights(body, self.gathered))
        if isinstance(model, Critic):
            head: Any = model.value_head.weight
            with self.gathered([head]):
                if self.rank == 0:
                    save_file({"weight": head.detach().cpu()}, folder / VALUE_HEAD)
        if self.rank == 0:
            body.config.architectures = [type(body).__name__]
            body.config.dtype = "float32"
            body.config.save_pretrained(folder)
            if body.can_generate():
                body.generation_config.save_pretrained(folder)

    def write(self, folder: Path, stem: str, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Write tensors that all ranks iterate over together, in one safetensors file per rank. The next tensor is
        written by the rank with the fewest bytes so far."""
        kept_bytes = [0] * self.size
        files: dict[str, str] = {}
        own: dict[str, Tensor] = {}
        for name, tensor in tensors:
            keeper = kept_bytes.index(min(kept_bytes))
            kept_bytes[keeper] += tensor.nbytes
            files[name] = shard_name(stem, keeper + 1, self.size)
            if keeper == self.rank:
                own[name] = tensor.to("cpu", copy=True).contiguous()
        save_file(own, folder / shard_name(stem, self.rank + 1, self.size), metadata={"format": "pt"})
        if self.rank == 0 and self.size > 1:
            write_index(folder, stem, files, sum(kept_bytes))
        dist.barrier()


class ReplicatedStepper(TorchStepper):
    """Performs optimizer steps without sharding (ZeRO stage 0): every rank holds all state, and gradients are summed
    over ranks before the step."""

    def step(self) -> dict[str, float]:
        gradients = [parameter.grad for parameter in self.names.values() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        return super().step()

    def save(self, folder: Path) -> None:
        if dist.get_rank() == 0:
            super().save(folder)
        dist.barrier()


class _ForwardModule(nn.Module):
    """Wraps a model so that DeepSpeed sees each forward call: under ZeRO-3 its hooks gather the weights of the modules
    inside. The output layer's weight is registered, because it is used without calling the layer."""

    def __init__(self, model: Any, forward: Forward, sharded: bool) -> None:
        super().__init__()
        self.model, self._forward = model, forward
        if sharded and not isinstance(model, Critic):
            register_external_parameter(self, output_weight(model))

    def forward(self, *arguments: Any) -> tuple[Tensor, ...]:
        return self._forward(*arguments)


def _deepspeed_config(sharding: Sharding, grad_clip: float) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    zero: dict[str, Any] = {"stage": sharding.zero_stage, **sharding.deepspeed}
    if sharding.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda}
    return {
        "train_micro_batch_size_per_gpu": 1,  # unused: the worker makes the micro-batches
        "gradient_clipping": grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # torch's AdamW, as in a single process
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


class DeepSpeedStepper:
    """Performs optimizer steps under ZeRO stages 1 to 3; implements `simplerl.engine.optimizer.Stepper`."""

    def __init__(
        self, model: nn.Module, forward: Forward, config: OptimizerConfig, total_steps: int, ranks: DistributedRanks
    ) -> None:
        self.config, self.total_steps, self.ranks = config, total_steps, ranks
        self.names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.step_count = 0
        self.optimizer = adamw(self.names.values(), config)
        self.stage = ranks.sharding.zero_stage
        self.engine, *_ = deepspeed.initialize(
            model=_ForwardModule(model, forward, sharded=self.stage == 3),
            optimizer=self.optimizer,
            config=_deepspeed_config(ranks.sharding, config.grad_clip),
        )
        self.zero: Any = self.engine.optimizer

    def backward(self, loss: Tensor, last: bool = True) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self.ranks.size, scale_wrt_gas=False)

    def step(self) -> dict[str, float]:
        """Take an optimizer step and return "grad_norm" and "lr", as `TorchStepper.step` does. But if the norm is not
        finite, the weights have been updated and are not finite either."""
        lr = learning_rate(self.config, self.step_count, self.total_steps)
        for group in self.zero.param_groups:
            group["lr"] = lr
        self.engine.step()
        self.step_count += 1
        return {"grad_norm": float(self.engine.get_global_grad_norm()), "lr": lr}

    def save(self, folder: Path) -> None:
        self.ranks.write(folder, OPTIMIZER, self._moments())
        if self.ranks.rank == 0:
            write_step(folder, self.step_count)

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        if not self.step_count:
            return
        for name, parameter in self.names.items():
            for key in MOMENTS:
                yield f"{key}.{name}", deepspeed.utils.safe_get_full_optimizer_state(parameter, key)

    def load(self, folder: Path) -> None:
        shapes = {name: getattr(parameter, "ds_shape", parameter.shape) for name, parameter in self.names.items()}
        self.step_count, tensors = read_moments(folder, shapes)
        if not self.step_count:
            return
        # This rank's shard of the master weights, as the optimizer holds it: flat tensors.
        zero = self.zero
        for flat in zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups:
            self.optimizer.state[flat] = {
                "step": torch.tensor(float(self.step_count), device=flat.device),
                **{key: torch.zeros_like(flat) for key in MOMENTS},
            }
        if self.stage < 3:
            self.zero._lazy_init_hp_params_optimizer_state()
        for name, parameter in self.names.items():
            for key in MOMENTS:
                self._set_moment(parameter, key, tensors[f"{key}.{name}"])

    def _set_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        if self.stage < 3:
            deepspeed.utils.safe_set_full_optimizer_state(parameter, value, key)
            return
        # DeepSpeed's function for whole tensors fails if their size is not divisible by the number of ranks.
        size = parameter.ds_tensor.numel()
        padded = nn.functional.pad(value.flatten(), (0, size * self.ranks.size - value.numel()))
        own = padded[self.ranks.rank * size :][:size]
        deepspeed.utils.safe_set_local_optimizer_state(parameter, own, key)
