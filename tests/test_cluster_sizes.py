"""Memory and traffic of a layout against the real tensor sizes of Qwen2.5-Math-7B (no weights), and against hand
counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from composing import composed
from transformers import AutoModelForCausalLM

from simplerl.cluster.layout import CRITIC, ENGINE, POLICY, REFERENCE, Layout, Sharding, Shared
from simplerl.config import Config
from simplerl.config.load import load
from simplerl.planning.memory import (
    KNOWN,
    ModelSizes,
    main,
    memory_by_role,
    memory_per_device,
    model_sizes,
    sync_traffic,
)

ROOT = Path(__file__).resolve().parent.parent
QWEN = "Qwen/Qwen2.5-Math-7B"


@pytest.fixture(scope="module")
def qwen() -> ModelSizes:
    return model_sizes(KNOWN[QWEN])


def published(*overrides: str) -> Config:
    paths = ["data.path=x.json", "evals.path=x"]
    return load(composed("experiment=simplerl_zero", *paths, *overrides))


def test_the_shapes_are_those_of_the_published_checkpoint(qwen: ModelSizes) -> None:
    assert qwen.parameters == 7_615_616_512  # as its model card and safetensors index say
    assert len(qwen.by_name) == 3 + 28 * 12
    assert qwen.by_name["model.layers.27.mlp.down_proj.weight"] == (3584, 18944)
    assert qwen.by_name["model.layers.0.self_attn.k_proj.weight"] == (512, 3584)
    assert qwen.largest == qwen.output == 152064 * 3584  # not tied
    assert sum(map(math.prod, qwen.by_name.values())) == qwen.parameters


@pytest.mark.parametrize("ranks", [2, 8])
def test_ranks_hold_the_model_once_under_zero_3(qwen: ModelSizes, ranks: int) -> None:
    layout = Layout(policy_ranks=ranks, critic_ranks=ranks, reference_ranks=ranks, sharding=Sharding(3, True))
    by_role = {one.role: one for one in memory_by_role(qwen, layout, published())}
    every = 4 * sum(map(math.prod, qwen.by_name.values()))
    assert ranks * by_role[POLICY].device["weights"] == every == ranks * by_role[REFERENCE].device["weights"]
    assert ranks * by_role[POLICY].host["moments"] == 2 * every
    assert ranks * by_role[POLICY].host["master weights"] == every
    head = 4 * math.prod(qwen.by_name["lm_head.weight"])
    assert ranks * by_role[CRITIC].device["weights"] == every - head + 4 * 3584
    assert by_role[ENGINE].device["weights"] == every / 2  # bfloat16, whole


def test_what_each_stage_of_zero_deals_out() -> None:
    sizes = ModelSizes(1000, 100, 0, 8, 16, 2, {})
    config = published("algorithm=grpo", "algorithm/kl=none")

    def held(stage: int) -> dict[str, float]:
        (policy, _) = memory_by_role(sizes, Layout(policy_ranks=4, sharding=Sharding(stage)), config)
        return {what: size for what, size in policy.device.items() if "at most" not in what}

    assert held(0) == {"weights": 4000, "gradients": 4000, "moments": 8000}
    assert held(1) == {"weights": 4000, "gradients": 4000, "moments": 2000, "master weights": 1000}
    assert held(2) == {"weights": 4000, "gradients": 1000, "moments": 2000, "master weights": 1000}
    assert held(3) == {"weights": 1000, "gradients": 1000, "moments": 2000, "master weights": 1000}


@pytest.mark.parametrize("stage", [0, 2])
def test_lora_keeps_gradients_and_moments_of_adapters_alone(qwen: ModelSizes, stage: int) -> None:
    overrides = ["train.lora.rank=16", "train.lora.roles=[policy,critic]", "train.lora.targets=[q_proj,up_proj]"]
    layout = Layout(policy_ranks=4, critic_ranks=4, sharding=Sharding(stage))
    by_role = {one.role: one for one in memory_by_role(qwen, layout, published(*overrides))}
    adapter = 16 * 28 * (3584 + 3584 + 3584 + 18944)
    share = 4 if stage else 1
    for role, trained in ((POLICY, adapter), (CRITIC, adapter + 3584)):
        held = by_role[role].device
        assert held["gradients"] == 4 * trained / share and held["moments"] == 8 * trained / share
    assert by_role[POLICY].device["weights"] == by_role[REFERENCE].device["weights"] + 4 * adapter


def test_a_sync_sends_every_weight_once_to_each_engine(qwen: ModelSizes) -> None:
    sync = sync_traffic(qwen, Layout(policy_ranks=8, engines=16, sharding=Sharding(3)), published())
    assert sync.sent == sum(2 * math.prod(shape) for shape in qwen.by_name.values())
    assert sync.gathered == sum(4 * math.prod(shape) * 7 / 8 for shape in qwen.by_name.values())
    assert sync.sender_peak < sync.sent, "never the whole model a second time"


def test_roles_that_share_a_device_add_up(qwen: ModelSizes) -> None:
    config = published()
    found = memory_by_role(qwen, Layout(shared=Shared.reference, sharding=Sharding(3)), config)
    sums = {one.role: sum(one.device.values()) for one in found}
    together = memory_per_device(found, Layout(shared=Shared.reference))
    assert together[f"{POLICY} + {REFERENCE}"] == sums[POLICY] + sums[REFERENCE]
    assert set(together) == {f"{POLICY} + {REFERENCE}", CRITIC, ENGINE}


@pytest.mark.parametrize("layout", ["ray_6gpu", "ray_32gpu"])
def test_the_published_layouts_fit_80_gb(layout: str, capsys: Any) -> None:
    assert main(["experiment=simplerl_zero", "data.path=x.json", "evals.path=x", f"backend={layout}"]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "total" in line]
    assert len(rows) == 3
    assert all(0 < float(row[-2]) < 80 * 1e9 / 2**30 - 6 for row in rows), rows


def test_one_device_has_no_layout(capsys: Any) -> None:
    assert main(["experiment=simplerl_zero", "data.path=x.json", "evals.path=x"]) == 2
    assert "choose a Ray backend, such as backend=ray_6gpu" in capsys.readouterr().err


def test_the_known_configuration_builds_the_architecture() -> None:
    import torch

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(KNOWN[QWEN])
    assert type(model).__name__ == "Qwen2ForCausalLM"
