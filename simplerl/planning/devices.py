"""Names accelerators with their memory, speed and links, from the vendors' data sheets, and describes this machine.

Speeds are dense peaks. `plan` multiplies them by utilisations, which are assumptions or fitted from a run.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from simplerl.config import Config, Precision
from simplerl.errors import ConfigError

GIB = 2**30
CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """Holds the memory and the speed of one device. A CPU device is one core, with an equal part of this machine's
    memory."""

    name: str
    title: str
    memory: float  # bytes that the driver reports
    bfloat16: float  # multiply-accumulate peak, FLOP/s, with float32 accumulation
    float32: float  # FLOP/s, without TF32
    bandwidth: float  # of memory, byte/s
    link: float  # to another device of its node, byte/s in one direction
    network: float = 50e9  # to another node, byte/s in one direction: 400 Gbit/s for each device
    per_node: int = 8  # devices of one node
    here: bool = False  # a device of this machine

    def flops(self, precision: Precision | str) -> float:
        return self.bfloat16 if str(getattr(precision, "name", precision)) == "bfloat16" else self.float32


def _gpu(name: str, title: str, mib: int, bf16: float, fp32: float, terabytes: float, link: float) -> Device:
    """Return a GPU, given its memory in MiB, its speed in TFLOP/s in bfloat16 and in float32, its memory bandwidth in
    TB/s, and the bandwidth of its link to other GPUs in GB/s."""
    return Device(name, title, mib * 2**20, bf16 * 1e12, fp32 * 1e12, terabytes * 1e12, link * 1e9)


DEVICES = {
    one.name: one
    for one in (
        _gpu("h100", "H100 80 GB", 81559, 989, 67, 3.35, 450),
        _gpu("h200", "H200 141 GB", 143771, 989, 67, 4.8, 450),
        _gpu("b200", "B200 180 GB", 183359, 2250, 75, 8.0, 900),
        _gpu("a100_80", "A100 80 GB", 81920, 312, 19.5, 2.04, 300),
        _gpu("a100_40", "A100 40 GB", 40960, 312, 19.5, 1.56, 300),
        _gpu("l40s", "L40S 48 GB", 46068, 362, 91.6, 0.864, 25),
        _gpu("a6000", "RTX A6000 48 GB", 49140, 155, 38.7, 0.768, 25),
        _gpu("rtx4090", "RTX 4090 24 GB", 24564, 165, 82.6, 1.008, 25),
        _gpu("rtx3090", "RTX 3090 24 GB", 24576, 71, 35.6, 0.936, 12),
        _gpu("l4", "L4 24 GB", 23034, 121, 30.3, 0.3, 12),
        _gpu("mi300x", "MI300X 192 GB", 196592, 1307, 163, 5.3, 64),
    )
}


def find_device(name: str) -> Device:
    """Return the device of this name. Raises ConfigError if it is unknown."""
    if name == CPU:
        return this_cpu()
    if name not in DEVICES:
        near = get_close_matches(name.lower(), DEVICES, 1)
        hint = f"did you mean {near[0]}? Valid" if near else "valid"
        raise ConfigError(f"device={name} is unknown: {hint} names are {', '.join(DEVICES)} and cpu.")
    return DEVICES[name]


def default_device(config: Config) -> Device:
    """Return the device that a run of this configuration would use: this machine's GPU or CPU, or an H100 if the
    configuration asks for GPUs that this machine lacks."""
    import torch

    if config.run.device == CPU or (config.run.device == "auto" and not torch.cuda.is_available()):
        return this_cpu()
    return this_gpu() if torch.cuda.is_available() else DEVICES["h100"]


def this_gpu() -> Device:
    """Return this machine's first GPU, with the speeds of the known device of the most similar name."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    words = set(re.findall(r"[a-z]*\d+\w*", properties.name.lower()))
    known = [one for one in DEVICES.values() if words & set(re.findall(r"[a-z]*\d+\w*", one.title.lower()))]
    like = min(known or [DEVICES["h100"]], key=lambda one: abs(one.memory - properties.total_memory))
    memory, speeds = float(properties.total_memory), (like.bfloat16, like.float32, like.bandwidth, like.link)
    return Device(like.name, properties.name, memory, *speeds, here=True)


def this_cpu() -> Device:
    """Return this machine as a device: the memory is what is available now, for all processes together. The speeds of
    one core are assumptions until a calibration replaces them."""
    memory = available_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Device(CPU, f"this machine ({cores} CPUs)", memory, 150e9, 60e9, 12e9, 5e9, 1e9, cores, here=True)


def available_memory() -> float:
    """Return the bytes of memory that this process may still use: of the machine, or of its control group if that has
    a lower limit."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"))
    free = 1024.0 * int(found[1]) if found else float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit, used = _text("/sys/fs/cgroup/memory.max").strip(), _text("/sys/fs/cgroup/memory.current").strip()
    inactive = re.search(r"inactive_file (\d+)", _text("/sys/fs/cgroup/memory.stat"))
    if limit.isdigit() and used.isdigit():
        free = min(free, float(int(limit) - int(used) + int(inactive[1] if inactive else 0)))
    return max(free, 0.0)


def _text(path: str) -> str:
    place = Path(path)
    return place.read_text() if place.exists() else ""
