"""Samples a teacher on a data set, selects its answers, and writes them as a data set for SFT: `python distill.py`."""
