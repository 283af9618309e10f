"""The table format of rollouts, used for rollouts/*.parquet and for an evaluation's samples.parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from simplerl.types import Rollout, score_of

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("problem_id", pa.string()),
        ("source", pa.string()),
        ("level", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),  # the correct answer
        ("sample", pa.int32()),  # index from 0 among the samples of one prompt
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("finish_reason", pa.string()),
        ("length", pa.int32()),  # of the response in tokens, the stop token included
        ("reward", pa.float32()),
        ("correct", pa.bool_()),
        ("status", pa.string()),
        ("extracted", pa.string()),  # the answer found in the response; null: none
        ("parts", pa.string()),  # components of the reward, as a JSON object
        ("tokens", pa.list_(pa.int32())),  # of the response
        ("logprobs", pa.list_(pa.float32())),  # of these tokens, computed by the sampler
    ]
)


def rollout_table(rollouts: Sequence[Rollout], step: int) -> pa.Table:
    """Return graded rollouts of one step as a table, one row each, in order."""
    rows = []
    for rollout in rollouts:
        problem, score = rollout.prompt.problem, score_of(rollout)
        rows.append(
            {
                "step": step,
                "problem_id": problem.id,
                "source": problem.source,
                "level": problem.level,
                "question": problem.question,
                "gold": problem.answer,
                "sample": rollout.sample,
                "prompt": rollout.prompt.text,
                "response": rollout.text,
                "finish_reason": rollout.finish_reason,
                "length": len(rollout.token_ids),
                "reward": score.reward,
                "correct": score.correct,
                "status": score.status,
                "extracted": score.extracted,
                "parts": json.dumps(score.parts),
                "tokens": rollout.token_ids,
                "logprobs": rollout.logprobs,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)
