"""Load Transformers models as policies, references and critics, and compute token log-probs and values.

Log-probs and values are computed from hidden states [N, H] of only the N response tokens of a micro-batch, so no
logits are computed for prompts and padding.
"""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging as transformers_logging

from simplerl.config import HeadStart, ModelConfig, Precision
from simplerl.engine.shared_prompts import SharedPrompts, shared_prompt_attention
from simplerl.engine.tensors import nonfinite_tensor
from simplerl.errors import ConfigError
from simplerl.io.files import reading

transformers_logging.disable_progress_bar()
logger = logging.getLogger(__name__)
VALUE_HEAD = "value_head.safetensors"
MAX_LOGITS = 2**26  # logits in memory at once (256 MB in float32), whatever the vocabulary and the length


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    float32: bool,
    shared_prompts: SharedPrompts | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute scaled dot-product attention by PyTorch, for rows of [prompt; response] or, if `shared_prompts` is given,
    for a micro-batch whose prompts are shared. query, key and value are [B, heads, T, D]; returns ([B, T, heads, D],
    None). `float32` computes it in float32 even under autocast: the backward pass of the bfloat16 CPU kernel is more
    than ten times slower."""
    if not float32 and shared_prompts is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    with torch.autocast(query.device.type, enabled=False) if float32 else nullcontext():
        query, key, value = (x.float() for x in (query, key, value)) if float32 else (query, key, value)
        if shared_prompts is not None:
            return shared_prompt_attention(query, key, value, shared_prompts, options.get("scaling")), None
        output = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            is_causal=attention_mask is None and query.shape[2] > 1,
            scale=options.get("scaling"),
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return output.transpose(1, 2).contiguous(), None


for _name, _float32 in (("simplerl", False), ("simplerl_float32", True)):
    AttentionInterface.register(_name, partial(_attention, float32=_float32))
    AttentionMaskInterface.register(_name, sdpa_mask)


def load_tokenizer(model: ModelConfig) -> Any:
    """Load the tokenizer of a model. Raises ConfigError if it is missing, cannot be loaded, or has token ids that the
    model's embedding lacks."""
    tokenizer = _from_hub(AutoTokenizer, model)
    if not tokenizer("1")["input_ids"]:  # transformers creates an empty one if a folder has none
        raise ConfigError(f"model.path={model.path} contains no tokenizer: save the tokenizer to the model's folder.")
    rows, largest = load_hf_config(model).get_text_config().vocab_size, max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ConfigError(
            f"model.path={model.path}: its tokenizer has token ids up to {largest}, but its embedding has {rows} rows: "
            f"use the tokenizer that the model was trained with, or call resize_token_embeddings({largest + 1}) and "
            "save the model."
        )
    return tokenizer


def load_hf_config(model: ModelConfig) -> Any:
    """Load the Hugging Face configuration of a model. Raises ConfigError if it cannot be loaded."""
    return _from_hub(AutoConfig, model)


def _from_hub(kind: Any, model: ModelConfig) -> Any:
    try:
        return kind.from_pretrained(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.path={model.path} cannot be loaded ({reason.rstrip('.')}): choose a Hugging Face folder or Hub id."
        ) from error


def model_at(model: ModelConfig, path: str) -> ModelConfig:
    """Return `model` pointing at `path`; the Hub revision is dropped because it applies only to the original path."""
    return model if path == model.path else replace(model, path=path, revision=None)


def context_length(model: ModelConfig, hf_config: Any) -> int:
    """Return the maximum number of tokens of prompt + response. Raises ConfigError if `model.context` exceeds the
    model's own limit."""
    limit = hf_config.get_text_config().max_position_embeddings
    if model.context is not None and model.context > limit:
        raise ConfigError(f"model.context={model.context} exceeds the {limit} positions of {model.path}: lower it.")
    return limit if model.context is None else model.context


