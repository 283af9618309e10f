"""The README's code does what it says."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from simplerl.rewards.pool import Grader
from simplerl.types import Problem

ROOT = Path(__file__).resolve().parent.parent


def test_the_reward_of_the_readme(tmp_path: Path, monkeypatch: Any) -> None:
    (code,) = re.findall(r"```python\n(from dataclasses.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "my_rewards.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_rewards  # type: ignore[import-not-found]

    problem = Problem("1", "2 + 2?", "4")
    filler = "so " * 200
    responses = [r"\boxed{4}", filler + r"\boxed{4}", r"\boxed{5}", filler + r"\boxed{5}", filler]
    with Grader(partial(my_rewards.brief, limit=300)) as grader:
        scores = grader.grade_pairs([(response, problem) for response in responses])
        assert grader.failure_reward == -0.5
    assert [score.reward for score in scores] == [1.0, 0.5, -0.5, -0.5, -1.0]
