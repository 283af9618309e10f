"""Reads the problems of training data and benchmarks, renders them as prompts and prepares the task of a run."""
