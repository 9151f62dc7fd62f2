"""Writes a PNG contact sheet: each image, and the views that training makes of it.

python -m pipelines.show_views --data=digits --recipe=simclr_digits --out=views.png
tfssl-show-views --data=photos/ --recipe=simclr --image_size=224 --out=views.png
"""

from pipelines import command, task_flags
from tfssl.tasks import show_views

_arguments = task_flags.define(show_views.show_views, __name__)


def main():
    """Runs the task with the flags' values."""
    given = _arguments()
    drawn = show_views.show_views(**given)
    print(f"{given['out']}: {drawn.shape[1]} x {drawn.shape[0]} pixels")


def run():
    """Entry point of `tfssl-show-views`."""
    command.run(main)


if __name__ == "__main__":
    run()
