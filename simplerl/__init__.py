"""SimpleRL: reinforcement learning of reasoning models as a suite of ablations."""

import os
import signal

__version__ = "0.2.0"

# libgomp's threads spin at every barrier; where another process holds a core, that makes a training step 10 to 40 times
# slower. A short spin costs nothing on a quiet machine. libgomp reads the variable once, when torch is first imported.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "2000"


def exit_on_ctrl_c() -> None:
    """Make Ctrl-C end this process at once and quietly with status 130, until a run is ready to save on it. Commands
    call it before they import anything slow, because a traceback from an import looks like a fault."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
