"""Finds signs that a run is set up wrongly or has collapsed in the metrics of a step, and names the setting to change.

Each alarm is logged and recorded in alarms.json of the run folder, at most once per kind. With run.strict=true the run
stops at the next safe point, after saving a checkpoint. No step of healthy runs of the micro world (eight
algorithms, 60 steps each) exceeds a threshold below; "healthy" in the comments gives their extremes.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from simplerl.config import Config
from simplerl.io.files import read_json, read_jsonl, write_text

logger = logging.getLogger(__name__)

ALARMS = "alarms.json"
FIRST_STEPS = 3  # steps in which the checks of START run: a wrong setting shows in the first batch
MAX_TRUNCATED = 0.5  # healthy: up to 0.016 from the full batch
# Fraction of responses with an end token before their end; 0 if every end token of the model is a stop token.
MAX_END_TOKENS = 0.05
# Mean over tokens of |trainer - sampler| log-prob, in nats. Measured in bfloat16: 0.011 to 0.036 for a dense 4B model
# (github.com/vllm-project/vime/issues/64), 0.064 for a mixture of experts (verl-project/verl-omni/issues/637); healthy:
# 5e-7 in float32.
MAX_LOGPROB_GAP = 0.1
# Nats per token. Entropy that has collapsed no longer allows improvement (arXiv:2505.22617); healthy: 0.028 and more.
MIN_ENTROPY = 0.01
MAX_KL = 1.0  # nats per token, to the reference; healthy: up to 0.11
# Nats per token, between the policy before and after the update: ten times the limit at which the PPO of OpenAI's
# Spinning Up stops its updates (target_kl=0.01); healthy: up to 0.0097.
MAX_UPDATE_KL = 0.1
MAX_UNGRADED = 0.05  # fraction of answers whose grading timed out or failed; healthy: 0
# Fall of the held-out accuracy below the first evaluation, in standard errors of the difference of two independent sets
# of items, which is cautious because the items are the same; healthy: 0, controls and collapses: 4.6 and more.
MAX_FALL = 3.0
FIRST = "first/"  # prefix of the metrics of the first evaluation
ACCURACY = "eval/mean/accuracy"

Metrics = Mapping[str, float]
Check = Callable[[Metrics, Config], str | None]  # -> cause, number seen and setting to change, in one sentence


@dataclass(frozen=True)
class Alarm:
    """Holds one alarm: its kind (a key of START or ALWAYS), the step, and one sentence."""

    kind: str
    step: int
    text: str


def truncated(metrics: Metrics, config: Config) -> str | None:
    """Return an alarm if more than MAX_TRUNCATED, but not all, of the responses are truncated; otherwise None."""
    share = metrics.get("rollout/truncated_share", 0.0)
    if not MAX_TRUNCATED < share < 1:
        return None
    return (
        f"{share:.0%} of the responses reached sampling.max_new_tokens={config.sampling.max_new_tokens} before they "
        "ended, so their answers are lost: raise sampling.max_new_tokens."
    )


def no_stop(metrics: Metrics, config: Config) -> str | None:
    """Return an alarm if all responses are truncated at sampling.max_new_tokens; otherwise None."""
    if metrics.get("rollout/truncated_share", 0.0) < 1:
        return None
    return (
        f"none of {metrics['rollout/responses']:.0f} responses ended with a stop token within sampling.max_new_tokens="
        f"{config.sampling.max_new_tokens} tokens: set prompt.stop_tokens or prompt.stop_strings to what the model "
        "ends with, or raise sampling.max_new_tokens."
    )


def rewards_equal(metrics: Metrics, config: Config) -> str | None:
    """Return an alarm if all rewards of the step are equal; otherwise None."""
    if metrics.get("reward/std", 1.0) > 0:
        return None
    return (
        f"all {metrics['rollout/responses']:.0f} rewards are {metrics['reward/mean']:g} "
        f"({metrics['reward/correct']:.0%} correct), so there is nothing to learn: choose easier or harder problems "
        f"(data=...), another reward than {config.choices.get('reward', 'this one')}, or a larger batch "
        "(train.prompts_per_step, train.samples_per_prompt)."
    )


def no_box(metrics: Metrics, config: Config) -> str | None:
    r"""Return an alarm if no response has a \boxed{} although the prompt asks for one, or if none has one and the
    reward found no answer in any; otherwise None."""
    prompt = config.prompt
    asked = any("\\boxed" in (text or "") for text in (prompt.template, prompt.system, prompt.user, prompt.shot))
    unread = metrics.get("reward/no_answer_fraction", 0.0) == 1
    if metrics.get("rollout/box_share", 1.0) > 0 or not (unread or asked):
        return None
    found = "and the reward found no answer" if unread else "although the prompt asks for it"
    return (
        rf"0 of {metrics['rollout/responses']:.0f} responses have a \boxed{{}}, {found}: choose a prompt=... in which "
        f"the model gives its answer as the reward reads it, a warm-up (warmup=...), or another reward=..."
    )


def end_tokens(metrics: Metrics, config: Config) -> str | None:
    """Return an alarm if more than MAX_END_TOKENS of the responses continue after an end token; otherwise None."""
    share = metrics.get("rollout/end_token_share", 0.0)
    if share <= MAX_END_TOKENS:
        return None
    return (
        f"{share:.0%} of the responses contain an end token, such as <|im_end|>, and continue after it: add that token "
        f"to prompt.stop_tokens (now {list(config.prompt.stop_tokens)}; rollouts/ shows the responses)."
    )


def logprobs_apart(metrics: Metrics, config: Config) -> str | None:
    """Return an alarm if the log-probs of sampler and trainer differ by more than MAX_LOGPROB_GAP although both use the
    same weights and distribution; otherwise None."""
    sampling, lagging = config.sampling, metrics.get("rollout/lag", 0.0) > 0
    other = config.algorithm.logprobs_at_temperature_1 and sampling.temperature != 1
    gap = metrics.get("rollout/logprob_gap", 0.0)
    if gap <= MAX_LOGPROB_GAP or lagging or other or sampling.top_p < 1 or sampling.top_k > 0:
        return None
    return (
        f"log-probs of sampler and trainer differ by {gap:.3g} nats per token (more than {MAX_LOGPROB_GAP:g}), so the "
        "responses are not from the policy: compare with sampler=local, and use the trainer's precision in the sampler "
        "or an algorithm/correction."
    )


def entropy_gone(metrics: Metrics, config: Config) -> str | None:
    """Return an alarm if the mean entropy of the policy is below MIN_ENTROPY; otherwise None."""
    entropy = metrics.get("rollout/entropy", 1.0)
    if entropy >= MIN_ENTROPY:
        return None
    return (
        f"the policy's entropy is {entropy:.2g} nats per token (below {MIN_ENTROPY:g}), so its samples hardly differ: "
        f"lower train.policy.lr (now {config.train.policy.lr:g}), raise algorithm.entropy_coef or algorithm.kl.coef, "
        f"or raise sampling.temperature (now {config.sampling.temperature:g})."
    )


def kl_exploding(metrics: Metrics, config: Config) -> str | None:
    """Return an alarm if an update changed the policy by more than MAX_UPDATE_KL, or if the policy is more than MAX_KL
    from the reference; otherwise None."""
    update, reference = metrics.get("policy/approx_kl", 0.0), metrics.get("rollout/kl", 0.0)
    if update > MAX_UPDATE_KL:
        seen = f"one step changed the policy by {update:.3g} nats per token (more than {MAX_UPDATE_KL:g})"
    elif reference > MAX_KL:
        seen = f"the policy is {reference:.3g} nats per token from the reference (more than {MAX_KL:g})"
    else:
        return None
    return f"{seen}: lower train.policy.lr (now {config.train.policy.lr:g}) or raise algorithm.kl.coef."


def grader_timeout(metrics: Metrics, config: Config) -> str | None:
    """Return an alarm if the grading of more than MAX_UNGRADED of the answers timed out; otherwise None."""
    share = metrics.get("reward/timeout_fraction", 0.0)
    if share <= MAX_UNGRADED:
        return None
    return (
        f"the grading of {share:.0%} of the answers timed out: raise grading.seconds_per_answer (now "
        f"{config.grading.seconds_per_answer:g}) or choose a faster reward=..."
    )


def grader_failed(metrics: Metrics, config: Config) -> str | None:
    """Return an alarm if the reward raised an error or ended its worker process on more than MAX_UNGRADED of the
    answers; otherwise None."""
    share = metrics.get("reward/failed_fraction", 0.0)
    if share <= MAX_UNGRADED:
        return None
    return (
        f"the reward failed on {share:.0%} of the answers (the log above names the reason): correct the function, or "
        f"choose another reward than {config.choices.get('reward', 'this one')}."
    )


def accuracy_lost(metrics: Metrics, config: Config) -> str | None:
    """Return an alarm if the held-out accuracy is more than MAX_FALL standard errors below that of the first
    evaluation; otherwise None."""
    names = [f"{prefix}{ACCURACY}{leaf}" for prefix in (FIRST, "") for leaf in ("", "_se")]
    first, first_error, now, error = (metrics.get(name, math.nan) for name in names)
    if not first - now > MAX_FALL * math.hypot(first_error, error):
        return None
    return (
        f"held-out accuracy fell from {first:.1%} at the first evaluation to {now:.1%}, more than {MAX_FALL:g} "
        f"standard errors: lower train.policy.lr (now {config.train.policy.lr:g}) or raise algorithm.kl.coef; if "
        f"reward/mean rose meanwhile, choose another reward than {config.choices.get('reward', 'this one')}."
    )


# Checked in the first steps only: later, equal rewards may mean that every problem is solved.
START: tuple[Check, ...] = (truncated, no_stop, rewards_equal, no_box, end_tokens)
ALWAYS: tuple[Check, ...] = (logprobs_apart, entropy_gone, kl_exploding, grader_timeout, grader_failed, accuracy_lost)


def find_alarms(step: int, metrics: Metrics, config: Config) -> list[Alarm]:
    """Return the alarms of a step of RL. The checks of START run only in the first FIRST_STEPS steps, and a check whose
    metric was not logged finds nothing.

    metrics: those of the step and, with the prefix FIRST, those of the first evaluation.
    """
    checks = [*(START if step < FIRST_STEPS else ()), *ALWAYS]
    texts = [(check.__name__, check(metrics, config)) for check in checks]
    return [Alarm(kind, step, text) for kind, text in texts if text is not None]


def read_alarms(folder: Path) -> list[Alarm]:
    """Return the alarms recorded in a run folder. Raises ConfigError if the file is damaged."""
    path = folder / ALARMS
    if not os.path.lexists(path):
        return []
    rows = read_json(path, "remove it", {"alarms": list})["alarms"]
    return [Alarm(str(row["kind"]), int(row["step"]), str(row["text"])) for row in rows]


class Alarms:
    """Logs and records the alarms of a run. `stop` is the sentence that stops it (run.strict=true), otherwise None."""

    def __init__(self, folder: Path, config: Config) -> None:
        self._folder, self._config = folder, config
        self.known = read_alarms(folder)

    def check(self, phase: str, step: int, metrics: Metrics) -> None:
        """Log and record the alarms of a step, except for those of a kind that is already recorded."""
        metrics = {**metrics, **(self._first_evaluation() if ACCURACY in metrics else {})}
        found = find_alarms(step, metrics, self._config) if phase == "rl" else []
        new = [one for one in found if one.kind not in {known.kind for known in self.known}]
        if not new:
            return
        for alarm in new:
            logger.warning("Alarm at step %d: %s", step, alarm.text)
        self.known += new
        write_text(self._folder / ALARMS, json.dumps({"alarms": list(map(asdict, self.known))}, indent=1))

    def _first_evaluation(self) -> Metrics:
        """Return the accuracies of the first evaluation recorded in metrics.jsonl, under the prefix FIRST."""
        rows = read_jsonl(self._folder / "metrics.jsonl", "remove that line, or the file")
        first = next((row for row in rows if row.get("phase") == "rl" and ACCURACY in row), {})
        return {f"{FIRST}{name}": value for name, value in first.items() if name.startswith(ACCURACY)}

    @property
    def stop(self) -> str | None:
        if not self._config.run.strict or not self.known:
            return None
        first = self.known[0]
        return (
            f"alarm at step {first.step}: {first.text} (run.strict=true stopped the run; with run.strict=false the "
            "same command resumes it.)"
        )
