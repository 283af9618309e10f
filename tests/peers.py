"""Parity with verl, TRL and OpenRLHF: their own functions and ours on the same seeded batches, in float64.

    python tests/peers.py                   # print the table of docs/algorithms.md from the recorded numbers
    python tests/peers.py --record FOLDER   # run the peers' code and rewrite tests/golden/peers.json

FOLDER has the sources of the peers as FOLDER/verl, FOLDER/openrlhf and, installed by
`pip install --no-deps --target FOLDER/lib trl peft tensordict codetiming pyvers orjson pylatexenc torchdata`, TRL. Each
recorded comparison has the norm and a projection of the peer's result, its first numbers, and the peer's version;
`test_peers.py` recomputes ours and compares. A difference by convention is stated, and undone before comparing.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import math
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplerl.algorithms import advantages, losses
from simplerl.algorithms.kl import kl_loss
from simplerl.config import Aggregation, KLEstimator
from simplerl.engine.batching import collate, token_weights
from simplerl.types import Batch

GOLDEN = Path(__file__).parent / "golden/peers.json"
PEERS = ("verl", "TRL", "OpenRLHF")
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Case:
    """A batch in float64 with all columns, log-probs after an update, and the shape of the peers' frames."""

    name: str
    batch: Batch
    new: Tensor  # [B, T]

    def frame(self, x: Tensor) -> Tensor:
        """Return [B, T] as the peers arrange it: [B, longest response], responses flush left."""
        lengths = self.batch.mask.sum(-1)
        frame = torch.zeros(len(self.batch), int(lengths.max()), dtype=x.dtype)
        frame[torch.arange(frame.shape[1])[None] < lengths[:, None]] = x[self.batch.mask]
        return frame

    def tokens(self, frame: Tensor) -> Tensor:
        """Return the response tokens of a frame, in the order of ours."""
        lengths = self.batch.mask.sum(-1)
        return frame[torch.arange(frame.shape[1])[None] < lengths[:, None]]


def case(name: str, seed: int, groups: list[int], longest: int, *, equal: bool = False, wild: float = 0.4) -> Case:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest, len(groups), endpoint=True)
    lengths[0] = 1
    batch = collate([(rng.integers(0, 50, rng.integers(1, 6)), rng.integers(0, 50, n)) for n in lengths], groups)

    def noise(scale: float) -> Tensor:
        return torch.from_numpy(rng.normal(size=tuple(batch.tokens.shape))) * batch.mask * scale

    reward = torch.full((len(groups),), 0.1).double() if equal else torch.from_numpy(rng.normal(size=len(groups)))
    old = -noise(max(wild, 1.0)).abs() - 0.01 * batch.mask
    rewards = torch.zeros(batch.mask.shape, dtype=torch.float64)
    rewards[torch.arange(len(batch)), batch.attention.sum(-1) - 1] = reward
    scalar = torch.from_numpy(rng.normal(size=len(groups)))
    batch = batch.with_(
        reward=reward,
        token_rewards=rewards,
        logprobs=old,
        ref_logprobs=(old + noise(0.3)) * batch.mask,
        sampler_logprobs=(old + noise(0.5)) * batch.mask,
        values=noise(0.7),
        returns=noise(1.0),
        advantages=scalar[:, None] * batch.mask,
        extra={"greedy_reward": torch.from_numpy(rng.normal(size=len(groups)))},
    )
    new = (old + noise(wild)).clamp(max=-1e-3) * batch.mask
    return Case(name, batch, new)


def cases() -> list[Case]:
    four = [g for g in range(5) for _ in range(4)]
    return [
        case("ragged", 0, four, 24),
        case("one-token responses", 1, four, 1),
        case("equal rewards", 2, four, 12, equal=True),
        case("one group", 3, [0] * 8, 30),
        case("group of one", 4, [0, 0, 0, 1, 2, 2], 12),
        case("log-ratios to +-50", 5, four, 12, wild=25.0),
    ]


@dataclass(frozen=True)
class Part:
    """One part of an algorithm: ours and, by peer, theirs, as functions Case -> numbers."""

    name: str
    ours: Callable[[Case], Tensor]
    theirs: dict[str, Callable[[Any, Case], Tensor]]
    convention: dict[str, str] = field(default_factory=dict)  # by peer; `theirs` undoes it, or `skip` avoids it
    skip: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by peer: cases that the convention changes


