"""Turn a composed Hydra configuration into typed, checked values.

The configured functions are plain Python functions (`_target_`, `_partial_: true`), so their signatures are the schema
of their keywords: a bad keyword of a reward, an advantage or a backend is refused before anything is called.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from difflib import get_close_matches
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from simplerl.config import Config, OptimizerConfig
from simplerl.config.checks import check_finite, check_fit, check_known, check_values
from simplerl.config.hints import PARTS, option_file
from simplerl.errors import ConfigError, require
from simplerl.types import Bounds

# Number of positional arguments with which each function is called. Functions whose modules import fastest come first.
POSITIONAL_ARGUMENTS = {
    "data": 0,
    "reward": 2,
    "warmup.data": 0,
    "evals.reward": 2,
    "teacher.keep": 1,
    "algorithm.rollouts": 3,
    "algorithm.loss": 2,
    "algorithm.correction": 1,
    "sampler": 3,
    "backend": 2,
}


CALLED_WITH = {  # the parameters of functions that users write
    "reward": "response, problem",
    "evals.reward": "response, problem",
    "teacher.keep": "answers",
    "algorithm.rollouts": "source, step, state",
    "algorithm.loss": "output, batch",
    "algorithm.correction": "batch",
    "algorithm.advantage": "batch",
    "sampler": "policy, tokenizer, model",
    "backend": "config, task",
}


def load(raw: DictConfig, *, trains: bool = True) -> Config:
    """Return the composed configuration as typed, checked values. Raises ConfigError if it is invalid.

    trains: False for a command that reads neither `algorithm` nor `warmup`, whose settings are then not checked."""
    try:
        missing = sorted(OmegaConf.missing_keys(raw))
        if missing:
            file = option_file(missing[0], raw.choices)
            remedy = f"set it in {file}" if missing[0].endswith(".column") else "set it on the command line"
            raise ConfigError(f"{missing[0]} has no value: {remedy} or choose an experiment.")
        check_nodes(raw)
        check_known(raw)
        for name, role in raw.algorithm.roles.items():
            if role.optimizer is not None:
                known = OmegaConf.structured(OptimizerConfig)
                check_known(known, f"algorithm.roles.{name}.optimizer.", role.optimizer)
                role.optimizer = OmegaConf.merge(known, role.optimizer)
        check_finite(OmegaConf.to_container(raw, resolve=True))
        config: Config = OmegaConf.to_object(raw)  # type: ignore[assignment]
        check_values(config, trains=trains)
        for key, function in checked_functions(raw).items():
            _set(config, key, function)
    except InterpolationResolutionError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key} cannot be resolved ({reason}): set it to a value.") from error
    except InstantiationException as error:
        raise ConfigError(_import_error_message(error)) from error
    algorithm = config.algorithm
    algorithm.shape = {name: shape for name, shape in algorithm.shape.items() if shape is not None}
    if trains:
        check_fit(config)
    return config


def _import_error_message(error: InstantiationException) -> str:
    """Return the message for a `_target_` that Hydra could not import. The reason is the second line of the error's
    cause or, if Hydra itself refuses the target, the first sentence of the error."""
    key = re.search(r"full_key: (.+)", str(error))
    target = re.search(r"'([\w.]+)'", str(error))
    setting = f"{key[1] if key else 'node'}._target_={target[1] if target else '?'}"
    if error.__cause__ is None:
        message = " ".join(str(error).partition("\nfull_key:")[0].split())
        return f"{setting} is refused: {re.split(r'[.] ', message)[0].rstrip('.')}; name another function."
    if target and (absent := _absent_name(target[1])):
        return f"{setting} cannot be imported: {absent}"
    reason = str(error.__cause__).strip().splitlines()[:2][-1]
    extra = re.search(r"No module named '(ray|deepspeed|vllm)", reason)
    remedy = "install the extra: pip install -e '.[cpu]', or '.[gpu]'" if extra else "correct the name or its module"
    return f"{setting} cannot be imported ({reason.rstrip('.')}): {remedy}."


def _absent_name(target: str) -> str:
    """Return a sentence if the module of a `_target_` can be imported but has no such name, otherwise ""."""
    module, _, name = target.rpartition(".")
    try:
        names = dir(importlib.import_module(module))
    except Exception:  # whatever importing a user's module raises; Hydra has reported it
        return ""
    near = get_close_matches(name, names, 1)
    suggestion = f"did you mean {module}.{near[0]}?" if near else "correct the name."
    return "" if name in names else f"{module} has no {name}: {suggestion}"


def _functions(raw: DictConfig) -> dict[str, int]:
    """Return the keys of all configurable functions, with the number of their positional arguments."""
    algorithm = raw.algorithm
    filtered = [
        f"{key}.problems" for key in ("data", "warmup.data")
    ]  # keywords of a data function that filters another
    functions = dict.fromkeys([key for key in filtered if OmegaConf.select(raw, f"{key}._target_")], 0)
    functions |= {f"evals.sets.{name}": 0 for name in raw.evals.sets} | POSITIONAL_ARGUMENTS
    functions |= {f"algorithm.shape.{name}": 1 for name in algorithm.shape}
    functions |= {f"algorithm.roles.{name}.loss": 2 for name in algorithm.roles}
    return functions | {"algorithm.advantage": 1 if algorithm.state is None else 2}


def check_nodes(raw: DictConfig) -> None:
    """Raise ConfigError if the YAML of a configured function lacks `_target_` or `_partial_: true`, or if a function of
    algorithm.shape has no name."""
    if "_target_" in raw.algorithm.shape:
        file = option_file("algorithm.shape", raw.choices)
        raise ConfigError(f"{file}: the shaping function has no name: nest `_target_` below `shape:` and `NAME:`.")
    for key in _functions(raw):
        node = OmegaConf.select(raw, key)
        if node is not None:
            _check_node(key, node, raw)


def _check_node(key: str, node: Any, raw: DictConfig) -> None:
    if not isinstance(node, DictConfig):
        path = key.split(".")
        if path[0] == "algorithm" and path[1] in PARTS and len(path) == 2:
            raise ConfigError(
                f"{key}={node} is a value, but the parts of an algorithm are groups: write {path[0]}/{path[1]}={node}."
            )
        groups = {"evals.reward": f"write reward@evals.reward={node}", "teacher.keep": f"write teacher={node}"}
        remedy = groups.get(key, f"set {key}._target_ in a YAML file")
        raise ConfigError(f"{key}={node} is a value, but {key} must be a function: {remedy}.")
    file = option_file(key, raw.choices)
    if "_target_" not in node:
        last, keys = key.rsplit(".", 1)[-1], list(map(str, node))
        near = get_close_matches("_target_", keys, 1)
        fault = f"name the function of {key} by `_target_: module.function`, and add `_partial_: true`"
        if near:
            fault = f"{near[0]} is unknown: write `_target_`"
        elif key.startswith("algorithm.") and (last in keys or key == "algorithm.shape.shape"):
            file = option_file(".".join(key.split(".")[:2]), raw.choices)
            fault = f"{key} is in the wrong place: write `# @package algorithm` as the first line of the file"
        elif last in keys:
            fault = f"the keys below `{last}:` are one level too deep: remove the line `{last}:` and the indentation"
        raise ConfigError(f"{file}: {fault}.")
    if key.startswith("algorithm.") and (outer := [name for name in ("needs", "roles", "state") if name in node]):
        raise ConfigError(
            f"{file}: {outer[0]} is in the wrong place: write `# @package algorithm` as the first line of the file and "
            f"nest the keys of the function below `{key.split('.')[1]}:`."
        )
    require(node.get("_partial_") is True, f"{file}: {key} has no `_partial_: true`: add this line below `_target_`.")


def checked_functions(raw: DictConfig) -> dict[str, Any]:
    """Return the configured functions by dotted key. Raises ConfigError for an invalid keyword. Functions that need
    torch and transformers are imported last, so that an invalid keyword of a reward is reported at once."""
    functions = {}
    for key, arguments in _functions(raw).items():
        node = OmegaConf.select(raw, key)
        if node is not None:
            functions[key] = instantiate(node, _convert_="object")
            _check_function(key, functions[key], arguments)
    return functions


def _set(config: Any, key: str, value: Any) -> None:
    """Set the value of a dotted key, whose parts are fields of dataclasses or keys of dicts."""
    name, _, rest = key.partition(".")
    if rest:
        _set(config[name] if isinstance(config, dict) else getattr(config, name), rest, value)
    elif isinstance(config, dict):
        config[name] = value
    else:
        setattr(config, name, value)


def _check_function(key: str, function: Any, arguments: int) -> None:
    """Raise ConfigError for an unknown, missing or invalid keyword of one configured function. arguments: number of
    positional arguments with which it will be called."""
    assert isinstance(function, partial)  # as `_check_node` has found
    signature = inspect.signature(function.func)
    name = f"{function.func.__module__}.{function.func.__qualname__}"
    accepted = [p.name for p in list(signature.parameters.values())[arguments:] if p.kind is not p.VAR_KEYWORD]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for keyword in [one for one in function.keywords if one not in accepted and not takes_any]:
        near = get_close_matches(keyword, accepted, 1)
        suggestion = f"did you mean {key}.{near[0]}? " if near else ""
        raise ConfigError(
            f"{key}.{keyword} is unknown: {suggestion}{name} accepts {', '.join(accepted) or 'no keywords'}."
        )
    try:
        signature.bind(*range(arguments), **function.keywords)
    except TypeError as error:
        raise ConfigError(f"{key}: {error}: {_signature_remedy(key, name, signature, arguments)}.") from error
    hints = _parameter_types(function.func)
    for keyword, value in function.keywords.items():
        if keyword in hints:
            _check_value(f"{key}.{keyword}", value, hints[keyword])
    if key in ("reward", "evals.reward"):
        _check_reward_order(key, function.keywords, signature)


def _signature_remedy(key: str, name: str, signature: inspect.Signature, arguments: int) -> str:
    """Return the remedy for a function that cannot be called with `arguments` positional arguments and its keywords."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p.name for p in signature.parameters.values() if p.default is p.empty and p.kind in kinds]
    if key == "algorithm.advantage" and arguments == 1 and len(required) == 2:
        return "an estimator with a state needs `state: {}` beside `advantage:` in its YAML file"
    if missing := [p.name for p in signature.parameters.values() if p.default is p.empty and p.kind == p.KEYWORD_ONLY]:
        return f"set {' '.join(f'+{key}.{one}=VALUE' for one in missing)}"
    if key not in CALLED_WITH and len(required) > arguments:  # data and evaluation sets
        return f"set {' '.join(f'+{key}.{one}=VALUE' for one in required[arguments:])}"
    given = CALLED_WITH.get(key, "rollouts" if key.startswith("algorithm.shape.") else "output, batch")
    given = "batch, state" if key == "algorithm.advantage" and arguments == 2 else given
    return f"define {name} with the parameters ({given if arguments else ''}), then keywords with defaults"


