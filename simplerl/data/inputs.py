"""Computes digests of a run's inputs: problems, weights, tokenizer, chat template, functions outside this package.

They are stored in environment.json and compared when the same command finds the run again (`simplerl.runs.folder`).
Problems are hashed as they were loaded and not as files, so that every source is covered, also the Hub and a user's own
function, and a change that the run does not read (another order of JSON keys, rows beyond `limit`) has no effect.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple
from functools import partial
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from simplerl.config import Config, ModelConfig
from simplerl.data.imported import imported_files
from simplerl.data.task import Task
from simplerl.engine.models import model_at
from simplerl.runs.provenance import RENDERED_PROMPTS

WHOLE = 16 * 2**20  # bytes; smaller files are hashed completely
BLOCK, BLOCKS = 4096, 256  # bytes and number of the blocks that are hashed of a larger file that is not safetensors
OURS = "simplerl."


def input_digests(config: Config, resolved: Mapping[str, Any], task: Task) -> dict[str, str]:
    """Return a digest of each input of a run, by the name that messages use for the input. resolved: the configuration
    with its `_target_`s."""
    found: dict[str, str] = {}
    if task.prompts:
        found[_named("data", config.data)] = _digest(astuple(prompt.problem) for prompt in task.prompts)
    for name, prompts in task.evals.prompts.items():
        key = _named(f"evals.sets.{name}", config.evals.sets[name])
        found[key] = _digest(astuple(prompt.problem) for prompt in prompts)
    if task.documents:
        found[_named("warmup.data", config.warmup.data)] = _digest(task.documents)
    models = {"model.path": config.model}
    for name, role in config.algorithm.roles.items():
        if role.model is not None:
            models[f"algorithm.roles.{name}.model"] = model_at(config.model, role.model)
    for key, model in models.items():
        found[f"the weights of {key}={model.path}"] = weights_digest(model)
    used = [config.prompt, config.evals.prompt, config.warmup.prompt]
    if any(prompt is not None and prompt.template is None for prompt in used):
        found[f"the chat template of model.path={config.model.path}"] = _digest([task.tokenizer.chat_template])
    found[f"the tokenizer of model.path={config.model.path}"] = _tokenizer_digest(task.tokenizer)
    every = [task.prompts, *task.evals.prompts.values()]
    found[RENDERED_PROMPTS] = _digest(prompt.token_ids for prompts in every for prompt in prompts)
    return found | _function_digests(resolved)


def settings_of_input(name: str) -> tuple[str, ...]:
    """Return the beginnings of the settings that may change the content of an input, given its name in
    `input_digests`: none for the items of an evaluation."""
    if name.startswith("evals.sets."):
        return ("evals.limit",)
    if name == RENDERED_PROMPTS:
        return ("data", "prompt", "model", "evals")
    if " of model.path=" in name:
        return ("model",)
    if name.startswith("the weights of algorithm.roles"):
        return ("algorithm.roles", "model")
    if "(" in name:  # the file of a function: NAME.py (KEY=TARGET)
        return (name.partition("(")[2].partition("=")[0].split(".")[0],)
    return (name.partition(".")[0], "prompt", "model")  # data and warmup.data; rows may be dropped for their length


def describe_input(name: str) -> str:
    """Return an input's name as a sentence shows it."""
    return RENDERED_PROMPTS.partition(" (")[0] if name == RENDERED_PROMPTS else name


def _named(key: str, function: Any) -> str:
    """Return the setting to name in a message: `<key>.path=<file>` if the function reads a file, otherwise `<key>`."""
    keywords = function.keywords if isinstance(function, partial) else {}
    path = keywords.get("path")
    if path is None:
        return key
    file = Path(str(path)) / f"{keywords.get('name')}.jsonl"  # `path` is the folder of a benchmark
    return f"{key}.path={file if file.is_file() else path}"


def _digest(values: Iterable[Any]) -> str:
    whole = hashlib.sha256()
    for value in values:
        whole.update(json.dumps(value, default=_whole).encode())
    return whole.hexdigest()[:16]