def advantage(function: Callable[[Batch], Batch]) -> Callable[[Case], Tensor]:
    def ours(c: Case) -> Tensor:
        found = function(c.batch).advantages
        assert found is not None
        return found[c.batch.mask]

    return ours


def gradient(loss: Any, aggregation: str, constant: int = 100) -> Callable[[Case], Tensor]:
    """Return ours: the aggregated loss and its gradient with respect to each log-prob, after one another."""

    def ours(c: Case) -> Tensor:
        new = c.new.clone().requires_grad_()
        per_token, _ = loss(losses.TokenOutput(new, torch.zeros_like(new)), c.batch)
        total = (per_token * token_weights(c.batch, Aggregation[aggregation], constant)).sum()
        total.backward()
        assert new.grad is not None
        return torch.cat([total.detach()[None], new.grad[c.batch.mask]])

    return ours


def their_gradient(loss: Callable[[Case, Tensor], Tensor]) -> Callable[[Any, Case], Tensor]:
    """Return theirs: `loss` of the case and of their frame of new log-probs, and its gradient."""

    def theirs(_: Any, c: Case) -> Tensor:
        new = c.frame(c.new).requires_grad_()
        total = loss(c, new)
        total.backward()
        assert new.grad is not None
        return torch.cat([total.detach()[None], c.tokens(new.grad)])

    return theirs


# verl


def import_verl(folder: Path) -> tuple[Any, str]:
    sys.path[:0] = [str(folder / "lib"), str(folder / "verl")]
    import transformers

    if not hasattr(transformers, "AutoModelForVision2Seq"):  # renamed in transformers 5
        transformers.AutoModelForVision2Seq = transformers.AutoModelForImageTextToText  # type: ignore[attr-defined]
    from verl.trainer.ppo import core_algos

    return core_algos, (folder / "verl/verl/version/version").read_text().strip()


class Config(dict):  # type: ignore[type-arg]
    """Both forms in which verl's functions read their settings."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def verl_advantage(name: str, grouped: bool = True, **options: Any) -> Callable[[Any, Case], Tensor]:
    def theirs(core: Any, c: Case) -> Tensor:
        keywords = {"index": c.batch.group.numpy()} if grouped else {}
        keywords |= {k: v(c) if callable(v) else v for k, v in options.items()}
        config = Config(gamma=1.0, norm_adv_by_std_in_grpo=True)
        scores = c.frame(c.batch.token_rewards)
        mask = c.frame(c.batch.mask).double()
        return c.tokens(getattr(core, name)(scores, response_mask=mask, config=config, **keywords)[0])

    return theirs


def whitened_by_n(theirs: Callable[[Any, Case], Tensor]) -> Callable[[Any, Case], Tensor]:
    """Undo that verl's whitening divides by the unbiased standard deviation."""

    def scaled(core: Any, c: Case) -> Tensor:
        n = int(c.batch.mask.sum())
        return theirs(core, c) * math.sqrt(n / (n - 1))

    return scaled


def verl_loss(name: str, mode: str, **settings: Any) -> Callable[[Any, Case], Tensor]:
    def theirs(core: Any, c: Case) -> Tensor:
        from verl.workers.config import ActorConfig

        config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **settings)
        b = c.batch
        old, advantage, mask = c.frame(b.logprobs), c.frame(b.advantages), c.frame(b.mask).double()
        function = core.get_policy_loss_fn(name)
        return their_gradient(lambda _, new: function(old, new, advantage, mask, mode, config)[0])(core, c)

    return theirs


def verl_kl(name: str) -> Callable[[Any, Case], Tensor]:
    def theirs(core: Any, c: Case) -> Tensor:
        reference, mask = c.frame(c.batch.ref_logprobs), c.frame(c.batch.mask).double()
        return their_gradient(lambda _, new: core.agg_loss(core.kl_penalty(new, reference, name), mask, "token-mean"))(
            core, c
        )

    return theirs


