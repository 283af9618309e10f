r"""Reads matrices and vectors in any environment, also with a numeric factor before or a transpose sign after them.

`as_pmatrix` writes all environments as pmatrix while a text is normalised; `matrix_cells` and `scaled_vector` then read
them. Determinants (vmatrix) are not matrices.
"""

from __future__ import annotations

import re

from simplerl.rewards.numeric import parse_number

_ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{\s*(?:b|B|p|small|bsmall|psmall)?matrix\s*\*?\s*\}")
_ARRAY = re.compile(
    r"(?P<open>\(|\[|\\\{)\s*\\begin\s*\{array\}\s*(?:\{[^{}]*\})?(?P<cells>(?:(?!\\begin|\\end).)*)\\end\s*\{array\}\s*"
    r"(?P<close>\)|\]|\\\})",
    re.S,
)
_BARE_ARRAY = re.compile(  # without brackets; one with relations is a system of equations
    r"\\begin\s*\{array\}\s*(?:\{[^{}]*\})?(?P<cells>(?:(?!\\begin|\\end)[^=<>|])*&(?:(?!\\begin|\\end)[^=<>|])*)\\end\s*\{array\}"
)
_GROUP = r"(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*"
_PLAIN_TEX = re.compile(rf"\\(?:b|B|p|small|bsmall|psmall)?matrix\s*\{{({_GROUP})\}}")  # \matrix{1&2\cr 3&4}
_BRACKETS = re.compile(r"[(\[]\s*(\\begin\{pmatrix\}(?:(?!\\begin|\\end).)*\\end\{pmatrix\})\s*[)\]]", re.S)
_TRANSPOSE = r"\s*\^\s*(?:\{\s*)?(?:\\top(?![a-z])|\\(?:text|mathrm|mathsf|mathbf|rm)\s*\{?\s*[Tt]\s*\}?|[Tt]|')\s*\}?"
_MATRIX = re.compile(
    rf"(?P<factor>.*?)\s*\*?\s*\\begin\{{pmatrix\}}(?P<cells>.*)\\end\{{pmatrix\}}(?P<transposed>{_TRANSPOSE})?"
    r"(?:\s*(?P<operation>[*/])\s*(?P<last>.+))?",
    re.S,
)
_VECTOR = re.compile(
    rf"(?P<factor>.*?)(?P<bracketed>[(\[][^()\[\]]*,[^()\[\]]*[)\]])(?P<transposed>{_TRANSPOSE})?", re.S
)
_MAX_CELLS = 400


def as_pmatrix(text: str) -> str:
    """Write matrix environments, arrays within brackets, and an array that is the whole text as pmatrix without
    brackets around it."""
    if "matrix" not in text and "\\begin" not in text:
        return text
    text = _PLAIN_TEX.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text)
    if "\\begin" in text:
        text = re.sub(r"\\cr(?![A-Za-z])", r"\\\\", text)
    text = _ENVIRONMENT.sub(r"\\\1{pmatrix}", text)
    text = _ARRAY.sub(lambda found: f"\\begin{{pmatrix}}{found['cells']}\\end{{pmatrix}}", text)
    if whole := _BARE_ARRAY.fullmatch(text.strip()):
        return f"\\begin{{pmatrix}}{whole['cells']}\\end{{pmatrix}}"
    return _BRACKETS.sub(r"\1", text)


def matrix_cells(text: str) -> list[list[str]] | None:
    r"""Return the cells of a text that is one matrix, row by row, with the factor multiplied in; else None."""
    if "\\begin{pmatrix}" not in text or (found := _MATRIX.fullmatch(text)) is None or "\\begin" in found["cells"]:
        return None
    if (factor := _numeric_factor(found["factor"])) is None:
        return None
    rows = [[cell.strip() for cell in row.split("&")] for row in found["cells"].split("\\\\") if row.strip()]
    if not rows or len({len(row) for row in rows}) > 1 or sum(map(len, rows)) > _MAX_CELLS:
        return None
    if found["transposed"]:
        rows = [list(column) for column in zip(*rows, strict=True)]
    rows = [[_scaled(factor, cell) for cell in row] for row in rows]
    if found["operation"] is None:
        return rows
    if (last := _numeric_factor(found["last"])) is None:
        return None
    last = f"\\frac{{1}}{{{last}}}" if found["operation"] == "/" else last
    return [[_scaled(last, cell) for cell in row] for row in rows]


def rows_in_brackets(inside: str) -> list[list[str]] | None:
    """Return the rows of 1,2;3,4 or 1 2; 3 4, written in brackets for a matrix; None for a list such as 1;2."""
    if ";" not in inside or re.search(r"[()\[\]]", inside):
        return None
    rows = [[cell.strip() for cell in row.split(",")] for row in inside.split(";")]
    if all(len(row) == 1 for row in rows):
        rows = [row[0].split() if re.fullmatch(r"[-+./\d\s]+", row[0]) else row for row in rows]
    is_matrix = len({len(row) for row in rows}) == 1 and len(rows[0]) > 1 and all(all(row) for row in rows)
    return rows if is_matrix and sum(map(len, rows)) <= _MAX_CELLS else None


def scaled_vector(text: str) -> tuple[str, list[str], bool] | None:
    r"""Return (opening bracket, items times the factor, whether transposed) of \frac12(3,4) or (1,2)^T; else None."""
    if "," not in text or (text[-1] in ")]" and text[0] in "(["):
        return None
    if (found := _VECTOR.fullmatch(text)) is None or (factor := _numeric_factor(found["factor"])) is None:
        return None
    items = [_scaled(factor, item.strip()) for item in found["bracketed"][1:-1].split(",")]
    return found["bracketed"][0], items, bool(found["transposed"])


def _numeric_factor(text: str) -> str | None:
    """Return a factor without letters, "1" if there is none, or None if it is not a number."""
    text = text.strip().removesuffix("*").strip()
    if text in ("", "+", "-"):
        return f"{text}1"
    bare = re.sub(r"\\(?:frac|sqrt|pi)(?![a-z])", "", text)
    return text if re.fullmatch(r"[\d\s.{}()/*^+-]+", bare) and re.search(r"[\d}]\s*\)?$", text) else None


def _scaled(factor: str, cell: str) -> str:
    if factor in ("1", "+1"):
        return cell
    a, b = parse_number(factor), parse_number(cell)
    return str(a.value * b.value) if a and b else f"({factor})*({cell})"
