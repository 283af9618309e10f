r"""The gold rules: where the answer of a row stands, for the eight benchmarks and for training files.

A gold is kept as the data set writes it (LaTeX and all); making it comparable is the grader's business.
Known to be bad, and reported by `simplerl.data.sources.benchmark`:
- gaokao2023en/167 and /192 (counted from 0) have an empty answer, and the question gives it away. Any answer, or none,
  would be right, depending on the grader: nobody can grade them.
- math500/97 (`\text{east}`) and gaokao2023en/83 (`b > a > c`) become empty in the published grader, which strips
  `\text{}` and what looks like a unit, so it takes any answer; they are proper items for the other rules.
- college_math repeats 37 questions, 26 of them with another answer than the first time: some golds belong to another
  question. They stay, as published.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simplerl.rewards.extract import last_boxed


def as_text(value: Any) -> str:
    """Text as it stands; a number in its shortest form, 27.0 as 27. Raises ValueError."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is {_kind(value)}, not text or a number")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not math.isfinite(value):
        raise ValueError(f"is {value}")
    return str(value)


def _kind(value: Any) -> str:
    names = {type(None): "empty (null)", list: "a list", dict: "an object", bool: "true/false"}
    return names.get(type(value), f"a {type(value).__name__}")


def after_hashes(value: Any) -> str:
    """GSM8K: what follows the last `####`, without thousands commas."""
    _, mark, tail = as_text(value).rpartition("####")
    if not mark:
        raise ValueError("has no ####")
    return tail.strip().replace(",", "")


def last_box(value: Any) -> str:
    r"""MATH: the content of the solution's last \boxed{}."""
    found = last_boxed(as_text(value))
    if found is None:
        raise ValueError(r"has no \boxed{}")
    return found.strip()


def without_dollars(value: Any) -> str:
    """The answer without the `$` around its mathematics."""
    return as_text(value).replace("$", "").strip()


def first_without_dollars(value: Any) -> str:
    """OlympiadBench: the first final answer, without `$`."""
    if not isinstance(value, list) or not value:
        raise ValueError("is not a list of answers" if value != [] else "is an empty list")
    return without_dollars(value[0])


ANSWERS: dict[str, Callable[[Any], str]] = {
    "text": as_text,
    "after_hashes": after_hashes,
    "last_box": last_box,
    "without_dollars": without_dollars,
    "first_without_dollars": first_without_dollars,
}


@dataclass(frozen=True)
class Benchmark:
    """How to read `<name>.jsonl`: columns, the rule in ANSWERS that finds the gold, and what is known of the file."""

    items: int
    question: str
    answer: str
    answer_from: str
    level: str | None = None
    solution: str | None = None
    ungradable: tuple[int, ...] = ()  # rows, counted from 0, whose gold is empty


BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark(1319, "question", "answer", "after_hashes"),
    "math500": Benchmark(500, "problem", "solution", "last_box", level="level", solution="solution"),
    "minerva_math": Benchmark(272, "problem", "solution", "last_box", level="type", solution="solution"),
    "gaokao2023en": Benchmark(385, "question", "answer", "without_dollars", ungradable=(167, 192)),
    "olympiadbench": Benchmark(675, "question", "final_answer", "first_without_dollars", level="subfield"),
    "college_math": Benchmark(2818, "question", "answer", "without_dollars", level="data_topic"),
    "aime24": Benchmark(30, "problem", "answer", "text", solution="solution"),
    "amc23": Benchmark(40, "problem", "answer", "text"),
}
