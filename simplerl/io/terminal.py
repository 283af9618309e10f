"""The console through which commands print."""

from __future__ import annotations

from rich.console import Console


def terminal(columns: int = 160) -> Console:
    """Return the console of a command. It never wraps a line, so that a path or command can be copied from it. A table
    may be `columns` characters wide where the output is a file or a pipe."""
    return Console(width=None if Console().is_terminal else columns, soft_wrap=True, highlight=False)
