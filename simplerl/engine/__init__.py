"""Loads, trains and saves models on one device: batching, forward passes, optimizer steps and checkpoint files."""
