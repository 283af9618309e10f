"""Defines the schema of the configuration: every setting with its type, default and unit.

Hydra composes conf/ against `Config` and refuses unknown keys and wrong types. `simplerl.config.load` then instantiates
it: values become these dataclasses, and each field marked "partial" below becomes a `functools.partial` of the function
that its YAML names under `_target_`. `simplerl.config.checks` refuses contradictions.

This module imports neither torch nor transformers, so that `--help` and error messages are fast.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from simplerl.config.choices import (
    Aggregation,
    HeadStart,
    KLEstimator,
    KLPlace,
    OldLogprobs,
    OverLong,
    Precision,
    RoleKind,
    Schedule,
    ScheduleLength,
    TooLong,
    TrackingMode,
    UpdateTime,
)
from simplerl.io.places import SWEEPS, shipped, spelled


def setting(default: Any, *, minimum: float | None = None, changes_results: bool = True) -> Any:
    """Declare a field with its default and inclusive lower bound (None: unbounded). changes_results=False marks a
    setting that cannot change the numbers of a run: it is left out of the hash that names the run folder, and may
    change on resume."""
    return field(default=default, metadata={"minimum": minimum, "changes_results": changes_results})


@dataclass
class ModelConfig:
    path: str = MISSING  # Hugging Face folder or Hub id
    revision: str | None = None  # branch, tag or commit on the Hub; null: the main branch
    context: int | None = setting(None, minimum=1)  # maximum tokens of prompt + response; null: the model's own limit
    trust_remote_code: bool = False  # run Python code that comes with the model
    # The keys of the model's config.json that determine its size, and `of`: its Hub id; only plan.py reads them.
    geometry: dict[str, Any] | None = field(default=None, metadata={"changes_results": False})


@dataclass
class PromptConfig:
    """Configures how problems are rendered as prompts and when a response ends (see `simplerl.data.prompts`)."""

    name: str = MISSING  # name in results and reports
    template: str | None = None  # text with {question} and {shots}; null: the model's own chat template
    system: str | None = None  # system message; chat template only
    user: str = "{question}"  # user message; chat template only
    date: str = "2024-07-26"  # the day on which chat templates that insert a date are rendered
    variables: dict[str, Any] = field(default_factory=dict)  # variables of the chat template, such as enable_thinking
    shot: str = ""  # template of one few-shot example, with {question} and {answer}
    shots: list[dict[str, str]] = field(default_factory=list)  # few-shot examples, which replace {shots}
    response: str = "{solution}"  # template of SFT targets, with {question}, {solution} and {answer}
    stop_strings: list[str] = field(default_factory=list)  # texts at which a response is cut
    stop_tokens: list[str] = field(default_factory=list)  # tokens that end a response, besides the model's EOS tokens
    max_tokens: int = setting(1024, minimum=1)  # longer prompts are counted, and dropped or truncated by `over_long`
    over_long: OverLong = OverLong.drop  # what happens to longer prompts
    final_newline: bool | None = None  # whether the template ends with a newline; null: as it is written


@dataclass
class SamplingConfig:
    temperature: float = 1.0  # 0: greedy decoding
    top_p: float = 1.0  # sample from the most probable tokens with this total probability
    top_k: int = setting(0, minimum=0)  # sample from this many most probable tokens; 0: from all
    max_new_tokens: int = setting(256, minimum=1)  # longer responses are truncated


@dataclass
class OptimizerConfig:
    """Configures AdamW and its learning-rate schedule, counted in optimizer steps."""

    lr: float = 0.0  # peak learning rate
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])  # decay of the two moments
    eps: float = 1e-8  # added to the root of the second moment
    weight_decay: float = 0.0  # decoupled, times the learning rate
    grad_clip: float = 1.0  # global norm
    schedule: Schedule = Schedule.constant  # of the learning rate after its warm-up
    warmup_fraction: float = 0.0  # fraction of all optimizer steps
    min_lr_ratio: float = 0.0  # the schedule ends at min_lr_ratio * lr


@dataclass
class LoraConfig:
    """Configures LoRA: the listed roles train a matrix of low rank beside each of their linear layers, and no other
    weights but a critic's value head (see `simplerl.engine.lora`)."""

    rank: int = setting(0, minimum=0)  # 0: train all weights
    alpha: float = 32.0  # the product of the two matrices is scaled by alpha / rank
    # Dropout in front of the adapters while training; its masks also depend on micro-batches and ranks.
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["all-linear"])  # or names of layers, such as q_proj
    roles: list[str] = field(default_factory=lambda: ["policy"])  # roles that are trained this way


