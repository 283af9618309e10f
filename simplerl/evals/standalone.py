"""Evaluate a model or checkpoint without training: implements evaluate.py."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from simplerl.config import Config
from simplerl.config.load import load
from simplerl.data.benchmarks import SUITE5, published_accuracy
from simplerl.data.inputs import input_digests, weights_digest
from simplerl.data.task import Task, check_model_available, check_rewards, prepare_evals
from simplerl.engine.models import context_length, load_hf_config, load_tokenizer
from simplerl.errors import ConfigError
from simplerl.evals.evaluate import Stream, evaluate, evaluation_reward
from simplerl.io.files import read_json, read_yaml
from simplerl.io.tables import Table, text_cells
from simplerl.io.terminal import terminal
from simplerl.rewards import FIXED_RULES
from simplerl.rewards.pool import Grader
from simplerl.runs.folder import Run
from simplerl.runs.status import AGAIN

logger = logging.getLogger(__name__)


def show(folder: Path) -> None:
    """Print the table of results of an evaluation."""
    folder = folder / "evals" / "step_000000"
    results = read_json(folder / "results.json", AGAIN, {"sets": dict, "mean": dict, "weights": str, "samples": int})
    console = terminal()
    console.print(results_table(results))
    console.print(f"{folder}/results.json and samples.parquet")


def evaluate_model(raw: DictConfig, label: str) -> Path:
    """Evaluate a model, or resume an unfinished evaluation; a finished one is not repeated. Returns the folder, laid
    out as a run folder with the results in evals/step_000000. `label` names a new folder.

    Raises ConfigError for invalid settings, before weights are loaded, and `Interrupted` after a stop signal."""
    _refuse_training_reward()
    config = load(raw)
    resolved: dict[str, Any] = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    if not config.evals.sets:
        raise ConfigError(
            "evals has no benchmarks: choose some, such as evals=suite8 evals.path=FOLDER or evals=micro."
        )
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    task = _task(config)
    compare_prompts(config)
    run = Run(config, resolved, label, "evaluation", input_digests(config, resolved, task))
    if run.already_finished():
        return run.dir
    logger.info("results folder: %s", run.dir)
    with run.recorded():
        run.begin("rl", 0)
        sampler, began = config.backend(config, task).sampler(config.model.path), time.monotonic()
        total = config.evals.samples * sum(map(len, task.evals.prompts.values()))
        weights = f"{config.model.path} {weights_digest(config.model)}"
        with Grader(evaluation_reward(config), **vars(config.grading)) as grader, _progress(total) as watch:
            grader.check_stop = run.check_stop

            def stream(responses: Stream) -> Stream:
                return run.interruptible(watch(responses))

            folder = run.eval_folder(0)
            metrics = evaluate(
                sampler, grader, task.evals, config.evals, config.seed, 0, folder, weights=weights, wrap_stream=stream
            )
        run.log("rl", 0, metrics | {"time/evaluate": time.monotonic() - began})
        run.write_summary(config.model.path)
    return run.dir


def _refuse_training_reward() -> None:
    """Raise ConfigError for `reward=...` on the command line of evaluate.py, where it would have no effect."""
    for override in HydraConfig.get().overrides.task if HydraConfig.initialized() else []:
        if found := re.fullmatch(r"\+*reward([.=].*)", override):
            remedy = f"reward@evals.reward{found[1]}" if found[1].startswith("=") else f"evals.reward{found[1]}"
            raise ConfigError(
                f"{override} sets the training reward, but evaluations are graded by evals.reward: write {remedy}."
            )


def _task(config: Config) -> Task:
    """Return a task with evaluation sets only; no training data is read."""
    check_model_available(config.model)
    tokenizer = load_tokenizer(config.model)
    evals = prepare_evals(config, tokenizer, context_length(config.model, load_hf_config(config.model)))
    check_rewards(config, tokenizer, [], evals)
    return Task(
        tokenizer=tokenizer,
        format=evals.format,
        sampling=evals.sampling,
        prompts=[],
        evals=evals,
        documents=[],
        schedule=None,
        seed=config.seed,
    )


def compare_prompts(config: Config) -> None:
    """Log a warning if a run's checkpoint is evaluated with a different prompt than in training, which may change the
    results. Models outside a run folder are not compared."""
    for folder in Path(config.model.path).resolve().parents:
        trained = folder / "config.yaml"
        if (folder / "status.json").exists() and trained.exists():
            trained_with = read_yaml(trained, AGAIN, {"prompt": dict})["prompt"].get("name")
            prompt = (config.evals.prompt or config.prompt).name
            if prompt != trained_with:
                message = "%s was trained with prompt=%s but is evaluated with prompt=%s."
                logger.warning(message, folder, trained_with, prompt)
            return


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Stream], Stream]]:
    """Yield a function that wraps a stream of `total` responses to show its progress: as a bar on a terminal, otherwise
    as a log line at every tenth."""
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


def results_table(results: dict[str, Any]) -> Table:
    """Return one row per benchmark, and their mean, for the contents of results.json.

    The columns are accuracy in per cent by `evals.reward` with its 95 % interval, pass@k and maj@k, the published
    accuracy, accuracy by the strict and the lenient rule, and statistics of the responses."""
    model, samples = results["weights"].split(" ")[0].split("@")[0], results["samples"]
    own_row = published_accuracy(model)
    sets = dict(results["sets"])
    if len(sets) > 1:
        sets["mean"] = results["mean"]
    rule = results["reward_keywords"].get("rule")
    caption = (
        f"{model}: prompt {results['prompt']}, {results['reward']}{f' by rule {rule}' if rule else ''}, "
        f"temperature {results['sampling']['temperature']}, "
        f"{samples} sample{'s' if samples > 1 else ''} of up to {results['sampling']['max_new_tokens']} tokens"
    )
    columns = ["benchmark", *_row(results["mean"], samples, None)]
    rows = []
    for name, one in sets.items():
        comparable = name != "mean" or set(results["sets"]) == set(SUITE5)  # the published mean is over these five
        rows.append(text_cells([name, *_row(one, samples, own_row.get(name) if comparable else None).values()]))
    rule_after = (len(sets) - 2,) if "mean" in sets else ()
    return Table("evaluation", caption, columns, rows, rule_after)


def _row(one: dict[str, Any], samples: int, published_accuracy: float | None) -> dict[str, str | None]:
    """Return the cells of one benchmark by column."""
    metrics, interval = one["metrics"], one["intervals"]["accuracy"]
    fate = "excluded" if one.get("too_long_excluded", True) else "counted as wrong"
    problems = {"without gold": one.get("ungradable"), f"too long, {fate}": one.get("too_long")}
    remarks = "".join(f" ({len(ids)} {what})" for what, ids in problems.items() if ids)
    cells = {
        "items": f"{one.get('items', '')}{remarks}",
        f"avg@{samples}" if samples > 1 else "accuracy": _percent(metrics["accuracy"]),
        "95 % interval": None
        if interval["se"] is None
        else f"{_percent(interval['low'])} to {_percent(interval['high'])}",
    }
    cells |= {key: _percent(value) for key, value in metrics.items() if "@" in key}
    cells["published"] = None if published_accuracy is None else str(published_accuracy)
    fixed = {rule: f"accuracy_{rule}" for rule in FIXED_RULES}
    cells |= {rule: _percent(metrics[key]) for rule, key in fixed.items() if key in metrics}
    return cells | {
        "tokens": f"{metrics['response_length']:.0f}",
        "if correct": _length(metrics, "response_length_correct"),
        "if incorrect": _length(metrics, "response_length_wrong"),
        "truncated": _percent(metrics["truncated_share"]),
        "boxed": _percent(metrics["box_share"]),
        "code": _percent(metrics["code_share"]),
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _length(metrics: dict[str, float], name: str) -> str | None:
    return f"{metrics[name]:.0f}" if name in metrics else None
