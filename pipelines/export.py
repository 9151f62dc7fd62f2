"""Exports a run's encoder as a SavedModel with bytes, uint8 and float signatures.

python -m pipelines.export --run=runs/photos --name=photos
tfssl-export --run=runs/photos --base_dir=savedmodels --check
"""

from pipelines import command, task_flags
from tfssl.tasks import export

_arguments = task_flags.define(export.export, __name__)


def main():
    """Runs the task with the flags' values."""
    print(f"SavedModel: {export.export(**_arguments())}")


def run():
    """Entry point of `tfssl-export`."""
    command.run(main)


if __name__ == "__main__":
    run()
