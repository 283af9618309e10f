"""Computes the peak memory of each kind of device by role, phase and purpose, in bytes, without starting a run.

Weights, gradients and optimizer states follow from the layout. Activations are the tensors that the backward pass of a
transformer layer keeps (counted with PyTorch's saved-tensor hooks, see tests/test_planning_memory.py); they are those
of the largest micro-batch that the settings allow. What no formula gives is a stated reserve.

A place is a set of devices that hold the same roles, which run one after the other there. The peak of a phase is the
sum of what all of them hold at all times, plus the largest amount that one of them needs while it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simplerl.backends.roles import POLICY
from simplerl.cluster.layout import ENGINE, Shared
from simplerl.config import Precision, RoleKind
from simplerl.engine.batching import MAX_PADDING
from simplerl.engine.models import MAX_LOGITS
from simplerl.planning.geometry import Geometry
from simplerl.planning.setup import SAMPLER, Place, Setup

SAMPLE, SCORE, UPDATE, SYNC, WARMUP = "sampling", "scoring", "update", "sync", "warm-up"
FLOAT32, BFLOAT16 = 4, 2  # bytes
ZERO3_LIVE_ELEMENTS = 1e9  # ZeRO-3 gathers at most this many (DeepSpeed's stage3_max_live_parameters)
ZERO_BUCKET_ELEMENTS = 5e8  # gradients are reduced in buckets of this size (DeepSpeed's reduce_bucket_size)
BUCKET = 512 * 2**20  # bytes of one message of a weight sync
CPU_LOGITS = 2**20  # float32 logits that the loss computes at a time on a CPU
PREFILL_TOKENS, FIRST_COLUMNS, RETAINED_CACHE = 8192, 16, 2**28  # of `simplerl.samplers.llama`
ENGINE_TOKENS = 8192  # tokens of one prefill of vLLM
VLLM_FRACTION = 0.9  # of a GPU's memory that vLLM takes by default
# Reserves: measured on CPUs, assumed on GPUs.
PROCESS_RESERVE = {"driver": 0.06 * 2**30, "rank": 0.02 * 2**30, "gpu": 1.5 * 2**30}  # libraries; CUDA context and NCCL
GRAPHS_RESERVE = 1.5 * 2**30  # CUDA graphs of an engine
FRAGMENTATION = {"cpu": 0.04, "gpu": 0.08}  # of everything else

Parts = dict[str, float]  # bytes by purpose


@dataclass(frozen=True)
class RoleMemory:
    """Holds the memory of one process of a role, in bytes by purpose: `held` in all phases, `during` each phase in
    addition, and `host` for memory of the host in addition to that of a GPU."""

    held: Parts
    during: Mapping[str, Parts]  # by phase
    host: Parts


@dataclass(frozen=True)
class PlaceMemory:
    """Holds the memory of one device of a place (devices that hold the same roles), in bytes: `phases` by phase and
    then by (role, purpose), and `host` for memory of the host in addition to that of a GPU."""

    place: Place
    phases: Mapping[str, Mapping[tuple[str, str], float]]
    host: float

    def peak(self) -> tuple[str, float]:
        """Return the phase that needs most memory, and its bytes."""
        phase = max(self.phases, key=lambda name: sum(self.phases[name].values()))
        return phase, sum(self.phases[phase].values())


def plan_memory(setup: Setup) -> list[PlaceMemory]:
    """Return the memory of one device of every place (devices that hold the same roles), in bytes."""
    roles = {role: role_memory(setup, role) for role in setup.counts}
    places = [_place_memory(setup, place, roles) for place in setup.places]
    return [_add_warmup(setup, one) if POLICY in one.place.roles or setup.local else one for one in places]


def _place_memory(setup: Setup, place: Place, roles: Mapping[str, RoleMemory]) -> PlaceMemory:
    phases = {}
    for phase in (SAMPLE, SCORE, UPDATE, SYNC) if setup.uses_rl else (SAMPLE,):
        found: dict[tuple[str, str], float] = {}
        for role in place.roles:
            asleep = role == ENGINE and setup.layout.shared is Shared.all and phase in (SCORE, UPDATE)
            found |= {} if asleep else {(role, what): size for what, size in roles[role].held.items()}
        most = max(place.roles, key=lambda role: sum(roles[role].during.get(phase, {}).values()))
        found |= {(most, what): size for what, size in roles[most].during.get(phase, {}).items()}
        processes = 1 if setup.local else len(place.roles)
        phases[phase] = found | _reserve(setup, found, processes, place.roles)
    return PlaceMemory(place, phases, sum(sum(roles[role].host.values()) for role in place.roles))


def _reserve(
    setup: Setup, parts: Mapping[tuple[str, str], float], processes: int, roles: Sequence[str]
) -> dict[tuple[str, str], float]:
    kind = "gpu" if not setup.on_cpu else "driver" if setup.local or SAMPLER in roles else "rank"
    graphs = GRAPHS_RESERVE if ENGINE in roles and not setup.on_cpu else 0
    fraction = FRAGMENTATION["cpu" if setup.on_cpu else "gpu"]
    return {("", "reserve"): processes * PROCESS_RESERVE[kind] + graphs + fraction * sum(parts.values())}


def role_memory(setup: Setup, role: str) -> RoleMemory:
    """Return the memory of one process of a role, in bytes."""
    if role == ENGINE or (role == SAMPLER and setup.config.sampler.func.__qualname__ == "vllm_sampler"):
        return _engine(setup)
    if role == SAMPLER:
        return _local_sampler(setup)
    sizes, train = setup.geometries[role], setup.config.train
    critic = setup.kinds.get(role) is RoleKind.critic
    elements = sizes.parameters - sizes.output + sizes.hidden if critic else sizes.parameters
    ranks = setup.layout.ranks(role)
    held, gradients, host = _states(setup, elements, setup.trainable(role), ranks)
    if setup.is_shared(role):
        held = {}
    tokens = micro_batch_tokens(setup, train.minibatch_size // ranks)
    scored = micro_batch_tokens(setup, setup.responses // ranks)
    during = {SCORE: _forward_memory(setup, sizes, scored, critic)}
    if role in setup.trained:
        during[UPDATE] = gradients | _backward_memory(setup, sizes, tokens, critic)
    if role == POLICY:
        during[SYNC] = _sync_memory(setup, sizes)
    if setup.layout.sharding.zero_stage == 3 and not setup.local:
        gathered = {"gathered weights": FLOAT32 * min(ZERO3_LIVE_ELEMENTS, elements)}
        during = {phase: parts | gathered for phase, parts in during.items()}
    return RoleMemory(held, during, host)


def micro_batch_tokens(setup: Setup, rows: int) -> float:
    """Return the number of tokens, padding included, of the largest micro-batch that a rank with `rows` responses
    computes: at most train.tokens_per_micro_batch, but at least one sequence of the maximum length. Padding is taken to
    be a tenth."""
    longest = setup.lengths.longest
    padded = rows * min(longest, setup.lengths.mean / (1 - MAX_PADDING))
    return max(longest, min(setup.config.train.tokens_per_micro_batch, padded))


def _states(setup: Setup, elements: float, trained: float, ranks: int) -> tuple[Parts, Parts, Parts]:
    """Return the bytes that one rank of a role with `elements` parameters holds in all phases, adds during the update,
    and holds on the host. ZeRO shards optimizer states from stage 1, gradients from stage 2 and weights in stage 3.
    trained: number of trained parameters; with LoRA, those of the adapter."""
    stage, offload = setup.layout.sharding.zero_stage, setup.layout.sharding.offload_optimizer
    stage = 0 if setup.local else stage
    held: Parts = {"weights": FLOAT32 * elements / (ranks if stage == 3 else 1)}
    if not trained:
        return held, {}, {}
    share = trained / ranks
    update: Parts = {}
    host: Parts = {}
    states = {"moments": 2 * FLOAT32 * (share if stage else trained)}
    if stage:
        states["master weights"] = FLOAT32 * share
        bucket = ZERO_BUCKET_ELEMENTS if not setup.on_cpu else min(ZERO_BUCKET_ELEMENTS, trained)
        update["gradient buckets"] = FLOAT32 * bucket
    elif ranks > 1:
        update["gradient buckets"] = FLOAT32 * trained
    gradients = {"gradients": FLOAT32 * (share if stage >= 2 else trained)}
    (host if offload else held).update(states)
    (host if offload and stage >= 2 else update).update(gradients)
    return held, update, host


def layer_activations(sizes: Geometry, precision: Precision, on_cpu: bool) -> float:
    """Return the bytes per token that the backward pass of one layer needs: inputs and outputs of two norms and of the
    matrix products, queries, keys, values, and the parts of the gated unit. Under autocast each product keeps its own
    bfloat16 copy of its input; on a CPU attention is computed in float32."""
    hidden, inner, queries, keys = sizes.hidden, sizes.intermediate, sizes.queries, sizes.keys
    if precision is Precision.float32:
        return FLOAT32 * (6 * hidden + 2 * queries + 2 * keys + 4 * inner)
    attention = FLOAT32 if on_cpu else BFLOAT16
    return FLOAT32 * 4 * hidden + attention * (2 * queries + 2 * keys) + BFLOAT16 * (5 * hidden + queries + 4 * inner)


def _casts(setup: Setup, sizes: Geometry) -> Parts:
    """Return the bytes of the bfloat16 copies of weights that autocast keeps during a forward pass."""
    return (
        {"bfloat16 copies of weights": BFLOAT16 * sizes.body}
        if setup.config.train.precision is Precision.bfloat16
        else {}
    )


def _logits(setup: Setup, sizes: Geometry, tokens: float, backward: bool) -> Parts:
    """Return the bytes of the logits of a micro-batch's response tokens, by purpose. At most MAX_LOGITS logits are in
    memory at a time. tokens: number of prompt and response tokens of the micro-batch."""
    lengths, train = setup.lengths, setup.config.train
    size = FLOAT32 if train.logits_precision is Precision.float32 else BFLOAT16
    share = lengths.mean_response / lengths.mean
    elements = min(MAX_LOGITS, tokens * share * sizes.vocabulary)
    copies = 3 * FLOAT32 * (min(CPU_LOGITS, elements) if setup.on_cpu else elements)
    head = sizes.vocabulary * sizes.hidden
    products = 2 * FLOAT32 * head if backward else 0  # the gradient of the output layer, and a part of it
    copy = BFLOAT16 * head if size == BFLOAT16 else 0
    return {"logits": size * elements + copies + products + copy}


def _forward_memory(setup: Setup, sizes: Geometry, tokens: float, critic: bool) -> Parts:
    """Return the bytes of a forward pass without gradients over a micro-batch of `tokens` tokens: activations of one
    layer and, unless the model is a critic, logits."""
    width = 2 * sizes.hidden + 2 * sizes.queries + 2 * sizes.keys + 3 * sizes.intermediate
    size = FLOAT32 if setup.config.train.precision is Precision.float32 else BFLOAT16
    parts = {"activations": tokens * (2 * FLOAT32 * sizes.hidden + size * width)}
    return parts | _casts(setup, sizes) | ({} if critic else _logits(setup, sizes, tokens, backward=False))


def _backward_memory(setup: Setup, sizes: Geometry, tokens: float, critic: bool) -> Parts:
    """Return the bytes of a forward and backward pass over a micro-batch of `tokens` tokens, by purpose: activations
    (less with gradient checkpointing), autocast's bfloat16 copies of weights and, unless the model is a critic, logits.
    With checkpointing, copies and logits are not in memory together, so only the larger of the two is included."""
    train = setup.config.train
    layer = layer_activations(sizes, train.precision, setup.on_cpu)
    checkpointed = FLOAT32 * sizes.hidden * sizes.layers + 1.5 * layer
    kept = checkpointed if train.gradient_checkpointing else sizes.layers * layer
    flowing = FLOAT32 * 2 * sizes.hidden  # gradients of hidden states
    parts = [_casts(setup, sizes), {} if critic else _logits(setup, sizes, tokens, backward=True)]
    if train.gradient_checkpointing:  # the copies are released before the logits are computed
        parts = [max(parts, key=lambda one: sum(one.values()))]
    return {"activations": tokens * (kept + flowing)} | {what: size for one in parts for what, size in one.items()}


# Sampling


def precision_bytes(setup: Setup) -> int:
    """Return the bytes of one parameter in the sampler's precision."""
    return BFLOAT16 if setup.config.sampler.keywords.get("precision") == "bfloat16" else FLOAT32


