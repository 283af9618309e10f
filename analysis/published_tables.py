"""Lists the rows of tables 1 to 3 of the SimpleRL blog post; numbers and headings are in `simplerl.data.benchmarks`."""

from __future__ import annotations

from collections.abc import Mapping

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
}


def row_in_table(key: str, rows: Mapping[str, str]) -> str:
    """Return the key of the published row that a table shows for `key`: the table's own variant, such as
    'SimpleRL-Zero (table 3)', if it has one, otherwise `key`."""
    return next((own for own in rows.values() if own.partition(" (")[0] == key), key)
