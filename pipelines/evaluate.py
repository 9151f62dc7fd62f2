"""Evaluates an encoder: kNN and linear probes at several label budgets, baselines.

    python -m pipelines.evaluate --run=runs/digits
    tfssl-evaluate --run=runs/photos --data=labelled/ --labels=folders
    tfssl-evaluate --run=runs/photos --probes=knn,linear,augmented --budgets=100%
    tfssl-evaluate --run=runs/photos --stages=all --probes=linear,mlp --budgets=100%
    tfssl-evaluate --run=encoder.keras --data=labelled/ --labels=folders \
        --validation_data=labelled_test/ --out=judged

Writes evaluation.json and report.html into the run's folder, or to --out.
"""

from pipelines import command, task_flags
from tfssl.tasks import evaluate

_arguments = task_flags.define(
    evaluate.evaluate, __name__, skip=("preprocessing", "verbose")
)


def main():
    """Runs the task with the flags' values."""
    evaluate.evaluate(**_arguments())


def run():
    """Entry point of `tfssl-evaluate`."""
    command.run(main)


if __name__ == "__main__":
    run()
