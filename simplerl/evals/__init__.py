"""Evaluation on benchmarks: sampling and grading, statistics, and what responses look like."""
