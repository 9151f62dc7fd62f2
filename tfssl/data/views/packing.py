"""The drawn numbers of an image in one row, as its views need them.

What can be known before the image is (factors, matrices, coins) is worked out for a
whole batch; where the crops lie is known once the image's size is.
"""

import tensorflow as tf

from tfssl.data.views import color, erasing, image_ops, rand_augment, tiles
from tfssl.data.views.drawing import split, tries_of
from tfssl.data.views.specs import Tiles, for_channels


def skipped_steps(recipe, channels):
    """Names of the colour steps of `recipe` that `channels` channels rule out."""
    if channels == 3:
        return ()
    names = []
    for view in recipe:
        if view.jitter:
            names += [n for n in ("saturation", "hue") if getattr(view, n) > 0]
        names += ["gray"] if view.gray else []
        names += ["color of rand_augment"] if view.rand_augment else []
    return tuple(dict.fromkeys(names))


def has_affine(view):
    """Whether a view is rotated, sheared or moved."""
    return max(view.rotation, view.shear, view.translation) > 0


# Fields that are coins, 0 or 1; in a row of `pack` they follow the crop's numbers.
_COINS = ("flip", "blurred", "solarize", "runs", "moves")
# Fields of a batch's tones: colour, blur, solarising and erasing.
TONES = ("solarize", "matrices", "shares", "offsets", "taps", "erase")


def _widths(recipe, channels):
    """Width of each packed field, as `pack` lays them out."""
    tries = tries_of(recipe)
    radii = [image_ops.blur_radius(v.blur_sigma[1], v.size) for v in recipe if v.blur]
    maps = color.widths(recipe, channels)
    return {
        "areas": tries,
        "aspects": tries,
        "place": 2,
        "flip": 1,
        "blurred": 1,
        "solarize": 1,
        "runs": maps["runs"],
        "moves": maps["moves"],
        "affine": 4 if any(map(has_affine, recipe)) else 0,
        "rand_augment": rand_augment.width(recipe),
        "matrices": maps["matrices"],
        "shares": maps["shares"],
        "offsets": maps["offsets"],
        "taps": 2 * max(radii) + 1 if radii else 0,
        "cell": 2 if any(isinstance(view, Tiles) for view in recipe) else 0,
        "erase": erasing.PACKED if erasing.width(recipe) else 0,
    }


def pack(numbers, recipe, channels, white=1.0):
    """Turns a batch of numbers into what each image needs, in one tensor.

    Matrices and kernels are made for the whole batch at once here, which costs
    far less than per image.

    Args:
        numbers: float32 `(batch, views, numbers)` from `sample`.
        recipe: the recipe they were drawn for.
        channels: channels of the images.
        white: the pixel value that stands for 1.0.

    Returns:
        float32 `(batch, views, packed)`; `apply_packed` reads a row of it.
    """
    recipe = tiles.flat(for_channels(recipe, channels))
    u = split(numbers, recipe)
    widths = _widths(recipe, channels)
    column = lambda x: x[..., tf.newaxis]  # noqa: E731
    made = {
        **color.groups(u, recipe, channels, white),
        "flip": column(u["flip"]),
        "blurred": column(tf.cast(u["sigma"] > 0, tf.float32)),
        "solarize": column(u["solarize"]),
        "areas": u["areas"],
        "aspects": u["aspects"],
        "place": u["place"],
        "affine": tf.concat(
            [column(u["rotation"]), column(u["shear"]), u["translation"]], -1
        ),
        "taps": image_ops.gaussian_taps(u["sigma"], widths["taps"] // 2),
    }
    if "rand_augment" in u:
        made["rand_augment"] = rand_augment.pack(u["rand_augment"], recipe)
    if "cell" in u:
        made["cell"] = u["cell"]
    if "erase" in u:
        made["erase"] = erasing.pack(u["erase"], recipe)
    return tf.concat([made[name] for name, width in widths.items() if width], -1)


def tones(packed, recipe, channels):
    """What of `pack` the tones of a batch need, float32 `(..., numbers)`."""
    named = fields(packed, recipe, channels)
    return tf.concat([named[name] for name in TONES], -1)


def fields(packed, recipe, channels, names=None):
    """Names what `pack` gave.

    Args:
        packed: float32 `(..., packed)`.
        recipe: the recipe.
        channels: channels of the images.
        names: of the fields that `packed` holds: `TONES`, or None for all.

    Returns:
        Dict of float32 `(..., width)`: `areas`, `aspects` and `place` of the crop;
        the coins `flip`, `blurred`, `solarize`; `runs`, `moves`, `matrices`, `shares`
        and `offsets` of `color.groups`; `affine` (rotation, shear, right, down),
        `rand_augment`, `taps` of the blur, `cell` (the place of a tile in its cell) and
        `erase`, of width 0 if no view needs them.
    """
    widths = _widths(recipe, channels)
    widths = {name: widths[name] for name in names or widths}
    return dict(zip(widths, tf.split(packed, list(widths.values()), axis=-1)))


def count(recipe, channels):
    """How many numbers `pack` has for a view."""
    return sum(_widths(recipe, channels).values())


def count_of_tones(recipe, channels):
    """How many numbers `tones` has for a view."""
    widths = _widths(recipe, channels)
    return sum(widths[name] for name in TONES)


def coins_of(packed, recipe, channels):
    """For each view of one image, bools: a scalar, or for `runs` and `moves` lists."""
    widths = _widths(recipe, channels)
    count, first = sum(widths[name] for name in _COINS), 2 * tries_of(recipe) + 2
    flat = tf.reshape(packed[:, first : first + count] > 0.5, [-1])
    drawn = iter(tf.unstack(flat, len(recipe) * count))
    every = []
    for _ in recipe:
        coins = {name: [next(drawn) for _ in range(widths[name])] for name in _COINS}
        for name in ("flip", "blurred", "solarize"):
            (coins[name],) = coins[name]
        every.append(coins)
    return every


def boxes(packed, recipe, height, width):
    """The crop of every view inside an image of `height` x `width` pixels.

    Args:
        packed: float32 `(..., views, packed)` from `pack`.
        recipe: the recipe, flat; the tiles of a view have one crop.
        height: int32 scalar.
        width: int32 scalar.

    Returns:
        int32 `(..., views, 4)`: `[top, left, height, width]`.
    """
    tries = tries_of(recipe)
    areas, aspects, place, _ = tf.split(packed, [tries, tries, 2, -1], -1)
    groups = {}
    for position, view in enumerate(recipe):
        by_height = view.area if view.crop_rule == "height" else None
        rule = (view.crop_fallback, by_height, view.crop_tries)
        groups.setdefault(rule, []).append(position)
    owners = tiles.owners(recipe)
    if len(groups) == 1:
        ((*rule, _),) = groups
        found = image_ops.crop_boxes(areas, aspects, place, height, width, *rule)
        shared = owners != list(range(len(recipe)))
        return tf.gather(found, owners, axis=-2) if shared else found
    found = [None] * len(recipe)
    for (*rule, used), members in groups.items():
        pick = lambda x, m=members: tf.gather(x, m, axis=-2)  # noqa: E731
        part = image_ops.crop_boxes(
            pick(areas)[..., :used],
            pick(aspects)[..., :used],
            pick(place),
            height,
            width,
            *rule,
        )
        for position, box in zip(members, tf.unstack(part, axis=-2)):
            found[position] = box
    return tf.stack([found[owner] for owner in owners], -2)
