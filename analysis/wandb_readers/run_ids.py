"""Finds the id of every run that a CSV export identifies by name only; names may repeat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from analysis.run_data import RunData, temporary_id
from analysis.wandb_readers.history import as_steps

SHOW_ID = "Show the ID column in the runs table."


def resolve_run_ids(found: Sequence[RunData], notes: list[str]) -> list[RunData]:
    """Return the runs with temporary ids ("?...") replaced; `notes` says where this was ambiguous.

    A run is identified by a name that no other run has, by the creation time in the runs table, or by a curve whose
    last value equals the summary's. Runs that cannot be identified stay separate runs without settings."""
    found = _qualify_histories(_drop_groups(found, notes))
    known = {one.id: one for one in found if not one.id.startswith("?")}
    tables = [one for one in found if one.id.startswith("?") and one.source == "wandb table"]
    owners = _resolve_table_rows(tables, list(known.values()), notes)
    for one in owners:
        known.setdefault(one.id, one)
    unknown = [one for one in found if one.id.startswith("?") and one not in tables]
    # Curves first, because later parts take precedence: the table's last value is exact, a thinned chart's is not.
    curves = _resolve_curves(unknown, list(known.values()), notes)
    result = [*curves, *(one for one in found if not one.id.startswith("?")), *owners]
    return _convert_wandb_steps(result, notes)


def _drop_groups(found: Sequence[RunData], notes: list[str]) -> list[RunData]:
    """Drop the curves of groups (means over several runs) if single runs were given too, with a note. A group that has
    the name of a run is kept and becomes a curve of this run."""
    names_of_runs = {one.name for one in found if one.source != "wandb group"}
    found = [
        replace(one, id=temporary_id(one.name, 0), source="wandb plot", config={})
        if one.source == "wandb group" and one.name in names_of_runs
        else one
        for one in found
    ]
    groups = [one for one in found if one.source == "wandb group"]
    if not groups or len(groups) == len(found):
        return list(found)
    names = ", ".join(dict.fromkeys(one.name for one in groups))
    notes.append(f"{names}: means over groups of runs were skipped because the runs themselves were given.")
    return [one for one in found if one.source != "wandb group"]


def _qualify_histories(found: list[RunData]) -> list[RunData]:
    """Prefix the name of a history with its folder's, such as seed0/history, if histories in other files have the same
    name."""
    files = {(one.name, one.where) for one in found if one.source == "wandb history"}
    repeated = {name for name, count in Counter(name for name, _ in files).items() if count > 1}
    result = []
    for one in found:
        if one.source == "wandb history" and one.id.startswith("?") and one.name in repeated:
            name = f"{Path(one.where).parent.name}/{one.name}"
            result.append(replace(one, id=temporary_id(name, 0), name=name))
        else:
            result.append(one)
    return result


def _resolve_table_rows(tables: list[RunData], known: list[RunData], notes: list[str]) -> list[RunData]:
    """Match rows without ids to known runs of the same name and creation time; other rows become separate runs. Two
    rows of one file are never the same run."""
    by_creation: dict[tuple[str, str], list[str]] = {}
    for one in known:
        if one.created:
            by_creation.setdefault((one.name, one.created), []).append(one.id)
    result, ids, seen = [], dict[tuple[str, str | None, int], str](), Counter[tuple[str, str, str | None]]()
    for one in tables:
        earlier = seen[one.where, one.name, one.created]  # earlier rows of this file with equal name and time
        seen[one.where, one.name, one.created] += 1
        owners = by_creation.get((one.name, one.created), [])[earlier:] if one.created else []
        run_id = owners[0] if owners else ids.setdefault((one.name, one.created, earlier), _readable_id(one))
        result.append(replace(one, id=run_id))
    for (where, name, created), count in seen.items():
        if count > 1:
            time = "the same creation time" if created else "no creation time"
            notes.append(
                f"{where}: {count} runs have the name {name} and {time}; they are numbered in order. {SHOW_ID}"
            )
    for name in dict.fromkeys(name for _, name, created in seen if not created):
        files = [where for where, other, created in seen if other == name and not created]
        if len(files) > 1:
            notes.append(f"{name}: treated as one run in {' and '.join(files)}, which have no creation time. {SHOW_ID}")
    return result


