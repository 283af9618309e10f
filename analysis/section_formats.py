"""Renders a result section, a list of blocks, as Markdown, as HTML in one file, and as LaTeX."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simplerl.io.tables import Table, as_html, escape_latex, escape_markdown, latex, markdown

CSS = Path(__file__).parent / "page" / "report.css"
PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[a4paper,landscape,margin=18mm]{geometry}
\usepackage{array,booktabs,graphicx,longtable}
\begin{document}
\input{section_body}
\end{document}
"""
LONG_TEXT = 60  # characters of a cell from which LaTeX breaks its lines


@dataclass(frozen=True)
class Heading:
    """Holds a heading and its level, from 1."""

    text: str
    level: int


@dataclass(frozen=True)
class Text:
    """Holds a paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Picture:
    """Holds the name of a figure in figures/ (NAME.png, NAME.pdf) and its caption."""

    name: str
    caption: str


Block = Heading | Text | Picture | Table


def as_markdown(blocks: Sequence[Block], out: Path) -> str:
    """Return the section as Markdown that shows figures/NAME.png."""

    def render(block: Block) -> str:
        match block:
            case Heading():
                return f"{'#' * block.level} {escape_markdown(block.text)}\n"
            case Text():
                return escape_markdown(block.text) + "\n"
            case Picture():
                return f"![{escape_markdown(block.caption)}](figures/{block.name}.png)\n"
            case Table():
                return markdown(block)

    return "\n".join(map(render, blocks))


def as_latex(blocks: Sequence[Block], out: Path) -> str:
    """Return the body of a LaTeX document that includes figures/NAME.pdf. It needs the packages of PREAMBLE."""
    levels = {1: "section", 2: "subsection"}

    def render(block: Block) -> str:
        match block:
            case Heading():
                barrier = r"\clearpage" if block.level > 1 else ""  # floats stay in their part
                return rf"{barrier}\{levels.get(block.level, 'paragraph')}{{{escape_latex(block.text)}}}" + "\n"
            case Text():
                return escape_latex(block.text) + "\n"
            case Picture():
                return "\n".join(
                    [
                        r"\begin{figure}[!htbp]",
                        r"\centering",
                        rf"\includegraphics[width=\linewidth,height=0.82\textheight,keepaspectratio]{{figures/{block.name}.pdf}}",
                        rf"\caption{{{escape_latex(block.caption)}}}",
                        rf"\label{{fig:{block.name.replace('_', '-')}}}",
                        r"\end{figure}",
                        "",
                    ]
                )
            case Table():
                if max((len(cell.text()) for row in block.rows for cell in row), default=0) > LONG_TEXT:
                    return _long_latex(block)
                return latex(block).replace(r"\begin{table}[t]", r"\begin{table}[!htbp]", 1)

    return "\n".join(map(render, blocks))


def _long_latex(table: Table) -> str:
    """Return a table of sentences as a longtable, which breaks lines and pages; its columns have widths by their
    text."""
    texts = [[cell.text() for cell in row] for row in table.rows]
    longest = [max(map(len, column)) for column in zip(table.columns, *texts, strict=True)]
    shares = [min(length, 4 * LONG_TEXT) ** 0.7 for length in longest]
    widths = [0.94 * share / sum(shares) for share in shares]
    columns = "".join(rf">{{\raggedright\arraybackslash}}p{{{width:.3f}\linewidth}}" for width in widths)
    head = " & ".join(map(escape_latex, table.columns)) + r" \\"
    body = []
    for row in table.rows:
        cells = [(rf"\textbf{{{escape_latex(one.text())}}}" if one.bold else escape_latex(one.text())) for one in row]
        body.append(" & ".join(cells) + r" \\")
    caption = " ".join(map(escape_latex, [table.caption, *table.notes]))
    lines = [r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}\setlength{\LTcapwidth}{\linewidth}"]
    lines += [rf"\begin{{longtable}}{{{columns}}}"]
    lines += [rf"\caption{{{caption}}}\label{{tab:{table.name}}}\\", r"\toprule", head, r"\midrule\endfirsthead"]
    lines += [r"\toprule", head, r"\midrule\endhead", *body, r"\bottomrule", r"\end{longtable}\endgroup", ""]
    return "\n".join(lines)


def as_page(blocks: Sequence[Block], out: Path) -> str:
    """Return the section as an HTML page without external files: figures are embedded from figures/NAME.png."""

    def render(block: Block) -> str:
        match block:
            case Heading():
                return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
            case Text():
                return f"<p>{html.escape(block.text)}</p>"
            case Picture():
                data = base64.b64encode((out / "figures" / f"{block.name}.png").read_bytes()).decode()
                caption = html.escape(block.caption)
                image = f'<img src="data:image/png;base64,{data}" alt="{caption}" style="max-width:100%">'
                return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
            case Table():
                return as_html(block)

    title = next((one.text for one in blocks if isinstance(one, Heading)), "Results")
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{CSS.read_text(encoding='utf-8')}</style>"
    body = "\n".join(map(render, blocks))
    return f"<!doctype html><html lang='en'>{head}<main>{body}</main></html>\n"


RENDERERS: dict[str, Callable[[Sequence[Block], Path], str]] = {
    "section.md": as_markdown,
    "section.html": as_page,
    "section_body.tex": as_latex,
    "section.tex": lambda blocks, out: PREAMBLE,
}


def write_section(blocks: Sequence[Block], out: Path) -> list[Path]:
    """Write the section in every format into `out`, where its figures are, and return the paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, render in RENDERERS.items():
        paths.append(out / name)
        paths[-1].write_text(render(blocks, out), encoding="utf-8")
    return paths
