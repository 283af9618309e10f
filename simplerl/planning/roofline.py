"""Estimates the time of a rollout step by stage, from floating-point operations, memory traffic and link traffic.

Each is divided by a device's peak and by a utilisation. The default utilisations are assumptions for GPUs;
`plan.py --calibrate RUN` fits them from a finished run. Evaluation, checkpoints and failures are not included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from simplerl.backends.roles import POLICY
from simplerl.cluster.layout import ENGINE, Layout
from simplerl.config import RoleKind
from simplerl.planning.geometry import Geometry
from simplerl.planning.memory import cache_bytes_per_token, engine_cache, sampled_rows
from simplerl.planning.setup import SAMPLER, Place, Setup

STAGES = ("sample", "score", "update", "sync")
OPTIMIZER_BYTES = 28  # read and written by AdamW for each parameter: weight, gradient and two moments in float32
FLOAT32, BFLOAT16 = 4, 2


@dataclass(frozen=True)
class Utilisations:
    """Holds the fractions of a device's peak that each kind of work reaches, and fixed costs in seconds."""

    update: float = 0.35  # of the FLOP/s, forward and backward
    score: float = 0.40  # of the FLOP/s, forward
    decode: float = 0.50  # of the FLOP/s and of the memory's bandwidth, generating one token for each row
    link: float = 0.50  # of the link's bandwidth
    seconds_per_token: float = 0.005  # of decoding: launches and sampling, for each token position
    seconds_per_micro_batch: float = 0.02  # launches, copies and reductions, for each pass of an update
    seconds_per_scored_micro_batch: float = 0.02  # the same for each forward pass of scoring
    seconds_per_response: float = 0.0005  # grading beyond what overlaps with sampling, and writing
    source: str = "assumed"

    def describe(self) -> str:
        return (
            f"utilisations {self.source}: update {self.update:.0%}, scoring {self.score:.0%} of the peak FLOP/s; "
            f"decoding {self.decode:.0%} of FLOP/s and bandwidth, and {1e3 * self.seconds_per_token:.3g} ms a token; "
            f"links {self.link:.0%}; {1e3 * self.seconds_per_micro_batch:.3g} ms a micro-batch"
        )


# Measured on one AVX-512 core of an AMD EPYC, with the micro model and SmolLM2-135M.
CPU_UTILISATIONS = Utilisations(0.75, 0.78, 0.6, 0.5, 0.002, 0.003, 0.003, 0.001)


@dataclass(frozen=True)
class StepTime:
    """Holds the seconds of a rollout step by stage, and by (stage, place), a place being the devices that hold the same
    roles."""

    stages: Mapping[str, float]
    parts: Mapping[tuple[str, str], float]
    ahead: bool = False  # sampling overlaps with the rest

    @property
    def seconds(self) -> float:
        rest = sum(seconds for stage, seconds in self.stages.items() if stage != "sample")
        return max(self.stages["sample"], rest) if self.ahead else self.stages["sample"] + rest

    @property
    def bottleneck(self) -> str:
        return max(self.stages, key=lambda stage: self.stages[stage])


def step_time(setup: Setup, using: Utilisations) -> StepTime:
    """Return the time of one rollout step. Roles that share devices run one after the other, all others at the same
    time."""
    parts: dict[tuple[str, str], float] = {}
    for place in setup.places:
        models = [role for role in place.roles if role in setup.kinds]
        if models:
            parts["score", place.name] = sum(score_seconds(setup, role, using) for role in models)
        if trained := [role for role in models if role in setup.trained]:
            parts["update", place.name] = sum(update_seconds(setup, role, using) for role in trained)
    sampler = ENGINE if ENGINE in setup.counts else SAMPLER
    parts["sample", sampler] = sample_seconds(setup, using) + setup.responses * using.seconds_per_response
    parts["sync", sampler] = sync_seconds(setup, using)
    processes = {place.name: place.devices for place in setup.places}
    stages = {}
    for stage in STAGES:
        own = {place: seconds for (which, place), seconds in parts.items() if which == stage}
        stages[stage] = _concurrent(
            setup, {place: (seconds, processes.get(place, 1)) for place, seconds in own.items()}
        )
    return StepTime(stages, parts, setup.config.rollout.ahead > 0)


# FLOPs and bytes


