"""The views of DINO, as those of `recipes`."""

from tfssl.data.views.specs import IMAGENET_MEAN, IMAGENET_STD, Recipe, View

_VIEW = View(
    size=224,
    area=(0.4, 1.0),
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    contrast_mean="gray",
    gray=0.2,
    blur_border="edge",
    resize="bicubic",
    antialias=True,
    clip_resized=True,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)


def _multicrop(name, area, local_area):
    """Two large views that differ in blur and solarisation, and eight small ones."""
    large = _VIEW.scaled(area=area)
    views = [large.scaled(blur=1.0), large.scaled(blur=0.1, solarize=0.2)]
    return Recipe(views + [large.scaled(96, area=local_area, blur=0.5)] * 8, name)


# Caron et al., 2021, https://arxiv.org/abs/2104.14294, facebookresearch/dino
# (main_dino.py), for vision transformers: PIL's bicubic resize, whose result is whole
# numbers from 0 to 255, here cut to this range.
DINO = _multicrop("dino", (0.4, 1.0), (0.05, 0.4))

# The same code's README for ResNets: SwAV's areas.
DINO_RESNET = _multicrop("dino_resnet", (0.14, 1.0), (0.05, 0.14))

# Not the paper's: two views of 32 pixels and four of 16, no blur; solarisation is the
# asymmetry, as in solo-learn's setting for CIFAR-10, which has no small views.
_CIFAR10_VIEW = _VIEW.scaled(32, area=(0.3, 1.0), blur=0.0)
DINO_CIFAR10 = Recipe(
    [_CIFAR10_VIEW, _CIFAR10_VIEW.scaled(solarize=0.2)]
    + [_CIFAR10_VIEW.scaled(16, area=(0.08, 0.3))] * 4,
    "dino_cifar10",
)

# Not from a paper: written digits carry no colour, and a mirrored digit is another
# sign, as in SIMCLR_DIGITS; the small views show most of a digit.
_DIGITS_VIEW = View(size=32, area=(0.75, 1.0), flip=0.0, jitter=0.0, rotation=0.3)
DINO_DIGITS = Recipe(
    [_DIGITS_VIEW] * 2 + [_DIGITS_VIEW.scaled(16, area=(0.4, 0.75))] * 2,
    "dino_digits",
)

RECIPES = {
    "dino": DINO,
    "dino_cifar10": DINO_CIFAR10,
    "dino_digits": DINO_DIGITS,
    "dino_resnet": DINO_RESNET,
}
