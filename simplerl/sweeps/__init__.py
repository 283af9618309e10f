"""Sweeps: which runs belong together, how they are started on this machine or on SLURM, and their states.

`register_sweeps` is here, in a short file of its own, because every command calls it before anything else is imported.
"""

from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

SWEEPS = Path(__file__).parents[2] / "sweeps"


def register_sweeps() -> None:
    """Make each file sweeps/NAME.yaml known to Hydra as the option NAME of the group `sweep`.

    Hydra finds a group only in a folder of the same name inside conf/. Files are registered whatever the working
    directory is, and apply to the whole configuration (package `_global_`)."""
    for path in sorted(SWEEPS.glob("*.yaml")):
        ConfigStore.instance().store(group="sweep", name=path.stem, node=OmegaConf.load(path), package="_global_")
