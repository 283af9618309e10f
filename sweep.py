"""Looks after sweeps that `python train.py -m ...` started, here or on SLURM.

python sweep.py status               every sweep under runs/
python sweep.py status SWEEP         each of its runs: state, step, reward, accuracy, hours, last line of its log
python sweep.py cancel SWEEP         stops what waits or runs; what runs saves first
python sweep.py resume SWEEP         starts again whatever has not finished, from where it stopped

SWEEP is a name that `status` lists, or a folder with a sweep.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from simplerl.errors import ConfigError


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["status", "cancel", "resume"])
    parser.add_argument("sweep", nargs="?", help="name or folder; without one, status lists all")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="run.root of the sweep (default: runs)")
    parser.add_argument("--json", action="store_true", help="status as JSON")
    chosen = parser.parse_intermixed_args()
    if chosen.sweep is None and chosen.what != "status":
        parser.error(f"{chosen.what} needs the name of a sweep: python sweep.py status lists them")
    return chosen


def main() -> int:
    chosen = arguments()
    from simplerl.sweeps import commands, manifest
    from simplerl.sweeps.slurm_queue import SlurmError

    try:
        if chosen.sweep is None:
            return commands.show_all(chosen.root)
        sweep = manifest.find(chosen.sweep, chosen.root)
        if chosen.what == "cancel":
            return commands.cancel(sweep)
        if chosen.what == "resume":
            return commands.resume(sweep)
        return commands.show(sweep, as_json=chosen.json)
    except (ConfigError, SlurmError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
