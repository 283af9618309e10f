"""The figures of any set of runs: python -m analysis.plots RUN... --out DIR

RUN is a run folder, a folder of run folders, or anything that W&B exports (see `analysis.sources`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.arms import Arms, prepared
from analysis.frames import Frames
from analysis.sources import SourceError, load


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.plots", description=__doc__)
    parser.add_argument("sources", nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--metrics", default="", help="draw these metrics, too (names with commas between them)")
    parser.add_argument("--only", default="", help="draw these figures only (names with commas between them)")
    parser.add_argument("--unfinished", action="store_true", help="show failed and crashed runs, too")
    chosen = parser.parse_args(arguments)
    try:
        names = [name for name in chosen.only.split(",") if name]
        paths = draw_all(chosen.sources, chosen.out, names, _split(chosen.metrics), unfinished=chosen.unfinished)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(paths) // 2} figures in {chosen.out}: {', '.join(path.stem for path in paths[::2])}")
    return 0


def _split(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def draw_all(
    sources: Sequence[str | Path],
    out: Path,
    only: Sequence[str] = (),
    metrics: Sequence[str] = (),
    *,
    unfinished: bool = False,
) -> list[Path]:
    """Writes <figure>.png and .pdf for every figure that the runs have numbers for; says what was left out. Raises
    SourceError for a source that cannot be read and for a figure that does not exist or has no numbers."""
    from analysis.figures import FIGURES

    if unknown := [name for name in only if name not in FIGURES]:
        raise SourceError(f"There is no figure {unknown[0]!r}: choose from {', '.join(FIGURES)}.")
    frames, arms = prepared(load(sources), unfinished=unfinished)
    for note in [*frames.notes, *arms.notes]:
        print(f"note: {note}", file=sys.stderr)
    return draw(frames, arms, out, only, metrics)


def draw(frames: Frames, arms: Arms, out: Path, only: Sequence[str] = (), metrics: Sequence[str] = ()) -> list[Path]:
    """`draw_all` of frames that are read. Raises SourceError for a figure or a metric without numbers."""
    from matplotlib import rc_context

    from analysis.figures import FIGURES, panels
    from analysis.style import RC, save

    if absent := [name for name in metrics if name not in frames.metrics]:
        raise SourceError(f"No run logged {absent[0]!r}: these were: {', '.join(frames.names())}.")
    paths: list[Path] = []
    with rc_context(RC):
        for name in only or FIGURES:
            figure = FIGURES[name](frames, arms)
            if figure is not None:
                paths += save(figure, out, name)
            elif only:
                raise SourceError(f"The runs logged nothing that the figure {name!r} shows.")
        known = metrics or (frames.names() if not paths else [])
        if known:
            figure = panels(frames, arms, known)
            paths += save(figure, out, "metrics")
    if not paths:
        raise SourceError("The runs logged no metrics: there is nothing to draw.")
    return paths


if __name__ == "__main__":
    sys.exit(main())