def verl_aggregation(mode: str, **options: Any) -> Callable[[Any, Case], Tensor]:
    def theirs(core: Any, c: Case) -> Tensor:
        mask = c.frame(c.batch.mask).double()
        return their_gradient(lambda _, new: core.agg_loss(-new, mask, mode, **options))(core, c)

    return theirs


# TRL


def import_trl(folder: Path) -> tuple[Any, str]:
    sys.path.insert(0, str(folder / "lib"))
    import trl
    from trl.trainer.grpo_trainer import GRPOTrainer

    return GRPOTrainer, trl.__version__


def trl_loss(kind: str, **options: Any) -> Callable[[Any, Case], Tensor]:
    """Call GRPOTrainer._compute_loss with a trainer that has only what the function reads."""

    def theirs(trainer: Any, c: Case) -> Tensor:
        b = c.batch
        mask = c.frame(b.mask).long()
        args = SimpleNamespace(
            use_bias_correction_kl=options.get("corrected", False),
            delta=options.get("delta"),
            steps_per_generation=1,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
        )
        fake = SimpleNamespace(
            aux_loss_enabled=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            args=args,
            loss_type=kind,
            importance_sampling_level=options.get("level", "token"),
            beta=options.get("beta", 0.0),
            use_vllm=False,
            epsilon_low=options.get("low", 0.2),
            epsilon_high=options.get("high", 0.2),
            max_completion_length=100,
            model=SimpleNamespace(training=True),
            current_gradient_accumulation_steps=1,
            _entropy_bonus_enabled=False,
            accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, **_: x),
            vllm_importance_sampling_correction=False,
            _metrics={"train": defaultdict(list)},
        )
        inputs = {
            "prompt_ids": mask[:, :0],
            "prompt_mask": mask[:, :0],
            "completion_ids": mask,
            "completion_mask": mask,
            "advantages": c.frame(b.advantages)[:, 0],
            "old_per_token_logps": c.frame(b.logprobs),
            "ref_per_token_logps": c.frame(b.ref_logprobs),
            "num_items_in_batch": mask.sum(),
        }

        def loss(_: Case, new: Tensor) -> Tensor:
            fake._get_per_token_logps_and_entropies = lambda *_, **__: (new, torch.zeros_like(new), None)
            return trainer._compute_loss(fake, None, inputs)

        return their_gradient(loss)(trainer, c)

    return theirs


# OpenRLHF


def import_openrlhf(folder: Path) -> tuple[Any, str]:
    """Its flash-attention helpers are imported at the top and not called here: they get empty stand-ins."""
    sys.path[:0] = [str(folder / "lib"), str(folder / "openrlhf")]
    import deepspeed  # noqa: F401
    import transformers.modeling_flash_attention_utils  # noqa: F401

    for name, members in {
        "flash_attn": (),
        "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
        "flash_attn.utils": (),
        "flash_attn.utils.distributed": ("all_gather",),
    }.items():
        module = types.ModuleType(name)
        module.__path__, module.__spec__ = [], importlib.machinery.ModuleSpec(name, None)
        for member in members:
            setattr(module, member, None)
        sys.modules[name] = module
    from openrlhf.models import loss
    from openrlhf.trainer.ppo_utils import experience_maker

    return SimpleNamespace(loss=loss, maker=experience_maker), (folder / "openrlhf/version.txt").read_text().strip()


def openrlhf_advantage(estimator: str) -> Callable[[Any, Case], Tensor]:
    def theirs(openrlhf: Any, c: Case) -> Tensor:
        from openrlhf.trainer.ppo_utils.experience import Experience

        samples = int((c.batch.group == 0).sum())
        args = SimpleNamespace(
            algo=SimpleNamespace(
                advantage=SimpleNamespace(estimator=estimator, gamma=1.0, lambd=0.95, no_std_norm=False),
                kl=SimpleNamespace(use_loss=False, estimator="k1"),
            ),
            rollout=SimpleNamespace(n_samples_per_prompt=samples),
            reward=SimpleNamespace(clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None),
        )
        maker = openrlhf.maker.RemoteExperienceMaker.__new__(openrlhf.maker.RemoteExperienceMaker)
        maker.strategy, maker.args, maker.advantage_estimator = SimpleNamespace(args=args), args, estimator
        maker.kl_ctl = SimpleNamespace(value=0.0)
        mask = c.frame(c.batch.mask)
        rows = list(range(len(c.batch)))
        one = Experience(
            action_mask=mask,
            rewards=c.batch.reward.clone(),
            values=c.frame(c.batch.values),
            kl=torch.zeros(mask.shape, dtype=torch.float64),
            index=rows,
            info={},
        )
        (done,) = maker.compute_advantages_and_returns([one])
        return c.tokens(done.advantages)

    return theirs


