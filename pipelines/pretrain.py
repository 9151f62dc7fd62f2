"""Pre-trains an encoder on unlabelled images.

    python -m pipelines.pretrain --flagfile=pipelines/recipes/simclr_digits.flags
    tfssl-pretrain --data=photos/ --out=runs/photos --epochs=100

All batch sizes are global. A second start with the same --out continues an
interrupted run. Recipes are flagfiles; flags after --flagfile override them.
"""

from pipelines import command, task_flags
from tfssl.tasks import pretrain

_arguments = task_flags.define(
    pretrain.pretrain, __name__, skip=("callbacks", "on_accept", "verbose")
)


def main():
    """Runs the task with the flags' values."""
    command.train(pretrain.pretrain, _arguments(), __name__)


def run():
    """Entry point of `tfssl-pretrain`."""
    command.run(main)


if __name__ == "__main__":
    run()
