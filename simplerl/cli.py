"""What the entry points share: Hydra's own complaints, of several lines, become one sentence with a remedy."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

FULL = "HYDRA_FULL_ERROR"
NOISE = re.compile(
    r"\s*(full_key|object_type|reference_type|Set the environment|To append|Config search path|provider=)"
)


def started(main: Callable[[], Any]) -> None:
    """`main` of hydra.main. With HYDRA_FULL_ERROR=1 set by the user, whatever is raised is shown whole."""
    if os.environ.get(FULL):
        main()
        return
    os.environ[FULL] = "1"  # Hydra then raises what it would print
    try:
        main()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, ValueError) and not any(known in str(error) for known in ("Only one of", "Config group")):
            raise
        sys.exit(sentence(error))


def sentence(error: Exception) -> str:
    """One line for what Hydra or OmegaConf says of a command line."""
    text = str(error)
    if "Only one of --run, --multirun" in text:
        return "-m starts a sweep and --cfg shows one run: leave one of them out."
    if "Config group override must be a string" in text:
        return "A group takes the name of an option, such as evals=none: python train.py --help lists them."
    if found := re.search(r"Could not override '(.+?)'", text):
        return _unknown_key(found[1])
    if found := re.search(r"Could not find '(.+)/(.+?)'[^\0]*Available options in '.+?':([^:]+?)Config search", text):
        group, option, options = found[1], found[2], found[3].split()
        near = get_close_matches(option, options, 1)
        meant = f"perhaps {near[0]} is meant; " if near else ""
        return f"{group}={option} is unknown: {meant}there are {', '.join(options)}."
    if text.startswith("Error merging override ") and "\n" not in text.strip():
        text = text.removeprefix("Error merging override ").strip() + f":\n{error.__cause__}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and not NOISE.match(line))


def _unknown_key(key: str) -> str:
    """The nearest key at the place where the path goes wrong, or of that name anywhere."""
    from simplerl.config import Config

    kind, known, path = Config, _keys(Config), key.split(".")
    for depth, name in enumerate(path):
        if name in known:
            kind = known[name]
            known = _keys(kind)
            continue
        prefix = "".join(f"{part}." for part in path[:depth])
        near = get_close_matches(name, known, 1)
        if near:
            return f"{key} is unknown: perhaps {prefix}{near[0]} is meant."
        elsewhere = [one for one in _all_keys(Config) if one.rsplit(".", 1)[-1] == path[-1]]
        if elsewhere:
            return f"{key} is unknown: perhaps {' or '.join(elsewhere)} is meant."
        if known:
            return f"{key} is unknown: there are {', '.join(prefix + one for one in known)}."
    return f"{key} is not there: python train.py --cfg job shows what is; +{key}=... adds what a function takes beside."


def _keys(kind: Any) -> dict[str, Any]:
    """Names and types of the fields of a structured configuration; nothing for a free one."""
    if not is_dataclass(kind):
        return {}
    from typing import get_type_hints

    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _all_keys(kind: Any, prefix: str = "") -> list[str]:
    found = []
    for name, inner in _keys(kind).items():
        found.append(prefix + name)
        found += _all_keys(inner, f"{prefix}{name}.")
    return found
