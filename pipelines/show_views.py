"""Writes a PNG contact sheet: each image, and the views that training makes of it.

python -m pipelines.show_views --data=digits --recipe=simclr_digits --out=views.png
tfssl-show-views --data=photos/ --recipe=simclr --size=224 --out=views.png
"""

from absl import flags

from pipelines import command
from tfssl.data import recipes
from tfssl.tasks import show_views

_DATA = flags.DEFINE_string("data", "digits", command.DATA_HELP)
_SPLIT = flags.DEFINE_string("split", None, "Part of the data, where it has parts.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data.")
_CHANNELS = flags.DEFINE_integer(
    "channels", None, "Channels to decode to; default the data's own.", lower_bound=1
)
_BIT_DEPTH = flags.DEFINE_enum("bit_depth", "8", ["8", "16"], "Of image files.")
_RECIPE = flags.DEFINE_enum(
    "recipe", "simclr", sorted(recipes.RECIPES), "Views to make."
)
_SIZE = flags.DEFINE_integer(
    "size",
    None,
    "Size of the first view in pixels; default the recipe's.",
    lower_bound=1,
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 8, "Images, a row each.", lower_bound=1
)
_OUT = flags.DEFINE_string("out", "views.png", "PNG file to write.")
_SEED = flags.DEFINE_integer("seed", 0, "Of order and views.")
_AUGMENT = flags.DEFINE_bool(
    "augment", True, "Random views; else the evaluation preprocessing."
)


def main():
    """Runs the task with the flags' values."""
    drawn = show_views.show_views(
        _DATA.value,
        _OUT.value,
        recipe=_RECIPE.value,
        image_size=_SIZE.value,
        num_images=_NUM_IMAGES.value,
        seed=_SEED.value,
        augment=_AUGMENT.value,
        split=_SPLIT.value,
        channels=_CHANNELS.value,
        bit_depth=int(_BIT_DEPTH.value),
        data_dir=_DATA_DIR.value,
    )
    print(f"{_OUT.value}: {drawn.shape[1]} x {drawn.shape[0]} pixels")


def run():
    """Entry point of `tfssl-show-views`."""
    command.run(main)


if __name__ == "__main__":
    run()
