"""Evaluates a run: kNN and linear probes at several label budgets, with baselines.

    python -m pipelines.evaluate --run=runs/digits
    tfssl-evaluate --run=runs/photos --data=labelled/ --labels=folders
    tfssl-evaluate --run=runs/photos --probe=augmented --budgets=100%
    tfssl-evaluate --run=runs/photos --stages=all --probe=mlp --budgets=100%

Writes evaluation.json and report.html into the run's folder.
"""

from pipelines import command, task_flags
from tfssl.tasks import evaluate

_arguments = task_flags.define(evaluate.evaluate, __name__, skip=("verbose",))


def main():
    """Runs the task with the flags' values."""
    given = _arguments()
    evaluate.evaluate(**given)
    print(f"Report: {given['run']}/report.html")


def run():
    """Entry point of `tfssl-evaluate`."""
    command.run(main)


if __name__ == "__main__":
    run()
