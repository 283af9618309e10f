"""Samples and grades a teacher's responses in chunks of problems, and writes all of them to samples.parquet.

A chunk has the same problems whenever and wherever it is sampled, and a response's seed is a hash of (seed, problem id,
sample). A chunk is written when it is complete, so a killed run samples at most one chunk again and never repeats or
loses a response. With `sampler=local` an interrupted run writes the same bytes as an uninterrupted one.

    chunks/000003.parquet    responses to the problems of a chunk, until all chunks are complete
    samples.parquet          all responses, in the order of the data and of the samples
    difficulty.jsonl         solve rate and pass@k of each problem
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simplerl.backends import Backend, attempts
from simplerl.config import Config
from simplerl.data.task import Task
from simplerl.distillation.selection import KEPT, Answer, choose
from simplerl.errors import ConfigError
from simplerl.evals.statistics import pass_at_k
from simplerl.io.files import atomic_file, read_parquet, write_text
from simplerl.runs.folder import Run
from simplerl.runs.progress import StepProgress
from simplerl.types import Prompt, Rollout, score_of

logger = logging.getLogger(__name__)

PHASE = "distill"
STEP = 0  # of the seeds of all responses
AGAIN = "remove it, and the same command samples its responses again"
SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("source", pa.string()),
        ("level", pa.string()),
        ("question", pa.string()),
        ("system", pa.string()),  # system message of the question's chat
        ("answer", pa.string()),  # the gold answer
        ("sample", pa.int32()),
        ("response", pa.string()),
        ("finish_reason", pa.string()),
        ("tokens", pa.int32()),  # of the response, with the stop token
        ("score", pa.float32()),  # reward by the grader
        ("correct", pa.bool_()),
        ("status", pa.string()),
        ("extracted", pa.string()),  # the answer found in the response; null: none
    ]
)


def sample_teacher(config: Config, task: Task, backend: Backend, run: Run) -> Path:
    """Sample and grade all responses, resuming after the last complete chunk. Returns samples.parquet. If an engine is
    lost, resume at most `backend.max_restarts` times. On a stop signal, raises `Interrupted`."""
    result, size = run.dir / "samples.parquet", config.teacher.problems_per_chunk
    chunks = [task.prompts[first : first + size] for first in range(0, len(task.prompts), size)]
    if not result.exists():
        with closing(backend):
            for attempt in attempts(backend, lambda restarts: run.set_status("running", restarts=restarts)):
                with attempt:
                    _sample_chunks(chunks, config, task, backend, run)
        _join([_chunk_file(run.dir, number) for number in range(len(chunks))], result)
    shutil.rmtree(run.dir / "chunks", ignore_errors=True)
    rows = pq.read_metadata(result).num_rows
    if rows != len(task.prompts) * config.teacher.samples:
        expected = len(task.prompts) * config.teacher.samples
        raise ConfigError(f"{result} has {rows} responses, not {expected}: {AGAIN}.")
    return result


def _chunk_file(folder: Path, number: int) -> Path:
    return folder / "chunks" / f"{number:06d}.parquet"


def _sample_chunks(chunks: Sequence[list[Prompt]], config: Config, task: Task, backend: Backend, run: Run) -> None:
    """Sample, grade and write the chunks that are not complete."""
    files = [_chunk_file(run.dir, number) for number in range(len(chunks))]
    waiting = [number for number, file in enumerate(files) if not file.exists()]
    accepted = [accepted_count(read_parquet(file, AGAIN, schema=SCHEMA), config) for file in files if file.exists()]
    run.begin(PHASE, len(accepted))
    if not waiting:
        return
    files[0].parent.mkdir(exist_ok=True)
    run.set_status("running", steps={PHASE: len(chunks)})
    with backend.grader(config.reward) as grader, StepProgress(PHASE, len(accepted), len(chunks)) as progress:
        grader.check_stop = run.check_stop
        sampler = backend.sampler(config.model.path)
        for number in waiting:
            progress.begin()
            began = time.perf_counter()
            stream = sampler.generate(
                chunks[number], task.sampling, task.format.stop, config.teacher.samples, config.seed, STEP
            )
            table = samples_table(grader.grade(run.interruptible(stream), chunks[number]))
            with atomic_file(files[number]) as temporary:
                pq.write_table(table, temporary)
            accepted.append(accepted_count(table, config))
            metrics = chunk_metrics(table, accepted, time.perf_counter() - began) | progress.times()
            run.log(PHASE, number, metrics)
            progress.end(metrics)


def samples_table(rollouts: Sequence[Rollout]) -> pa.Table:
    """Return graded rollouts as rows of samples.parquet, in order."""
    rows = []
    for rollout in rollouts:
        problem, score = rollout.prompt.problem, score_of(rollout)
        rows.append(
            {
                **{key: getattr(problem, key) for key in ("source", "level", "question", "system", "answer")},
                **{"problem_id": problem.id, "sample": rollout.sample, "response": rollout.text},
                **{"finish_reason": rollout.finish_reason, "tokens": len(rollout.token_ids)},
                **{"score": score.reward, "correct": score.correct, "status": score.status},
                "extracted": None if score.extracted is None else score.extracted.encode("utf-8", "replace").decode(),
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def answer_groups(table: pa.Table) -> Iterator[list[Answer]]:
    """Yield the answers to each problem; the rows of a problem are adjacent."""
    names = ("problem_id", "sample", "question", "response", "tokens", "finish_reason", "score", "correct")
    columns = [table[name].to_pylist() for name in names]
    for _, group in itertools.groupby(itertools.starmap(Answer, zip(*columns, strict=True)), lambda a: a.problem_id):
        yield list(group)


def accepted_count(table: pa.Table, config: Config) -> tuple[int, int]:
    """Return how many answers of a chunk are kept before near-duplicates are left out, and the number of answers."""
    reasons = [reason for group in answer_groups(table) for reason in choose(group, config.teacher)[1]]
    return reasons.count(KEPT), len(reasons)


def chunk_metrics(table: pa.Table, accepted: Sequence[tuple[int, int]], seconds: float) -> dict[str, float]:
    """Return the metrics of a chunk. accepted: (accepted responses, all responses) of each chunk so far, whose overall
    fraction is distill/accepted. seconds: that the chunk took."""
    kept, every = map(sum, zip(*accepted, strict=True))
    return {
        "distill/accepted": kept / every,
        "distill/correct": sum(table["correct"].to_pylist()) / len(table),
        "distill/responses_per_second": len(table) / seconds,
        "rollout/response_length": sum(table["tokens"].to_pylist()) / len(table),
        "time/sample_tokens_per_second": sum(table["tokens"].to_pylist()) / seconds,
    }


def _join(files: Sequence[Path], result: Path) -> None:
    """Write the rows of the chunks, one row group each, to one file."""
    with atomic_file(result) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for file in files:
            writer.write_table(read_parquet(file, AGAIN, schema=SCHEMA))


def difficulty_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return one row per problem, as in the difficulty file: id, level, number of samples and of correct ones, solve
    rate and pass@k."""
    levels = dict(zip(table["problem_id"].to_pylist(), table["level"].to_pylist(), strict=True))
    rows = []
    for group in answer_groups(table):
        count, correct = len(group), sum(answer.correct for answer in group)
        powers = [2**i for i in range(count.bit_length()) if 2**i < count]
        row = {"id": group[0].problem_id, "level": levels[group[0].problem_id], "samples": count, "correct": correct}
        passes = {f"pass@{k}": float(pass_at_k(count, [correct], k)[0]) for k in [*powers, count]}
        rows.append({**row, "solve_rate": correct / count, **passes})
    return rows


def write_difficulty(table: pa.Table, path: Path) -> None:
    """Write the difficulty file, which `data=solve_rate` and `algorithm/rollouts=difficulty_gate` read."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in difficulty_rows(table))
    write_text(path, "".join(lines))
