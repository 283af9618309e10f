"""Small random models and batches for the engine tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from simplerl.engine.batching import collate
from simplerl.types import Batch

VOCABULARY = 97

KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {"num_key_value_heads": 2},
    "llama": {"num_key_value_heads": 4},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gpt2": {"resid_pdrop": 0.3, "attn_pdrop": 0.3, "embd_pdrop": 0.3},
}


def hf_config(kind: str = "qwen2", **changes: Any) -> Any:
    """Return a config with two layers of width 32 and a large initializer_range, so that distributions differ."""
    return AutoConfig.for_model(
        kind,
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "initializer_range": 0.3,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 0,
            "pad_token_id": 0,
            **KINDS[kind],
            **changes,
        },
    )


def policy(kind: str = "qwen2", seed: int = 0, attention: str = "sdpa", **changes: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(hf_config(kind, **changes), attn_implementation=attention)
    return model.float().eval()


def batch(seed: int = 0, rows: int = 12, longest: int = 24, groups: int = 3) -> Batch:
    """Return random prompts (2 to 6 tokens) and responses (1 to `longest`) with every column that a loss reads."""
    rng = np.random.default_rng(seed)
    lengths = [1, longest, *rng.integers(1, longest, rows - 2)]
    made = collate(
        [(rng.integers(5, VOCABULARY, rng.integers(2, 7)), rng.integers(5, VOCABULARY, n)) for n in lengths],
        [row % groups for row in range(rows)],
    )

    def noise(scale: float = 1.0) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=tuple(made.tokens.shape)) * scale).float() * made.mask

    with torch.no_grad():  # so that probability ratios to policy(seed=0) are around one
        log_p = torch.log_softmax(policy()(made.tokens).logits[:, :-1], -1)
    own = torch.nn.functional.pad(log_p.gather(-1, made.tokens[:, 1:, None]).squeeze(-1), (1, 0)) * made.mask
    return made.with_(
        reward=torch.from_numpy(rng.choice([-1.0, -0.5, 1.0], rows)).float(),
        logprobs=own + noise(0.3),
        ref_logprobs=own + noise(0.5),
        advantages=noise(),
        values=noise(),
        returns=noise(),
    )