def _whole(value: Any) -> Any:
    """Return an array as nested lists, whose text, unlike the array's own, has all elements; other values as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return _digest([backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())])


def weights_digest(model: ModelConfig) -> str:
    """Return the commit of a Hub model, or a digest of the names, sizes and contents of a folder's weights and
    config.json, and of its Python code if model.trust_remote_code runs it.

    Files over 16 MiB are hashed in part, as hashing 15 GB would take a minute at every start: the header and two blocks
    of 4 KiB per tensor for safetensors, 256 such blocks otherwise. Training or replacing a tensor therefore changes the
    digest, but editing a few of its numbers may not.
    """
    folder = Path(model.path)
    if not folder.is_dir():
        return _hub_commit(model)
    whole = hashlib.sha256()
    kinds = ("*.safetensors", "*.bin", "*config.json", *(["**/*.py"] if model.trust_remote_code else []))
    for file in sorted(one for kind in kinds for one in folder.glob(kind)):
        if file.name != "tokenizer_config.json":
            whole.update(f"{file.name} {file.stat().st_size} ".encode())
            for block in _blocks(file):
                whole.update(block)
    return whole.hexdigest()[:16]


def _hub_commit(model: ModelConfig, cache: str | None = None) -> str:
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(model.path, "config.json", cache, model.revision)
    parts = Path(file).parts if isinstance(file, str) else ()
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else model.revision or "main"


def _blocks(file: Path) -> Iterator[bytes]:
    """Yield the parts of a weights file that are hashed, see `weights_digest`."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= WHOLE:
            yield stream.read()
            return
        if file.suffix == ".safetensors":
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(min(length, size))
            yield header
            starts = [8 + length + offset for offset in _tensor_offsets(header)]
        else:
            starts = [size * index // BLOCKS for index in range(BLOCKS)]
        for start in starts:
            stream.seek(start)
            yield stream.read(BLOCK)


def _tensor_offsets(header: bytes) -> list[int]:
    """Return the offsets of the start and the middle of each tensor."""
    try:
        ranges = [one["data_offsets"] for name, one in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError):  # a damaged file, which loading refuses
        return []
    return [offset for start, end in ranges for offset in (start, (start + end) // 2)]


def _function_digests(resolved: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of the source file of each configured function from outside this package, also of those that an
    adapter is given by name."""
    found = {}
    for key, target in _targets(resolved, "", False):
        try:
            file = Path(inspect.getfile(inspect.unwrap(get_object(target))))
        except Exception:  # it is compiled, so it has no source, or it cannot be imported, which its caller reports
            continue
        if file.is_file():
            found[f"{file.name} ({key}={target})"] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            for one in imported_files(file):
                found[f"{one.name} (imported by {key}={target})"] = hashlib.sha256(one.read_bytes()).hexdigest()[:16]
    return found


def _targets(node: Any, key: str, keyword: bool) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of each `_target_` from outside this package, at any depth, and of each keyword of a
    function that is the dotted name of an object outside it. keyword: whether `node` belongs to such a keyword."""
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if isinstance(target, str):
            keyword = True
            if not target.startswith(OURS):
                yield key, target
    elif isinstance(node, str) and keyword and not node.startswith(OURS) and _names_object(node):
        yield key, node
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, part in items:
        if name != "_target_":
            yield from _targets(part, f"{key}.{name}" if key else str(name), keyword)


def _names_object(text: str) -> bool:
    """Return whether a text is the dotted name of an object in a Python module, without importing the module: a text
    such as train.jsonl may only look like one."""
    *modules, name = text.split(".")
    if not modules or modules[0] == "__main__" or not all(part.isidentifier() for part in (*modules, name)):
        return False
    spec = find_spec(modules[0])  # of a module inside a package, it would import the package
    for end in range(2, len(modules) + 1):
        places = None if spec is None else spec.submodule_search_locations
        spec = None if places is None else PathFinder.find_spec(".".join(modules[:end]), places)
    if spec is None:
        return False
    try:
        tree = ast.parse(Path(spec.origin or "").read_bytes())
    except (OSError, SyntaxError, ValueError):  # a module that is not Python source
        return False
    defined = set[str]()
    for one in ast.walk(tree):
        if isinstance(one, ast.FunctionDef | ast.ClassDef):
            defined.add(one.name)
        elif isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
            defined.add(one.id)
        elif isinstance(one, ast.alias):
            defined.add(one.asname or one.name)
    return not defined.isdisjoint({name, "*"})
