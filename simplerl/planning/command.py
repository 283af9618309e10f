"""Implements plan.py: composes a configuration, plans it and prints the plan."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from yaml import YAMLError

from simplerl.config import Config, register
from simplerl.config.load import load
from simplerl.data.benchmarks import BENCHMARKS
from simplerl.errors import ConfigError
from simplerl.io.places import CONF, options_in, spelled
from simplerl.io.terminal import terminal
from simplerl.planning import report
from simplerl.planning.calibration import calibrate, config_of, read_calibration
from simplerl.planning.devices import Device, default_device, find_device
from simplerl.planning.inputs import Inputs, read_inputs
from simplerl.planning.memory import plan_memory
from simplerl.planning.remedies import fits, sentence
from simplerl.planning.roofline import CPU_UTILISATIONS, Utilisations, step_time
from simplerl.planning.setup import Setup, assumed_lengths, describe, without_ray
from simplerl.planning.sweep_plan import Power, describe_power, expand, items_of, power_of, sweep_noise

WIDTH = 100
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Options:
    """Holds the options of plan.py that are not settings of a run."""

    device: str | None = None  # a name of simplerl.planning.devices; null: that of the configuration or this machine
    length: float | None = None  # mean response in tokens
    calibration: str | None = None  # file that --calibrate wrote
    noise: tuple[str, ...] = ()  # folders of earlier runs, from which the noise of a sweep is estimated
    seed_sd: float = 0.02  # guess of the standard deviation of accuracy between seeds, without noise=
    accuracy: float = 0.5  # guess of the accuracy, without noise=
    difference: float = 0.02  # of accuracy, whose needed seeds and items are shown
    price: float | None = None  # of one device for an hour, in any currency


def parse(words: Sequence[str]) -> tuple[Options, list[str]]:
    """Return the options and the other words, which are overrides of the configuration. Raises ConfigError for an
    invalid value."""
    found: dict[str, Any] = {}
    rest = []
    for word in words:
        key, _, value = word.partition("=")
        if key not in Options.__dataclass_fields__ or "=" not in word:
            rest.append(word)
        elif key in ("device", "calibration"):
            found[key] = value
        elif key == "noise":
            found[key] = tuple(value.split(","))
        else:
            found[key] = _positive(key, value)
    return Options(**found), rest


def _positive(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{key}={text} must be a positive number.")
    return value


def main(words: Sequence[str], explain: Callable[[Exception], str]) -> int:
    """Print the plan that the words of the command line ask for. explain: shortens an error of Hydra to a sentence.
    Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=spelled("plan"),
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    parser.add_argument("--calibrate", metavar="RUN", type=Path, help="fit the utilisations from a finished run")
    parser.add_argument("--out", metavar="FILE", type=Path, help=f"of --calibrate (default: RUN/{CALIBRATION})")
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="options of your own beside conf/")
    parser.add_argument("words", metavar="KEY=VALUE", nargs="*", help="overrides of train.py, and the options below")
    chosen = parser.parse_intermixed_args(list(words))
    console = terminal(WIDTH)
    register()

    def run() -> None:
        options, overrides = parse(chosen.words)
        if chosen.calibrate is not None:
            show_calibration(chosen.calibrate, options, chosen.out or chosen.calibrate / CALIBRATION, console)
            return
        with initialize_config_dir(str(CONF), version_base="1.3"):
            show_plan([*options_in(chosen.config_dir), *overrides], options, console)

    return exit_status(run, explain)


def exit_status(run: Callable[[], None], explain: Callable[[Exception], str]) -> int:
    """Call `run` and return the exit status of its command; a mistake in the settings is printed as a sentence."""
    try:
        run()
    except ConfigError as error:
        print(f"Configuration: {error}", file=sys.stderr)
        return 2
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        print(explain(error), file=sys.stderr)
        return 2
    return 0


def show_plan(overrides: Sequence[str], options: Options, console: Console) -> None:
    """Print the plan of a run, or of a sweep if the overrides have sweep=NAME or several values of a key."""
    design = expand(overrides)
    config = compose_run([*design.fixed, *design.arms[0], design.seeds[0]])
    setup_for(config, options, Inputs())  # refuses an unknown device or model before data is read
    using = read_calibration(Path(options.calibration)) if options.calibration else None
    inputs = read_inputs(config)
    setup = setup_for(config, options, inputs)
    using = using or (CPU_UTILISATIONS if setup.on_cpu else Utilisations())
    show_run(setup, inputs, using, options, console)
    if design.runs > 1:
        console.print()
        for line in sweep_lines(design, setup, inputs, using, options):
            console.print(line)


def compose_run(overrides: Sequence[str]) -> Config:
    """Return the typed configuration of one run, for planning: Ray is not imported."""
    return load(without_ray(compose("config", list(overrides))))


def setup_for(config: Config, options: Options, inputs: Inputs) -> Setup:
    device = find_device(options.device) if options.device else default_device(config)
    return describe(config, device, assumed_lengths(config, inputs.prompt_lengths, options.length))