@dataclass
class TrainConfig:
    steps: int | None = setting(None, minimum=1)  # rollout steps; null: use `passes`
    passes: float | None = None  # passes over the training prompts
    prompts_per_step: int = setting(MISSING, minimum=1)  # prompts of one rollout step
    samples_per_prompt: int = setting(MISSING, minimum=1)  # responses to each prompt
    minibatch_size: int = setting(MISSING, minimum=1)  # responses per optimizer step
    epochs: int = setting(1, minimum=1)  # passes over each rollout batch
    schedule_length: ScheduleLength = ScheduleLength.steps  # what learning rates are scheduled over
    # Maximum tokens, padding included, of one forward and backward pass.
    tokens_per_micro_batch: int = setting(16384, minimum=1, changes_results=False)
    precision: Precision = Precision.float32  # of matrix products
    # Precision of the output layer; bfloat16, as in the published run, makes log-probs less precise.
    logits_precision: Precision = Precision.float32
    # Precision to which log-probs, values, token rewards and advantages are rounded; bfloat16 as in the published run.
    column_precision: Precision = Precision.float32
    gradient_checkpointing: bool = setting(False, changes_results=False)  # recompute activations to save memory
    # Compute each prompt once for all samples of it; null: where that saves a fifth of the tokens.
    shared_prompts: bool | None = setting(None, changes_results=False)
    # Compile the layers with torch.compile: faster steps after a minute of compilation; needs g++ on CPUs. null: where
    # the run is long enough to repay that minute (simplerl/planning/compilation.py); false with Ray.
    compile: bool | None = setting(None, changes_results=False)
    policy: OptimizerConfig = field(default_factory=OptimizerConfig)  # AdamW of the policy
    critic: OptimizerConfig = field(default_factory=OptimizerConfig)  # AdamW of the critic
    lora: LoraConfig = field(default_factory=LoraConfig)  # train adapters in place of all weights


@dataclass
class KLConfig:
    """Configures the KL penalty that keeps the policy close to the reference."""

    place: KLPlace = KLPlace.none  # where the penalty is applied
    estimator: KLEstimator = KLEstimator.k1  # of the KL divergence per token
    coef: float = setting(0.0, minimum=0.0)  # 0: the KL divergence is only logged
    # Adaptive coefficient: target of the mean KL per response, in nats; null: a constant coefficient.
    target: float | None = setting(None, minimum=0.0)
    horizon: int = setting(10000, minimum=1)  # responses over which the adaptive coefficient changes by up to 20 %


@dataclass
class RoleConfig:
    """Configures a model that an algorithm needs besides the policy. Its outputs for the rollouts become a column of
    the batch."""

    kind: RoleKind = RoleKind.causal_lm  # what the model computes
    model: str | None = None  # Hugging Face folder or Hub id with the policy's tokenizer; null: the initial policy
    column: str = MISSING  # name of the batch column: log-probs of a causal_lm, values of a critic
    loss: Any = None  # partial: (TokenOutput or values, Batch) -> (per-token loss, metrics); null: frozen
    optimizer: Any = None  # OptimizerConfig; null: frozen
    aggregation: Aggregation | None = None  # null: algorithm.aggregation
    update: UpdateTime = UpdateTime.after  # of a trained role, relative to the advantages of the same step
    head: HeadStart = HeadStart.normal  # only for kind=critic


@dataclass
class NeedsConfig:
    """Declares which other settings the chosen parts of an algorithm require."""

    group: bool = False  # several samples per prompt
    sampler_logprobs: bool = False  # sampler log-probs comparable to the policy's, so no top_p or top_k


@dataclass
class AlgorithmConfig:
    """Configures how the policy is updated from rollouts. Each part is a Hydra group: conf/algorithm/<part>/."""

    name: str = MISSING  # name in results and reports
    # partial: (Batch) -> Batch, or (Batch, State) -> (Batch, State) where `state` is set; null: no RL (algorithm=none)
    advantage: Any = None
    loss: Any = None  # partial: (TokenOutput, Batch) -> (per-token loss, metrics)
    kl: KLConfig = field(default_factory=KLConfig)  # penalty that keeps the policy close to the reference
    correction: Any = None  # partial: (Batch) -> (Batch, metrics), for sampler and trainer log-probs that differ
    rollouts: Any = None  # partial: (RolloutSource, step, State) -> (rollouts, State)
    rollout_columns: list[str] = field(default_factory=list)  # columns [B] that `rollouts` adds to `Rollout.extra`
    shape: dict[str, Any] = field(default_factory=dict)  # name -> partial: (rollouts) -> rollouts, after grading
    roles: dict[str, RoleConfig] = field(default_factory=dict)  # models besides the policy
    state: dict[str, Any] | None = None  # initial state of the advantage function
    needs: NeedsConfig = field(default_factory=NeedsConfig)  # settings that the chosen parts require
    aggregation: Aggregation = Aggregation.sequence_mean  # how token losses are averaged
    aggregation_rows: int = setting(2, minimum=1)  # responses of a micro-batch, only for micro_batch_token_mean
    advantage_precision: Precision = Precision.float32  # to which token rewards and advantages are rounded
    old_logprobs: OldLogprobs = OldLogprobs.trainer  # log-probs of pi_old
    nll_coef: float = setting(0.0, minimum=0.0)  # weight of -log p of correct responses (VAPO, arXiv:2504.05118)
    policy_start: int = setting(0, minimum=0)  # steps in which only the other roles, such as the critic, are trained
    entropy_coef: float = setting(0.0, minimum=0.0)  # weight of the entropy bonus
    # Compute log-probs, KL and ratios at temperature 1, as in the published run; false: at sampling.temperature.
    logprobs_at_temperature_1: bool = False


