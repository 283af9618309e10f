"""Evaluates models on benchmarks: sampling and grading, statistics, and text features of responses."""
