"""Accuracies that the authors report (per cent, greedy, one sample), to be shown beside our own.

Source: the SimpleRL-Reason blog post, tables 1 and 3; recomputed by no one here. Its SimpleRL-Zero row differs between
the two tables (48.8 and 49.7 on average): both are kept.
"""

from __future__ import annotations

FIVE = ("aime24", "math500", "amc23", "minerva_math", "olympiadbench")

_BASE = (16.7, 52.4, 52.5, 12.9, 16.4, 30.2)
_ROWS: dict[str, tuple[float | None, ...]] = {
    "Qwen2.5-Math-7B": _BASE,
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
    model: {name: value for name, value in zip((*FIVE, "mean"), values, strict=True) if value is not None}
    for model, values in _ROWS.items()
}
# Last parts of hub ids or folders, in lower case, whose row has another name.
_ALIASES = {
    "qwen-2.5-math-7b-simplerl-zero": "SimpleRL-Zero",
    "qwen-2.5-math-7b-simplerl": "SimpleRL",
    "meta-llama-3.1-70b-instruct": "Llama-3.1-70B-Instruct",
}


def published(model: str) -> dict[str, float]:
    """The row of a hub id or folder by its last part, or nothing. "mean" is over the five sets."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    rows = {row.lower(): row for row in PUBLISHED} | _ALIASES
    return PUBLISHED[rows[name]] if name in rows else {}
