"""Whose curve is it? CSV exports name runs, and names repeat; here they get the ids of the runs that they belong to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from analysis.frames import RunData

SHOW = "Show the ID column in the runs table."


def identified(found: Sequence[RunData], notes: list[str]) -> list[RunData]:
    """The same runs with ids in place of names wherever that is certain: a name that only one run has, a table row
    with the same creation time, a curve that ends on the summary's value. What stays uncertain is said."""
    found = _without_groups(found, notes)
    known = {one.id: one for one in found if not one.id.startswith("?")}
    tables = [one for one in found if one.id.startswith("?") and one.source == "wandb table"]
    owners = _own_rows(tables, list(known.values()), notes)
    for one in owners:
        known.setdefault(one.id, one)
    unknown = [one for one in found if one.id.startswith("?") and one not in tables]
    # Curves first: where a thinned chart and a table both have a last value, the table's counts.
    curves = _curves(unknown, list(known.values()), notes)
    result = [*curves, *(one for one in found if not one.id.startswith("?")), *owners]
    return _by_own_step(result, notes)


def _without_groups(found: Sequence[RunData], notes: list[str]) -> list[RunData]:
    groups = [one for one in found if one.source == "wandb group"]
    if not groups or len(groups) == len(found):
        return list(found)
    names = ", ".join(dict.fromkeys(one.name for one in groups))
    notes.append(f"{names}: means over groups of runs, left out because the runs themselves were given.")
    return [one for one in found if one.source != "wandb group"]


def _own_rows(tables: list[RunData], known: list[RunData], notes: list[str]) -> list[RunData]:
    """Rows of tables without ids: of a known run (same name and creation time), or a run of their own. Rows of one
    file are never one run, however alike they are."""
    born: dict[tuple[str, str], list[str]] = {}
    for one in known:
        if one.created:
            born.setdefault((one.name, one.created), []).append(one.id)
    result, ids, seen = [], dict[tuple[str, str | None, int], str](), Counter[tuple[str, str, str | None]]()
    for one in tables:
        twin = seen[one.where, one.name, one.created]  # rows before this one of the same file, name and time
        seen[one.where, one.name, one.created] += 1
        owners = born.get((one.name, one.created), [])[twin:] if one.created else []
        mine = owners[0] if owners else ids.setdefault((one.name, one.created, twin), _plain_id(one))
        result.append(replace(one, id=mine))
    for (where, name, created), count in seen.items():
        if count > 1:
            alike = "one creation time" if created else "no creation time"
            notes.append(
                f"{where}: {count} runs have the name {name} and {alike}; their order tells them apart. {SHOW}"
            )
    for name in dict.fromkeys(name for _, name, created in seen if not created):
        files = [where for where, other, created in seen if other == name and not created]
        if len(files) > 1:
            notes.append(f"{name}: taken for one run in {' and '.join(files)}, which have no creation time. {SHOW}")
    return result


def _plain_id(one: RunData) -> str:
    """`name`, or `name (2)` for the second of that name."""
    name, _, order = one.id.removeprefix("?").rpartition("#")
    return name if order == "0" else f"{name} ({int(order) + 1})"


def _curves(curves: list[RunData], known: list[RunData], notes: list[str]) -> list[RunData]:
    result: list[RunData] = []
    by_name: dict[str, list[RunData]] = {}
    for one in curves:
        by_name.setdefault(one.name, []).append(one)
    for name, own in by_name.items():
        owners = [one for one in known if name in (one.name, one.id)]
        slots = sorted({one.id for one in own})
        ids = _assign(name, own, slots, owners, notes)
        result += [replace(one, id=ids[one.id]) for one in own]
    return result


def _assign(name: str, own: list[RunData], slots: list[str], owners: list[RunData], notes: list[str]) -> dict[str, str]:
    """Slot ("?name#0") -> run id."""
    if len(slots) == 1 and len(owners) == 1:
        return {slots[0]: owners[0].id}
    if not owners:
        if len(slots) > 1:
            notes.append(f"{name}: {len(slots)} runs have this name; their order in the file tells them apart.")
        return {slot: _plain_id(one) for slot in slots for one in own if one.id == slot}
    ends: dict[str, set[str]] = {}
    for slot in slots:
        parts = [one for one in own if one.id == slot]
        ends[slot] = {owner.id for owner in owners if _ends_on(parts, owner)}
    ids = _matched(slots, ends, owners)
    if ids:
        pairs = ", ".join(f"column {order + 1} is {ids[slot]}" for order, slot in enumerate(slots))
        notes.append(f"{name}: {len(owners)} runs have this name; told apart by their last values: {pairs}.")
        return ids
    notes.append(
        f"{name}: {len(owners)} runs have this name and the curves fit none of them alone; they are kept apart, "
        "without settings. Show the ID column in the runs table, or give the run folders."
    )
    return {slot: _plain_id(one) + "?" for slot in slots for one in own if one.id == slot}


def _ends_on(parts: list[RunData], owner: RunData) -> bool:
    """Every metric of the curve that the owner's summary has ends on the summary's value, and there is one."""
    shared = [
        (value, owner.summary[name]) for one in parts for name, value in one.summary.items() if name in owner.summary
    ]
    return bool(shared) and all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in shared)


def _matched(slots: list[str], ends: dict[str, set[str]], owners: list[RunData]) -> dict[str, str]:
    """One owner for each slot, if there is exactly one way (the last slot may be found by elimination)."""
    ids: dict[str, str] = {}
    open_slots, free = list(slots), {owner.id for owner in owners}
    while open_slots:
        sure = next((slot for slot in open_slots if len(ends[slot] & free) == 1), None)
        if sure is None:
            sure = open_slots[0] if len(open_slots) == 1 and len(free) == 1 else None
            if sure is None:
                return {}
            ids[sure] = free.pop()
        else:
            ids[sure] = (ends[sure] & free).pop()
            free.discard(ids[sure])
        open_slots.remove(sure)
    return ids


def _by_own_step(found: list[RunData], notes: list[str]) -> list[RunData]:
    """Charts over W&B's `Step` are placed at the run's own steps, where another chart of it shows both."""
    to_own: dict[str, dict[int, int]] = {}
    for one in found:
        if one.metrics is not None and "_step" in one.metrics:
            rows = one.metrics[["_step", "step"]].dropna().astype("int64")
            to_own.setdefault(one.id, {}).update(zip(rows["_step"], rows["step"], strict=True))
    result, kept = [], []
    for one in found:
        if one.metrics is None:
            result.append(one)
            continue
        metrics = one.metrics.drop(columns="_step", errors="ignore")
        foreign = metrics["phase"] == "step"
        if foreign.any():
            mapped = metrics["step"].map(to_own.get(one.id, {}))
            if mapped.notna().all():
                metrics = metrics.assign(phase="rl", step=mapped.astype("int64"))
            else:
                metrics = metrics.assign(phase="rl")
                kept.append(one.where)
        result.append(replace(one, metrics=metrics))
    for where in dict.fromkeys(kept):
        notes.append(
            f"{where}: its x axis is W&B's own Step, which a resumed run does not redo; choose rl/step as the chart's "
            "x axis to have the suite's."
        )
    return result
