"""Manages the folder of a run: configuration, checkpoints, metrics, responses, progress and tracking."""
