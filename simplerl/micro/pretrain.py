"""Pre-trains the micro world's base model from scratch:

    python -m simplerl.micro.pretrain --out assets/micro_base

The model is a Qwen2 with 0.8M parameters, trained on the answers of `simplerl.micro.corpus`; one CPU core takes 23
minutes. Matrix products are computed in bfloat16 and attention in float32, because on CPUs the backward pass of
bfloat16 attention is about ten times slower.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import AttentionInterface, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from simplerl.micro import corpus, tokenizer

WIDTHS = (48, 64, 80, 112, 176)  # lengths that documents are padded to; few, because each shape is compiled
BATCH_TOKENS = 2048  # of one forward and backward pass, small enough for the cache of a CPU core
TRUNCATED_ANSWER_TOKENS = 12
# Loss weight of the words "same" and "different", the result of a comparison, which are rare and slow to learn.
VERDICT_WEIGHT = 5.0
CONTEXT = 256
WARMUP_STEPS = 100
EOS_ID = tokenizer.EOS_ID


def float32_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: object
) -> tuple[Tensor, None]:
    """Compute attention in float32 under autocast, from [B, heads, T, head size] to [B, T, heads, head size].

    The engine's `simplerl_float32` rounds differently and would train a different base model.
    """
    with torch.autocast("cpu", enabled=False):
        groups = query.shape[1] // key.shape[1]
        key, value = key.float().repeat_interleave(groups, 1), value.float().repeat_interleave(groups, 1)
        causal = attention_mask is None
        out = functional.scaled_dot_product_attention(
            query.float(), key, value, attn_mask=attention_mask, is_causal=causal
        )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("micro_float32", float32_attention)


def new_model(seed: int) -> Qwen2ForCausalLM:
    """Build the micro world's Qwen2 model with random weights, determined by `seed`."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer.TOKENS),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=EOS_ID,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.set_attn_implementation("micro_float32")
    return model


def examples(seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield documents as (tokens, next-token targets with -100 where there is no loss), at most WIDTHS[-1] long.

    Most programs and half of the rambling answers are truncated after their first tokens, which saves time: the model
    learns from all of them how often to start one, and from the complete ones how to continue.
    """
    rng = Random(f"cut-{seed}")
    truncated_fraction = {corpus.CODE: 0.8, corpus.RAMBLE: 0.5}
    for document in corpus.documents(seed):
        text, (start, stop) = document.answer, document.given
        parts = [tokenizer.encode(part) for part in (document.prompt, text[:start], text[start:stop], text[stop:])]
        prompt, before, given, after = parts
        after.append(EOS_ID)
        prompt_targets = prompt[1:] if document.style == corpus.DRILL else [-100] * (len(prompt) - 1)
        tokens = prompt + before + given + after
        targets = [*prompt_targets, *before, *(-100 for _ in given), *after, -100]
        truncated = rng.random() < truncated_fraction.get(document.style, 0.0)
        length = len(prompt) + TRUNCATED_ANSWER_TOKENS if truncated else len(tokens)
        yield tokens[:length], [*targets[: length - 1], -100]


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (tokens [B, T], targets [B, T]), right-padded, with T in WIDTHS and B * T about BATCH_TOKENS."""
    waiting: dict[int, list[tuple[list[int], list[int]]]] = {width: [] for width in WIDTHS}
    for tokens, targets in examples(seed):
        width = next(width for width in WIDTHS if len(tokens) <= width)
        padding = width - len(tokens)
        waiting[width].append((tokens + [EOS_ID] * padding, targets + [-100] * padding))
        if len(waiting[width]) == BATCH_TOKENS // width:
            columns = zip(*waiting[width], strict=True)
            yield tuple(torch.tensor(column) for column in columns)  # type: ignore[misc]
            waiting[width] = []


def make_optimizers(
    model: Qwen2ForCausalLM, steps: int, muon_lr: float, adam_lr: float
) -> list[tuple[torch.optim.Optimizer, LambdaLR]]:
    """Return AdamW, and Muon (AdamW if `muon_lr` is 0) for the layers' matrices, each with the same cosine schedule."""
    layers = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, adam_lr, (0.9, 0.98), weight_decay=0.0)]
    if muon_lr:
        muon = torch.optim.Muon(layers, muon_lr, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    else:
        optimizers.append(torch.optim.AdamW(layers, adam_lr, (0.9, 0.98), weight_decay=0.01))

    def lr_factor(step: int) -> float:
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
        return min(1.0, (step + 1) / WARMUP_STEPS) * (0.02 + 0.98 * cosine)

    return [(optimizer, LambdaLR(optimizer, lr_factor)) for optimizer in optimizers]


def save(model: Qwen2ForCausalLM, out: Path) -> None:
    """Write model and tokenizer as a Hugging Face folder."""
    model.generation_config = GenerationConfig(eos_token_id=EOS_ID, pad_token_id=EOS_ID, do_sample=False)
    model.save_pretrained(out)
    tokenizer.build().save_pretrained(out)


def train_step(model: Qwen2ForCausalLM, forward: Callable[..., Any], parts: list[tuple[Tensor, Tensor]]) -> float:
    """Accumulate the gradient of the mean loss per target token over `parts`, and return the loss. The verdicts of
    self-checks weigh VERDICT_WEIGHT, other tokens 1."""
    count = sum(int((targets >= 0).sum()) for _, targets in parts)
    weight = torch.ones(len(tokenizer.TOKENS))
    weight[[tokenizer.TOKENS.index(word) for word in corpus.VERDICTS]] = VERDICT_WEIGHT
    total = 0.0
    for tokens, targets in parts:
        positions = torch.arange(tokens.shape[1])[None]
        with torch.autocast("cpu", torch.bfloat16):
            output = forward(input_ids=tokens, position_ids=positions, attention_mask=None, use_cache=False)
            logits = model.lm_head(output.last_hidden_state)
        loss = (
            functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), weight, reduction="sum") / count
        )
        loss.backward()
        total += loss.item()
    return total


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pre-train the micro world's base model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights and the corpus")
    parser.add_argument("--steps", type=int, default=2200, help="optimizer steps")
    parser.add_argument("--parts", type=int, default=6, help=f"micro-batches of {BATCH_TOKENS} tokens per step")
    parser.add_argument(
        "--muon-lr",
        type=float,
        default=3e-3,
        help="learning rate of the layers' matrices; 0 trains them with AdamW too",
    )
    parser.add_argument("--adam-lr", type=float, default=3e-3, help="learning rate of all other parameters")
    parser.add_argument("--save-every", type=int, default=500, help="steps between saves")
    parser.add_argument(
        "--eager", action="store_true", help="do not use torch.compile: slower, but needs no C++ compiler"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    torch.manual_seed(args.seed)
    model = new_model(args.seed)
    forward = model.model if args.eager else torch.compile(model.model, dynamic=False)
    optimizers = make_optimizers(model, args.steps, args.muon_lr, args.adam_lr)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    started, total, tokens = time.monotonic(), 0.0, 0
    source = batches(args.seed)
    for step in range(1, args.steps + 1):
        parts = list(islice(source, args.parts))
        total += train_step(model, forward, parts)
        tokens += sum(part.numel() for part, _ in parts)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        for optimizer, schedule in optimizers:
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            seconds = time.monotonic() - started
            print(f"step {step} loss {total / 50:.4f} {seconds:.0f} s {tokens / seconds:.0f} tokens/s", flush=True)
            total = 0.0
        if step % args.save_every == 0 or step == args.steps:
            save(model, args.out)


if __name__ == "__main__":
    main()
