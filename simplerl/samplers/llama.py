"""Decodes checkpoints of the Llama family (Llama, Mistral, Qwen2, Qwen3) with a hand-written forward pass, for speed.

The decoder has its own copy of the weights (`fused_weights`). Matrix products are computed in `precision`, everything
else in float32; on a GPU the key-value cache is in `precision` too. The keys and values of a prompt are stored once for
all its samples, whose queries attend to them in one product. Generated tokens are stored in a second cache. All its
rows write to the same column at each step, so a row attends only to the columns since it was added. One softmax covers
both parts.
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
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose angles depend on the position alone
_INITIAL_COLUMNS = 16  # of the cache of generated tokens
_COMPACT_PROMPTS_BELOW = 0.75  # compact the cache of prompts if at most this fraction of them is in use
_MAX_RETAINED_BYTES = 2**28  # of the cache of generated tokens, between calls of `generate`
_PREFILL_TOKENS = 8192  # padded tokens of one prefill forward pass


def unsupported_feature(model: PreTrainedModel) -> str | None:
    """Return the name of a feature of the model that this decoder does not support, or None if it can run the model."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"architecture {config.model_type}"
    if config.hidden_act != "silu":
        return f"activation {config.hidden_act}"
    if config.rope_parameters["rope_type"] not in ROPE_TYPES:
        return f"rope type {config.rope_parameters['rope_type']}"
    layer = model.model.layers[0]
    if layer.mlp.gate_proj.bias is not None:
        return "MLP biases"
    if _has_sliding_window(config):
        return "sliding-window attention"
    return None


def _has_sliding_window(config: PreTrainedConfig) -> bool:
    if config.model_type == "mistral":
        return config.sliding_window is not None and config.sliding_window < config.max_position_embeddings
    return hasattr(config, "layer_types") and "sliding_attention" in (config.layer_types or ())


@dataclass(frozen=True)
class _PromptGrouping:
    """Holds index tensors that group rows by their prompt, valid until rows are added or removed.

    Queries grouped by prompt are [prompts, kv heads, slots], slots being the largest number of rows of one prompt.
    """

    gather: Tensor  # [prompts * kv heads * slots] the (row, kv head) in each slot
    scatter: Tensor  # [rows * kv heads] the slot of each (row, kv head)
    bias: Tensor  # [prompts * kv heads, 1, width] -inf beyond a prompt's end
    width: int  # tokens of the longest prompt


