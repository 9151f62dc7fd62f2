r"""Fine-tunes an encoder on labelled images.

    python -m pipelines.finetune --encoder=runs/photos --data=train/ \
        --validation_data=val/ --out=runs/photos-classes
    tfssl-finetune --flagfile=pipelines/recipes/finetune_digits.flags

The encoder is a run, a .keras file, or the name of a new one. A second start with the
same --out continues an interrupted run.
"""

from pipelines import command, task_flags
from tfssl import files
from tfssl.tasks import finetune
from tfssl.training import strategy

_arguments = task_flags.define(
    finetune.finetune,
    __name__,
    skip=("callbacks", "on_accept", "preprocessing", "verbose"),
)


def main():
    """Runs the task with the flags' values."""
    given = _arguments()
    out = files.expanded(given["out"])
    run = finetune.finetune(
        **given,
        on_accept=lambda: command.write_flags(out, __name__),
    )
    if strategy.is_chief(given["strategy"]):
        print(f"Classifier: {run.path}/encoder.keras   Run: {run.path}/run.json")


def run():
    """Entry point of `tfssl-finetune`."""
    command.run(main)


if __name__ == "__main__":
    run()
