"""The weight sync: buckets, the checksums of both sides, and ranks and engines that die or hang during a sync."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from simplerl.algorithms.losses import ppo_clip
from simplerl.backends.roles import build_worker
from simplerl.config import Aggregation, ModelConfig, OptimizerConfig, TrainConfig
from simplerl.engine.tensors import tensor_checksum
from simplerl.engine.worker import UpdatePlan
from simplerl.types import Problem, Prompt, Rollout, Sampling, Stop

if find_spec("ray") is None or find_spec("vllm") is None:
    pytest.skip("Ray or vLLM is not installed (extras cpu or gpu)", allow_module_level=True)


from ranks_alone import rank, ray

from simplerl.cluster.engines import EnginePool
from simplerl.cluster.health import Limits
from simplerl.cluster.layout import Sharding
from simplerl.cluster.ranks import ActorOptions, RankGroup
from simplerl.cluster.weights import (
    Header,
    WeightMismatch,
    buckets,
    check_checksums,
    from_ranks,
    send_weights,
    unpack,
)
from simplerl.errors import Lost

BASE = str(Path(__file__).resolve().parent.parent / "assets/micro_base")


def pairs(parts: Iterator[Any]) -> list[tuple[np.ndarray, Header]]:
    return list(zip(parts, parts, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buckets_hold_every_weight_once_in_order(dtype: torch.dtype) -> None:
    shapes = [(3, 5), (7,), (40, 10), (2, 2), (), (4, 8)]
    weights = [(f"w{i}", torch.randn(shape)) for i, shape in enumerate(shapes)]

    def gathered() -> Iterator[tuple[str, Tensor]]:
        """Yield weights that, as those gathered by ZeRO-3, are freed when the next one is requested."""
        for name, weight in weights:
            space = weight.clone()
            yield name, space
            space.fill_(float("nan"))

    size = 40 * dtype.itemsize
    parts = pairs(buckets(gathered(), size, dtype))
    assert [header.names for _, header in parts] == [("w0", "w1"), ("w2",), ("w3", "w4", "w5")]
    assert [len(data) <= size for data, _ in parts] == [True, False, True]
    back = [pair for data, header in parts for pair in unpack(header, data)]
    assert [name for name, _ in back] == [name for name, _ in weights]
    sums = [checksum for _, header in parts for checksum in header.checksums]
    for (_, weight), (_, copy), checksum in zip(weights, back, sums, strict=True):
        assert torch.equal(copy, weight.to(dtype))
        assert copy.shape == weight.shape
        assert checksum == tensor_checksum(weight.to(dtype))


def test_other_ranks_iterate_over_the_weights_and_yield_nothing() -> None:
    seen = []

    def named() -> Iterator[tuple[str, Tensor]]:
        for i in range(4):
            seen.append(i)
            yield f"w{i}", torch.zeros(3)

    assert list(buckets(named(), 8, torch.float32, keep=False)) == []
    assert seen == [0, 1, 2, 3]


def test_a_mismatch_is_named() -> None:
    sent = {"a": 1, "embed": 2}
    check_checksums("vLLM engine 0", sent, {"a": 1, "embed": 2, "lm_head": 2})
    for held in ({"a": 1, "embed": 3}, {"a": 1}):
        with pytest.raises(WeightMismatch, match=r"vLLM engine 0 does not hold the weights .*: the checksum of embed"):
            check_checksums("vLLM engine 0", sent, held)
    with pytest.raises(WeightMismatch, match="lm_head"):
        check_checksums("vLLM engine 0", sent, {"a": 1, "embed": 2, "lm_head": 9})


# With a real engine

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def pool(cluster: None) -> Iterator[EnginePool]:
    pool = EnginePool(
        AutoTokenizer.from_pretrained(BASE),
        ModelConfig(BASE, context=256),
        precision="float32",
        cache_gib=0.05,
        max_rows=8,
        from_path=True,
        bucket_mib=1,
        max_restarts=100,
    )
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def ranks(pool: EnginePool) -> list[Any]:
    return [rank(BASE, number) for number in range(2)]


def held(ranks: list[Any]) -> dict[str, int]:
    sums: dict[str, int] = ray.get(ranks[-1].checksums.remote())
    return sums


def change(ranks: list[Any], scale: float, pause: float = 0.0) -> None:
    ray.get([one.change.remote(scale, pause) for one in ranks])


def sample(pool: EnginePool) -> list[Rollout]:
    tokens = tuple(pool.tokenizer("What is 3 + 4?\n").input_ids)
    prompt = Prompt(Problem("p", "", ""), "", tokens)
    return sorted(pool.generate([prompt], Sampling(max_new_tokens=40), Stop((0,)), 8, 0, 0), key=lambda r: r.sample)


@slow
def test_an_engine_can_load_its_weights_from_a_path_and_otherwise_needs_a_sync(
    pool: EnginePool, ranks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool.checksums() == [held(ranks)]
    monkeypatch.setattr(pool, "settings", replace(pool.settings, from_path=False))
    with pytest.raises(RuntimeError, match="no weights yet"):
        sample(pool)


@slow
def test_the_engine_has_exactly_the_ranks_weights(pool: EnginePool, ranks: list[Any]) -> None:
    before = sample(pool)
    change(ranks, 1.25)
    pool.sync(ranks)
    assert pool.checksums() == [held(ranks)]
    assert pool.metrics["rollout/sync_mib"] == pytest.approx(3.17, abs=0.01)
    assert [r.token_ids for r in sample(pool)] != [r.token_ids for r in before]


@slow
def test_weights_sharded_by_zero_3_are_synced_whole_after_a_training_step(pool: EnginePool, tmp_path: Path) -> None:
    train = TrainConfig(prompts_per_step=6, samples_per_prompt=2, minibatch_size=6)
    build = partial(build_worker, ModelConfig(path=BASE), train, optimizer=OptimizerConfig(lr=1e-3), steps=8)
    plan = UpdatePlan(minibatch_size=12, epochs=1, aggregation=Aggregation.token_mean, constant_length=0)
    environment = {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(Path(__file__).parent)}
    group = RankGroup("policy", [ActorOptions("DEFAULT")] * 2, Limits(), environment, threads=1)
    try:
        group.start(build, Sharding(3, deepspeed={"stage3_param_persistence_threshold": 0}))
        before = group.update(tiny.batch(), [ppo_clip], plan, [0])
        pool.sync(group.actors)
        group.save(tmp_path)
    finally:
        group.close()
    assert before["grad_norm"] > 0
    trained = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    sums = {name: tensor_checksum(weight) for name, weight in trained.named_parameters()}
    base = {
        name: tensor_checksum(weight) for name, weight in AutoModelForCausalLM.from_pretrained(BASE).named_parameters()
    }
    assert not set(sums.values()) & set(base.values()), "every weight has been trained"
    assert pool.checksums() == [sums | {"lm_head.weight": sums["model.embed_tokens.weight"]}]


@slow
def test_a_corrupted_weight_is_detected_and_the_next_sync_repairs_it(pool: EnginePool, ranks: list[Any]) -> None:
    name = "model.layers.1.mlp.down_proj.weight"

    def corrupted() -> Iterator[tuple[Header, Any]]:
        for header, data in from_ranks(ranks, 2**20, "float32", 60.0)():
            parts = unpack(header, ray.get(data).copy())
            for part, weight in parts:
                if part == name:
                    weight.view(torch.int32)[3, 5] ^= 1
            yield header, ray.put(torch.cat([weight.reshape(-1) for _, weight in parts]).numpy().view(np.uint8))

    with pytest.raises(WeightMismatch, match=rf"vLLM engine 0 .*: the checksum of {name} differs"):
        send_weights(corrupted, {"vLLM engine 0": pool._slots[0].actor}, 60.0)
    pool.sync(ranks)


@slow
def test_a_faulty_rank_is_named_and_the_next_sync_succeeds(
    pool: EnginePool, ranks: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(together: list[Any], seconds: float = 60.0) -> None:
        send_weights(from_ranks(together, 2**18, "float32", seconds), {"vLLM engine 0": pool._slots[0].actor}, 60.0)

    last, first, restarts = rank(BASE, 1), rank(BASE, 0), pool.restarts
    ray.get(last.change.remote(1.0, 0.0, "raise"))
    with pytest.raises(KeyError, match="no such weight"):
        broken([ranks[0], last])
    ray.get([last.change.remote(1.0, 0.0, "hang"), first.change.remote(1.0, 0.0, "die")])
    with pytest.raises(Lost, match="policy rank 1 is lost: the weight sync hangs: no weights arrived for 6 s"):
        broken([ranks[0], last], seconds=6.0)
    assert "in full_weights" in caplog.text, "the stacks of the rank that hangs are logged"
    with pytest.raises(Lost, match="policy rank 0 is lost: it died during a weight sync"):
        broken([first, ranks[1]])
    ray.kill(last)
    pool.sync(ranks)
    assert pool.restarts == restarts


@slow
def test_an_engine_killed_in_the_middle_of_a_sync_gets_the_weights_after_its_restart(
    pool: EnginePool, ranks: list[Any]
) -> None:
    pid, restarts = pool.pids()[0], pool.restarts
    change(ranks, 0.8, pause=0.05)  # 50 weights: 2.5 s
    asked, of_last = ray.get([ranks[0].times_asked.remote(), ranks[-1].times_asked.remote()])

    def kill() -> None:
        while ray.get(ranks[0].times_asked.remote()) == asked:
            time.sleep(0.1)
        time.sleep(1.0)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    pool.sync(ranks)
    killer.join()
    assert pool.restarts == restarts + 1
    assert pool.pids() != [pid]
    assert pool.checksums() == [held(ranks)]
    assert ray.get(ranks[-1].times_asked.remote()) == of_last + 2, "every rank took part in both syncs"


@slow
def test_a_restarted_engine_gets_the_kept_weights_without_the_ranks(
    pool: EnginePool, ranks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a batch is sampled ahead, the ranks have already trained on."""
    monkeypatch.setattr(pool, "keep_weights", True)
    change(ranks, 1.5)
    pool.sync(ranks)
    current, asked = pool.checksums(), ray.get(ranks[0].times_asked.remote())
    undisturbed = sample(pool)
    change(ranks, 2.0)
    os.kill(pool.pids()[0], signal.SIGKILL)
    assert sample(pool) == undisturbed
    assert pool.checksums() == current
    assert ray.get(ranks[0].times_asked.remote()) == asked
