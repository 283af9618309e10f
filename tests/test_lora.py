"""LoRA: adapters beside frozen weights, merged for samplers and checkpoints, and turned off for the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import micro_runs
import peft
import pytest
import tiny
import torch
from test_worker import PLAN, same, worker
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from simplerl.algorithms.losses import clipped_value, ppo_clip
from simplerl.backends.local import LocalBackend
from simplerl.config import LoraConfig, OptimizerConfig
from simplerl.config.load import load
from simplerl.data.task import prepare_task
from simplerl.engine.lora import ADAPTER, Adapter, adapters_off, merged_weights
from simplerl.engine.models import Critic
from simplerl.engine.worker import InitialPolicy, SingleRank, Worker
from simplerl.errors import ConfigError
from simplerl.types import FINISH_STOP, Problem, Prompt, Sampling, Stop

OPTIMIZER = OptimizerConfig(lr=1e-2)
LORA = ["train.lora.rank=4", "train.lora.roles=[policy,critic]"]


def adapter(rank: int = 4, saved: Path | None = None, **options: Any) -> Adapter:
    return Adapter(LoraConfig(rank=rank, **options), seed=0, saved=saved)


def adapted(model: torch.nn.Module | None = None, tokens: int = 10**9, **options: Any) -> Worker:
    return worker(model, tokens, **{"adapter": adapter(), "optimizer": OPTIMIZER, **options})


def parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def trained(**options: Any) -> Worker:
    """Return a worker after two updates, whose adapter therefore is not zero."""
    one = adapted(**options)
    one.update(tiny.batch(), [ppo_clip], PLAN, [0])
    return one


def kind_of(model: PreTrainedModel, weights: dict[str, Tensor]) -> PreTrainedModel:
    """Return a model without adapters that has these weights."""
    plain: PreTrainedModel = type(model)(model.config).float().eval()  # type: ignore[call-arg]
    plain.load_state_dict(weights, strict=False)
    assert weights.keys() == {name for name, _ in plain.named_parameters()}
    return plain


# The adapted model


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
def test_a_new_adapter_changes_nothing(kind: str) -> None:
    plain = worker(tiny.policy(kind), optimizer=None).infer(tiny.batch())
    for mine, theirs in zip(adapted(tiny.policy(kind)).infer(tiny.batch()), plain, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
def test_merged_weights_are_those_that_the_model_computes_with(kind: str) -> None:
    one, batch = trained(model=tiny.policy(kind)), tiny.batch()
    weights = dict(one.named_weights())
    assert list(weights) == [name for name, _ in tiny.policy(kind).named_parameters()]
    merged = worker(kind_of(tiny.policy(kind), weights), optimizer=None)
    base = worker(tiny.policy(kind), optimizer=None)
    for mine, theirs, before in zip(one.infer(batch), merged.infer(batch), base.infer(batch), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
        assert (mine - before).abs().max() > 0.01


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}], ids=["plain", "checkpointing"])
def test_only_the_adapter_is_trained(options: dict[str, Any]) -> None:
    one, before = adapted(**options), parameters(adapted().model)
    one.update(tiny.batch(), [ppo_clip], PLAN, [0])
    after = parameters(one.model)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {name for name in after if ".lora_" in name}
    assert set(one.stepper.names) == changed  # type: ignore[union-attr]
    same(after, parameters(trained().model), 1e-5)


def test_a_critic_also_trains_its_head() -> None:
    def made() -> Worker:
        body: Any = tiny.policy().base_model
        return adapted(Critic(body))

    one, before = made(), parameters(made().model)
    one.update(tiny.batch(), [clipped_value], PLAN, [0])
    changed = {name for name, weight in parameters(one.model).items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if ".lora_" in name} | {"value_head.weight"}


def test_targets_limit_the_adapted_layers() -> None:
    chosen = adapted(adapter=adapter(targets=["q_proj", "down_proj"]))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in chosen.stepper.names} == {"q_proj", "down_proj"}  # type: ignore[union-attr]


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["q_porj", "k_proj"], []])
def test_targets_must_be_linear_layers_inside_the_model(targets: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"train\.lora\.targets=.*: choose from down_proj, .* or \[all-linear\]"):
        adapted(adapter=adapter(targets=targets))


def test_the_seed_sets_the_initial_weights_and_leaves_the_random_state() -> None:
    state = torch.get_rng_state()
    first, again = (parameters(adapted(tiny_model).model) for tiny_model in (tiny.policy(), tiny.policy()))
    torch.manual_seed(99)
    other = adapted(adapter=Adapter(LoraConfig(rank=4), seed=1))
    same(first, again, 0.0)
    name = next(name for name in first if ".lora_A." in name)
    assert not torch.equal(parameters(other.model)[name], first[name])
    torch.set_rng_state(state)
    model = tiny.policy()
    state = torch.get_rng_state()
    adapted(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_rank_full_learns_a_step_of_all_weights() -> None:
    """With A = identity, rank = width and B = 0, the first gradient of B is that of the weight itself."""
    config, batch = OptimizerConfig(lr=1e-3, betas=[0.0, 0.0], eps=1.0, grad_clip=1e9), tiny.batch()
    full = worker(tiny.policy(), optimizer=config)
    lora = adapted(adapter=adapter(rank=32, alpha=32.0, targets=["q_proj"]), optimizer=config)
    with torch.no_grad():
        for name, parameter in lora.model.named_parameters():
            if ".lora_A." in name:
                parameter.copy_(torch.eye(32))
    plan = PLAN.__class__(minibatch_size=12, epochs=1, aggregation=PLAN.aggregation)
    for one in (full, lora):
        one.update(batch, [ppo_clip], plan, [0])
    a, b = dict(full.named_weights()), dict(lora.named_weights())
    for name in [name for name in a if "q_proj.weight" in name]:
        assert not torch.equal(a[name], parameters(tiny.policy())[name])
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=0)


# Dropout


@pytest.mark.slow
def test_dropout_acts_in_updates_alone_and_is_seeded_by_the_step() -> None:
    def made() -> Worker:
        return adapted(adapter=adapter(dropout=0.5))

    batch = tiny.batch()
    one, other = made(), made()
    for worker_ in (one, other):
        worker_.update(batch, [ppo_clip], PLAN, [0])
        torch.manual_seed(5)  # the global random state has no influence
    same(dict(one.named_weights()), dict(other.named_weights()), 0.0)
    without = dict(trained().named_weights())
    assert any(not torch.equal(weight, without[name]) for name, weight in one.named_weights())
    assert torch.equal(one.infer(batch)[0], one.infer(batch)[0])
    first = parameters(one.model)
    one.update(batch, [ppo_clip], PLAN, [0])  # other masks than at step 0
    assert any(not torch.equal(first[name], weight) for name, weight in parameters(one.model).items())


# The reference


def test_the_reference_is_the_policy_without_its_adapter() -> None:
    batch, base = tiny.batch(), worker(tiny.policy(), optimizer=None)
    policy = adapted()
    reference = InitialPolicy(policy)
    policy.update(batch, [ppo_clip], PLAN, [0])
    assert torch.equal(reference.infer(batch)[0], base.infer(batch)[0])
    assert not torch.equal(policy.infer(batch)[0], base.infer(batch)[0])
    same(dict(reference.named_weights()), dict(base.named_weights()), 0.0)
    pointers = {parameter.data_ptr() for parameter in policy.model.parameters()}
    assert {weight.data_ptr() for _, weight in reference.named_weights()} <= pointers, "it holds a copy"
    policy.update(batch, [ppo_clip], PLAN, [1])  # the adapter is still trained
    with pytest.raises(AssertionError, match="frozen"):
        reference.optimizer_step(batch, [ppo_clip])


def test_adapters_are_on_again_after_an_error() -> None:
    policy, batch = trained(), tiny.batch()
    before = policy.infer(batch)[0]
    with pytest.raises(KeyError), adapters_off(policy.model):
        raise KeyError
    assert torch.equal(policy.infer(batch)[0], before)


# Backends and samplers


def prompts(backend: LocalBackend) -> list[Prompt]:
    tokens = tuple(backend.task.tokenizer("What is 3 + 4?\n").input_ids)
    return [Prompt(Problem("p", "", ""), "", tokens)]


def greedy(sampler: Any, backend: LocalBackend) -> tuple[int, ...]:
    (one,) = sampler.generate(prompts(backend), Sampling(temperature=0.0, max_new_tokens=24), Stop((0,)), 1, 0, 0)
    assert one.finish_reason == FINISH_STOP or len(one.token_ids) == 24
    return tuple(one.token_ids)


def backend_of(root: Path, *overrides: str) -> LocalBackend:
    config = load(micro_runs.composed(root, *LORA, *overrides))
    return LocalBackend(config, prepare_task(config))


def change_adapters(roles: Any) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for one in (roles.models["policy"], roles.models["critic"]):
            for name, parameter in one.model.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.05)


@pytest.mark.slow
def test_the_roles_of_a_run_resume_from_base_and_adapter(tmp_path: Path) -> None:
    """A checkpoint is the merged model, the adapter and its moments; the base is read from the start of RL again."""
    backend = backend_of(tmp_path)
    start, folder = backend.config.model.path, tmp_path / "step_000001"
    roles: Any = backend.roles(start, None)
    assert isinstance(roles.models["reference"], InitialPolicy)
    change_adapters(roles)
    for name in ("policy", "critic"):
        roles.models[name].update(tiny.batch(), [clipped_value if name == "critic" else ppo_clip], PLAN, [0])
    roles.sync()
    roles.save(folder)
    again: Any = backend.roles(start, folder)
    for name in ("policy", "critic"):
        same(parameters(again.models[name].model), parameters(roles.models[name].model), 0.0)
        assert again.models[name].stepper.step_count == roles.models[name].stepper.step_count > 0
    assert greedy(roles.sampler, backend) == greedy(again.sampler, backend)
    evaluated = backend.sampler(str(folder / "policy"))  # as evaluate.py reads a checkpoint
    assert greedy(evaluated, backend) == greedy(roles.sampler, backend) != greedy(backend.sampler(start), backend)


@pytest.mark.slow
def test_a_checkpoint_is_a_plain_model_with_an_adapter_in_the_format_of_peft(tmp_path: Path) -> None:
    backend = backend_of(tmp_path)
    roles: Any = backend.roles(backend.config.model.path, None)
    change_adapters(roles)
    roles.save(tmp_path / "saved")
    for name, kind in (("policy", AutoModelForCausalLM), ("critic", AutoModel)):
        folder, worker_ = tmp_path / "saved" / name, roles.models[name]
        body = worker_.model.body if name == "critic" else worker_.model
        loaded, report = kind.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values()), report
        merged = dict(merged_weights(body, SingleRank().gathered))
        same(dict(loaded.named_parameters()), merged, 0.0)
        base = kind.from_pretrained(backend.config.model.path)
        onto = peft.PeftModel.from_pretrained(base, str(folder / ADAPTER)).merge_and_unload()
        same(parameters(onto), merged, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["train.lora.rank=2", "train.lora.targets=[q_proj]"])
def test_a_changed_adapter_is_not_resumed(change: str, tmp_path: Path) -> None:
    backend_of(tmp_path).roles(str(micro_runs.model()), None).save(tmp_path / "step_000001")
    with pytest.raises(ConfigError, match=r"step_000001.*lora_A.*train\.lora must be as it was"):
        backend_of(tmp_path, change).roles(str(micro_runs.model()), tmp_path / "step_000001")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["algorithm=grpo"], r"train\.lora\.roles=policy,critic: critic is not a trained role .*: choose from policy"),
        (["train.lora.roles=[reference]"], "reference is not a trained role .*: choose from policy, critic"),
        (["train.lora.roles=[]"], "an empty list is not a trained role"),
        (["train.lora.alpha=0"], r"train\.lora\.alpha=0.* must be positive"),
        (["train.lora.dropout=1"], r"train\.lora\.dropout=1.* must be in \[0, 1\)"),
        (["train.lora.rank=-1"], r"train\.lora\.rank=-1 must be at least 0"),
    ],
)
def test_bad_settings_are_refused(overrides: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(micro_runs.composed(tmp_path, *LORA, *overrides))