@dataclass
class RolloutConfig:
    ahead: int = 0  # 1: sample the next step's responses during this step's update, one update off-policy
    # Whether the sampler has its own devices; set by conf/backend/.
    separate_sampler: bool = setting(False, changes_results=False)


@dataclass
class WarmupConfig:
    """Configures supervised fine-tuning (SFT) before RL."""

    name: str = MISSING  # name in results and reports
    data: Any = None  # partial: () -> [Problem] with solutions; null: no warm-up
    prompt: PromptConfig | None = None  # null: the training prompt
    limit: int | None = setting(None, minimum=1)  # use only the first documents
    epochs: int = setting(1, minimum=1)  # passes over the documents
    minibatch_size: int = setting(64, minimum=1)  # documents per optimizer step
    max_tokens: int = setting(4096, minimum=2)  # longer documents are dropped and counted
    save_every: int = setting(100, minimum=1, changes_results=False)  # optimizer steps between checkpoints
    correct_only: bool = False  # keep only solutions that the run's reward function grades as correct
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # AdamW of the warm-up


@dataclass
class TeacherConfig:
    """Configures distill.py: how often the teacher (`model`) is sampled, and which of its responses become the data
    set. Only `samples` and `problems_per_chunk` determine the responses; the other settings select among them."""

    samples: int = setting(4, minimum=1)  # responses per problem
    problems_per_chunk: int = setting(64, minimum=1)  # sampled and written together; a killed run loses at most one
    # partial: (answers to one problem) -> those to keep, the best first
    keep: Any = field(default=None, metadata={"changes_results": False})
    per_problem: int | None = setting(None, minimum=1, changes_results=False)  # keep at most this many; null: all
    drop_truncated: bool = setting(True, changes_results=False)  # truncated responses have no end
    # Drop a response if more than this fraction of its windows of 8 words are repeated; null: keep it.
    max_repetition: float | None = setting(0.3, minimum=0.0, changes_results=False)
    # Drop an answer whose 5-grams of words have at least this Jaccard similarity to a kept one; null: keep it.
    near_duplicates: float | None = setting(0.8, minimum=0.01, changes_results=False)
    overlap_words: int = setting(13, minimum=1, changes_results=False)  # n of the n-grams shared with a benchmark
    drop_overlap: bool = setting(False, changes_results=False)  # true: drop problems that overlap with evals.sets
    name: str | None = setting(None, changes_results=False)  # folder of the data set; null: the option teacher=...
    license: str = setting("other", changes_results=False)  # written to the data set card


@dataclass
class EvalsConfig:
    sets: dict[str, Any] = field(default_factory=dict)  # name -> partial: () -> [Problem]
    path: str | None = None  # file or folder of the benchmarks, for sets that are read from disk
    every: int = setting(
        0, minimum=0
    )  # rollout steps between evaluations (also at step 0 and after the last); 0: never
    limit: int | None = setting(None, minimum=1)  # use only the first problems of each set
    samples: int = setting(1, minimum=1)  # responses per problem
    too_long: TooLong = TooLong.wrong  # items whose prompt leaves no room for a response
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.0))  # of evaluations
    prompt: PromptConfig | None = None  # null: the training prompt
    # partial: (response, Problem) -> Score, which grades evaluations (default: strict); null: the training reward alone
    reward: Any = None


@dataclass
class GradingConfig:
    workers: int = setting(1, minimum=1, changes_results=False)  # processes for training, and as many for evaluations
    # CPU time limit of one answer; its limit of wall time is 4 x as long. A worker process that exceeds one of them is
    # killed and the answer counts as timed out.
    seconds_per_answer: float = setting(8.0, minimum=0.1, changes_results=False)
    memory_gib: float = setting(2.0, minimum=0.25, changes_results=False)  # address space of one worker process
    # Limit of the grading that remains after a step's last response was sampled; the run then stops.
    seconds_per_step: float = setting(3600.0, minimum=1, changes_results=False)


