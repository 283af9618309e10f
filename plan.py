"""Plan a run or sweep before it starts: memory, time, cost and power (python plan.py --help, docs/planning.md)."""

import os
import sys

from simplerl import exit_on_ctrl_c

if __name__ == "__main__":
    for hub in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # read on import; a plan uses what is at hand
        os.environ.setdefault(hub, "1")
    exit_on_ctrl_c()
    from simplerl.cli import hydra_error_message
    from simplerl.planning.command import main

    sys.exit(main(sys.argv[1:], hydra_error_message))
