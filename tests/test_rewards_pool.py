"""Tests the grading pool: order, overlap with sampling, and workers that hang, use up memory, die or fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from bad_rewards import UNUSABLE, USABLE, acting, lazy, raising, returning, returning_none, sleeping, spawning, working
from light_rewards import generation

from simplerl.errors import ConfigError
from simplerl.evals.metrics import rollout_metrics
from simplerl.rewards import WithFixedRules, pool, strict, trl, verl, worker
from simplerl.rewards.pool import Grader, check_reward
from simplerl.rewards.returned import RESERVED_PARTS
from simplerl.rewards.worker import LocalGradingWorker
from simplerl.runs.rollout_table import rollout_table
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Problem, Prompt, Response, Reward, Rollout, Score

pytestmark = pytest.mark.slow  # trains or starts processes


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
    ("deed", "status", "reason"),
    [
        ("spin", "timeout", ""),
        ("regex", "timeout", ""),
        ("sleep long", "timeout", ""),
        ("stop", "timeout", ""),
        ("close files", "failed", "closed its connection"),
        ("close files and return", "failed", "grading process"),
        ("end with a thread", "failed", "grading process died"),
        ("write to all files", "failed", "the grading process sent"),
        ("answer in a child", "failed", "the grading process sent an unexpected message"),
        ("eat", "failed", "MemoryError"),
        ("die", "failed", "grading process died (exit status -9)"),
        ("quit", "failed", "grading process died (exit status 0)"),
        ("raise", "failed", "KeyError: 'no such thing'"),
        ("exit", "failed", "SystemExit: 3"),
        ("fork and exit", "equal", ""),
        ("fork and return", "equal", ""),
        ("fork without python", "equal", ""),
        ("use more processes", "equal", ""),
        ("print", "equal", ""),
    ],
)
def test_a_bad_answer_costs_at_most_itself(
    deed: str, status: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each other answer gets its own verdict, also those of the next call, and the next call costs nothing."""
    texts = [f"fine {i}" for i in range(5)] + [deed] + [f"fine {i}" for i in range(5, 9)]
    limit = 0.5 if status == "timeout" else 20
    with Grader(partial(acting, wrong=-0.25), seconds_per_answer=limit, memory_gib=1.0) as grader:
        scores = grader.grade_pairs((text, problem("p")) for text in texts)
        own = Score(1.0, True, "equal", deed) if status == "equal" else Score(-0.25, False, status)
        assert scores == [own if text == deed else Score(1.0, True, "equal", text) for text in texts]
        assert grader.metrics == {
            f"reward/{kind}_fraction": pytest.approx(0.1 * (kind == status)) for kind in ("timeout", "failed")
        }
        assert reason in caplog.text
        texts = [f"again {i}" for i in range(40)]
        assert [score.extracted for score in grader.grade_pairs((text, problem("p")) for text in texts)] == texts
        assert sum(grader.metrics.values()) == 0


def test_a_timer_that_is_left_running_interrupts_no_later_answer() -> None:
    with Grader(acting) as grader:
        scores = grader.grade_pairs([("leave a timer", problem("p")), ("sleep", problem("p"))])
    assert [score.status for score in scores] == ["equal", "equal"]


def test_a_thread_that_holds_the_interpreter_costs_no_later_answer() -> None:
    """The next chunk is too large for the socket, so that sending it would block for ever."""
    with Grader(partial(acting), seconds_per_answer=0.5) as grader:
        assert grader.grade_pairs([("hold the interpreter", problem("p"))])[0].correct
        time.sleep(0.3)
        texts = [f"{i} " + "x" * 500_000 for i in range(4)]
        assert [score.extracted for score in grader.grade_pairs((text, problem("p")) for text in texts)] == texts


def test_every_worker_is_replaced_when_all_spin() -> None:
    with Grader(partial(acting), workers=2, seconds_per_answer=0.5) as grader:
        scores = grader.grade_pairs((text, problem("p")) for text in ["spin", "spin", "spin", "fine"])
    assert [s.status for s in scores] == ["timeout", "timeout", "timeout", "equal"]


