"""Defines the table format of rollouts, used for rollouts/*.parquet and for an evaluation's samples.parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from simplerl.types import Batch, Rollout, Score, score_of

# Column -> its type, and its value for a rollout and its score.
COLUMNS: dict[str, tuple[pa.DataType, Callable[[Rollout, Score], Any]]] = {
    "problem_id": (pa.string(), lambda rollout, _: rollout.prompt.problem.id),
    "source": (pa.string(), lambda rollout, _: rollout.prompt.problem.source),
    "level": (pa.string(), lambda rollout, _: rollout.prompt.problem.level),
    "question": (pa.string(), lambda rollout, _: rollout.prompt.problem.question),
    "gold": (pa.string(), lambda rollout, _: rollout.prompt.problem.answer),  # the correct answer
    "sample": (pa.int32(), lambda rollout, _: rollout.sample),  # index from 0 among the samples of one prompt
    "prompt": (pa.string(), lambda rollout, _: rollout.prompt.text),
    "response": (pa.string(), lambda rollout, _: rollout.text),
    "finish_reason": (pa.string(), lambda rollout, _: rollout.finish_reason),
    "length": (pa.int32(), lambda rollout, _: len(rollout.token_ids)),  # tokens of the response with its stop token
    "reward": (pa.float32(), lambda _, score: score.reward),
    "correct": (pa.bool_(), lambda _, score: score.correct),
    "status": (pa.string(), lambda _, score: score.status),
    "extracted": (pa.string(), lambda _, score: score.extracted),  # the answer found in the response; null: none
    "parts": (pa.string(), lambda _, score: json.dumps(score.parts)),  # components of the reward, as a JSON object
    "tokens": (pa.list_(pa.int32()), lambda rollout, _: rollout.token_ids),  # token ids of the response
    "logprobs": (pa.list_(pa.float32()), lambda rollout, _: rollout.logprobs),  # of `tokens`, from the sampler
}
TRAINER_LOGPROBS = "trainer_logprobs"  # of `tokens`, from the policy before the update; with run.trainer_logprobs=true
SCHEMA = pa.schema([("step", pa.int32()), *((name, kind) for name, (kind, _) in COLUMNS.items())])


def _encodable(text: str | None) -> str | None:
    """Return the text with "?" in place of lone surrogates, which UTF-8 cannot encode."""
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def rollout_table(rollouts: Sequence[Rollout], step: int, batch: Batch | None = None) -> pa.Table:
    """Return graded rollouts of one step as a table, one row each, in order. batch: the same rollouts after scoring,
    whose log-probs become the column trainer_logprobs."""
    graded = [(rollout, score_of(rollout)) for rollout in rollouts]
    columns = {name: [value(*pair) for pair in graded] for name, (_, value) in COLUMNS.items()}
    for name, (kind, _) in COLUMNS.items():
        if kind == pa.string():
            columns[name] = [_encodable(text) for text in columns[name]]
    table = pa.table({"step": [step] * len(graded), **columns}, schema=SCHEMA)
    if batch is None or batch.logprobs is None:
        return table
    trained = [row[mask].tolist() for row, mask in zip(batch.logprobs, batch.mask, strict=True)]
    return table.append_column(TRAINER_LOGPROBS, pa.array(trained, pa.list_(pa.float32())))