def forward_flops(sizes: Geometry, prompt: float, response: float, critic: bool) -> float:
    """Return the floating-point operations of a forward pass over one sequence of `prompt` + `response` tokens. Logits
    are computed for the response only, and not by a critic."""
    length = prompt + response
    attention = 2 * sizes.layers * sizes.queries * length**2  # scores and weighted values of the lower triangle
    head = 0 if critic else 2 * response * sizes.vocabulary * sizes.hidden
    return 2 * length * sizes.body + attention + head


def _passes(setup: Setup, role: str) -> tuple[float, float, int]:
    """Return the FLOPs of one forward pass of a role over all responses of a step, their number of tokens, and the
    number of ranks of the role."""
    lengths, critic = setup.lengths, setup.kinds[role] is RoleKind.critic
    each = forward_flops(setup.geometries[role], lengths.mean_prompt, lengths.mean_response, critic)
    return setup.responses * each, setup.responses * lengths.mean, setup.layout.ranks(role) if not setup.local else 1


def _micro_batches(setup: Setup, tokens: float, rows: float) -> float:
    """Return the number of micro-batches of one rank for `rows` sequences of `tokens` tokens in total."""
    limit = max(setup.config.train.tokens_per_micro_batch, setup.lengths.mean)
    return min(rows, max(1.0, math.ceil(tokens / (0.9 * limit))))  # a tenth is padding or unused


def score_seconds(setup: Setup, role: str, using: Utilisations) -> float:
    """Return the seconds of the forward passes of one role over the responses of a step."""
    flops, tokens, ranks = _passes(setup, role)
    micros = _micro_batches(setup, tokens / ranks, setup.responses / ranks)
    compute = flops / (ranks * _flops(setup) * using.score)
    return compute + micros * (using.seconds_per_scored_micro_batch + _gather_seconds(setup, role, 1, using))


def update_seconds(setup: Setup, role: str, using: Utilisations) -> float:
    """Return the seconds of the optimizer steps of one role: forward, backward, recomputation, AdamW, communication."""
    train = setup.config.train
    flops, tokens, ranks = _passes(setup, role)
    passes = (3 if setup.has_adapter(role) else 4) - (0 if train.gradient_checkpointing else 1)  # no weight gradients
    steps = setup.responses // train.minibatch_size
    micros = steps * _micro_batches(setup, tokens / ranks / steps, train.minibatch_size / ranks)
    compute = passes * flops / (ranks * _flops(setup) * using.update)
    elements = setup.trainable(role)
    adam = steps * OPTIMIZER_BYTES * elements / (ranks if _stage(setup) else 1) / setup.device.bandwidth
    gathers = micros * (2 * using.seconds_per_micro_batch + _gather_seconds(setup, role, passes - 1, using))
    reduced = (micros if _stage(setup) >= 2 else steps) * FLOAT32 * elements * (ranks - 1) / ranks
    return train.epochs * (compute + adam + gathers + reduced / (_link(setup, ranks) * using.link))


def _flops(setup: Setup) -> float:
    return setup.device.flops(setup.config.train.precision) * _threads(setup)


def _threads(setup: Setup, driver: bool = False) -> float:
    """Return the CPU cores of one process; 1 on a GPU. driver: the process of the training loop."""
    if not setup.on_cpu:
        return 1.0
    threads = setup.config.run.threads
    if threads is None:
        threads = setup.device.per_node if driver or setup.local else max(1, int(setup.layout.cpus_per_rank))
    return min(threads, setup.device.per_node)


def _concurrent(setup: Setup, places: Mapping[str, tuple[float, int]]) -> float:
    """Return the seconds until all places (devices that hold the same roles) have finished, given {place: (seconds,
    number of processes)}. On GPUs it is the time of the slowest. On a CPU they compete for cores, so it is at least the
    work of all processes divided by the number of cores."""
    work = sum(seconds * processes * _threads(setup) for seconds, processes in places.values())
    slowest = max((seconds for seconds, _ in places.values()), default=0.0)
    return max(slowest, work / setup.device.per_node) if setup.on_cpu else slowest


def _stage(setup: Setup) -> int:
    return 0 if setup.local else setup.layout.sharding.zero_stage


def _gather_seconds(setup: Setup, role: str, times: int, using: Utilisations) -> float:
    """Return the seconds that ZeRO-3 needs to gather all weights of a role `times` times."""
    ranks = setup.layout.ranks(role)
    if _stage(setup) < 3 or ranks == 1:
        return 0.0
    return (
        times * FLOAT32 * setup.geometries[role].parameters * (ranks - 1) / ranks / (_link(setup, ranks) * using.link)
    )


