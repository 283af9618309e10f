"""Reads the solve rates of problems that distill.py measured, and selects problems by them.

A difficulty file is JSON Lines with one object per problem: its id, and `solve_rate`, the fraction of the teacher's
responses that are correct.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from simplerl.data.rows import setting, settings_under
from simplerl.errors import ConfigError, require
from simplerl.io.files import read_jsonl
from simplerl.io.places import spelled
from simplerl.types import Fraction, Problem, Prompt

logger = logging.getLogger(__name__)

AGAIN = f"name the difficulty.jsonl that {spelled('distill')} writes, or run that command again"
_KINDS = {"id": str, "solve_rate": int | float}


def read_solve_rates(path: str) -> dict[str, float]:
    """Return the solve rate of each problem by id. Raises ConfigError if the file cannot be read or has no rows."""
    file = Path(path).expanduser()
    require(file.is_file(), f"{path} is not a file: {AGAIN}.")
    rates = {row["id"]: float(row["solve_rate"]) for row in read_jsonl(file, AGAIN, _KINDS)}
    require(bool(rates), f"{path} has no rows: {AGAIN}.")
    return rates


def within(
    *, problems: Callable[[], list[Problem]], path: str, low: Fraction = 0.0, high: Fraction = 1.0
) -> list[Problem]:
    """Return the problems whose solve rate is in [low, high]. Problems without a known rate are left out and counted in
    the log. Raises ConfigError if none is left.

    problems: another data function. path: the difficulty file."""
    rates = read_solve_rates(path)
    with settings_under(setting("problems")):
        found = problems()
    known = [problem for problem in found if problem.id in rates]
    kept = [problem for problem in known if low <= rates[problem.id] <= high]
    message = "%s: %d of %d problems have a solve rate, and %d of these are in [%g, %g]"
    logger.info(message, path, len(known), len(found), len(kept), low, high)
    _require_known(setting("path"), path, bool(known), len(found))
    if not kept:
        own = [rates[problem.id] for problem in known]
        raise ConfigError(
            f"No problem has a solve rate in [{low:g}, {high:g}]: the rates of {path} are between {min(own):g} and "
            f"{max(own):g}, so set {setting('low')}={min(own):g} or {setting('high')}={max(own):g}."
        )
    return kept


def check_start(rollouts: Any, prompts: Sequence[Prompt]) -> None:
    """Raise ConfigError if the rollouts function has a file `solve_rates` that cannot be read or knows no prompt."""
    path = rollouts.keywords.get("solve_rates") if isinstance(rollouts, partial) else None
    if path is not None:
        rates = read_solve_rates(path)
        known = sum(prompt.problem.id in rates for prompt in prompts)
        _require_known("algorithm.rollouts.solve_rates", path, known > 0, len(prompts))
        logger.info("%s: solve rates of %d of %d problems", path, known, len(prompts))


def _require_known(key: str, path: str, any_known: bool, count: int) -> None:
    require(
        any_known,
        f"{key}={path} has none of the {count} problems of data, which are identified by their ids: use the data "
        "settings of the distillation.",
    )
