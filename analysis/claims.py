"""Test the claims of the SimpleRL blog post on runs, and write the page of claims:

    python -m analysis.claims RUN... --out docs/claims.md

The claims are data (analysis/claims.yaml): settings that find their runs, a measure, and a bound. A claim holds if the
whole 95 % interval of its measure is on the claimed side of the bound, does not hold if it is on the other side, and is
undecided otherwise. Without RUN, no claim is tested and the page says what to run."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.arms import TOGETHER, Arms, group_runs, is_missing, select_runs, short_name
from analysis.claim_measures import MEASURES, Measured
from analysis.commands import add_run_arguments, make_parser, reports_source_errors
from analysis.fairness import find_differences
from analysis.frames import Frames, assemble
from analysis.run_data import SourceError
from analysis.sources import load
from simplerl.data.benchmarks import PUBLISHED
from simplerl.io.files import read_yaml
from simplerl.io.tables import Cell, Table, markdown, text_cells

FILE = Path(__file__).parent / "claims.yaml"
INTENDED = ("more than the axis", "unequal budget")  # unfair differences that are checked before, or part of a claim
HELD, NOT_HELD, UNDECIDED, NOT_RUN, AMBIGUOUS = "held", "not held", "undecided", "not run", "not comparable"


@dataclass(frozen=True)
class Claim:
    """Holds one claim of analysis/claims.yaml, whose head describes the fields. bound: `at_least` or `at_most` of the
    measure; sign: 1 if the claim holds above the bound, -1 if below."""

    id: str
    claim: str
    published: str
    command: str
    full: str
    measure: str
    keywords: Mapping[str, Any]
    bound: float
    sign: int
    arms: Mapping[str, Mapping[str, Any]]
    limits: str


@dataclass(frozen=True)
class Verdict:
    """Holds the result of a claim. text: why there is no measurement, or what makes the comparison unfair."""

    claim: Claim
    word: str
    measured: Measured | None = None
    runs: int = 0
    text: str = ""

    @property
    def tested(self) -> bool:
        """Return whether the claim's runs were found and measured."""
        return self.measured is not None


def read_claims(path: Path = FILE) -> list[Claim]:
    """Return the claims of a file. Published averages of `rows` are taken from `simplerl.data.benchmarks`."""
    content = read_yaml(path)
    return [_claim(name, row, content["common"]) for name, row in content["claims"].items()]


def _claim(name: str, row: Mapping[str, Any], common: Mapping[str, Any]) -> Claim:
    measure = dict(row["measure"])
    sign = 1 if "at_least" in measure else -1
    bound = float(measure.pop("at_least" if sign > 0 else "at_most"))
    arms = {side: {**common, **settings} for side, settings in row["arms"].items()}
    published = row.get("published") or _published_rows(row["rows"])
    texts = (row["claim"], published, row["command"], row["full"])
    return Claim(name, *texts, measure.pop("name"), measure, bound, sign, arms, row["limits"])


def _published_rows(rows: Sequence[str]) -> str:
    first, second = (PUBLISHED[row]["mean"] for row in rows)
    return f"Average of five benchmarks: {rows[0]} {first:.1f}, {rows[1]} {second:.1f} ({second - first:+.1f})."


# Tests


def examine(frames: Frames, claims: Sequence[Claim]) -> list[Verdict]:
    """Return the verdict on each claim from the finished runs in `frames`."""
    finished = [str(run) for run, state in frames.runs["state"].items() if state in ("finished", None)]
    return [_examine(frames.select(finished), claim) for claim in claims]


def _examine(frames: Frames, claim: Claim) -> Verdict:
    sides = {name: _find(frames, settings) for name, settings in claim.arms.items()}
    missing = [name for name, runs in sides.items() if not runs]
    if missing:
        return Verdict(claim, NOT_RUN, text=f"No runs of the arm {' and '.join(missing)}.")
    chosen, arms = select_runs(frames.select([run for runs in sides.values() for run in runs]))
    sides = {name: [run for run in runs if run in chosen.runs.index] for name, runs in sides.items()}
    if fault := _not_comparable(chosen, arms, claim, sides):
        return Verdict(claim, AMBIGUOUS, text=fault)
    try:
        measured = MEASURES[claim.measure](chosen, sides, **claim.keywords)
    except SourceError as error:
        return Verdict(claim, NOT_RUN, text=str(error))
    unfair = [one.text for one in find_differences(chosen, arms) if one.marked and one.kind not in INTENDED]
    return Verdict(claim, decide(claim, measured), measured, len(chosen.runs), " ".join(unfair))


def decide(claim: Claim, measured: Measured) -> str:
    """Return the verdict on a measurement."""
    low, high = measured.value.low, measured.value.high
    if low is None or high is None:
        return UNDECIDED
    if claim.sign < 0:
        low, high = -high, -low
    scale = 100.0 if measured.unit == "points" else 1.0
    bound = claim.sign * claim.bound * scale
    return HELD if low > bound else NOT_HELD if high < bound else UNDECIDED