def show_run(setup: Setup, inputs: Inputs, using: Utilisations, options: Options, console: Console) -> None:
    """Print memory, inputs and time of one run."""
    sizes = setup.geometries["policy"]
    memory = plan_memory(setup)
    console.print(f"{setup.config.model.path}: {sizes.parameters:,} parameters ({sizes.source})")
    console.print(f"device: {setup.device.title}; lengths: {setup.lengths.source}\n")
    for table in report.memory_tables(setup, memory):
        console.print(table)
    console.print(report.device_table(setup))
    if not fits(setup, memory):
        console.print(f"Does not fit: {sentence(setup, memory)}.")
    for line in [*report.engine_lines(setup), *report.disk_lines(setup, steps_of(setup.config, inputs))]:
        console.print(line)
    console.print()
    for line in inputs.lines:
        console.print(line, markup=False)
    if not setup.uses_rl:
        return
    steps = steps_of(setup.config, inputs)
    time = step_time(setup, using)
    console.print()
    console.print(report.time_table(setup, time, steps))
    for line in [*report.run_lines(setup, time, steps, options.price), using.describe()]:
        console.print(line)
    console.print(report.length_table(setup, using, steps))
    if not setup.local:
        console.print(report.scale_table(setup, using, steps))


def steps_of(config: Config, inputs: Inputs) -> int | None:
    """Return the number of rollout steps of a run; None if it depends on data that cannot be read."""
    return inputs.schedule.steps if inputs.schedule is not None else config.train.steps


def sweep_lines(design: Any, setup: Setup, inputs: Inputs, using: Utilisations, options: Options) -> list[str]:
    """Return lines on the number of runs, the cost and the power of a sweep. Every arm is composed, and planned with
    its own settings."""
    seconds, largest, devices = 0.0, 0.0, 0
    counted = True
    for arm in design.arms:
        config = compose_run([*design.fixed, *arm, design.seeds[0]])
        own = describe(config, setup.device, assumed_lengths(config, inputs.prompt_lengths, options.length))
        steps = steps_of(config, inputs) if config.train.steps is None else config.train.steps
        counted = counted and steps is not None
        each = step_time(own, using).seconds * (steps or 0)
        seconds, largest, devices = seconds + each * len(design.seeds), max(largest, each), own.devices
    what, many = ("CPU-hours", setup.device.per_node) if setup.on_cpu else ("GPU-hours", devices)
    hours = seconds * many / report.HOUR
    cost = f", {hours * options.price:,.0f} at {options.price:g} an hour" if options.price else ""
    lines = [f"Sweep: {len(design.arms)} arms x {len(design.seeds)} seeds = {design.runs} runs"]
    if counted:
        lines.append(
            f"cost: {report.amount(hours)} {what}{cost}; one after the other {report.duration(seconds)}, all at once "
            f"{report.duration(largest)}"
        )
    else:
        lines.append("cost unknown: train.passes needs the number of problems, and the data could not be read")
    power = sweep_power(design, setup.config, options)
    return lines + (describe_power(power) if power else ["power unknown: the run has no evaluation sets of known size"])


def sweep_power(design: Any, config: Config, options: Options) -> Power | None:
    """Return the power of a sweep on its evaluation sets; None if their sizes are unknown."""
    sizes = {}
    for name, one in config.evals.sets.items():
        keywords = one.keywords
        count = keywords.get("count") or (
            BENCHMARKS[keywords["name"]].items if keywords.get("name") in BENCHMARKS else None
        )
        if count is None:
            return None
        sizes[name] = count
    items = items_of(sizes, config.evals.limit)
    if not items:
        return None
    noise = sweep_noise([Path(run) for run in options.noise], options.seed_sd, options.accuracy, config.evals.samples)
    return power_of(design, noise, items, options.difference)


def show_calibration(run: Path, options: Options, out: Path, console: Console) -> None:
    """Fit the utilisations from a finished run, write them to `out`, and print the estimate next to the measurement."""
    config = config_of(run)
    device: Device = find_device(options.device) if options.device else default_device(config)
    before = CPU_UTILISATIONS if device.name == "cpu" else Utilisations()
    setup, found, time = calibrate(run, device, before, out)
    old = step_time(setup, before)
    console.print(f"{run}: {found.steps} steps, {setup.lengths.mean:.0f} tokens a sequence in the mean")
    for stage, seconds in time.stages.items():
        console.print(
            f"  {stage:<8} measured {report.duration(found.stages[stage]):>8}, "
            f"before {report.duration(old.stages[stage]):>8}, fitted {report.duration(seconds):>8}"
        )
    for one in plan_memory(setup):
        console.print(f"  memory   {one.place.name}: planned {report.gib(one.peak()[1])} GiB")
    console.print(
        f"  memory   measured {', '.join(f'{name} {size:.2f} GiB' for name, size in found.memory.items()) or 'nothing'}"
    )
    console.print(f"wrote {out}: later plans take it with calibration={out}")


DESCRIPTION = """Say what a run or sweep needs before it starts: memory, time, disk, and the difference it can detect.
No weights are loaded, no process is started. The words are those of train.py, for example

  python plan.py experiment=simplerl_zero backend=ray_32gpu data.path=data/math_lvl3to5_8k.json evals.path=x
  python plan.py experiment=zero_qwen_0_5b device=rtx4090
  python plan.py sweep=reward noise=runs/reward-a,runs/reward-b
  python plan.py --calibrate runs/default-0123abcd"""
EPILOG = """options:
  device=NAME        h100, h200, b200, a100_80, a100_40, l40s, a6000, rtx4090, rtx3090, l4, mi300x or cpu
  length=N           mean response in tokens (default: a guess, which is stated)
  calibration=FILE   utilisations fitted by --calibrate
  noise=RUN,RUN      folders of earlier runs, from which the noise of a sweep is estimated
  seed_sd=0.02       without noise=: standard deviation of accuracy between seeds
  accuracy=0.5       without noise=: accuracy, from which the noise of items follows
  difference=0.02    of accuracy, whose needed seeds and items are shown
  price=X            of one device for an hour"""
