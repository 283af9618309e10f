"""LoRA in whole runs: stopped and resumed, on several ranks, compiled, and its checkpoints in other engines."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from micro_runs import ROOT, WARM_UP, differences, model, outcome, rows, run
from safetensors.torch import load_file
from test_cluster_checkpoints import OPTIMIZER, PLAN, TRAIN, same, tensors
from test_cluster_ranks import LESS, OF_THE_LAYOUT, on_ranks
from test_resume import MOMENTS, Killed
from test_worker import worker
from transformers import AutoModelForCausalLM, AutoTokenizer

from simplerl.algorithms.losses import clipped_value, ppo_clip
from simplerl.backends.roles import build_worker
from simplerl.config import LoraConfig, ModelConfig, Precision, RoleKind
from simplerl.engine.lora import ADAPTER, Adapter
from simplerl.engine.models import load_policy
from simplerl.engine.worker import InitialPolicy
from simplerl.runs.folder import Interrupted
from simplerl.samplers.local import LocalSampler
from simplerl.types import Problem, Prompt, Sampling, Stop

pytestmark = pytest.mark.slow  # trains or starts processes
LORA = ["train.lora.rank=4", "train.lora.roles=[policy,critic]", "train.policy.lr=1e-3", "warmup.optimizer.lr=1e-3"]
BASE = ROOT / "assets/micro_base"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


# Resume


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("unbroken"), *WARM_UP, *LORA, "train.lora.dropout=0.1")


def everything(folder: Path) -> dict[str, Any]:
    adapters = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob(f"**/{ADAPTER}/*.safetensors")}
    assert len(adapters) >= 3
    found = outcome(folder) | adapters
    found.pop("config.yaml")  # names the folder
    return found


@pytest.mark.parametrize("moment", ["signal in the warm-up", "signal while sampling", "kill in the last evaluation"])
def test_a_broken_run_ends_as_an_unbroken_one(moment: str, unbroken: Path, tmp_path: Path) -> None:
    overrides = [*WARM_UP, *LORA, "train.lora.dropout=0.1"]
    with pytest.MonkeyPatch.context() as patch:
        MOMENTS[moment](patch)
        with pytest.raises((Killed, Interrupted)):
            run(tmp_path, *overrides)
    assert differences(everything(run(tmp_path, *overrides)), everything(unbroken)) == []


def test_warm_up_and_rl_train_an_adapter_each(unbroken: Path) -> None:
    """RL starts from the merged model of the warm-up, to which its KL divergence is zero at first."""
    warm = load_file(unbroken / "warmup/model/policy/adapter/adapter_model.safetensors")
    last = load_file(unbroken / "checkpoints/step_000003/policy/adapter/adapter_model.safetensors")
    assert warm.keys() == last.keys() and not any(torch.equal(warm[name], last[name]) for name in warm)
    base, merged = (load_file(path / "model.safetensors") for path in (model(), unbroken / "warmup/model/policy"))
    assert base.keys() == merged.keys() and not torch.equal(base[Q_PROJ], merged[Q_PROJ])
    kl = [row["rollout/kl"] for row in rows(unbroken) if "rollout/kl" in row]
    gap = [row["rollout/logprob_gap"] for row in rows(unbroken) if "rollout/logprob_gap" in row]
    assert kl[0] == 0 < kl[-1] and max(gap) < 1e-4, "the sampler has other weights than the policy"


# Ranks


def test_ranks_agree_with_one_process(tmp_path: Path, cluster: None) -> None:
    overrides = ["algorithm=ppo", *LORA[:3], "train.critic.lr=1e-3"]
    alone_ = run(tmp_path / "alone", *LESS, *overrides, own_reward=False)
    sharded = ["backend.zero_stage=3", "backend.critic_ranks=2", "train.tokens_per_micro_batch=192"]
    expected, found = rows(alone_), rows(on_ranks(tmp_path / "ranks", alone_, *overrides, *sharded))
    assert len(found) == len(expected) == 3 + 1
    for mine, theirs in zip(expected, found, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - set(OF_THE_LAYOUT):
            assert theirs[name] == pytest.approx(mine[name], abs=1e-4), (mine["step"], name)
    assert expected[-2]["policy/grad_norm"] > 1e-3


def build(role: str, path: Path, saved: Path | None) -> Any:
    kind = RoleKind.critic if role == "critic" else RoleKind.causal_lm
    adapter, model = Adapter(LoraConfig(rank=4), 0, saved), ModelConfig(path=str(path))
    return partial(build_worker, model, TRAIN, kind=kind, optimizer=OPTIMIZER, steps=8, head_seed=3, adapter=adapter)


@pytest.mark.parametrize(("role", "ranks", "stage"), [("policy", 2, 3), ("critic", 2, 1), ("policy", 1, 2)])
def test_a_checkpoint_goes_round_the_layouts(role: str, ranks: int, stage: int, tmp_path: Path, cluster: None) -> None:
    from simplerl.cluster.health import Limits
    from simplerl.cluster.layout import Sharding
    from simplerl.cluster.ranks import ActorOptions, RankGroup

    base, batch = tmp_path / "base", tiny.batch()
    tiny.policy(tie_word_embeddings=False).save_pretrained(base)
    loss = clipped_value if role == "critic" else ppo_clip
    before = build(role, base, None)(device="cpu")
    before.update(batch, [loss], PLAN, [0])
    before.save(tmp_path / "local")
    environment = {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(Path(__file__).parent)}
    persistence = {"stage3_param_persistence_threshold": 0} if stage == 3 else {}
    group = RankGroup(role, [ActorOptions("DEFAULT")] * ranks, Limits(), environment, threads=1)
    try:
        group.start(build(role, base, tmp_path / "local"), Sharding(stage, deepspeed=persistence), tmp_path / "local")
        group.save(tmp_path / "ranks")
        same(tensors(tmp_path / "local"), tensors(tmp_path / "ranks"))
        file = f"{ADAPTER}/adapter_model.safetensors"
        same(load_file(tmp_path / "local" / file), load_file(tmp_path / "ranks" / file))
        config = f"{ADAPTER}/adapter_config.json"
        assert (tmp_path / "local" / config).read_text() == (tmp_path / "ranks" / config).read_text()
        after = build(role, base, tmp_path / "ranks")(device="cpu")
        after.load_optimizer(tmp_path / "ranks")
        group.update(batch, [loss], PLAN, [1])
        after.update(batch, [loss], PLAN, [1])
        for (name, mine), (_, other) in zip(group.named_weights(), after.named_weights(), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=0, msg=name)
    finally:
        group.close()


# Precision and compilation


def test_compiled_layers_give_the_same_update() -> None:
    """Also of the reference, for which the adapters are turned off between compiled calls."""
    results, batch = [], tiny.batch()
    for compiled in (False, True):
        one = worker(tiny.policy("llama"), compiled=compiled, adapter=Adapter(LoraConfig(rank=4), 0))
        reference = InitialPolicy(one)
        one.update(batch, [ppo_clip], PLAN, [0])
        results.append((one.infer(batch)[0], reference.infer(batch)[0], one.infer(batch)[0]))
    for plain, compiled_ in zip(*results, strict=True):
        torch.testing.assert_close(plain, compiled_, atol=1e-4, rtol=0)
    assert not torch.equal(results[0][0], results[0][1])


# Other engines


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A worker of the micro base with an adapter that is not zero, and its checkpoint."""
    tokenizer, folder = AutoTokenizer.from_pretrained(BASE), tmp_path_factory.mktemp("merged") / "policy"
    model = load_policy(ModelConfig(str(BASE)), Precision.float32, "cpu")
    one = worker(model, adapter=Adapter(LoraConfig(rank=8), 0), optimizer=OPTIMIZER, tokenizer=tokenizer)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.02)
    one.save(folder)
    return one, folder


