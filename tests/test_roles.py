"""The roles of a run: what each is asked, in which order, and what becomes of its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from simplerl.algorithms.losses import (
    TokenOutput,
    cispo,
    clipped_value,
    gspo,
    mirror_descent,
    negative_log_likelihood,
    ppo_clip,
)
from simplerl.backends.roles import Roles, Trainable, role_updates
from simplerl.config import (
    Aggregation,
    AlgorithmConfig,
    KLConfig,
    KLEstimator,
    KLPlace,
    OldLogprobs,
    OptimizerConfig,
    Precision,
    RoleConfig,
    RoleKind,
    UpdateTime,
)
from simplerl.engine.models import Critic, output_weight
from simplerl.engine.worker import UpdatePlan, Worker
from simplerl.errors import ConfigError
from simplerl.evals.metrics import batch_metrics
from simplerl.types import Batch

PLAN = UpdatePlan(minibatch_size=6, epochs=1, aggregation=Aggregation.sequence_mean, constant_length=32)
OPTIMIZER = OptimizerConfig(lr=1e-3)
SPECS = {
    "policy": RoleConfig(column="logprobs", loss=ppo_clip, optimizer=OPTIMIZER),
    "reference": RoleConfig(column="ref_logprobs"),
    "critic": RoleConfig(kind=RoleKind.critic, column="values", loss=clipped_value, optimizer=OPTIMIZER),
    "teacher": RoleConfig(column="teacher_logprobs"),
}


def worker(model: Any, optimizer: OptimizerConfig | None = None) -> Worker:
    return Worker(model, precision=Precision.float32, tokens_per_micro_batch=100, optimizer=optimizer)


def models() -> dict[str, Trainable]:
    body: Any = tiny.policy(seed=2).base_model
    return {
        "policy": worker(tiny.policy(), OPTIMIZER),
        "reference": worker(tiny.policy(seed=1)),
        "critic": worker(Critic(body), OPTIMIZER),
        "teacher": worker(tiny.policy(seed=3)),
    }


def unscored() -> Batch:
    return tiny.batch().with_(logprobs=None, ref_logprobs=None, values=None)


def test_each_role_fills_its_column() -> None:
    """A column that `Batch` does not know is kept beside the others, by its name."""
    roles = Roles(models(), SPECS, sampler=None)  # type: ignore[arg-type]
    batch, metrics = roles.score(unscored(), {}, [0])
    assert metrics == {}
    columns = {"policy": batch.logprobs, "reference": batch.ref_logprobs, "critic": batch.values}
    columns["teacher"] = batch.extra["teacher_logprobs"]
    for name, column in columns.items():
        assert column is not None and torch.equal(column, roles.models[name].infer(batch)[0]), name
    assert batch.entropy is not None and torch.equal(batch.entropy, roles.models["policy"].infer(batch)[1])
    assert batch.rows(torch.tensor([3, 1])).extra["teacher_logprobs"].shape[0] == 2


def test_only_the_policys_entropy_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a pass over the vocabulary for every token, which nothing reads of other roles."""
    from simplerl.engine import worker as module

    asked: list[tuple[int, bool]] = []  # (output layer, whether with entropy)
    real = module.token_logprobs

    def recorded(hidden: Tensor, weight: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        asked.append((id(weight), arguments[-1]))
        return real(hidden, weight, *arguments)

    made = models()
    layer = {id(output_weight(made[name].model)): name for name in ("policy", "reference", "teacher")}  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "token_logprobs", recorded)
    Roles(made, SPECS, sampler=None).score(unscored(), {}, [0])  # type: ignore[arg-type]
    found = {(layer[weight], entropy) for weight, entropy in asked}
    assert found == {("policy", True), ("reference", False), ("teacher", False)}


