"""Trains one run, or a sweep with -m: see README.md and `python train.py --help`."""

import json
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from simplerl.cli import started
from simplerl.config import register

register()


def outcome(folder: Path) -> str:
    """Accuracy of the first and the last evaluation."""
    summary = json.loads((folder / "summary.json").read_text())
    both = [summary[when].get("eval/mean/accuracy") for when in ("first_evaluation", "last_evaluation")]
    return "" if None in both else f"  (accuracy {both[0]:.1%} -> {both[1]:.1%})"


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(raw: DictConfig) -> None:
    from simplerl.experiment import main as run  # torch and transformers load only when something runs

    folder = run(raw)
    if HydraConfig.get().mode is RunMode.RUN:
        from analysis.report import write_report

        report = write_report([folder], folder / "report.html")
        print(f"Finished: {folder}{outcome(folder)}\nReport:   {report}")


if __name__ == "__main__":
    started(main)
