"""Defines the values of settings that are chosen by name."""

from __future__ import annotations

from enum import Enum


class Precision(Enum):
    """Selects the precision of matrix products. Weights, optimizer state and losses are always float32."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Aggregation(Enum):
    """Selects how per-token losses are aggregated to a scalar; see `simplerl.engine.batching.token_weights`."""

    sequence_mean = "sequence_mean"
    token_mean = "token_mean"
    step_token_mean = "step_token_mean"
    prompt_mean = "prompt_mean"
    constant_length = "constant_length"
    micro_batch_token_mean = "micro_batch_token_mean"


class KLPlace(Enum):
    """Selects where the KL penalty is applied."""

    none = "none"
    reward = "reward"
    loss = "loss"


class KLEstimator(Enum):
    """Selects the estimator of the KL divergence; see `simplerl.algorithms.kl.kl_estimate`."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"
    k3_k2_gradient = "k3_k2_gradient"  # only in the loss
    k3_ratio = "k3_ratio"  # only in the loss


class OldLogprobs(Enum):
    """Selects which log-probs of the sampled tokens are pi_old in ratios, KL and corrections."""

    trainer = "trainer"  # computed by the trainer before the step's updates
    sampler = "sampler"  # as returned by the sampler: no correction for its numerics is then needed or possible
    # Those of the update's own forward pass, which saves a pass: exact if a step has one optimizer step.
    skip = "skip"


class RoleKind(Enum):
    causal_lm = "causal_lm"  # returns log-probs
    critic = "critic"  # a language model's body with a value head; returns values


class HeadStart(Enum):
    """Selects how the value head of a new critic is initialized; H is the hidden size. It has no bias."""

    normal = "normal"  # N(0, 1 / (H + 1)), as in the published run (OpenRLHF)
    uniform = "uniform"  # U(-1 / sqrt(H), 1 / sqrt(H)), PyTorch's default (TRL's AutoModelForCausalLMWithValueHead)
    zero = "zero"  # all values start at 0


class UpdateTime(Enum):
    """Selects whether a trained role is updated before or after the advantages of the same step are estimated."""

    before = "before"
    after = "after"


class OverLong(Enum):
    """Selects what happens to a prompt of more than prompt.max_tokens tokens."""

    drop = "drop"
    truncate = "truncate"  # keep the first tokens, as the published run did; the end of the template is lost


class ScheduleLength(Enum):
    """Selects the number of optimizer steps over which learning rates are scheduled."""

    steps = "steps"  # the steps of the run
    passes = "passes"  # train.passes over all problems, even those that each pass drops, as in the published run


class Schedule(Enum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class TooLong(Enum):
    """Selects what happens to an evaluation item whose prompt leaves no room for a response."""

    wrong = "wrong"  # an empty response is graded
    exclude = "exclude"


class TrackingMode(Enum):
    disabled = "disabled"
    offline = "offline"
    online = "online"
