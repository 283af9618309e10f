"""Compares the speed of our sampler with transformers `generate` and vLLM, on the same checkpoint and prompts:

    python -m simplerl.bench.sampling assets/micro_base --responses 256
    python -m simplerl.bench.sampling models/smollm2_135m --responses 64 --precision bfloat16

Every response has exactly `--tokens` tokens, because no stop token is set. Each engine runs once to warm up and then
`--repeats` times in turn with the others. The best time counts, because other load on the machine can only slow a run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from simplerl.config import ModelConfig
from simplerl.samplers import Sampler
from simplerl.samplers.local import PRECISIONS, LocalSampler
from simplerl.types import Problem, Prompt, Sampling, Stop

ENGINES = ("ours", "generate", "vllm")
Run = Callable[[int], int]  # from a seed to the number of generated tokens
Settings = argparse.Namespace  # the command line; see `main`


def measure(settings: Settings) -> dict[str, float]:
    """Time the engines in turn, after a warm-up run of each, and return engine -> its best time in seconds. Raises
    RuntimeError if an engine generates another number of tokens than asked."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=PRECISIONS[settings.precision]).eval()
    if torch.cuda.is_available():
        model.cuda()
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    prompts = make_prompts(settings, model.config.vocab_size)
    total = settings.responses * settings.tokens
    runs = {name: _make_run(name, settings, model, tokenizer, prompts) for name in settings.engines}
    best = dict.fromkeys(runs, float("inf"))
    for repeat in range(settings.repeats + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            generated = run(repeat)
            seconds = time.perf_counter() - begin
            if generated != total:
                raise RuntimeError(f"{name} generated {generated} tokens instead of {total}")
            if repeat:
                best[name] = min(best[name], seconds)
    return best


def make_prompts(settings: Settings, vocabulary: int) -> list[Prompt]:
    """Return prompts of random tokens with lengths spread evenly from half of prompt_tokens to prompt_tokens."""
    generator = torch.Generator().manual_seed(0)
    count, longest = settings.responses // settings.samples, settings.prompt_tokens
    lengths = torch.linspace(longest / 2, longest, count).round().int().tolist()
    ids = [tuple(torch.randint(vocabulary, (n,), generator=generator).tolist()) for n in lengths]
    return [Prompt(Problem(f"bench/{i}", "", ""), "", tokens) for i, tokens in enumerate(ids)]


def _make_run(
    name: str, settings: Settings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]
) -> Run:
    if name == "generate":
        return _transformers_run(settings, model, prompts)
    sampler: Sampler
    options = {"precision": settings.precision, "max_rows": settings.responses}
    if name == "ours":
        sampler = LocalSampler(model, tokenizer, **options)
    else:
        from simplerl.samplers.vllm import VllmSampler

        sampler = VllmSampler(model, tokenizer, ModelConfig(settings.model), cache_gib=4.0, **options)
    sampling = Sampling(max_new_tokens=settings.tokens)

    def run(seed: int) -> int:
        rollouts = sampler.generate(prompts, sampling, Stop(()), settings.samples, seed, 0)
        return sum(len(rollout.token_ids) for rollout in rollouts)

    return run


def _transformers_run(settings: Settings, model: PreTrainedModel, prompts: list[Prompt]) -> Run:
    model.generation_config.eos_token_id = None  # never stop
    longest = max(len(prompt.token_ids) for prompt in prompts)
    pads = [longest - len(prompt.token_ids) for prompt in prompts]
    ids = [[0] * pad + list(prompt.token_ids) for pad, prompt in zip(pads, prompts, strict=True)]
    masks = [[0] * pad + [1] * (longest - pad) for pad in pads]
    tokens, attention = (
        torch.tensor(x, device=model.device).repeat_interleave(settings.samples, 0) for x in (ids, masks)
    )

    def run(seed: int) -> int:
        torch.manual_seed(seed)
        generate: Any = model.generate
        out = generate(
            tokens,
            attention_mask=attention,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=settings.tokens,
            pad_token_id=0,
        )
        return int(len(out) * (out.shape[1] - longest))

    return run


def table(settings: Settings, best: dict[str, float]) -> str:
    """Format the settings, and each engine's time, speed and slowdown relative to ours, for printing."""
    lines = [", ".join(f"{key}={value}" for key, value in vars(settings).items())]
    lines.append(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    lines.append(f"{'engine':<10}{'seconds':>10}{'tokens/s':>12}{'speedup of ours':>20}")
    ours = best.get("ours", float("nan"))
    for engine, seconds in best.items():
        speed = settings.responses * settings.tokens / seconds
        lines.append(f"{engine:<10}{seconds:>10.2f}{speed:>12.0f}{seconds / ours:>19.2f}x")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare the speed of our sampler with transformers and vLLM.")
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument("--responses", type=int, default=256)
    parser.add_argument("--samples", type=int, default=8, help="responses per prompt; must divide --responses")
    parser.add_argument(
        "--prompt-tokens", type=int, default=32, help="tokens of the longest prompt; the shortest: half"
    )
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each response")
    parser.add_argument(
        "--precision",
        choices=list(PRECISIONS),
        default="float32",
        help="dtype of weights (transformers, vLLM) or matrix products (ours)",
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 keeps its default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    settings = parser.parse_args(arguments)
    if settings.responses % settings.samples:
        parser.error(f"--samples {settings.samples} does not divide --responses {settings.responses}")
    print(table(settings, measure(settings)))


if __name__ == "__main__":
    main()