class Recorder:
    """A role that notes its calls, and whose values count its updates."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls, self.updates = name, calls, 0

    def infer(self, batch: Batch, entropy: bool = True) -> tuple[Tensor, ...]:
        self.calls.append(f"{self.name} scores")
        column = torch.full(batch.tokens.shape, float(self.updates))
        return column, column

    def update(self, batch: Batch, losses: Sequence[Any], plan: UpdatePlan, seed: Sequence[int]) -> dict[str, float]:
        self.calls.append(f"{self.name} learns")
        self.updates += 1
        return {"loss": 0.5}


@pytest.mark.parametrize("time", list(UpdateTime))
def test_a_role_may_learn_before_it_scores(time: UpdateTime) -> None:
    """With update=before its column comes from the updated model, and it is not updated twice."""
    calls: list[str] = []
    recorders: Any = {name: Recorder(name, calls) for name in ("policy", "critic")}
    specs = {"policy": SPECS["policy"], "critic": replace(SPECS["critic"], update=time)}
    algorithm = AlgorithmConfig(loss=ppo_clip, roles={"critic": specs["critic"]})
    updates = role_updates(algorithm, PLAN, 0)
    roles = Roles(recorders, specs, sampler=None)  # type: ignore[arg-type]
    batch, early = roles.score(unscored(), updates, [0])
    late = roles.update(batch, updates, [0])
    assert batch.values is not None
    if time is UpdateTime.before:
        assert calls[:3] == ["policy scores", "critic learns", "critic scores"]
        assert (batch.values == 1).all() and early == {"critic/loss": 0.5}
    else:
        assert calls[:2] == ["policy scores", "critic scores"]
        assert (batch.values == 0).all() and early == {}
    assert calls.count("critic learns") == 1 == calls.count("policy learns")
    assert (early | late).keys() == {"policy/loss", "critic/loss"}


def test_updates_follow_the_configuration() -> None:
    """The policy is last, frozen roles have no update, and a role may aggregate in its own way."""
    roles = {name: spec for name, spec in SPECS.items() if name != "policy"}
    roles["critic"] = replace(roles["critic"], aggregation=Aggregation.token_mean)
    kl = KLConfig(KLPlace.loss, KLEstimator.k3, 0.1)
    updates = role_updates(AlgorithmConfig(loss=ppo_clip, kl=kl, entropy_coef=0.01, roles=roles), PLAN, 0)
    assert list(updates) == ["critic", "policy"]
    assert updates["critic"].plan == replace(PLAN, aggregation=Aggregation.token_mean)
    assert list(updates["critic"].losses) == [clipped_value] and len(updates["policy"].losses) == 3
    assert updates["policy"].plan == replace(PLAN, entropy=True)


@pytest.mark.parametrize("loss", [ppo_clip, gspo, partial(cispo, max_ratio=5.0), mirror_descent])
@pytest.mark.parametrize("estimator", [KLEstimator.k3, KLEstimator.k3_ratio])
def test_skipped_log_probs_give_the_same_step(loss: Any, estimator: KLEstimator) -> None:
    """The weights after one optimizer step, and the metrics that both ways have, are equal; the pass is saved."""
    steps: dict[OldLogprobs, tuple[dict[str, float], Tensor, int]] = {}
    algorithm = AlgorithmConfig(
        loss=loss,
        kl=KLConfig(KLPlace.loss, estimator, 0.1),
        entropy_coef=0.01,
        nll_coef=0.1,
        roles={"reference": SPECS["reference"]},
    )
    plan = replace(PLAN, minibatch_size=12)
    for old in (OldLogprobs.trainer, OldLogprobs.skip):
        # Steps are proportional to gradients, and so large that the rounding of the weights does not show.
        proportional = OptimizerConfig(lr=1e6, betas=[0.0, 0.0], eps=1.0, grad_clip=1e9)
        kept: dict[str, Any] = {
            "policy": worker(tiny.policy(), proportional),
            "reference": worker(tiny.policy(seed=1)),
        }
        passes = count_passes(kept["policy"])
        roles = Roles(kept, {name: SPECS[name] for name in kept}, sampler=None)  # type: ignore[arg-type]
        updates = role_updates(replace(algorithm, old_logprobs=old), plan, 0)
        given = unscored().with_(correct=tiny.batch().reward > 0, sampler_logprobs=tiny.batch().logprobs)  # type: ignore[operator]
        batch, _ = roles.score(given, updates, [0])
        metrics = batch_metrics(batch) | roles.update(batch, updates, [0])
        weights = torch.cat([weight.flatten() for _, weight in kept["policy"].named_weights()])
        steps[old] = metrics, weights, len(passes)
    (metrics, weights, passes_made), (fewer, skipped, passes_left) = steps.values()
    assert passes_left < passes_made
    start = torch.cat([weight.flatten() for _, weight in models()["policy"].named_weights()])
    step = (weights - start).double()
    assert float((skipped - weights).double().norm() / step.norm()) < 1e-6
    absent = {"rollout/logprob_gap_max", "rollout/kl_per_response", "rollout/kl_clamped"}
    assert metrics.keys() - fewer.keys() == absent and fewer.keys() <= metrics.keys()
    for name, value in fewer.items():
        assert value == pytest.approx(metrics[name], rel=1e-4, abs=1e-5), name
    assert fewer["policy/ratio"] == 1.0


def count_passes(model: Any) -> list[int]:
    """Record the forward passes of a worker."""
    passes, real = [], model.run_forward

    def recorded(*arguments: Any) -> Any:
        passes.append(1)
        return real(*arguments)

    model.run_forward = recorded
    return passes


def test_skipped_log_probs_of_several_optimizer_steps_are_refused() -> None:
    """A rollouts function may give more responses than a step was configured for."""
    algorithm = AlgorithmConfig(loss=ppo_clip, old_logprobs=OldLogprobs.skip)
    roles = Roles({"policy": models()["policy"]}, SPECS, sampler=None)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"but 12 responses with train\.minibatch_size=6 .* set train\.minibatch_size=12"
    ):
        roles.score(unscored(), role_updates(algorithm, PLAN, 0), [0])


def test_only_trained_roles_are_saved(tmp_path: Path) -> None:
    Roles(models(), SPECS, sampler=None).save(tmp_path)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["critic", "policy"]
    assert (tmp_path / "critic/value_head.safetensors").exists()


def test_a_loss_of_ones_own_is_given_what_its_role_says() -> None:
    seen: list[Any] = []

    def noted(output: Any, batch: Batch) -> Any:
        seen.append(output)
        per_token = output if isinstance(output, Tensor) else output.logprobs
        return per_token * 0, {}

    made = models()
    roles = Roles(made, SPECS, sampler=None)  # type: ignore[arg-type]
    algorithm = AlgorithmConfig(loss=noted, roles={"critic": replace(SPECS["critic"], loss=noted)})
    roles.update(tiny.batch(), role_updates(algorithm, PLAN, 0), [0])
    assert {type(one) for one in seen} == {Tensor, TokenOutput}
    assert negative_log_likelihood(next(o for o in seen if isinstance(o, TokenOutput)), tiny.batch())[1] == {}


# Roles on devices


class Timed:
    """Calls that note when they run."""

    def __init__(self) -> None:
        self.spans: dict[str, tuple[float, float]] = {}

    def call(self, name: str, wait: Callable[[], Any]) -> str:
        begin = time.monotonic()
        wait()
        self.spans[name] = begin, time.monotonic()
        return name

    def overlap(self, a: str, b: str) -> bool:
        (a0, a1), (b0, b1) = self.spans[a], self.spans[b]
        return a0 < b1 and b0 < a1


LAYOUTS = {  # backend.shared -> pairs of roles that never run at once
    "none": set(),
    "reference": {("policy", "reference")},
    "all": {("policy", "reference"), ("policy", "critic"), ("reference", "critic")},
}


@pytest.mark.parametrize("shared", LAYOUTS)
def test_roles_that_share_a_device_never_run_at_once(shared: str) -> None:
    pytest.importorskip("ray", reason="needs the extra `cpu` or `gpu`")
    from simplerl.cluster.backend import RayRoles
    from simplerl.cluster.layout import Layout, Shared, plan_placement

    names = ("policy", "reference", "critic")
    wanted = plan_placement(Layout(shared=Shared(shared)), dict.fromkeys((*names, "vLLM engine"), 1), on_gpus=True)
    roles = RayRoles({}, {}, None, wanted.colocated)  # type: ignore[arg-type]
    apart = LAYOUTS[shared]
    timed = Timed()
    # Roles on devices of their own meet here, which they cannot where one waits for the other to end.
    free = [name for name in names if not any(name in pair for pair in apart)] + ["policy"] * bool(apart)
    meeting = threading.Barrier(len(free)) if len(free) > 1 else None

    def wait(name: str) -> None:
        if meeting is not None and name in free:
            meeting.wait(10)
        time.sleep(0.05)

    # The order of the calls, here the reverse of the roles', is that of the results.
    calls = {name: partial(timed.call, name, partial(wait, name)) for name in reversed(names)}
    assert roles.run_calls(calls) == {name: name for name in reversed(names)}
    assert list(roles.run_calls({"critic": lambda: 1})) == ["critic"]
    for a, b in apart:
        assert not timed.overlap(a, b), (a, b)
    for name in set(free) - {"policy"}:
        assert timed.overlap("policy", name), name


def test_a_lost_role_is_raised_before_other_faults() -> None:
    """The others' faults follow from it, and only a loss is resumed from a checkpoint."""
    pytest.importorskip("ray", reason="needs the extra `cpu` or `gpu`")
    from simplerl.cluster.backend import RayRoles
    from simplerl.errors import Lost

    def fail(error: Exception) -> None:
        raise error

    roles = RayRoles({}, {}, None, (("policy",), ("critic",)))  # type: ignore[arg-type]
    with pytest.raises(Lost, match="critic is lost: gone"):
        roles.run_calls({"policy": partial(fail, KeyError("x")), "critic": partial(fail, Lost("critic", "gone"))})
