"""Transformers models as policy, reference and critic: loading, and the two heads.

Both heads read the hidden states *before* the tokens they speak of, gathered to [N, H] for the N
response tokens of a micro-batch: the vocabulary-sized work is done for those alone.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging as transformers_logging

from simplerl.config import ModelConfig, Precision
from simplerl.errors import ConfigError

transformers_logging.disable_progress_bar()
logger = logging.getLogger(__name__)
VALUE_HEAD = "value_head.safetensors"
LOGITS = 2**28  # held at once (512 MB in bfloat16)


def _float32_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """PyTorch's attention in float32 whatever autocast says: on CPUs the backward pass of its bfloat16
    kernel is more than ten times slower."""
    with torch.autocast(query.device.type, enabled=False):
        output = nn.functional.scaled_dot_product_attention(
            query.float(),
            key.float(),
            value.float(),
            attn_mask=attention_mask,
            is_causal=attention_mask is None and query.shape[2] > 1,
            scale=options.get("scaling"),
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register("sdpa_float32", _float32_attention)
AttentionMaskInterface.register("sdpa_float32", sdpa_mask)


def load_tokenizer(model: ModelConfig) -> Any:
    tokenizer = _from_hub(AutoTokenizer, model)
    if not tokenizer("1")["input_ids"]:  # transformers makes an empty one where a folder has none
        raise ConfigError(f"model.path={model.path} holds no tokenizer: save the model's beside its weights.")
    return tokenizer


def load_hf_config(model: ModelConfig) -> Any:
    return _from_hub(AutoConfig, model)


def _from_hub(kind: Any, model: ModelConfig) -> Any:
    try:
        return kind.from_pretrained(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"model.path={model.path} does not load: {reason}") from error


def model_at(model: ModelConfig, path: str) -> ModelConfig:
    """Return `model` pointing at `path`; the Hub revision is dropped because it applies only to the original path."""
    return model if path == model.path else replace(model, path=path, revision=None)


def context_of(model: ModelConfig, hf_config: Any) -> int:
    """Tokens that prompt and response may have together. Raises ConfigError above the model's own limit."""
    limit = hf_config.get_text_config().max_position_embeddings
    if model.context is not None and model.context > limit:
        raise ConfigError(f"model.context={model.context} is over the {limit} positions of {model.path}: lower it.")
    return limit if model.context is None else model.context


def _loading_options(model: ModelConfig, precision: Precision, device: str) -> dict[str, Any]:
    on_cpu_in_bf16 = device == "cpu" and precision is Precision.bfloat16
    return {
        "revision": model.revision,
        "trust_remote_code": model.trust_remote_code,
        "dtype": torch.float32,
        "attn_implementation": "sdpa_float32" if on_cpu_in_bf16 else "sdpa",
    }


def _loaded(kind: Any, model: ModelConfig, precision: Precision, device: str) -> Any:
    """Raises ConfigError where weights are absent, damaged or of other shapes, and where some are missing, which
    transformers would make up."""
    options = _loading_options(model, precision, device)
    try:
        loaded, report = kind.from_pretrained(model.path, output_loading_info=True, **options)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"model.path={model.path}: its weights do not load ({reason}).") from error
    if missing := sorted(report["missing_keys"]):
        raise ConfigError(f"model.path={model.path} lacks {len(missing)} of the model's weights, such as {missing[0]}.")
    return loaded


def load_policy(model: ModelConfig, precision: Precision, device: str) -> PreTrainedModel:
    """A causal language model, weights in float32."""
    policy = _loaded(AutoModelForCausalLM, model, precision, device)
    _check_plain_head(policy, model.path)
    return policy.to(device)  # type: ignore[no-any-return]


@torch.no_grad()
def _check_plain_head(policy: PreTrainedModel, path: str) -> None:
    """`token_logprobs` takes the output layer for a plain product; some architectures cap or scale logits."""
    tokens = torch.arange(4)[None] + 5
    hidden = policy.base_model(tokens, use_cache=False).last_hidden_state
    ours = hidden @ output_weight(policy).T
    theirs = policy(tokens, use_cache=False).logits
    if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
        raise ConfigError(
            f"model.path={path}: {type(policy).__name__} changes its logits after the output layer "
            "(soft-capping, scaling or a bias), which simplerl.engine.models.token_logprobs does not do."
        )


def output_weight(policy: PreTrainedModel) -> Tensor:
    weight: Tensor = policy.get_output_embeddings().weight
    return weight


