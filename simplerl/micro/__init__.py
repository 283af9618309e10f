"""Provides the micro world: integer arithmetic that a tiny model learns and RL improves, on a laptop in minutes."""
