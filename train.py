"""Train one run, or a sweep with -m: see README.md and `python train.py --help`. With --describe, print what a run or
sweep is, what it costs and, with hydra/launcher=slurm, its sbatch script, without running it."""

import os
import sys
from pathlib import Path

from simplerl import exit_on_ctrl_c


def show(folder: Path) -> None:
    """Write the report of a run, and print the run's folder, its first and last accuracy and the report's path."""
    from analysis.report import write_report
    from simplerl.io.files import read_json

    report = write_report([folder], folder / "report.html")
    kinds = {"first_evaluation": dict, "last_evaluation": dict}
    summary = read_json(folder / "summary.json", "remove status.json, and the same command writes both again", kinds)
    both = [summary[when].get("eval/mean/accuracy") for when in kinds]
    outcome = "" if None in both else f"  (accuracy {both[0]:.1%} -> {both[1]:.1%})"
    print(f"Finished: {folder}{outcome}\nReport:   {report}")


if __name__ == "__main__":
    exit_on_ctrl_c()
    from simplerl.cli import hydra_command, hydra_error_message

    if "--describe" in sys.argv:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read on import; a description uses what is at hand
        from simplerl.sweeps.describe import main

        sys.exit(main(sys.argv[1:], hydra_error_message))
    hydra_command("simplerl.experiment.run_experiment", show)