def _check_reward_order(key: str, keywords: dict[str, Any], signature: inspect.Signature) -> None:
    """Raise ConfigError if `correct` of a reward function is not greater than its `wrong` and `unboxed`. Parameters
    that the function does not have are ignored."""
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    scores = {name: value for name, value in (defaults | keywords).items() if isinstance(value, int | float)}
    for worse in {"wrong", "unboxed"} & scores.keys() if "correct" in scores else ():
        require(
            scores[worse] < scores["correct"],
            f"{key}.{worse}={scores[worse]} is not less than {key}.correct={scores['correct']}, so correct answers are "
            "not rewarded: lower it.",
        )


def _parameter_types(function: Any) -> dict[str, Any]:
    """Return the type hints of a function's parameters, or {} if one of them is imported only for type checkers."""
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:
        return {}


def _check_value(key: str, value: Any, hint: Any) -> None:
    """Raise ConfigError if a number, string, boolean or choice does not fit its type hint and bounds; values with other
    type hints are not checked."""
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        _check_value(key, value, hint)
        for bounds in extras:
            if isinstance(bounds, Bounds) and value is not None:
                span = f"at least {bounds.minimum:g}"
                span = span if math.isinf(bounds.maximum) else f"between {bounds.minimum:g} and {bounds.maximum:g}"
                require(bounds.minimum <= value <= bounds.maximum, f"{key}={value} must be {span}.")
        return
    if get_origin(hint) in (Union, UnionType):
        options = [one for one in get_args(hint) if one is not NoneType]
        if (value is None and NoneType in get_args(hint)) or len(options) > 1:
            return
        _check_value(key, value, options[0])
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
        require(isinstance(value, str), f"{key}={value} must be a string.")
