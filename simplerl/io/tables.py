r"""Render one table for the terminal (rich) or as Markdown, LaTeX (booktabs), CSV or HTML.

A table is built once from cells and can then be written in every format:

    table = Table("runs", "Two runs", ["run", "accuracy (%)"], [[Cell("a"), Cell(Quantity(92.8, 2.2))]])
    rich.print(table)
    markdown(table)  # ... | a | 92.8 ± 2.2 |
    latex(table)     # ... a & $92.8 \pm 2.2$ \\
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import HEAVY_HEAD
from rich.table import Table as RichTable
from rich.text import Text

EMPTY = "-"


@dataclass(frozen=True)
class Quantity:
    """Holds a number with the half-width of its 95 % interval (None: unknown) and its number of seeds (0: published).

    limits: range of possible values. An interval that exceeds it is truncated and shown by its ends: for limits from 0,
    a value of 0.0 with a half-width of 49.0 is not shown as 0.0 ± 49.0 but as 0.0 [0.0, 49.0]."""

    value: float
    half_width: float | None = None
    n: int = 0
    limits: tuple[float, float] = (-math.inf, math.inf)

    def ends(self) -> tuple[float, float]:
        """Return the ends of the interval; `half_width` must be known."""
        assert self.half_width is not None
        return max(self.limits[0], self.value - self.half_width), min(self.limits[1], self.value + self.half_width)


@dataclass(frozen=True)
class Cell:
    """Holds text, or a number that may have an interval; None is shown as "-"."""

    value: Quantity | str | None = None
    digits: int = 1  # after the decimal point
    signed: bool = False  # write + before positive numbers
    bold: bool = False
    remark: str = ""  # shown in parentheses behind the value, such as "n=2"
    style: str = ""  # rich style, used on the terminal only
    code: bool = False  # Markdown shows it as a code span

    def parts(self) -> tuple[str, str]:
        """Return the value and the half-width of its interval as text; the half-width is empty if it is unknown, or if
        the ends of the interval are part of the value."""
        if self.value is None:
            return EMPTY, ""
        if isinstance(self.value, str):
            return self.value, ""
        number, width = self.value.value, self.value.half_width
        value = f"{number:+z.{self.digits}f}" if self.signed else f"{number:z.{self.digits}f}"
        if width is None:
            return value, ""
        low, high = self.value.ends()
        if high - low < 2 * width * (1 - 1e-9):
            return f"{value} [{low:z.{self.digits}f}, {high:z.{self.digits}f}]", ""
        return value, f"{width:.{self.digits}f}"

    def text(self) -> str:
        """Return the whole cell as plain text, such as "92.8 ± 2.2 (n=2)"."""
        value, width = self.parts()
        text = f"{value} ± {width}" if width else value
        return f"{text} ({self.remark})" if self.remark else text


@dataclass(frozen=True)
class Table:
    """Holds columns and rows of cells with a caption; rich prints it directly (`Console().print(table)`)."""

    name: str  # stem of file names and of the LaTeX label
    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    rule_after: tuple[int, ...] = ()  # indices of rows that are followed by a horizontal line
    notes: list[str] = field(default_factory=list)
    align: str = ""  # one of "lr" for each column; by default the first is left-aligned and the others right
    boxed: bool = True  # terminal only: draw borders
    truncate_last: bool = False  # terminal only: one line per row, the last column is truncated to fit

    @property
    def alignment(self) -> str:
        """Return one letter, "l" or "r", for each column."""
        return self.align or "l" + "r" * (len(self.columns) - 1)

    def __rich__(self) -> RichTable:
        return _terminal(self)


def text_cells(values: Iterable[object]) -> list[Cell]:
    """Return a row of text cells; None is shown as "-"."""
    return [Cell(None if value is None else str(value)) for value in values]


# Terminal


def _terminal(table: Table) -> RichTable:
    """Return the table for a rich console. Text is shown literally: square brackets are not markup."""
    shown = RichTable(
        title=Text(table.caption, "table.title") if table.caption else None,
        title_justify="left",
        caption=Text("\n".join(table.notes), "table.caption") if table.notes else None,
        caption_justify="left",
        box=HEAVY_HEAD if table.boxed else None,
    )
    for index, (column, side) in enumerate(zip(table.columns, table.alignment, strict=True)):
        shown.add_column(
            Text(column),
            justify="left" if side == "l" else "right",
            no_wrap=table.truncate_last and index > 0,
            overflow="ellipsis" if table.truncate_last and index == len(table.columns) - 1 else "fold",
        )
    for index, row in enumerate(table.rows):
        shown.add_row(*(Text(cell.text(), f"{cell.style} bold" if cell.bold else cell.style) for cell in row))
        if index in table.rule_after:
            shown.add_section()
    return shown


# Markdown


def markdown(table: Table) -> str:
    """Return a GitHub table with its caption in bold above and its notes as a list below."""

    def line(texts: Iterable[str]) -> str:
        return "| " + " | ".join(text.replace("\n", " ") for text in texts) + " |"

    body = [line(map(_markdown_cell, row)) for row in table.rows]
    align = "|" + "|".join("---" if side == "l" else "---:" for side in table.alignment) + "|"
    caption = [f"**{escape_markdown(table.caption)}**", ""] if table.caption else []
    notes = "".join(f"\n- {escape_markdown(note)}" for note in table.notes)
    return "\n".join([*caption, line(map(escape_markdown, table.columns)), align, *body]) + "\n" + notes + "\n"


def escape_markdown(text: str) -> str:
    """Escape `text` so that Markdown shows it literally, without links, images, HTML, code, emphasis or cell ends."""
    return re.sub(r"[`*\[\]<|]|\\(?=[!-/:-@\[-`{-~])", r"\\\g<0>", text)


def _markdown_cell(cell: Cell) -> str:
    if cell.code:
        return f"`{cell.text().replace('`', chr(39)).replace('|', chr(92) + '|')}`"
    text = cell.text() if isinstance(cell.value, Quantity) else escape_markdown(cell.text())
    return f"**{text}**" if cell.bold else text


# LaTeX

_TEXT = {char: f"\\{char}" for char in "&%$#_{}"}
_TEXT |= {char: f"{{{char}}}" for char in "[]*"}  # \\[ and \\* have a meaning
_TEXT |= {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "•": r"\textbullet{}",
    "−": "$-$",
}
_MATH = """
    α alpha β beta γ gamma δ delta ε epsilon ϵ epsilon ζ zeta η eta θ theta ι iota κ kappa λ lambda μ mu µ mu ν nu ξ xi
    π pi ρ rho ς varsigma σ sigma τ tau υ upsilon φ varphi ϕ phi χ chi ψ psi ω omega Γ Gamma Δ Delta Θ Theta Λ Lambda
    Ξ Xi Π Pi Σ Sigma Υ Upsilon Φ Phi Ψ Psi Ω Omega ± pm × times ÷ div · cdot ⋅ cdot ∘ circ ≤ le ≥ ge ≠ ne ≈ approx
    ≡ equiv ∼ sim ∝ propto « ll » gg → rightarrow ← leftarrow ↔ leftrightarrow ↑ uparrow ↓ downarrow ⇒ Rightarrow
    ∞ infty ∑ sum ∏ prod ∫ int ∂ partial ∇ nabla √ surd ′ prime ℓ ell ∈ in ∉ notin ∀ forall ∃ exists ∪ cup ∩ cap
    ⊂ subset ⊆ subseteq ∅ emptyset ∧ wedge ∨ vee ⊙ odot ⊗ otimes ⊕ oplus ⟨ langle ⟩ rangle ∥ parallel ‖ Vert