def cache_bytes_per_token(setup: Setup) -> float:
    """Return the bytes of the key-value cache for one token."""
    sizes = setup.geometries[next(iter(setup.geometries))]
    local = setup.config.sampler.func.__qualname__ != "vllm_sampler"
    return 2 * sizes.layers * sizes.keys * (FLOAT32 if local and setup.on_cpu else precision_bytes(setup))


def sampled_rows(setup: Setup) -> int:
    """Return how many responses one sampler generates at the same time."""
    keywords = setup.config.sampler.keywords
    samplers = max(1, setup.counts.get(ENGINE, 1))
    rows: int = min(keywords.get("max_rows", 256), -(-setup.responses // samplers))
    if (limit := keywords.get("max_cache_gib")) is not None:
        rows = min(rows, int(limit * 2**30 // (cache_bytes_per_token(setup) * setup.lengths.longest)))
    return max(1, rows)


def _local_sampler(setup: Setup) -> RoleMemory:
    """Return the memory of `sampler=local` in bytes: fused weights, of which two copies exist during a weight sync, and
    a key-value cache that is enlarged by half whenever it is full."""
    sizes, lengths = setup.geometries[POLICY], setup.lengths
    head = sizes.vocabulary * sizes.hidden
    weights = FLOAT32 * head + precision_bytes(setup) * (sizes.body + head)
    rows, columns = sampled_rows(setup), float(FIRST_COLUMNS)
    while columns < lengths.longest_response:
        columns = columns * 3 // 2
    prompts = max(1, rows // setup.config.train.samples_per_prompt)
    each = cache_bytes_per_token(setup)
    generated = each * rows * columns
    old = generated * 2 / 3  # both copies exist while the cache grows
    cache = each * 2 * prompts * lengths.longest_prompt + generated + old
    logits = 4 * FLOAT32 * rows * sizes.vocabulary
    width = 2 * sizes.hidden + sizes.queries + 2 * sizes.keys + 3 * sizes.intermediate
    prefill = FLOAT32 * min(PREFILL_TOKENS, prompts * lengths.longest_prompt) * width
    own: Parts = {"weights": FLOAT32 * sizes.parameters} if not setup.local else {}  # a model beside the decoder's copy
    kept = {"KV cache": generated} if generated <= RETAINED_CACHE else {}
    sampling = {"KV cache": cache, "logits": logits, "prefill": prefill}
    during = {
        SAMPLE: sampling,
        SCORE: kept,
        UPDATE: kept,
        SYNC: kept | {"second copy of the sampler's weights": weights},
    }
    return RoleMemory(own | {"sampler's weights": weights}, during, {})


def _engine(setup: Setup) -> RoleMemory:
    """Return the memory of one device of a vLLM engine in bytes. Unless sampler.cache_gib is set, the key-value cache
    fills the device."""
    sizes, keywords, parallel = setup.geometries[POLICY], setup.config.sampler.keywords, setup.layout.tensor_parallel
    weights = precision_bytes(setup) * sizes.parameters / parallel
    rows = keywords.get("max_rows", 256)
    working = (
        2 * ENGINE_TOKENS * (2 * sizes.intermediate / parallel + 4 * sizes.hidden)
        + 3 * FLOAT32 * rows * sizes.vocabulary
    )
    gib = keywords.get("cache_gib")
    if gib is not None:
        cache = gib * 2**30
    else:  # at least one response of the full length; the rest of the device is used too
        cache = max(cache_bytes_per_token(setup) / parallel * setup.lengths.longest, 0.0)
    held = {"weights": weights, "KV cache": cache}
    return RoleMemory(held, {SAMPLE: {"prefill and logits": working}, SYNC: {"weights received": BUCKET}}, {})


def engine_cache(setup: Setup) -> float:
    """Return the bytes of the key-value cache that one engine has."""
    gib = setup.config.sampler.keywords.get("cache_gib")
    if gib is not None:
        return float(gib * 2**30)
    memory = _engine(setup)
    used = memory.held["weights"] + sum(memory.during[SAMPLE].values()) + GRAPHS_RESERVE
    return max(0.0, VLLM_FRACTION * setup.device.memory - used) * setup.layout.tensor_parallel


def _sync_memory(setup: Setup, sizes: Geometry) -> Parts:
    """Return the bytes that the sending rank needs during a weight sync: a float32 copy of the largest parameter, and
    three messages (BUCKET). A local run sends nothing."""
    if setup.local or not setup.layout.engines:
        return {}
    return {"messages": FLOAT32 * sizes.largest + 3 * max(BUCKET, precision_bytes(setup) * sizes.largest)}


def _add_warmup(setup: Setup, memory: PlaceMemory) -> PlaceMemory:
    """Add the phase of supervised fine-tuning, in which only the policy is loaded, to the memory of the policy's
    place."""
    warmup = setup.config.warmup
    if warmup.data is None:
        return memory
    sizes, ranks = setup.geometries[POLICY], setup.layout.policy_ranks
    held, gradients, _ = _states(setup, sizes.parameters, setup.trainable(POLICY), ranks)
    tokens = max(
        setup.lengths.longest, min(setup.config.train.tokens_per_micro_batch, warmup.max_tokens * warmup.minibatch_size)
    )
    parts = held | gradients | _backward_memory(setup, sizes, tokens, critic=False)
    found = {(POLICY, what): size for what, size in parts.items()}
    phases = {WARMUP: found | _reserve(setup, found, 1, (POLICY,))}
    return PlaceMemory(memory.place, {**phases, **memory.phases}, memory.host)
