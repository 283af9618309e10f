"""Evaluate a model or checkpoint: python evaluate.py model.path=DIR evals=suite8 evals.path=DIR evals.limit=16

The configuration is that of train.py; prompt, reward, sampler and evals are used, the rest is not.
"""

from pathlib import Path

from simplerl import exit_on_ctrl_c


def show(folder: Path) -> None:
    """Print the table of results."""
    from simplerl.evals.standalone import show as show_results

    show_results(folder)


if __name__ == "__main__":
    exit_on_ctrl_c()
    from simplerl.cli import hydra_command

    hydra_command("simplerl.evals.standalone.evaluate_model", show, label="eval_")
