"""Pre-trains an encoder on unlabelled images.

    python -m pipelines.pretrain --flagfile=pipelines/recipes/simclr_digits.flags
    tfssl-pretrain --data=photos/ --out=runs/photos --epochs=100

All batch sizes are global. A second start with the same --out continues an
interrupted run. Recipes are flagfiles; flags after --flagfile override them.
"""

from pipelines import command, task_flags
from tfssl import files
from tfssl.tasks import pretrain
from tfssl.training import strategy

_arguments = task_flags.define(
    pretrain.pretrain, __name__, skip=("callbacks", "on_accept", "verbose")
)


def main():
    """Runs the task with the flags' values."""
    given = _arguments()
    out = files.expanded(given["out"])
    run = pretrain.pretrain(
        **given,
        on_accept=lambda: command.write_flags(out, __name__),
    )
    if strategy.is_chief(given["strategy"]):
        print(f"Encoder: {run.path}/encoder.keras   Run: {run.path}/run.json")


def run():
    """Entry point of `tfssl-pretrain`."""
    command.run(main)


if __name__ == "__main__":
    run()
