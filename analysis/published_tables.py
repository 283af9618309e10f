"""Lists the rows of tables 1 to 3 of the SimpleRL blog post, whose numbers and headings are in
`simplerl.data.benchmarks`, and the rows and numbers of SimpleRL-Zoo's table 1."""

from __future__ import annotations

from collections.abc import Mapping

from simplerl.data.benchmarks import HEADINGS, PUBLISHED, SUITE5

# The row's name in the blog post's table -> its key in `simplerl.data.benchmarks`.
TABLE_1 = {
    "Qwen2.5-Math-7B-Base": "Qwen2.5-Math-7B",
    "Qwen2.5-Math-7B-Base + 8K MATH SFT": "Qwen2.5-Math-7B + 8K MATH SFT",
    "Qwen-2.5-Math-7B-Instruct": "Qwen2.5-Math-7B-Instruct",
    "Llama-3.1-70B-Instruct": "Llama-3.1-70B-Instruct",
    "rStar-Math-7B": "rStar-Math-7B",
    "Eurus-2-7B-PRIME": "Eurus-2-7B-PRIME",
    "Qwen2.5-7B-SimpleRL-Zero": "SimpleRL-Zero",
    "Qwen2.5-7B-SimpleRL": "SimpleRL",
}
TABLE_3 = {
    "Qwen2.5-Math-7B-Base": "Qwen2.5-Math-7B",
    "Qwen2.5-Math-7B-Base + 8K QwQ distillation": "Qwen2.5-Math-7B + 8K QwQ distillation",
    "Eurus-2-7B-PRIME": "Eurus-2-7B-PRIME",
    "Qwen2.5-7B-SimpleRL-Zero": "SimpleRL-Zero (table 3)",
    "Qwen2.5-7B-SimpleRL": "SimpleRL",
}
PUBLISHED_RULE = "lenient (qwen)"  # how the authors evaluate, as `analysis.arms.evaluation_rule` writes it
TWO_ZERO_ROWS = (
    "The blog post's SimpleRL-Zero row differs between tables 1 and 3 (averages 48.8 and 49.7); each table shows its "
    "own."
)

TABLE_2_COLUMNS = ("Qwen2.5-Math-7B-Instruct", "rStar-Math-7B", "Eurus-2-7B-PRIME", "Qwen2.5-7B-SimpleRL-Zero")
TABLE_2 = (
    ("Base model", "Qwen2.5-Math-7B", "Qwen2.5-Math-7B", "Qwen2.5-Math-7B", "Qwen2.5-Math-7B"),
    ("SFT data", "2.5M (open-source and in-house)", "~7.3M (MATH, NuminaMath, etc.)", "230K", "0"),
    ("RM data", "618K (in-house)", "~7k (in-house)", "0", "0"),
    ("RM", "Qwen2.5-Math-RM (72B)", "None", "Eurus-2-7B-SFT", "None"),
    ("RL data", "66K queries x 32 samples", "~3.647M x 16", "150K queries x 4 samples", "8K queries x 8 samples"),
)

