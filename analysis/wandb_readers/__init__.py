"""Readers of everything W&B exports: CSV files, offline runs and histories on a server."""
