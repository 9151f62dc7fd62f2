"""The views of each paper, as values.

Each recipe states what it was read from and where this library departs from it.
Common to all: hue is turned in YIQ, by a matrix, where the papers' code works in
HSV; saturation is blended with grey, as in PIL (MoCo, SwAV), where the code of SimCLR
and BYOL works in HSV; blur kernels are cut at four standard deviations instead of a
tenth of the image.
"""

from tfssl import checks
from tfssl.data.preprocessing import Preprocessing
from tfssl.data.views import (
    beit_recipes,
    dino_recipes,
    pretext_recipes,
    tokenizer_recipes,
)
from tfssl.data.views.specs import IMAGENET_MEAN as _IMAGENET_MEAN
from tfssl.data.views.specs import IMAGENET_STD as _IMAGENET_STD
from tfssl.data.views.specs import Recipe, View, normalization

# Chen et al., 2020, https://arxiv.org/abs/2002.05709, appendix A, and the code's
# default ("simclrv2") multiplicative brightness. Bicubic without antialiasing;
# every step of the jitter clipped; no normalisation. Crops are those of TensorFlow's
# operation, which the code calls: smaller ones than the paper's words give, a mean
# area of 0.39 of 375 x 500 pixels for 0.44, and none below a tenth. Here each image
# has its own sigma (the code: one per batch and replica) and 10 tries of a crop
# instead of 100.
SIMCLR = Recipe(
    [
        View(
            size=224,
            area=(0.08, 1.0),
            aspect=(3 / 4, 4 / 3),
            aspect_scale="linear",
            crop_rule="height",
            crop_fallback="whole",
            flip=0.5,
            jitter=0.8,
            brightness=0.8,
            contrast=0.8,
            saturation=0.8,
            hue=0.2,
            gray=0.2,
            blur=0.5,
            blur_sigma=(0.1, 2.0),
            blur_border="zero",
            resize="bicubic",
        )
    ]
    * 2,
    "simclr",
)

# The same paper, appendix B.9: 32 pixels, half the colour strength, no blur.
SIMCLR_CIFAR10 = Recipe(
    SIMCLR.scaled(32, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.0),
    "simclr_cifar10",
)

# Not from a paper: written digits carry no colour, and a mirrored digit is another
# sign. Small rotations and moves take the place of flips and colour.
SIMCLR_DIGITS = Recipe(
    [
        View(
            size=32,
            area=(0.75, 1.0),
            flip=0.0,
            jitter=0.0,
            rotation=0.3,
        )
    ]
    * 2,
    "simclr_digits",
)

_BYOL_VIEW = View(
    size=224,
    crop_tries=1,
    crop_fallback="clamp",
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    brightness_mode="add",
    gray=0.2,
    blur=1.0,
    blur_border="zero",
    resize="bicubic",
    clip_resized=True,
    mean=_IMAGENET_MEAN,
    std=_IMAGENET_STD,
)
# Grill et al., 2020, https://arxiv.org/abs/2006.07733, and the authors' code
# (google-deepmind/deepmind-research): one try of a crop, cut to the image; additive
# brightness; the two views differ in blur and solarisation. The code resizes and clips
# on the host, before all else.
BYOL = Recipe([_BYOL_VIEW, _BYOL_VIEW.scaled(blur=0.1, solarize=0.2)], "byol")

# Not the paper's: 32 pixels, no blur, ImageNet's normalisation kept; the
# asymmetry is solarisation alone, as in solo-learn's setting for CIFAR-10.
BYOL_CIFAR10 = Recipe(BYOL.scaled(32, blur=0.0), "byol_cifar10")

# He et al., 2020, https://arxiv.org/abs/1911.05722, facebookresearch/moco: PIL's
# antialiased bilinear resize, grey before an always applied jitter. Contrast is about
# the grey mean, as in PIL. The flip comes last there; it commutes with all else.
_MOCO_VIEW = View(
    size=224,
    area=(0.2, 1.0),
    jitter=1.0,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.4,
    contrast_mean="gray",
    gray=0.2,
    antialias=True,
    mean=_IMAGENET_MEAN,
    std=_IMAGENET_STD,
)
MOCO_V1 = Recipe([_MOCO_VIEW.scaled(gray_first=True)] * 2, "moco_v1")

# Wu et al., 2018, https://arxiv.org/abs/1805.01978, zhirongw/lemniscate.pytorch
# (main.py), from which MoCo's views were taken: one of them.
NPID = Recipe(MOCO_V1[:1], "npid")

