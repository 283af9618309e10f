r"""Finds the units of a list whose items belong together: rows of cases, groups of values, labelled parts, verdicts.

`x=1, y=2 or x=3, y=4` is two pairs and not four equations; `x^2, x \ge 1; 2x, x < 1` is two rows of a value and its
condition; `(a) 5 (b) 3` and `True, False` have an order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from simplerl.rewards.characters import TEXT, TEXT_GROUP

_RELATION = re.compile(r"[<>=]|\\(?:le|ge|ne|in)(?![a-z])")
_CASES = re.compile(r"\\begin\{cases\}((?:(?!\\begin|\\end).)*)\\end\{cases\}", re.S)
_BRACED_ARRAY = re.compile(  # \left\{\begin{array}{l}...\end{array}\right.
    r"\\\{\s*\\begin\{array\}\s*(?:\{[^{}]*\})?((?:(?!\\begin|\\end).)*)\\end\{array\}(?!\s*\\\})(?:\s*\.)?", re.S
)
_ALIGNMENT = re.compile(
    r"^\s*&|&\s*(?=[=<>]|\\(?:le|ge|ne|approx)(?![a-z]))|(?:[=<>]|\\(?:le|ge|ne|approx)(?![a-z]))\s*&"
)
_IF = re.compile(rf"&\s*(?:{TEXT}\s*\{{\s*(?:if|when|for)\s*\}}|(?:if|when|for)\b)\s*")
_NUMBER = r"\(\s*(?P<{}>[a-h]|\d|[iv]{{1,4}})\s*\)"
_LABEL = re.compile(
    rf"(?:{TEXT}\s*\{{\s*{_NUMBER.format('text')}\s*\}}|(?<![^\s,;.]){_NUMBER.format('bare')})"
    r"\s*(?![+*/^_=<>|)!]|\\(?:le|ge|ne|in)(?![a-z]))"
)
_ORDERS = ("abcdefgh", "123456789", ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii"))
_OPERATOR_AT_END = re.compile(r"[+\-*/^_=<>|(]\s*$")
_COMMA, _IN_BRACKETS = re.compile(r",(?!\d{3}(?!\d))"), re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}")
_VERDICT = re.compile(r"(?i:true|false|yes|no|correct|incorrect|right|wrong)|[TF]|对|错|正确|错误|是|否|[√✓✔×✗✘]")


def with_rows_of_cases(text: str) -> str:
    r"""Write rows of cases that consist of a value and its condition as "value, condition; value, condition"; other
    rows are left unchanged. An `&` beside a relation sign only aligns."""
    text = _BRACED_ARRAY.sub(r"\\begin{cases}\1\\end{cases}", text) if "{array}" in text else text
    return _CASES.sub(_rows_of_cases, text) if "{cases}" in text else text


def _rows_of_cases(cases: re.Match[str]) -> str:
    rows = [row for row in cases[1].split("\\\\") if row.strip()]
    if not rows or any(row.count("&") != 1 or _ALIGNMENT.search(row) for row in rows):
        return cases[0]
    cells = [[cell.strip().rstrip(",;.").strip() for cell in _IF.sub("&", row).split("&")] for row in rows]
    return " " + "; ".join(map(", ".join, cells)) + " "


def are_lists(pieces: Sequence[str]) -> bool:
    """Return whether every text has a comma outside brackets that does not separate thousands."""
    return all(_COMMA.search(_IN_BRACKETS.sub("", piece)) for piece in pieces)


def groups(pieces: tuple[str, ...], separators: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the groups of two items or more in a list, or [] if it has none.

    Semicolons separate groups if commas separate the items of each. Without semicolons, equations in which the same
    names return (m, n, m, n) are groups, and so are values that alternate with conditions.
    """
    if ";" in separators:
        found: list[list[str]] = [[pieces[0]]]
        for separator, piece in zip(separators, pieces[1:], strict=True):
            if separator == ";":
                found.append([])
            found[-1].append(piece)
        if all(len(group) > 1 for group in found):
            return [tuple(group) for group in found]
    names = [_name(piece) for piece in pieces]
    if None not in names:
        size = next((i for i, name in enumerate(names) if name in names[:i]), 0)
        blocks = _blocks(pieces, size)
        return blocks if all({_name(one) for one in block} == set(names[:size]) for block in blocks) else []
    rows = _blocks(pieces, 2)
    return rows if all(is_row(row) or (row == rows[0] and names[0]) for row in rows) and any(map(is_row, rows)) else []


def _blocks(pieces: tuple[str, ...], size: int) -> list[tuple[str, ...]]:
    """Cut a list into two blocks or more of `size` items, at least two each; return [] if that is impossible."""
    if size < 2 or len(pieces) % size or len(pieces) == size:
        return []
    return [pieces[i : i + size] for i in range(0, len(pieces), size)]


def _name(piece: str) -> str | None:
    """Return the left side of an equation; None for any other text."""
    sides = piece.split("=")
    return sides[0].strip() if len(sides) == 2 and not re.search(r"[<>!]", piece) else None


def is_row(pieces: tuple[str, ...]) -> bool:
    """Return whether two items are a value and its condition."""
    return len(pieces) == 2 and not _RELATION.search(pieces[0]) and _RELATION.search(pieces[1]) is not None


def labelled_parts(text: str) -> tuple[str, ...]:
    """Return the parts of (a) 5 (b) 3 or (1) 5, (2) 3 in the order of the labels; () for any other text."""
    if not re.match(r"\(|\\", text) or len(found := list(_LABEL.finditer(text))) < 2 or found[0].start():
        return ()
    labels = [label["text"] or label["bare"] for label in found]
    ends = [label.start() for label in found[1:]] + [len(text)]
    contents = [text[label.end() : end] for label, end in zip(found, ends, strict=True)]
    if any(map(_OPERATOR_AT_END.search, contents)):
        return ()
    parts = [re.sub(r"[\s,;.]+$", "", content) for content in contents]
    for order in _ORDERS:
        if sorted(labels) == sorted(order[: len(labels)]) and all(parts):
            return tuple(dict(sorted(zip(map(order.index, labels), parts, strict=True))).values())
    return ()


def are_verdicts(pieces: tuple[str, ...]) -> bool:
    """Return whether every item is a word such as True, No or 对: a list of verdicts follows the order of the
    statements."""
    return all(_VERDICT.fullmatch(TEXT_GROUP.sub(r"\1", piece).strip()) for piece in pieces)