def openrlhf_loss(token_level: bool, **options: Any) -> Callable[[Any, Case], Tensor]:
    def theirs(openrlhf: Any, c: Case) -> Tensor:
        policy = openrlhf.loss.PolicyLoss(token_level_loss=token_level, **options)
        b = c.batch
        old, advantage, mask = c.frame(b.logprobs), c.frame(b.advantages), c.frame(b.mask)
        return their_gradient(lambda _, new: policy(new, old, advantage, mask)[0])(openrlhf, c)

    return theirs


SINGLE = ("group of one",)  # OpenRLHF's groups have one size
WILD = ("log-ratios to +-50",)
EQUAL = ("equal rewards",)
clip = partial(losses.ppo_clip, clip_high=0.28)
kl = partial(kl_loss, coef=1.0)


def zero(c: Case) -> Case:
    """Return the case with zero advantages, for terms that are added to the policy loss."""
    assert c.batch.advantages is not None
    return replace(c, batch=c.batch.with_(advantages=torch.zeros_like(c.batch.advantages)))


none, group = partial(advantages.group_relative, std="none"), advantages.group_relative
plus, baseline = advantages.reinforce_plus_plus, advantages.reinforce_plus_plus_baseline
unclamped = "does not clamp log-ratios"
PARTS: list[Part] = [
    Part(
        "advantage: gae, whitened",
        advantage(advantages.gae),
        {
            "verl": whitened_by_n(
                lambda core, c: c.tokens(
                    core.compute_gae_advantage_return(
                        c.frame(c.batch.token_rewards),
                        c.frame(c.batch.values),
                        c.frame(c.batch.mask).double(),
                        1.0,
                        0.95,
                    )[0]
                )
            ),
            "OpenRLHF": openrlhf_advantage("gae"),
        },
        {"verl": "whitens by the unbiased standard deviation"},
        {"OpenRLHF": SINGLE},
    ),
    Part(
        "advantage: group",
        advantage(group),
        {"verl": verl_advantage("compute_grpo_outcome_advantage"), "OpenRLHF": openrlhf_advantage("group_norm")},
        {"verl": "a group of one keeps its reward", "OpenRLHF": "adds 1e-9 to the standard deviation, ours 1e-6"},
        {"verl": SINGLE, "OpenRLHF": (*SINGLE, "ragged", "one-token responses", "one group", *WILD)},
    ),
    Part(
        "advantage: dr_grpo",
        advantage(none),
        {
            "verl": verl_advantage("compute_grpo_outcome_advantage", norm_adv_by_std_in_grpo=False),
            "OpenRLHF": openrlhf_advantage("dr_grpo"),
        },
        {"verl": "a group of one keeps its reward"},
        {"verl": SINGLE, "OpenRLHF": SINGLE},
    ),
    Part(
        "advantage: rloo",
        advantage(advantages.rloo),
        {"verl": verl_advantage("compute_rloo_outcome_advantage"), "OpenRLHF": openrlhf_advantage("rloo")},
        {},
        {"OpenRLHF": SINGLE},
    ),
    Part(
        "advantage: reinforce_plus_plus",
        advantage(plus),
        {
            "verl": whitened_by_n(verl_advantage("compute_reinforce_plus_plus_outcome_advantage", grouped=False)),
            "OpenRLHF": openrlhf_advantage("reinforce"),
        },
        {"verl": "whitens by the unbiased standard deviation"},
        {"verl": EQUAL, "OpenRLHF": (*SINGLE, *EQUAL)},
    ),
    Part(
        "advantage: reinforce_plus_plus_baseline",
        advantage(baseline),
        {
            "verl": whitened_by_n(verl_advantage("compute_reinforce_plus_plus_baseline_outcome_advantage")),
            "OpenRLHF": openrlhf_advantage("reinforce_baseline"),
        },
        {"verl": "whitens by the unbiased standard deviation; a group of one keeps its reward"},
        {"verl": (*SINGLE, *EQUAL), "OpenRLHF": (*SINGLE, *EQUAL)},
    ),
    Part(
        "advantage: opo",
        advantage(advantages.opo),
        {"verl": verl_advantage("compute_opo_outcome_advantage")},
        {"verl": "a group of one keeps its reward"},
        {"verl": SINGLE},
    ),
    Part(
        "advantage: pass_at_k",
        advantage(advantages.pass_at_k),
        {"verl": verl_advantage("compute_grpo_passk_outcome_advantage")},
        {"verl": "refuses a group of one"},
        {"verl": SINGLE},
    ),
    Part(
        "advantage: remax",
        advantage(advantages.remax),
        {
            "verl": verl_advantage(
                "compute_remax_outcome_advantage",
                grouped=False,
                reward_baselines=lambda c: c.batch.extra["greedy_reward"],
            )
        },
    ),
    Part(
        "loss: clip_higher, token_mean",
        gradient(clip, "token_mean"),
        {
            "verl": verl_loss("vanilla", "token-mean", clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=1e30),
            "TRL": trl_loss("dapo", high=0.28),
            "OpenRLHF": openrlhf_loss(True, clip_eps_high=0.28),
        },
        {"TRL": unclamped, "OpenRLHF": unclamped},
        {"TRL": WILD, "OpenRLHF": WILD},
    ),
    Part(
        "loss: clip_higher, sequence_mean",
        gradient(clip, "sequence_mean"),
        {
            "verl": verl_loss(
                "vanilla", "seq-mean-token-mean", clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=1e30
            ),
            "TRL": trl_loss("grpo", high=0.28),
            "OpenRLHF": openrlhf_loss(False, clip_eps_high=0.28),
        },
        {"TRL": unclamped, "OpenRLHF": unclamped},
        {"TRL": WILD, "OpenRLHF": WILD},
    ),
    Part(
        "loss: clip_higher, constant_length",
        gradient(clip, "constant_length"),
        {"TRL": trl_loss("dr_grpo", high=0.28)},
        {"TRL": unclamped},
        {"TRL": WILD},
    ),
    Part(
        "loss: dual_clip",
        gradient(losses.dual_clip, "token_mean"),
        {
            "verl": verl_loss("vanilla", "token-mean", clip_ratio=0.2, clip_ratio_c=3.0),
            "OpenRLHF": openrlhf_loss(True, dual_clip=3.0),
        },
        {"OpenRLHF": unclamped},
        {"OpenRLHF": WILD},
    ),
    Part(
        "loss: cispo",
        gradient(losses.cispo, "token_mean"),
        {
            "verl": verl_loss("cispo", "token-mean", clip_ratio_low=10.0, clip_ratio_high=0.2),
            "TRL": trl_loss("cispo", high=1.2),
        },
        {"verl": "bounds are 1 - low and 1 + high", "TRL": "the upper bound is the ratio itself; " + unclamped},
        {"TRL": WILD},
    ),
    Part(
        "loss: gspo",
        gradient(losses.gspo, "sequence_mean"),
        {
            "verl": verl_loss("gspo", "seq-mean-token-mean", clip_ratio_low=3e-4, clip_ratio_high=4e-4),
            "TRL": trl_loss("grpo", level="sequence", low=3e-4, high=4e-4),
            "OpenRLHF": openrlhf_loss(False, policy_loss_type="gspo", clip_eps_low=3e-4, clip_eps_high=4e-4),
        },
        {"TRL": unclamped, "OpenRLHF": unclamped},
        {"TRL": WILD, "OpenRLHF": WILD},
    ),
    Part(
        "loss: sapo",
        gradient(losses.sapo, "sequence_mean"),
        {"verl": verl_loss("sapo", "seq-mean-token-mean"), "TRL": trl_loss("sapo")},
        {"TRL": unclamped},
        {"TRL": WILD},
    ),
    Part(
        "loss: gmpo",
        gradient(losses.gmpo, "sequence_mean"),
        {"verl": verl_loss("geo_mean", "token-mean", clip_ratio_low=0.4, clip_ratio_high=0.4)},
        {"verl": "does not clamp the mean log-ratio of a response, ours clamps it to 10"},
        {"verl": WILD},
    ),
    Part(
        "loss: dppo_tv",
        gradient(losses.dppo_tv, "token_mean"),
        {"verl": verl_loss("dppo_tv", "token-mean", clip_ratio=0.2, clip_ratio_c=20.0)},
    ),
    Part(
        "loss: dppo_kl",
        gradient(partial(losses.dppo_kl, low=0.05, high=0.05), "token_mean"),
        {"verl": verl_loss("dppo_kl", "token-mean", clip_ratio_low=0.05, clip_ratio_high=0.05, clip_ratio_c=20.0)},
    ),
    *(
        Part(
            f"kl: {name}",
            gradient(partial(kl, estimator=KLEstimator[name]), "token_mean"),
            {"verl": verl_kl(theirs)},
        )
        for name, theirs in (("k2", "k2"), ("k3", "k3"), ("k3_k2_gradient", "k3+"))
    ),
    Part(
        "kl: k3_ratio",
        lambda c: gradient(partial(kl, estimator=KLEstimator.k3_ratio), "token_mean")(zero(c)),
        {"TRL": lambda t, c: trl_loss("dapo", beta=1.0, corrected=True)(t, zero(c))},
        {"TRL": unclamped},
        {"TRL": WILD},
    ),
    *(
        Part(
            f"aggregation: {ours}",
            gradient(losses.negative_log_likelihood, ours),
            {"verl": verl_aggregation(mode, **o)},
        )
        for ours, mode, o in (
            ("token_mean", "token-mean", {}),
            ("sequence_mean", "seq-mean-token-mean", {}),
            ("constant_length", "seq-mean-token-sum-norm", {"loss_scale_factor": 100}),
        )
    ),
]


