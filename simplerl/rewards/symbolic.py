r"""math-verify, asked last and under guard: for symbolic golds that our own reader does not know.

Its parser gets the content only (LaTeX alone: the number fallback turns a failed parse into some number of it),
without its unit stripper (which eats m, s, t, ...). Nothing numeric comes here, so that its absolute rounding
decides nothing; texts, very long or deep expressions and towers are refused before it sees them.
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
from simplerl.types import Problem, Score

CPU_SECONDS = 2.0  # of one comparison: not wall time, so that a busy machine changes no verdict
MAX_CHARACTERS, MAX_NESTING = 600, 12
_UNBOUNDED = re.compile(
    r"\d{40}|\^\s*\{?\s*-?\d{4}|\*\*|\^\s*\{[^{}]*\^|!\s*!|\d{3}\s*!|\\binom\s*\{\d{4}"
    r"|\\(?:prod|lim|int|sum|Gamma|mod|bmod|pmod)(?![A-Za-z])"
)


class _OutOfTime(BaseException):
    """Raised by the alarm; no Exception, so that sympy's handlers let it through."""


@lru_cache(maxsize=1)
def math_verify() -> tuple[Any, Any, Any, Any]:
    """(parse, verify, LatexExtractionConfig, our NormalizationConfig), repaired and silent."""
    import math_verify
    from latex2sympy2_extended.antlr_parser import PSParser
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig

    # latex2sympy2_extended 1.11 ships a stale parser for antlr 4.9.3: without this every percent sign fails.
    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):
        PSParser.AtomContext.FUNC_GAMMA = lambda self: None
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # time-outs are logged with the whole text
    normalization = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    return math_verify.parse, math_verify.verify, LatexExtractionConfig, normalization


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[Any, ...]:
    parse, _, config, normalization = math_verify()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = config(normalization_config=normalization, boxed_match_priority=-1)
        found = parse(f"${text}$", extraction_config=[target], fallback_mode="no_fallback", parsing_timeout=None)
    return tuple(item for item in found if not isinstance(item, str))


def is_refused(text: str) -> bool:
    """Long, deep, or of a kind whose evaluation is unbounded."""
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return len(text) > MAX_CHARACTERS or deepest > MAX_NESTING or _UNBOUNDED.search(text) is not None


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """An alarm on CPU time, in the main thread, where Python allows one; the caller's own alarms are left alone."""
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


def symbolic_status(answer: str, gold: str) -> str:
    """math-verify's verdict on two cleaned expressions, as a status of `simplerl.rewards.equal`.

    What its parser cannot read is DIFFERENT (`is_unread` tells of a gold); whatever else it raises is FAILED.
    """
    from simplerl.rewards.equal import DIFFERENT, EQUAL, FAILED, TIMEOUT

    if is_refused(answer) or is_refused(gold):
        return DIFFERENT
    try:
        with _limited(CPU_SECONDS):
            a, g = _parsed(answer), _parsed(gold)
            if not a or not g:
                return DIFFERENT
            _, verify, _, _ = math_verify()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                right = verify(
                    list(g),
                    list(a),
                    strict=True,
                    allow_set_relation_comp=True,
                    timeout_seconds=None,
                    raise_on_error=True,
                )
    except _OutOfTime:
        return TIMEOUT
    except Exception:  # any of sympy's, MemoryError and RecursionError too: counted, and never cached
        return FAILED
    return EQUAL if right else DIFFERENT


def is_unread(gold: str) -> bool:
    """Whether math-verify's parser makes nothing of a cleaned gold that it was asked about."""
    if is_refused(gold):
        return True
    try:
        with _limited(CPU_SECONDS):
            return not _parsed(gold)
    except (_OutOfTime, Exception):
        return True


def warm() -> None:
    symbolic_status("\\sqrt{x+1}", "\\sqrt{1+x}")


def alone(response: str, problem: Problem, *, wrong: float = -0.5, boxed: bool = True) -> Score:
    """A reward for comparisons: math-verify's own parse and verify, without our notation, guards and arithmetic."""
    from simplerl.rewards.equal import DIFFERENT, EQUAL, NO_ANSWER

    parse, verify, _, _ = math_verify()
    answer = boxed_answer(response) if boxed else response
    if answer is None:
        return Score(-1.0, False, NO_ANSWER)
    right = verify(parse(f"\\boxed{{{problem.answer}}}"), parse(f"\\boxed{{{answer}}}" if boxed else answer))
    return Score(1.0 if right else wrong, right, EQUAL if right else DIFFERENT, answer)