# SimpleRL-Zoo (arXiv:2503.18892, table 1; github.com/hkust-nlp/simpleRL-reason, README): base models sampled greedily,
# trained models at temperature 1 and top-p 0.95. The average is over the benchmarks other than avg@32.
ZOO_SETS = ("gsm8k", "math500", "minerva_math", "olympiadbench", "aime24", "amc23")
ZOO_FURTHER = ("aime24_avg32",)
ZOO_CAPTION = (
    "SimpleRL-Zoo, table 1: pass@1 in per cent; base models sampled greedily, trained ones at temperature 1; the "
    "average is over the six benchmarks without avg@32, unweighted."
)
ZOO_COLUMNS = (*ZOO_SETS[:5], "aime24_avg32", "amc23", "mean")
ZOO_HEADINGS = {**HEADINGS, "aime24_avg32": "AIME 2024 avg@32"}
_ZOO: dict[str, tuple[float, ...]] = {
    "Mistral-v0.1-7B": (21.2, 4.2, 4.0, 2.4, 0.0, 0.0, 0.0, 5.3),
    "Mistral-v0.1-7B + SimpleRL-Zoo": (75.0, 15.8, 6.6, 4.1, 0.0, 0.2, 10.0, 18.6),
    "Llama-3.1-8B": (39.7, 13.6, 4.8, 3.1, 0.0, 0.2, 2.5, 10.6),
    "Llama-3.1-8B + SimpleRL-Zoo": (79.2, 23.0, 9.6, 5.3, 0.0, 0.2, 15.0, 22.0),
    "DeepSeek-Math-7B": (28.4, 19.4, 5.5, 4.7, 0.0, 0.0, 10.0, 11.3),
    "DeepSeek-Math-7B + SimpleRL-Zoo": (78.5, 39.6, 21.0, 12.6, 3.3, 0.6, 20.0, 29.2),
    "Mistral-Small-24B": (78.6, 43.6, 10.7, 11.6, 3.3, 0.5, 17.5, 27.6),
    "Mistral-Small-24B + SimpleRL-Zoo": (92.0, 70.6, 36.8, 36.6, 16.7, 13.1, 45.0, 49.6),
    "Qwen-2.5-0.5B": (36.7, 15.8, 4.8, 2.8, 0.0, 0.3, 12.5, 12.1),
    "Qwen-2.5-0.5B + SimpleRL-Zoo": (49.5, 34.4, 10.3, 8.9, 0.0, 0.7, 22.5, 20.9),
    "Qwen-2.5-1.5B": (55.7, 29.6, 6.6, 6.5, 0.0, 0.1, 12.5, 18.5),
    "Qwen-2.5-1.5B + SimpleRL-Zoo": (74.4, 59.0, 20.2, 21.0, 6.7, 4.2, 35.0, 36.1),
    "Qwen-2.5-7B": (88.2, 64.6, 25.7, 30.1, 3.3, 0.3, 30.0, 40.3),
    "Qwen-2.5-7B + SimpleRL-Zoo": (91.7, 78.2, 38.6, 40.4, 20.0, 15.6, 62.5, 55.2),
    "Qwen-2.5-Math-7B": (65.5, 63.6, 12.5, 25.8, 13.3, 8.6, 42.5, 37.2),
    "Qwen-2.5-Math-7B + SimpleRL-Zoo": (90.2, 80.2, 37.5, 39.0, 40.0, 24.0, 70.0, 59.5),
    "Qwen-2.5-14B": (91.6, 65.4, 24.3, 33.5, 6.7, 3.4, 37.5, 43.2),
    "Qwen-2.5-14B + SimpleRL-Zoo": (94.4, 80.2, 40.4, 44.9, 23.3, 14.2, 57.6, 56.8),
    "Qwen-2.5-32B": (92.9, 68.6, 27.9, 31.1, 10.0, 4.5, 45.0, 45.9),
    "Qwen-2.5-32B + SimpleRL-Zoo": (95.9, 82.4, 42.6, 46.4, 36.7, 27.2, 67.5, 61.9),
}
ZOO = {model: dict(zip(ZOO_COLUMNS, accuracies, strict=True)) for model, accuracies in _ZOO.items()}
TABLE_ZOO = {model: model for model in ZOO}  # the row's name in the table -> its key

ROWS = {**PUBLISHED, **ZOO}  # key -> {benchmark or "mean": accuracy in per cent}


def averaged_sets(key: str) -> tuple[str, ...]:
    """Return the benchmarks of a published row's average."""
    return ZOO_SETS if key in ZOO else SUITE5


# Experiment (conf/experiment) -> key of the published row that it reproduces.
ROW_OF_EXPERIMENT = {
    "simplerl_zero": "SimpleRL-Zero",
    "simplerl": "SimpleRL",
    "sft_math_8k": "Qwen2.5-Math-7B + 8K MATH SFT",
    "sft_qwq_8k": "Qwen2.5-Math-7B + 8K QwQ distillation",
    "eval_base": "Qwen2.5-Math-7B",
    "eval_instruct": "Qwen2.5-Math-7B-Instruct",
    "eval_llama_70b": "Llama-3.1-70B-Instruct",
    "eval_rstar": "rStar-Math-7B",
    "eval_eurus": "Eurus-2-7B-PRIME",
    "prime": "Eurus-2-7B-PRIME",
    "eval_simplerl_zero": "SimpleRL-Zero",
    "eval_simplerl": "SimpleRL",
    "zoo_mistral_7b": "Mistral-v0.1-7B + SimpleRL-Zoo",
    "zoo_llama3_1_8b": "Llama-3.1-8B + SimpleRL-Zoo",
    "zoo_deepseek_math_7b": "DeepSeek-Math-7B + SimpleRL-Zoo",
    "zoo_mistral_small_24b": "Mistral-Small-24B + SimpleRL-Zoo",
    "zoo_qwen2_5_0_5b": "Qwen-2.5-0.5B + SimpleRL-Zoo",
    "zoo_qwen2_5_1_5b": "Qwen-2.5-1.5B + SimpleRL-Zoo",
    "zoo_qwen2_5_7b": "Qwen-2.5-7B + SimpleRL-Zoo",
    "zoo_qwen2_5_math_7b": "Qwen-2.5-Math-7B + SimpleRL-Zoo",
    "zoo_qwen2_5_14b": "Qwen-2.5-14B + SimpleRL-Zoo",
    "zoo_qwen2_5_32b": "Qwen-2.5-32B + SimpleRL-Zoo",
}


def row_in_table(key: str, rows: Mapping[str, str]) -> str:
    """Return the key of the published row that a table shows for `key`: the table's own variant, such as
    'SimpleRL-Zero (table 3)', if it has one, otherwise `key`."""
    return next((own for own in rows.values() if own.partition(" (")[0] == key), key)
