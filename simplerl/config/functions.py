"""What the functions that a configuration names take: a bad keyword of a reward, an advantage or a backend is refused
before anything is called. The functions are plain (`_target_`, `_partial_: true`), so their signatures are the schema.
"""

from __future__ import annotations

import inspect
import math
from difflib import get_close_matches
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from simplerl.errors import ConfigError, require
from simplerl.types import Bounds

# Positional arguments that each kind of function is called with, those that import least first.
PARTIALS = {
    "data": 0,
    "reward": 2,
    "warmup.data": 0,
    "evals.reward": 2,
    "algorithm.rollouts": 3,
    "algorithm.loss": 2,
    "algorithm.correction": 1,
    "sampler": 3,
    "backend": 2,
}


def check_functions(raw: DictConfig) -> None:
    """What the configured functions take. One is imported after the other, and torch and transformers last, so that
    a bad keyword of a reward is refused at once."""
    algorithm = raw.algorithm
    partials = {f"evals.sets.{name}": 0 for name in raw.evals.sets} | PARTIALS
    partials |= {f"algorithm.shape.{name}": 1 for name in algorithm.shape}
    partials |= {f"algorithm.roles.{name}.loss": 2 for name in algorithm.roles}
    partials["algorithm.advantage"] = 1 if algorithm.state is None else 2
    for key, arguments in partials.items():
        node = OmegaConf.select(raw, key)
        if node is not None:
            _call(key, instantiate(node, _convert_="object"), arguments)


def _call(key: str, function: Any, arguments: int) -> None:
    """A keyword that the function does not take is otherwise noticed only at its first call."""
    require(
        isinstance(function, partial),
        f"{key} must name a function by `_target_` and `_partial_: true`, not {function!r}.",
    )
    signature = inspect.signature(function.func)
    name = f"{function.func.__module__}.{function.func.__qualname__}"
    accepted = [p.name for p in list(signature.parameters.values())[arguments:] if p.kind is not p.VAR_KEYWORD]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for keyword in function.keywords:
        near = get_close_matches(keyword, accepted, 1)
        meant = f"perhaps {key}.{near[0]} is meant; " if near else ""
        require(
            takes_any or keyword in accepted,
            f"{key}.{keyword} is unknown: {meant}{name} takes {', '.join(accepted) or 'no keywords'}.",
        )
    try:
        signature.bind(*range(arguments), **function.keywords)
    except TypeError as error:
        raise ConfigError(f"{key}: {error}; {name} takes {', '.join(signature.parameters)}.") from error
    hints = _hints(function.func)
    for keyword, value in function.keywords.items():
        if keyword in hints:
            _value(f"{key}.{keyword}", value, hints[keyword])
    if key in ("reward", "evals.reward"):
        _reward_order(key, function.keywords, signature)


def _reward_order(key: str, keywords: dict[str, Any], signature: inspect.Signature) -> None:
    """Refuse a reward whose correct answers earn no more than others, of those among `correct`, `wrong` and `unboxed`
    that it takes."""
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    scores = {name: value for name, value in (defaults | keywords).items() if isinstance(value, int | float)}
    for worse in {"wrong", "unboxed"} & scores.keys() if "correct" in scores else ():
        require(
            scores[worse] < scores["correct"],
            f"{key}.{worse}={scores[worse]} is not less than {key}.correct={scores['correct']}, so correct answers are "
            "not learnt: lower it.",
        )


def _hints(function: Any) -> dict[str, Any]:
    """Types of the parameters, or nothing where one of them is known to type checkers only."""
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:
        return {}


def _value(key: str, value: Any, hint: Any) -> None:
    """Check a number, text, switch or choice against its type and bounds; values of other types pass."""
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        _value(key, value, hint)
        for bounds in extras:
            if isinstance(bounds, Bounds) and value is not None:
                span = f"at least {bounds.least:g}"
                span = span if math.isinf(bounds.most) else f"between {bounds.least:g} and {bounds.most:g}"
                require(bounds.least <= value <= bounds.most, f"{key}={value} must be {span}.")
        return
    if get_origin(hint) in (Union, UnionType):
        options = [one for one in get_args(hint) if one is not NoneType]
        if (value is None and NoneType in get_args(hint)) or len(options) > 1:
            return
        _value(key, value, options[0])
        return
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        require(value in choices, f"{key}={value} is unknown: choose one of {', '.join(map(str, choices))}.")
    elif hint is bool:
        require(isinstance(value, bool), f"{key}={value} must be true or false.")
    elif hint in (int, float):
        numbers = (int, float) if hint is float else (int,)
        kind = "a number" if hint is float else "a whole number"
        require(isinstance(value, numbers) and not isinstance(value, bool), f"{key}={value} must be {kind}.")
    elif hint is str:
        unset = value is None and key.startswith("evals.sets.") and key.endswith(".path")
        require(not unset, f"evals.path is not set: name the file or folder that {key.removesuffix('.path')} reads.")
        require(isinstance(value, str), f"{key}={value} must be text.")
