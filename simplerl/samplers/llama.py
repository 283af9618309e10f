"""Decoding for checkpoints of the Llama family (Llama, Mistral, Qwen2, Qwen3), by hand for speed.

Own fused weights (q, k and v; gate and up), a preallocated cache [layers, rows, kv heads, columns,
head size], products in `precision`, everything else in float32 (on a GPU attention too is in
`precision`). Rows share one clock: all write the same column, a prompt of n tokens that joins at
clock c fills columns c-n..c-1, and a row sees the columns from its own start on.

Rotary embedding as a product of complex numbers: the rows of the q and k weights are reordered so
that the two coordinates of each rotated plane lie side by side; scores do not notice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3", "yarn")  # angles that depend on the position alone
_COLUMNS = 128  # the cache grows by at least this many
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
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)


def _packs() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@dataclass
class _Layer:
    qkv: _Linear
    out: _Linear
    gate_up: _Linear
    down: _Linear
    norm: Tensor
    mlp_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None


class LlamaDecoder:
    """Rows of text that grow by a token at a time. `refills`: rows may join while others are running."""

    refills = True

    def __init__(self, model: PreTrainedModel, precision: torch.dtype) -> None:
        config = model.config
        self.device = model.device
        self.precision = precision
        self.cache_dtype = precision if self.device.type == "cuda" else torch.float32
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_size = model.model.layers[0].self_attn.head_dim
        self.depth = config.num_hidden_layers
        self.eps = config.rms_norm_eps
        self.tied = config.tie_word_embeddings
        self.names = [name for name, _ in model.named_parameters()]
        self.angles = _angles(model, config.max_position_embeddings)  # [positions, head size / 2] complex
        self.row_bytes = 2 * self.depth * self.kv_heads * self.head_size * self.cache_dtype.itemsize
        half = torch.arange(self.head_size // 2, device=self.device)
        self.planes = torch.stack((half, half + self.head_size // 2), 1).flatten()
        self.load(model.named_parameters())
        self.clear()

    # ------------------------------------------------------------------ weights

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Takes a copy of all weights. Raises ValueError where a parameter is unknown or missing."""
        found = {name: tensor.detach().to(self.device) for name, tensor in weights}
        if self.tied:
            found.pop("lm_head.weight", None)
        if set(found) != set(self.names):
            wrong = min(set(found) ^ set(self.names))
            raise ValueError(f"load_weights: {wrong} is {'unknown' if wrong in found else 'missing'}.")
        self.embedding = found["model.embed_tokens.weight"].clone()
        self.norm = found["model.norm.weight"].float().clone()
        self.head = _Linear(found["model.embed_tokens.weight" if self.tied else "lm_head.weight"], None, self.precision)
        self.layers = [self._layer(found, f"model.layers.{i}.") for i in range(self.depth)]

    def _layer(self, found: dict[str, Tensor], at: str) -> _Layer:
        def planes(x: Tensor, heads: int) -> Tensor:
            return x.view(heads, self.head_size, -1)[:, self.planes].reshape(x.shape)

        def joined(kind: str) -> Tensor:
            q, k, v = (found[f"{at}self_attn.{name}_proj.{kind}"] for name in "qkv")
            return torch.cat((planes(q, self.heads), planes(k, self.kv_heads), v))

        def norm(name: str) -> Tensor | None:
            weight = found.get(at + name)
            return None if weight is None else planes(weight.float(), 1)

        gate_up = torch.cat((found[at + "mlp.gate_proj.weight"], found[at + "mlp.up_proj.weight"]))
        return _Layer(
            _Linear(
                joined("weight"), joined("bias") if at + "self_attn.q_proj.bias" in found else None, self.precision
            ),
            _Linear(found[at + "self_attn.o_proj.weight"], found.get(at + "self_attn.o_proj.bias"), self.precision),
            _Linear(gate_up, None, self.precision),
            _Linear(found[at + "mlp.down_proj.weight"], None, self.precision),
            found[at + "input_layernorm.weight"].float().clone(),
            found[at + "post_attention_layernorm.weight"].float().clone(),
            norm("self_attn.q_norm.weight"),
            norm("self_attn.k_norm.weight"),
        )

    # ------------------------------------------------------------------ rows

    def clear(self) -> None:
        """Forgets all rows and gives their memory back."""
        self.starts: list[int] = []
        self.clock = 0
        self._allocate(0, 0)

    def _allocate(self, rows: int, columns: int) -> None:
        shape = (2, self.depth, rows, self.kv_heads, columns, self.head_size)
        self.cache = torch.zeros(shape, dtype=self.cache_dtype, device=self.device)

    def _reserve(self, rows: int, columns: int) -> None:
        """Room for so many rows and columns in all; what is cached stays."""
        have_rows, have_columns = self.cache.shape[2], self.cache.shape[4]
        if rows <= have_rows and columns <= have_columns:
            return
        if columns > have_columns:
            columns = max(columns + _COLUMNS, have_columns * 3 // 2)
        old, live, clock = self.cache, len(self.starts), self.clock
        self._allocate(max(rows, have_rows), max(columns, have_columns))
        if live:
            self.cache[:, :, :live, :, :clock] = old[:, :, :live, :, :clock]

    def _shift(self, by: int) -> None:
        """Moves what is cached by so many columns and the clock with it."""
        live, low = len(self.starts), min(self.starts)
        held = self.cache[:, :, :live, :, low : self.clock].clone()
        self.cache[:, :, :live, :, low + by : self.clock + by] = held
        self.starts = [start + by for start in self.starts]
        self.clock += by

    @torch.inference_mode()
    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row order[i] was; rows not named are gone."""
        moved = [(new, old) for new, old in enumerate(order) if new != old]
        if moved and order:
            to, source = (torch.tensor(index, device=self.device) for index in zip(*moved, strict=True))
            low = min(self.starts[i] for i in order)
            window = self.cache[:, :, :, :, low : self.clock]
            window[:, :, to] = window[:, :, source]
        self.starts = [self.starts[i] for i in order]

    @torch.inference_mode()
    def admit(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> Tensor:
        """Appends repeats[i] rows that begin with prompts[i]; logits of their next token [rows, V], float32."""
        longest = max(map(len, prompts))
        if not self.starts:
            self.clock = longest
        elif self.clock < longest:
            self._reserve(0, longest)
            self._shift(longest - self.clock)
        self._reserve(len(self.starts) + sum(repeats), self.clock + 1)
        logits, begin = [], 0
        while begin < len(prompts):
            end = begin + 1
            width = len(prompts[begin])
            while end < len(prompts) and max(width, len(prompts[end])) * (end + 1 - begin) <= _PREFILL_TOKENS:
                width = max(width, len(prompts[end]))
                end += 1
            logits.append(self._prefill(prompts[begin:end], repeats[begin:end]))
            begin = end
        return torch.cat(logits)

    # ------------------------------------------------------------------ forward

    def _prefill(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> Tensor:
        width = max(map(len, prompts))
        starts = torch.tensor([width - len(prompt) for prompt in prompts], device=self.device)
        tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=self.device)
        column = torch.arange(width, device=self.device)
        seen = (column[:, None] >= column) & (column >= starts[:, None, None]) | (column[:, None] == column)
        angles = self.angles[(column - starts[:, None]).clamp(min=0)][:, :, None]
        first = len(self.starts)
        self.starts += [self.clock - len(prompt) for prompt, n in zip(prompts, repeats, strict=True) for _ in range(n)]
        place = self.cache[:, :, first : len(self.starts), :, self.clock - width : self.clock]
        counts = torch.tensor(repeats, device=self.device)

        x = self._embed(tokens)
        for index, layer in enumerate(self.layers):
            q, k, v = (part.transpose(1, 2) for part in self._project(layer, x, angles))
            place[0, index] = k.repeat_interleave(counts, 0)
            place[1, index] = v.repeat_interleave(counts, 0)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None], enable_gqa=True)
            x = self._finish(layer, x, mixed.transpose(1, 2).flatten(2))
        return self._logits(x[:, -1]).repeat_interleave(counts, 0)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Appends tokens [rows] and gives the logits of the next ones [rows, V], float32."""
        rows, low = len(self.starts), min(self.starts)
        if self.clock == self.cache.shape[4]:
            if low >= _COLUMNS:
                self._shift(-low)
                low = 0
            self._reserve(rows, self.clock + 1)
        starts = torch.tensor(self.starts, device=self.device)
        angles = self.angles[self.clock - starts][:, None]
        hidden = torch.arange(low, self.clock + 1, device=self.device) < starts[:, None, None, None]
        bias = torch.zeros(hidden.shape, dtype=self.cache_dtype, device=self.device).masked_fill_(hidden, -torch.inf)
        window = self.cache[:, :, :rows, :, low : self.clock + 1]

        x = self._embed(tokens)
        for index, layer in enumerate(self.layers):
            q, k, v = self._project(layer, x, angles)
            keys, values = window[0, index], window[1, index]
            keys[:, :, -1] = k
            values[:, :, -1] = v
            # The query heads that share keys stand as several queries of one head.
            grouped = q.reshape(rows, self.kv_heads, -1, self.head_size)
            mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias)
            x = self._finish(layer, x, mixed.reshape(rows, -1))
        self.clock += 1
        return self._logits(x)

    def _embed(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.embedding).float()

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)

    def _project(self, layer: _Layer, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values [..., heads, head size] in the cache's type; the first two rotated."""
        heads = layer.qkv(self._rms(x, layer.norm)).float().unflatten(-1, (-1, self.head_size))
        q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), -2)
        if layer.q_norm is not None and layer.k_norm is not None:
            both = torch.cat((self._rms(q, layer.q_norm), self._rms(k, layer.k_norm)), -2)
        else:
            both = heads[..., : self.heads + self.kv_heads, :]
        turned = torch.view_as_real(torch.view_as_complex(both.unflatten(-1, (-1, 2))) * angles).flatten(-2)
        turned = turned.to(self.cache_dtype)
        return turned[..., : self.heads, :], turned[..., self.heads :, :], v.to(self.cache_dtype)

    def _finish(self, layer: _Layer, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + layer.out(mixed)
        gate, up = layer.gate_up(self._rms(x, layer.mlp_norm)).chunk(2, -1)
        return x + layer.down(F.silu(gate) * up)

    def _logits(self, x: Tensor) -> Tensor:
        return self.head(self._rms(x, self.norm)).float()


def _angles(model: PreTrainedModel, positions: int) -> Tensor:
    """The model's own rotary module as complex numbers, so that every scaling it knows is right."""
    column = torch.arange(positions, device=model.device)[None]
    cos, sin = model.model.rotary_emb(torch.zeros(1, device=model.device), column)
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())
