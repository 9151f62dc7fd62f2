"""How far the colour jitter by matrices is from the papers' code in HSV.

python -m benchmarks.color_difference --data=photos/

For every recipe the same numbers, in the same order and clipped after each step, are
applied twice: by `tfssl.data.views.color`, and as the paper's code does it, hue shifted
in HSV (`tf.image.adjust_hue`), and saturation scaled in HSV for SimCLR and BYOL, but
blended with grey for MoCo and SwAV, whose code uses PIL. The jitter is always on, grey
and blur are off. Printed are mean absolute differences of values in [0, 1].
"""

import argparse

import numpy as np
import tensorflow as tf

from tfssl.data import sources, views
from tfssl.data.views import color, recipes

_RECIPES = ("simclr", "byol", "moco_v1", "moco_v2", "moco_v3", "swav")


def by_paper(image, numbers, view):
    """The jitter of one image as in the paper's code; `numbers` from `views.split`."""
    gray = lambda x: tf.image.rgb_to_grayscale(x)  # noqa: E731
    saturation = numbers["saturation"]

    def brightness(x):
        d = numbers["brightness"]
        return x + d if view.brightness_mode == "add" else x * d

    def contrast(x):
        about = gray(x) if view.contrast_mean == "gray" else x
        mean = tf.reduce_mean(about, [0, 1])
        return (x - mean) * numbers["contrast"] + mean

    def saturated(x):
        if view.contrast_mean == "gray":  # The recipes of PIL.
            return saturation * x + (1.0 - saturation) * gray(x)
        return tf.image.adjust_saturation(x, saturation)

    steps = [
        brightness,
        contrast,
        saturated,
        lambda x: tf.image.adjust_hue(x, numbers["hue"]),
    ]
    for i in np.argsort(numbers["order"], kind="stable"):
        image = tf.clip_by_value(steps[i](image), 0.0, 1.0)
    return image


def measure(name, images):
    """Per image: change by the paper's form, by ours, and between the two."""
    view = recipes.get(name)[0].scaled(
        jitter=1.0, gray=0.0, blur=0.0, solarize=0.0, mean=None, std=None
    )
    recipe = recipes.Recipe([view], name)
    numbers = views.split(
        views.sample(recipe, batch=len(images), channels=3, seed=0, step=0), recipe
    )
    maps = color.groups(numbers, recipe, 3, white=1.0)

    @tf.function
    def ours_of(image, maps):
        runs, moves = (tf.unstack(maps[name] > 0.5) for name in ("runs", "moves"))
        return color.run(image, maps, runs, moves)

    found = []
    for i, image in enumerate(images):
        mine = {key: value[i, 0].numpy() for key, value in numbers.items()}
        of_image = {key: value[i, 0] for key, value in maps.items()}
        paper, ours = by_paper(image, mine, view), ours_of(image, of_image)
        pairs = ((paper, image), (ours, image), (paper, ours))
        found.append([float(tf.reduce_mean(tf.abs(a - b))) for a, b in pairs])
    return np.array(found)


def main(options):
    source = sources.open_source(options.data)
    rows = np.linspace(0, source.num_images - 1, options.max_images).astype(np.int64)
    images = []
    for i in np.unique(rows):
        image = source.decode(source.read(tf.constant(i)))
        small = tf.image.resize(image, [options.size] * 2, antialias=True)
        images.append(tf.clip_by_value(small / source.max_value, 0.0, 1.0))
    print(f"{source.name}: {len(images)} images of {options.size} px")
    print(f"{'':10}{'paper':>8}{'ours':>8}{'apart':>8}{'apart, 95 % of images':>24}")
    for name in _RECIPES:
        found = measure(name, images)
        paper, ours, apart = found.mean(0)
        most = np.quantile(found[:, 2], 0.95)
        print(f"{name:10}{paper:8.3f}{ours:8.3f}{apart:8.3f}{most:24.3f}", flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, help="Folder of images.")
    add("--size", type=int, default=224)
    add("--max_images", type=int, default=250)
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
