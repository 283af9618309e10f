"""Draw the figures of any set of runs as PNG and PDF: python -m analysis.plots RUN... --out figures"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.arms import Arms, select_runs
from analysis.commands import (
    add_run_arguments,
    comma_separated,
    find_metrics,
    make_parser,
    print_notes,
    reports_source_errors,
)
from analysis.frames import Frames
from analysis.run_data import SourceError
from analysis.sources import load

MATPLOTLIB_SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType: text stays text
}


def write_figures(
    sources: Sequence[str | Path],
    out: Path,
    only: Sequence[str] = (),
    metrics: Sequence[str] = (),
    *,
    unfinished: bool = False,
) -> list[Path]:
    """Write NAME.png and NAME.pdf into `out` for every figure that the runs have metrics for, and return the paths.
    Without any such figure, all metrics are drawn in one.

    `only` restricts the figures, `metrics` adds a figure with a panel for each of them. unfinished: include failed and
    crashed runs. Notes go to stderr. Raises SourceError if a source cannot be read, or if a requested figure or metric
    is unknown or was not logged."""
    from analysis.figures import FIGURES

    if unknown := [name for name in only if name not in FIGURES]:
        raise SourceError(f"unknown figure {unknown[0]!r}: choose from {', '.join(FIGURES)}.")
    frames, arms = select_runs(load(sources), unfinished=unfinished)
    print_notes([*frames.notes, *arms.notes])
    return draw_figures(frames, arms, out, only, metrics)


def draw_figures(
    frames: Frames, arms: Arms, out: Path, only: Sequence[str] = (), metrics: Sequence[str] = ()
) -> list[Path]:
    """Write figures as `write_figures` does, for frames that are already loaded."""
    from matplotlib import rc_context

    from analysis.figures import FIGURES, panels

    metrics = find_metrics(metrics, frames.metric_names())
    paths: list[Path] = []
    with rc_context(MATPLOTLIB_SETTINGS):
        for name in only or FIGURES:
            figure = FIGURES[name](frames, arms)
            if figure is not None:
                paths += save_figure(figure, out, name)
            elif only:
                raise SourceError(
                    f"the figure {name!r} cannot be drawn: the runs logged none of its metrics: choose another figure."
                )
        shown = metrics or (frames.metric_names() if not paths else [])
        if shown:
            paths += save_figure(panels(frames, arms, shown), out, "metrics")
    if not paths:
        raise SourceError("there is nothing to draw: the runs logged no metrics: name runs with a metrics.jsonl.")
    return paths


def save_figure(figure: Any, out: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.pdf, without dates, so that equal numbers give equal files, and close the figure. Returns
    the two paths."""
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.png", out / f"{name}.pdf"]
    figure.savefig(paths[0], bbox_inches="tight", metadata={"Software": None})
    figure.savefig(paths[1], bbox_inches="tight", metadata={"CreationDate": None})
    plt.close(figure)
    return paths


@reports_source_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("plots", __doc__)
    add_run_arguments(parser, "figures")
    parser.add_argument("--metrics", type=comma_separated, default="", help="also draw these metrics (A,B,...)")
    parser.add_argument("--only", type=comma_separated, default="", help="draw only these figures (A,B,...)")
    chosen = parser.parse_args(arguments)
    paths = write_figures(chosen.sources, chosen.out, chosen.only, chosen.metrics, unfinished=chosen.unfinished)
    print(f"{len(paths) // 2} figures in {chosen.out}: {', '.join(path.stem for path in paths[::2])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
