"""Defines the equality rules and the outcomes of a comparison.

A separate module, because the comparison, math-verify and the worker pool all need these names and must not import one
another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from simplerl.errors import ConfigError

EQUAL, DIFFERENT, NO_ANSWER, TIMEOUT, FAILED = "equal", "different", "no_answer", "timeout", "failed"
Rule = Literal["math_verify", "qwen", "exact", "qwen_train"]
RULES: tuple[Rule, ...] = get_args(Rule)
Environment = Literal["training", "evaluation"]  # packages whose parser rule=qwen_train imitates, see `qwen`
ENVIRONMENTS: tuple[Environment, ...] = get_args(Environment)
PUBLISHED_RULES: tuple[Rule, ...] = ("qwen", "qwen_train")


@dataclass(frozen=True)
class Verdict:
    """Holds the outcome of comparing an answer with a gold answer.

    gold_unread: the answer differs, and no parser could read the gold answer that it was compared with.
    """

    status: str  # EQUAL | DIFFERENT | NO_ANSWER | TIMEOUT | FAILED
    gold_unread: bool = False


def check_rule(rule: str, environment: str = "training") -> None:
    """Raise ConfigError if `rule` is not one of RULES, or `environment` not one of ENVIRONMENTS."""
    for name, value, known in (("rule", rule, RULES), ("environment", environment, ENVIRONMENTS)):
        if value not in known:
            raise ConfigError(f"{name}={value} is unknown: choose one of {', '.join(known)}.")