def _find(frames: Frames, settings: Mapping[str, Any]) -> list[str]:
    """Return the runs with these settings; of alternatives in a list, the first that any run has."""
    runs = [str(run) for run in frames.runs.index]
    for key, value in settings.items():
        for one in value if isinstance(value, list) else [value]:
            found = [run for run in runs if _has(frames, run, key, one)]
            if found:
                break
        runs = found
    return runs


def _has(frames: Frames, run: str, key: str, value: Any) -> bool:
    own = frames.config.at[run, key] if key in frames.config else None
    return is_missing(own) if value is None else not is_missing(own) and str(own) == str(value)


def _not_comparable(frames: Frames, arms: Arms, claim: Claim, sides: Mapping[str, Sequence[str]]) -> str:
    """Return why the runs do not form one arm per side that differ in the claim's settings alone; "" if they do."""
    for name, runs in sides.items():
        own = group_runs(frames.select(runs))
        if len(own.arms) > 1:
            names = ", ".join(map(short_name, own.axes))
            return f"The runs of the arm {name} differ in {names}: name the runs of one experiment."
    together = [note.partition(" ")[0] for note in arms.notes if f" {TOGETHER} " in note]
    others = [axis for axis in [*arms.axes, *together] if not _intended(axis, claim)]
    return f"The arms also differ in {', '.join(others)}." if others else ""


def _intended(axis: str, claim: Claim) -> bool:
    """Return whether the claim's arms are meant to differ in a setting, or in the choice of a group that sets it."""
    sides = list(claim.arms.values())
    differing = {key for side in sides for key in side if any(other.get(key) != side[key] for other in sides)}
    groups = {key.removeprefix("choices.") for key in differing if key.startswith("choices.")}
    return axis in differing or re.split(r"[./@]", axis.removeprefix("choices."))[0] in groups


# Page


def measured_text(measured: Measured | None) -> str:
    """Return a measurement as text, such as "+58.8 [56.1, 61.5] points"."""
    if measured is None:
        return "-"
    value, unit = measured.value, f" {measured.unit}" if measured.unit else ""
    if value.low is None or value.high is None:
        return "-" if value.mean != value.mean else f"{value.mean:+.1f}{unit}, no interval"
    return f"{value.mean:+.1f} [{value.low:+.1f}, {value.high:+.1f}]{unit}"


def claim_table(found: Sequence[Verdict]) -> Table:
    """Return one row per claim with the published number, the measured one and the verdict."""
    rows = []
    for one in found:
        seeds = "-" if one.measured is None else str(one.measured.value.n_seeds)
        cells = text_cells([one.claim.claim, one.claim.published, measured_text(one.measured), seeds])
        rows.append([*cells, Cell(one.word, bold=one.word in (HELD, NOT_HELD))])
    notes = [
        "In brackets: 95 % interval over seeds and, for accuracies, questions. Held: all of it is on the claimed side; "
        "not held: all of it is on the other side; undecided otherwise. Not corrected for the number of claims."
    ]
    columns = ["claim", "published", "measured in the micro world", "seeds", "verdict"]
    return Table("claims", "Claims of the blog post.", columns, rows, (), notes, align="lllll")


def page(found: Sequence[Verdict], command: str) -> str:
    """Return the page of claims as Markdown. command: what wrote it."""
    words = [one.word for one in found]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    parts = [
        "# Claims of the blog post",
        "Each claim is tested on runs of the micro world, a model of 0.8M parameters and arithmetic questions: "
        f"{counts}. A toy world shows whether the code does what the claim says and under which conditions it can; it "
        "says nothing about the size of an effect on Qwen2.5-Math-7B. None of the commands of the published size has "
        "been run by us. "
        f"The page is written by `{command}`; the claims, their runs and bounds are `analysis/claims.yaml`.",
        markdown(replace(claim_table(found), caption="")).strip(),
    ]
    return "\n\n".join([*parts, *map(_section, found)]) + "\n"


def _section(one: Verdict) -> str:
    claim, side = one.claim, "at least" if one.claim.sign > 0 else "at most"
    keywords = ", ".join(f"{key} {value}" for key, value in claim.keywords.items())
    lines = [f"## {claim.claim}", "", f"- Published: {claim.published}"]
    if one.measured is not None:
        detail = f" ({one.measured.detail})" if one.measured.detail else ""
        lines.append(f"- Measured: {measured_text(one.measured)}{detail}; {one.runs} runs. Verdict: **{one.word}**.")
    else:
        lines.append(f"- Not tested: **{one.word}**.")
    lines += [f"- {'Marks' if one.tested else 'Reason'}: {one.text}"] if one.text else []
    lines.append(
        f"- Measure: `{claim.measure}`{f' ({keywords})' if keywords else ''}; the claim holds for {side} "
        f"{claim.bound:g}."
    )
    lines += [f"- Limits: {claim.limits}", "", "```", claim.command, f"# published size: {claim.full}", "```"]
    return "\n".join(lines)


@reports_source_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("claims", __doc__)
    add_run_arguments(parser, "claims.md", nargs="*")
    chosen = parser.parse_args(arguments)
    frames = load(chosen.sources) if chosen.sources else assemble([])
    found = examine(frames, read_claims())
    print(markdown(claim_table(found)))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(page(found, "python -m analysis.claims RUN... --out docs/claims.md"), encoding="utf-8")
    print(chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
