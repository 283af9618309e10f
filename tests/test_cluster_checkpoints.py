"""A checkpoint of any layout is loaded by any other, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from simplerl.algorithms.losses import clipped_value, ppo_clip
from simplerl.backends.roles import build_worker
from simplerl.config import Aggregation, ModelConfig, OptimizerConfig, RoleKind, TrainConfig
from simplerl.engine.tensors import TensorFiles
from simplerl.engine.worker import UpdatePlan, Worker

OPTIMIZER = OptimizerConfig(lr=1e-3)
TRAIN = TrainConfig(prompts_per_step=6, samples_per_prompt=2, minibatch_size=6)
PLAN = UpdatePlan(minibatch_size=6, epochs=1, aggregation=Aggregation.token_mean, constant_length=0)
LAYOUTS = {"three ranks, ZeRO-3": (3, 3), "two, ZeRO-3": (2, 3), "two, ZeRO-1": (2, 1), "one, ZeRO-2": (1, 2)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny.policy(tie_word_embeddings=False).save_pretrained(folder)
    return folder


def build(role: str, path: Path) -> Any:
    kind = RoleKind.critic if role == "critic" else RoleKind.causal_lm
    new_head = None if (path / "value_head.safetensors").exists() else 3
    model = ModelConfig(path=str(path))
    return partial(build_worker, model, TRAIN, kind=kind, optimizer=OPTIMIZER, steps=8, head_seed=new_head)


def alone(role: str, path: Path, resume: bool) -> Worker:
    worker: Worker = build(role, path)(device="cpu")
    if resume:
        worker.load_optimizer(path)
    return worker


def tensors(folder: Path) -> dict[str, Tensor]:
    """Everything that a checkpoint holds, by name."""
    found = {}
    for stem in ("model", "optimizer"):
        files = TensorFiles(folder, stem)
        found |= {f"{stem}/{name}": files[name] for name in files.names}
    head = folder / "value_head.safetensors"
    return found | (load_file(head) if head.exists() else {})


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture
def group(cluster: None) -> Iterator[Any]:
    """Starts ranks; they end with the test."""
    from simplerl.cluster.health import Limits
    from simplerl.cluster.layout import Sharding
    from simplerl.cluster.ranks import ActorOptions, RankGroup

    made = []

    def start(role: str, path: Path, layout: str, resume: bool) -> RankGroup:
        ranks, stage = LAYOUTS[layout]
        environment = {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(Path(__file__).parent)}
        one = RankGroup(role, [ActorOptions("DEFAULT")] * ranks, Limits(), environment, threads=1)
        made.append(one)
        persistence = {"stage3_param_persistence_threshold": 0} if stage == 3 else {}
        return one.start(build(role, path), Sharding(stage, deepspeed=persistence), path if resume else None)

    yield start
    for one in made:
        one.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "layout"),
    [("policy", "three ranks, ZeRO-3"), ("critic", "two, ZeRO-1"), ("policy", "one, ZeRO-2")],
)
def test_a_checkpoint_goes_round_the_layouts(role: str, layout: str, base: Path, tmp_path: Path, group: Any) -> None:
    loss, batch = clipped_value if role == "critic" else ppo_clip, tiny.batch()
    before = alone(role, base, resume=False)
    before.update(batch, [loss], PLAN, [0])
    before.save(tmp_path / "local")

    ranks = group(role, tmp_path / "local", layout, True)
    ranks.save(tmp_path / "ranks")
    same(tensors(tmp_path / "local"), tensors(tmp_path / "ranks"))
    count = LAYOUTS[layout][0]
    assert len(list((tmp_path / "ranks").glob("model*.safetensors"))) == count
    assert len(list((tmp_path / "ranks").glob("optimizer*.safetensors"))) == count
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "local" / name).exists() == (tmp_path / "ranks" / name).exists()
    assert (tmp_path / "local/config.json").read_text() == (tmp_path / "ranks/config.json").read_text()

    after = alone(role, tmp_path / "ranks", resume=True)
    same(dict(after.named_weights()), dict(before.named_weights()))
    ours, theirs = ranks.update(batch, [loss], PLAN, [1]), after.update(batch, [loss], PLAN, [1])
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4) and ours["lr"] == theirs["lr"]
    for (name, mine), (_, other) in zip(ranks.named_weights(), after.named_weights(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0, msg=name)
    if role == "policy":
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ranks")
        same(dict(loaded.named_parameters()), dict(before.named_weights()))


@pytest.mark.slow
def test_ranks_that_saved_shards_go_on_with_the_same_bits(base: Path, tmp_path: Path, group: Any) -> None:
    """Saved by two ranks under ZeRO-3 and loaded by two again: the next step has the bits of an unbroken run."""
    batch, layout = tiny.batch(), "two, ZeRO-3"
    unbroken = group("policy", base, layout, False)
    unbroken.update(batch, [ppo_clip], PLAN, [0])
    unbroken.save(tmp_path / "first")
    unbroken.update(batch, [ppo_clip], PLAN, [1])
    unbroken.save(tmp_path / "unbroken")
    again = group("policy", tmp_path / "first", layout, True)
    again.update(batch, [ppo_clip], PLAN, [1])
    again.save(tmp_path / "again")
    same(tensors(tmp_path / "unbroken"), tensors(tmp_path / "again"))
