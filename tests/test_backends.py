"""What `LocalBackend` passes to samplers; test_roles.py checks the roles, test_cluster_*.py the cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import micro_runs
import pytest
import tiny
import torch
from transformers import PreTrainedModel

from simplerl.backends import local
from simplerl.backends.local import LocalBackend
from simplerl.config import ModelConfig, Precision
from simplerl.config.load import load
from simplerl.data.task import prepare_task
from simplerl.engine.models import load_policy, load_tokenizer, model_at


def given(policy: Callable[[], PreTrainedModel], _: Any, model: ModelConfig) -> tuple[PreTrainedModel, ModelConfig]:
    return policy(), model


def engine(policy: Callable[[], PreTrainedModel], _: Any, model: ModelConfig) -> tuple[None, ModelConfig]:
    return None, model


@pytest.mark.parametrize("sampler", [given, engine])
def test_a_sampler_that_reads_the_weights_itself_loads_no_policy(
    sampler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(local, "load_policy", lambda *arguments: loaded.append(arguments) or load_policy(*arguments))
    config = load(micro_runs.composed(tmp_path))
    backend = LocalBackend(replace(config, sampler=partial(sampler)), prepare_task(config))
    policy, model = backend.sampler(config.model.path)  # type: ignore[misc]
    assert len(loaded) == (sampler is given)
    assert policy is None or not any(parameter.requires_grad for parameter in policy.parameters())
    assert model == config.model


def test_a_revision_is_of_the_models_own_path() -> None:
    model = ModelConfig("owner/name", revision="v2", context=99)
    assert model_at(model, "owner/name") == model
    assert model_at(model, "runs/x/policy") == ModelConfig("runs/x/policy", revision=None, context=99)


def test_trained_roles_resume_and_frozen_ones_start_again(tmp_path: Path) -> None:
    """From a checkpoint come the policy, the critic and their optimizers; the reference is the start of RL."""
    config = load(micro_runs.composed(tmp_path))
    backend = LocalBackend(config, prepare_task(config))
    start, changed = config.model.path, tmp_path / "step_000001"
    roles = backend.roles(start, None)
    assert set(roles.models) == {"policy", "reference", "critic"} and next(iter(roles.models)) == "policy"
    for name in ("policy", "critic"):
        worker: Any = roles.models[name]
        with torch.no_grad():
            for parameter in worker.model.parameters():
                parameter.mul_(1.5)
        worker.stepper.step_count = 7
    roles.save(changed)
    again = backend.roles(start, changed)
    for name, worker in again.models.items():
        expected = dict(roles.models[name].named_weights())
        assert all(torch.equal(weight, expected[key]) for key, weight in worker.named_weights()), name
        stepper: Any = getattr(worker, "stepper")  # noqa: B009
        assert stepper is None if name == "reference" else stepper.step_count == 7
    assert {path.name for path in changed.iterdir()} == {"policy", "critic"}


def test_a_role_with_a_model_of_its_own(tmp_path: Path) -> None:
    """The teacher is another folder than the start, and is not trained."""
    tokenizer = load_tokenizer(ModelConfig(str(micro_runs.model())))
    tokenizer.save_pretrained(tmp_path)
    tiny.policy(seed=9, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    teacher = f"algorithm.roles.teacher.model={tmp_path}"
    config = load(micro_runs.composed(tmp_path, "algorithm=on_policy_distillation", teacher))
    roles = LocalBackend(config, prepare_task(config)).roles(config.model.path, None)
    weights = {name: dict(model.named_weights()) for name, model in roles.models.items()}
    own = load_policy(ModelConfig(str(tmp_path)), Precision.float32, "cpu")
    assert set(weights) == {"policy", "teacher"}
    for key, weight in own.named_parameters():
        assert torch.equal(weights["teacher"][key], weight)
    assert any(not torch.equal(weights["teacher"][key], weights["policy"][key]) for key in weights["policy"])
