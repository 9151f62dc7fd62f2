"""Embeds images with a trained encoder, into an .npz file.

    python -m pipelines.embed --run=runs/digits --data=digits --out=embeddings.npz
    tfssl-embed --run=runs/photos --data=photos/ --out=embeddings.npz

It holds `features` (images, dim), `names` and `labels` (-1 where unknown).
"""

from pipelines import command, task_flags
from tfssl.tasks import embed

_arguments = task_flags.define(
    embed.embed,
    __name__,
    skip=("preprocessing", "verbose"),
    needed=("run", "data", "out"),
)


def main():
    """Runs the task with the flags' values."""
    given = _arguments()
    found = embed.embed(**given)
    images, dim = found.values.shape
    print(f"{given['out']}: {images} images, {dim} features each")


def run():
    """Entry point of `tfssl-embed`."""
    command.run(main)


if __name__ == "__main__":
    run()
