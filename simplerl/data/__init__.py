"""Training data and benchmarks: reading problems, rendering them as prompts, and the task of a run."""
