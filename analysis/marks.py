"""Marks unfair comparisons in tables: a column of letters, a note for each letter, and a table of all differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_lowercase
from typing import Any

from analysis.arms import Arms
from analysis.budgets import at_equal_budget
from analysis.fairness import Difference, find_differences
from analysis.frames import Frames
from simplerl.io.tables import Cell, Table, text_cells


def mark_letters(differences: Sequence[Difference]) -> list[str | None]:
    """Return the letter of each difference: a, b, ... for those that mark an arm, None for the others."""
    found: list[str | None] = []
    for one in differences:
        index = len([letter for letter in found if letter])
        found.append(ascii_lowercase[index % 26] * (1 + index // 26) if one.marked else None)
    return found


def fairness_tables(frames: Frames, arms: Arms) -> list[Table]:
    """Return a table with one row per difference and its letter in other tables, or none."""
    differences = find_differences(frames, arms)
    rows = [
        text_cells([letter, one.kind, one.text, ", ".join(one.marked) or None])
        for letter, one in zip(mark_letters(differences), differences, strict=True)
    ]
    columns = ["mark", "difference", "what differs", "marked arms"]
    return [Table("fairness", "Is the comparison fair?", columns, rows, align="llll")] if rows else []


def fair_tables(
    frames: Frames, arms: Arms, build: Callable[[Frames], list[Table]], unit: str | None = None
) -> list[Table]:
    """Return the tables that `build` makes, at an equal budget in `unit` if that is given, with unfair differences
    marked."""
    cut, budget = at_equal_budget(frames, arms, unit)
    return mark_tables(build(cut), find_differences(frames, arms), arms, budget)


def mark_tables(
    tables: Sequence[Table], differences: Sequence[Difference], arms: Arms, budget: str = ""
) -> list[Table]:
    """Return the tables with a column of letters for the rows of marked arms, and a note for each letter and each
    difference without one. `budget` is added to the captions.

    Tables without a row of an arm, such as table 2, are returned unchanged."""
    labels = [arm.label for arm in arms.arms]
    marking = [one for one in differences if one.marked]
    letters = [letter for letter in mark_letters(differences) if letter is not None]
    notes = [f"[{letter}] {one.kind}: {one.text}" for letter, one in zip(letters, marking, strict=True)]
    notes += [f"{one.kind.capitalize()}: {one.text}" for one in differences if not one.marked]

    def marks(label: str) -> str | None:
        return " ".join(x for x, one in zip(letters, marking, strict=True) if label in one.marked) or None

    found = []
    for table in tables:
        own = labels if table.name == "runs" else [str(row[0].value) for row in table.rows]
        if table.name == "table2" or not set(own) & set(labels):
            found.append(table)
            continue
        changes: dict[str, Any] = {"notes": [*table.notes, *notes], "caption": f"{table.caption} {budget}".strip()}
        if marking:
            cells = [Cell(marks(label) if label in labels else None) for label in own]
            changes["rows"] = [[*row, cell] for row, cell in zip(table.rows, cells, strict=True)]
            changes["columns"] = [*table.columns, "marks"]
        found.append(replace(table, **changes))
    return found