def summary(x: Tensor) -> list[float]:
    """Return numbers by which a tensor is recognized: size, norm, a projection, and the first six."""
    x = x.detach().double().flatten()
    projection = (x * torch.cos(torch.arange(len(x), dtype=torch.float64))).sum()
    return [float(len(x)), float(x.norm()), float(projection), *x[:6].tolist()]


def comparisons() -> Iterator[tuple[Part, str, Case]]:
    for part in PARTS:
        for peer in part.theirs:
            for one in cases():
                if one.name not in part.skip.get(peer, ()):
                    yield part, peer, one


def record(folder: Path) -> None:
    """Run the peers' functions, and write the numbers by part, peer and case."""
    loaders = {"verl": import_verl, "TRL": import_trl, "OpenRLHF": import_openrlhf}
    modules = {peer: load(folder) for peer, load in loaders.items()}
    rows = [
        {
            "part": part.name,
            "peer": peer,
            "version": modules[peer][1],
            "case": one.name,
            "numbers": summary(part.theirs[peer](modules[peer][0], one)),
        }
        for part, peer, one in comparisons()
    ]
    GOLDEN.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def difference(ours: list[float], theirs: list[float]) -> float:
    """Return the largest difference relative to the norm (at least 1)."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / max(theirs[1], 1.0)


def table() -> str:
    """Return the table part x peer: the number of compared cases and the largest difference."""
    golden = {(r["part"], r["peer"], r["case"]): r for r in json.loads(GOLDEN.read_text())}
    versions = {r["peer"]: r["version"] for r in golden.values()}
    found: dict[tuple[str, str], list[float]] = {}
    for part, peer, one in comparisons():
        theirs = golden[part.name, peer, one.name]["numbers"]
        found.setdefault((part.name, peer), []).append(difference(summary(part.ours(one)), theirs))
    lines = [f"| part | {' | '.join(f'{p} {versions[p]}' for p in PEERS)} | convention |", "|---|---|---|---|---|"]
    for part in PARTS:
        cells = []
        for peer in PEERS:
            errors = found.get((part.name, peer))
            cells.append(f"{len(errors)} cases, {max(errors):.0e}" if errors else "")
        said = "; ".join(f"{peer} {text}" for peer, text in part.convention.items())
        lines.append(f"| {part.name} | {' | '.join(cells)} | {said} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="run the peers' code in FOLDER")
    options = parser.parse_args()
    if options.record:
        record(options.record)
    print(table())
