"""Sweeps on a real SLURM: arrays, resubmission, preemption, time limits, failure, two nodes, cancellation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
from micro_runs import ROOT, SMALL, composed, descendants, differences, model, outcome
from slurm_cluster import SlurmCluster, absent, wait_for

from simplerl.experiment import run_experiment

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(absent()), reason=f"no SLURM can be started: {absent()}")]
pytest.importorskip("submitit")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A SLURM whose preemption sends no user signal, which is SLURM's default."""
    with SlurmCluster(tmp_path_factory.mktemp("slurm") / "s", nodes=2, cpus=8, user_signal=False) as cluster:
        cluster.environment |= {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        cluster.environment["RAY_memory_monitor_refresh_ms"] = (
            "0"  # other processes on this host must not make Ray kill these nodes
        )
        yield cluster


def python(slurm: SlurmCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run(*arguments, env=slurm.environment)


def sweep(slurm: SlurmCluster, root: Path, *overrides: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
    launcher = ["hydra/launcher=slurm", "hydra.launcher.poll_s=0.5", f"hydra.launcher.wait={wait}"]
    run = [*SMALL, f"model.path={model()}", f"run.root={root}", f"hydra.sweep.dir={root}/.sweeps/it"]
    return python(slurm, "train.py", "-m", *launcher, *run, *overrides)


def entries(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((root / ".sweeps/it/sweep.json").read_text())["runs"]
    return found


def states(slurm: SlurmCluster, root: Path) -> list[dict[str, Any]]:
    done = python(slurm, "sweep.py", "status", "it", "--root", str(root), "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def status(run: dict[str, Any]) -> dict[str, Any]:
    path = Path(run["folder"]) / "status.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def undisturbed(root: Path, *overrides: str) -> dict[str, Any]:
    """Return the outcome of the same run without SLURM."""
    return outcome(run_experiment(composed(root, *overrides, own_reward=False), "local"))


def assert_equal(folder: str, expected: dict[str, Any]) -> None:
    found = outcome(Path(folder))
    found.pop("config.yaml"), expected.pop("config.yaml")  # contains the folder's name
    changed = differences(found, expected)
    assert all(name.startswith("checkpoints/") and name not in expected for name in changed), (
        changed
    )  # extra checkpoints where the run was stopped


def test_a_sweep_is_one_array_and_finished_runs_are_skipped(slurm: SlurmCluster, tmp_path: Path) -> None:
    overrides = ["reward=strict,lenient", "seed=1"]
    done = sweep(slurm, tmp_path, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = entries(tmp_path)
    assert [run["overrides"][-2:] for run in runs] == [["reward=strict", "seed=1"], ["reward=lenient", "seed=1"]]
    array = runs[0]["job"].split("_")[0]
    assert [run["job"] for run in runs] == [f"{array}_{i}" for i in range(2)]
    wait_for("SLURM to report it", lambda: {slurm.state(run["job"]) for run in runs} == {"COMPLETED"})
    assert [status(run)["state"] for run in runs] == ["finished"] * 2
    assert_equal(runs[1]["folder"], undisturbed(tmp_path / "local", "reward=lenient", "seed=1"))

    table = python(slurm, "sweep.py", "status", "it", "--root", str(tmp_path)).stdout
    assert "it  (2 finished)" in table and table.count("rl 3/3") >= 2 and "reward=lenient" in table

    again = sweep(slurm, tmp_path, *overrides)
    assert again.returncode == 0 and again.stdout.count("already finished, not submitted") == 2
    assert [run["job"] for run in entries(tmp_path)] == [run["job"] for run in runs]
    assert "Submitted" not in again.stdout


def test_preemption_and_time_limit_do_not_change_the_results(slurm: SlurmCluster, tmp_path: Path) -> None:
    """One run is preempted (SIGTERM only), another nears its time limit (SIGUSR2): each saves, is requeued and ends
    with the same results as an undisturbed run, bit for bit."""
    hold = tmp_path / "hold"
    hold.touch()
    run = ["train.steps=6", "run.save_every=1000", "reward=lenient", "reward._target_=light_rewards.patient"]
    run += [f"+reward.hold={hold}", "+reward.seconds=1"]
    node_each = ["hydra.launcher.cpus_per_task=8", "hydra.launcher.partition=low"]
    limit = ["hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=115"]  # SLURM counts limits in minutes
    done = sweep(slurm, tmp_path, *run, "seed=0,1", *node_each, *limit, wait=False)
    assert "Submitted 2" in done.stdout, done.stdout + done.stderr
    preempted, limited = entries(tmp_path)
    wait_for("a step of both", lambda: all(status(one).get("step", 0) >= 1 for one in (preempted, limited)), 180)

    elapsed = slurm.command("squeue", "-h", "-j", limited["job"], "-o", "%M")  # minutes:seconds
    slurm.command("scontrol", "update", f"JobId={limited['job']}", f"TimeLimit={int(elapsed.split(':')[0]) + 2}")
    node = slurm.command("squeue", "-h", "-j", preempted["job"], "-o", "%N")
    slurm.command("sbatch", "-p", "high", "-w", node, "-c8", "-o", "/dev/null", "--wrap", "sleep 1")
    wait_for("both to be requeued", lambda: all(restarts(slurm, one) for one in (preempted, limited)), 180)
    hold.unlink()
    slurm.command(
        "scontrol", "update", f"JobId={limited['job']}", "TimeLimit=60"
    )  # after the restart it needs no limit
    wait_for("their ends", lambda: all(status(one)["state"] == "finished" for one in (preempted, limited)), 180)

    assert "Saved after SIGTERM." in Path(preempted["log"]).read_text()
    assert "Saved after SIGUSR2." in Path(limited["log"]).read_text()
    assert "this job is timed-out" in Path(limited["log"]).read_text()
    for seed, one in enumerate((preempted, limited)):
        attempts = [json.loads(line)["attempt"] for line in (Path(one["folder"]) / "metrics.jsonl").open()]
        assert attempts == [0] * attempts.count(0) + [1] * attempts.count(1) and attempts.count(0) and attempts.count(1)
        assert_equal(one["folder"], undisturbed(tmp_path / "local", *run, f"seed={seed}"))


def restarts(slurm: SlurmCluster, run: dict[str, Any]) -> int:
    return int(slurm.command("squeue", "-h", "-t", "all", "-j", run["job"], "-O", "RestartCnt") or 0)


def test_a_failed_run_fails_its_job_and_the_launcher(slurm: SlurmCluster, tmp_path: Path) -> None:
    unlimited = ["train.policy.lr=1e30", "train.policy.grad_clip=1e9", "train.policy.warmup_fraction=0"]
    done = sweep(slurm, tmp_path, "reward=strict", *unlimited)
    assert done.returncode == 1 and "1 of 1 runs did not finish" in done.stderr, done.stdout + done.stderr
    (run,) = entries(tmp_path)
    wait_for("SLURM to report it", lambda: slurm.state(run["job"]) == "FAILED", 30)
    (state,) = states(slurm, tmp_path)
    assert state["state"] == "failed" and "NonFinite" in state["note"]


def test_a_bad_configuration_is_refused_before_anything_is_submitted(slurm: SlurmCluster, tmp_path: Path) -> None:
    done = sweep(slurm, tmp_path, "train.minibatch_size=8,7")
    assert done.returncode == 1
    assert "Nothing was submitted: " in done.stderr and "train.minibatch_size=7" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / ".sweeps/it/sweep.json").exists()
    done = sweep(slurm, tmp_path, "seed=0,1", "hydra.launcher.nodes=2")
    assert "hydra.launcher.nodes=2 needs a backend that uses several nodes" in done.stderr


def test_queued_runs_are_not_submitted_again_and_can_be_cancelled(slurm: SlurmCluster, tmp_path: Path) -> None:
    held = "+hydra.launcher.additional_parameters.hold=true"
    assert "Submitted 2" in sweep(slurm, tmp_path, "seed=0,1", held, wait=False).stdout
    jobs = [run["job"] for run in entries(tmp_path)]
    assert [(state["state"], state["job"]) for state in states(slurm, tmp_path)] == [("pending", job) for job in jobs]

    again = sweep(slurm, tmp_path, "seed=0,1", held, wait=False).stdout
    assert all(f"pending as job {job}, not submitted" in again for job in jobs) and "Submitted" not in again

    cancelled = python(slurm, "sweep.py", "cancel", "it", "--root", str(tmp_path))
    assert f"SLURM jobs cancelled: {' '.join(jobs)}" in cancelled.stdout
    assert slurm.command("squeue", "-h", "-o", "%i") == ""
    assert [state["state"] for state in states(slurm, tmp_path)] == ["interrupted"] * 2

    resumed = python(slurm, "sweep.py", "resume", "it", "--root", str(tmp_path))
    assert "Submitted 2" in resumed.stdout
    python(slurm, "sweep.py", "cancel", "it", "--root", str(tmp_path))


TWO_NODES = ["hydra.launcher.nodes=2", "hydra.launcher.cpus_per_task=3", "reward=lenient"]
TWO_NODES += ["backend=ray_cpu", "sampler=local", "backend.engines=0", "algorithm=grpo", "backend.shared=reference"]
TWO_NODES += ["reward._target_=light_rewards.patient", "train.steps=6"]


@pytest.fixture(scope="module")
def two_nodes(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Run on a Ray cluster of two nodes with two DeepSpeed ranks, too many for one node. Returns the run folder, and a
    path: while a file exists there, the same run is slowed down."""
    pytest.importorskip("ray")
    root = tmp_path_factory.mktemp("two_nodes")
    hold = root / "hold"
    done = sweep(slurm, root, *TWO_NODES, f"+reward.hold={hold}")
    (run,) = entries(root)
    assert done.returncode == 0, done.stdout + done.stderr + Path(run["log"]).read_text()
    assert status(run)["state"] == "finished"
    wait_for("SLURM to report it", lambda: slurm.state(run["job"]) == "COMPLETED", 60)
    wait_for("Ray to be gone", lambda: not _ray_processes(f"ray_{run['job']}_"), 30)
    return Path(run["folder"]), hold


def test_two_nodes_make_one_ray_cluster(two_nodes: tuple[Path, Path]) -> None:
    """The fixture checks that no process of Ray is left."""
    assert len(list(two_nodes[0].glob("rollouts/*"))) == 6


def test_a_lost_node_does_not_change_the_results(
    slurm: SlurmCluster, two_nodes: tuple[Path, Path], tmp_path: Path
) -> None:
    """All Ray processes on the second node are killed, and the run resumes by itself; then SLURM declares that node
    dead and requeues the job."""
    expected, hold = outcome(two_nodes[0]), two_nodes[1]
    hold.touch()
    assert "Submitted 1" in sweep(slurm, tmp_path, *TWO_NODES, f"+reward.hold={hold}", wait=False).stdout
    (run,) = entries(tmp_path)
    wait_for("two steps", lambda: status(run).get("step", 0) >= 2, 180)
    second = slurm.command("squeue", "-h", "-j", run["job"], "-o", "%N")
    assert second == "sim[1-2]"
    (raylet,) = _ray_processes(f"ray_{run['job']}_", "127.0.0.12", "raylet/raylet")
    for pid in [raylet, *descendants(raylet)]:
        os.kill(pid, signal.SIGKILL)
    wait_for("the run to notice", lambda: "restart 1 of 3" in Path(run["log"]).read_text(), 60)
    lost_at = status(run)["step"]
    wait_for("a step after the restart", lambda: status(run)["step"] > lost_at, 240)
    assert not restarts(slurm, run)
    slurm.command("scontrol", "update", "NodeName=sim2", "State=DOWN", "Reason=test")
    wait_for("the job to be requeued", lambda: restarts(slurm, run), 60)
    slurm.command("scontrol", "update", "NodeName=sim2", "State=RESUME")
    hold.unlink()
    wait_for("its end", lambda: status(run)["state"] == "finished", 240)
    assert_equal(run["folder"], expected)


def _ray_processes(*marks: str) -> list[int]:
    """Return the ids of living processes whose command lines contain all marks, such as the job's Ray folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(mark in line for mark in marks) and str(os.getpid()) != path.parent.name:
            found.append(int(path.parent.name))
    return found


def test_a_project_of_ones_own_is_submitted_from_its_folder(slurm: SlurmCluster, tmp_path: Path) -> None:
    """By the program of an installed package, with an option of its own whose reward is in the folder."""
    (tmp_path / "conf/reward").mkdir(parents=True)
    (tmp_path / "conf/reward/digits.yaml").write_text("_target_: own_rewards.digits\n_partial_: true\n")
    (tmp_path / "own_rewards.py").write_text("def digits(response, problem):\n    return float(len(response))\n")
    own = ["reward=digits", "run.name=mine", "train.steps=1", "evals.every=0"]
    launcher = ["hydra/launcher=slurm", "hydra.launcher.poll_s=0.5"]
    command = [sys.executable, "-m", "simplerl", "train", "--config-dir", "conf", "-m", *launcher, *SMALL, *own]
    environment = slurm.environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Status: simplerl sweep status" in done.stdout
    (folder,) = tmp_path.glob("runs/mine_*")
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
