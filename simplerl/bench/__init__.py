"""Measures the speed of our samplers, updates and grading against other libraries on the same inputs."""