# The same code on CIFAR-10 (cifar.py): the grey after the jitter, and no flip.
NPID_CIFAR10 = Recipe(
    NPID.scaled(
        32,
        flip=0.0,
        gray_first=False,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    "npid_cifar10",
)

# Chen et al., 2020, https://arxiv.org/abs/2003.04297: weaker hue, jitter at 0.8,
# blur at 0.5, and the grey after the jitter.
MOCO_V2 = Recipe(
    [_MOCO_VIEW.scaled(jitter=0.8, hue=0.1, blur=0.5, blur_border="edge")] * 2,
    "moco_v2",
)

# The CIFAR-10 demo of facebookresearch/moco: crops down to 0.08, no blur, CIFAR-10's
# mean and the deviations that the demo states.
MOCO_CIFAR10 = Recipe(
    MOCO_V2.scaled(
        32,
        area=(0.08, 1.0),
        blur=0.0,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    "moco_cifar10",
)

# Chen et al., 2021, https://arxiv.org/abs/2104.02057, facebookresearch/moco-v3, for
# ResNets: BYOL's asymmetry on PIL's operations.
_MOCO_V3_VIEW = _MOCO_VIEW.scaled(
    jitter=0.8, saturation=0.2, hue=0.1, blur=1.0, blur_border="edge"
)
MOCO_V3 = Recipe(
    [_MOCO_V3_VIEW, _MOCO_V3_VIEW.scaled(blur=0.1, solarize=0.2)], "moco_v3"
)
# The same for ViTs.
MOCO_V3_VIT = Recipe(MOCO_V3.scaled(area=(0.08, 1.0)), "moco_v3_vit")

# Caron et al., 2020, https://arxiv.org/abs/2006.09882, facebookresearch/swav
# (main_swav.py): two large and six small crops, std 0.228 for red as in the code.
_SWAV_VIEW = View(
    size=224,
    area=(0.14, 1.0),
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    contrast_mean="gray",
    gray=0.2,
    blur=0.5,
    blur_border="edge",
    antialias=True,
    mean=_IMAGENET_MEAN,
    std=(0.228, 0.224, 0.225),
)
SWAV = Recipe([_SWAV_VIEW] * 2 + [_SWAV_VIEW.scaled(96, area=(0.05, 0.14))] * 6, "swav")

# The CIFAR-10 setting of lightly: two 32-pixel crops, half the colour, no blur.
SWAV_CIFAR10 = Recipe(
    SWAV.scaled(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.0)[:2],
    "swav_cifar10",
).scaled(32)

# Caron et al., 2018, https://arxiv.org/abs/1807.05520, facebookresearch/deepcluster
# (main.py): crop and flip only; colour goes in the Sobel filters of the encoder.
DEEPCLUSTER = Recipe(
    [
        View(
            size=224, jitter=0.0, antialias=True, mean=_IMAGENET_MEAN, std=_IMAGENET_STD
        )
    ],
    "deepcluster",
)

# Not from a paper, which has no images of 32 pixels: without Sobel filters colour
# must be taken from the views, and crops are larger.
DEEPCLUSTER_CIFAR10 = Recipe(
    DEEPCLUSTER.scaled(
        32,
        area=(0.2, 1.0),
        jitter=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        contrast_mean="gray",
        gray=0.2,
    ),
    "deepcluster_cifar10",
)

# SIMCLR_DIGITS for methods of one view.
DEEPCLUSTER_DIGITS = Recipe(SIMCLR_DIGITS[:1], "deepcluster_digits")

# lightly-train (lightly-ai/lightly-train, distillationv2_transform.py): one view, half
# the strength of its colour numbers, PIL's operations. Its blur, sigma 0 to 0.1, moves
# no pixel and is left out.
FEATURE_DISTILLATION = Recipe(
    [
        View(
            size=224,
            area=(0.14, 1.0),
            brightness=0.4,
            contrast=0.4,
            saturation=0.2,
            hue=0.1,
            contrast_mean="gray",
            gray=0.2,
            antialias=True,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
        )
    ],
    "feature_distillation",
)

# Cubuk et al., 2020, https://arxiv.org/abs/1909.13719, tensorflow/tpu, efficientnet:
# ResNet-50 on ImageNet, two operations of magnitude 9; for training with labels.
RAND_AUGMENT = Recipe(
    [
        View(
            size=224,
            aspect_scale="linear",
            crop_rule="height",
            crop_fallback="whole",
            jitter=0.0,
            rand_augment=2,
            rand_augment_magnitude=9.0,
            resize="bicubic",
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
        )
    ],
    "rand_augment",
)

# Tian et al., 2019, https://arxiv.org/abs/1906.05849, HobbitLong/CMC (train_CMC.py),
# for AlexNet and for ImageNet-100: crop and flip; colour stays, since it is a view by
# itself. Lab and its normalisation stand in front of the encoder (`models.Lab`).
CMC_LAB = Recipe(
    [View(size=224, area=(0.2, 1.0), jitter=0.0, antialias=True)], "cmc_lab"
)

# The same for ResNets on ImageNet.
CMC_LAB_IMAGENET = Recipe(CMC_LAB.scaled(area=(0.08, 1.0)), "cmc_lab_imagenet")

# Not from a paper: the rendered scenes. Surface normals that are stored beside an image
# do not turn with it, so that there is no flip; crops are larger, for 32 pixels.
CMC_SCENES = Recipe(CMC_LAB.scaled(32, area=(0.4, 1.0), flip=0.0), "cmc_scenes")

# Hénaff et al., 2019, https://arxiv.org/abs/1905.09272, from what is told of its
# appendix: the shorter side resized to 300 pixels, a random square of 260, a flip. Here
# the square is drawn by its area, that of these 260 pixels in images of aspects from
# 1 to 3/2. Patches are cut, and their colours changed, in the step (methods.CPC). No
# mean and deviation.
CPC_V2 = Recipe(
    [View(size=260, area=(0.5, 0.75), aspect=(1.0, 1.0), jitter=0.0, antialias=True)],
    "cpc_v2",
)

# Not from the paper, which has no images of 32 pixels: squares of these sizes move by
# up to four pixels, as in the usual padded crop of CIFAR-10.
CPC_V2_CIFAR10 = Recipe(CPC_V2.scaled(32, area=(0.765, 1.0)), "cpc_v2_cifar10")

RECIPES = {
    "simclr": SIMCLR,
    "simclr_cifar10": SIMCLR_CIFAR10,
    "simclr_digits": SIMCLR_DIGITS,
    "byol": BYOL,
    "byol_cifar10": BYOL_CIFAR10,
    "cmc_lab": CMC_LAB,
    "cmc_lab_imagenet": CMC_LAB_IMAGENET,
    "cmc_scenes": CMC_SCENES,
    "cpc_v2": CPC_V2,
    "cpc_v2_cifar10": CPC_V2_CIFAR10,
    "deepcluster": DEEPCLUSTER,
    "deepcluster_cifar10": DEEPCLUSTER_CIFAR10,
    "deepcluster_digits": DEEPCLUSTER_DIGITS,
    "feature_distillation": FEATURE_DISTILLATION,
    "moco_cifar10": MOCO_CIFAR10,
    "moco_v1": MOCO_V1,
    "moco_v2": MOCO_V2,
    "moco_v3": MOCO_V3,
    "moco_v3_vit": MOCO_V3_VIT,
    "npid": NPID,
    "npid_cifar10": NPID_CIFAR10,
    "rand_augment": RAND_AUGMENT,
    "swav": SWAV,
    "swav_cifar10": SWAV_CIFAR10,
    **beit_recipes.RECIPES,
    **dino_recipes.RECIPES,
    **pretext_recipes.RECIPES,
    **tokenizer_recipes.RECIPES,
}


def get(given):
    """A recipe by its name, or of views that are given.

    Args:
        given: key of `RECIPES`, or a sequence of `View`.

    Raises:
        ValueError: for an unknown name, with those that exist; for what is no view.
    """
    if not isinstance(given, str):
        return given if isinstance(given, Recipe) else Recipe(given)
    if given not in RECIPES:
        raise ValueError(
            f"Unknown recipe {given!r}; choose {checks.listed(sorted(RECIPES), given)}."
        )
    return RECIPES[given]


def preprocessing_for(recipe, source, crop=None):
    """The evaluation path that fits a recipe: its size, filter and normalisation.

    Args:
        recipe: sequence of `View`; the first one counts.
        source: `sources.Source`, whose channels and range are taken.
        crop: central part of the shorter side; None is 0.875 above 64 pixels (as
            in the papers) and 1.0, the whole image, up to that.

    Returns:
        `Preprocessing`.
    """
    return preprocessing_of_view(recipe[0], source, crop)


def preprocessing_of_view(view, source, crop=None):
    """As `preprocessing_for`, for one view; of tiles for what they are cut from."""
    view = view.untiled()
    if crop is None:
        crop = 0.875 if view.size > 64 else 1.0
    mean, std = normalization(view, source.channels)
    return Preprocessing(
        size=view.size,
        channels=source.channels,
        max_value=source.max_value,
        crop=crop,
        resize=view.resize,
        antialias=view.antialias,
        mean=0.0 if mean is None else mean,
        std=1.0 if std is None else std,
    )
