r"""Fine-tunes an encoder on labelled images.

    python -m pipelines.finetune --encoder=runs/photos --data=train/ \
        --validation_data=val/ --out=runs/photos-classes
    tfssl-finetune --flagfile=pipelines/recipes/finetune_digits.flags

The encoder is a run, a .keras file, or the name of a new one. A second start with the
same --out continues an interrupted run.
"""

from pipelines import command, task_flags
from tfssl.tasks import finetune

_arguments = task_flags.define(
    finetune.finetune,
    __name__,
    skip=("callbacks", "on_accept", "preprocessing", "verbose"),
)


def main():
    """Runs the task with the flags' values."""
    command.train(finetune.finetune, _arguments(), __name__, "Classifier")


def run():
    """Entry point of `tfssl-finetune`."""
    command.run(main)


if __name__ == "__main__":
    run()
