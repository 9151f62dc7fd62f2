"""Says which classes images are of, with a fine-tuned run.

    python -m pipelines.predict --run=runs/pets --data=photos/cat.jpg
    tfssl-predict --run=runs/pets --data=photos/ --out=predictions.csv

Without `--out` it prints a line for every image. `--out` ends in `.csv` (a line for
every class that is named), `.jsonl` (one for every image) or `.npz` (all
probabilities). With a segmenter it is a folder, for a PNG file of each image's mask:

    tfssl-predict --run=runs/streets --data=photos/ --out=masks
"""

from pipelines import command, task_flags
from tfssl.tasks import predict

_arguments = task_flags.define(
    predict.predict, __name__, skip=("labels", "verbose", "all_probabilities")
)


def main():
    """Runs the task with the flags' values."""
    given = _arguments()
    # A result that is only printed or written has no use for those of all classes.
    found = predict.predict(**given, all_probabilities=_asks_for_all(given["out"]))
    if given["out"]:
        bad = len(found.unreadable)
        print(f"{given['out']}: {len(found)} images, {bad} could not be read")
        return
    for row in found:
        print(row)


def _asks_for_all(out):
    return bool(out) and out.endswith(".npz")


def run():
    """Entry point of `tfssl-predict`."""
    command.run(main)


if __name__ == "__main__":
    run()
