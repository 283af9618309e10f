"""`sampler=vllm` on the micro base model: responses, log-probs, stop rules and weight sync."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from simplerl.config import ModelConfig
from simplerl.engine.tensors import tensor_checksum
from simplerl.samplers.local import LocalSampler
from simplerl.types import Problem, Prompt, Rollout, Sampling, Stop

if TYPE_CHECKING:
    from simplerl.samplers.vllm import VllmSampler

BASE = Path(__file__).resolve().parent.parent / "assets/micro_base"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (extras cpu or gpu)"),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def policy() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


@pytest.fixture(scope="module")
def sampler(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[VllmSampler]:
    from simplerl.samplers.vllm import VllmSampler

    torch.manual_seed(3)
    before, set_num_threads = torch.get_rng_state(), torch.set_num_threads
    yield VllmSampler(policy, tokenizer, ModelConfig(str(BASE)), precision="float32", cache_gib=0.25, max_rows=16)
    assert torch.set_num_threads is set_num_threads
    assert before.shape == torch.get_rng_state().shape


@pytest.fixture(scope="module")
def prompts(tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    questions = [f"What is {a} * {b} + {a + b}?\n" for a, b in ((12, 7), (3, 44), (58, 9), (21, 21))]
    return [Prompt(Problem(q, q, ""), q, tuple(tokenizer(q).input_ids)) for q in questions]


def sample(
    sampler: VllmSampler | LocalSampler,
    prompts: list[Prompt],
    sampling: Sampling,
    stop: Stop,
    samples: int = 3,
    step: int = 0,
) -> dict[tuple[str, int], Rollout]:
    rollouts = list(sampler.generate(prompts, sampling, stop, samples, 0, step))
    found = {(rollout.prompt.problem.id, rollout.sample): rollout for rollout in rollouts}
    assert len(found) == len(rollouts) == len(prompts) * samples
    return found


def check_logprobs(model: PreTrainedModel, rollouts: dict[tuple[str, int], Rollout], temperature: float = 1.0) -> None:
    for rollout in rollouts.values():
        begin, ids = len(rollout.prompt.token_ids), torch.tensor([rollout.prompt.token_ids + rollout.token_ids])
        with torch.no_grad():
            logprobs = (model(ids).logits[0] / temperature).log_softmax(-1)
        want = logprobs[begin - 1 : -1].gather(-1, ids[0, begin:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(rollout.logprobs), want, atol=1e-3, rtol=0)


def test_greedy_responses_equal_the_local_samplers(
    sampler: VllmSampler, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]
) -> None:
    sampling, stop = Sampling(0.0, max_new_tokens=80), Stop((tokenizer.eos_token_id,))
    ours = sample(LocalSampler(policy, tokenizer), prompts, sampling, stop, samples=1)
    theirs = sample(sampler, prompts, sampling, stop, samples=1)
    for key, rollout in theirs.items():
        assert (rollout.token_ids, rollout.text, rollout.finish_reason) == (
            ours[key].token_ids,
            ours[key].text,
            ours[key].finish_reason,
        )
        assert rollout.logprobs == pytest.approx(ours[key].logprobs, abs=1e-3)
    assert "stop" in {rollout.finish_reason for rollout in theirs.values()}


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_logprobs_match_the_policy(
    sampler: VllmSampler, policy: PreTrainedModel, prompts: list[Prompt], temperature: float
) -> None:
    rollouts = sample(sampler, prompts, Sampling(temperature, max_new_tokens=24), Stop((0,)))
    assert len({rollout.token_ids for rollout in rollouts.values()}) > 6
    check_logprobs(policy, rollouts, temperature)


def test_stop_strings_give_the_local_samplers_responses(
    sampler: VllmSampler, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]
) -> None:
    stop, sampling = Stop((tokenizer.eos_token_id,), ("\nThe",)), Sampling(0.0, max_new_tokens=60)
    ours = sample(LocalSampler(policy, tokenizer), prompts, sampling, stop, samples=1)
    for key, rollout in sample(sampler, prompts, sampling, stop, samples=1).items():
        assert (rollout.token_ids, rollout.text) == (ours[key].token_ids, ours[key].text)
        assert rollout.finish_reason == ours[key].finish_reason


def test_a_sample_does_not_depend_on_its_batch(sampler: VllmSampler, prompts: list[Prompt]) -> None:
    sampling, stop = Sampling(max_new_tokens=24), Stop((0,))
    whole = sample(sampler, prompts, sampling, stop)
    part = sample(sampler, prompts[2:0:-1], sampling, stop, samples=2)
    assert {key: whole[key].token_ids for key in part} == {key: rollout.token_ids for key, rollout in part.items()}
    other = sample(sampler, prompts, sampling, stop, step=1)
    assert {key: r.token_ids for key, r in other.items()} != {key: r.token_ids for key, r in whole.items()}


def test_the_iterator_can_be_closed_early(sampler: VllmSampler, prompts: list[Prompt]) -> None:
    stream = sampler.generate(prompts, Sampling(max_new_tokens=24), Stop(()), 3, 0, 0)
    next(stream)
    stream.close()
    assert not sampler.engine.llm.llm_engine.has_unfinished_requests()
    assert len(sample(sampler, prompts, Sampling(max_new_tokens=4), Stop(()))) == 12


def test_new_weights_are_used(sampler: VllmSampler, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]) -> None:
    other = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    sampler.load_weights(other.named_parameters())
    check_logprobs(other, sample(sampler, prompts, Sampling(max_new_tokens=24), Stop((0,))))


def test_checksums_are_of_the_weights_the_engine_computes_with(sampler: VllmSampler) -> None:
    """Weights are loaded one by one and read back after vLLM fused, padded and packed them; the tied output layer has
    its own packed copy."""
    policy = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.5)
        policy.model.layers[0].mlp.up_proj.weight[0, :2] = torch.tensor([-0.0, 1e-41])
    sampler.engine.start_weights()
    for name, parameter in policy.named_parameters():
        sampler.engine.load_weights([(name, parameter.detach())])
    sampler.engine.finish_weights()
    held = sampler.engine.checksums()
    want = {name: tensor_checksum(parameter) for name, parameter in policy.named_parameters()}
    assert held == want | {"lm_head.weight": want["model.embed_tokens.weight"]}
    with torch.no_grad():
        policy.model.layers[2].self_attn.k_proj.weight[7, 9] += 1e-6
    changed = {name: tensor_checksum(parameter) for name, parameter in policy.named_parameters()}
    assert {name for name in want if held[name] != changed[name]} == {"model.layers.2.self_attn.k_proj.weight"}
