"""What `Local` hands to samplers; the roles' numbers are in test_worker.py, the cluster's in test_cluster_*.py."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import micro_runs
import pytest
from transformers import PreTrainedModel

from simplerl.backends import Local
from simplerl.config import ModelConfig
from simplerl.config.load import load
from simplerl.data.task import prepare
from simplerl.engine.models import model_at


def given(policy: PreTrainedModel | None, _: Any, model: ModelConfig) -> tuple[PreTrainedModel | None, ModelConfig]:
    return policy, model


def engine(policy: PreTrainedModel | None, _: Any, model: ModelConfig) -> tuple[PreTrainedModel | None, ModelConfig]:
    return policy, model


engine.reads_weights = True  # type: ignore[attr-defined]  # as vLLM does


@pytest.mark.parametrize("sampler", [given, engine])
def test_a_sampler_alone_is_given_weights_unless_it_reads_them(sampler: Any, tmp_path: Path) -> None:
    config = load(micro_runs.composed(tmp_path))
    policy, model = Local(replace(config, sampler=partial(sampler)), prepare(config)).sampler(config.model.path)  # type: ignore[misc]
    assert (policy is None) == (sampler is engine)
    assert model == config.model


def test_a_revision_is_of_the_models_own_path() -> None:
    model = ModelConfig("owner/name", revision="v2", context=99)
    assert model_at(model, "owner/name") == model
    assert model_at(model, "runs/x/policy") == ModelConfig("runs/x/policy", revision=None, context=99)
