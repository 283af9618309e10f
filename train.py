"""Trains one run, or a sweep with -m: see README.md and `python train.py --help`."""

import hydra
from omegaconf import DictConfig

from simplerl.config import register

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(raw: DictConfig) -> None:
    from simplerl.main import main as run  # torch and transformers load only when something runs

    run(raw)


if __name__ == "__main__":
    main()