def greedy(sampler: Any) -> list[tuple[int, ...]]:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    questions = [f"What is {a} * {b} + {a + b}?\n" for a, b in ((12, 7), (3, 44), (58, 9), (21, 21))]
    prompts = [Prompt(Problem(q, q, ""), q, tuple(tokenizer(q).input_ids)) for q in questions]
    found = sampler.generate(prompts, Sampling(temperature=0.0, max_new_tokens=48), Stop((0,)), 1, 0, 0)
    answers = {one.prompt.problem.id: tuple(one.token_ids) for one in found}
    return [answers[question] for question in questions]


def test_transformers_generates_the_same_greedy_answers_from_the_checkpoint(merged: Any) -> None:
    one, folder = merged
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sampler = LocalSampler(load_policy(ModelConfig(str(BASE)), Precision.float32, "cpu"), tokenizer)
    before = greedy(sampler)
    sampler.load_weights(one.named_weights())
    answers = greedy(sampler)
    assert answers != before
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for question, answer in zip(((12, 7), (3, 44), (58, 9), (21, 21)), answers, strict=True):
        text = f"What is {question[0]} * {question[1]} + {sum(question)}?\n"
        ids = torch.tensor([tokenizer(text).input_ids])
        made = loaded.generate(ids, do_sample=False, max_new_tokens=48, eos_token_id=0, pad_token_id=0)
        assert tuple(made[0, ids.shape[1] :].tolist()) == answer


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (extras cpu or gpu)")
def test_vllm_gives_the_same_greedy_answers_from_the_checkpoint_and_from_the_sync(merged: Any) -> None:
    from simplerl.samplers.vllm import VllmSampler

    one, folder = merged
    tokenizer = AutoTokenizer.from_pretrained(folder)
    local = LocalSampler(load_policy(ModelConfig(str(folder)), Precision.float32, "cpu"), tokenizer)
    expected = greedy(local)
    engine = VllmSampler(None, tokenizer, ModelConfig(str(folder)), precision="float32", cache_gib=0.25, max_rows=16)
    assert greedy(engine) == expected
    engine.load_weights(load_policy(ModelConfig(str(BASE)), Precision.float32, "cpu").named_parameters())
    assert greedy(engine) != expected
    engine.load_weights(one.named_weights())
    assert greedy(engine) == expected
