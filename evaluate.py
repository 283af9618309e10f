"""Evaluates a model or checkpoint: python evaluate.py model.path=DIR evals=suite8 evals.path=DIR evals.limit=16

The configuration is that of train.py; prompt=, reward=, sampler= and evals= count, the rest is not used.
"""

import hydra
from omegaconf import DictConfig

from simplerl.cli import started
from simplerl.config import register

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(raw: DictConfig) -> None:
    from simplerl.evals.standalone import main as run  # torch and transformers load only when something runs

    run(raw)


if __name__ == "__main__":
    started(main)
