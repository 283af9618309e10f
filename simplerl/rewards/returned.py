"""Converts the value that a reward function returned to the plain fields of a `Score`, or raises UnusableScore.

A reward may be any function of a user, so the value is checked at once: later stages store the reward as float32, write
texts as UTF-8 and use the names of parts as metrics.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Complex, Real
from typing import Any, SupportsFloat

from simplerl.rewards.rules import DIFFERENT, EQUAL
from simplerl.types import Score

MAX_NUMBER = 1e12  # squares and sums of such rewards over a batch are still finite in float32
MAX_NAME, MAX_PARTS = 100, 100  # characters of a status or of a part's name; number of parts
MIN_EXTRACTED = 10_000  # characters that an extracted answer may have in any case
# The metrics reward/<name> that every step has, which a part must not replace.
RESERVED_PARTS = frozenset(
    {"mean", "std", "correct", "no_answer_fraction", "timeout_fraction", "failed_fraction"}
    | {"solved_problems", "mastered_problems"}
)
_FIELDS = ("reward", "correct", "status", "extracted", "parts")
_FORMS = "return a simplerl.types.Score, a number, (number, bool), or a dict with the keys of Score"


class UnusableScore(ValueError):
    """Raised for a value that is not a score; the message states the fault and the allowed values."""


def score_fields(value: Any, longest: int) -> tuple[float, bool, str, str | None, dict[str, float]]:
    """Return the fields of a `Score`, as plain values, given the value that a reward function returned.

    A number is the reward, and the answer counts as correct if it is positive. A pair (number, bool) is reward and
    correct. A dict has the keys of `Score`, of which only `reward` is required.

    longest: characters that `extracted` may have, if over MIN_EXTRACTED. Raises UnusableScore for any other value.
    """
    if isinstance(value, Score):
        fields: Mapping[Any, Any] = vars(value)
    elif isinstance(value, Mapping):
        fields = value
        if "reward" not in fields or not fields.keys() <= set(_FIELDS):
            names = reprlib.repr(sorted(map(str, fields)))
            raise UnusableScore(f"the reward returned a dict with the keys {names}: {_FORMS} ({', '.join(_FIELDS)})")
    elif isinstance(value, tuple) and len(value) == 2 and type(value[1]).__name__ in ("bool", "bool_"):
        fields = {"reward": value[0], "correct": value[1]}
    elif isinstance(value, SupportsFloat):
        fields = {"reward": value}
    else:
        raise UnusableScore(f"the reward returned {_kind(value)}: {_FORMS}")
    reward = _number("reward", fields["reward"])
    correct = _truth(fields["correct"]) if "correct" in fields else reward > 0
    status = _text("status", fields.get("status", EQUAL if correct else DIFFERENT), MAX_NAME)
    extracted = fields.get("extracted")
    if extracted is not None:
        extracted = _text("extracted", extracted, max(longest, MIN_EXTRACTED))
    return reward, correct, status, extracted, _parts(fields.get("parts", {}))


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}, {reprlib.repr(value)}"


def _number(name: str, value: Any) -> float:
    """Return a number as a plain float, also one of NumPy or an array or tensor of one element. Raises UnusableScore if
    it is not a number, not finite or above MAX_NUMBER in size."""
    number = value if type(value) is float else _convert(name, value)
    if not abs(number) <= MAX_NUMBER:  # also if it is NaN
        raise UnusableScore(f"the score's {name} is {number!r}; it must be finite and at most {MAX_NUMBER:g} in size")
    return number


def _convert(name: str, value: Any) -> float:
    imaginary = isinstance(value, Complex) and not isinstance(value, Real)
    if not isinstance(value, SupportsFloat) or imaginary:
        raise UnusableScore(f"the score's {name} is {_kind(value)}; it must be a number")
    try:
        return float(value)
    except Exception as error:
        raise UnusableScore(f"the score's {name} is {_kind(value)}; it must be one number ({error})") from error


def _truth(value: Any) -> bool:
    """Return 0, 1 or a boolean, also of NumPy or PyTorch, as a plain bool. Raises UnusableScore for other values."""
    if value is True or value is False:
        return bool(value)
    if not isinstance(value, SupportsFloat) or _number("correct", value) not in (0.0, 1.0):
        raise UnusableScore(f"the score's correct is {_kind(value)}; it must be True or False")
    return bool(value)


def _text(name: str, value: Any, longest: int) -> str:
    """Validate a text of a score and return it as a plain str, even if it is a `Response`. A number in `extracted` is
    converted. Raises UnusableScore if it is not a string, is too long or is not valid Unicode."""
    if not isinstance(value, str):
        if name == "extracted" and isinstance(value, Real):
            return str(value)
        raise UnusableScore(f"the score's {name} is {_kind(value)}; it must be a string")
    if len(value) > longest:
        raise UnusableScore(f"the score's {name} has {len(value)} characters; it may have at most {longest}")
    if not is_encodable(value):
        raise UnusableScore(f"the score's {name} has a lone surrogate, which UTF-8 cannot represent")
    return str.__str__(value)


def _parts(parts: Any) -> dict[str, float]:
    if not isinstance(parts, Mapping) or len(parts) > MAX_PARTS:
        raise UnusableScore(f"the score's parts are {_kind(parts)}; they must be a dict of at most {MAX_PARTS} numbers")
    plain = {}
    for name, value in parts.items():
        key = _text("part name", name, MAX_NAME)
        if key in RESERVED_PARTS:
            raise UnusableScore(f"a part of the score has the name {key!r}, but reward/{key} is a metric: rename it")
        plain[key] = _number(key, value)
    return plain


def is_encodable(text: str) -> bool:
    """Return whether UTF-8 can represent a text: it cannot represent lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encodable(text: str) -> str:
    r"""Return a text with each lone surrogate replaced by its escape, such as \ud800."""
    return text.encode(errors="backslashreplace").decode()


def function_of(reward: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function whose keywords a reward binds."""
    return reward.func if isinstance(reward, partial) else reward


def reward_name(reward: Callable[..., Any]) -> str:
    """Return the dotted name of a reward; of the wrapped function, if it is an adapter's."""
    function = function_of(reward)
    wrapped = reward.keywords.get("function") if isinstance(reward, partial) else None
    return str(wrapped or f"{function.__module__}.{function.__qualname__}")