def _load(kind: Any, model: ModelConfig, precision: Precision, device: str) -> Any:
    """Load float32 weights. Raises ConfigError if weights are absent, damaged, not finite, of unexpected shapes, or
    incomplete, because transformers would initialize missing ones randomly."""
    on_cpu_in_bf16 = device == "cpu" and precision is Precision.bfloat16
    shown = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a critic's load would list the policy's output layer as unexpected
    try:
        loaded, report = kind.from_pretrained(
            model.path,
            output_loading_info=True,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=torch.float32,
            attn_implementation="simplerl_float32" if on_cpu_in_bf16 else "simplerl",
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.path={model.path}: the weights cannot be loaded ({reason}): choose another model or checkpoint."
        ) from error
    finally:
        transformers_logging.set_verbosity(shown)
    if missing := sorted(report["missing_keys"]):
        raise ConfigError(
            f"model.path={model.path}: {len(missing)} weights are missing, such as {missing[0]}: choose another model "
            "or checkpoint."
        )
    if broken := nonfinite_tensor(loaded.named_parameters()):
        raise ConfigError(
            f"model.path={model.path}: weight {broken} is not finite, as after training that has diverged: choose "
            "another model or an earlier checkpoint."
        )
    return loaded


def load_policy(model: ModelConfig, precision: Precision, device: str) -> PreTrainedModel:
    """Load a causal language model with float32 weights. Raises ConfigError if that fails, or if its architecture is
    not supported."""
    policy = _load(AutoModelForCausalLM, model, precision, device)
    _check_linear_head(policy, model.path)
    return policy.to(device)  # type: ignore[no-any-return]


@torch.no_grad()
def _check_linear_head(policy: PreTrainedModel, path: str) -> None:
    """Raise ConfigError if logits are not finite, or if the model caps or scales them: `token_logprobs` computes logits
    as a plain matrix product."""
    tokens = torch.arange(4)[None] + 5
    hidden = policy.base_model(tokens, use_cache=False).last_hidden_state
    ours = hidden @ output_weight(policy).T
    theirs = policy(tokens, use_cache=False).logits
    if not bool(torch.isfinite(theirs).all()):
        raise ConfigError(
            f"model.path={path}: its logits are not finite, because its weights are too large, as after training that "
            "has diverged: choose another model or an earlier checkpoint."
        )
    if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
        raise ConfigError(
            f"model.path={path}: {type(policy).__name__} changes its logits after the output layer (soft-capping, "
            "scaling or a bias), which is not supported: choose another model."
        )


def output_weight(policy: PreTrainedModel) -> Tensor:
    weight: Tensor = policy.get_output_embeddings().weight
    return weight


def new_value_head(hidden: int, seed: int, start: HeadStart) -> Tensor:
    """Return the initial weight [1, hidden] of a value head; see `HeadStart`."""
    generator = torch.Generator().manual_seed(seed)
    if start is HeadStart.normal:
        return torch.randn(1, hidden, generator=generator) / (hidden + 1)
    if start is HeadStart.uniform:
        return torch.empty(1, hidden).uniform_(-1, 1, generator=generator) / math.sqrt(hidden)
    return torch.zeros(1, hidden)