@dataclass
class TrackingConfig:
    """Configures logging to Weights & Biases; the run folder is written in any case."""

    mode: TrackingMode = TrackingMode.disabled  # whether W&B is used, and whether it sends now
    project: str = "simplerl"  # project on W&B
    entity: str | None = None  # user or team on W&B; null: your default
    group: str | None = None  # group of runs on W&B
    tags: list[str] = field(default_factory=list)  # tags of the run on W&B


@dataclass
class RunConfig:
    root: str = "runs"  # folder of all run folders
    dir: str | None = None  # null: <root>/<label>-<hash of the configuration>
    # Label of the run folder and name on W&B; null: the changed settings. In a sweep they follow the name.
    name: str | None = None
    save_every: int = setting(10, minimum=1)  # rollout steps between checkpoints
    keep: int = setting(2, minimum=1)  # number of newest checkpoints to keep
    device: str = "auto"  # cpu | cuda | cuda:<index> | auto
    allow_changed: bool = False  # resume a run, or keep a finished one, although its data, weights or code changed
    strict: bool = False  # stop at the first alarm (simplerl/runs/alarms.py), after saving a checkpoint
    threads: int | None = setting(None, minimum=1)  # CPU threads of PyTorch; null: PyTorch's default
    # Save the trainer's log-probs in rollouts/ beside the sampler's, for the report's sampler gap per token.
    trainer_logprobs: bool = False
    plan: bool = True  # refuse a run that cannot fit the memory of its devices, before a model is loaded


@dataclass
class Config:
    seed: int = setting(0, minimum=0)  # of data order, samples, minibatches and new value heads
    model: ModelConfig = field(default_factory=ModelConfig)  # initial weights
    prompt: PromptConfig = field(default_factory=PromptConfig)  # prompt format and stop conditions
    data: Any = MISSING  # partial: () -> [Problem]
    reward: Any = MISSING  # partial: (response, Problem) -> Score
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)  # update of the policy
    train: TrainConfig = field(default_factory=TrainConfig)  # batch sizes and optimizers
    warmup: WarmupConfig = field(default_factory=WarmupConfig)  # supervised fine-tuning before RL
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # sampling of rollouts
    rollout: RolloutConfig = field(default_factory=RolloutConfig)  # sampling ahead
    sampler: Any = MISSING  # partial: (function that returns the policy, tokenizer, ModelConfig) -> Sampler
    evals: EvalsConfig = field(default_factory=EvalsConfig)  # evaluations
    teacher: TeacherConfig = field(default_factory=TeacherConfig)  # the model that `distill.py` samples from
    grading: GradingConfig = field(default_factory=GradingConfig)  # worker processes that grade
    backend: Any = MISSING  # partial: (Config, Task) -> Backend
    tracking: TrackingConfig = field(default_factory=TrackingConfig)  # Weights & Biases
    run: RunConfig = field(default_factory=RunConfig)  # run folder, checkpoints and devices
    choices: dict[str, str] = field(default_factory=dict)  # option chosen in each Hydra group; set automatically


def all_settings(kind: Any = Config, prefix: str = "") -> dict[str, Field[Any]]:
    """Return the fields of a configuration class and of the classes nested in it, by dotted key."""
    hints, found = get_type_hints(kind), {}
    for one in fields(kind):
        key, inner = f"{prefix}{one.name}", hints[one.name]
        found[key] = one
        if is_dataclass(inner):
            found |= all_settings(inner, f"{key}.")
    return found


def result_neutral_keys() -> set[str]:
    """Return the dotted keys of settings that cannot change the numbers of a run."""
    return {key for key, one in all_settings().items() if not one.metadata.get("changes_results", True)}


@cache
def register() -> None:
    """Register the schema, the sweeps and the resolvers with Hydra, once per process; call before compose."""
    schema = OmegaConf.structured(Config)
    OmegaConf.set_struct(schema.prompt.variables, False)  # its keys are the chat template's
    ConfigStore.instance().store(name="schema", node=schema)
    for path in sorted(SWEEPS.glob("*.yaml")):  # Hydra would find the group `sweep` only in conf/sweep/
        ConfigStore.instance().store(group="sweep", name=path.stem, node=OmegaConf.load(path), package="_global_")
    # Keeps the product of two settings constant in a sweep: ${quotient:128,${train.samples_per_prompt}}.
    OmegaConf.register_new_resolver("quotient", lambda a, b: a // b, replace=True)
    OmegaConf.register_new_resolver("shipped", shipped, replace=True)  # path of the base model of the micro world
    OmegaConf.register_new_resolver("spelled", spelled, replace=True)  # commands in the help text
