"""The typed configuration: every setting (`schema`), consistency checks (`checks`) and loading (`load`)."""

from simplerl.config.schema import *  # noqa: F403