class Critic(nn.Module):
    """Computes values with a language model's transformer body and a linear value head without bias."""

    def __init__(self, body: PreTrainedModel, seed: int = 0, start: HeadStart = HeadStart.normal) -> None:
        super().__init__()
        self.body = body
        hidden = body.config.get_text_config().hidden_size
        self.value_head = nn.Linear(hidden, 1, bias=False, device=body.device)
        with torch.no_grad():
            self.value_head.weight.copy_(new_value_head(hidden, seed, start))

    def save_pretrained(self, folder: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the transformer body as a Hugging Face folder, with the value head in a separate file. `state_dict`: the
        weights of the body, if they are not its parameters."""
        self.body.save_pretrained(folder, state_dict=state_dict)
        save_file({"weight": self.value_head.weight.detach().cpu()}, Path(folder) / VALUE_HEAD)

    @classmethod
    def load(
        cls,
        model: ModelConfig,
        precision: Precision,
        device: str,
        seed: int | None,
        start: HeadStart = HeadStart.normal,
    ) -> Critic:
        """Load a saved critic, or any language model with a new value head, initialized by `start` from `seed`. Raises
        ConfigError if `seed` is None and the folder has no value head."""
        critic = cls(_load(AutoModel, model, precision, device).to(device), seed or 0, start)
        head = Path(model.path) / VALUE_HEAD
        if seed is None and not head.exists():
            raise ConfigError(
                f"{model.path} is not a saved critic: {VALUE_HEAD} is missing: choose the critic's folder of a "
                "checkpoint."
            )
        if head.exists():
            critic.load_head(head)
        return critic

    @torch.no_grad()
    def load_head(self, path: Path) -> None:
        """Read the value head from a file. Raises ConfigError if it does not fit or is not finite."""
        with reading(path, "choose another model or an earlier checkpoint"):
            try:
                weight = load_file(path)["weight"]
            except (SafetensorError, KeyError) as error:
                raise ValueError(str(error)) from error
            if weight.shape != self.value_head.weight.shape:
                expected = tuple(self.value_head.weight.shape)
                raise ValueError(f"its shape is {tuple(weight.shape)}, not {expected}")
            if nonfinite_tensor([("weight", weight)]):
                raise ValueError("it is not finite")
        self.value_head.weight.copy_(weight)


class _TokenLogprobs(torch.autograd.Function):
    """Computes log p(target) and the entropy of softmax(hidden @ weight.T / temperature).

    At most MAX_LOGITS logits are computed at a time, in `dtype`, and converted to float32 in parts that fit a CPU's
    cache. The backward pass recomputes them instead of storing them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, dtype: torch.dtype, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        hidden_, weight_ = hidden.to(dtype), weight.to(dtype)
        logprobs, normalizer = (torch.empty(len(targets), device=hidden.device) for _ in range(2))
        entropies = torch.zeros(len(targets), device=hidden.device)
        for rows in _row_slices(len(targets), weight.shape[0], MAX_LOGITS):
            chunk = hidden_[rows] @ weight_.T
            for part in _row_slices(len(chunk), weight.shape[0], _float32_logits(hidden)):
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
        grad_hidden = torch.empty_like(hidden_)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # None: frozen, as with LoRA
        for rows in _row_slices(len(targets), weight.shape[0], MAX_LOGITS):
            chunk = hidden_[rows] @ weight_.T  # overwritten below by the gradient of the logits
            for part in _row_slices(len(chunk), weight.shape[0], _float32_logits(hidden)):
                at = slice(rows.start + part.start, rows.start + part.start + len(chunk[part]))
                log_p = chunk[part].float().div_(ctx.temperature).sub_(normalizer[at, None])
                slope = by_logprob[at, None]
                if grad_entropy is not None:
                    slope = slope + grad_entropy[at, None] * (log_p + entropies[at, None])
                grad = log_p.exp_().mul_(slope).neg_()
                grad.scatter_add_(-1, targets[at, None], by_logprob[at, None])
                chunk[part] = grad.div_(ctx.temperature)
            grad_hidden[rows] = chunk @ weight_
            if grad_weight is not None:
                grad_weight += chunk.T @ hidden_[rows]
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None, None


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(logits) [n, V]; `logits` is overwritten.

    The largest logit is subtracted and left out of the sum, logsumexp = log1p(sum of exp of the others), so that both
    terms are positive and stay accurate even if one token has a probability near 1."""
    top, at_top = logits.max(-1, keepdim=True)
    shifted = logits.sub_(top)
    others = shifted.exp().scatter_(-1, at_top, 0.0)
    total = others.sum(-1)
    return total.log1p() - others.mul_(shifted).sum(-1) / (1 + total)


def _float32_logits(tensor: Tensor) -> int:
    """Return the maximum number of float32 logits in memory at once: few on a CPU, to fit its cache."""
    return 2**20 if tensor.device.type == "cpu" else MAX_LOGITS


def _row_slices(rows: int, vocabulary: int, elements: int) -> list[slice]:
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
    """Return log-probs of `targets` [N] and entropies [N] (zeros if `entropy` is False), float32, from hidden states
    [N, H] and the output embedding [V, H].

    Logits are computed in `dtype`, the softmax in float32. bfloat16 logits have 8 significant bits, which causes errors
    of 0.03 (up to 0.2) in log-probs: use them only to reproduce the published run."""
    with torch.autocast(hidden.device.type, enabled=False):
        return _TokenLogprobs.apply(hidden, weight, targets, temperature, dtype, entropy)  # type: ignore[no-untyped-call, no-any-return]
