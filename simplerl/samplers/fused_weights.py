"""The weights of a Llama-family checkpoint as `llama` multiplies by them.

q, k and v are one matrix, gate and up another. Heads stand in the order (q.. q k v) of each kv
head, and in q and k the two coordinates of each rotated plane side by side, so that the rotary
embedding is a product of complex numbers in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel


class Linear:
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
class Layer:
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    norm: Tensor
    mlp_norm: Tensor
    qk_norm: Tensor | None  # [q heads per kv head + 1, head size]


@dataclass(frozen=True)
class Shape:
    """Sizes of the attention, and the names of all parameters."""

    depth: int
    kv_heads: int
    group: int  # q heads per kv head
    head_size: int
    tied: bool  # the head is the embedding
    names: frozenset[str]

    @staticmethod
    def of(model: PreTrainedModel) -> Shape:
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
    embedding: Tensor
    layers: list[Layer]
    norm: Tensor
    head: Linear


@torch.no_grad()
def fuse(weights: Iterable[tuple[str, Tensor]], shape: Shape, precision: torch.dtype, device: torch.device) -> Weights:
    """A copy of all weights. Raises ValueError where a parameter is unknown or missing."""
    found = {name: tensor.detach().to(device) for name, tensor in weights}
    if shape.tied:
        found.pop("lm_head.weight", None)
    if set(found) != shape.names:
        wrong = min(set(found) ^ shape.names)
        raise ValueError(f"load_weights: {wrong} is {'unknown' if wrong in found else 'missing'}.")
    embedding = found["model.embed_tokens.weight"].clone()
    return Weights(
        embedding,
        [_layer(found, f"model.layers.{i}.", shape, precision) for i in range(shape.depth)],
        found["model.norm.weight"].float().clone(),
        Linear(embedding if shape.tied else found["lm_head.weight"], None, precision),
    )


def _layer(found: dict[str, Tensor], at: str, shape: Shape, precision: torch.dtype) -> Layer:
    def fused(kind: str) -> Tensor:
        q, k, v = (found[f"{at}self_attn.{name}_proj.{kind}"] for name in "qkv")
        heads = (_planes(q, shape), _planes(k, shape), v.view(shape.kv_heads, 1, shape.head_size, -1))
        return torch.cat(heads, 1).reshape(-1, *q.shape[1:])

    def qk_norm() -> Tensor | None:
        if at + "self_attn.q_norm.weight" not in found:
            return None
        q, k = (found[f"{at}self_attn.{name}_norm.weight"].float() for name in "qk")
        return torch.stack([q] * shape.group + [k]).view(-1, 2, shape.head_size // 2).transpose(1, 2).flatten(1)

    gate_up = torch.cat((found[at + "mlp.gate_proj.weight"], found[at + "mlp.up_proj.weight"]))
    return Layer(
        Linear(fused("weight"), fused("bias") if at + "self_attn.q_proj.bias" in found else None, precision),
        Linear(found[at + "self_attn.o_proj.weight"], found.get(at + "self_attn.o_proj.bias"), precision),
        Linear(gate_up, None, precision),
        Linear(found[at + "mlp.down_proj.weight"], None, precision),
        found[at + "input_layernorm.weight"].float().clone(),
        found[at + "post_attention_layernorm.weight"].float().clone(),
        qk_norm(),
    )


def _planes(x: Tensor, shape: Shape) -> Tensor:
    """[heads * head size, n] as [kv heads, heads per kv head, head size, n], coordinates i, i + half adjacent."""
    halves = x.view(shape.kv_heads, -1, 2, shape.head_size // 2, x.numel() // x.shape[0])
    return halves.transpose(2, 3).flatten(2, 3)
