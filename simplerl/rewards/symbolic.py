r"""Calls math-verify with a time limit, for symbolic answers that `simplerl.rewards.latex` cannot parse.

math-verify gets only the extracted answer. Its number fallback is off, because it turns a failed parse into some number
of the text, and so is its removal of units, which also removes variables such as m, s and t. Numeric answers are
compared before, so its absolute rounding has no effect. Very long or deeply nested expressions and towers of powers are
refused before they are parsed.
"""

from __future__ import annotations

import logging
import re
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any

from simplerl.rewards.extract import boxed_answer
from simplerl.rewards.rules import DIFFERENT, EQUAL, FAILED, NO_ANSWER, TIMEOUT
from simplerl.types import Problem, Score

CPU_SECONDS = 2.0  # per comparison; CPU time, so that a busy machine changes no verdict
MAX_CHARACTERS, MAX_NESTING = 600, 12
_UNBOUNDED = re.compile(
    r"\d{40}|\|{5}|\^\s*\w+\s*\^|\^\s*\{?\s*-?\d{4}|\*\*|\^\s*\{[^{}]*\^|!\s*!|\d{3}\s*!|\\binom\s*\{\d{4}"
    r"|\\(?:prod|lim|int|sum|Gamma|mod|bmod|pmod)(?![A-Za-z])"
)
_GAMMA = re.compile(r"\\gamma(?![A-Za-z])")  # to math-verify a constant or function, and its powers are powers of 1


class _OutOfTime(BaseException):
    """Raised by the timer; not an Exception, so that sympy's handlers do not catch it."""


@lru_cache(maxsize=1)
def load_math_verify() -> tuple[Any, Any, Any, Any]:
    """Import math-verify, work around a parser bug and silence its logs. Returns (parse, verify, LatexExtractionConfig,
    the NormalizationConfig to use)."""
    import math_verify
    from latex2sympy2_extended.antlr_parser import PSParser
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig

    # latex2sympy2_extended 1.11 ships a stale parser for antlr 4.9.3: without this every percent sign fails.
    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):
        PSParser.AtomContext.FUNC_GAMMA = lambda self: None
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # timeouts would be logged with the whole text
    normalization = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    return math_verify.parse, math_verify.verify, LatexExtractionConfig, normalization


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[Any, ...]:
    text = _GAMMA.sub(r"\\iota", text)
    parse, _, config, normalization = load_math_verify()
    target = config(normalization_config=normalization, boxed_match_priority=-1)
    with warnings.catch_warnings(action="ignore"):
        found = parse(f"${text}$", extraction_config=[target], fallback_mode="no_fallback", parsing_timeout=None)
    return tuple(item for item in found if not isinstance(item, str))


def is_refused(text: str) -> bool:
    """Return whether a text is too long, too deeply nested, or of a kind whose evaluation may not terminate."""
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return len(text) > MAX_CHARACTERS or deepest > MAX_NESTING or _UNBOUNDED.search(text) is not None


@contextmanager
def _cpu_time_limit(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in the block after `seconds` of CPU time; a timer of the caller is restored afterwards.

    Python delivers signals to the main thread only, so in other threads there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    previous = signal.signal(signal.SIGPROF, stop)
    left, _ = signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, left)
        signal.signal(signal.SIGPROF, previous)


def math_verify_status(answer: str, gold: str) -> str:  # noqa: PLR0911 - one return per outcome
    """Return math-verify's verdict on two normalised expressions: EQUAL, DIFFERENT, TIMEOUT or FAILED.

    An expression that it cannot read or compare is DIFFERENT from everything (see `is_unparseable`). FAILED means that
    the library could not be loaded or ran out of memory.
    """
    if is_refused(answer) or is_refused(gold):
        return DIFFERENT
    try:
        _, verify, _, _ = load_math_verify()
    except Exception:  # a broken installation
        return FAILED
    try:
        with _cpu_time_limit(CPU_SECONDS):
            a, g = _parse(answer), _parse(gold)
            if not a or not g:
                return DIFFERENT
            options = {"allow_set_relation_comp": True, "timeout_seconds": None, "raise_on_error": True}
            with warnings.catch_warnings(action="ignore"):
                is_equal = verify(list(g), list(a), strict=True, **options)
    except _OutOfTime:
        return TIMEOUT
    except MemoryError:
        return FAILED
    except Exception:  # sympy raises errors of every kind for expressions that it cannot compare
        return DIFFERENT
    return EQUAL if is_equal else DIFFERENT


def is_unparseable(gold: str) -> bool:
    """Return whether math-verify cannot parse a normalised gold answer."""
    if is_refused(gold):
        return True
    try:
        with _cpu_time_limit(CPU_SECONDS):
            return not _parse(gold)
    except (_OutOfTime, Exception):
        return True


def math_verify_alone(response: str, problem: Problem, *, wrong: float = -0.5, boxed: bool = True) -> Score:
    """Score by math-verify's own parse and verify, without this package's normalisation and limits: a baseline.

    boxed: take the answer from the last box; otherwise math-verify extracts it from the whole response.
    """
    parse, verify, _, _ = load_math_verify()
    answer = boxed_answer(response) if boxed else response
    if answer is None:
        return Score(-1.0, False, NO_ANSWER)
    correct = verify(parse(f"\\boxed{{{problem.answer}}}"), parse(f"\\boxed{{{answer}}}" if boxed else answer))
    return Score(1.0 if correct else wrong, correct, EQUAL if correct else DIFFERENT, answer)
