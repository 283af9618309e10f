"""Train one run, or a sweep with -m: see README.md and `python train.py --help`."""

import json
from pathlib import Path

from simplerl.cli import hydra_command


def show(folder: Path) -> None:
    """Write the report of a run, and print where it is and what the run reached."""
    from analysis.report import write_report

    report = write_report([folder], folder / "report.html")
    summary = json.loads((folder / "summary.json").read_text())
    both = [summary[when].get("eval/mean/accuracy") for when in ("first_evaluation", "last_evaluation")]
    outcome = "" if None in both else f"  (accuracy {both[0]:.1%} -> {both[1]:.1%})"
    print(f"Finished: {folder}{outcome}\nReport:   {report}")


if __name__ == "__main__":
    hydra_command("simplerl.experiment.run_experiment", show)
