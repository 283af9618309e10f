"""One table -> Markdown, LaTeX (booktabs), CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from analysis.estimates import Estimate

ABSENT = "-"


@dataclass(frozen=True)
class Cell:
    """What stands in a cell: text, or a number with its interval."""

    value: Estimate | str | None = None
    digits: int = 1
    bold: bool = False
    signed: bool = False
    mark: str = ""  # behind the number: "n=2" where the row has more

    def parts(self) -> tuple[str, str]:
        """The number and, where known, half of its 95 % interval."""
        if self.value is None:
            return ABSENT, ""
        if isinstance(self.value, str):
            return self.value, ""
        mean = f"{self.value.mean:+z.{self.digits}f}" if self.signed else f"{self.value.mean:z.{self.digits}f}"
        width = self.value.half_width
        shown = self.value.n > 0 and width is not None
        return mean, f"{width:.{self.digits}f}" if shown else ""


@dataclass(frozen=True)
class Table:
    """`rule_after` names rows (from 0) below which a line is drawn."""

    name: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    rule_after: tuple[int, ...] = ()
    notes: list[str] = field(default_factory=list)


def _plain(cell: Cell, plus_minus: str) -> str:
    number, width = cell.parts()
    text = f"{number}{plus_minus}{width}" if width else number
    return f"{text} ({cell.mark})" if cell.mark else text


def markdown(table: Table) -> str:
    def row(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    body = []
    for cells in table.rows:
        texts = [_plain(cell, " ± ") for cell in cells]
        body.append(row([f"**{text}**" if cell.bold else text for cell, text in zip(cells, texts, strict=True)]))
    align = "|" + "|".join("---" if i == 0 else "---:" for i in range(len(table.columns))) + "|"
    notes = "".join(f"\n- {note}" for note in table.notes)
    return "\n".join([f"**{table.caption}**", "", row(table.columns), align, *body]) + "\n" + notes + "\n"


_TEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\n": " ",
}
_GREEK = {
    "Δ": "Delta",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "λ": "lambda",
    "ε": "epsilon",
    "σ": "sigma",
    "τ": "tau",
    "μ": "mu",
}


def tex_text(text: str) -> str:
    """Any text for LaTeX; characters that plain pdfLaTeX lacks are written as their code points."""

    def one(char: str) -> str:
        if char in _GREEK:
            return f"$\\{_GREEK[char]}$"
        if char in _TEX:
            return _TEX[char]
        return char if ord(char) < 0x250 else f"U+{ord(char):04X}"

    return "".join(map(one, text))


def latex(table: Table) -> str:
    r"""A table environment; needs \usepackage{booktabs,graphicx}. A table wider than the page is shrunk to it."""
    lines = []
    for place, cells in enumerate(table.rows):
        texts = []
        for cell in cells:
            number, width = cell.parts()
            text = f"${number} \\pm {width}$" if width else f"${number}$" if _is_number(number) else tex_text(number)
            text += f" ({cell.mark})" if cell.mark else ""
            bold = f"\\boldmath\\textbf{{{text}}}" if "$" in text else f"\\textbf{{{text}}}"
            texts.append(f"{{{bold}}}" if cell.bold else text)
        lines.append(" & ".join(texts) + r" \\")
        if place in table.rule_after and place + 1 < len(table.rows):
            lines.append(r"\midrule")
    head = " & ".join(map(tex_text, table.columns)) + r" \\"
    notes = " ".join(map(tex_text, table.notes))
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{tex_text(table.caption)} {notes}}}".replace(" }", "}"),
            rf"\label{{tab:{re.sub('[^a-z0-9]+', '-', table.name.lower())}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            r"\begin{tabular}{l" + "r" * (len(table.columns) - 1) + "}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]\d+(?:\.\d+)?", text) is not None


def as_csv(table: Table) -> str:
    """For machines: each column of numbers as value, low, high (empty where unknown), and n where it is not the row's;
    full precision, no bold."""
    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    numeric = [any(isinstance(cell.value, Estimate) for cell in column) for column in columns]
    marked = [any(cell.mark for cell in column) for column in columns]
    header: list[str] = []
    for column, number, mark in zip(table.columns, numeric, marked, strict=True):
        header += [column, f"{column} low", f"{column} high"] if number else [column]
        header += [f"{column} n"] if mark else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        cells: list[str] = []
        for cell, number, mark in zip(row, numeric, marked, strict=True):
            cells += _numbers(cell.value) if number else [cell.parts()[0] if cell.value is not None else ""]
            cells += [str(cell.value.n or "") if isinstance(cell.value, Estimate) else ""] if mark else []
        writer.writerow(cells)
    return out.getvalue()


def _numbers(value: Estimate | str | None) -> list[str]:
    if isinstance(value, Estimate):
        width = value.half_width if value.n else None
        bounds = ["", ""] if width is None else [f"{value.mean - width:.6g}", f"{value.mean + width:.6g}"]
        return [f"{value.mean:.6g}", *bounds]
    return [value or "", "", ""]


def as_html(table: Table) -> str:
    """A <table>; all text is escaped."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = []
    for place, cells in enumerate(table.rows):
        mark = ' class="rule"' if place in table.rule_after else ""
        body.append(f"<tr{mark}>" + "".join(_html_cell(cell) for cell in cells) + "</tr>")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    listed = f"<ul class='notes'>{notes}</ul>" if notes else ""
    rows = "\n".join(body)
    return (
        f"<figure class='table'><figcaption>{html.escape(table.caption)}</figcaption>\n<div class='scroll'><table>"
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>{listed}</figure>\n"
    )


def _html_cell(cell: Cell) -> str:
    number, width = cell.parts()
    text = html.escape(number) + (f" <small>± {width}</small>" if width else "")
    text += f" <small>({html.escape(cell.mark)})</small>" if cell.mark else ""
    kind = " class='number'" if isinstance(cell.value, Estimate) else ""
    return f"<td{kind}>{'<b>' + text + '</b>' if cell.bold else text}</td>"


def write(table: Table, out: Path) -> list[Path]:
    """<name>.md, .tex, .csv and .html."""
    out.mkdir(parents=True, exist_ok=True)
    page = (
        "<!doctype html><meta charset='utf-8'><title>" + html.escape(table.name) + "</title><style>body{font:15px "
        "sans-serif}td,th{padding:.2em .7em;text-align:left}.number{text-align:right}table{border-collapse:collapse}"
        ".rule td{border-bottom:1px solid}</style>" + as_html(table)
    )
    texts = {"md": markdown(table), "tex": latex(table), "csv": as_csv(table), "html": page}
    paths = []
    for kind, text in texts.items():
        paths.append(out / f"{table.name}.{kind}")
        paths[-1].write_text(text, encoding="utf-8")
    return paths
