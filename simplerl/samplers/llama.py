"""Decoding for checkpoints of the Llama family (Llama, Mistral, Qwen2, Qwen3), by hand for speed.

Own fused weights (q, k, v; gate and up), products in `precision`, everything else in float32 (on a
GPU the cache too is in `precision`). A prompt's keys and values are held once, whatever the number
of its samples; the queries of all its rows meet them in one product. What a row generates lies in
a second cache whose rows share one clock: all write the same column, and a row sees the columns
since it joined. One softmax runs over both parts.

Weights are laid out so that little is moved: heads in the order (q.. q k v) of each kv head, and in
q and k the two coordinates of each rotated plane side by side, so that the rotary embedding is a
product of complex numbers in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3", "yarn")  # angles that depend on the position alone
_COLUMNS = 136  # the cache grows by at least this many; no power of two, which would crowd few cache sets
_DENSE = 0.75  # prompts are moved together when at most this share of them is in use
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


class _Linear:
    """x @ W.T + b in one precision; bfloat16 weights on a CPU are packed once for its matrix units."""

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: torch.dtype) -> None:
        self.precision = precision
        self.weight = weight.to(precision, copy=True)
        self.bias = None if bias is None else bias.to(precision, copy=True)
        self.packed = precision is torch.bfloat16 and weight.device.type == "cpu" and _packs()
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.precision)
        if self.packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return y
        return functional.linear(x, self.weight, self.bias)


def _packs() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass
class _Layer:
    qkv: _Linear
    out: _Linear
    gate_up: _Linear
    down: _Linear
    norm: Tensor
    mlp_norm: Tensor
    qk_norm: Tensor | None  # [q heads per kv head + 1, head size]


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
        config = model.config
        self.device = model.device
        self.precision = precision
        self.cache_dtype = precision if self.device.type == "cuda" else torch.float32
        self.kv_heads: int = config.num_key_value_heads
        self.group: int = config.num_attention_heads // self.kv_heads  # q heads per kv head
        self.head_size: int = model.model.layers[0].self_attn.head_dim
        self.depth: int = config.num_hidden_layers
        self.eps: float = config.rms_norm_eps
        self.tied: bool = config.tie_word_embeddings
        self.names = {name for name, _ in model.named_parameters()}
        self.angles = _angles(model, config.max_position_embeddings)  # [positions, head size / 2] complex
        self.row_bytes = 2 * self.depth * self.kv_heads * self.head_size * self.cache_dtype.itemsize
        # Queries are scaled as they are turned.
        scale = torch.tensor([self.head_size**-0.5] * self.group + [1.0], device=self.device)
        self.scale = scale[:, None]  # [group + 1, 1]
        self.load(model.named_parameters())
        self.clear()

    # ------------------------------------------------------------------ weights

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Takes a copy of all weights. Raises ValueError where a parameter is unknown or missing."""
        found = {name: tensor.detach().to(self.device) for name, tensor in weights}
        if self.tied:
            found.pop("lm_head.weight", None)
        if set(found) != self.names:
            wrong = min(set(found) ^ self.names)
            raise ValueError(f"load_weights: {wrong} is {'unknown' if wrong in found else 'missing'}.")
        self.embedding = found["model.embed_tokens.weight"].clone()
        self.norm = found["model.norm.weight"].float().clone()
        self.head = _Linear(found["model.embed_tokens.weight" if self.tied else "lm_head.weight"], None, self.precision)
        self.layers = [self._layer(found, f"model.layers.{i}.") for i in range(self.depth)]

    def _layer(self, found: dict[str, Tensor], at: str) -> _Layer:
        def fused(kind: str) -> Tensor:
            q, k, v = (found[f"{at}self_attn.{name}_proj.{kind}"] for name in "qkv")
            heads = torch.cat((self._planes(q), self._planes(k), v.view(self.kv_heads, 1, self.head_size, -1)), 1)
            return heads.reshape(-1, *q.shape[1:])

        def qk_norm() -> Tensor | None:
            if at + "self_attn.q_norm.weight" not in found:
                return None
            q, k = (found[f"{at}self_attn.{name}_norm.weight"].float() for name in "qk")
            return torch.stack([q] * self.group + [k]).view(-1, 2, self.head_size // 2).transpose(1, 2).flatten(1)

        gate_up = torch.cat((found[at + "mlp.gate_proj.weight"], found[at + "mlp.up_proj.weight"]))
        return _Layer(
            _Linear(fused("weight"), fused("bias") if at + "self_attn.q_proj.bias" in found else None, self.precision),
            _Linear(found[at + "self_attn.o_proj.weight"], found.get(at + "self_attn.o_proj.bias"), self.precision),
            _Linear(gate_up, None, self.precision),
            _Linear(found[at + "mlp.down_proj.weight"], None, self.precision),
            found[at + "input_layernorm.weight"].float().clone(),
            found[at + "post_attention_layernorm.weight"].float().clone(),
            qk_norm(),
        )

    def _planes(self, x: Tensor) -> Tensor:
        """[heads * head size, n] as [kv heads, heads per kv head, head size, n], coordinates i, i + half adjacent."""
        halves = x.view(self.kv_heads, -1, 2, self.head_size // 2, x.numel() // x.shape[0])
        return halves.transpose(2, 3).flatten(2, 3)

    # ------------------------------------------------------------------ rows

    def clear(self) -> None:
        """Forgets all rows and gives their memory back."""
        self.owner: list[int] = []  # [rows] which prompt
        self.start: list[int] = []  # [rows] the column at which it joined
        self.prompt_length: list[int] = []  # [prompts] tokens
        self.clock = 0
        self._plan: _Plan | None = None
        shape = (self.depth, 0, self.kv_heads, 0, self.head_size)
        self.prompt_keys, self.prompt_values = (torch.zeros(shape, device=self.device) for _ in range(2))
        self.cache = self._empty_cache(0, 0)

    def _empty_cache(self, rows: int, columns: int) -> Tensor:
        shape = (self.depth, rows, self.kv_heads, 2, columns, self.head_size)
        return torch.empty(shape, dtype=self.cache_dtype, device=self.device)

    def _reserve(self, rows: int) -> None:
        """Room for so many rows in all and one more column; what is cached stays."""
        _, have, _, _, columns, _ = self.cache.shape
        low = min(self.start, default=self.clock)
        if self.clock < columns and rows <= have:
            return
        old = self.cache[:, : len(self.start), :, :, low : self.clock]
        if self.clock == columns and self.clock - low > columns // 2:
            columns += max(columns // 2, _COLUMNS)
        self.cache = self._empty_cache(max(rows, have), max(columns, _COLUMNS))
        self.cache[:, : len(self.start), :, :, : self.clock - low] = old
        self.start = [start - low for start in self.start]
        self.clock -= low

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
        angles = self._turns(torch.arange(width, device=self.device))  # [width, 1, group + 1, head size / 2]
        cached = []
        x = self._embed(tokens)
        for layer in self.layers:
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
        angles = self._turns(torch.tensor(position, device=self.device))
        hidden = self._hidden(low)

        x = self._embed(tokens)
        for index, layer in enumerate(self.layers):
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
        there = weight[..., : plan.width].index_select(0, plan.gather).view(len(keys), -1, plan.width)
        mixed = torch.bmm(there, values).view(-1, self.group, self.head_size).index_select(0, plan.scatter)
        return mixed.baddbmm_(weight[..., plan.width :], window[:, 1])

    def _turns(self, positions: Tensor) -> Tensor:
        """[n, 1, group + 1, head size / 2]: by how much queries and keys are turned, and queries scaled."""
        return self.angles[positions][:, None, None] * self.scale

    def _embed(self, tokens: Tensor) -> Tensor:
        return functional.embedding(tokens, self.embedding).float()

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self.eps)

    def _heads(self, layer: _Layer, x: Tensor, angles: Tensor) -> Tensor:
        """[..., kv heads, group + 2, head size] in float32: queries (scaled) and key turned, then the value."""
        heads = layer.qkv(self._rms(x, layer.norm)).float()
        heads = heads.view(*x.shape[:-1], self.kv_heads, self.group + 2, self.head_size)
        turned = heads[..., :-1, :]
        if layer.qk_norm is not None:
            turned.copy_(functional.rms_norm(turned, (self.head_size,), None, self.eps) * layer.qk_norm)
        torch.view_as_complex(turned.unflatten(-1, (-1, 2))).mul_(angles)
        return heads

    def _finish(self, layer: _Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of a layer, in place on x."""
        x.add_(layer.out(mixed))
        gate, up = layer.gate_up(self._rms(x, layer.mlp_norm)).chunk(2, -1)
        return x.add_(layer.down(functional.silu(gate).mul_(up)))

    def _logits(self, x: Tensor) -> Tensor:
        return self.head(self._rms(x, self.norm)).float()


def _joined(have: Tensor, new: Tensor) -> Tensor:
    """[layers, prompts, kv heads, width, head size]: both, padded to the wider."""
    width = max(have.shape[3], new.shape[3])
    both = new.new_zeros(*new.shape[:1], have.shape[1] + new.shape[1], new.shape[2], width, new.shape[4])
    both[:, : have.shape[1], :, : have.shape[3]] = have
    both[:, have.shape[1] :, :, : new.shape[3]] = new
    return both


def _angles(model: PreTrainedModel, positions: int) -> Tensor:
    """The model's own rotary module as complex numbers, so that every scaling it knows is right."""
    column = torch.arange(positions, device=model.device)[None]
    cos, sin = model.model.rotary_emb(torch.zeros(1, device=model.device), column)
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())
