"""Time, sweeps, calibration and the command of a plan: arithmetic by hand, round trips, and sentences for mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import micro_runs
import pytest
from hydra import initialize_config_dir
from test_planning_memory import PUBLISHED, config

from simplerl.config import register
from simplerl.errors import ConfigError
from simplerl.evals.power import detectable_difference, guessed_noise
from simplerl.io.places import CONF
from simplerl.micro.tokenizer import build
from simplerl.planning import compilation
from simplerl.planning.calibration import Measured, calibrate, fitted, measured, read_calibration, setup_of
from simplerl.planning.command import main, parse
from simplerl.planning.compilation import chosen_compile
from simplerl.planning.devices import find_device, this_cpu
from simplerl.planning.inputs import _stop_lines, histogram
from simplerl.planning.roofline import STAGES, Utilisations, forward_flops, scaled, step_time
from simplerl.planning.setup import Lengths, Setup, describe
from simplerl.planning.sweep_plan import expand, power_of
from simplerl.types import Stop

LENGTHS = Lengths(1024, 200.0, 3000, 600.0, "made up")


def published(*overrides: str, lengths: Lengths = LENGTHS) -> Setup:
    return describe(config(*PUBLISHED, "backend=ray_32gpu", *overrides), find_device("h100"), lengths)


def explain(error: Exception) -> str:
    return f"hydra: {error}"


def test_flops_of_a_sequence_are_two_per_weight_and_attention() -> None:
    sizes = published().geometries["policy"]
    body = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    norms_and_biases = sizes.body - body
    assert 0 < norms_and_biases < 1e-4 * body
    attention = 2 * 28 * 3584 * 800**2
    head = 2 * 600 * 152064 * 3584
    assert forward_flops(sizes, 200, 600, critic=False) == pytest.approx(2 * 800 * sizes.body + attention + head)
    assert forward_flops(sizes, 200, 600, critic=True) == pytest.approx(2 * 800 * sizes.body + attention)


def test_longer_responses_checkpointing_and_serial_roles_take_longer() -> None:
    using = Utilisations()
    base = step_time(published(), using)
    longer = step_time(published(lengths=replace(LENGTHS, mean_response=1200.0)), using)
    assert all(longer.stages[stage] > base.stages[stage] for stage in ("sample", "score", "update"))
    faster = step_time(published("train.gradient_checkpointing=false"), using)
    assert base.stages["update"] > 1.2 * faster.stages["update"]
    policy, critic = (base.parts["score", name] for name in ("policy + reference", "critic"))
    assert policy > 1.9 * critic and base.stages["score"] == policy
    assert base.seconds == pytest.approx(sum(base.stages.values()))


def test_sampling_ahead_hides_the_shorter_part() -> None:
    ahead = [
        "rollout.ahead=1",
        "algorithm/correction=truncated_importance",
        "algorithm.logprobs_at_temperature_1=false",
    ]
    one = step_time(published(*ahead), Utilisations())
    assert one.stages["sample"] < one.seconds == pytest.approx(sum(one.stages.values()) - one.stages["sample"])


@pytest.mark.parametrize("devices", [4, 8, 32, 256, 1024])
def test_another_number_of_devices_is_never_exceeded(devices: int) -> None:
    one = scaled(published(), devices)
    assert one.devices <= devices
    assert one.layout.policy_ranks <= 128  # a minibatch has no more rows
    if devices == 32:
        assert one.layout == published().layout


def test_calibration_reproduces_the_times_it_was_fitted_on() -> None:
    setup = published()
    wanted = {stage: 3.0 * seconds for stage, seconds in step_time(setup, Utilisations()).stages.items()}
    new = fitted(setup, Measured(wanted, {}, LENGTHS, 5), Utilisations())
    found = step_time(setup, new).stages
    assert new.decode == pytest.approx(Utilisations().decode / 3)
    assert found["sample"] == pytest.approx(wanted["sample"], rel=1e-6)
    assert found["update"] == pytest.approx(wanted["update"], rel=0.35)  # traffic of links is not fitted


@pytest.mark.slow
def test_a_finished_run_is_measured_and_calibrates_later_plans(tmp_path: Path, capsys: Any) -> None:
    folder = micro_runs.run(tmp_path, "run.threads=1")
    found = measured(folder)
    assert 0 < found.memory["process_host"] < 2 and found.steps == 3
    assert 5 < found.lengths.mean_prompt <= found.lengths.longest_prompt < 30
    assert 0 < found.lengths.mean_response <= found.lengths.longest_response <= 20
    out = tmp_path / "calibration.json"
    _, _, time = calibrate(folder, this_cpu(), Utilisations(), out)
    for stage in ("score", "update", "sample"):
        assert time.stages[stage] == pytest.approx(found.stages[stage], rel=0.1)
    assert step_time(setup_of(folder, this_cpu()), read_calibration(out)).seconds == pytest.approx(time.seconds)
    assert main(["--calibrate", str(folder), f"--out={out}"], explain) == 0
    assert f"calibration={out}" in capsys.readouterr().out
    out.write_text(json.dumps(json.loads(out.read_text()) | {"utilisations": {"update": -1}}))
    with pytest.raises(ConfigError, match=r"write it again with plan\.py --calibrate RUN\."):
        read_calibration(out)
    assert main(["--calibrate", str(folder), f"--out={out}"], explain) == 0 and read_calibration(out).update > 0


def test_a_damaged_calibration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"utilisations": {"update": -1}, "device": "cpu", "run": "x", "memory": {}}))
    with pytest.raises(ConfigError, match=r"c\.json does not hold positive utilisations"):
        read_calibration(path)


def test_a_positive_number_is_accepted_after_the_message() -> None:
    with pytest.raises(ConfigError, match=r"length=-3 must be a positive number\."):
        parse(["length=-3"])
    assert parse(["length=3"])[0].length == 3.0


def test_a_sweep_has_the_runs_that_hydra_would_start() -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        design = expand(["sweep=reward", "train.steps=7"])
        assert design.runs == 9 and design.seeds == ("seed=0", "seed=1", "seed=2")
        assert design.arms == (("reward=strict",), ("reward=lenient",), ("reward=binary",))
        assert design.fixed == ("train.steps=7",)
        other = expand(["sweep=reward", "reward=strict,binary", "train.policy.lr=1e-4,2e-4", "seed=0,1"])
        assert (len(other.arms), other.runs) == (4, 8)
        assert ("reward=binary", "train.policy.lr=0.0002") in {tuple(arm) for arm in other.arms}


def test_power_of_a_sweep_is_that_of_the_statistics() -> None:
    noise = guessed_noise(0.02, 0.5)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = power_of(expand(["sweep=reward"]), noise, 512, 0.02)
    assert found.detectable == detectable_difference(noise, 3, 512, arms=3)
    assert found.seeds_needed is None or found.seeds_needed > 3


def test_an_end_token_of_the_prompt_that_does_not_end_responses_is_named() -> None:
    tokenizer = build()
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    eos, end = (tokenizer.convert_tokens_to_ids(token) for token in (tokenizer.eos_token, "<|im_end|>"))

    def lines(*ids: int) -> list[str]:
        return _stop_lines(SimpleNamespace(stop=Stop(ids)), tokenizer, prompt)  # type: ignore[arg-type]

    assert "'<|im_end|>' ends a turn of the prompt" in lines(eos)[1] and "im_start" not in lines(eos)[1]
    assert len(lines(eos, end)) == 1


def test_histogram_counts_every_length_once() -> None:
    lines = histogram("prompt tokens", [3, 4, 4, 90, 91, 400], 100, "prompt.max_tokens")
    assert "1 over prompt.max_tokens=100" in lines[0]
    assert sum(int(line.split()[1]) for line in lines[1:]) == 6


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["device=h1000"], "device=h1000 is unknown: did you mean h100?"),
        (["length=-3"], "length=-3 must be a positive number."),
        (["model.path=no/such"], "model.path=no/such has no config.json on this machine"),
        (["--calibrate", "nowhere"], "nowhere is not a run's folder"),
        (["calibration=nowhere.json"], "nowhere.json"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], sentence: str, capsys: Any) -> None:
    assert main([*words, "data.count=32"] if "--calibrate" not in words else words, explain) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_options_and_overrides_are_separated() -> None:
    options, rest = parse(["device=cpu", "seed=0,1", "noise=a,b", "run.device=cpu", "length=5"])
    assert (options.device, options.noise, options.length) == ("cpu", ("a", "b"), 5.0)
    assert rest == ["seed=0,1", "run.device=cpu"]


@pytest.mark.slow
def test_the_plan_of_the_default_run_and_of_a_sweep_can_be_read(capsys: Any) -> None:
    assert main(["sweep=reward", "data.count=64", "device=cpu"], explain) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines() if line[:1] in "┏┃┡│└") <= 100
    for part in (
        "Peak memory",
        "Does it fit?",
        "responses a step",
        "prompt tokens",
        "ends with",
        "gold answers",
        "9 runs",
    ):
        assert part in text
    assert all(stage in text for stage in STAGES)


def test_the_published_run_is_planned_without_its_data(capsys: Any) -> None:
    words = ["experiment=simplerl_zero", "backend=ray_32gpu", "data.path=none.json", "evals.path=x", "device=h100"]
    assert main(words, explain) == 0
    text = capsys.readouterr().out
    assert "data not checked" in text and "tokenizer of Qwen/Qwen2.5-Math-7B" in text and "1024" in text
    assert max(len(line) for line in text.splitlines() if line[:1] in "┏┃┡│└") <= 100


# Compilation


@pytest.mark.parametrize(
    ("overrides", "steps", "compiler", "chosen"),
    [
        ([], 1, True, False),
        ([], 10**5, True, True),
        ([], 10**5, False, False),
        (["train.compile=true"], 1, False, True),
        (["train.compile=false"], 10**5, True, False),
        (["backend=ray_cpu"], 10**5, True, False),
        (["train.samples_per_prompt=2", "train.minibatch_size=16"], 60, True, False),
    ],
)
def test_layers_are_compiled_where_that_repays_its_minute(
    overrides: list[str], steps: int, compiler: bool, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "has_compiler", lambda on_cpu: compiler)
    settings = ["run.device=cpu", f"model.path={micro_runs.ROOT / 'assets/micro_base'}", *overrides]
    assert chosen_compile(config(*settings), steps, [12, 16]) is chosen


def test_the_choice_to_compile_is_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The time at which the choice changes is WORTH x COMPILATION / SAVED seconds of scoring and updates."""
    monkeypatch.setattr(compilation, "has_compiler", lambda on_cpu: True)
    stages = SimpleNamespace(stages={"score": 0.25, "update": 0.75, "sample": 9.0})
    monkeypatch.setattr(compilation, "step_time", lambda setup, using: stages)
    run = config("run.device=cpu", f"model.path={micro_runs.ROOT / 'assets/micro_base'}")
    with caplog.at_level("INFO", logger="simplerl.planning.compilation"):
        assert [chosen_compile(run, steps) for steps in (1199, 1201)] == [False, True]
    said = "was chosen: about 20 min of scoring and updates, of which 10 % may be saved"
    assert caplog.messages == [f"train.compile=false {said}", f"train.compile=true {said}"]
