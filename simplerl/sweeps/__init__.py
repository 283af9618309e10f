"""Manages sweeps: which runs belong together, how they are started on this machine or on SLURM, and their states."""
