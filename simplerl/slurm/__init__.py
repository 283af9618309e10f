"""Runs as SLURM jobs: what is queued (`queue`), what a job does (`job`), how a sweep is submitted (`submit`)."""
