"""Sweeps: which runs belong together, how they are started here or on SLURM, and how they stand."""
