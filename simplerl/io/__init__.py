"""Reads and writes files, and renders tables."""
