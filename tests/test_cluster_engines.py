"""The pool of vLLM engines: the responses are the same when real engines are killed or hang."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from simplerl.config import ModelConfig
from simplerl.errors import Lost
from simplerl.samplers.local import LocalSampler
from simplerl.types import Problem, Prompt, Rollout, Sampling, Stop

if find_spec("ray") is None or find_spec("vllm") is None:
    pytest.skip("Ray or vLLM is not installed (extras cpu or gpu)", allow_module_level=True)

from simplerl.cluster.engine_actor import EngineRequest, EngineSlot, assign_requests
from simplerl.cluster.engines import EnginePool

if TYPE_CHECKING:
    from simplerl.samplers import Sampler

BASE = Path(__file__).resolve().parent.parent / "assets/micro_base"
SAMPLING = Sampling(max_new_tokens=60)
ROWS = 8

Key = tuple[str, int]


def request(prompt: tuple[int, ...], sample: int, tokens: int = 10) -> EngineRequest:
    return EngineRequest(f"{prompt}-{sample}", prompt, 0, Sampling(max_new_tokens=tokens), Stop(()))


def unsent(slot: EngineSlot) -> list[str]:
    return [request.name for request in slot.unsent]


def test_the_requests_of_a_prompt_go_to_the_engine_with_the_least_work() -> None:
    busy, idle = EngineSlot("busy", None, remaining_tokens=25), EngineSlot("idle", None)
    groups = [(1,), (2,), (3,), (4,)]
    queue = deque(request(group, sample) for group in groups for sample in range(2))
    assign_requests(queue, [busy, idle], capacity=100)
    assert unsent(idle) == ["(1,)-0", "(1,)-1", "(2,)-0", "(2,)-1", "(4,)-0", "(4,)-1"]
    assert unsent(busy) == ["(3,)-0", "(3,)-1"]
    assert (busy.remaining_tokens, idle.remaining_tokens, len(queue)) == (45, 60, 0)


def test_requests_beyond_the_capacity_wait_in_the_queue() -> None:
    slots = [EngineSlot("a", None), EngineSlot("b", None, remaining_tokens=5)]
    group = (7,)
    queue = deque(request(group, sample) for sample in range(9))
    assign_requests(queue, slots, capacity=3)
    assert [len(slot.assigned) for slot in slots] == [3, 3]
    assert [request.name for request in queue] == ["(7,)-6", "(7,)-7", "(7,)-8"]
    del slots[1].assigned["(7,)-4"]
    assign_requests(queue, slots, capacity=3)
    assert unsent(slots[1])[-1] == "(7,)-6"
    assert len(queue) == 2


# With real engines

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def policy() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


@pytest.fixture(scope="module")
def prompts(tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    questions = [f"What is {a} * {b} + {a + b}?\n" for a in (3, 12, 58, 21) for b in (7, 44)]
    return [Prompt(Problem(q, q, ""), q, tuple(tokenizer(q).input_ids)) for q in questions]


@pytest.fixture(scope="module")
def pool(tokenizer: PreTrainedTokenizerBase, policy: torch.nn.Module, cluster: None) -> Iterator[EnginePool]:
    pool = EnginePool(
        tokenizer,
        ModelConfig(str(BASE), context=256),
        engines=2,
        precision="float32",
        cache_gib=0.05,
        max_rows=ROWS,
        reserve=2,
        max_restarts=100,
    )
    pool.load_weights(policy.named_parameters())
    yield pool
    pool.close()


def sample(
    sampler: Sampler, prompts: list[Prompt], sampling: Sampling = SAMPLING, samples: int = 6
) -> dict[Key, Rollout]:
    return collect(sampler.generate(prompts, sampling, Stop((0,)), samples, 0, 0))


def collect(stream: Iterator[Rollout]) -> dict[Key, Rollout]:
    rollouts = list(stream)
    found = {(rollout.prompt.problem.id, rollout.sample): rollout for rollout in rollouts}
    assert len(found) == len(rollouts)
    return found


@pytest.fixture(scope="module")
def undisturbed(pool: EnginePool, prompts: list[Prompt]) -> dict[Key, Rollout]:
    return sample(pool, prompts)


@slow
def test_greedy_responses_equal_those_of_the_local_sampler(
    pool: EnginePool, prompts: list[Prompt], policy: torch.nn.Module, tokenizer: PreTrainedTokenizerBase
) -> None:
    stream = pool.generate(prompts, Sampling(0.0, max_new_tokens=60), Stop((0,)), 1, 0, 0)
    ours = collect(stream)
    theirs = sample(LocalSampler(policy, tokenizer), prompts, Sampling(0.0, max_new_tokens=60), samples=1)
    assert {k: (r.token_ids, r.text, r.finish_reason) for k, r in ours.items()} == {
        k: (r.token_ids, r.text, r.finish_reason) for k, r in theirs.items()
    }
    for key, rollout in ours.items():
        assert rollout.logprobs == pytest.approx(theirs[key].logprobs, abs=1e-3)


@slow
def test_no_engine_holds_more_than_its_capacity(
    pool: EnginePool, prompts: list[Prompt], undisturbed: dict[Key, Rollout]
) -> None:
    with closing(pool.generate(prompts, SAMPLING, Stop((0,)), 6, 0, 0)) as stream:
        first = next(stream)
        assigned = [len(slot.assigned) for slot in pool._slots]
        assert max(assigned) <= ROWS + 2
        assert first == undisturbed[first.prompt.problem.id, first.sample]
        assert len(collect(stream)) == 47
    assert 0 < pool.metrics["time/engine_utilisation"] <= 1


@slow
def test_a_consumer_may_stop_early(pool: EnginePool, prompts: list[Prompt], undisturbed: dict[Key, Rollout]) -> None:
    stream = pool.generate(prompts, SAMPLING, Stop((0,)), 6, 0, 0)
    next(stream)
    with pytest.raises(RuntimeError, match="already sampling"):
        next(pool.generate(prompts, SAMPLING, Stop((0,)), 1, 0, 0))
    stream.close()
    assert sample(pool, prompts[2:4]) == {k: r for k, r in undisturbed.items() if r.prompt in prompts[2:4]}


@slow
def test_a_cpu_engine_works_after_sleep(pool: EnginePool, prompts: list[Prompt]) -> None:
    pool.sleep()
    pool.wake()
    assert len(sample(pool, prompts[:1], Sampling(max_new_tokens=4))) == 6


@slow
def test_killed_and_stopped_engines_are_replaced_and_the_responses_are_the_same(
    pool: EnginePool,
    prompts: list[Prompt],
    undisturbed: dict[Key, Rollout],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    restarts, pids, found = pool.restarts, pool.pids(), []
    monkeypatch.setattr(pool, "silence_seconds", 5.0)

    def restore_time_limit() -> None:
        """Keep the new engines from counting as hanging on a busy machine."""
        while pool.restarts < restarts + 2:
            time.sleep(0.1)
        monkeypatch.undo()

    watch = threading.Thread(target=restore_time_limit)
    watch.start()
    for rollout in pool.generate(prompts, SAMPLING, Stop((0,)), 6, 0, 0):
        found.append(rollout)
        if len(found) == 7:
            os.kill(pids[0], signal.SIGKILL)
            os.kill(pids[1], signal.SIGSTOP)
    watch.join()
    assert collect(iter(found)) == undisturbed, "bit-identical, including log-probabilities"
    assert pool.restarts >= restarts + 2
    assert "restarting vLLM engine 0" in caplog.text
    assert "vLLM engine 1 does not respond" in caplog.text
    assert "it did not respond for 5 s" in caplog.text
    assert set(pool.pids()).isdisjoint(pids)
    assert not any(running(pid) for pid in pids)
    held = pool.checksums()
    assert len(held) == 2
    assert held[0] == held[1], "the new engines have the current weights"


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@slow
def test_too_many_deaths_end_in_an_error_that_names_the_engine(
    pool: EnginePool, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Must be the last test of this module: it leaves the pool broken."""
    monkeypatch.setattr(pool, "max_restarts", 0)
    os.kill(pool.pids()[1], signal.SIGKILL)
    with pytest.raises(Lost, match=r"vLLM engine 1 is lost: .*max_restarts"):
        sample(pool, prompts)
