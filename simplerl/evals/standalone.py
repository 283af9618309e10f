"""Evaluation alone: a model, some benchmarks, a folder of results and a table; what evaluate.py calls."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from simplerl.config import Config, ModelConfig
from simplerl.config.load import load
from simplerl.data.benchmarks import SUITE5, published_accuracy
from simplerl.data.task import Task, prepare_evals, require_model
from simplerl.engine.models import context_of, load_hf_config, load_tokenizer
from simplerl.errors import ConfigError
from simplerl.evals.evaluate import Stream, evaluate
from simplerl.io.files import read_json, read_yaml
from simplerl.rewards.pool import Grader
from simplerl.runs.folder import run_folder

logger = logging.getLogger(__name__)


def main(raw: DictConfig) -> None:
    """Evaluates what `raw` describes and prints the table; a bad configuration ends with one sentence and status 2."""
    hydra = HydraConfig.get()
    OmegaConf.set_readonly(raw, False)
    raw.choices = {group: str(choice) for group, choice in hydra.runtime.choices.items() if "hydra/" not in group}
    try:
        out = evaluate_model(raw, label=f"eval_{hydra.job.override_dirname}")
    except ConfigError as error:
        print(f"Configuration: {error}", file=sys.stderr)
        sys.exit(2)
    results = read_json(out / "results.json")
    console = Console()
    if not console.is_terminal:  # a log has no width that the table should shrink to
        console = Console(width=160)
    console.print(table(results))
    console.print(f"{out}/results.json and samples.parquet", soft_wrap=True)


def evaluate_model(raw: DictConfig, label: str) -> Path:
    """The folder with the results. All settings are checked before weights load."""
    config = load(raw)
    resolved: dict[str, Any] = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    if not config.evals.sets:
        raise ConfigError("evals has no sets: choose one, such as evals=suite8 evals.path=FOLDER or evals=micro.")
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    task = _task(config)
    compare_prompts(config)
    out = run_folder(resolved, label)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}): set run.root or run.dir.") from error
    logger.info("results folder: %s", out)
    sampler = config.backend(config, task).sampler(config.model.path)
    total = config.evals.samples * sum(map(len, task.evals.prompts.values()))
    with Grader(config.evals.reward or config.reward, **vars(config.grading)) as grader, _progress(total) as watch:
        weights = fingerprint(config.model)
        evaluate(sampler, grader, task.evals, config.evals, config.seed, 0, out, weights=weights, wrap_stream=watch)
    return out


def _task(config: Config) -> Task:
    """Of evaluation only: no training data is read."""
    require_model(config.model)
    tokenizer = load_tokenizer(config.model)
    evals = prepare_evals(config, tokenizer, context_of(config.model, load_hf_config(config.model)))
    return Task(
        tokenizer=tokenizer,
        format=evals.format,
        sampling=evals.sampling,
        prompts=[],
        evals=evals,
        documents=[],
        arithmetic=None,
        seed=config.seed,
    )


def compare_prompts(config: Config) -> None:
    """A checkpoint that is asked otherwise than in its training may answer otherwise: said, and allowed."""
    for folder in Path(config.model.path).resolve().parents:
        trained = folder / "config.yaml"
        if (folder / "status.json").exists() and trained.exists():
            then = read_yaml(trained)["prompt"]["name"]
            now = (config.evals.prompt or config.prompt).name
            if then != now:
                logger.warning("%s was trained with prompt=%s and is asked with prompt=%s.", folder, then, now)
            return


def fingerprint(model: ModelConfig) -> str:
    """What tells weights from others: hub id and revision, or the folder with its files' sizes and times."""
    folder = Path(model.path)
    if not folder.is_dir():
        return f"{model.path}@{model.revision or 'main'}"
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    return f"{model.path} " + " ".join(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Stream], Stream]]:
    """Counts finished responses: a bar on a terminal, elsewhere a line at every tenth."""
    console = Console()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    row = bar.add_task("responses", total=total)

    def watch(stream: Stream) -> Stream:
        for count, rollout in enumerate(stream, start=1):
            bar.advance(row)
            if not console.is_terminal and count % max(1, total // 10) == 0:
                logger.info("%d of %d responses", count, total)
            yield rollout

    with bar:
        yield watch


def table(results: dict[str, Any]) -> Table:
    """Accuracy in per cent with its 95 % interval, the published number where there is one, and what responses look
    like."""
    model, samples = results["weights"].split(" ")[0].split("@")[0], results["samples"]
    beside = published_accuracy(model)
    sets = dict(results["sets"])
    if len(sets) > 1:
        sets["mean"] = results["mean"]
    rule = results["reward_keywords"].get("rule")
    title = (
        f"{model}: prompt {results['prompt']}, {results['reward']}{f' by rule {rule}' if rule else ''}, "
        f"temperature {results['sampling']['temperature']}, "
        f"{samples} sample{'s' if samples > 1 else ''} of up to {results['sampling']['max_new_tokens']} tokens"
    )
    found = Table("benchmark", title=title, title_justify="left")
    for name in _cells("", results["mean"], samples, beside, ""):
        found.add_column(name, justify="right")
    for name, one in sets.items():
        if name == "mean":
            found.add_section()
        comparable = name != "mean" or set(results["sets"]) == set(SUITE5)
        found.add_row(name, *_cells(name, one, samples, beside if comparable else {}, "-").values())
    return found


def _cells(name: str, one: dict[str, Any], samples: int, beside: dict[str, float], absent: str) -> dict[str, str]:
    """One row: column -> what stands there."""
    metrics, interval = one["metrics"], one["intervals"]["accuracy"]
    notes = {"without gold": one.get("ungradable"), "too long, left out": one.get("too_long")}
    noted = "".join(f" ({len(ids)} {what})" for what, ids in notes.items() if ids)
    cells = {
        "items": f"{one.get('items', '')}{noted}",
        f"avg@{samples}" if samples > 1 else "accuracy": _percent(metrics["accuracy"]),
        "95 % interval": f"{_percent(interval['low'])} to {_percent(interval['high'])}"
        if interval["se"] is not None
        else absent,
    }
    cells |= {key: _percent(value) for key, value in metrics.items() if "@" in key}
    cells["published"] = str(beside.get(name, absent))
    cells |= {
        "tokens": f"{metrics['response_length']:.0f}",
        "if right": _length(metrics, "response_length_correct", absent),
        "if wrong": _length(metrics, "response_length_wrong", absent),
        "cut off": _percent(metrics["truncated_share"]),
        "boxed": _percent(metrics["box_share"]),
        "code": _percent(metrics["code_share"]),
    }
    return cells


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _length(metrics: dict[str, float], name: str, absent: str) -> str:
    return f"{metrics[name]:.0f}" if name in metrics else absent