class LlamaDecoder:
    """Implements `simplerl.samplers.local.Decoder`; rows may be added while others are being generated."""

    continuous_batching = True

    def __init__(self, model: PreTrainedModel, precision: torch.dtype) -> None:
        shape = self.shape = Shape.from_model(model)
        self.device = model.device
        self.precision = precision
        self.cache_dtype = precision if self.device.type == "cuda" else torch.float32
        self.kv_heads, self.group, self.head_size = shape.kv_heads, shape.group, shape.head_size
        self.eps = torch.tensor(model.config.rms_norm_eps, device=self.device)
        self.rotary = model.model.rotary_emb
        self.rotation_table = self._compute_rotations(1024)
        values_per_token = 2 * shape.num_layers * self.kv_heads * self.head_size
        self.cache_bytes_per_token = values_per_token * self.cache_dtype.itemsize
        # Queries are scaled when they are rotated, keys are not.
        scale = torch.tensor([self.head_size**-0.5] * self.group + [1.0], device=self.device)
        self.scale = scale[:, None]  # [group + 1, 1]
        self.buffer = torch.empty(0, dtype=self.cache_dtype, device=self.device)
        self.load_weights(model.named_parameters())
        self.clear()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy all weights. Raises ValueError if a parameter is unknown or missing."""
        self.weights = fuse(weights, self.shape, self.precision, self.device)

    # ------------------------------------------------------------------ rows

    def clear(self) -> None:
        """Remove all rows and release their memory, except that of a small cache, which is reused."""
        self.prompt_of_row: list[int] = []  # [rows] index of the prompt
        self.first_column: list[int] = []  # [rows] column of the row's first generated token
        self.prompt_length: list[int] = []  # [prompts] tokens
        self.column = 0  # the column that the next step writes
        self._grouping: _PromptGrouping | None = None
        shape = (self.shape.num_layers, 0, self.kv_heads, 0, self.head_size)
        self.prompt_keys, self.prompt_values = (torch.zeros(shape, device=self.device) for _ in range(2))
        if self.buffer.nbytes > _MAX_RETAINED_BYTES:
            self.buffer = self.buffer.new_empty(0)
        # [layers, rows, kv heads, key | value, columns, head size]
        self.cache = self.buffer[:0].view(self.shape.num_layers, 0, self.kv_heads, 2, 0, self.head_size)

    def _reserve(self, rows: int) -> None:
        """Enlarge the cache for `rows` rows in total and for one more column, if needed, keeping its content."""
        allocated, columns = self.cache.shape[1], self.cache.shape[4]
        if rows <= allocated and self.column < columns:
            return
        oldest = min(self.first_column, default=self.column)
        if self.column == columns:
            # Grow by half, not all at once: a dense cache is read almost twice as fast as one with gaps.
            columns = max(_INITIAL_COLUMNS, (self.column - oldest) * 3 // 2)
        self._reallocate(max(rows, allocated), columns, oldest)
        self.first_column = [column - oldest for column in self.first_column]
        self.column -= oldest

    def _reallocate(self, rows: int, columns: int, oldest: int) -> None:
        """Resize the cache, dropping the columns before `oldest`; in place if its buffer is large enough."""
        old = self.cache[:, : len(self.first_column), :, :, oldest : self.column]
        shape = (self.shape.num_layers, rows, self.kv_heads, 2, columns, self.head_size)
        size = math.prod(shape)
        in_place = size <= len(self.buffer)
        if not in_place:
            self.buffer = torch.empty(size, dtype=self.cache_dtype, device=self.device)
        self.cache = self.buffer[:size].view(shape)
        # In place, layers are moved in the order in which none overwrites one that is still to be moved.
        layers = range(self.shape.num_layers)
        for layer in layers if old.stride(0) > self.cache.stride(0) else reversed(layers):
            part = old[layer].clone() if in_place else old[layer]
            self.cache[layer, : len(self.first_column), :, :, : self.column - oldest] = part

    @torch.inference_mode()
    def select_rows(self, order: Sequence[int]) -> None:
        moved = [(new, old) for new, old in enumerate(order) if new != old]
        if moved:
            new, old = (torch.tensor(index, device=self.device) for index in zip(*moved, strict=True))
            window = self.cache[:, :, :, :, min(self.first_column[i] for i in order) : self.column]
            window[:, new] = window[:, old]
        self.first_column = [self.first_column[i] for i in order]
        self.prompt_of_row = [self.prompt_of_row[i] for i in order]
        self._grouping = None
        used = sorted(set(self.prompt_of_row))
        if len(used) <= _COMPACT_PROMPTS_BELOW * len(self.prompt_length):
            self._select_prompts(used)

    def _select_prompts(self, used: Sequence[int]) -> None:
        """Remove all cached prompts but those in `used`."""
        index = torch.tensor(used, dtype=torch.int64, device=self.device)
        self.prompt_length = [self.prompt_length[i] for i in used]
        width = max(self.prompt_length, default=0)
        self.prompt_keys = self.prompt_keys[:, index, :, :width]
        self.prompt_values = self.prompt_values[:, index, :, :width]
        new_index = {prompt: i for i, prompt in enumerate(used)}
        self.prompt_of_row = [new_index[i] for i in self.prompt_of_row]

    @torch.inference_mode()
    def add_rows(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> Tensor:
        self._reserve(len(self.first_column) + sum(repeats))
        first = len(self.prompt_length)
        self.prompt_of_row += [first + i for i, count in enumerate(repeats) for _ in range(count)]
        # The columns before a new row's first one are masked, but must be finite all the same.
        oldest = min(self.first_column, default=self.column)
        self.cache[:, len(self.first_column) : len(self.prompt_of_row), :, :, oldest : self.column] = 0
        self.first_column += [self.column] * sum(repeats)
        self.prompt_length += map(len, prompts)
        self._grouping = None
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

    def _group_by_prompt(self) -> _PromptGrouping:
        prompt = torch.tensor(self.prompt_of_row)
        counts = prompt.bincount(minlength=len(self.prompt_length))
        order = prompt.argsort(stable=True)
        rank = torch.empty_like(prompt)  # of a row among those of its prompt
        rank[order] = torch.arange(len(prompt)) - (counts.cumsum(0) - counts)[prompt[order]]
        slots = int(counts.max())
        head = torch.arange(self.kv_heads)
        scatter = ((prompt[:, None] * self.kv_heads + head) * slots + rank[:, None]).flatten()
        gather = torch.zeros(len(counts) * self.kv_heads * slots, dtype=torch.int64)
        gather[scatter] = torch.arange(len(scatter))
        width = self.prompt_keys.shape[3]
        beyond = torch.arange(width) >= torch.tensor(self.prompt_length)[:, None]
        bias = torch.zeros(beyond.shape, dtype=self.cache_dtype).masked_fill_(beyond, -torch.inf)
        bias = bias.repeat_interleave(self.kv_heads, 0)[:, None]
        return _PromptGrouping(gather.to(self.device), scatter.to(self.device), bias.to(self.device), width)

    # ------------------------------------------------------------------ forward pass

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Append the prompts' keys and values; return the logits [prompts, V] of the token after each prompt."""
        width = max(map(len, prompts))
        tokens = torch.tensor([[*prompt] + [0] * (width - len(prompt)) for prompt in prompts], device=self.device)
        rotations = self._rotations(range(width))
        cached = []
        x = self._embed(tokens)
        for layer in self.weights.layers:
            heads = self._qkv(layer, x, rotations).to(self.cache_dtype)  # [prompts, width, kv heads, group + 2, size]
            q = heads[..., : self.group, :].flatten(2, 3).transpose(1, 2)
            k, v = (heads[..., i, :].transpose(1, 2) for i in (-2, -1))
            cached.append((k, v))
            attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
            x = self._output_and_mlp(layer, x, attended.transpose(1, 2).flatten(2))
        keys, values = (torch.stack(part) for part in zip(*cached, strict=True))
        self.prompt_keys = _concatenate_padded(self.prompt_keys, keys)
        self.prompt_values = _concatenate_padded(self.prompt_values, values)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        return self._logits(x[torch.arange(len(prompts), device=self.device), last])

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        rows = len(self.first_column)
        self._reserve(rows)
        self._grouping = grouping = self._grouping or self._group_by_prompt()
        oldest = min(self.first_column)
        positions = [
            self.prompt_length[prompt] + self.column - first
            for prompt, first in zip(self.prompt_of_row, self.first_column, strict=True)
        ]
        rotations = self._rotations(positions)
        masked = self._mask(oldest)

        x = self._embed(tokens)
        for index, layer in enumerate(self.weights.layers):
            heads = self._qkv(layer, x, rotations).to(self.cache_dtype)  # [rows, kv heads, group + 2, head size]
            window = self.cache[index, :rows, :, :, oldest : self.column + 1]
            window[:, :, :, -1] = heads[:, :, self.group :]
            q = heads.flatten(0, 1)[:, : self.group]
            attended = self._attend(grouping, index, q, window.flatten(0, 1), masked)
            x = self._output_and_mlp(layer, x, attended.view(rows, -1))
        self.column += 1
        return self._logits(x)

    def _mask(self, oldest: int) -> Tensor | None:
        """Return [rows * kv heads, 1, columns], True at the columns written before a row was added; None if no row has
        any."""
        if max(self.first_column) == oldest:
            return None
        first = torch.tensor(self.first_column, device=self.device).repeat_interleave(self.kv_heads)
        return (torch.arange(oldest, self.column + 1, device=self.device) < first[:, None])[:, None]

    def _attend(
        self, grouping: _PromptGrouping, index: int, q: Tensor, window: Tensor, masked: Tensor | None
    ) -> Tensor:
        """Attend with queries q [rows * kv heads, group, size] to the prompts' keys in layer `index` and to the keys of
        the generated tokens, where not `masked`. window: keys and values of the latter, [rows * kv heads, key | value,
        columns, size]. Returns the shape of q."""
        keys, values = (part[index].flatten(0, 1) for part in (self.prompt_keys, self.prompt_values))
        by_prompt = q.index_select(0, grouping.gather).view(len(keys), -1, self.head_size)
        prompt = torch.baddbmm(grouping.bias, by_prompt, keys.transpose(1, 2))
        prompt = prompt.view(-1, self.group, grouping.width).index_select(0, grouping.scatter)
        generated = torch.bmm(q, window[:, 0].transpose(1, 2))
        if masked is not None:
            generated.masked_fill_(masked, -torch.inf)
        weight = torch.cat((prompt, generated), -1).softmax(-1)
        prompt = weight[..., : grouping.width].contiguous().index_select(0, grouping.gather)
        out = torch.bmm(prompt.view(len(keys), -1, grouping.width), values)
        out = out.view(-1, self.group, self.head_size).index_select(0, grouping.scatter)
        return out.baddbmm_(weight[..., grouping.width :], window[:, 1])

    def _rotations(self, positions: Sequence[int]) -> Tensor:
        """Return complex factors [n, 1, group + 1, head size / 2] for tokens at n positions. A product with them
        applies the rotary embedding to the `group` queries and the key of each kv head, and scales the queries for
        attention."""
        if max(positions) >= len(self.rotation_table):
            self.rotation_table = self._compute_rotations(2 * max(positions))
        return self.rotation_table[torch.tensor(positions, device=self.device)][:, None, None] * self.scale

    def _compute_rotations(self, count: int) -> Tensor:
        """Return [count, head size / 2] complex, from the model's own rotary module so that its scaling applies."""
        cos, sin = self.rotary(torch.zeros(1, device=self.device), torch.arange(count, device=self.device)[None])
        half = cos.shape[-1] // 2
        return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())

    def _embed(self, tokens: Tensor) -> Tensor:
        return functional.embedding(tokens, self.weights.embedding).float()

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        # On CPUs this takes fewer and larger operations than functional.rms_norm.
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * torch.addcmul(self.eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()).mul_(weight)

    def _qkv(self, layer: Layer, x: Tensor, rotations: Tensor) -> Tensor:
        """Return float32 [..., kv heads, group + 2, head size]: scaled and rotated queries, rotated key, value."""
        heads = layer.qkv(self._rms_norm(x, layer.attention_norm)).float()
        heads = heads.view(*x.shape[:-1], self.kv_heads, self.group + 2, self.head_size)
        rotated = heads[..., :-1, :]
        if layer.qk_norm is not None:
            rotated.copy_(self._rms_norm(rotated, layer.qk_norm))
        torch.view_as_complex(rotated.unflatten(-1, (-1, 2))).mul_(rotations)
        return heads

    def _output_and_mlp(self, layer: Layer, x: Tensor, attended: Tensor) -> Tensor:
        """Compute the rest of a layer, in place on x."""
        x.add_(layer.out(attended))
        gate, up = layer.gate_up(self._rms_norm(x, layer.mlp_norm)).chunk(2, -1)
        return x.add_(layer.down(functional.silu(gate).mul_(up)))

    def _logits(self, x: Tensor) -> Tensor:
        return self.weights.head(self._rms_norm(x, self.weights.norm)).float()


def _concatenate_padded(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate [layers, prompts, kv heads, width, head size] along prompts, zero-padded to the larger width."""
    width = max(first.shape[3], second.shape[3])
    both = second.new_zeros(
        *second.shape[:1], first.shape[1] + second.shape[1], second.shape[2], width, second.shape[4]
    )
    both[:, : first.shape[1], :, : first.shape[3]] = first
    both[:, first.shape[1] :, :, : second.shape[3]] = second
    return both
