"""Makes tables, figures and reports of runs; every command is `python -m analysis.NAME`."""
