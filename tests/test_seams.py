"""Every seam of an algorithm (state, rollouts function, roles) survives a kill: the resumed run has the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny
from micro_runs import ROOT, differences, outcome, rows, run
from transformers import AutoTokenizer

from simplerl.errors import ConfigError
from simplerl.samplers.local import LocalSampler

pytestmark = pytest.mark.slow  # trains or starts processes

ALGORITHMS = {  # overrides, and the batch of prompts in the middle of which the run is killed
    "state": (["algorithm=reinforce"], 2),
    "refill": (["algorithm=dapo"], 4),
    "role that is trained first": (["algorithm=prime", "algorithm.roles.prm.optimizer.lr=1e-3"], 2),
    "role with a model of its own": (["algorithm=on_policy_distillation"], 2),
}


class Killed(BaseException):
    """Ends an attempt where nothing in the engine expects it, as a kill does."""


def kill_at(patch: pytest.MonkeyPatch, batch: int, response: int = 3) -> None:
    """End the attempt in the middle of sampling the batch of prompts number `batch`."""
    real = LocalSampler.generate

    def generate(self: LocalSampler, *arguments: Any) -> Any:
        for i, rollout in enumerate(real(self, *arguments)):
            if arguments[-1] == batch and i == response:
                raise Killed
            yield rollout

    patch.setattr(LocalSampler, "generate", generate)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_killed_run_resumes_with_the_same_bits(name: str, tmp_path: Path) -> None:
    own, batch = ALGORITHMS[name]
    if name == "role with a model of its own":
        own = [*own, f"algorithm.roles.teacher.model={ROOT / 'assets/micro_base'}"]
    own = [*own, "evals.every=0", "train.steps=3"]
    whole = run(tmp_path / "whole", *own, own_reward="chance")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, batch)
        with pytest.raises(Killed):
            run(tmp_path / "broken", *own, own_reward="chance")
    broken = run(tmp_path / "broken", *own, own_reward="chance")
    assert differences(outcome(whole), outcome(broken)) == ["config.yaml"]  # its run.root
    states = [json.loads((folder / "checkpoints/step_000003/state.json").read_text()) for folder in (whole, broken)]
    assert states[0] == states[1]


def test_a_refill_trains_on_groups_with_spread_alone(tmp_path: Path) -> None:
    folder = run(tmp_path, "algorithm=dapo", "evals.every=0", "train.steps=2", own_reward="chance")
    steps = rows(folder)
    batches = json.loads((folder / "checkpoints/step_000002/state.json").read_text())["state"]["rollouts"]["batches"]
    assert batches > 2 and sum(row["rollout/sampled"] for row in steps if "rollout/sampled" in row) == 16 * batches
    for step in (0, 1):
        table = pq.read_table(folder / f"rollouts/step_{step:06d}.parquet").to_pandas()
        accuracy = table.groupby("problem_id")["correct"].mean()
        assert len(accuracy) == 4 and accuracy.between(0, 1, inclusive="neither").all()


def test_a_teacher_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny.policy(vocab_size=400).save_pretrained(other)
    AutoTokenizer.from_pretrained(ROOT / "assets/micro_base").save_pretrained(other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 299, "content": "<another>"})
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"algorithm.roles.teacher.model=.* has another vocabulary than model.path="):
        run(tmp_path / "runs", "algorithm=on_policy_distillation", f"algorithm.roles.teacher.model={other}")
