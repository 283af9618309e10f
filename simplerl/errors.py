"""The error that users see as one sentence, and the two checks that raise it most."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting that cannot work; the message is one sentence that names it and the remedy."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def at_least(least: float, **values: float | None) -> None:
    """Keys with `__` for the dots; null passes."""
    for name, value in values.items():
        require(
            value is None or value >= least,
            f"{name.replace('__', '.')} is {value}, but must be at least {least}.",
        )
