"""The local sampler and its two decoders, against full forward passes of small random models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tokenizers import Tokenizer, decoders, models
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from simplerl.errors import ConfigError
from simplerl.samplers.generic import GenericDecoder
from simplerl.samplers.llama import LlamaDecoder
from simplerl.samplers.local import LocalSampler
from simplerl.samplers.stopping import StopRule, decode
from simplerl.samplers.token_sampling import response_seed
from simplerl.types import Problem, Prompt, Rollout, Sampling, Stop

ROOT = Path(__file__).resolve().parent.parent
EOS = 0
CHARACTERS = [chr(code) for code in range(32, 122)]
PIECES = ["<eos>", *CHARACTERS, "ab", "cd"]  # 93
SIZES = {
    "vocab_size": len(PIECES),
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
ARCHITECTURES = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=True), LlamaDecoder),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=32), LlamaDecoder),
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, rope_scaling=LLAMA3, attention_bias=True), LlamaDecoder),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=None), LlamaDecoder),
    "mistral, sliding": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=16), GenericDecoder),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**SIZES, head_dim=16, sliding_window=16), GenericDecoder),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(vocab_size=93, n_embd=48, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0),
        GenericDecoder,
    ),
}


def make_model(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    kind, config, _ = ARCHITECTURES[name]
    model: PreTrainedModel = kind(config).eval()
    with torch.no_grad():  # larger than at initialisation, so that distributions are far from uniform
        for parameter in model.parameters():
            parameter.mul_(4) if parameter.ndim > 1 else parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make_model("qwen2")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    bpe = models.BPE({piece: i for i, piece in enumerate(PIECES)}, [("a", "b"), ("c", "d")])
    plain = Tokenizer(bpe)
    plain.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>")


def make_prompts(count: int, shortest: int = 3, longest: int = 20) -> list[Prompt]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(shortest, longest, (count,), generator=generator).tolist()
    ids = [tuple(torch.randint(1, 93, (n,), generator=generator).tolist()) for n in lengths]
    return [Prompt(Problem(f"p{i}", "", ""), "", tokens) for i, tokens in enumerate(ids)]


def sample(
    sampler: LocalSampler,
    prompts: list[Prompt],
    sampling: Sampling | None = None,
    stop: Stop | None = None,
    samples: int = 3,
    seed: int = 0,
    step: int = 0,
) -> dict[tuple[str, int], Rollout]:
    sampling = sampling or Sampling(max_new_tokens=24)
    rollouts = list(sampler.generate(prompts, sampling, stop or Stop((EOS,)), samples, seed, step))
    found = {(rollout.prompt.problem.id, rollout.sample): rollout for rollout in rollouts}
    assert len(found) == len(rollouts) == len(prompts) * samples
    return found


def full_logprobs(model: PreTrainedModel, rollout: Rollout, temperature: float = 1.0) -> torch.Tensor:
    """Return the log-probs of a response from one forward pass over prompt and response."""
    ids = torch.tensor([rollout.prompt.token_ids + rollout.token_ids])
    with torch.no_grad():
        logprobs = (model(ids).logits[0] / temperature).log_softmax(-1)
    begin = len(rollout.prompt.token_ids)
    return logprobs[begin - 1 : -1].gather(-1, ids[0, begin:, None])[:, 0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logprobs_match_a_full_forward(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(name)
    sampler = LocalSampler(model, tokenizer, max_rows=8)
    assert type(sampler.decoder) is ARCHITECTURES[name][2]
    for temperature in (0.7, 1.0):
        rollouts = sample(sampler, make_prompts(7), Sampling(temperature, max_new_tokens=24))
        assert {rollout.finish_reason for rollout in rollouts.values()} == {"stop", "length"}
        for rollout in rollouts.values():
            want = full_logprobs(model, rollout, temperature)
            torch.testing.assert_close(torch.tensor(rollout.logprobs), want, atol=1e-4, rtol=0)


def test_growing_and_compacting_the_cache_keeps_its_content(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simplerl.samplers.llama._INITIAL_COLUMNS", 5)
    monkeypatch.setattr("simplerl.samplers.llama._PREFILL_TOKENS", 20)
    rollouts = sample(LocalSampler(model, tokenizer, max_rows=5), make_prompts(12), Sampling(max_new_tokens=60))
    assert max(len(rollout.token_ids) for rollout in rollouts.values()) > 5  # the cache grows
    for rollout in rollouts.values():
        got = torch.tensor(rollout.logprobs)
        torch.testing.assert_close(got, full_logprobs(model, rollout), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_a_sample_does_not_depend_on_its_batch(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(name)
    prompts, stop = make_prompts(6), Stop(tuple(range(8)))
    whole = sample(LocalSampler(model, tokenizer), prompts, stop=stop)
    assert len({len(rollout.token_ids) for rollout in whole.values()}) > 4  # rows finish at different times
    narrow = sample(LocalSampler(model, tokenizer, max_rows=4), prompts[::-1], stop=stop)
    alone = sample(LocalSampler(model, tokenizer, max_rows=1), prompts[2:3], stop=stop)
    fewer = sample(LocalSampler(model, tokenizer), prompts[1:4], stop=stop, samples=2)
    for other in (narrow, alone, fewer):
        for key, rollout in other.items():
            assert rollout.token_ids == whole[key].token_ids
            assert rollout.logprobs == pytest.approx(whole[key].logprobs, abs=1e-4)


def test_prompts_share_one_prefill(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = LocalSampler(model, tokenizer)
    responses = sampler.generate(make_prompts(4), Sampling(max_new_tokens=24), Stop(()), 5, 0, 0)
    sampler.decoder.clear()
    decoder = sampler.decoder
    assert isinstance(decoder, LlamaDecoder)
    decoder.add_rows([prompt.token_ids for prompt in make_prompts(4)], [5] * 4)
    assert decoder.prompt_keys.shape[1] == 4
    assert len(decoder.first_column) == 20
    decoder.clear()
    assert len(list(responses)) == 20


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma2"])
def test_greedy_equals_generate(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(name)
    prompts = make_prompts(5)
    rollouts = sample(LocalSampler(model, tokenizer), prompts, Sampling(0.0, max_new_tokens=30), samples=1)
    for prompt in prompts:
        ids = torch.tensor([prompt.token_ids])
        want = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30)
        rollout = rollouts[prompt.problem.id, 0]
        assert list(rollout.token_ids) == want[0, len(prompt.token_ids) :].tolist()
        torch.testing.assert_close(torch.tensor(rollout.logprobs), full_logprobs(model, rollout), atol=1e-4, rtol=0)


def test_a_stop_id_ends_a_response_and_is_excluded_from_its_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    free = sample(LocalSampler(model, tokenizer), make_prompts(6), stop=Stop(()))
    stopped = sample(LocalSampler(model, tokenizer), make_prompts(6), stop=Stop((7, 8, 9)))
    assert {rollout.finish_reason for rollout in free.values()} == {"length"}
    assert {len(rollout.token_ids) for rollout in free.values()} == {24}
    assert {rollout.finish_reason for rollout in stopped.values()} == {"stop", "length"}
    for key, rollout in stopped.items():
        ends = [i for i, token in enumerate(free[key].token_ids) if token in (7, 8, 9)]
        length = ends[0] + 1 if ends else 24
        assert rollout.token_ids == free[key].token_ids[:length]
        assert rollout.finish_reason == ("stop" if ends else "length")
        assert rollout.text == decode(tokenizer, rollout.token_ids[: -1 if ends else None])
        assert len(rollout.logprobs) == length


def test_a_stop_string_is_found_across_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = LocalSampler(model, tokenizer)
    free = sample(sampler, make_prompts(6), stop=Stop(()))
    for key in list(free)[:4]:
        text = free[key].text
        string = text[8:12]  # spans tokens: nearly every piece is one character
        stopped = sample(sampler, make_prompts(6), stop=Stop((), (string, "\x7fnever")))
        for other, rollout in stopped.items():
            whole = free[other]
            assert rollout.token_ids == whole.token_ids[: len(rollout.token_ids)]
            if string in whole.text:
                assert rollout.finish_reason == "stop"
                assert rollout.text == whole.text[: whole.text.index(string)]
                seen = [decode(tokenizer, whole.token_ids[:n]) for n in range(25)]
                assert len(rollout.token_ids) == next(n for n in range(25) if string in seen[n])
            else:
                assert rollout.token_ids == whole.token_ids and rollout.text == whole.text
        assert stopped[key].finish_reason == "stop"


def test_a_stop_string_inside_a_token_truncates_the_text_within_it(tokenizer: PreTrainedTokenizerFast) -> None:
    rule = StopRule(tokenizer, Stop((EOS,), ("xa",)))
    x, ab, b = PIECES.index("x"), PIECES.index("ab"), PIECES.index("b")
    assert {ab, PIECES.index("a"), EOS} <= rule.possible_ends and b not in rule.possible_ends
    assert not rule.reached([b, ab])
    assert rule.reached([b, x, ab])
    assert rule.text([b, x, ab]) == "b"
    assert rule.text([b, ab, EOS]) == "bab"


def test_special_tokens_can_be_stop_strings(tokenizer: PreTrainedTokenizerFast) -> None:
    rule = StopRule(tokenizer, Stop((), ("<eos>",)))
    b = PIECES.index("b")
    assert rule.reached([b, EOS])
    assert rule.text([b, EOS]) == "b"


def test_every_part_of_the_seed_changes_the_response(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert response_seed(1, 2, "a", 3) == response_seed(1, 2, "a", 3)
    keys = [
        response_seed(*parts)
        for parts in ((0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1))
    ]
    assert len(set(keys)) == 5 and all(-(2**63) <= key < 2**63 for key in keys)
    sampler, prompts = LocalSampler(model, tokenizer), make_prompts(1)
    twin = replace(prompts[0], problem=Problem("twin", "", ""))
    first = sample(sampler, [prompts[0], twin], samples=2)
    later = sample(sampler, prompts, samples=1, step=1)
    other = sample(sampler, prompts, samples=1, seed=1)
    assert len({rollout.token_ids for found in (first, later, other) for rollout in found.values()}) == 6


def test_new_weights_take_effect_only_when_loaded(tokenizer: PreTrainedTokenizerFast) -> None:
    model, prompts = make_model("llama"), make_prompts(3)
    sampler = LocalSampler(model, tokenizer)
    before = sample(sampler, prompts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    assert sample(sampler, prompts) == before
    sampler.load_weights(model.named_parameters())
    after = sample(sampler, prompts)
    assert after != before
    for rollout in after.values():
        torch.testing.assert_close(torch.tensor(rollout.logprobs), full_logprobs(model, rollout), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"lm_head\.weight is missing"):
        sampler.load_weights(list(model.named_parameters())[:-1])


def test_the_generic_decoder_uses_new_weights_shared_or_copied(tokenizer: PreTrainedTokenizerFast) -> None:
    model, prompts = make_model("gpt2"), make_prompts(3)
    shared, copied = LocalSampler(model, tokenizer), LocalSampler(model, tokenizer, precision="bfloat16")
    with torch.no_grad():
        model.get_parameter("transformer.ln_f.bias").add_(1.0)
    for sampler in (shared, copied):
        sampler.load_weights(model.named_parameters())
    for rollout in sample(shared, prompts).values():
        torch.testing.assert_close(torch.tensor(rollout.logprobs), full_logprobs(model, rollout), atol=1e-4, rtol=0)
    for rollout in sample(copied, prompts).values():
        gap = (torch.tensor(rollout.logprobs) - full_logprobs(model, rollout)).abs()
        assert gap.mean() < 0.1


def test_the_generic_decoder_restores_the_mode_of_each_module(tokenizer: PreTrainedTokenizerFast) -> None:
    """With gradient checkpointing some layers are in training mode while the model itself is not."""
    model = make_model("gpt2").eval()
    model.transformer.h[1].training = True
    sampler = LocalSampler(model, tokenizer)
    sample(sampler, make_prompts(2))
    assert [name for name, module in model.named_modules() if module.training] == ["transformer.h.1"]


def test_bfloat16_stays_close_to_float32(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = LocalSampler(model, tokenizer, precision="bfloat16")
    gaps = [
        (torch.tensor(rollout.logprobs) - full_logprobs(model, rollout)).abs()
        for rollout in sample(sampler, make_prompts(6)).values()
    ]
    assert 1e-5 < torch.cat(gaps).mean() < 0.05


def test_the_iterator_can_be_closed_early(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    sampler, prompts = LocalSampler(model, tokenizer), make_prompts(6)
    stream = sampler.generate(prompts, Sampling(max_new_tokens=24), Stop((EOS,)), 2, 0, 0)
    next(stream)
    assert not torch.is_inference_mode_enabled()
    stream.close()
    assert sample(sampler, prompts) == sample(LocalSampler(model, tokenizer), prompts)


def test_errors_name_the_key(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match=r"sampler\.precision=float16"):
        LocalSampler(model, tokenizer, precision="float16")
    with pytest.raises(ConfigError, match=r"sampler\.max_rows=0"):
        LocalSampler(model, tokenizer, max_rows=0)
    with pytest.raises(ConfigError, match="context of 128"):
        sample(LocalSampler(model, tokenizer), make_prompts(1), Sampling(max_new_tokens=126))


def test_max_cache_gib_limits_the_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = make_prompts(4)
    longest = max(len(prompt.token_ids) for prompt in prompts) + 24
    sampler = LocalSampler(model, tokenizer)
    tight = LocalSampler(model, tokenizer, max_cache_gib=sampler.decoder.cache_bytes_per_token * longest * 5 / 2**30)
    assert tight._row_limit(prompts, Sampling(max_new_tokens=24)) == 5
    assert sampler._row_limit(prompts, Sampling(max_new_tokens=24)) == 256
    assert {key: r.token_ids for key, r in sample(tight, prompts).items()} == {
        key: r.token_ids for key, r in sample(sampler, prompts).items()
    }


def test_the_config_builds_the_sampler(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = instantiate(OmegaConf.load(ROOT / "conf/sampler/local.yaml"))(lambda: model, tokenizer, "unused")
    assert len(sample(sampler, make_prompts(2))) == 6
