"""Defines the errors that users see as one sentence. It imports no other module of the
project, because all may import it."""

from __future__ import annotations

import importlib
from typing import Any


class ConfigError(ValueError):
    """Raised for a setting or input that cannot work; the message is one sentence that names it and the remedy."""


class RunFailed(RuntimeError):
    """Raised if a run cannot continue for a known reason; the message is one sentence with reason and remedy."""


class NonFinite(RuntimeError):
    """Raised if a loss, gradient, weight or logit is infinite or NaN; `batch` is the minibatch in question, if any."""

    def __init__(self, what: str, batch: Any = None) -> None:
        super().__init__(f"{what} is not finite")
        self.what, self.batch = what, batch

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.batch)


class Lost(RuntimeError):
    """A worker process died or stopped responding; the run can resume from its last checkpoint."""

    def __init__(self, role: str, reason: str) -> None:
        super().__init__(f"{role} is lost: {reason}")
        self.role = role


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def import_optional(module: str, what: str) -> Any:
    """Import and return a package that the core does not need. Raises ConfigError with the command that installs it if
    it is absent. what: the setting or input that needs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ConfigError(f"{what} needs the package {module}: run pip install {module}.") from error
