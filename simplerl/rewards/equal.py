"""Whether an answer equals a gold answer, by one of three rules, with a status instead of a bare bool."""

from __future__ import annotations

from functools import lru_cache

EQUAL, DIFFERENT, NO_ANSWER, TIMEOUT, FAILED = "equal", "different", "no_answer", "timeout", "failed"


def compare(answer: str, gold: str, *, rule: str = "math_verify", source: str = "") -> str:
    """EQUAL, DIFFERENT, NO_ANSWER, TIMEOUT or FAILED; see `RULES`."""
    return _compare(answer, gold, rule, source)


@lru_cache(maxsize=65536)
def _compare(answer: str, gold: str, rule: str, source: str) -> str:
    if answer.strip() == gold.strip():
        return EQUAL
    if rule == "exact":
        return DIFFERENT
    from math_verify import parse, verify

    right = verify(
        parse(f"\\boxed{{{gold}}}", parsing_timeout=None),
        parse(f"\\boxed{{{answer}}}", parsing_timeout=None),
        timeout_seconds=None,
    )
    return EQUAL if right else DIFFERENT


def warm() -> None:
    """Loads and runs once whatever the first comparison would otherwise wait for."""
    compare("x+1", "1+x")
