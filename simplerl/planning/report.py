"""Writes a plan as tables and lines of at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from simplerl.backends.roles import POLICY
from simplerl.cluster.layout import ENGINE
from simplerl.io.tables import Table, text_cells
from simplerl.planning.devices import DEVICES, GIB, Device
from simplerl.planning.memory import PlaceMemory, cache_bytes_per_token, engine_cache, plan_memory, precision_bytes
from simplerl.planning.remedies import fits, needed, smallest_change
from simplerl.planning.roofline import STAGES, StepTime, Utilisations, scaled, step_time
from simplerl.planning.setup import Setup

SCALES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # devices
LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the mean response
CHECKPOINT_BYTES = 12  # per trained parameter: float32 weights and Adam's two moments
ROLLOUT_BYTES = 10  # per token: text, token id and log-prob, compressed; measured on the micro world and on GSM8K
HOUR, DAY = 3600.0, 86400.0


def gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"


def duration(seconds: float) -> str:
    """Return a duration as text, in ms, s, min, h or days."""
    for unit, size in (("days", DAY), ("h", HOUR), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    if seconds < 0.1:
        return f"{1e3 * seconds:.2g} ms"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def amount(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def mib(size: float) -> str:
    return f"{size / 2**20:.1f}"


def memory_tables(setup: Setup, memory: Sequence[PlaceMemory]) -> Iterator[Table]:
    """Yield one table for every place (devices that hold the same roles): GiB by role and purpose, and the sum of each
    phase."""
    for one in memory:
        phases = list(one.phases)
        name, shown = ("GiB", gib) if one.peak()[1] >= GIB else ("MiB", mib)
        keys = list(dict.fromkeys(key for parts in one.phases.values() for key in parts))
        rows = [
            text_cells(
                [
                    role,
                    what,
                    *(shown(parts[role, what]) if (role, what) in parts else "" for parts in one.phases.values()),
                ]
            )
            for role, what in keys
        ]
        rows.append(text_cells(["total", "", *(shown(sum(parts.values())) for parts in one.phases.values())]))
        count = f"{one.place.devices * one.place.size} x " if one.place.devices * one.place.size > 1 else ""
        unit = "process" if setup.on_cpu else "device"
        notes = (
            [f"and {gib(one.host)} GiB of host memory for each process, because the optimizer is offloaded"]
            if one.host
            else []
        )
        yield Table(
            "memory",
            f"Peak memory in {name} of each {unit} of {count}{one.place.name}",
            ["role", "part", *phases],
            rows,
            rule_after=(len(rows) - 2,),
            notes=notes,
            align="ll" + "r" * len(phases),
        )


def device_table(setup: Setup) -> Table:
    """Return whether the run fits each device, and the smallest change with which it does."""
    rows = []
    devices = [setup.device, *(one for one in DEVICES.values() if one.name != setup.device.name)]
    for device in devices:
        own = _moved(setup, device)
        memory = plan_memory(own)
        size = needed(own, memory)
        cure = ""
        if not fits(own, memory):
            change = smallest_change(own)
            marks = "" if change is None or all(one.neutral for one in change) else " *"
            cure = "nothing found" if change is None else " ".join(map(str, change)) + marks
        rows.append(text_cells([device.title, gib(device.memory), gib(size), "no" if cure else "yes", cure]))
    notes = ["* changes results"] if any(row[-1].text().endswith("*") for row in rows) else []
    return Table(
        "devices",
        "Does it fit?",
        ["device", "GiB", "needs", "fits", "smallest change"],
        rows,
        notes=notes,
        align="lrrll",
    )


def _moved(setup: Setup, device: Device) -> Setup:
    return replace(setup, device=device)


def time_table(setup: Setup, time: StepTime, steps: int | None) -> Table:
    """Return a table with the time of each stage of a rollout step, its fraction of the step, and the devices that it
    runs on."""
    total = time.seconds
    rows = []
    for stage in STAGES:
        places = ", ".join(
            f"{place} {duration(seconds)}" for (which, place), seconds in time.parts.items() if which == stage
        )
        rows.append(text_cells([stage, duration(time.stages[stage]), f"{time.stages[stage] / total:.0%}", places]))
    rows.append(text_cells(["step", duration(total), "", "stages overlap (rollout.ahead)" if time.ahead else ""]))
    return Table(
        "time",
        f"Time of a rollout step on {_devices(setup)}",
        ["stage", "time", "share", "where"],
        rows,
        rule_after=(len(STAGES) - 1,),
        align="lrrl",
    )


def _devices(setup: Setup) -> str:
    if setup.on_cpu:
        return setup.device.title
    return f"{setup.devices} x {setup.device.title}"


def length_table(setup: Setup, using: Utilisations, steps: int | None) -> Table:
    """Return a table with one row for each of several mean response lengths in tokens: the time of a step and of the
    run, and the fraction of each stage. steps: of the run, None if unknown."""
    limit = setup.lengths.longest_response
    means = sorted({min(limit, max(1.0, setup.lengths.mean_response * factor)) for factor in LENGTHS})
    rows = []
    for mean in means:
        time = step_time(replace(setup, lengths=replace(setup.lengths, mean_response=mean)), using)
        stages = [f"{time.stages[stage] / time.seconds:.0%}" for stage in STAGES]
        run = duration(time.seconds * steps) if steps else ""
        rows.append(text_cells([f"{mean:.0f}", duration(time.seconds), run, *stages, time.bottleneck]))
    columns = ["mean response", "step", "run", *STAGES, "longest stage"]
    return Table(
        "lengths", "Time against the mean response in tokens", columns, rows, align="rrr" + "r" * len(STAGES) + "l"
    )


def scale_table(setup: Setup, using: Utilisations, steps: int | None) -> Table:
    """Return a table of the time of a step on 1 to 1,024 devices, divided between the roles as in `setup`, with the
    longest stage. steps: of the run, None if unknown."""
    rows = []
    for devices in SCALES:
        own = scaled(setup, devices)
        if own.devices > devices:
            continue
        time = step_time(own, using)
        hours = time.seconds * own.devices / HOUR
        trainers = "/".join(str(count) for role, count in own.counts.items() if role != ENGINE)
        room = "yes" if fits(own) else "no"
        row = [own.devices, trainers, own.counts.get(ENGINE, 0), duration(time.seconds), amount(hours)]
        run = [duration(time.seconds * steps), f"{hours * steps:,.0f}"] if steps else ["", ""]
        rows.append(text_cells([*row, *run, time.bottleneck, room]))
    columns = ["devices", "ranks", "engines", "step", "h/step", "run", "device-h", "longest stage", "fits"]
    roles = ", ".join(role for role in setup.counts if role != ENGINE)
    notes = [f"ranks: {roles}. h/step: hours of all devices together. Across nodes, links are slower."]
    return Table("scale", "From 1 to 1,024 devices", columns, rows, notes=notes, align="rlrrrrrll")


def disk_lines(setup: Setup, steps: int | None) -> list[str]:
    """Return lines on the disk space of checkpoints and rollouts. steps: of the run, None if unknown."""
    trained = sum(setup.geometries[role].parameters for role in setup.trained)
    each = CHECKPOINT_BYTES * trained
    keep = setup.config.run.keep
    lines = [f"disk: {gib(each)} GiB a checkpoint, {gib((keep + 1) * each)} GiB for run.keep={keep} and a new one"]
    rollouts = setup.responses * setup.lengths.mean_response * ROLLOUT_BYTES
    lines.append(
        f"disk: {rollouts / 2**20:.3g} MiB of rollouts a step"
        + (f", {gib(rollouts * steps)} GiB in {steps} steps" if steps else "")
    )
    return lines


def engine_lines(setup: Setup) -> list[str]:
    """Return lines on how many sequences of the maximum length the key-value cache of an engine holds, and on the size
    of a weight sync; [] without engines."""
    if ENGINE not in setup.counts:
        return []
    cache, each = engine_cache(setup), cache_bytes_per_token(setup)
    return [
        f"KV cache of an engine: {gib(cache)} GiB = {cache / each:,.0f} tokens = "
        f"{cache / each / setup.lengths.longest:,.0f} sequences of {setup.lengths.longest} tokens",
        f"weight sync: {gib(precision_bytes(setup) * setup.geometries[POLICY].parameters)} GiB into each of "
        f"{setup.counts[ENGINE]} engines",
    ]


def run_lines(setup: Setup, time: StepTime, steps: int | None, price: float | None) -> list[str]:
    """Return lines on the time, the device-hours and the cost of the run. price: of one device-hour, None if
    unknown."""
    if steps is None:
        return ["time of the run unknown: train.passes needs the number of problems, and the data could not be read"]
    seconds = time.seconds * steps
    what = "CPU-hours" if setup.on_cpu else "GPU-hours"
    devices = setup.device.per_node if setup.on_cpu else setup.devices
    hours = seconds * devices / HOUR
    cost = f", {hours * price:,.0f} at {price:g} an hour" if price else ""
    lines = [f"run: {steps} steps in {duration(seconds)}, {amount(hours)} {what} on {devices} devices{cost}"]
    if evaluations := setup.config.evals.every and steps // setup.config.evals.every + 1:
        lines.append(f"not included: {evaluations} evaluations, checkpoints, start-up and restarts")
    return lines
