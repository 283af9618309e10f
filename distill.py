"""Distil a teacher into a data set for SFT: python distill.py model.path=TEACHER data=math_8k teacher.samples=4

The configuration is that of train.py: `model` is the teacher, `reward` grades its responses, and `teacher` says how
many are sampled and which become the data set. See docs/distillation.md.
"""

from pathlib import Path

from simplerl import exit_on_ctrl_c


def show(folder: Path) -> None:
    """Print the report of the data set."""
    from simplerl.distillation.command import show as show_report

    show_report(folder)


if __name__ == "__main__":
    exit_on_ctrl_c()
    from simplerl.cli import hydra_command

    hydra_command("simplerl.distillation.command.distill", show, label="distill_")
