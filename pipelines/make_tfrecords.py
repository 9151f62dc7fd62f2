"""Writes images as sharded TFRecords with an index, and checks such records.

python -m pipelines.make_tfrecords --data=photos/ --out=records --max_side=400
tfssl-make-tfrecords --data=manifest:list.csv --split=train --out=records --name=train
tfssl-make-tfrecords --verify=records/train.json

A second start with the same flags continues where the first was stopped.
"""

from absl import flags

from pipelines import command, task_flags
from tfssl.tasks import make_tfrecords

_arguments = task_flags.define(
    make_tfrecords.make_tfrecords, __name__, skip=("verbose",), needed=()
)
_VERIFY = flags.DEFINE_string(
    "verify", None, "Write nothing: check the records of this index or pattern."
)


def main():
    """Runs the task with the flags' values."""
    if _VERIFY.value:
        source = make_tfrecords.verify(_VERIFY.value)
        print(f"{_VERIFY.value}: {source.num_images} images, all checksums right")
        return
    given = _arguments()
    if not given["data"] or not given["out"]:
        raise ValueError("--data and --out, or --verify, are needed; pass them.")
    index = make_tfrecords.make_tfrecords(**given)
    print(f"Records: --data=tfrecord:{index}")


def run():
    """Entry point of `tfssl-make-tfrecords`."""
    command.run(main)


if __name__ == "__main__":
    run()
