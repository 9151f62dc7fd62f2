r"""Distils a classifier into another network, from images without labels.

    python -m pipelines.distill --teacher=runs/classes --data=photos/ \
        --student=resnet18 --out=runs/small
    tfssl-distill --teacher=runs/classes --data=photos/ --out=runs/self

Without --student it is a new network like the teacher. A second start with the same
--out continues an interrupted run.
"""

from pipelines import command, task_flags
from tfssl.tasks import distill

_arguments = task_flags.define(
    distill.distill,
    __name__,
    skip=("callbacks", "on_accept", "preprocessing", "verbose"),
)


def main():
    """Runs the task with the flags' values."""
    command.train(distill.distill, _arguments(), __name__, "Classifier")


def run():
    """Entry point of `tfssl-distill`."""
    command.run(main)


if __name__ == "__main__":
    run()
