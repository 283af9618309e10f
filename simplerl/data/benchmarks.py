r"""Defines the benchmarks: how to read files and gold answers, their headings in tables, and published accuracies.

Known defects, which `simplerl.data.sources.benchmark` reports:
- gaokao2023en/167 and /192 (numbered from 0) have an empty gold answer, so no response to them can be graded.
- math500/97 (`\text{east}`) and gaokao2023en/83 (`b > a > c`) become empty in the published grader, which strips
  `\text{}` and apparent units; it therefore accepts any answer. The other rules grade them normally.
- college_math repeats 37 questions, 26 of them with a gold answer that differs from the first one, so some gold
  answers belong to other questions. They are kept, as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Models of the blog post's tables 1 and 3 (greedy, one sample) and their average over SUITE5 in per cent; copied, not
# reproduced by us. The two tables disagree on SimpleRL-Zero: both rows are kept.
_AVERAGES: dict[str, float | None] = {
    "Qwen2.5-Math-7B": 30.2,
    "Qwen2.5-Math-7B + 8K MATH SFT": 26.5,
    "Qwen2.5-Math-7B + 8K QwQ distillation": 44.0,
    "Qwen2.5-Math-7B-Instruct": 43.8,
    "Llama-3.1-70B-Instruct": 35.7,
    "rStar-Math-7B": None,
    "Eurus-2-7B-PRIME": 48.9,
    "SimpleRL-Zero": 48.8,
    "SimpleRL-Zero (table 3)": 49.7,
    "SimpleRL": 50.9,
}


def _blog_post(*accuracies: float | None) -> dict[str, float]:
    """Return a benchmark's column of the blog post's tables, in the order of `_AVERAGES`."""
    rows = zip(_AVERAGES, accuracies, strict=True)
    return {model: accuracy for model, accuracy in rows if accuracy is not None}


@dataclass(frozen=True)
class Benchmark:
    """Describes how to read `<name>.jsonl`: the number of its items, the columns of question, answer, level and
    solution (None: no such column), and the rule in ANSWERS that extracts the gold answer; and what was published about
    it."""

    items: int
    question: str
    answer: str
    answer_from: str
    heading: str = ""  # in tables; "": the benchmark's name
    level: str | None = None
    solution: str | None = None
    ungradable: tuple[int, ...] = ()  # rows, numbered from 0, whose gold answer is empty
    averages: tuple[int, ...] = ()  # the averages that include it: over 5 or 8 benchmarks
    published: Mapping[str, float] = field(default_factory=dict)  # model -> accuracy in per cent


BENCHMARKS: dict[str, Benchmark] = {
    "aime24": Benchmark(
        30, "problem", "answer", "text", "AIME 2024", solution="solution", averages=(5, 8),
        published=_blog_post(16.7, 3.3, 16.7, 13.3, 16.7, 26.7, 26.7, 33.3, 36.7, 26.7),
    ),
    "math500": Benchmark(
        500, "problem", "solution", "last_box", "MATH 500", level="level", solution="solution", averages=(5, 8),
        published=_blog_post(52.4, 54.6, 76.6, 79.8, 64.6, 78.4, 79.2, 77.2, 77.4, 82.4),
    ),
    "amc23": Benchmark(
        40, "problem", "answer", "text", "AMC", averages=(5, 8),
        published=_blog_post(52.5, 22.5, 55.0, 50.6, 30.1, 47.5, 57.8, 62.5, 62.5, 62.5),
    ),
    "minerva_math": Benchmark(
        272, "problem", "solution", "last_box", "Minerva Math", level="type", solution="solution", averages=(5, 8),
        published=_blog_post(12.9, 32.7, 34.9, 34.6, 35.3, None, 38.6, 33.5, 34.2, 39.7),
    ),
    "olympiadbench": Benchmark(
        675, "question", "final_answer", "first_without_dollars", "OlympiadBench", level="subfield", averages=(5, 8),
        published=_blog_post(16.4, 19.6, 36.9, 40.7, 31.9, 47.1, 42.1, 37.6, 37.5, 43.3),
    ),
    "gsm8k": Benchmark(1319, "question", "answer", "after_hashes", "GSM8K", averages=(8,)),
    "gaokao2023en": Benchmark(
        385, "question", "answer", "without_dollars", "GaoKao 2023 En", ungradable=(167, 192), averages=(8,)
    ),
    "college_math": Benchmark(
        2818, "question", "answer", "without_dollars", "College Math", level="data_topic", averages=(8,)
    ),
}  # fmt: skip

SUITE5 = tuple(name for name, one in BENCHMARKS.items() if 5 in one.averages)  # the columns of the published tables
SUITE8 = tuple(name for name, one in BENCHMARKS.items() if 8 in one.averages)
HEADINGS = {name: one.heading or name for name, one in BENCHMARKS.items()} | {"mean": "Avg."}


def _published() -> dict[str, dict[str, float]]:
    """Return {model: {benchmark or "mean": accuracy in per cent}}; "mean" is over SUITE5."""
    rows: dict[str, dict[str, float]] = {model: {} for model in _AVERAGES}
    for name, one in BENCHMARKS.items():
        for model, accuracy in one.published.items():
            rows.setdefault(model, {})[name] = accuracy
    return {
        model: row if (mean := _AVERAGES.get(model)) is None else row | {"mean": mean} for model, row in rows.items()
    }


PUBLISHED = _published()
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
