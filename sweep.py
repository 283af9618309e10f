"""Shows, cancels and resumes sweeps that were started by `python train.py -m ...`, on this machine or on SLURM.

python sweep.py status               list all sweeps under runs/
python sweep.py status SWEEP         show each run: state, step, reward, accuracy, hours, last line of its log
python sweep.py cancel SWEEP         stop queued and running runs; running ones save a checkpoint first
python sweep.py resume SWEEP         restart all unfinished runs from their last checkpoints

SWEEP is a name from the list, or a folder that contains a sweep.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from simplerl import exit_on_ctrl_c
from simplerl.errors import ConfigError
from simplerl.io.places import spelled


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["status", "cancel", "resume"], help="what to do with the sweep")
    parser.add_argument("sweep", nargs="?", help="name or folder of the sweep; `status` without it lists all sweeps")
    parser.add_argument(
        "--root", type=Path, default=Path("runs"), help="folder of the runs: the run.root of the sweep (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print the status of a sweep as JSON")
    chosen = parser.parse_intermixed_args()
    if chosen.sweep is None and chosen.command != "status":
        parser.error(f"{chosen.command} needs the name of a sweep; `{spelled('sweep')} status` lists them")
    return chosen


def main() -> int:
    exit_on_ctrl_c()
    chosen = arguments()
    from simplerl.sweeps import commands, manifest
    from simplerl.sweeps.slurm import SlurmError

    try:
        if chosen.sweep is None:
            return commands.show_all(chosen.root)
        sweep = manifest.find(chosen.sweep, chosen.root)
        if chosen.command == "cancel":
            return commands.cancel(sweep)
        if chosen.command == "resume":
            return commands.resume(sweep)
        return commands.show(sweep, as_json=chosen.json)
    except (ConfigError, SlurmError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
