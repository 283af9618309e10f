"""Tables, figures and reports of finished runs; every command is `python -m analysis.NAME`."""
