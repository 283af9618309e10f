"""Evaluate a model or checkpoint: python evaluate.py model.path=DIR evals=suite8 evals.path=DIR evals.limit=16

The configuration is that of train.py, of which model, prompt, sampler and evals are used. Answers are graded by
`evals.reward` (reward@evals.reward=lenient). The folder is like a run's, so tables and figures show it beside runs.
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
