"""Writes a manifest of video frames that belong together, of one of single frames.

    tfssl-pair-frames --frames=clips/frames.csv --out=clips/pairs.csv --ahead=10
    tfssl-pair-frames --frames=clips/frames.csv --out=clips/flow.csv --flow_fields=10

The frames' manifest has the columns path, clip and frame. docs/methods/cmc.md.
"""

from pipelines import command, task_flags
from tfssl.tasks import pair_frames

_arguments = task_flags.define(pair_frames.pair_frames, __name__, skip=("verbose",))


def main():
    """Runs the task with the flags' values."""
    pair_frames.pair_frames(**_arguments())


def run():
    """Entry point of `tfssl-pair-frames`."""
    command.run(main)


if __name__ == "__main__":
    run()