""".split()  # noqa: SIM905
_COMMANDS = dict(zip(_MATH[::2], _MATH[1::2], strict=True))
_NOT_IN_OT1 = "ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ\u00ad"  # letters below U+0180 that LaTeX's default font encoding lacks
_SCRIPTS = {"<super>": r"\textsuperscript", "<sub>": r"\textsubscript"}


def escape_latex(text: str) -> str:
    """Escape `text` so that pdfLaTeX typesets it without further packages.

    Greek letters and common symbols become math; a character without an equivalent is written as its code point."""
    return "".join(map(_escape_character, text)).replace("--", "-{}-")


def _escape_character(char: str) -> str:
    if char in _TEXT:
        return _TEXT[char]
    if char in _COMMANDS:
        return f"$\\{_COMMANDS[char]}$"
    if char.isspace():
        return " "
    script, _, plain = unicodedata.decomposition(char).partition(" ")
    if script in _SCRIPTS and " " not in plain:
        return f"{_SCRIPTS[script]}{{{_escape_character(chr(int(plain, 16)))}}}"
    if 0x20 <= ord(char) < 0x7F or (0xA0 < ord(char) < 0x180 and char not in _NOT_IN_OT1):
        return char
    return f"U+{ord(char):04X}"


def latex(table: Table) -> str:
    r"""Return the table as a LaTeX table environment; the document needs \usepackage{booktabs,graphicx}.

    Notes follow the caption, and a table wider than the line is scaled down to it."""
    lines = []
    for index, row in enumerate(table.rows):
        lines.append(" & ".join(map(_latex_cell, row)) + r" \\")
        if index in table.rule_after and index + 1 < len(table.rows):
            lines.append(r"\midrule")
    label = "".join(_COMMANDS.get(char, char) for char in table.name.lower())
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{' '.join(map(escape_latex, [table.caption, *table.notes]))}}}",
            rf"\label{{tab:{re.sub('[^a-z0-9]+', '-', label)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{table.alignment}}}",
            r"\toprule",
            " & ".join(map(escape_latex, table.columns)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def _latex_cell(cell: Cell) -> str:
    value, width = cell.parts()
    if width:
        text = f"${value} \\pm {width}$"
    else:
        text = f"${value}$" if re.fullmatch(r"[+-]\d+(?:\.\d+)?", value) else escape_latex(value)
    text += f" ({escape_latex(cell.remark)})" if cell.remark else ""
    if not cell.bold:
        return text
    return f"{{\\boldmath\\textbf{{{text}}}}}" if "$" in text else f"{{\\textbf{{{text}}}}}"


# CSV


def as_csv(table: Table) -> str:
    """Return the table as CSV for programs: numbers with six significant digits, and no bold, caption or notes.

    A column X with numbers becomes "X", "X low" and "X high" (the 95 % interval, empty if unknown); if the number of
    seeds differs from the row's in some cell (the cell has a remark), "X n" follows. Text that a spreadsheet would
    treat as a formula gets a leading apostrophe."""
    columns = [[row[index] for row in table.rows] for index in range(len(table.columns))]
    numeric = [any(isinstance(cell.value, Quantity) for cell in column) for column in columns]
    remarked = [any(cell.remark for cell in column) for column in columns]
    header: list[str] = []
    for column, is_numeric, has_n in zip(table.columns, numeric, remarked, strict=True):
        header += [column, f"{column} low", f"{column} high"] if is_numeric else [column]
        header += [f"{column} n"] if has_n else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_not_a_formula, header))
    for row in table.rows:
        fields: list[str] = []
        for cell, is_numeric, has_n in zip(row, numeric, remarked, strict=True):
            fields += _csv_numbers(cell.value) if is_numeric else [cell.parts()[0] if cell.value is not None else ""]
            fields += [str(cell.value.n or "") if isinstance(cell.value, Quantity) else ""] if has_n else []
        writer.writerow(map(_not_a_formula, fields))
    return out.getvalue()


def _not_a_formula(text: str) -> str:
    is_number = re.fullmatch(r"[+-]?[\d.]*(?:e[+-]?\d+)?|[+-]?(?:inf|nan)|-", text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not is_number else text


def _csv_numbers(value: Quantity | str | None) -> list[str]:
    if not isinstance(value, Quantity):
        return [value or "", "", ""]
    if value.half_width is None:
        return [f"{value.value:.6g}", "", ""]
    return [f"{number:.6g}" for number in (value.value, *value.ends())]


# HTML


def as_html(table: Table) -> str:
    """Return a <figure> that holds the table, its caption and its notes; all text is escaped."""
    kinds = [" class='number'" if letter == "r" else "" for letter in table.alignment]
    columns = zip(kinds, table.columns, strict=True)
    head = "".join(f"<th scope='col'{kind}>{html.escape(column)}</th>" for kind, column in columns)
    body = []
    for index, row in enumerate(table.rows):
        rule = ' class="rule"' if index in table.rule_after else ""
        body.append(f"<tr{rule}>" + "".join(map(_html_cell, row, kinds)) + "</tr>")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    notes = f"<ul class='notes'>{notes}</ul>" if notes else ""
    rows = "\n".join(body)
    region = f"class='scroll' tabindex='0' role='region' aria-label='{html.escape(table.caption)}'"
    return (
        f"<figure class='table'><figcaption>{html.escape(table.caption)}</figcaption>\n<div {region}><table>"
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>{notes}</figure>\n"
    )


def _html_cell(cell: Cell, kind: str) -> str:
    value, width = cell.parts()
    text = html.escape(value) + (f" <small>± {width}</small>" if width else "")
    text += f" <small>({html.escape(cell.remark)})</small>" if cell.remark else ""
    return f"<td{kind}>{'<b>' + text + '</b>' if cell.bold else text}</td>"


# Files


def write(table: Table, folder: Path) -> list[Path]:
    """Write NAME.md, NAME.tex, NAME.csv and NAME.html into `folder` and return their paths in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    page = (
        "<!doctype html><meta charset='utf-8'><title>" + html.escape(table.name) + "</title><style>body{font:15px "
        "sans-serif}td,th{padding:.2em .7em;text-align:left}.number{text-align:right}table{border-collapse:collapse}"
        ".rule td{border-bottom:1px solid}</style>" + as_html(table)
    )
    texts = {"md": markdown(table), "tex": latex(table), "csv": as_csv(table), "html": page}
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{table.name}.{suffix}")
        paths[-1].write_text(text, encoding="utf-8")
    return paths