def _link(setup: Setup, ranks: int) -> float:
    """Return the bandwidth, in bytes per second, of the slowest link between `ranks` ranks."""
    device = setup.device
    return device.link if ranks <= device.per_node else min(device.link, device.network)


def sample_seconds(setup: Setup, using: Utilisations) -> float:
    """Return the seconds of sampling a step's responses: prompts are read once, then each token position is decoded for
    all running responses. Weights and cache are read once per position."""
    sizes, lengths, device = setup.geometries[POLICY], setup.lengths, setup.device
    engines = max(1, setup.counts.get(ENGINE, 1))
    parallel = setup.layout.tensor_parallel
    precision = setup.config.sampler.keywords.get("precision", "float32")
    cores = _threads(setup, driver=ENGINE not in setup.counts)
    flops, bandwidth = parallel * cores * device.flops(precision), parallel * device.bandwidth
    responses = setup.responses / engines
    rows = min(decoded_rows(setup), responses)
    prompts = responses / setup.config.train.samples_per_prompt
    prefill = prompts * 2 * lengths.mean_prompt * sizes.body / (flops * using.score)
    positions = max(float(lengths.longest_response), responses * lengths.mean_response / rows)
    tokens = responses * lengths.mean_response
    weights = (BFLOAT16 if precision == "bfloat16" else FLOAT32) * sizes.matmul
    cached = tokens * cache_bytes_per_token(setup) * (lengths.mean_prompt + lengths.mean_response / 2)
    moved = (positions * weights + cached) / (bandwidth * using.decode)
    computed = tokens * 2 * sizes.matmul / (flops * using.decode)
    return prefill + max(moved, computed) + positions * using.seconds_per_token


def decoded_rows(setup: Setup) -> float:
    """Return the mean number of responses that one sampler decodes at the same time, limited by its max_rows and its
    key-value cache."""
    rows = float(sampled_rows(setup))
    if ENGINE in setup.counts and not setup.on_cpu:
        each = cache_bytes_per_token(setup) * (setup.lengths.mean_prompt + setup.lengths.mean_response)
        rows = min(rows, engine_cache(setup) / each)
    return max(rows, 1.0)


def sync_seconds(setup: Setup, using: Utilisations) -> float:
    """Return the seconds of copying the policy's weights to the samplers."""
    sizes, device = setup.geometries[POLICY], setup.device
    size = (BFLOAT16 if setup.config.sampler.keywords.get("precision") == "bfloat16" else FLOAT32) * sizes.parameters
    if setup.local:
        return 2 * size / device.bandwidth
    gather = _gather_seconds(setup, POLICY, 1, using)
    sends_by_nccl = setup.layout.weight_sync == "nccl"
    link = device.link if sends_by_nccl else 1e9 if not setup.on_cpu else device.link  # Ray's object store: 1 GB/s
    return gather + size / (link * (using.link if sends_by_nccl else 1.0))


# Other numbers of devices


def scaled(setup: Setup, devices: int) -> Setup:
    """Return the setup on another number of devices, with about the same division between roles: ranks and engines grow
    in proportion, at least one of each. A setup of the local backend is returned unchanged."""
    if setup.local:
        return setup
    base, layout = setup.devices, setup.layout
    factor = devices / base
    ranks = {
        key: max(1, round(getattr(layout, key) * factor))
        for key in ("policy_ranks", "critic_ranks", "reference_ranks", "other_ranks")
    }
    ranks = {key: min(count, setup.config.train.minibatch_size) for key, count in ranks.items()}
    trainers = sum(ranks[f"{_named(place.roles[0])}_ranks"] for place in setup.places if ENGINE not in place.roles)
    engines = max(1, (devices - trainers) // layout.tensor_parallel) if layout.engines else 0
    changed: Layout = replace(layout, **ranks, engines=engines)
    counts = {role: engines if role == ENGINE else changed.ranks(role) for role in setup.counts if role != SAMPLER}
    places = tuple(
        Place(place.roles, max(counts.get(role, 1) for role in place.roles), place.size) for place in setup.places
    )
    return replace(setup, layout=changed, counts=counts, places=places)


def _named(role: str) -> str:
    return role if role in ("policy", "critic", "reference") else "other"