@pytest.fixture(scope="module")
def returning_grader() -> Iterator[Grader]:
    with Grader(returning) as grader:
        yield grader


@pytest.mark.parametrize("name", [*USABLE, *UNUSABLE])
def test_values_of_a_reward_become_plain_or_fail(
    name: str, returning_grader: Grader, caplog: pytest.LogCaptureFixture
) -> None:
    score, next_score = returning_grader.grade_pairs([(name, problem("p")), ("fine", problem("p"))])
    assert next_score == Score(1.0, True, "equal")
    if name in USABLE:
        assert score == USABLE[name][1]
        assert [type(score.reward), type(score.correct)] == [float, bool]
        assert {type(value) for value in score.parts.values()} <= {float}
        assert type(score.extracted) in (str, type(None))
    else:
        assert score == Score(0.0, False, "failed")
        assert UNUSABLE[name][1] in caplog.text
        assert "of problem 'p'" in caplog.text


def test_parts_cannot_replace_a_metric() -> None:
    scored = [replace(rollout("p", 0, ""), score=Score(1.0, True, "equal"))]
    names = {name.removeprefix("reward/") for name in rollout_metrics(scored) if name.startswith("reward/")}
    assert names == RESERVED_PARTS


def test_a_response_that_utf8_cannot_hold_costs_its_row(caplog: pytest.LogCaptureFixture) -> None:
    with Grader(generation) as grader:
        bad, good = grader.grade([rollout("p", 0, "a\ud800b"), rollout("q", 0, "fine")])
    assert bad.score == Score(0.0, False, "failed")
    assert bad.text == r"a\ud800b"
    assert good.score is not None and good.score.extracted == "fine"
    assert rollout_table([bad, good], 0)["response"].to_pylist() == [r"a\ud800b", "fine"]
    assert "failed on 1 of 2 answers: the response has a lone surrogate" in caplog.text


def test_a_reward_that_always_fails_stops_the_run() -> None:
    with (
        Grader(partial(acting)) as grader,
        pytest.raises(ConfigError, match=r"acting failed on all 20 answers \(most often: KeyError: 'no such thing' \("),
    ):
        grader.grade_pairs([("raise", problem("p"))] * 20)


def test_timeouts_in_a_row_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_TIMEOUTS", 3)
    texts = ["fine"] + ["spin"] * 30
    with Grader(acting, seconds_per_answer=0.1) as grader, pytest.raises(ConfigError) as error:
        grader.grade_pairs((text, problem(str(i))) for i, text in enumerate(texts))
    assert str(error.value) == (
        "The reward bad_rewards.acting timed out on 3 answers in a row: make it faster or raise "
        "grading.seconds_per_answer."
    )


