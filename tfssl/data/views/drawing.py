"""Drawing the numbers of a recipe: all chance of the views, in one stateless call."""

import numpy as np
import tensorflow as tf

from tfssl.data.views import erasing, rand_augment
from tfssl.data.views.specs import Tiles, check
from tfssl.data.views.tiles import flat

# The numbers of a view that follow its `2 * tries` crop numbers, in order.
_FIELDS = {
    "place": 2,  # Of the crop, from top and left, in [0, 1).
    "flip": 1,  # Coins are 0 or 1.
    "rotation": 1,
    "shear": 1,
    "translation": 2,
    "jitter": 1,
    "brightness": 1,  # Factor or summand.
    "contrast": 1,
    "saturation": 1,
    "hue": 1,
    "order": 4,  # Sort keys of the steps brightness, contrast, saturation, hue.
    "gray": 1,
    "sigma": 1,  # Of the blur; 0 for none.
    "solarize": 1,
}


def tries_of(recipe):
    """How many crops are drawn for each view."""
    return max(view.crop_tries for view in recipe)


def _sizes(recipe):
    """How many numbers a view has of each name."""
    tries, operations = tries_of(recipe), rand_augment.width(recipe)
    more = {"rand_augment": operations} if operations else {}
    if any(isinstance(view, Tiles) for view in recipe):
        more["cell"] = 2  # Place of a tile in its cell.
    if erasing.width(recipe):
        more["erase"] = erasing.width(recipe)
    return {"areas": tries, "aspects": tries, **_FIELDS, **more}


def split(numbers, recipe):
    """Names the numbers of `sample`.

    Args:
        numbers: `(..., numbers)` tensor or array from `sample`.
        recipe: the recipe they were drawn for.

    Returns:
        Dict: `areas` (of a view cropped by height, see `image_ops.crop_boxes`, the
        places of the heights) and `aspects` `(..., tries)`, `place` and `translation`
        `(..., 2)`, `order` `(..., 4)`, and `flip, rotation, shear, jitter,
        brightness, contrast, saturation, hue, gray, sigma, solarize` `(...)`; and
        `rand_augment` `(..., width)`, `cell` `(..., 2)`, the place of a tile in its
        cell, and `erase` `(..., width)`, if a view has them.
    """
    sizes = _sizes(recipe)
    parts = tf.split(numbers, list(sizes.values()), axis=-1)
    return {
        name: part if size > 1 or name in ("areas", "aspects") else part[..., 0]
        for (name, size), part in zip(sizes.items(), parts)
    }


def sample(recipe, *, batch, channels, seed, step):
    """Draws the numbers of all views of a batch; pure and stateless.

    Args:
        recipe: sequence of `View`.
        batch: number of images, the GLOBAL batch: each worker draws the whole and
            keeps its rows, so that the views do not depend on the workers.
        channels: channels of the images. Does not change the draw.
        seed: int scalar, the run's seed.
        step: int scalar, number of the batch in the stream; every step's numbers
            are independent of all others'.

    Returns:
        float32 `(batch, num_views, numbers)`; `split` names the numbers. A view in
        tiles has a row for each of them.
    """
    del channels  # All fields are drawn; colour is left out by `pack`.
    check(recipe)
    recipe = flat(recipe)
    count = len(recipe)
    width = sum(_sizes(recipe).values()) + 1  # One more: the blur's coin.
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    drawn = tf.random.stateless_uniform([batch, count, width], key, alg="philox")
    coin_of_blur = drawn[..., -1]
    u = split(drawn[..., :-1], recipe)

    def per_view(get):
        return np.array([get(view) for view in recipe], np.float32)

    def between(x, low, high):
        extra = (1,) * (len(x.shape) - 2)
        low, high = per_view(low), per_view(high)
        low = low.reshape(count, *extra)
        return low + x * (high.reshape(count, *extra) - low)

    def coin(x, name):
        return tf.cast(x < per_view(lambda v: getattr(v, name)), tf.float32)

    def either_way(x, name):
        strength = lambda v: getattr(v, name)  # noqa: E731
        return between(x, lambda v: -strength(v), strength)

    def factor(x, name):
        strength = lambda v: getattr(v, name)  # noqa: E731
        low = lambda v: max(0.0, 1.0 - strength(v))  # noqa: E731
        return between(x, low, lambda v: 1.0 + strength(v))

    logarithmic = per_view(lambda v: v.aspect_scale == "log").reshape(-1, 1) > 0
    aspects = tf.where(
        logarithmic,
        tf.exp(
            between(
                u["aspects"],
                lambda v: np.log(v.aspect[0]),
                lambda v: np.log(v.aspect[1]),
            )
        ),
        between(u["aspects"], lambda v: v.aspect[0], lambda v: v.aspect[1]),
    )
    adds = per_view(lambda v: v.brightness_mode == "add") > 0
    fixed = tf.constant([0.0, 0.25, 0.5, 0.75])
    in_random_order = per_view(lambda v: v.random_order).reshape(-1, 1) > 0
    sigma = between(u["sigma"], lambda v: v.blur_sigma[0], lambda v: v.blur_sigma[1])
    areas = lambda v: (0.0, 1.0) if v.crop_rule == "height" else v.area  # noqa: E731
    values = {
        "areas": between(u["areas"], lambda v: areas(v)[0], lambda v: areas(v)[1]),
        "aspects": aspects,
        "place": u["place"],
        "flip": coin(u["flip"], "flip"),
        "rotation": either_way(u["rotation"], "rotation"),
        "shear": either_way(u["shear"], "shear"),
        "translation": either_way(u["translation"], "translation"),
        "jitter": coin(u["jitter"], "jitter"),
        "brightness": tf.where(
            adds,
            either_way(u["brightness"], "brightness"),
            factor(u["brightness"], "brightness"),
        ),
        "contrast": factor(u["contrast"], "contrast"),
        "saturation": factor(u["saturation"], "saturation"),
        "hue": either_way(u["hue"], "hue"),
        "order": tf.where(in_random_order, u["order"], fixed),
        "gray": coin(u["gray"], "gray"),
        "sigma": sigma * coin(coin_of_blur, "blur"),
        "solarize": coin(u["solarize"], "solarize"),
    }
    for name in ("rand_augment", "cell", "erase"):  # `pack` gives them their meaning.
        if name in u:
            values[name] = u[name]
    rank3 = [x if len(x.shape) == 3 else x[..., tf.newaxis] for x in values.values()]
    return tf.concat(rank3, -1)
