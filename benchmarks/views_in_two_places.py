"""How far views that the device finishes are from those that the host makes alone.

python -m benchmarks.views_in_two_places --data=photos/

For every recipe, with the same numbers: mean, largest 0.1 % and maximum of the absolute
differences, in levels of 8 bits and before the normalisation, whose deviation (0.22 or
so) divides them once more; the share of values that a bicubic filter left beyond black
or white, which the host cuts after the first step of the jitter and the rounding at
once; and the largest difference where the images are float32, of which nothing is
rounded.
"""

import argparse

import numpy as np
import tensorflow as tf

from benchmarks import input_pipeline
from tfssl.data import pipeline, views
from tfssl.data.views import recipes


class Levels:
    """Counts of absolute differences, in hundredths of a level."""

    def __init__(self):
        self.counts = np.zeros(1, np.int64)
        self.total = self.largest = 0.0

    def add(self, a, b):
        found = 255.0 * np.abs(a - b).ravel()
        self.total += float(found.sum(dtype=np.float64))
        self.largest = max(self.largest, float(found.max()))
        counts = np.bincount((found * 100).astype(np.int64))
        size = max(len(counts), len(self.counts))
        self.counts = sum(np.pad(x, (0, size - len(x))) for x in (counts, self.counts))

    @property
    def mean(self):
        return self.total / self.counts.sum()

    def quantile(self, share):
        below = np.cumsum(self.counts) / self.counts.sum()
        return np.searchsorted(below, share) / 100


class AsFloats:
    """A source whose images are float32 in [0, 1]; all else is the other's."""

    dtype, max_value = "float32", 1.0

    def __init__(self, source):
        self._source = source

    def __getattr__(self, name):
        return getattr(self._source, name)

    def ready(self):
        return AsFloats(self._source.ready())

    def decode_window(self, raw, crops_in, sizes):
        image, crops = self._source.decode_window(raw, crops_in, sizes)
        return tf.cast(image, tf.float32) / self._source.max_value, crops

    def decode(self, raw, side=None):
        image = self._source.decode(raw, side)
        return tf.cast(image, tf.float32) / self._source.max_value


def both(source, recipe, options):
    """Pairs of views, of the host alone and of both places, over all images."""
    size = min(options.batch_size, source.num_images)

    def stream(place):
        dataset = pipeline.multiview(source, recipe, batch_size=size, augment_on=place)
        return dataset.take(source.num_images // size)

    finish = tf.function(views.finishing(recipe), jit_compile=True, autograph=False)
    for host, begun in zip(stream("host"), stream("device")):
        finished = finish(begun)["views"]
        for name, view in host["views"].items():
            yield view.numpy(), finished[name].numpy()


def overshot(source, recipe, options):
    """The share of resized values that lie beyond black or white."""
    bare = dict(jitter=0.0, gray=0.0, blur=0.0, solarize=0.0, rand_augment=0)
    plain = AsFloats(source), recipe.scaled(**bare)
    dataset = pipeline.multiview(
        *plain, batch_size=options.batch_size, augment_on="device"
    )
    for batch in dataset.take(1):
        values = np.concatenate([np.ravel(v) for v in batch["views"].values()])
    return np.mean((values < 0) | (values > 1))


def main(options):
    source = input_pipeline.in_memory(options.data, options.max_images)
    print(f"{source.num_images} images; differences in levels of 8 bits")
    heads = "mean", "0.1 % above", "maximum", "beyond", "of float32"
    print(f"{'':24}" + "".join(f"{head:>13}" for head in heads), flush=True)
    for name in options.recipes or sorted(recipes.RECIPES):
        recipe = recipes.get(name).scaled(mean=None, std=None)
        levels, floats = Levels(), Levels()
        for pair in both(source, recipe, options):
            levels.add(*pair)
        for pair in both(AsFloats(source), recipe, options):
            floats.add(*pair)
        beyond = overshot(source, recipe, options)
        print(
            f"{name:24}{levels.mean:13.3f}{levels.quantile(0.999):13.2f}"
            f"{levels.largest:13.1f}{beyond:13.2%}{floats.largest:13.4f}",
            flush=True,
        )


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("recipes", nargs="*", metavar="RECIPE", help="Default is all.")
    add("--data", required=True, help="Folder of images.")
    add("--batch_size", type=int, default=32)
    add("--max_images", type=int, default=250)
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