def test_timeouts_of_one_problem_do_not_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gold answer that hangs the reward hangs it for all samples of its problem."""
    monkeypatch.setattr(pool, "MAX_TIMEOUTS", 2)
    with Grader(acting, seconds_per_answer=0.3) as grader:
        scores = grader.grade_pairs([("spin", problem("p"))] * 3 + [("fine", problem("q"))])
    assert [score.status for score in scores] == ["timeout"] * 3 + ["equal"]


def test_a_budget_for_the_whole_step() -> None:
    with (
        Grader(acting, seconds_per_step=1.0) as grader,
        pytest.raises(ConfigError, match=r"only \d+ of 20 .*per_step=1 "),
    ):
        grader.grade_pairs([("sleep", problem("p"))] * 20)
    with Grader(acting, seconds_per_step=60.0, workers=2) as grader:  # raised, as the message says
        assert grader.grade_pairs([("fine", problem("p"))] * 20)[19].correct


def test_a_stop_signal_and_the_end_do_not_wait_for_an_answer() -> None:
    class Stop(Exception):
        pass

    def stop_soon() -> None:
        if time.monotonic() > begin + 0.5:
            raise Stop

    with Grader(acting, workers=2, seconds_per_answer=60) as grader:
        grader.grade_pairs([("sleep", problem("p"))] * 8)  # both workers have started
        begin = time.monotonic()
        grader.check_stop = stop_soon
        with pytest.raises(Stop):
            grader.grade_pairs((text, problem("p")) for text in ["sleep long", "spin"])
    assert time.monotonic() - begin < 20


def test_progress_is_reported(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(pool, "REPORT_SECONDS", 0.5)
    caplog.set_level("INFO")
    with Grader(acting) as grader:
        grader.grade_pairs([("sleep", problem("p"))] * 5)
    assert re.search(r"graded \d of 5 answers, of which 0 timed out", caplog.text)


@pytest.mark.parametrize("manner", ["hang", "hang in a session", "leave", "leave in a session"])
def test_programs_that_a_reward_starts_end_with_its_process(manner: str, tmp_path: Path) -> None:
    with Grader(partial(spawning, folder=str(tmp_path)), seconds_per_answer=0.3) as grader:
        grader.grade_pairs([(manner, problem("p"))])
    assert [path.name for path in tmp_path.iterdir() if _is_alive(int(path.name))] == []


def test_programs_that_a_reward_starts_can_be_terminated(tmp_path: Path) -> None:
    """They have the default action of SIGTERM, which the grading process itself survives."""
    with Grader(partial(spawning, folder=str(tmp_path))) as grader:
        assert grader.grade_pairs([("polite", problem("p"))])[0].correct
        pid = _pid_of(grader)
        os.kill(pid, signal.SIGTERM)
        assert grader.grade_pairs([("polite", problem("p"))])[0].correct
        assert _pid_of(grader) == pid


def test_nothing_that_a_reward_starts_holds_our_output(tmp_path: Path) -> None:
    code = (
        "from functools import partial; from bad_rewards import spawning; from simplerl.rewards.pool import Grader\n"
        "from simplerl.types import Problem; from simplerl.rewards import worker; import os\n"
        f"with Grader(partial(spawning, folder={str(tmp_path)!r})) as g: g.grade_pairs([('x', Problem('p', '', ''))])\n"
        f"with Grader(partial(spawning, folder={str(tmp_path)!r})) as g:\n"
        "    g.grade_pairs([('session', Problem('p', '', ''))]); print('end', flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=_environment(), stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert done.stdout == "end\n"
    for path in tmp_path.iterdir():
        with suppress(ProcessLookupError):
            os.kill(int(path.name), signal.SIGKILL)


def test_the_limit_is_cpu_time() -> None:
    """A process that does not get a processor for a while, as on a busy machine, loses no answer."""
    with Grader(working, seconds_per_answer=1.0) as grader:
        grader.grade_pairs([("", problem("p"))])
        pid = _pid_of(grader)
        pause = threading.Timer(0.1, os.kill, (pid, signal.SIGSTOP))
        resume = threading.Timer(1.6, os.kill, (pid, signal.SIGCONT))
        pause.start()
        resume.start()
        ((score, seconds),) = grader.grade_timed([("", problem("p"))])
        assert (score.status, _pid_of(grader)) == ("equal", pid)
        assert seconds > 1.0


def test_the_first_call_of_a_reward_may_be_slow() -> None:
    with Grader(lazy, seconds_per_answer=0.3) as grader:
        assert grader.grade_pairs([("x", problem("p"))])[0].status == "equal"
    check_reward(lazy, problem("p"), (), seconds_per_answer=0.3)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (returning_none, "bad_rewards.returning_none fails on a made-up response to the problem 'p'.*returned None"),
        (partial(trl, function="bad_rewards.no_such"), r"bad_rewards.no_such fails .* cannot be imported"),
        (raising, r"KeyError: 'no such thing' \(.*bad_rewards.py"),
        (sleeping, r"first call of the reward bad_rewards.sleeping.* such as grading.seconds_per_answer=0.75 "),
        (
            partial(trl, function="bad_rewards.slow_if_asked"),
            "bad_rewards.slow_if_asked fails .*time-out; make it fast",
        ),
    ],
)
def test_a_reward_is_called_before_a_run(reward: Reward, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MIN_FIRST_CALL_SECONDS", 1.5)
    with pytest.raises(ConfigError, match=message) as error:
        check_reward(reward, problem("p"), (), seconds_per_answer=0.2)
    assert "\n" not in str(error.value)


def test_a_reward_that_waits_stops_the_grading_soon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says what is waited for, however many workers wait; then the reward and the setting are named."""
    monkeypatch.setattr(worker, "MIN_FIRST_CALL_SECONDS", 2.0)
    monkeypatch.setattr(worker, "NOTICE_SECONDS", 0.5)
    worker._tell_of_first_call.cache_clear()
    with (
        Grader(sleeping, workers=2, seconds_per_answer=0.1) as grader,
        pytest.raises(ConfigError, match=r"bad_rewards.sleeping.* within 2 s: .*seconds_per_answer=1 ") as error,
    ):
        grader.grade_pairs([("x", problem("p"))])
    assert "\n" not in str(error.value)
    assert [r.message for r in caplog.records] == [
        "Waiting for the first call of the reward bad_rewards.sleeping, on a made-up response, for at most 2 s."
    ]


