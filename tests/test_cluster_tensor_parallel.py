"""A tensor-parallel engine on two ranks has the responses and weights of one on a single rank."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from micro_runs import descendants
from transformers import AutoModelForCausalLM, AutoTokenizer

from simplerl.config import ModelConfig
from simplerl.engine.tensors import tensor_checksum
from simplerl.types import Problem, Prompt, Sampling, Stop

if find_spec("ray") is None or find_spec("vllm") is None:
    pytest.skip("Ray or vLLM is not installed (extras cpu or gpu)", allow_module_level=True)

from simplerl.cluster.engines import EnginePool
from simplerl.samplers.local import LocalSampler

BASE = Path(__file__).resolve().parent.parent / "assets/micro_base"


@pytest.mark.slow
def test_two_ranks_sample_and_hold_the_same_as_one(cluster: None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    policy = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    questions = [f"What is {a} + {a + 3}?\n" for a in (3, 12, 58)]
    prompts = [Prompt(Problem(q, q, ""), q, tuple(tokenizer(q).input_ids)) for q in questions]
    arguments = (prompts, Sampling(0.0, max_new_tokens=30), Stop((0,)), 1, 0, 0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.01)
    pool = EnginePool(
        tokenizer,
        ModelConfig(str(BASE), context=256),
        tensor_parallel=2,
        precision="float32",
        cache_gib=0.05,
        max_rows=4,
        cpus=2,
    )
    try:
        pool.load_weights(policy.named_parameters())
        sums = {name: tensor_checksum(weight) for name, weight in policy.named_parameters()}
        assert pool.checksums() == [sums | {"lm_head.weight": sums["model.embed_tokens.weight"]}]
        ours = {rollout.prompt.text: rollout.token_ids for rollout in pool.generate(*arguments)}

        stream, (engine,) = pool.generate(*arguments), pool.pids()
        again = [next(stream)]
        worker = max(descendants(engine))
        os.kill(worker, signal.SIGKILL)  # the actor survives and raises an exception
        again += stream
        more = [rollout.token_ids for rollout in pool.generate(*arguments)]
        assert pool.restarts == 1 and sorted(more) == sorted(ours.values())
        assert {rollout.prompt.text: rollout.token_ids for rollout in again} == ours
    finally:
        pool.close()
    theirs = {
        rollout.prompt.text: rollout.token_ids for rollout in LocalSampler(policy, tokenizer).generate(*arguments)
    }
    assert ours == theirs
