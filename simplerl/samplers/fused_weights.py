"""Rearranges the weights of a Llama-family checkpoint into the layout that `llama` computes with.

q, k and v form one matrix, gate and up another. The heads of q, k and v are ordered by kv head, each as (q, ..., q, k,
v). In q and k the two coordinates that the rotary embedding rotates together are adjacent, so that it becomes an
in-place product of complex numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel


class Linear:
    """Computes x @ W.T + b in one precision, from copies of W and b.

    On a CPU, bfloat16 weights are packed once into oneDNN's layout.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: torch.dtype) -> None:
        self.precision = precision
        self.weight = weight.to(precision, copy=True)
        self.bias = None if bias is None else bias.to(precision, copy=True)
        self.packed = precision is torch.bfloat16 and weight.device.type == "cpu" and _has_onednn_bfloat16()
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.precision)
        if self.packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return y
        return functional.linear(x, self.weight, self.bias)


def _has_onednn_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass
class Layer:
    """Holds the weights of one transformer layer: the four matrix products (q, k and v; attention output; gate and up;
    down) and the norms."""

    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    attention_norm: Tensor  # [H]
    mlp_norm: Tensor  # [H]
    qk_norm: Tensor | None  # [q heads per kv head + 1, head size]


@dataclass(frozen=True)
class Shape:
    """Holds the sizes of a checkpoint's attention, and the names of all its parameters."""

    num_layers: int
    kv_heads: int
    group: int  # q heads per kv head
    head_size: int
    tied: bool  # the output layer shares the embedding's weight
    names: frozenset[str]

    @staticmethod
    def from_model(model: PreTrainedModel) -> Shape:
        config = model.config
        return Shape(
            config.num_hidden_layers,
            config.num_key_value_heads,
            config.num_attention_heads // config.num_key_value_heads,
            model.model.layers[0].self_attn.head_dim,
            config.tie_word_embeddings,
            frozenset(name for name, _ in model.named_parameters()),
        )


@dataclass
class Weights:
    """Holds all weights of a model in the decoder's layout."""

    embedding: Tensor  # [V, H]
    layers: list[Layer]
    norm: Tensor  # [H]
    head: Linear


@torch.no_grad()
def fuse(weights: Iterable[tuple[str, Tensor]], shape: Shape, precision: torch.dtype, device: torch.device) -> Weights:
    """Return a rearranged copy of all weights. Raises ValueError if a parameter is unknown or missing."""
    found = {name: tensor.detach().to(device) for name, tensor in weights}
    if shape.tied:
        found.pop("lm_head.weight", None)
    if set(found) != shape.names:
        wrong = min(set(found) ^ shape.names)
        problem = "is not a parameter of this model" if wrong in found else "is missing"
        raise ValueError(f"load_weights: {wrong} {problem}; pass every parameter of the model exactly once.")
    embedding = found["model.embed_tokens.weight"].clone()
    return Weights(
        embedding,
        [_layer(found, f"model.layers.{i}.", shape, precision) for i in range(shape.num_layers)],
        found["model.norm.weight"].float().clone(),
        Linear(embedding if shape.tied else found["lm_head.weight"], None, precision),
    )


def _layer(found: dict[str, Tensor], prefix: str, shape: Shape, precision: torch.dtype) -> Layer:
    def fused_qkv(kind: str) -> Tensor:
        q, k, v = (found[f"{prefix}self_attn.{name}_proj.{kind}"] for name in "qkv")
        heads = (
            _adjacent_rotary_pairs(q, shape),
            _adjacent_rotary_pairs(k, shape),
            v.view(shape.kv_heads, 1, shape.head_size, -1),
        )
        return torch.cat(heads, 1).reshape(-1, *q.shape[1:])

    def qk_norm() -> Tensor | None:
        if prefix + "self_attn.q_norm.weight" not in found:
            return None
        q, k = (found[f"{prefix}self_attn.{name}_norm.weight"].float() for name in "qk")
        return torch.stack([q] * shape.group + [k]).view(-1, 2, shape.head_size // 2).transpose(1, 2).flatten(1)

    gate_up = torch.cat((found[prefix + "mlp.gate_proj.weight"], found[prefix + "mlp.up_proj.weight"]))
    return Layer(
        Linear(
            fused_qkv("weight"), fused_qkv("bias") if prefix + "self_attn.q_proj.bias" in found else None, precision
        ),
        Linear(found[prefix + "self_attn.o_proj.weight"], found.get(prefix + "self_attn.o_proj.bias"), precision),
        Linear(gate_up, None, precision),
        Linear(found[prefix + "mlp.down_proj.weight"], None, precision),
        found[prefix + "input_layernorm.weight"].float().clone(),
        found[prefix + "post_attention_layernorm.weight"].float().clone(),
        qk_norm(),
    )


def _adjacent_rotary_pairs(x: Tensor, shape: Shape) -> Tensor:
    """Return x [heads * head size, n] as [kv heads, heads per kv head, head size, n] with coordinates i and i + half
    of each head adjacent."""
    halves = x.view(shape.kv_heads, -1, 2, shape.head_size // 2, x.numel() // x.shape[0])
    return halves.transpose(2, 3).flatten(2, 3)
