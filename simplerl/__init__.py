"""SimpleRL: reinforcement learning of reasoning models as a suite of ablations."""

__version__ = "0.1.0"
