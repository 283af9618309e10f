"""How figures look: colours that the colour-blind tell apart and that survive print, one for each arm everywhere."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Okabe and Ito's palette without its yellow, which paper swallows, in an order that keeps neighbours apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
GREY = "#767676"
WELL_KNOWN = {"reward=strict": 0, "reward=lenient": 1, "reward=binary": 2}
RC: dict[Any, Any] = {
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
    "pdf.fonttype": 42,  # text stays text
}


@dataclass(frozen=True)
class Look:
    colour: str
    marker: str
    dash: Any


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """Arm label -> how it is drawn. An arm's own colour follows from its label, so that it is the same in every figure,
    table and report; only where two arms of one set want the same does the later in the alphabet take the next."""
    uses = [0] * len(PALETTE)
    found: dict[str, Look] = {}
    for label in sorted(set(labels), key=lambda one: (one not in WELL_KNOWN, one)):
        place = WELL_KNOWN.get(label, zlib.crc32(label.encode()) % len(PALETTE))
        while uses[place] > min(uses):
            place = (place + 1) % len(PALETTE)
        found[label] = Look(PALETTE[place], MARKERS[place], DASHES[uses[place] % len(DASHES)])
        uses[place] += 1
    return found


def save(figure: Any, out: Path, name: str) -> list[Path]:
    """<name>.png and <name>.pdf, the same bytes from the same numbers."""
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.png", out / f"{name}.pdf"]
    figure.savefig(paths[0], bbox_inches="tight", metadata={"Software": None})
    figure.savefig(paths[1], bbox_inches="tight", metadata={"CreationDate": None})
    plt.close(figure)
    return paths
