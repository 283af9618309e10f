"""The error that users see as one sentence. Short, because every other module may import it."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting or input that cannot work; the message is one sentence that names it and the remedy."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)
