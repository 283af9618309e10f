"""Layouts: who sits where, and which are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro_runs import composed

from simplerl.cluster.layout import (
    CRITIC,
    ENGINE,
    POLICY,
    REFERENCE,
    Layout,
    Sharding,
    Shared,
    check_layout,
    check_resources,
    plan_placement,
    processes,
)
from simplerl.config import Config
from simplerl.config.load import load
from simplerl.errors import ConfigError

COUNTS = {POLICY: 2, CRITIC: 2, REFERENCE: 2, ENGINE: 2}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load(composed(tmp_path_factory.mktemp("runs")))


def gpus(layout: Layout, counts: dict[str, int]) -> float:
    return plan_placement(layout, counts, on_gpus=True).gpus


def test_every_role_has_devices_of_its_own() -> None:
    made = plan_placement(Layout(tensor_parallel=4, cpus_per_rank=3), COUNTS, on_gpus=True)
    assert made.gpus == 2 + 2 + 2 + 2 * 4
    assert made.cpus == 8 * 3
    placements = [placement for role in COUNTS for placement in made.placements[role]]
    assert sorted(placement.bundle for placement in placements) == list(range(8))
    assert [placement.gpus for placement in made.placements[ENGINE]] == [4.0, 4.0]


def test_policy_and_reference_share() -> None:
    """The published layouts: 6 GPUs, and 32."""
    shared = Layout(shared=Shared.reference)
    assert gpus(shared, COUNTS) == 6
    assert gpus(shared, {POLICY: 8, CRITIC: 8, REFERENCE: 8, ENGINE: 16}) == 32
    made = plan_placement(shared, {**COUNTS, REFERENCE: 1}, on_gpus=True)
    assert [s.bundle for s in made.placements[POLICY]] == [0, 1] and [s.bundle for s in made.placements[REFERENCE]] == [
        0
    ]
    assert {s.gpus for s in made.placements[POLICY]} == {0.5}


def test_all_share_one_gpu() -> None:
    made = plan_placement(Layout(shared=Shared.all), dict.fromkeys(COUNTS, 1), on_gpus=True)
    assert made.gpus == 1 and len(made.bundles) == 1
    assert sum(placement.gpus for placements in made.placements.values() for placement in placements) == 1.0


def test_further_roles_of_an_algorithm_have_ranks(tmp_path: Path) -> None:
    """They take `other_ranks`, whatever they are called, and share devices only where all do."""
    prime = load(composed(tmp_path, "algorithm=prime"))
    counts = processes(Layout(policy_ranks=4, other_ranks=3, engines=0), prime)
    assert counts == {POLICY: 4, "prm": 3, REFERENCE: 1}
    made = plan_placement(Layout(shared=Shared.reference), counts, on_gpus=True)
    assert set(made.colocated) == {(POLICY, REFERENCE), ("prm",)}
    assert plan_placement(Layout(shared=Shared.all), counts, on_gpus=True).colocated == (tuple(counts),)


@pytest.mark.parametrize("shared", list(Shared))
def test_a_team_is_who_shares_a_bundle(shared: Shared) -> None:
    """`RayRoles.run_calls` relies on it: roles of different groups run concurrently."""
    made = plan_placement(Layout(shared=shared), {**COUNTS, "teacher": 1}, on_gpus=True)
    bundles = [{placement.bundle for role in group for placement in made.placements[role]} for group in made.colocated]
    assert sorted(role for group in made.colocated for role in group) == sorted([*COUNTS, "teacher"])
    assert sum(map(len, bundles)) == len(set().union(*bundles)) == len(made.bundles)


def test_without_gpus_only_cpus_are_asked_for() -> None:
    made = plan_placement(Layout(), COUNTS, on_gpus=False)
    assert made.gpus == 0 and made.cpus == 8
    assert all(placement.gpus == 0 for placements in made.placements.values() for placement in placements)


def test_more_than_the_cluster_has() -> None:
    wanted = plan_placement(Layout(), COUNTS, on_gpus=True)
    check_resources(wanted, gpus=8, cpus=8)
    with pytest.raises(ConfigError, match=r"2 x vLLM engine need 8 GPUs, but the cluster has 4: lower"):
        check_resources(wanted, gpus=4, cpus=8)
    with pytest.raises(ConfigError, match="need 8 CPUs, but the cluster has 2"):
        check_resources(wanted, gpus=8, cpus=2)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (Layout(policy_ranks=0), "backend.policy_ranks=0 must be at least 1"),
        (Layout(sharding=Sharding(zero_stage=4)), "backend.zero_stage=4 is unknown"),
        (Layout(sharding=Sharding(0, offload_optimizer=True)), "backend.offload_optimizer=true needs"),
        (Layout(engines=0), "backend.engines=0, so no sampler is configured"),
        (
            Layout(shared=Shared.all, tensor_parallel=2),
            "backend.tensor_parallel=2 is not supported with backend.shared=all",
        ),
        (Layout(policy_ranks=9), "backend.policy_ranks=9 exceeds train.minibatch_size=8"),
        (Layout(critic_ranks=16), "backend.critic_ranks=16 exceeds train.minibatch_size=8"),
        (Layout(other_ranks=0), "backend.other_ranks=0 must be at least 1"),
        (Layout(weight_sync="mpi"), "backend.weight_sync=mpi is unknown"),
        (Layout(cpus_per_rank=0), "backend.cpus_per_rank=0 must be positive"),
    ],
)
def test_contradictions_are_refused_in_a_sentence(layout: Layout, said: str, config: Config) -> None:
    with pytest.raises(ConfigError, match=said):
        check_layout(layout, config, in_driver=False)


def test_a_sampler_in_the_driver_and_engines_exclude_each_other(config: Config) -> None:
    check_layout(Layout(engines=0), config, in_driver=True)
    with pytest.raises(ConfigError, match=r"runs in the driver process, but backend.engines=1"):
        check_layout(Layout(), config, in_driver=True)


def test_one_device_for_all_excludes_what_needs_two(config: Config) -> None:
    ahead = replace(config, rollout=replace(config.rollout, ahead=1))
    with pytest.raises(ConfigError, match=r"rollout.ahead=1 samples while the policy trains, but backend.shared=all"):
        check_layout(Layout(shared=Shared.all), ahead, in_driver=False)
    with pytest.raises(ConfigError, match=r"backend.weight_sync=nccl needs ranks and engines on different GPUs"):
        check_layout(Layout(shared=Shared.all, weight_sync="nccl"), config, in_driver=False)


def test_a_layout_without_offload_fits(config: Config) -> None:
    check_layout(replace(Layout(), policy_ranks=8), config, in_driver=False)


@pytest.mark.parametrize("preset", ["ray_cpu", "ray_1gpu", "ray_6gpu", "ray_32gpu"])
def test_presets_are_as_they_say(preset: str, tmp_path: Path) -> None:
    from simplerl.data.task import prepare_task

    raw = composed(tmp_path, f"backend={preset}", "train.minibatch_size=16")
    config = load(raw)
    backend = config.backend(config, prepare_task(config))
    counts = {
        POLICY: backend.layout.policy_ranks,
        CRITIC: backend.layout.critic_ranks,
        REFERENCE: backend.layout.reference_ranks,
        ENGINE: backend.layout.engines,
    }
    expected = {"ray_cpu": 5, "ray_1gpu": 1, "ray_6gpu": 6, "ray_32gpu": 32}
    assert len(plan_placement(backend.layout, counts, on_gpus=True).bundles) == expected[preset]
    backend.close()


def test_rows_are_dealt_evenly_by_length() -> None:
    from simplerl.cluster.ranks import balanced_partition

    generator = torch.Generator().manual_seed(0)
    for ranks in (1, 2, 3, 8):
        lengths = torch.randint(10, 400, (64,), generator=generator)
        parts = balanced_partition(lengths, ranks)
        assert sorted(torch.cat(parts).tolist()) == list(range(64))
        loads = [int(lengths[rows].sum()) for rows in parts]
        assert max(loads) - min(loads) <= int(lengths.max())
        assert all(rows.tolist() == sorted(rows.tolist()) for rows in parts)
    assert [len(rows) for rows in balanced_partition(torch.tensor([5, 7]), 4)].count(0) == 2


def test_a_shard_without_rows_counts_nothing() -> None:
    import tiny

    from simplerl.cluster.ranks import rank_batch

    batch = tiny.batch().with_(weights=torch.ones(12, 30)[:, : tiny.batch().tokens.shape[1]])
    empty = rank_batch(batch, torch.tensor([], dtype=torch.int64))
    assert len(empty) == 1 and not empty.mask.any() and empty.weights is not None and not empty.weights.any()
    assert torch.equal(rank_batch(batch, torch.tensor([3, 5])).reward, batch.rows(torch.tensor([3, 5])).reward)
