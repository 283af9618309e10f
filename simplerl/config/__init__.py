"""The typed configuration: every setting (`schema`, `choices`), consistency checks (`checks`) and loading (`load`)."""

from simplerl.config.choices import *  # noqa: F403
from simplerl.config.schema import *  # noqa: F403
