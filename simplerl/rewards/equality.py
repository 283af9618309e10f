"""Decides whether an answer equals a gold answer, by one of four rules, and returns a status instead of a bool.

- `math_verify` (default): normalise both, then compare structure, strings, exact numbers and expressions at sample
  points; math-verify decides the remaining cases.
- `exact`: equal strings after the same normalisation.
- `qwen`: the published evaluation.
- `qwen_train`: the published training reward, which does not normalise the gold answer.

Decisions of the default rule:
- Integers must match exactly. A decimal gold answer allows a relative error of 1e-4, a decimal answer to an exact gold
  answer 1e-6. x % may mean x or x/100; nothing else is rescaled.
- Variables are never units, and neither are words of other scripts unless `unit_words.txt` lists them. A percentage is
  not a length. Words beside a value must be the same, and the value between them is compared as mathematics.
- Answer and gold answer may give an option letter with or without its text or value; several options are a set.
- Lists and sets have no order, but every item counts; tuples, intervals, labelled parts and verdicts (True, False) are
  ordered. Rows of cases and groups (x = 1, y = 2 or x = 3, y = 4) are compared as units, in any order.
- An unfinished computation (16-3-4, 3!, \\int) does not equal its result, but 5 = 10/2 counts as 5, and 2 \\pm 1 as
  1 and 3.
- \\ln is to base e and \\lg to base 10. \\log without a base may be either, so it equals what it equals in both bases:
  \\log 4 equals 2\\log 2, but neither \\ln 4 nor \\lg 4. Within an equation (\\log 0.01 = -2) one base suffices.
- A set over numbers other than the reals is not an interval, ln|x| is not ln x, and x, \\bar{x}, \\hat{x} and
  \\vec{x} are different symbols; a vector may be written with an arrow or in bold.
- f(0), f(2x), dy/dx, \\angle ABC and P^{-1}AP are not products of their letters (`simplerl.rewards.opaque`).
"""

from __future__ import annotations

import re
from functools import lru_cache

from simplerl.rewards.choices import offers_alternatives, option_letters
from simplerl.rewards.comparison import Comparator, Unfinished
from simplerl.rewards.normalize import equality_key, normalize, without_arrows
from simplerl.rewards.numeric import is_close, parse_number
from simplerl.rewards.qwen import qwen_equal
from simplerl.rewards.rules import DIFFERENT, EQUAL, NO_ANSWER, PUBLISHED_RULES, Environment, Verdict, check_rule
from simplerl.rewards.stated import sentence_value
from simplerl.rewards.symbolic import math_verify_status

MAX_CHARACTERS = 2000  # a longer answer is correct only if it is the same string as the gold answer
_PLAIN = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?")  # decided without normalising
MEASURED_SOURCES = ("minerva",)  # sources whose gold answers are rounded measurements


def compare(answer: str, gold: str, *, rule: str = "math_verify", source: str = "") -> str:
    """Compare an answer with a gold answer and return the status.

    EQUAL, DIFFERENT, NO_ANSWER (the answer is empty), TIMEOUT or FAILED. Nothing equals an empty gold answer, except
    an empty answer under the published rules. source: the problem's data set, for data sets with their own
    conventions. Raises ConfigError for an unknown rule.
    """
    return judge(answer, gold, rule=rule, source=source).status


def judge(
    answer: str, gold: str, *, rule: str = "math_verify", source: str = "", environment: Environment = "training"
) -> Verdict:
    """Return the `Verdict` on an answer: the status as by `compare`, and whether no parser could read the gold answer.

    source: name of the data set. environment: installed packages whose parser rule=qwen_train imitates, see
    `simplerl.rewards.qwen`."""
    check_rule(rule, environment)
    answer = answer.strip()
    if not answer:
        return Verdict(EQUAL if rule in PUBLISHED_RULES and not gold.strip() else NO_ANSWER)
    try:
        return _judge(answer, gold.strip(), rule, source, environment)
    except Unfinished as unfinished:
        return Verdict(unfinished.status)
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        # A comparison that raises is a bug of this package, which must not end a run: the answer counts as different.
        return Verdict(DIFFERENT, gold_unread=not is_readable(gold, rule=rule, source=source))


def is_readable(gold: str, *, rule: str = "math_verify", source: str = "") -> bool:
    """Return whether a gold answer can be compared: whether it equals a copy of itself with spaces around it."""
    try:
        return _judge(f" {gold} ", gold.strip(), rule, source, "training").status == EQUAL
    except (Unfinished, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return False


@lru_cache(maxsize=65536)
def _judge(answer: str, gold: str, rule: str, source: str, environment: Environment) -> Verdict:  # noqa: PLR0911 - cheapest test first
    if answer == gold and rule not in PUBLISHED_RULES:
        return Verdict(EQUAL)
    if max(len(answer), len(gold)) > MAX_CHARACTERS or (not gold and rule not in PUBLISHED_RULES):
        return Verdict(DIFFERENT)
    if rule in PUBLISHED_RULES:
        training = environment if rule == "qwen_train" else None
        return Verdict(EQUAL if qwen_equal(answer, gold, source, training=training) else DIFFERENT)
    measured = any(name in source for name in MEASURED_SOURCES)
    if rule != "exact" and _PLAIN.fullmatch(answer) and _PLAIN.fullmatch(gold):
        x, y = parse_number(answer), parse_number(gold)
        if x and y:
            return Verdict(EQUAL if is_close(x, y, measured=measured) else DIFFERENT)
    a, g = normalize(answer), _normalize_gold(gold)
    a, g = without_arrows(a, gold), without_arrows(g, answer)
    if not re.sub(r"[\s{}.,;:$]", "", a):
        return Verdict(NO_ANSWER)
    if equality_key(a) == equality_key(g):
        return Verdict(EQUAL)
    if rule == "exact":
        return Verdict(DIFFERENT)
    if option_letters(g) and offers_alternatives(answer):
        return Verdict(DIFFERENT)
    comparator = Comparator(measured=measured)
    if (value := sentence_value(gold)) is not None and (
        verdict := comparator.verdict(a, normalize(value))
    ).status == EQUAL:
        return verdict
    return comparator.verdict(a, g)


_normalize_gold = lru_cache(maxsize=16384)(normalize)


def warm_up() -> None:
    """Load sympy and math-verify and compare once, so that the time of the first answer does not include loading."""
    compare("\\sqrt{2}x+1", "1+2^{1/2}x")
    math_verify_status("\\sqrt{x+1}", "\\sqrt{1+x}")
