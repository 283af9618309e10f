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
\usepackage{booktabs,graphicx}
\begin{document}
\input{section_body}
\end{document}
"""


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
    """Return the body of a LaTeX document that includes figures/NAME.pdf. Floats stay in their part of the section."""
    levels = {1: "section", 2: "subsection"}

    def render(block: Block) -> str:
        match block:
            case Heading():
                return rf"\{levels.get(block.level, 'paragraph')}{{{escape_latex(block.text)}}}" + "\n"
            case Text():
                return escape_latex(block.text) + "\n"
            case Picture():
                return "\n".join(
                    [
                        r"\begin{figure}[tp]",
                        r"\centering",
                        rf"\includegraphics[width=\linewidth,height=0.82\textheight,keepaspectratio]{{figures/{block.name}.pdf}}",
                        rf"\caption{{{escape_latex(block.caption)}}}",
                        rf"\label{{fig:{block.name.replace('_', '-')}}}",
                        r"\end{figure}",
                        "",
                    ]
                )
            case Table():
                return latex(block).replace(r"\begin{table}[t]", r"\begin{table}[tp]", 1)

    parts = [
        (r"\clearpage" + "\n" if isinstance(one, Heading) and one.level > 1 else "") + render(one) for one in blocks
    ]
    return "\n".join(parts)


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
