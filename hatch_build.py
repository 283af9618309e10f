"""Adds the scripts to a wheel, where `simplerl train` runs them (simplerl/io/places.py). An editable installation uses
those of the checkout."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SCRIPTS = ("train.py", "evaluate.py", "sweep.py", "plan.py", "distill.py")


class CustomBuildHook(BuildHookInterface):
    """Called by hatchling for each target of a build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Map the scripts into the package. version: "standard" for a wheel, "editable" for `pip install -e`."""
        if version == "standard":
            build_data["force_include"] |= {script: f"simplerl/share/{script}" for script in SCRIPTS}
