"""SimpleRL: reinforcement learning of reasoning models as a suite of ablations."""

import os

__version__ = "0.1.0"

# libgomp's threads spin at every barrier; where another process holds a core, that makes a training step 10 to 40 times
# slower. A short spin costs nothing on a quiet machine. libgomp reads the variable once, when torch is first imported.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "2000"
