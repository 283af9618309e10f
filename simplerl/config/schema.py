"""Every setting, typed, with its unit.

Hydra composes conf/ against the schema `Config` (an unknown key or a wrong type stops there);
`load` then instantiates it: numbers become these dataclasses, and each leaf marked "partial" below
becomes a `functools.partial` of the plain function that its YAML names under `_target_`; `simplerl.config.checks`
refuses contradictions.
This module imports neither torch nor transformers, so that `--help` and refusals are quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from simplerl.sweeps import register_sweeps


class Precision(Enum):
    """Of the matrix products; weights, optimizer state, attention and losses stay float32."""

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
    context: int | None = None  # tokens of prompt + response; null: the model's own limit
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
    max_tokens: int = 1024  # longer prompts are dropped and counted
    strip_newline: bool = False  # without the newline that the template ends with


@dataclass
class SamplingConfig:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256


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
    steps: int | None = None  # rollout steps; null: `passes` over the data
    passes: float | None = None
    prompts_per_step: int = MISSING
    samples_per_prompt: int = MISSING
    minibatch_size: int = MISSING  # responses per optimizer step
    epochs: int = 1  # passes over each rollout batch
    tokens_per_micro_batch: int = 16384  # computed tokens, padding included, of one forward/backward
    precision: Precision = Precision.float32
    gradient_checkpointing: bool = False
    compile: bool = False  # the layers by torch.compile: faster steps after a minute of compilation; needs g++ on CPUs
    policy: OptimizerConfig = field(default_factory=OptimizerConfig)
    critic: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass
class AlgorithmConfig:
    name: str = MISSING
    advantage: Any = None  # partial: (Batch) -> Batch; null: no reinforcement learning (algorithm=none)
    policy_loss: Any = None  # partial: (TokenOutput, Batch) -> (per-token loss, metrics)
    value_loss: Any = None  # partial: (values, Batch) -> (per-token loss, metrics); null: no critic
    aggregation: Aggregation = Aggregation.sequence_mean
    kl: KLPlace = KLPlace.none
    kl_coef: float = 0.0
    kl_estimator: KLEstimator = KLEstimator.k1
    entropy_coef: float = 0.0
    # Log-probs, KL and ratio at temperature 1 whatever the sampling temperature, as published;
    # false: at the temperature the responses were drawn with.
    logprobs_at_temperature_1: bool = False
    # Truncated importance sampling: each token's policy loss is weighed by what the policy gave the token over what
    # the sampler gave it, at most this (2 is usual); null: not at all.
    importance_cap: float | None = None


@dataclass
class RolloutConfig:
    ahead: int = 0  # 1: the next step's responses are drawn while this one trains, one update off-policy


@dataclass
class WarmupConfig:
    """Supervised fine-tuning on responses before RL."""

    name: str = MISSING
    data: Any = None  # partial: () -> [Problem] with solutions; null: no warm-up
    prompt: PromptConfig | None = None  # null: the run's own
    limit: int | None = None  # first documents
    epochs: int = 1
    minibatch_size: int = 64  # documents per optimizer step
    max_tokens: int = 4096  # longer documents are dropped and counted
    save_every: int = 100  # optimizer steps between checkpoints
    correct_only: bool = False  # keep only solutions that the run's reward grades as right
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass
class EvalsConfig:
    sets: dict[str, Any] = field(default_factory=dict)  # name -> partial: () -> [Problem]
    path: str | None = None  # folder of the benchmark files, where the sets need one
    every: int = 0  # rollout steps between evaluations, and at step 0 and the end; 0: never
    limit: int | None = None  # first items of each set
    samples: int = 1  # responses per item
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.0))
    prompt: PromptConfig | None = None  # null: the training prompt
    reward: Any = None  # partial; null: the training reward grades


@dataclass
class GradingConfig:
    workers: int = 1  # processes
    seconds_per_answer: float = 8.0  # then the worker is killed and the answer counts as timed out
    memory_gib: float = 2.0  # address space of a worker


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
    save_every: int = 10  # rollout steps between checkpoints
    keep: int = 2  # checkpoints kept
    device: str = "auto"  # cpu | cuda | auto
    threads: int | None = None  # CPU threads of torch; null: its own default


@dataclass
class Config:
    seed: int = 0
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


def register() -> None:
    """Makes the schema known to Hydra; the entry points call it before composing."""
    ConfigStore.instance().store(name="schema", node=Config)
    register_sweeps()
    # ${quotient:128,${train.samples_per_prompt}}: two settings of a sweep whose product stays.
    OmegaConf.register_new_resolver("quotient", lambda a, b: a // b, replace=True)
