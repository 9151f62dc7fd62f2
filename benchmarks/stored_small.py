"""Two SimCLR views from the original JPEG files and from images stored small.

python -m benchmarks.stored_small --data=photos/ --max_side=400

Writes records of the images as they are, made smaller (`--max_side`, JPEG of quality
95) and made smaller as raw pixels, into a passing folder, and reads all of them from
there. All take turns in every round; the ratios of one run are what counts. Also
printed: size on disk, and how far the views are from those of the files, made with the
same random numbers (mean absolute difference in steps of 1/255; crop, flip and resize
only).
"""

import argparse
import os
import statistics
import tempfile

import numpy as np
import tensorflow as tf

from benchmarks import input_pipeline
from tfssl.data import pipeline, sources
from tfssl.data.views import recipes
from tfssl.tasks import make_tfrecords


def written(data, folder, max_side):
    """`(name, source, bytes)` of every form of the images."""
    forms = {
        "files as they are": {},
        f"JPEG, at most {max_side}": {"max_side": max_side},
        f"pixels, at most {max_side}": {"max_side": max_side, "pixels": True},
    }
    for number, (name, options) in enumerate(forms.items()):
        out = os.path.join(folder, str(number))
        index = make_tfrecords.make_tfrecords(
            data, out, num_shards=1, verbose=0, **options
        )
        size = sum(entry.stat().st_size for entry in os.scandir(out))
        yield name, sources.open_source(f"tfrecord:{index}"), size


def views_of(source, recipe):
    """Views of every image by the same numbers, in the order of the images."""
    data = pipeline.multiview(source, recipe, batch_size=source.num_images)
    (batch,) = data.take(1)
    order = np.argsort(batch["index"])
    return [view.numpy()[order] for view in batch["views"].values()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, help="Folder of JPEG files.")
    add("--max_side", type=int, default=400)
    add("--size", type=int, default=224, help="Pixels of the views.")
    add("--batch_size", type=int, default=64)
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=3.0, help="Length of a turn.")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    recipe = recipes.SIMCLR.scaled(options.size)
    geometry = recipe.scaled(**input_pipeline.PLAIN)
    with tempfile.TemporaryDirectory() as folder:
        forms = list(written(options.data, folder, options.max_side))
        found = {name: [] for name, _, _ in forms}
        for _ in range(options.rounds):
            for name, source, _ in forms:
                dataset = pipeline.multiview(
                    source, recipe, batch_size=options.batch_size
                )
                found[name].append(input_pipeline.turn(dataset, options.seconds))
        _, source, size = forms[0]
        print(f"TensorFlow {tf.__version__}, {source.num_images} images")
        print(f"{'':24}{'images/s':>10}{'ratio':>8}{'core-ms':>9}{'MB':>8}{'apart':>8}")
        whole = views_of(source, geometry)
        first = found[forms[0][0]]
        for name, source, size in forms:
            pairs = zip(found[name], first)
            ratio = statistics.median(a[0] / b[0] for a, b in pairs)
            rate, cost = map(statistics.median, zip(*found[name]))
            views = views_of(source, geometry)
            apart = 255 * np.mean([np.abs(a - b).mean() for a, b in zip(views, whole)])
            print(
                f"{name:24}{rate:10.0f}{ratio:8.2f}{cost:9.2f}{size / 1e6:8.1f}", end=""
            )
            print(f"{apart:8.2f}")


if __name__ == "__main__":
    main()
