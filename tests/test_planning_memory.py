"""The memory of a plan: parameters against published counts, activations against what autograd really keeps, ZeRO and
LoRA by hand, and the refusal of what cannot fit."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from composing import composed

from simplerl.cluster.layout import ENGINE, Layout, Sharding
from simplerl.config import Config, Precision
from simplerl.config.load import load
from simplerl.errors import ConfigError
from simplerl.planning import guard
from simplerl.planning.devices import DEVICES, GIB, find_device, this_cpu
from simplerl.planning.geometry import adapter_elements, find_geometry, model_sizes
from simplerl.planning.memory import UPDATE, _states, layer_activations, micro_batch_tokens, plan_memory, role_memory
from simplerl.planning.remedies import changed, fits, smallest_change
from simplerl.planning.setup import Lengths, Setup, assumed_lengths, describe, without_ray

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = {  # of the model cards
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_math_7b": 7_615_616_512,
    "qwen2_5_math_7b_instruct": 7_615_616_512,
    "eurus_2_7b_prime": 7_615_616_512,
    "qwen2_5_14b": 14_770_033_664,
    "qwen2_5_32b": 32_763_876_352,
    "llama3_1_8b": 8_030_261_248,
    "llama3_1_70b_instruct": 70_553_706_496,
    "mistral_7b": 7_241_732_096,
    "mistral_small_24b": 23_572_403_200,
    "deepseek_math_7b": 6_910_365_696,
    "smollm2_135m": 134_515_008,
}
SMALL = ["experiment=smollm2_gsm8k", "run.device=cpu", "train.prompts_per_step=32", "warmup=none"]
PUBLISHED = ["experiment=simplerl_zero", "data.path=x.json", "evals.path=x"]


def config(*overrides: str) -> Config:
    return load(without_ray(composed(*overrides)))


def planned(*overrides: str, device: str = "h100", lengths: Lengths | None = None) -> Setup:
    one = config(*overrides)
    return describe(one, find_device(device), lengths or assumed_lengths(one))


@pytest.mark.parametrize("name", PARAMETERS)
def test_recorded_geometry_has_the_published_number_of_parameters(name: str) -> None:
    assert find_geometry(config(f"model={name}").model).parameters == PARAMETERS[name]


def test_recorded_geometry_is_that_of_its_own_model_only() -> None:
    other = config("model=qwen2_5_7b", "model.path=some/other-model").model
    with pytest.raises(ConfigError, match=r"some/other-model has no config.json on this machine.*hf download"):
        find_geometry(other)


def test_a_local_folder_comes_before_recorded_geometry(tmp_path: Path) -> None:
    tiny.policy().save_pretrained(tmp_path)
    found = find_geometry(config("model=qwen2_5_7b", f"model.path={tmp_path}").model)
    assert found.parameters == sum(parameter.numel() for parameter in tiny.policy().parameters())


@pytest.mark.parametrize("precision", list(Precision))
def test_activations_of_a_layer_are_what_autograd_keeps(precision: Precision) -> None:
    """The bytes that each further layer keeps for the backward pass, from the storages of saved tensors."""

    def kept(layers: int) -> tuple[float, Any]:
        from transformers import Qwen2Config, Qwen2ForCausalLM

        shape = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2}
        one = Qwen2Config(vocab_size=64, num_hidden_layers=layers, tie_word_embeddings=True, **shape)
        kind = "simplerl_float32" if precision is Precision.bfloat16 else "simplerl"
        model = Qwen2ForCausalLM._from_config(one, attn_implementation=kind)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        sizes: dict[int, int] = {}
        seen = []  # keeps the storages alive, so that no address is used twice

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                sizes[storage.data_ptr()] = storage.nbytes()
                seen.append(tensor)
            return tensor

        autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision is Precision.bfloat16)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
            model.base_model(input_ids=torch.randint(0, 64, (4, 64)), use_cache=False)
        return float(sum(sizes.values())), model_sizes(one)

    (two, sizes), (four, _) = kept(2), kept(4)
    copies = 2 * sizes.body / sizes.layers if precision is Precision.bfloat16 else 0.0
    found = ((four - two) / 2 - copies) / (4 * 64)
    assert found == pytest.approx(layer_activations(sizes, precision, on_cpu=True), rel=0.03)


@pytest.mark.parametrize(
    ("stage", "held", "update"),
    [
        (0, {"weights": 4000, "moments": 8000}, {"gradients": 4000}),
        (1, {"weights": 4000, "moments": 2000, "master weights": 1000}, {"gradients": 4000}),
        (2, {"weights": 4000, "moments": 2000, "master weights": 1000}, {"gradients": 1000}),
        (3, {"weights": 1000, "moments": 2000, "master weights": 1000}, {"gradients": 1000}),
    ],
)
def test_what_each_stage_of_zero_shards(stage: int, held: dict[str, int], update: dict[str, int]) -> None:
    setup = replace(planned(*PUBLISHED, "backend=ray_32gpu"), layout=Layout(policy_ranks=4, sharding=Sharding(stage)))
    own, during, host = _states(setup, 1000, 1000, 4)
    del during["gradient buckets"]
    assert (own, during, host) == (held, update, {})


def test_offload_moves_the_optimizer_to_the_host() -> None:
    setup = planned(*PUBLISHED, "backend=ray_6gpu")
    policy = role_memory(setup, "policy")
    each = 4 * setup.geometries["policy"].parameters / 2
    assert policy.host == {"moments": 2 * each, "master weights": each, "gradients": each}
    assert policy.held == {"weights": each}


def test_an_adapter_has_two_thin_matrices_beside_each_linear_layer() -> None:
    sizes = find_geometry(config("model=qwen2_5_math_7b").model)
    one = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)  # q and o, k and v, gate, up and down
    assert adapter_elements(sizes, 8, ["all-linear"]) == 8 * 28 * one
    assert adapter_elements(sizes, 8, ["q_proj"]) == 8 * 28 * (3584 + 3584)


def test_checkpointing_keeps_less_and_micro_batches_hold_at_least_one_row() -> None:
    long = Lengths(1024, 200.0, 3000, 600.0, "made up")
    full = planned(*PUBLISHED, "backend=ray_32gpu", "train.gradient_checkpointing=false", lengths=long)
    less = planned(*PUBLISHED, "backend=ray_32gpu", lengths=long)
    activations = [role_memory(one, "critic").during[UPDATE]["activations"] for one in (less, full)]
    assert activations[0] < activations[1] / 4
    assert micro_batch_tokens(planned(*PUBLISHED, "train.tokens_per_micro_batch=1", lengths=long), 16) == 4024


@pytest.mark.parametrize("layout", ["ray_6gpu", "ray_32gpu"])
def test_the_published_layouts_fit_80_gb_but_not_24(layout: str) -> None:
    setup = planned(*PUBLISHED, f"backend={layout}")
    assert fits(setup)
    assert {role for one in setup.places for role in one.roles} == {"policy", "reference", "critic", ENGINE}
    assert not fits(replace(setup, device=DEVICES["rtx4090"]))


@pytest.mark.parametrize("device", ["a100_40", "l40s"])
def test_the_smallest_change_fits_and_less_does_not(device: str) -> None:
    setup = planned(*PUBLISHED, "backend=ray_32gpu", device=device)
    found = smallest_change(setup)
    assert found is not None and fits(changed(setup, tuple(found)))
    for one in found:
        assert not fits(changed(setup, tuple(other for other in found if other is not one)))


def test_a_model_that_cannot_fit_this_machine_is_refused_with_reason_and_cure(monkeypatch: Any) -> None:
    one = config(*PUBLISHED, "run.device=cpu", "sampler=local")
    monkeypatch.setattr(guard, "default_device", lambda _: replace(this_cpu(), memory=16 * GIB))
    with pytest.raises(ConfigError) as error:
        guard.check_memory(one, [100])
    text = str(error.value)
    assert "does not fit" in text and "GiB" in text and "run.plan=false" in text and "moments" in text
    assert "no change of memory settings is enough" in text
    small = config(*SMALL)
    monkeypatch.setattr(guard, "default_device", lambda _: replace(this_cpu(), memory=6 * GIB))
    with pytest.raises(ConfigError, match=r"has 6 GiB: set \w+\.\w+=.*, or set run\.plan=false") as error:
        guard.check_memory(small, [100])
    proposed = re.search(r"GiB: set ([^,(]+)", str(error.value))
    assert proposed is not None
    given = dict(change.split("=") for change in proposed[1].split())
    kept = [one for one in SMALL if one.partition("=")[0] not in given]
    guard.check_memory(config(*kept, *(f"{key}={value}" for key, value in given.items())), [100])
    one.run.plan = False
    guard.check_memory(one, [100])


def own_backend(config: Config, task: Any) -> None:
    """A backend whose layout is not known."""


def test_a_backend_without_a_known_layout_is_planned_as_another_one() -> None:
    small = config("model.path=" + str(ROOT / "assets/micro_base"), "run.device=cpu")
    with pytest.raises(
        ConfigError, match=r"backend=local or one of backend=ray_\.\.\., or set run\.plan=false"
    ) as error:
        describe(replace(small, backend=partial(own_backend)), this_cpu(), assumed_lengths(small))
    assert str(error.value).startswith("backend._target_=")
    for backend in ("local", "ray_cpu"):
        one = config("model.path=" + str(ROOT / "assets/micro_base"), "run.device=cpu", f"backend={backend}")
        assert describe(one, this_cpu(), assumed_lengths(one)).places
    off = replace(small, backend=partial(own_backend), run=replace(small.run, plan=False))
    guard.check_memory(off, [10])


EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_experiment_is_refused_with_the_micro_model(name: str) -> None:
    raw = composed(f"experiment={name}", "sampler=local", "run.device=cpu")
    raw.model.path = str(ROOT / "assets/micro_base")
    one = load(without_ray(raw))
    setup = describe(one, replace(this_cpu(), memory=4 * GIB), Lengths(200, 60.0, 56, 30.0, "of the micro model"))
    assert not guard.certainly_too_large(setup, plan_memory(setup))


def test_the_shapes_are_those_of_the_published_checkpoint() -> None:
    sizes = find_geometry(config("model=qwen2_5_math_7b").model)
    assert len(sizes.by_name) == 3 + 28 * 12
    assert sizes.largest == sizes.output == sizes.embedding == 152064 * 3584  # not tied
    assert sum(map(math.prod, sizes.by_name.values())) == sizes.parameters
    assert sizes.matmul == sizes.parameters - sizes.embedding
