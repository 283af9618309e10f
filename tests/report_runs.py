"""Run folders with made-up responses, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from test_analysis_frames import write_run

from simplerl.runs.rollout_table import SCHEMA

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><!-- "
    "<style>body{display:none}</style> javascript:alert(1) {{x}} \\u003c $js ${nonce} \u2028"
)


def row(problem: str, step: int, sample: int, **changes: Any) -> dict[str, Any]:
    right = sample % 2 == 0
    text = (
        "```python\nprint(4)\n```"
        if sample == 3
        else f"First 2 + 2 = 4\nwait, recheck: 4\nThe answer is \\boxed{{{4 if right else 5}}}"
    )
    found = {
        **{
            "step": step,
            "problem_id": problem,
            "source": "s",
            "level": "1",
            "question": f"What is 2 + 2? ({problem})",
            "gold": "4",
        },
        **{
            "sample": sample,
            "prompt": f"Q: {problem}\nA:",
            "response": text,
            "finish_reason": "length" if sample == 3 else "stop",
        },
        **{
            "length": 10 + sample,
            "reward": 1.0 if right else -0.5,
            "correct": right,
            "status": "equal" if right else "different",
        },
        **{"extracted": "4" if right else "5", "parts": json.dumps({"boxed": 1.0}), "tokens": [1], "logprobs": [0.0]},
    }
    return found | changes


def with_responses(folder: Path, steps: int, problems: int, samples: int = 4, **changes: Any) -> Path:
    (folder / "rollouts").mkdir()
    for step in range(steps):
        rows = [row(f"p{i}", step, sample, **changes) for i in range(problems) for sample in range(samples)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / f"rollouts/step_{step:06d}.parquet")
        place = folder / f"evals/step_{step:06d}"
        place.mkdir(parents=True)
        (place / "results.json").write_text("{}")
        schema = pa.schema([("set", pa.string()), *SCHEMA])
        held_out = [{"set": "aime24", **row(f"h{i}", step, 0, **changes)} for i in range(problems)]
        pq.write_table(pa.Table.from_pylist(held_out, schema=schema), place / "samples.parquet")
    return folder


def metrics(steps: int) -> list[dict[str, float]]:
    return [
        {
            "step": step,
            "reward/mean": step / steps,
            "eval/aime24/accuracy": 0.1 + 0.01 * step,
            "eval/mean/accuracy": 0.1,
        }
        for step in range(steps)
    ]


def three_runs(root: Path) -> Path:
    """Two arms with 3 steps of 5 problems, and one whose texts attack the page."""
    for reward in ("strict", "lenient"):
        own = {"choices": {"reward": reward}, "reward": {"_target_": f"<b>{reward}</b>"}, "seed": 0}
        with_responses(write_run(root, reward, metrics(4), **own), 3, 5)
    own = {"choices": {"reward": HOSTILE}, "reward": {"_target_": HOSTILE}, "seed": 0}
    hostile = {"question": HOSTILE, "response": HOSTILE, "gold": HOSTILE, "extracted": HOSTILE, "prompt": HOSTILE}
    with_responses(write_run(root, "hostile", metrics(4), **own), 1, 2, **hostile)
    return root