@pytest.mark.parametrize(
    ("adapter", "function", "expected"),
    [
        (trl, "trl_accuracy", Score(1.0, True, "equal")),
        (partial(trl, conversational=True), "trl_format", Score(0.5, True, "equal")),
        (verl, "verl_score", Score(1.0, True, "equal")),
        (verl, "verl_dict", Score(0.2, False, "different", "3", {"format": 1.0})),
    ],
)
def test_rewards_of_other_libraries(adapter: Reward, function: str, expected: Score) -> None:
    asked = replace(problem("p"), source="math", extra={"ground_truth": "3", "unit": "cm"})
    with Grader(partial(adapter, function=f"light_rewards.{function}")) as grader:
        assert grader.name == f"light_rewards.{function}"
        assert grader.grade_pairs([(r"\boxed{3}", asked)] * 2) == [expected] * 2


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
        grader.grade_pairs([("fine", problem("p"))])
        pid = _pid_of(grader)
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_spinning_worker_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os\n"
        "from functools import partial\n"
        "from bad_rewards import acting\n"
        "from test_rewards_pool import problem\n"
        "from simplerl.rewards.pool import Grader\n"
        "with Grader(partial(acting), seconds_per_answer=60) as g:\n"
        "    print(int(g.grade_pairs([('pid', problem('p'))])[0].reward), flush=True)\n"
        "    g.grade_pairs([('spin', problem('p'))])\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=_environment())
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert not _is_alive(pid)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def _pid_of(grader: Grader) -> int:
    worker = grader.workers[0]
    assert isinstance(worker, LocalGradingWorker) and worker.process is not None
    return worker.process.pid


def _is_alive(pid: int) -> bool:
    """Return whether a process still runs after up to 10 s."""
    deadline = time.monotonic() + 10
    while (alive := _state(pid) != "Z") and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


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


@pytest.mark.parametrize("value", [0.5, (0.5, True), {"reward": 0.5}, Score(0.5, True, "equal")])
def test_a_reward_that_returns_a_number_is_also_judged_by_the_fixed_rules(value: object) -> None:
    judged = WithFixedRules.of(lambda response, problem: value)  # type: ignore[arg-type,return-value]
    score = judged(Response("The answer is 7"), Problem("p", "?", "7"))
    assert (score.reward, score.correct) == (0.5, True)
    assert (score.parts["correct_strict"], score.parts["correct_lenient"]) == (0.0, 1.0)
