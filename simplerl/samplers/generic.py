"""Decodes with the transformers model's own forward pass, for architectures that `llama` does not support."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


class GenericDecoder:
    """Implements `simplerl.samplers.local.Decoder` with any causal model and a DynamicCache; prompts are left-padded.

    It shares the model's weights if their dtype is `precision`, and otherwise keeps a converted copy.
    """

    continuous_batching = False

    def __init__(self, model: PreTrainedModel, precision: torch.dtype) -> None:
        self.shared = model.dtype == precision
        self.model = model
        if not self.shared:
            self.model = deepcopy(model).requires_grad_(False)
            for parameter in self.model.parameters():  # buffers stay as they are: rotary frequencies need float32
                parameter.data = parameter.data.to(precision)
        self.device = model.device
        config = model.config.get_text_config()
        size = config.head_dim if hasattr(config, "head_dim") else config.hidden_size // config.num_attention_heads
        heads = config.num_key_value_heads if hasattr(config, "num_key_value_heads") else config.num_attention_heads
        self.cache_bytes_per_token = 2 * config.num_hidden_layers * heads * size * precision.itemsize
        self.clear()

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy the weights that are not shared. Raises KeyError for an unknown parameter."""
        own = dict(self.model.named_parameters(remove_duplicate=False))
        for name, tensor in weights:
            if own[name].data_ptr() != tensor.data_ptr():
                own[name].copy_(tensor)

    def clear(self) -> None:
        self.cache: DynamicCache | None = None
        self.attention = torch.zeros(0, 0, dtype=torch.int64)

    def add_rows(self, prompts: Sequence[Sequence[int]], repeats: Sequence[int]) -> Tensor:
        width = max(map(len, prompts))
        padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        attention = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self.attention = torch.tensor(attention, device=self.device)
        self.cache = DynamicCache(config=self.model.config)
        logits = self._forward(torch.tensor(padded, device=self.device))
        rows = torch.arange(len(prompts), device=self.device).repeat_interleave(
            torch.tensor(repeats, device=self.device)
        )
        self._index_cache(rows)
        return logits[rows]

    def step(self, tokens: Tensor) -> Tensor:
        self.attention = torch.cat((self.attention, torch.ones_like(self.attention[:, :1])), 1)
        return self._forward(tokens[:, None])

    def select_rows(self, order: Sequence[int]) -> None:
        self._index_cache(torch.tensor(order, dtype=torch.int64, device=self.device))

    def _index_cache(self, rows: Tensor) -> None:
        assert self.cache is not None
        self.cache.batch_select_indices(rows)
        self.attention = self.attention[rows]

    def _forward(self, tokens: Tensor) -> Tensor:
        positions = (self.attention.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        with _eval_mode(self.model), torch.inference_mode():
            out = self.model(
                input_ids=tokens,
                attention_mask=self.attention,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = out.logits[:, -1].float()
        return logits


@contextmanager
def _eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Switch every module to eval mode inside the block, then restore the mode of each.

    `model.train()` would not restore it: with gradient checkpointing only some of the modules are in training mode.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
