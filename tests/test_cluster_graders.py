"""Tests that Ray graders give the same scores as the local pool, also if actors are killed while they grade."""

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

from bad_rewards import acting
from light_rewards import generation
from test_rewards_pool import GENERATED, generated, problem

from simplerl.cluster.graders import RayGradingWorker, ray_grader
from simplerl.errors import Lost

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def workers(grader: Grader) -> list[RayGradingWorker]:
    """Return the grader's workers once all of their actors have started."""
    found = [worker for worker in grader.workers if isinstance(worker, RayGradingWorker)]
    while not all(worker.pid for worker in found):
        time.sleep(0.05)
    return found


def test_scores_and_their_order_are_those_of_the_local_pool() -> None:
    prompts = [Prompt(Problem(f"p{i}", "", str(i)), "", ()) for i in range(20)]
    rollouts = [Rollout(p, s, rf"so \boxed{{{i + s}}}", (), (), "stop") for i, p in enumerate(prompts) for s in (1, 0)]
    with Grader(partial(strict)) as local, ray_grader(partial(strict), workers=2) as remote:
        expected = local.grade(iter(rollouts), prompts)
        assert remote.grade(iter(rollouts), prompts) == expected
        assert remote.metrics == local.metrics
    assert [r.score.correct for r in expected if r.score][:4] == [True, False, True, False]


def test_a_reward_reads_tokens_finish_reason_and_truncation() -> None:
    with ray_grader(generation) as grader:
        assert [rollout.score for rollout in grader.grade(generated())] == [score for _, _, score in GENERATED.values()]


def test_a_bad_answer_fails_alone() -> None:
    texts = ["fine"] * 3 + ["spin", "die", "raise"] + ["fine"] * 3
    with ray_grader(partial(acting), seconds_per_answer=1.0) as grader:
        scores = grader.grade_pairs((text, problem("p")) for text in texts)
        assert [s.status for s in scores] == ["equal"] * 3 + ["timeout", "failed", "failed"] + ["equal"] * 3
        assert grader.metrics["reward/timeout_fraction"] == pytest.approx(1 / 9)


def test_a_killed_grader_is_replaced_and_its_answers_are_graded_again(caplog: pytest.LogCaptureFixture) -> None:
    with ray_grader(partial(acting), workers=2) as grader:
        pids = [worker.pid for worker in workers(grader)]

        def stream() -> Iterator[tuple[str, Problem]]:
            for number in range(24):
                if number == 14:
                    os.kill(pids[0], signal.SIGKILL)
                yield "sleep", problem(str(number))

        scores = grader.grade_pairs(stream())
        assert [s.status for s in scores] == ["equal"] * 24
        assert pids[0] not in [worker.pid for worker in workers(grader)]
        assert "A grader died and is restarted" in caplog.text
        os.kill(workers(grader)[1].pid, signal.SIGKILL)  # while it is idle
        assert [s.status for s in grader.grade_pairs([("fine", problem("p"))] * 40)] == ["equal"] * 40
        last_pids = [worker.pid for worker in workers(grader)]
    assert not any(_still_exists(pid) for pid in last_pids)


def _still_exists(pid: int) -> bool:
    """Return whether a process still exists after waiting up to 20 s for its end."""
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return Path(f"/proc/{pid}").exists()


def test_a_grader_that_keeps_dying_raises_lost() -> None:
    with ray_grader(partial(acting), max_restarts=1) as grader:
        worker = workers(grader)[0]
        start = worker.start

        def start_and_die() -> None:
            start()
            os.kill(worker.pid, signal.SIGKILL)

        worker.start = start_and_die  # type: ignore[method-assign]
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(Lost, match=r"a grader is lost: 2 of its processes died in a row"):
            grader.grade_pairs([("sleep", problem("p"))] * 3)


def test_a_reward_that_workers_cannot_load_is_refused() -> None:
    payload = b"cno_such_module\nreward\n."
    worker = RayGradingWorker(payload, 8.0, 2.0, False, strategy="DEFAULT", max_restarts=1)
    with pytest.raises(ConfigError, match=r"(?s)cannot load the reward; .*no_such_module"):
        worker.start()
    worker.kill()
