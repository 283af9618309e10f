"""Defines the typed configuration: settings (`schema`, `choices`), consistency checks (`checks`), loading (`load`)."""

from simplerl.config.choices import *  # noqa: F403
from simplerl.config.schema import *  # noqa: F403
