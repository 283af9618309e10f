r"""The eight benchmarks: how to read their files and gold answers, and the accuracies that the authors published.

A gold answer is kept as the data set writes it (including LaTeX); normalising it is the grader's job. Known defects,
which `simplerl.data.sources.benchmark` reports:
- gaokao2023en/167 and /192 (numbered from 0) have an empty gold answer, so no response to them can be graded.
- math500/97 (`\text{east}`) and gaokao2023en/83 (`b > a > c`) become empty in the published grader, which strips
  `\text{}` and apparent units; it therefore accepts any answer. The other rules grade them normally.
- college_math repeats 37 questions, 26 of them with a gold answer that differs from the first one, so some gold
  answers belong to other questions. They are kept, as published.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simplerl.rewards.extract import last_boxed


def as_text(value: Any) -> str:
    """Return a string stripped, or a number in its shortest form (27.0 as "27"). Raises ValueError otherwise."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is {_type_name(value)}, not text or a number")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not math.isfinite(value):
        raise ValueError(f"is {value}")
    return str(value)


def _type_name(value: Any) -> str:
    names = {type(None): "empty (null)", list: "a list", dict: "an object", bool: "true/false"}
    return names.get(type(value), f"a {type(value).__name__}")


def after_hashes(value: Any) -> str:
    """Return the text after the last `####`, without thousands commas (GSM8K). Raises ValueError if there is none."""
    _, mark, tail = as_text(value).rpartition("####")
    if not mark:
        raise ValueError("has no ####")
    return tail.strip().replace(",", "")


def last_box(value: Any) -> str:
    r"""Return the content of the last \boxed{} of a solution (MATH). Raises ValueError if there is none."""
    found = last_boxed(as_text(value))
    if found is None:
        raise ValueError(r"has no \boxed{}")
    return found.strip()


def without_dollars(value: Any) -> str:
    """Return the answer without the `$` signs that delimit mathematics."""
    return as_text(value).replace("$", "").strip()


def first_without_dollars(value: Any) -> str:
    """Return the first of a list of answers, without `$` (OlympiadBench). Raises ValueError for anything else."""
    if not isinstance(value, list) or not value:
        raise ValueError("is not a list of answers" if value != [] else "is an empty list")
    return without_dollars(value[0])


# The values of `answer_from`: how to extract the gold answer from the answer column.
ANSWERS: dict[str, Callable[[Any], str]] = {
    "text": as_text,
    "after_hashes": after_hashes,
    "last_box": last_box,
    "without_dollars": without_dollars,
    "first_without_dollars": first_without_dollars,
}


@dataclass(frozen=True)
class Benchmark:
    """How to read `<name>.jsonl`: its columns, the rule in ANSWERS that extracts the gold answer, and known facts."""

    items: int
    question: str
    answer: str
    answer_from: str
    level: str | None = None
    solution: str | None = None
    ungradable: tuple[int, ...] = ()  # rows, numbered from 0, whose gold answer is empty


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

SUITE5 = ("aime24", "math500", "amc23", "minerva_math", "olympiadbench")  # the columns of the published tables
SUITE8 = (*SUITE5, "gsm8k", "gaokao2023en", "college_math")
# Accuracy in per cent on SUITE5 and on average (greedy, one sample), from tables 1 and 3 of the SimpleRL-Reason blog
# post; copied, not reproduced by us. The two tables disagree on SimpleRL-Zero (48.8 and 49.7): both rows are kept.
_PUBLISHED_ROWS: dict[str, tuple[float | None, ...]] = {
    "Qwen2.5-Math-7B": (16.7, 52.4, 52.5, 12.9, 16.4, 30.2),
    "Qwen2.5-Math-7B + 8K MATH SFT": (3.3, 54.6, 22.5, 32.7, 19.6, 26.5),
    "Qwen2.5-Math-7B + 8K QwQ distillation": (16.7, 76.6, 55.0, 34.9, 36.9, 44.0),
    "Qwen2.5-Math-7B-Instruct": (13.3, 79.8, 50.6, 34.6, 40.7, 43.8),
    "Llama-3.1-70B-Instruct": (16.7, 64.6, 30.1, 35.3, 31.9, 35.7),
    "rStar-Math-7B": (26.7, 78.4, 47.5, None, 47.1, None),
    "Eurus-2-7B-PRIME": (26.7, 79.2, 57.8, 38.6, 42.1, 48.9),
    "SimpleRL-Zero": (33.3, 77.2, 62.5, 33.5, 37.6, 48.8),
    "SimpleRL-Zero (table 3)": (36.7, 77.4, 62.5, 34.2, 37.5, 49.7),
    "SimpleRL": (26.7, 82.4, 62.5, 39.7, 43.3, 50.9),
}
PUBLISHED: dict[str, dict[str, float]] = {
    model: {name: value for name, value in zip((*SUITE5, "mean"), values, strict=True) if value is not None}
    for model, values in _PUBLISHED_ROWS.items()
}
# Lower-case model names whose published row has another name.
_PUBLISHED_ALIASES = {
    "qwen-2.5-math-7b-simplerl-zero": "SimpleRL-Zero",
    "qwen-2.5-math-7b-simplerl": "SimpleRL",
    "meta-llama-3.1-70b-instruct": "Llama-3.1-70B-Instruct",
}


def published_accuracy(model: str) -> dict[str, float]:
    """Return the published accuracies of a model in per cent, by benchmark and "mean" (over SUITE5), or {}.

    model: a Hub id or a folder, of which the last part is looked up, ignoring case.
    """
    name = model.rstrip("/").rpartition("/")[2].lower()
    rows = {row.lower(): row for row in PUBLISHED} | _PUBLISHED_ALIASES
    return PUBLISHED[rows[name]] if name in rows else {}
