"""Processes that are killed or hang: the run resumes from its last checkpoint and ends with bit-identical results."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from micro_runs import ROOT, SMALL, descendants, differences, model, outcome, run

RAY = ["backend=ray_cpu", "backend.engines=0", "sampler=local", "evals.every=0", "run.device=cpu"]
RAY += ["algorithm/kl=none"]
ALONE = [*RAY, "algorithm=grpo"]  # two policy ranks only
PPO = [*RAY, "backend.policy_ranks=1"]  # one policy rank, one critic rank
ONE = [*ALONE, "backend.policy_ranks=1"]
PATIENT = ["reward=lenient", "reward._target_=light_rewards.patient"]  # the scores of `undisturbed`, slow on demand


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Any:
    """A function: settings -> outcome of the undisturbed run with them (cached)."""
    made: dict[tuple[str, ...], dict[str, Any]] = {}

    def find(settings: list[str]) -> dict[str, Any]:
        if tuple(settings) not in made:
            made[tuple(settings)] = outcome(run(tmp_path_factory.mktemp("undisturbed"), *settings))
        return made[tuple(settings)]

    return find


def at_call(patch: pytest.MonkeyPatch, role: str, method: str, number: int, event: Callable[[Any], None]) -> list[str]:
    """Call `event(group)` before the `number`-th call of a method of the group with that role. Returns a list that gets
    an entry when this happens."""
    from simplerl.cluster.ranks import RankGroup

    real, calls = getattr(RankGroup, method), [0]
    happened: list[str] = []

    def wrapped(self: Any, *arguments: Any, **keywords: Any) -> Any:
        if self.role == role:
            calls[0] += 1
            if calls[0] == number:
                event(self)
                happened.append(role)
        return real(self, *arguments, **keywords)

    patch.setattr(RankGroup, method, wrapped)
    return happened


def send(number: signal.Signals, rank: int = -1) -> Callable[[Any], None]:
    """Return an event that sends the signal to one rank of a group."""
    import ray

    return lambda group: os.kill(ray.get(group.actors[rank].process.remote()).pid, number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "role", "method", "call"),
    [
        (ALONE, "policy", "save", 1),  # when there is no checkpoint yet
        (PPO, "critic", "optimizer_step", 2 + 2),
    ],
    ids=["policy while it saves the first time", "critic in the second step"],
)
def test_a_killed_rank_changes_nothing(
    settings: list[str],
    role: str,
    method: str,
    call: int,
    undisturbed: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = undisturbed(settings)
    happened = at_call(monkeypatch, role, method, call, send(signal.SIGKILL))
    folder = run(tmp_path, *settings)
    assert happened == [role]
    assert re.search(rf"{role}.* is lost: .*ended.*; restart 1 of 3", caplog.text)
    found = outcome(folder)
    assert differences({**expected, "config.yaml": b""}, {**found, "config.yaml": b""}) == []


# Ray's health checks, and what waits for them, in a tenth of the usual time
QUICK_CHECKS = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 300, "health_check_timeout_ms": 3000}
QUICK_DRIVER = """
import runpy, sys
from simplerl.cluster import backend
backend.DEAD_NODE_SECONDS = backend.PLACEMENT_SECONDS = 4.0
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.slow
def test_a_lost_node_is_waited_for(undisturbed: Any, tmp_path: Path) -> None:
    """On a user's Ray cluster of two nodes, one is killed together with its rank, and is replaced after a while."""
    from ray.cluster_utils import Cluster

    hold = tmp_path / "hold"
    settings = [*ALONE, *PATIENT, f"+reward.hold={hold}"]
    expected = undisturbed(ALONE)
    hold.touch()
    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": QUICK_CHECKS})
    try:
        second = two.add_node(num_cpus=1)
        root = tmp_path / "broken"
        command = [sys.executable, "-c", QUICK_DRIVER, *SMALL, *settings, f"model.path={model()}", f"run.root={root}"]
        driver = subprocess.Popen(
            [*command, f"backend.address={two.address}", "backend.start_seconds=100"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert driver.stdout is not None
        seen = []
        for line in driver.stdout:
            seen.append(line)
            if line.startswith("rl 2/") and second in two.worker_nodes:
                two.remove_node(second, allow_graceful=False)
            if line.startswith("waiting for free resources"):
                two.add_node(num_cpus=1)
                hold.unlink(missing_ok=True)
        log = "".join(seen)
        assert driver.wait(60) == 0, log
    finally:
        two.shutdown()
    assert re.search(r"policy.* is lost: .*restart 1 of 3", log)
    assert "waiting for free resources for [{'CPU': 1.0}, {'CPU': 1.0}]: a node may be lost" in log
    (folder,) = [path for path in root.iterdir() if path.is_dir()]
    assert differences({**expected, "config.yaml": b""}, {**outcome(folder), "config.yaml": b""}) == []


@pytest.mark.slow
def test_a_dead_ray_head_changes_nothing(undisturbed: Any, tmp_path: Path) -> None:
    """Ray cannot replace its head, so the driver restarts its own command."""
    hold = tmp_path / "hold"
    settings = [*ALONE, *PATIENT, f"+reward.hold={hold}"]
    expected = undisturbed(ALONE)
    hold.touch()
    root = tmp_path / "broken"
    command = [sys.executable, "train.py", *SMALL, *settings, f"model.path={model()}", f"run.root={root}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    driver = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert driver.stdout is not None
    seen = []
    for line in driver.stdout:
        seen.append(line)
        if line.startswith("rl 2/") and hold.exists():
            for pid in descendants(driver.pid):
                if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        if "Ray's head has died" in line:
            hold.unlink()
    log = "".join(seen)
    assert driver.wait(60) == 0, log
    assert "Ray's head has died; restart 1 of 3" in log and "resuming from step " in log
    (folder,) = [path for path in root.iterdir() if path.is_dir()]
    assert differences({**expected, "config.yaml": b""}, {**outcome(folder), "config.yaml": b""}) == []


@pytest.mark.slow
def test_a_role_that_is_lost_too_often_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: None
) -> None:
    from simplerl.errors import Lost

    at_call(monkeypatch, "policy", "optimizer_step", 1, send(signal.SIGKILL))
    with pytest.raises(Lost, match=r"policy.* is lost") as caught:
        run(tmp_path, *ONE, "backend.max_restarts=0")
    assert caught.value.role.startswith("policy")
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert '"state": "failed"' in (folder / "status.json").read_text()


@pytest.mark.slow
def test_a_hanging_rank_is_reported_with_the_stacks_of_all(
    undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One rank is stopped; the stack of the other shows that it waits in a collective."""
    expected = undisturbed(ALONE)
    happened = at_call(monkeypatch, "policy", "optimizer_step", 2, send(signal.SIGSTOP))
    folder = run(tmp_path, *ALONE, "backend.silence_seconds=10")
    assert happened == ["policy"]
    assert re.search(r"policy is lost: no progress in `update` for 10 s", caplog.text)
    assert "in optimizer_step" in caplog.text  # rank 0 waits there
    assert re.search(r"policy rank 1 does not respond; its threads:\nno stacks", caplog.text)
    assert differences({**expected, "config.yaml": b""}, {**outcome(folder), "config.yaml": b""}) == []


@pytest.mark.slow
def test_a_non_finite_loss_does_not_count_as_a_lost_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: None
) -> None:
    """It stops the run and leaves the whole minibatch in the run folder, as in a single process."""
    from simplerl.cluster.ranks import RankGroup
    from simplerl.errors import NonFinite, RunFailed

    real = RankGroup.optimizer_step

    def spoilt(self: Any, minibatch: Any, loss: Any, entropy: bool = False) -> Any:
        return real(self, minibatch.with_(advantages=minibatch.advantages / 0), loss, entropy)

    monkeypatch.setattr(RankGroup, "optimizer_step", spoilt)
    with pytest.raises(RunFailed, match="the loss is not finite") as caught:
        run(tmp_path, *ALONE)
    assert isinstance(caught.value.__cause__, NonFinite) and len(caught.value.__cause__.batch) == 8
    assert len(list(tmp_path.glob("*/nonfinite.pt"))) == 1


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_driver_ends(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "train.py", *SMALL, *ONE, "train.steps=1000", f"run.root={tmp_path}"]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert driver.stdout is not None
    seen = []
    for line in driver.stdout:
        seen.append(line)
        if line.startswith("rl 2/"):
            break
    started = descendants(driver.pid)
    assert len(started) > 4, "".join(seen)
    driver.send_signal(number)
    driver.stdout.read()
    status = driver.wait(timeout=60)
    assert status == (75 if number is signal.SIGTERM else -signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (left := [pid for pid in started if _alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
