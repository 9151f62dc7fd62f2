"""The views of PIRL and of the pretext tasks, as those of `recipes`."""

from tfssl.data.views.specs import IMAGENET_MEAN, IMAGENET_STD, Recipe, View

# Misra and van der Maaten, 2020, https://arxiv.org/abs/1912.01991, and
# facebookresearch/vissl (ImgPilToPatchesAndImage): the image, and nine tiles of another
# crop of it, each with a flip and colour of its own. Left out is what the code does to
# two thirds of both (posterise, sharpen, solarise at a random level, stretch contrast).
_PIRL_VIEW = View(
    size=224,
    jitter=1.0,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.2,
    contrast_mean="gray",
    gray=0.2,
    antialias=True,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
PIRL_JIGSAW = Recipe(
    [_PIRL_VIEW, _PIRL_VIEW.in_tiles(64, area=(0.6, 1.0), grid=3, whole=255)],
    "pirl_jigsaw",
)

# The same paper; its code has no rotation. The second view is what the method turns.
PIRL_ROTATION = Recipe([_PIRL_VIEW] * 2, "pirl_rotation")

# Not from a paper: 32 pixels, milder hue, and tiles of 12 pixels out of 48, so that the
# encoder's three strides leave more than one pixel of a tile.
_PIRL_CIFAR10_VIEW = _PIRL_VIEW.scaled(32, area=(0.2, 1.0), jitter=0.8, hue=0.1)
PIRL_JIGSAW_CIFAR10 = Recipe(
    [
        _PIRL_CIFAR10_VIEW,
        _PIRL_CIFAR10_VIEW.in_tiles(12, area=(0.6, 1.0), grid=3, whole=48),
    ],
    "pirl_jigsaw_cifar10",
)
PIRL_ROTATION_CIFAR10 = Recipe([_PIRL_CIFAR10_VIEW] * 2, "pirl_rotation_cifar10")

# Not from a paper: digits have no colour, and a mirrored one is another sign.
_DIGITS_VIEW = View(size=32, area=(0.75, 1.0), flip=0.0, jitter=0.0)
_DIGITS_TILES = _DIGITS_VIEW.in_tiles(14, grid=2, whole=36)
# They lean by 0.3 radians at most, small against a quarter turn.
_LEANING = _DIGITS_VIEW.scaled(rotation=0.3)
PIRL_JIGSAW_DIGITS = Recipe([_LEANING, _DIGITS_TILES], "pirl_jigsaw_digits")
PIRL_ROTATION_DIGITS = Recipe([_LEANING] * 2, "pirl_rotation_digits")

# Gidaris et al., 2018, https://arxiv.org/abs/1803.07728, as facebookresearch/vissl and
# mmselfsup train it: crop and flip. The method turns the view.
ROTATION = Recipe([_PIRL_VIEW.scaled(jitter=0.0, gray=0.0)], "rotation")
# The authors' CIFAR-10 setting moves images by up to 4 pixels; here crops do.
ROTATION_CIFAR10 = Recipe(ROTATION.scaled(32, area=(0.6, 1.0)), "rotation_cifar10")
ROTATION_DIGITS = Recipe([_LEANING], "rotation_digits")

# Noroozi and Favaro, 2016, https://arxiv.org/abs/1603.09246, as facebookresearch/vissl
# trains it: two thirds grey. There grey and a flip are of the whole picture; here each
# tile has its own coin for grey, and nothing is flipped.
_JIGSAW_VIEW = _PIRL_VIEW.scaled(jitter=0.0, gray=0.66, flip=0.0, area=(0.6, 1.0))
JIGSAW = Recipe([_JIGSAW_VIEW.in_tiles(64, grid=3, whole=255)], "jigsaw")
# Not from a paper: the tiles of PIRL_JIGSAW_CIFAR10 and PIRL_JIGSAW_DIGITS. With those
# of JIGSAW, two thirds grey and no other colour, kNN was below a random encoder's.
JIGSAW_CIFAR10 = Recipe([PIRL_JIGSAW_CIFAR10[1].scaled(flip=0.0)], "jigsaw_cifar10")
JIGSAW_DIGITS = Recipe([_DIGITS_TILES], "jigsaw_digits")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        JIGSAW,
        JIGSAW_CIFAR10,
        JIGSAW_DIGITS,
        PIRL_JIGSAW,
        PIRL_JIGSAW_CIFAR10,
        PIRL_JIGSAW_DIGITS,
        PIRL_ROTATION,
        PIRL_ROTATION_CIFAR10,
        PIRL_ROTATION_DIGITS,
        ROTATION,
        ROTATION_CIFAR10,
        ROTATION_DIGITS,
    )
}
