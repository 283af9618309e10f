"""Decoding for checkpoints of the Llama family (Llama, Mistral, Qwen2, Qwen3), by hand for speed.

Its own copy of the weights (`fused`), products in `precision`, everything else in float32 (on a
GPU the cache too is in `precision`). A prompt's keys and values are held once, whatever the number
of its samples; the queries of all its rows meet them in one product. What a row generates lies in
a second cache whose rows share one clock: all write the same column, and a row sees the columns
since it joined. One softmax runs over both parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from simplerl.samplers.fused_weights import Layer, Shape, fuse

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3", "yarn")  # angles that depend on the position alone
_COLUMNS = 16  # of the cache at first
_DENSE = 0.75  # prompts are moved together when at most this share of them is in use
_KEPT_BYTES = 2**28
_PREFILL_TOKENS = 8192  # padded tokens of one prefill forward


def refusal(model: PreTrainedModel) -> str | None:
    """Why this decoder cannot run the model, or None."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"its architecture is {config.model_type}"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if config.rope_parameters["rope_type"] not in ROPES:
        return f"its rope type is {config.rope_parameters['rope_type']}"
    layer = model.model.layers[0]
    if layer.mlp.gate_proj.bias is not None:
        return "its MLP has biases"
    if _slides(config):
        return "its attention slides"
    return None


def _slides(config: PreTrainedConfig) -> bool:
    if config.model_type == "mistral":
        return config.sliding_window is not None and config.sliding_window < config.max_position_embeddings
    return hasattr(config, "layer_types") and "sliding_attention" in (config.layer_types or ())


@dataclass(frozen=True)
class _Plan:
    """How rows meet the prompts they share; holds until rows come or go.

    Rows are laid out as [prompts, kv heads, places], places being the most rows of one prompt.
    """

    gather: Tensor  # [prompts * kv heads * places] which (row, kv head) stands there
    scatter: Tensor  # [rows * kv heads] where each (row, kv head) stands
    bias: Tensor  # [prompts * kv heads, 1, width] -inf beyond a prompt's end
    width: int  # tokens of the longest prompt


