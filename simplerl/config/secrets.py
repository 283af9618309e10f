"""Keep passwords and access tokens out of the files and logs of a run.

A setting such as `+reward.api_key=...` reaches the function that needs it, but neither the name of the run folder nor
config.yaml, sweep.json, results.json or Weights & Biases. A secret is recognized by the last part of its key. Prefer
the environment for secrets, because the command itself is visible in the list of processes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

HIDDEN = "(hidden)"
_ENTRY = re.compile(r"""(["']?([\w.-]+)["']?\s*:\s*)('(?:\\.|[^'])*'|"(?:\\.|[^"])*"|[^,{}\[\]]+)""")
_ALWAYS = {"password", "passwd", "pwd", "passphrase", "secret", "secrets", "credential", "credentials", "bearer"}
_MAYBE = {"token", "key", "apikey", "accesstoken", "authtoken", "secretkey", "privatekey"}
# Words before `token` and `key` that name a token of the vocabulary or a key of a table, such as eos_token.
_HARMLESS = {"eos", "bos", "pad", "unk", "sep", "cls", "mask", "stop", "start", "end", "begin", "think", "image"}
_HARMLESS |= {"special", "answer", "question", "sort", "group"}


def is_secret(key: str) -> bool:
    """Return whether a dotted key names a secret: hf_token, api_key, openaiKey, password, but not eos_token."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key.rsplit(".", 1)[-1])
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    if not words or _ALWAYS & set(words):
        return bool(words)
    return words[-1] in _MAYBE and not _HARMLESS & set(words[:-1])


def hide_secrets(node: Any) -> Any:
    """Return the settings with secret values replaced, except null and booleans."""
    if isinstance(node, dict):
        hidden = {key: is_secret(str(key)) and _is_value(value) for key, value in node.items()}
        return {key: HIDDEN if hidden[key] else hide_secrets(value) for key, value in node.items()}
    return [hide_secrets(value) for value in node] if isinstance(node, list) else node


def _is_value(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def hide_in_overrides(overrides: Sequence[str]) -> list[str]:
    """Return command-line arguments with the values of secrets replaced, also inside {key: value}."""
    split = (override.partition("=") for override in overrides)
    return [
        f"{key}={HIDDEN}" if mark and is_secret(key) else key + mark + _ENTRY.sub(_hide_entry, value)
        for key, mark, value in split
    ]


def _hide_entry(entry: re.Match[str]) -> str:
    return f"{entry[1]}{HIDDEN}" if is_secret(entry[2]) else entry[0]


def hide_in_label(label: str, settings: Any) -> str:
    """Return a label, which joins overrides by commas, without secret overrides and the secret values in `settings`."""
    for value in secret_values(settings):
        label = label.replace(value, "") if len(value) > 3 else label  # a short value may be part of another setting
    pieces = re.split(r",(?=[~+]*[\w./@-]+=)", label)
    return ",".join(piece for piece in pieces if not is_secret(piece.partition("=")[0]))


def secret_values(node: Any) -> list[str]:
    """Return the values of all secrets in nested settings, as text, the longest first."""
    found: list[str] = []
    if isinstance(node, dict):
        for key, value in node.items():
            found += [str(value)] if is_secret(str(key)) and _is_value(value) else secret_values(value)
    elif isinstance(node, list):
        found += [text for value in node for text in secret_values(value)]
    return sorted((text for text in found if text), key=len, reverse=True)
