"""Every setting, typed, with its unit.

Hydra composes conf/ against the schema `Config` (an unknown key or a wrong type stops there);
`load` then instantiates it: numbers become these dataclasses, and each leaf marked "partial" below
becomes a `functools.partial` of the plain function that its YAML names under `_target_`; `simplerl.config.checks`
refuses contradictions.
This module imports neither torch nor transformers, so that `--help` and refusals are quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

SWEEPS = Path(__file__).parents[2] / "sweeps"


def setting(default: Any, *, least: float | None = None, changes_results: bool = True) -> Any:
    """A field with a lower bound, and whether another value may change the numbers of a run. A run's folder is found
    by the settings that do; the others may differ when it is resumed."""
    return field(default=default, metadata={"least": least, "changes_results": changes_results})


class Precision(Enum):
    """Precision of the matrix products; weights, optimizer state, attention and losses stay float32."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Aggregation(Enum):
    """How per-token losses become one number; see `simplerl.engine.batching.token_weights`."""

    sequence_mean = "sequence_mean"
    token_mean = "token_mean"
    constant_length = "constant_length"


class KLPlace(Enum):
    none = "none"
    reward = "reward"
    loss = "loss"


class KLEstimator(Enum):
    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class RoleKind(Enum):
    causal_lm = "causal_lm"  # gives log-probs
    critic = "critic"  # a body with a value head: gives values


class UpdateTime(Enum):
    """When a trained role is updated, relative to the advantage of the same step."""

    before = "before"
    after = "after"


class Schedule(Enum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class TrackingMode(Enum):
    disabled = "disabled"
    offline = "offline"
    online = "online"


@dataclass
class ModelConfig:
    path: str = MISSING  # Hugging Face folder or hub id
    revision: str | None = None
    context: int | None = setting(None, least=1)  # tokens of prompt + response; null: the model's own limit
    trust_remote_code: bool = False


@dataclass
class PromptConfig:
    """How a problem is written for the model, and what ends its answer (see `simplerl.data.prompts`)."""

    name: str = MISSING
    template: str | None = None  # text with {question}, {shots}; null: the model's own chat template
    system: str | None = None  # chat template only
    user: str = "{question}"  # chat template only
    shot: str = ""  # how one example is written: text with {question} and {answer}
    shots: list[dict[str, str]] = field(default_factory=list)  # the examples, put where {shots} stands
    response: str = "{solution}"  # SFT targets: text with {question}, {solution}, {answer}
    stop_strings: list[str] = field(default_factory=list)
    stop_tokens: list[str] = field(default_factory=list)  # pieces of the vocabulary, beside the model's eos
    max_tokens: int = setting(1024, least=1)  # longer prompts are dropped and counted
    strip_newline: bool = False  # without the newline that the template ends with


@dataclass
class SamplingConfig:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = setting(0, least=0)
    max_new_tokens: int = setting(256, least=1)


@dataclass
class OptimizerConfig:
    """AdamW and its learning-rate schedule, counted in optimizer steps."""

    lr: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 1.0  # global norm
    schedule: Schedule = Schedule.constant
    warmup_fraction: float = 0.0  # of all optimizer steps
    min_lr_ratio: float = 0.0  # the schedule ends at this share of lr


@dataclass
class TrainConfig:
    steps: int | None = setting(None, least=1)  # rollout steps; null: `passes` over the data
    passes: float | None = None
    prompts_per_step: int = setting(MISSING, least=1)
    samples_per_prompt: int = setting(MISSING, least=1)
    minibatch_size: int = setting(MISSING, least=1)  # responses per optimizer step
    epochs: int = setting(1, least=1)  # passes over each rollout batch
    tokens_per_micro_batch: int = setting(
        16384, least=1, changes_results=False
    )  # computed tokens, padding included, of one forward/backward
    precision: Precision = Precision.float32
    logits_precision: Precision = (
        Precision.float32
    )  # of the output layer; bfloat16: as published, log-probs lose digits
    gradient_checkpointing: bool = setting(False, changes_results=False)
    compile: bool = setting(
        False, changes_results=False
    )  # the layers by torch.compile: faster steps after a minute of compilation; needs g++ on CPUs
    policy: OptimizerConfig = field(default_factory=OptimizerConfig)
    critic: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass
class KLConfig:
    """The KL divergence of the policy from its reference."""

    place: KLPlace = KLPlace.none
    estimator: KLEstimator = KLEstimator.k1
    coef: float = setting(0.0, least=0.0)  # 0: measured, not used


@dataclass
class RoleConfig:
    """A model that an algorithm needs beside the policy. What it says of the rollouts becomes a column of the batch."""

    kind: RoleKind = RoleKind.causal_lm
    model: str | None = None  # Hugging Face folder or hub id with the policy's tokenizer; null: the start of RL
    column: str = MISSING  # of the batch: log-probs of a causal_lm, values of a critic
    loss: Any = None  # partial: (TokenOutput or values, Batch) -> (per-token loss, metrics); null: frozen
    optimizer: Any = None  # OptimizerConfig of a trained role
    aggregation: Aggregation | None = None  # null: the algorithm's
    update: UpdateTime = UpdateTime.after


@dataclass
class NeedsConfig:
    """What the chosen parts of an algorithm require of other settings."""

    group: bool = False  # several samples of each prompt
    sampler_logprobs: bool = False  # the sampler's log-probs are those of the distribution that is trained


@dataclass
class AlgorithmConfig:
    """How rollouts become an update. Each part is a Hydra group of its own: conf/algorithm/<part>/."""

    name: str = MISSING
    # partial: (Batch) -> Batch, or (Batch, State) -> (Batch, State) where `state` is set; null: no RL (algorithm=none)
    advantage: Any = None
    loss: Any = None  # partial: (TokenOutput, Batch) -> (per-token loss, metrics)
    kl: KLConfig = field(default_factory=KLConfig)
    correction: Any = None  # partial: (Batch) -> (Batch, metrics); null: none
    rollouts: Any = None  # partial: (RolloutSource, step, State) -> (rollouts, State)
    shape: dict[str, Any] = field(default_factory=dict)  # name -> partial: (rollouts) -> rollouts, after grading
    roles: dict[str, RoleConfig] = field(default_factory=dict)  # models beside the policy
    state: dict[str, Any] | None = None  # what the advantage remembers between steps, at first
    needs: NeedsConfig = field(default_factory=NeedsConfig)
    aggregation: Aggregation = Aggregation.sequence_mean
    entropy_coef: float = setting(0.0, least=0.0)
    # Log-probs, KL and ratio at temperature 1 whatever the sampling temperature, as published;
    # false: at the temperature that the responses were sampled with.
    logprobs_at_temperature_1: bool = False


@dataclass
class RolloutConfig:
    ahead: int = 0  # 1: the next step's responses are sampled while this one trains, one update off-policy
    # Set by conf/backend/: the sampler has devices of its own.
    separate_sampler: bool = setting(False, changes_results=False)


@dataclass
class WarmupConfig:
    """Supervised fine-tuning on responses before RL."""

    name: str = MISSING
    data: Any = None  # partial: () -> [Problem] with solutions; null: no warm-up
    prompt: PromptConfig | None = None  # null: the run's own
    limit: int | None = setting(None, least=1)  # first documents
    epochs: int = setting(1, least=1)
    minibatch_size: int = setting(64, least=1)  # documents per optimizer step
    max_tokens: int = setting(4096, least=2)  # longer documents are dropped and counted
    save_every: int = setting(100, least=1, changes_results=False)  # optimizer steps between checkpoints
    correct_only: bool = False  # keep only solutions that the run's reward grades as right
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass
class EvalsConfig:
    sets: dict[str, Any] = field(default_factory=dict)  # name -> partial: () -> [Problem]
    path: str | None = None  # folder of the benchmark files, where the sets need one
    every: int = setting(0, least=0)  # rollout steps between evaluations, and at step 0 and the end; 0: never
    limit: int | None = setting(None, least=1)  # first items of each set
    samples: int = setting(1, least=1)  # responses per item
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.0))
    prompt: PromptConfig | None = None  # null: the training prompt
    reward: Any = None  # partial; null: the training reward grades


