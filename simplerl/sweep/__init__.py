"""Sweeps: which runs belong together (`manifest`), how they stand (`states`), how they are started (`launch`)."""
