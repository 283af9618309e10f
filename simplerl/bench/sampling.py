"""Our sampler beside transformers `generate` and vLLM, on the same checkpoint, prompts and token counts.

    python -m simplerl.bench.sampling model=assets/micro_base rows=256 tokens=64
    python -m simplerl.bench.sampling model=models/smollm2_135m rows=64 tokens=64 precision=bfloat16

Every response has exactly `tokens` tokens (nothing stops it). Each engine runs once to warm up, then
`repeats` times in turn with the others, and its best time counts, for what else runs on the machine
can only slow it down. Keys and defaults are the fields of `Settings`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from simplerl.config import ModelConfig
from simplerl.errors import ConfigError
from simplerl.samplers import Sampler
from simplerl.samplers.local import LocalSampler
from simplerl.types import Problem, Prompt, Sampling, Stop

ENGINES = ("ours", "generate", "vllm")
Run = Callable[[int], int]  # a seed; the number of tokens generated


@dataclass(frozen=True)
class Settings:
    model: str = "assets/micro_base"
    rows: int = 256  # responses
    samples: int = 8  # responses of one prompt
    prompt_tokens: int = 32  # the longest prompt; the shortest has half of that
    tokens: int = 64  # of each response
    precision: str = "float32"  # of weights (generate, vLLM) or products (ours)
    threads: int = 0  # of torch; 0: its own default
    repeats: int = 3
    engines: str = ",".join(ENGINES)


@dataclass(frozen=True)
class Timing:
    engine: str
    seconds: float
    tokens_per_second: float
    ratio: float  # our speed by this engine's


def measure(settings: Settings) -> list[Timing]:
    """Times the engines side by side. Raises ConfigError for settings that cannot work."""
    engines = settings.engines.split(",")
    if settings.rows % settings.samples:
        raise ConfigError(f"samples={settings.samples} does not divide rows={settings.rows}: choose a divisor.")
    if unknown := sorted(set(engines) - set(ENGINES)):
        raise ConfigError(f"engines={unknown[0]} is unknown: choose among {', '.join(ENGINES)}.")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.precision]
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=dtype).eval()
    if torch.cuda.is_available():
        model.cuda()
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    prompts = make_prompts(settings, model.config.vocab_size)
    runs = {name: _start(name, settings, model, tokenizer, prompts) for name in engines}
    best = dict.fromkeys(runs, float("inf"))
    for repeat in range(settings.repeats + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            generated = run(repeat)
            seconds = time.perf_counter() - begin
            if generated != settings.rows * settings.tokens:
                raise RuntimeError(f"{name} generated {generated} tokens, not {settings.rows * settings.tokens}.")
            if repeat:
                best[name] = min(best[name], seconds)
    ours = best.get("ours", float("nan"))
    total = settings.rows * settings.tokens
    return [Timing(name, seconds, total / seconds, seconds / ours) for name, seconds in best.items()]


def make_prompts(settings: Settings, vocabulary: int) -> list[Prompt]:
    """Random tokens, lengths spread evenly between half the longest and the longest."""
    generator = torch.Generator().manual_seed(0)
    count, longest = settings.rows // settings.samples, settings.prompt_tokens
    lengths = torch.linspace(longest / 2, longest, count).round().int().tolist()
    ids = [tuple(torch.randint(vocabulary, (n,), generator=generator).tolist()) for n in lengths]
    return [Prompt(Problem(f"bench/{i}", "", ""), "", tokens) for i, tokens in enumerate(ids)]


def _start(
    name: str,
    settings: Settings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
) -> Run:
    if name == "generate":
        return _generate(settings, model, prompts)
    sampler: Sampler
    if name == "ours":
        sampler = LocalSampler(model, tokenizer, precision=settings.precision, max_rows=settings.rows)
    else:
        from simplerl.samplers.vllm import VllmSampler

        sampler = VllmSampler(
            model,
            tokenizer,
            ModelConfig(settings.model),
            precision=settings.precision,
            max_rows=settings.rows,
            cache_gib=4.0,
        )

    def run(seed: int) -> int:
        rollouts = sampler.generate(
            prompts, Sampling(max_new_tokens=settings.tokens), Stop(()), settings.samples, seed, 0
        )
        return sum(len(rollout.token_ids) for rollout in rollouts)

    return run


def _generate(settings: Settings, model: PreTrainedModel, prompts: list[Prompt]) -> Run:
    model.generation_config.eos_token_id = None  # nothing stops it
    longest = max(len(prompt.token_ids) for prompt in prompts)
    pads = [longest - len(prompt.token_ids) for prompt in prompts]
    ids = [[0] * pad + list(prompt.token_ids) for pad, prompt in zip(pads, prompts, strict=True)]
    seen = [[0] * pad + [1] * (longest - pad) for pad in pads]
    tokens, attention = (
        torch.tensor(x, device=model.device).repeat_interleave(settings.samples, 0) for x in (ids, seen)
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


def table(settings: Settings, timings: list[Timing]) -> str:
    lines = [", ".join(f"{key}={value}" for key, value in asdict(settings).items())]
    lines.append(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    lines.append(f"{'engine':<10}{'seconds':>10}{'tokens/s':>12}{'ours is faster by':>20}")
    for timing in timings:
        lines.append(
            f"{timing.engine:<10}{timing.seconds:>10.2f}{timing.tokens_per_second:>12.0f}{timing.ratio:>19.2f}x"
        )
    return "\n".join(lines)


def parse(arguments: list[str]) -> Settings:
    """key=value words as Settings. Raises ConfigError."""
    known = {entry.name: type(entry.default) for entry in fields(Settings)}
    values: dict[str, str | int] = {}
    for word in arguments:
        key, _, value = word.partition("=")
        if key not in known or not value:
            raise ConfigError(f"{word!r} is no setting: write key=value with a key among {', '.join(known)}.")
        if known[key] is int and not value.isdigit():
            raise ConfigError(f"{key}={value} must be a whole number.")
        values[key] = int(value) if known[key] is int else value
    return Settings(**values)  # type: ignore[arg-type]


def main() -> None:
    try:
        settings = parse(sys.argv[1:])
        print(table(settings, measure(settings)))
    except ConfigError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
