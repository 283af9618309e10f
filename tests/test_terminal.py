"""What commands print on a terminal or into a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simplerl.io.terminal import terminal

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("length", [10, 79, 300])
def test_a_path_is_printed_on_one_line_at_any_length(length: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["folder"] * length)
    terminal(60).print(f"wrote {path}: use it with data.path={path}")
    assert capsys.readouterr().out == f"wrote {path}: use it with data.path={path}\n"


def test_commands_print_through_the_console_that_does_not_wrap() -> None:
    """Progress bars alone make their own console."""
    makers = {
        str(file.relative_to(ROOT))
        for folder in ("simplerl", "analysis")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r"(= |return )Console\(", file.read_text())
    }
    assert makers == {"simplerl/io/terminal.py", "simplerl/runs/progress.py", "simplerl/evals/standalone.py"}