def _readable_id(one: RunData) -> str:
    """Return `name`, or `name (2)` for the second run of that name."""
    name, _, occurrence = one.id.removeprefix("?").rpartition("#")
    return name if occurrence == "0" else f"{name} ({int(occurrence) + 1})"


def _resolve_curves(curves: list[RunData], known: list[RunData], notes: list[str]) -> list[RunData]:
    result: list[RunData] = []
    by_name: dict[str, list[RunData]] = {}
    for one in curves:
        by_name.setdefault(one.name, []).append(one)
    for name, own in by_name.items():
        owners = [one for one in known if name in (one.name, one.id)]
        ids = _ids_for(name, own, owners, notes)
        result += [replace(one, id=ids[one.id]) for one in own]
    return result


def _ids_for(name: str, own: list[RunData], owners: list[RunData], notes: list[str]) -> dict[str, str]:
    """Return the run id for each temporary id of the curves `own`, which all have the same name."""
    temporary = sorted({one.id for one in own})
    if len(temporary) == 1 and len(owners) == 1:
        return {temporary[0]: owners[0].id}
    if not owners:
        if len(temporary) > 1:
            notes.append(f"{name}: {len(temporary)} runs have this name; they are numbered in the file's order.")
        return {one.id: _readable_id(one) for one in own}
    candidates: dict[str, set[str]] = {}
    for one_id in temporary:
        parts = [one for one in own if one.id == one_id]
        candidates[one_id] = {owner.id for owner in owners if _ends_on_summary(parts, owner)}
    ids = _unique_matching(temporary, candidates, owners)
    if ids:
        pairs = ", ".join(f"column {order + 1} is {ids[one_id]}" for order, one_id in enumerate(temporary))
        notes.append(f"{name}: {len(owners)} runs have this name; identified by their last values: {pairs}.")
        return ids
    notes.append(
        f"{name}: {len(owners)} runs have this name and last values do not identify the curves, which are shown as "
        f"separate runs without settings. {SHOW_ID} Or give the run folders."
    )
    return {one.id: _readable_id(one) + "?" for one in own}


def _ends_on_summary(parts: list[RunData], owner: RunData) -> bool:
    """Return whether the curves and the owner's summary share a metric, and all shared metrics have the same last
    value."""
    shared = [
        (value, owner.summary[name]) for one in parts for name, value in one.summary.items() if name in owner.summary
    ]
    return bool(shared) and all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in shared)


def _unique_matching(temporary: list[str], candidates: dict[str, set[str]], owners: list[RunData]) -> dict[str, str]:
    """Return the only possible assignment of owners to curves; {} if there is none or several. The last curve may be
    matched by elimination."""
    ids: dict[str, str] = {}
    remaining, free = list(temporary), {owner.id for owner in owners}
    while remaining:
        last = len(remaining) == len(free) == 1
        options = {one: set(free) if last else candidates[one] & free for one in remaining}
        certain = next((one for one in remaining if len(options[one]) == 1), None)
        if certain is None:
            return {}
        ids[certain] = options[certain].pop()
        free.remove(ids[certain])
        remaining.remove(certain)
    return ids


def _convert_wandb_steps(found: list[RunData], notes: list[str]) -> list[RunData]:
    """Convert charts over W&B's `Step` to the run's own steps if another chart of the run has both."""
    own_step: dict[str, dict[float, float]] = {}
    for one in found:
        if one.metrics is not None and "_step" in one.metrics:
            rows = one.metrics[["_step", "step"]].dropna()
            own_step.setdefault(one.id, {}).update(zip(rows["_step"], rows["step"], strict=True))
    result, unconverted = [], []
    for one in found:
        if one.metrics is None:
            result.append(one)
            continue
        metrics = one.metrics.drop(columns="_step", errors="ignore")
        if (metrics["phase"] == "step").any():
            steps = metrics["step"].map(own_step.get(one.id, {}))
            if steps.notna().all():
                metrics = metrics.assign(phase="rl", step=as_steps(steps))
            else:
                metrics = metrics.assign(phase="rl")
                unconverted.append(one.where)
        result.append(replace(one, metrics=metrics))
    for where in dict.fromkeys(unconverted):
        notes.append(
            f"{where}: the x axis is W&B's own Step, which keeps counting when a resumed run repeats steps; choose "
            "rl/step as the chart's x axis and export again."
        )
    return result