class LlamaDecoder:
    """Rows of text that grow by a token at a time. `refills`: rows may join while others are running."""

    refills = True

    def __init__(self, model: PreTrainedModel, precision: torch.dtype) -> None:
        shape = self.shape = Shape.of(model)
        self.device = model.device
        self.precision = precision
        self.cache_dtype = precision if self.device.type == "cuda" else torch.float32
        self.kv_heads, self.group, self.head_size = shape.kv_heads, shape.group, shape.head_size
        self.eps = torch.tensor(model.config.rms_norm_eps, device=self.device)
        self.rotary = model.model.rotary_emb
        self.angles = self._angles(1024)
        self.row_bytes = 2 * shape.depth * self.kv_heads * self.head_size * self.cache_dtype.itemsize
        # Queries are scaled as they are turned.
        scale = torch.tensor([self.head_size**-0.5] * self.group + [1.0], device=self.device)
        self.scale = scale[:, None]  # [group + 1, 1]
        self.memory = torch.empty(0, dtype=self.cache_dtype, device=self.device)
        self.load(model.named_parameters())
        self.clear()

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Takes a copy of all weights. Raises ValueError where a parameter is unknown or missing."""
        self.weights = fuse(weights, self.shape, self.precision, self.device)

    # ------------------------------------------------------------------ rows

    def clear(self) -> None:
        """Forgets all rows and gives their memory back, but for a small cache, whose pages are worth keeping."""
        self.owner: list[int] = []  # [rows] which prompt
        self.start: list[int] = []  # [rows] the column at which it joined
        self.prompt_length: list[int] = []  # [prompts] tokens
        self.clock = 0
        self._plan: _Plan | None = None
        shape = (self.shape.depth, 0, self.kv_heads, 0, self.head_size)
        self.prompt_keys, self.prompt_values = (torch.zeros(shape, device=self.device) for _ in range(2))
        if self.memory.nbytes > _KEPT_BYTES:
            self.memory = self.memory.new_empty(0)
        self.cache = self.memory[:0].view(self.shape.depth, 0, self.kv_heads, 2, 0, self.head_size)

    def _reserve(self, rows: int) -> None:
        """Room for so many rows in all and one more column; what is cached stays."""
        have, columns = self.cache.shape[1], self.cache.shape[4]
        if rows <= have and self.clock < columns:
            return
        low = min(self.start, default=self.clock)
        if self.clock == columns:
            # By halves, not at once: a dense cache is read almost twice as fast as one with gaps.
            columns = max(_COLUMNS, (self.clock - low) * 3 // 2)
        self._move(max(rows, have), columns, low)
        self.start = [start - low for start in self.start]
        self.clock -= low

    def _move(self, rows: int, columns: int, low: int) -> None:
        """Lays the cache out anew, its columns from `low` on; within its memory where that is large enough."""
        old = self.cache[:, : len(self.start), :, :, low : self.clock]
        shape = (self.shape.depth, rows, self.kv_heads, 2, columns, self.head_size)
        size = math.prod(shape)
        inside = size <= len(self.memory)
        if not inside:
            self.memory = torch.empty(size, dtype=self.cache_dtype, device=self.device)
        self.cache = self.memory[:size].view(shape)
        # Layer by layer from the end that is overwritten last.
        layers = range(self.shape.depth)
        for layer in layers if old.stride(0) > self.cache.stride(0) else reversed(layers):
            part = old[layer].clone() if inside else old[layer]
            self.cache[layer, : len(self.start), :, :, : self.clock - low] = part

    @torch.inference_mode()
    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; rows not named are gone."""
        moved = [(new, old) for new, old in enumerate(order) if new != old]
        if moved:
            new, old = (torch.tensor(index, device=self.device) for index in zip(*moved, strict=True))
            window = self.cache[:, :, :, :, min(self.start[i] for i in order) : self.clock]
            window[:, new] = window[:, old]
        self.start = [self.start[i] for i in order]
        self.owner = [self.owner[i] for i in order]
        self._plan = None
        used = sorted(set(self.owner))
        if len(used) <= _DENSE * len(self.prompt_length):
            self._keep_prompts(used)

    def _keep_prompts(self, used: Sequence[int]) -> None:
        index = torch.tensor(used, dtype=torch.int64, device=self.device)
        self.prompt_length = [self.prompt_length[i] for i in used]
        width = max(self.prompt_length, default=0)
        self.prompt_keys = self.prompt_keys[:, index, :, :width]
        self.prompt_values = self.prompt_values[:, index, :, :width]
        place = {prompt: i for i, prompt in enumerate(used)}
        self.owner = [place[i] for i in self.owner]

    @torch.inference_mode()
    def admit(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> Tensor:
        """Appends repeats[i] rows that begin with prompts[i]; logits of their next token [rows, V], float32."""
        self._reserve(len(self.start) + sum(repeats))
        first = len(self.prompt_length)
        self.owner += [first + i for i, count in enumerate(repeats) for _ in range(count)]
        # What a new row must not see is masked, and must be finite for that.
        self.cache[:, len(self.start) : len(self.owner), :, :, min(self.start, default=self.clock) : self.clock] = 0
        self.start += [self.clock] * sum(repeats)
        self.prompt_length += map(len, prompts)
        self._plan = None
        logits, begin = [], 0
        while begin < len(prompts):
            end, width = begin, 0
            while end < len(prompts) and max(width, len(prompts[end])) * (end + 1 - begin) <= _PREFILL_TOKENS:
                width = max(width, len(prompts[end]))
                end += 1
            end = max(end, begin + 1)
            logits.append(self._prefill(prompts[begin:end]))
            begin = end
        return torch.cat(logits).repeat_interleave(torch.tensor(repeats, device=self.device), 0)

    def _make_plan(self) -> _Plan:
        owner = torch.tensor(self.owner)
        counts = owner.bincount(minlength=len(self.prompt_length))
        order = owner.argsort(stable=True)
        rank = torch.empty_like(owner)
        rank[order] = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner[order]]
        places = int(counts.max())
        head = torch.arange(self.kv_heads)
        scatter = ((owner[:, None] * self.kv_heads + head) * places + rank[:, None]).flatten()
        gather = torch.zeros(len(counts) * self.kv_heads * places, dtype=torch.int64)
        gather[scatter] = torch.arange(len(scatter))
        width = self.prompt_keys.shape[3]
        beyond = torch.arange(width) >= torch.tensor(self.prompt_length)[:, None]
        bias = torch.zeros(beyond.shape, dtype=self.cache_dtype).masked_fill_(beyond, -torch.inf)
        bias = bias.repeat_interleave(self.kv_heads, 0)[:, None]
        return _Plan(gather.to(self.device), scatter.to(self.device), bias.to(self.device), width)

    # ------------------------------------------------------------------ forward

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Appends the prompts' keys and values; logits of what follows each, [prompts, V]."""
        width = max(map(len, prompts))
        tokens = torch.tensor([[*prompt] + [0] * (width - len(prompt)) for prompt in prompts], device=self.device)
        angles = self._turns(range(width))  # [width, 1, group + 1, head size / 2]
        cached = []
        x = self._embed(tokens)
        for layer in self.weights.layers:
            heads = self._heads(layer, x, angles).to(self.cache_dtype)  # [prompts, width, kv heads, group + 2, size]
            q = heads[..., : self.group, :].flatten(2, 3).transpose(1, 2)
            k, v = (heads[..., i, :].transpose(1, 2) for i in (-2, -1))
            cached.append((k, v))
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
            x = self._finish(layer, x, mixed.transpose(1, 2).flatten(2))
        keys, values = (torch.stack(part) for part in zip(*cached, strict=True))
        self.prompt_keys = _joined(self.prompt_keys, keys)
        self.prompt_values = _joined(self.prompt_values, values)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        return self._logits(x[torch.arange(len(prompts), device=self.device), last])

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Appends tokens [rows] and gives the logits of the next ones [rows, V], float32."""
        rows = len(self.start)
        self._reserve(rows)
        self._plan = plan = self._plan or self._make_plan()
        low = min(self.start)
        position = [
            self.prompt_length[own] + self.clock - start for own, start in zip(self.owner, self.start, strict=True)
        ]
        angles = self._turns(position)
        hidden = self._hidden(low)

        x = self._embed(tokens)
        for index, layer in enumerate(self.weights.layers):
            heads = self._heads(layer, x, angles).to(self.cache_dtype)  # [rows, kv heads, group + 2, head size]
            window = self.cache[index, :rows, :, :, low : self.clock + 1]
            window[:, :, :, -1] = heads[:, :, self.group :]
            q = heads.flatten(0, 1)[:, : self.group]
            x = self._finish(layer, x, self._attend(plan, index, q, window.flatten(0, 1), hidden).view(rows, -1))
        self.clock += 1
        return self._logits(x)

    def _hidden(self, low: int) -> Tensor | None:
        """True [rows * kv heads, 1, columns] where a row had not yet joined; None where all see all."""
        if max(self.start) == low:
            return None
        start = torch.tensor(self.start, device=self.device).repeat_interleave(self.kv_heads)
        return (torch.arange(low, self.clock + 1, device=self.device) < start[:, None])[:, None]

    def _attend(self, plan: _Plan, index: int, q: Tensor, window: Tensor, hidden: Tensor | None) -> Tensor:
        """q [rows * kv heads, group, size] over its prompt and window [rows * kv heads, 2, columns, size]."""
        keys, values = (part[index].flatten(0, 1) for part in (self.prompt_keys, self.prompt_values))
        shared = q.index_select(0, plan.gather).view(len(keys), -1, self.head_size)
        there = torch.baddbmm(plan.bias, shared, keys.transpose(1, 2))
        there = there.view(-1, self.group, plan.width).index_select(0, plan.scatter)
        here = torch.bmm(q, window[:, 0].transpose(1, 2))
        if hidden is not None:
            here.masked_fill_(hidden, -torch.inf)
        weight = torch.cat((there, here), -1).softmax(-1)
        there = weight[..., : plan.width].contiguous().index_select(0, plan.gather).view(len(keys), -1, plan.width)
        mixed = torch.bmm(there, values).view(-1, self.group, self.head_size).index_select(0, plan.scatter)
        return mixed.baddbmm_(weight[..., plan.width :], window[:, 1])

    def _turns(self, positions: Sequence[int]) -> Tensor:
        """[n, 1, group + 1, head size / 2]: by how much queries and keys are turned, and queries scaled."""
        if max(positions) >= len(self.angles):
            self.angles = self._angles(2 * max(positions))
        return self.angles[torch.tensor(positions, device=self.device)][:, None, None] * self.scale

    def _angles(self, count: int) -> Tensor:
        """[count, head size / 2] complex, by the model's own rotary module, so that every scaling it knows is right."""
        cos, sin = self.rotary(torch.zeros(1, device=self.device), torch.arange(count, device=self.device)[None])
        half = cos.shape[-1] // 2
        return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())

    def _embed(self, tokens: Tensor) -> Tensor:
        return functional.embedding(tokens, self.weights.embedding).float()

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        # Fewer and larger operations than functional.rms_norm has on CPUs.
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * torch.addcmul(self.eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()).mul_(weight)

    def _heads(self, layer: Layer, x: Tensor, angles: Tensor) -> Tensor:
        """[..., kv heads, group + 2, head size] in float32: queries (scaled) and key turned, then the value."""
        heads = layer.qkv(self._rms(x, layer.norm)).float()
        heads = heads.view(*x.shape[:-1], self.kv_heads, self.group + 2, self.head_size)
        turned = heads[..., :-1, :]
        if layer.qk_norm is not None:
            turned.copy_(self._rms(turned, layer.qk_norm))
        torch.view_as_complex(turned.unflatten(-1, (-1, 2))).mul_(angles)
        return heads

    def _finish(self, layer: Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of a layer, in place on x."""
        x.add_(layer.out(mixed))
        gate, up = layer.gate_up(self._rms(x, layer.mlp_norm)).chunk(2, -1)
        return x.add_(layer.down(functional.silu(gate).mul_(up)))

    def _logits(self, x: Tensor) -> Tensor:
        return self.weights.head(self._rms(x, self.weights.norm)).float()


def _joined(have: Tensor, new: Tensor) -> Tensor:
    """[layers, prompts, kv heads, width, head size]: both, padded to the wider."""
    width = max(have.shape[3], new.shape[3])
    both = new.new_zeros(*new.shape[:1], have.shape[1] + new.shape[1], new.shape[2], width, new.shape[4])
    both[:, : have.shape[1], :, : have.shape[3]] = have
    both[:, have.shape[1] :, :, : new.shape[3]] = new
    return both
