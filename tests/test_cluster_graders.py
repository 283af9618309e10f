"""Grading in Ray actors: the verdicts of the local pool, also when actors are killed while they grade."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from simplerl.errors import ConfigError
from simplerl.rewards import strict
from simplerl.rewards.pool import Grader
from simplerl.types import Problem, Prompt, Rollout

if find_spec("ray") is None:
    pytest.skip("Ray is not installed (extras cpu or gpu)", allow_module_level=True)

from test_rewards_pool import acting, problem

from simplerl.backends import Lost
from simplerl.cluster.graders import RayLane, ray_grader

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def lanes(grader: Grader) -> list[RayLane]:
    """Those whose actor has started; waits until all have."""
    found = [lane for lane in grader.lanes if isinstance(lane, RayLane)]
    while not all(lane.pid for lane in found):
        time.sleep(0.05)
    return found


def test_verdicts_and_their_order_are_the_local_pools() -> None:
    prompts = [Prompt(Problem(f"p{i}", "", str(i)), "", ()) for i in range(20)]
    rollouts = [Rollout(p, s, rf"so \boxed{{{i + s}}}", (), (), "stop") for i, p in enumerate(prompts) for s in (1, 0)]
    with Grader(partial(strict)) as local, ray_grader(partial(strict), workers=2) as remote:
        want = local.grade(iter(rollouts), prompts)
        assert remote.grade(iter(rollouts), prompts) == want
        assert remote.metrics == local.metrics
    assert [r.score.correct for r in want if r.score][:4] == [True, False, True, False]


def test_a_bad_answer_costs_itself_alone() -> None:
    texts = ["fine"] * 3 + ["spin", "die", "raise"] + ["fine"] * 3
    with ray_grader(partial(acting), seconds_per_answer=1.0) as grader:
        scores = grader.grade_pairs((text, problem("p")) for text in texts)
        assert [s.status for s in scores] == ["equal"] * 3 + ["timeout", "failed", "failed"] + ["equal"] * 3
        assert grader.metrics["reward/timeout_fraction"] == pytest.approx(1 / 9)


def test_a_killed_grader_is_replaced_and_its_answers_are_graded_again(caplog: pytest.LogCaptureFixture) -> None:
    with ray_grader(partial(acting), workers=2) as grader:
        pids = [lane.pid for lane in lanes(grader)]

        def stream() -> Iterator[tuple[str, Problem]]:
            for number in range(24):
                if number == 14:
                    os.kill(pids[0], signal.SIGKILL)
                yield "sleep", problem(str(number))

        scores = grader.grade_pairs(stream())
        assert [s.status for s in scores] == ["equal"] * 24
        assert pids[0] not in [lane.pid for lane in lanes(grader)]
        assert "a grader is started again" in caplog.text
        os.kill(lanes(grader)[1].pid, signal.SIGKILL)  # while it has nothing to do
        assert [s.status for s in grader.grade_pairs([("fine", problem("p"))] * 40)] == ["equal"] * 40
        ends = [lane.pid for lane in lanes(grader)]
    assert not any(Path(f"/proc/{pid}/cmdline").exists() and _lives(pid) for pid in ends)


def _lives(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return Path(f"/proc/{pid}").exists()


def test_a_grader_that_dies_every_time_ends_in_an_error() -> None:
    with ray_grader(partial(acting), max_restarts=1) as grader:
        lane = lanes(grader)[0]
        started = lane.start

        def start_and_die() -> None:
            started()
            os.kill(lane.pid, signal.SIGKILL)

        lane.start = start_and_die  # type: ignore[method-assign]
        os.kill(lane.pid, signal.SIGKILL)
        with pytest.raises(Lost, match=r"a grader is lost: 2 of its processes"):
            grader.grade_pairs([("sleep", problem("p"))] * 3)


def test_a_reward_that_workers_cannot_load_is_refused() -> None:
    lane = RayLane(b"cno_such_module\nreward\n.", 8.0, 2.0, False, strategy="DEFAULT", max_restarts=1)
    with pytest.raises(ConfigError, match=r"(?s)cannot load the reward: .*no_such_module"):
        lane.start()
    lane.kill()
