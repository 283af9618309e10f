"""Implements distill.py: sample a teacher, select its answers, and write a data set for SFT and a difficulty file.

The model of the configuration is the teacher; `prompt`, `data`, `sampling`, `sampler`, `backend` and `reward` are used
as in training, `teacher` selects the answers, and `evals.sets` are the benchmarks whose overlap is reported. The folder
is a run folder. Its responses are sampled once: the same command with other settings of `teacher` only selects again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import astuple
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from simplerl import __version__
from simplerl.config import Config
from simplerl.config.load import load
from simplerl.config.secrets import hide_secrets
from simplerl.data.inputs import input_digests, weights_digest
from simplerl.data.lengths import check_context
from simplerl.data.prompts import PromptFormat, generation_eos_ids
from simplerl.data.rows import settings_under
from simplerl.data.task import (
    EvalSets,
    Task,
    check_model_available,
    check_rewards,
    training_prompts,
    warn_about_toy_questions,
)
from simplerl.distillation.card import dataset_card, dropped_table, level_table, overlap_lines
from simplerl.distillation.dataset import (
    CARD,
    TRAIN,
    check_same_selection,
    counts,
    read_report,
    select_rows,
    selection_settings,
    training_table,
    write_data,
)
from simplerl.distillation.duplicates import benchmarks, check_available
from simplerl.distillation.samples import AGAIN, SCHEMA, sample_teacher, write_difficulty
from simplerl.engine.models import context_length, load_hf_config, load_tokenizer
from simplerl.errors import ConfigError, require
from simplerl.io.files import atomic_folder, read_parquet, write_text
from simplerl.io.places import spelled
from simplerl.io.terminal import terminal
from simplerl.rewards.pool import source_digest
from simplerl.rewards.returned import reward_name
from simplerl.runs.folder import Run
from simplerl.runs.identity import DISTILLATION
from simplerl.types import Problem, Sampling

logger = logging.getLogger(__name__)

Sets = dict[str, Sequence[Problem]]


def show(folder: Path) -> None:
    """Print the selection, acceptance by level and overlap of a data set, and how to train on it."""
    report, console = read_report(folder), terminal()
    for table in (dropped_table(report), level_table(report)):
        console.print(table)
    for line in overlap_lines(report):
        console.print(line, markup=False)
    run = folder.parent.parent
    print(f"Data set:   {folder}")
    print(f"Difficulty: {run / 'difficulty.jsonl'}")
    print(f"Fine-tune:  {spelled('train')} warmup=distilled warmup.data.path={folder}")


def distill(raw: DictConfig, label: str) -> Path:
    """Sample the teacher, or resume, and write the data set. Returns the folder of the data set; one that exists with
    the same settings is kept. `label` names a new run folder.

    Raises ConfigError for invalid settings, before a model is loaded, and `Interrupted` after a stop signal."""
    config = load(raw, trains=False)
    resolved: dict[str, Any] = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    _check_settings(config)
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    task, sets = prepare(config), load_benchmarks(config)
    run = Run(config, resolved, label, DISTILLATION, input_digests(config, resolved, task))
    folder = run.dir / "datasets" / (config.teacher.name or config.choices.get("teacher") or "selected")
    keep = {"function": reward_name(config.teacher.keep), **hide_secrets(config.teacher.keep.keywords)}
    selection = selection_settings(config.teacher, keep, {name: _digest(one) for name, one in sets.items()})
    try:
        exists = check_same_selection(folder, selection)
    except ConfigError:
        run.release()
        raise
    if run.finished and exists:
        run.already_finished()
        return folder
    logger.info("distillation folder: %s", run.dir)
    with run.recorded():
        samples = sample_teacher(config, task, config.backend(config, task), run)
        write_dataset(samples, folder, config, task, sets, selection)
    return folder


def _check_settings(config: Config) -> None:
    """Raise ConfigError for settings of `teacher` that cannot work."""
    teacher = config.teacher
    require(teacher.keep is not None, "teacher.keep is null: choose an option such as teacher=correct.")
    require(
        teacher.samples == 1 or config.sampling.temperature > 0,
        f"teacher.samples={teacher.samples} greedy responses are all the same: set a positive sampling.temperature, or "
        "teacher.samples=1.",
    )
    name = teacher.name or ""
    require(
        name == Path(name).name and not name.startswith("."),
        f"teacher.name={name} must be the name of a folder, without / and not starting with a dot.",
    )
    check_available(teacher.near_duplicates)


def prepare(config: Config) -> Task:
    """Return a task that has the prompts for the teacher, but no evaluation sets. Raises ConfigError if settings
    and data do not fit."""
    check_model_available(config.model)
    tokenizer = load_tokenizer(config.model)
    context = context_length(config.model, load_hf_config(config.model))
    eos_ids = generation_eos_ids(config.model.path, config.model.revision)
    format, sampling = PromptFormat(config.prompt, tokenizer, eos_ids), Sampling(**vars(config.sampling))
    check_context(config, context)
    prompts, evals = training_prompts(config, format, context), EvalSets({}, format, sampling)
    warn_about_toy_questions(config, len(tokenizer), prompts, evals)
    check_rewards(config, tokenizer, prompts, evals)
    return Task(tokenizer, format, sampling, prompts, evals, documents=[], schedule=None, seed=config.seed)


def load_benchmarks(config: Config) -> Sets:
    """Return the problems of the evaluation sets, all of them whatever `evals.limit` is."""
    found: Sets = {}
    for name, source in config.evals.sets.items():
        with settings_under(f"evals.sets.{name}"):
            found[name] = source()
    return found


def write_dataset(
    samples: Path, folder: Path, config: Config, task: Task, sets: Sets, selection: dict[str, Any]
) -> None:
    """Write the difficulty file beside `samples`, select answers, and write them with their card to `folder`,
    atomically.

    samples: samples.parquet. sets: evaluation sets whose questions may overlap with the problems. selection: settings
    of the selection, recorded in the card."""
    table = read_parquet(samples, AGAIN, schema=SCHEMA)
    difficulty = samples.with_name("difficulty.jsonl")
    write_difficulty(table, difficulty)
    logger.info("selecting among %d responses", len(table))
    reasons, overlap = select_rows(table, config.teacher, benchmarks(sets, config.teacher.overlap_words))
    report = {
        **describe(config, task),
        "selection": selection,
        "counts": counts(table, reasons),
        "overlap": overlap,
        "digests": {
            "problems": _digest([prompt.problem for prompt in task.prompts]),
            "samples.parquet": _file_digest(samples),
            "difficulty.jsonl": _file_digest(difficulty),
        },
    }
    rows = training_table(table, reasons, config.model.path, report)
    with atomic_folder(folder) as temporary:
        data = write_data(rows, temporary)
        digests = {**report["digests"], str(TRAIN): _file_digest(data)}
        write_text(temporary / CARD, dataset_card({**report, "digests": digests}))


def describe(config: Config, task: Task) -> dict[str, Any]:
    """Return the part of the report about teacher, sampling and grader."""
    model, prompt, sampling = config.model, config.prompt, config.sampling
    teacher = {
        "model": model.path,
        "revision": model.revision,
        "weights": weights_digest(model),
        "prompt": prompt.name,
        "stop strings": list(task.format.stop.strings),
        "stop tokens": [task.tokenizer.decode([token]) for token in task.format.stop.ids],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_new_tokens": sampling.max_new_tokens,
        "samples per problem": config.teacher.samples,
        "seed": config.seed,
        "seed of a response": "BLAKE2b of (seed, 0, sample, problem id)",
        "sampler": reward_name(config.sampler),
        "precision": config.sampler.keywords.get("precision"),
    }
    grader = {
        "reward": reward_name(config.reward),
        "keywords": hide_secrets(config.reward.keywords),
        "source": source_digest(config.reward),
        "simplerl": __version__,
        "math-verify": metadata.version("math-verify"),
    }
    return {"teacher": teacher, "grader": grader, "example": task.prompts[0].text, "license": config.teacher.license}


def _digest(problems: Sequence[Problem]) -> str:
    whole = hashlib.sha256()
    for problem in problems:
        whole.update(json.dumps(astuple(problem), default=str).encode())
    return whole.hexdigest()[:16]


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
