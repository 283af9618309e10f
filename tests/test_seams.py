"""Every seam of an algorithm (state, rollouts function, roles) survives a kill: the resumed run has the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from micro_runs import differences, outcome, run

from simplerl.samplers.local import LocalSampler

ALGORITHMS = {
    "state": ["algorithm=reinforce"],
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
    own = [*ALGORITHMS[name], "evals.every=0", "train.steps=3"]
    whole = run(tmp_path / "whole", *own)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            run(tmp_path / "broken", *own)
    broken = run(tmp_path / "broken", *own)
    assert differences(outcome(whole), outcome(broken)) == []
    states = [json.loads((folder / "checkpoints/step_000003/state.json").read_text()) for folder in (whole, broken)]
    assert states[0] == states[1]
    assert states[0]["state"] != {"rollouts": {}, "algorithm": None}, "the run has something to resume"