@dataclass
class GradingConfig:
    workers: int = setting(1, least=1, changes_results=False)  # processes
    seconds_per_answer: float = setting(
        8.0, least=0.1, changes_results=False
    )  # then the worker is killed and the answer counts as timed out
    memory_gib: float = setting(2.0, least=0.25, changes_results=False)  # address space of a worker


@dataclass
class TrackingConfig:
    mode: TrackingMode = TrackingMode.disabled  # of W&B; the run folder is always written
    project: str = "simplerl"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class RunConfig:
    root: str = "runs"
    dir: str | None = None  # null: <root>/<label>-<hash of the configuration>
    save_every: int = setting(10, least=1)  # rollout steps between checkpoints
    keep: int = setting(2, least=1)  # checkpoints kept
    device: str = "auto"  # cpu | cuda | auto
    threads: int | None = setting(None, least=1)  # CPU threads of torch; null: its own default


@dataclass
class Config:
    seed: int = setting(0, least=0)
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    data: Any = MISSING  # partial: () -> [Problem]
    reward: Any = MISSING  # partial: (response, Problem) -> Score
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    sampler: Any = MISSING  # partial: (policy model | None, tokenizer, ModelConfig) -> Sampler
    evals: EvalsConfig = field(default_factory=EvalsConfig)
    grading: GradingConfig = field(default_factory=GradingConfig)
    backend: Any = MISSING  # partial: (Config, Task) -> Backend
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    run: RunConfig = field(default_factory=RunConfig)
    choices: dict[str, str] = field(default_factory=dict)  # filled in: the option chosen in each group


def without_effect(kind: Any = Config, prefix: str = "") -> set[str]:
    """Return the dotted keys of settings that cannot change the numbers of a run."""
    hints, keys = get_type_hints(kind), set()
    for one in fields(kind):
        key, inner = f"{prefix}{one.name}", hints[one.name]
        if not one.metadata.get("changes_results", True):
            keys.add(key)
        if is_dataclass(inner):
            keys |= without_effect(inner, f"{key}.")
    return keys


def register() -> None:
    """Makes the schema known to Hydra; the entry points call it before composing."""
    ConfigStore.instance().store(name="schema", node=Config)
    for path in sorted(SWEEPS.glob("*.yaml")):  # Hydra itself finds the group `sweep` only in a folder conf/sweep/
        ConfigStore.instance().store(group="sweep", name=path.stem, node=OmegaConf.load(path), package="_global_")
    # ${quotient:128,${train.samples_per_prompt}}: two settings of a sweep whose product stays.
    OmegaConf.register_new_resolver("quotient", lambda a, b: a // b, replace=True)
