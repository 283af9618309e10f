"""Benchmarks: speed of our samplers, updates and grading, compared with other libraries on the same inputs."""
