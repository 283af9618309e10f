"""Reads everything that W&B exports: CSV files, offline runs and histories on a server."""
