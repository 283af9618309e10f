"""Supervised fine-tuning: what is trained on, in which order, and the run that ends there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from micro_runs import WARM_UP, composed, model, rows, run
from transformers import AutoModelForCausalLM

from simplerl.config import Config
from simplerl.config.load import load
from simplerl.data.task import Task, prepare_task
from simplerl.errors import ConfigError
from simplerl.sft import documents_at, optimizer_steps
from simplerl.types import Batch


def prepared(tmp_path: Path, *overrides: str) -> tuple[Config, Task]:
    config = load(composed(tmp_path, *WARM_UP, "algorithm=none", *overrides))
    return config, prepare_task(config)


def hf_loss(model: torch.nn.Module, batch: Batch) -> float:
    """Hugging Face's own loss: mean over the labelled tokens of the minibatch."""
    labels = batch.tokens.masked_fill(~batch.mask, -100)
    with torch.no_grad():
        return float(model(batch.tokens, attention_mask=batch.attention.long(), labels=labels).loss)


def test_documents_are_prompt_and_response_with_its_stop(tmp_path: Path) -> None:
    config, task = prepared(tmp_path)
    problems = config.warmup.data()
    for problem, (prompt, response) in zip(problems, task.documents, strict=True):
        assert prompt == task.format.render(problem).token_ids
        assert response[-1] == task.format.stop.ids[0] and task.format.stop.ids[0] not in response[:-1]
        assert task.tokenizer.decode(response[:-1]) == problem.solution
    batch = documents_at(0, config, task)
    for row in range(len(batch)):
        trained = tuple(batch.tokens[row][batch.mask[row]].tolist())
        context = tuple(batch.tokens[row][batch.attention[row] & ~batch.mask[row]].tolist())
        assert (context, trained) in task.documents


def test_an_epoch_is_a_permutation_and_drops_its_rest(tmp_path: Path) -> None:
    config, task = prepared(tmp_path, "warmup.data.count=30", "warmup.epochs=3")
    assert optimizer_steps(config, task) == 9  # 30 // 8 = 3 a pass

    def order(step: int) -> list[tuple[int, ...]]:
        batch = documents_at(step, config, task)
        return [tuple(row[keep].tolist()) for row, keep in zip(batch.tokens, batch.attention, strict=True)]

    everything = [prompt + response for prompt, response in task.documents]
    assert len(set(everything)) == 30
    passes = [[d for step in range(3 * e, 3 * e + 3) for d in order(step)] for e in range(3)]
    for one in passes:
        assert len(set(one)) == 24 and set(one) <= set(everything)
    assert len({tuple(one) for one in passes}) == 3
    again, other = prepared(tmp_path), prepared(tmp_path, "seed=5")
    assert torch.equal(documents_at(1, *again).tokens, documents_at(1, *prepared(tmp_path)).tokens)
    assert not torch.equal(documents_at(1, *again).tokens, documents_at(1, *other).tokens)


def test_long_documents_are_dropped_and_too_few_are_refused(tmp_path: Path) -> None:
    _, task = prepared(tmp_path)
    lengths = sorted(len(prompt) + len(response) for prompt, response in task.documents)
    middle = lengths[len(lengths) // 2]
    _, shorter = prepared(tmp_path, f"warmup.max_tokens={middle}")
    assert len(shorter.documents) == sum(length <= middle for length in lengths) < len(lengths)
    with pytest.raises(
        ConfigError, match=r"documents of the warm-up have \d+ tokens or more, which exceeds warmup.max_tokens"
    ):
        prepared(tmp_path, "warmup.max_tokens=3")


def test_a_baseline_of_supervised_fine_tuning(tmp_path: Path) -> None:
    overrides = [*WARM_UP, "algorithm=none", "warmup.epochs=3", "warmup.optimizer.lr=1e-2"]
    folder = run(tmp_path, *overrides)
    lines = rows(folder)
    losses = [m["warmup/loss"] for m in lines if m["phase"] == "warmup"]
    assert len(losses) == 12
    config = load(composed(tmp_path, *overrides))
    task = prepare_task(config)
    base = AutoModelForCausalLM.from_pretrained(model())
    assert losses[0] == pytest.approx(hf_loss(base, documents_at(0, config, task)), abs=1e-5)
    result = json.loads((folder / "summary.json").read_text())["model"]
    assert Path(result) == folder / "warmup/model/policy"
    tuned = AutoModelForCausalLM.from_pretrained(result)
    batches = [documents_at(step, config, task) for step in range(4)]  # one pass
    assert sum(hf_loss(tuned, b) for b in batches) < 0.8 * sum(hf_loss(base, b) for b in batches)
    assert [(m["phase"], m["step"]) for m in lines if "eval/mean/accuracy" in m] == [("rl", 0)]
    assert not (folder / "rollouts").exists() and not (folder / "checkpoints").exists()


def test_only_right_solutions_where_the_configuration_says_so(tmp_path: Path) -> None:
    _, everything = prepared(tmp_path)
    config, some = prepared(tmp_path, "warmup.correct_only=true")
    right = [config.reward(p.solution or "", p).correct for p in config.warmup.data()]
    assert 0 < len(some.documents) == sum(right) < len(everything.documents)


def test_rl_starts_from_the_warm_up(small_run: Path) -> None:
    lines = rows(small_run)
    first = next(m for m in lines if m["phase"] == "rl" and m["step"] == 0)
    assert first["rollout/kl"] == pytest.approx(0.0, abs=1e-6)  # the reference is the warmed-up model, not the base
