"""Writes images as sharded TFRecords with an index, and checks such records.

python -m pipelines.make_tfrecords --data=photos/ --out=records --max_side=400
tfssl-make-tfrecords --data=manifest:list.csv --split=train --out=records --name=train
tfssl-make-tfrecords --verify=records/train.json

A second start with the same flags continues where the first was stopped.
"""

from absl import flags

from pipelines import command
from tfssl.tasks import make_tfrecords

_DATA = flags.DEFINE_string("data", None, command.DATA_HELP)
_SPLIT = flags.DEFINE_string("split", None, "Part of --data, where it has parts.")
_LABELS = flags.DEFINE_enum(
    "labels", "auto", ["auto", "none", "folders"], "Where labels come from."
)
_CHANNELS = flags.DEFINE_integer("channels", None, "Channels; default the data's own.")
_BIT_DEPTH = flags.DEFINE_enum("bit_depth", "8", ["8", "16"], "Of image files.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data.")
_DATA_ARG = flags.DEFINE_multi_string("data_arg", None, command.DATA_ARG_HELP)
_OUT = flags.DEFINE_string("out", None, "Folder to write to.")
_NAME = flags.DEFINE_string("name", "images", "Of the records: NAME.json and shards.")
_NUM_SHARDS = flags.DEFINE_integer("num_shards", 16, "Files.", lower_bound=1)
_PIXELS = flags.DEFINE_bool("pixels", False, "Write decoded pixels, not image files.")
_MAX_SIDE = flags.DEFINE_integer(
    "max_side",
    None,
    "Make images with a longer side smaller; encode them as JPEG unless --pixels.",
    lower_bound=1,
)
_QUALITY = flags.DEFINE_integer(
    "quality", 95, "Of that JPEG.", lower_bound=1, upper_bound=100
)
_MAX_BAD_FRACTION = flags.DEFINE_float(
    "max_bad_fraction",
    0.01,
    "Share of unreadable images that stops the run.",
    lower_bound=0.0,
    upper_bound=1.0,
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
    if not _DATA.value or not _OUT.value:
        raise ValueError("--data and --out, or --verify, are needed; pass them.")
    index = make_tfrecords.make_tfrecords(
        _DATA.value,
        _OUT.value,
        name=_NAME.value,
        num_shards=_NUM_SHARDS.value,
        pixels=_PIXELS.value,
        max_side=_MAX_SIDE.value,
        quality=_QUALITY.value,
        split=_SPLIT.value,
        labels=_LABELS.value,
        channels=_CHANNELS.value,
        bit_depth=int(_BIT_DEPTH.value),
        data_dir=_DATA_DIR.value,
        data_args=command.pairs(_DATA_ARG.value, "data_arg"),
        max_bad_fraction=_MAX_BAD_FRACTION.value,
    )
    print(f"Records: --data=tfrecord:{index}")


def run():
    """Entry point of `tfssl-make-tfrecords`."""
    command.run(main)


if __name__ == "__main__":
    run()