class Critic(nn.Module):
    """A language model's body with a bias-free linear value head, at first normal with standard deviation
    1 / (hidden + 1), as published."""

    def __init__(self, body: PreTrainedModel, seed: int = 0) -> None:
        super().__init__()
        self.body = body
        hidden = body.config.get_text_config().hidden_size
        self.value_head = nn.Linear(hidden, 1, bias=False, device=body.device)
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(1, hidden, generator=generator) / (hidden + 1)
        with torch.no_grad():
            self.value_head.weight.copy_(weight)

    def save_pretrained(self, folder: str | Path) -> None:
        self.body.save_pretrained(folder)
        save_file({"weight": self.value_head.weight.detach().cpu()}, Path(folder) / VALUE_HEAD)

    @classmethod
    def load(cls, model: ModelConfig, precision: Precision, device: str, seed: int | None) -> Critic:
        """From a saved critic, or from any language model with a new head made from `seed` (None: refused)."""
        critic = cls(_loaded(AutoModel, model, precision, device).to(device), seed or 0)
        head = Path(model.path) / VALUE_HEAD
        if seed is None and not head.exists():
            raise ConfigError(f"{model.path} has no {VALUE_HEAD}, so it is no critic.")
        if head.exists():
            with torch.no_grad():
                critic.value_head.weight.copy_(load_file(head)["weight"])
        return critic


class _TokenLogprobs(torch.autograd.Function):
    """log p(target) and entropy of softmax(hidden @ weight.T / temperature).

    Logits are made in `dtype` for at most LOGITS at a time, by one large product, and turned into float32
    for as many rows as stay in a CPU's cache. The backward pass makes them again instead of keeping them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, dtype: torch.dtype, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        hidden_, weight_ = hidden.to(dtype), weight.to(dtype)
        logprobs, normalizer = (torch.empty(len(targets), device=hidden.device) for _ in range(2))
        entropies = torch.zeros(len(targets), device=hidden.device)
        for rows in _pieces(len(targets), weight.shape[0], LOGITS):
            chunk = hidden_[rows] @ weight_.T
            for part in _pieces(len(chunk), weight.shape[0], _cached(hidden)):
                logits = chunk[part].float().div_(temperature)
                at = slice(rows.start + part.start, rows.start + part.start + len(logits))
                lse = normalizer[at] = logits.logsumexp(-1)
                logprobs[at] = logits.gather(-1, targets[at, None]).squeeze(-1) - lse
                if entropy:
                    entropies[at] = _entropy(logits)
        ctx.save_for_backward(hidden, weight, targets, normalizer, entropies)
        ctx.temperature, ctx.dtype = temperature, dtype
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_logprobs, grad_entropy = grads
        hidden, weight, targets, normalizer, entropies = ctx.saved_tensors
        hidden_, weight_ = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        by_logprob = torch.zeros_like(normalizer) if grad_logprobs is None else grad_logprobs
        grad_hidden, grad_weight = torch.empty_like(hidden_), torch.zeros_like(weight)
        for rows in _pieces(len(targets), weight.shape[0], LOGITS):
            chunk = hidden_[rows] @ weight_.T  # becomes the gradient of the logits
            for part in _pieces(len(chunk), weight.shape[0], _cached(hidden)):
                at = slice(rows.start + part.start, rows.start + part.start + len(chunk[part]))
                log_p = chunk[part].float().div_(ctx.temperature).sub_(normalizer[at, None])
                slope = by_logprob[at, None]
                if grad_entropy is not None:
                    slope = slope + grad_entropy[at, None] * (log_p + entropies[at, None])
                grad = log_p.exp_().mul_(slope).neg_()
                grad.scatter_add_(-1, targets[at, None], by_logprob[at, None])
                chunk[part] = grad.div_(ctx.temperature)
            grad_hidden[rows] = chunk @ weight_
            grad_weight += chunk.T @ hidden_[rows]
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None, None


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(logits) [n, V]; `logits` is overwritten.

    The largest logit is subtracted first and left out of the sum: lse = log1p(sum of the others' exp), so that both
    terms are positive and keep their digits even where one token is nearly certain."""
    top, at_top = logits.max(-1, keepdim=True)
    shifted = logits.sub_(top)
    others = shifted.exp().scatter_(-1, at_top, 0.0)
    total = others.sum(-1)
    return total.log1p() - others.mul_(shifted).sum(-1) / (1 + total)


def _cached(tensor: Tensor) -> int:
    """Logits that are float32 at once: what a CPU's cache holds; on a GPU all of a chunk."""
    return 2**20 if tensor.device.type == "cpu" else LOGITS


def _pieces(rows: int, vocabulary: int, elements: int) -> list[slice]:
    size = max(1, elements // vocabulary)
    return [slice(start, start + size) for start in range(0, rows, size)]


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    dtype: torch.dtype = torch.float32,
    entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Log-probability of `targets` [N] and entropy [N] (zeros unless asked for), float32, given hidden states
    [N, H] and the output embedding [V, H]. The product is computed in `dtype`, the softmax in float32. In bfloat16
    logits keep 8 bits, an error of 0.03 (up to 0.2) in log-probs: that is for runs as published only."""
    with torch.autocast(hidden.device.type, enabled=False):
        return _TokenLogprobs.apply(hidden, weight, targets, temperature, dtype, entropy)  # type: ignore[no-untyped-call, no-any-return]
