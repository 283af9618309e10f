"""Tests the grading pool: order, overlap with sampling, and workers that hang, use up memory, die or fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from light_rewards import generation

from simplerl.errors import ConfigError
from simplerl.rewards import strict
from simplerl.rewards.pool import Grader
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Problem, Prompt, Response, Rollout, Score


def acting(response: str, problem: Problem, *, wrong: float = -0.5) -> Score:  # noqa: PLR0912
    """Do to the worker process what the response says: a user's reward that misbehaves."""
    match response.split():
        case ["spin"]:
            while True:
                pass
        case ["eat"]:
            hoard = []
            while True:
                hoard.append(bytearray(2**26))
        case ["die"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["raise"]:
            raise KeyError("no such thing")
        case ["exit"]:
            sys.exit(3)
        case ["pid"]:
            return Score(float(os.getpid()), True, "equal")
        case ["sleep"]:
            time.sleep(0.3)
        case ["nan"]:
            return Score(float("nan"), True, "equal")
        case ["word"]:
            return Score(1.0, True, "equal", parts={"length": "long"})  # type: ignore[dict-item]
        case ["undecided"]:
            return Score(1.0, None, "equal")  # type: ignore[arg-type]
        case ["nothing"]:
            return None  # type: ignore[return-value]
    return Score(1.0, True, "equal", response)


def problem(name: str, answer: str = "3") -> Problem:
    return Problem(id=name, question="", answer=answer)


def rollout(name: str, sample: int, text: str) -> Rollout:
    return Rollout(Prompt(problem(name), "", ()), sample, text, (), (), "stop")


def test_scores_come_back_in_prompt_and_sample_order() -> None:
    prompts = [Prompt(problem(name), "", ()) for name in ("b", "a")]
    stream = [rollout("a", 1, r"\boxed{3}"), rollout("b", 0, "3"), rollout("a", 0, r"\boxed{4}")]
    with Grader(partial(strict)) as grader:
        by_prompt = grader.grade(iter(stream), prompts)
        by_id = grader.grade(iter(stream))
    seen = [(r.prompt.problem.id, r.sample, r.score.reward) for r in by_prompt if r.score]
    assert seen == [("b", 0, -1.0), ("a", 0, -0.5), ("a", 1, 1.0)]
    assert [(r.prompt.problem.id, r.sample) for r in by_id] == [("a", 0), ("a", 1), ("b", 0)]


@pytest.mark.parametrize(
    ("act", "status", "metric"),
    [
        ("spin", "timeout", "reward/timeout_fraction"),
        ("eat", "failed", "reward/failed_fraction"),
        ("die", "failed", "reward/failed_fraction"),
        ("raise", "failed", "reward/failed_fraction"),
        ("exit", "failed", "reward/failed_fraction"),
        ("nothing", "failed", "reward/failed_fraction"),
        ("nan", "failed", "reward/failed_fraction"),
        ("word", "failed", "reward/failed_fraction"),
        ("undecided", "failed", "reward/failed_fraction"),
    ],
)
def test_a_bad_answer_fails_alone_and_the_pool_recovers(act: str, status: str, metric: str) -> None:
    texts = ["fine"] * 5 + [act] + ["fine"] * 4
    with Grader(
        partial(acting, wrong=-0.25), seconds_per_answer=0.7 if act == "spin" else 60, memory_gib=1.0
    ) as grader:
        scores = grader.grade_pairs((text, problem("p")) for text in texts)
        assert [s.status for s in scores] == ["equal"] * 5 + [status] + ["equal"] * 4
        assert scores[5] == Score(-0.25, False, status)
        assert grader.metrics[metric] == pytest.approx(0.1)
        assert sum(grader.metrics.values()) == pytest.approx(0.1)
        again = grader.grade_pairs([("fine", problem("p"))] * 3)
        assert [s.status for s in again] == ["equal"] * 3
        assert sum(grader.metrics.values()) == 0


def test_every_worker_is_replaced_when_all_spin() -> None:
    with Grader(partial(acting), workers=2, seconds_per_answer=0.5) as grader:
        scores = grader.grade_pairs((text, problem("p")) for text in ["spin", "spin", "spin", "fine"])
    assert [s.status for s in scores] == ["timeout", "timeout", "timeout", "equal"]


def test_a_reward_that_always_fails_stops_the_run() -> None:
    with Grader(partial(acting)) as grader, pytest.raises(RuntimeError, match=r"(?s)failed on all 20 .*no such thing"):
        grader.grade_pairs([("raise", problem("p"))] * 20)


def test_grading_overlaps_a_blocked_stream() -> None:
    """While the stream waits for its next response, the answers received so far are graded."""
    waited: list[float] = []

    def stream() -> Iterator[tuple[str, Problem]]:
        yield "fine", problem("p")
        time.sleep(0.2)
        for _ in range(3):
            yield "sleep", problem("p")
        time.sleep(1.5)
        waited.append(time.monotonic())

    with Grader(partial(acting)) as grader:
        grader.grade_pairs([("fine", problem("p"))])
        grader.grade_pairs(stream())
        tail = time.monotonic() - waited[0]
    assert tail < 0.6, "the 0.9 s of work should be done while the stream sleeps 1.5 s"


def test_a_failing_stream_leaves_the_pool_usable() -> None:
    def broken() -> Iterator[tuple[str, Problem]]:
        yield "fine", problem("p")
        raise OSError("sampler died")

    with Grader(partial(acting)) as grader:
        with pytest.raises(OSError, match="sampler died"):
            grader.grade_pairs(broken())
        assert grader.grade_pairs([("fine", problem("p"))])[0].correct
        assert grader.grade_pairs([]) == []


def test_works_from_a_thread_that_is_not_the_main_one() -> None:
    scores: list[Score] = []

    def body() -> None:
        with Grader(partial(strict)) as grader:
            scores.extend(grader.grade_pairs([(r"\boxed{x+1}", problem("p", "1+x")), (r"\boxed{x}", problem("q"))]))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert [s.status for s in scores] == ["equal", "different"]


def test_workers_end_with_the_grader() -> None:
    with Grader(partial(acting)) as grader:
        pid = int(grader.grade_pairs([("pid", problem("p"))])[0].reward)
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_spinning_worker_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os\n"
        "from functools import partial\n"
        "from test_rewards_pool import acting, problem\n"
        "from simplerl.rewards.pool import Grader\n"
        "with Grader(partial(acting), seconds_per_answer=60) as g:\n"
        "    print(int(g.grade_pairs([('pid', problem('p'))])[0].reward), flush=True)\n"
        "    g.grade_pairs([('spin', problem('p'))])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists() and "Z" not in _state(pid):
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists() or "Z" in _state(pid)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"


@pytest.mark.parametrize("reward", [lambda response, problem: None, partial(acting, wrong=threading.Lock())])
def test_a_reward_that_cannot_be_pickled_is_refused(reward: object) -> None:
    with pytest.raises(ConfigError, match="cannot be sent to the grading workers"):
        Grader(reward)  # type: ignore[arg-type]


GENERATED = {  # text: (tokens, finish reason), and what the reward `generation` must report of them
    "stopped": (
        (7, 8, 150_000),
        FINISH_STOP,
        Score(150_015.0, True, "stop", "stopped", {"length": 3.0, "truncated": 0.0}),
    ),
    "cut": ((9, 1), FINISH_LENGTH, Score(10.0, False, "length", "cut", {"length": 2.0, "truncated": 1.0})),
    "empty": ((), FINISH_STOP, Score(0.0, False, "stop", "empty", {"length": 0.0, "truncated": 0.0})),
}


def generated() -> list[Rollout]:
    prompt = Prompt(problem("p"), "", ())
    return [
        Rollout(prompt, i, text, tokens, (0.0,) * len(tokens), finish)
        for i, (text, (tokens, finish, _)) in enumerate(GENERATED.items())
    ]


def test_a_reward_reads_tokens_finish_reason_and_truncation() -> None:
    expected = [score for _, _, score in GENERATED.values()]
    with Grader(generation) as grader:
        scores = [rollout.score for rollout in grader.grade(generated())]
        assert scores == expected
        assert all(type(score.extracted) is str for score in scores if score)
        assert grader.grade_pairs([("empty", problem("p"))]) == expected[2:]  # a plain string has no tokens


def test_pairs_may_be_responses() -> None:
    pairs = [(Response(text, *how), problem("p")) for text, (*how, _) in GENERATED.items()]
    with Grader(generation) as grader:
        assert grader.grade_pairs(pairs) == [score for _, _, score in GENERATED.values()]


def test_a_grader_outside_its_context_is_refused() -> None:
    with pytest.raises(RuntimeError, match="with Grader"):
        Grader(partial(strict)).grade_pairs([])
