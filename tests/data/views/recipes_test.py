import dataclasses

import numpy as np
import pytest

from tfssl import data
from tfssl.data import sources
from tfssl.data.views import recipes, specs

# Values as the papers and their code state them, written here a second time.
# Of a view that says nothing else: crop and flip.
_PLAIN = dict(
    size=224, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3), aspect_scale="log",
    crop_rule="area", crop_tries=10, crop_fallback="center", flip=0.5, jitter=0.0,
    brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, brightness_mode="multiply",
    contrast_mean="channel", random_order=True, gray=0.0, gray_first=False, blur=0.0,
    blur_sigma=(0.1, 2.0), blur_border="zero", solarize=0.0, solarize_threshold=0.5,
    rotation=0.0, shear=0.0, translation=0.0, rand_augment=0,
    rand_augment_magnitude=9.0, erase=0.0, resize="bilinear", antialias=False,
    clip_resized=False, mean=None, std=None,
)  # fmt: skip
_IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CIFAR10 = dict(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
_PIL = dict(antialias=True, contrast_mean="gray")
# Blurs of PIL repeat the border, those of TensorFlow and JAX lie in black.
_BLURRED_BY_PIL = _PIL | dict(blur_border="edge")
_DIGITS = dict(size=32, area=(0.75, 1.0), flip=0.0)


def _colour(jitter, brightness, contrast, saturation, hue, gray=0.2):
    return dict(
        jitter=jitter, brightness=brightness, contrast=contrast,
        saturation=saturation, hue=hue, gray=gray,
    )  # fmt: skip


_WEAK = _colour(0.8, 0.4, 0.4, 0.4, 0.1)
_ASYMMETRIC = _colour(0.8, 0.4, 0.4, 0.2, 0.1)
_SIMCLR = _colour(0.8, 0.8, 0.8, 0.8, 0.2) | dict(
    aspect_scale="linear", crop_rule="height", crop_fallback="whole", blur=0.5,
    resize="bicubic",
)  # fmt: skip
_BYOL = _ASYMMETRIC | _IMAGENET | dict(
    crop_tries=1, crop_fallback="clamp", brightness_mode="add", blur=1.0,
    resize="bicubic", clip_resized=True,
)  # fmt: skip
_DINO = _ASYMMETRIC | _IMAGENET | _BLURRED_BY_PIL | dict(
    blur=1.0, resize="bicubic", clip_resized=True,
)  # fmt: skip
_NPID = _colour(1.0, 0.4, 0.4, 0.4, 0.4) | _IMAGENET | _PIL | dict(
    area=(0.2, 1.0), gray_first=True,
)  # fmt: skip
_MOCO_V2 = _WEAK | _IMAGENET | _BLURRED_BY_PIL | dict(area=(0.2, 1.0), blur=0.5)
_MOCO_V3 = _MOCO_V2 | _ASYMMETRIC | dict(blur=1.0)
_SWAV = _colour(0.8, 0.8, 0.8, 0.8, 0.2) | _BLURRED_BY_PIL | dict(
    area=(0.14, 1.0), blur=0.5, mean=(0.485, 0.456, 0.406), std=(0.228, 0.224, 0.225),
)  # fmt: skip
_BEIT = _colour(1.0, 0.4, 0.4, 0.4, 0.0, gray=0.0) | _IMAGENET | _PIL | dict(
    resize="bicubic", clip_resized=True,
)  # fmt: skip
_LAB = dict(area=(0.2, 1.0), antialias=True)
_CPC = dict(size=260, area=(0.5, 0.75), aspect=(1.0, 1.0), antialias=True)
_TOKENIZER = dict(size=256, area=(0.444, 0.79), aspect=(1.0, 1.0), antialias=True)
_PIRL = _colour(1.0, 0.4, 0.4, 0.4, 0.2) | _IMAGENET | _PIL
_PIRL_CIFAR10 = _PIRL | dict(size=32, area=(0.2, 1.0), jitter=0.8, hue=0.1)
_TILES = dict(size=64, area=(0.6, 1.0), grid=3, whole=255)
_TILES_CIFAR10 = dict(size=12, area=(0.6, 1.0), grid=3, whole=48)
_TILES_DIGITS = _DIGITS | dict(size=14, grid=2, whole=36)
_LEANING = _DIGITS | dict(rotation=0.3)
# Strengths of a jitter that never comes say nothing.
_ROTATION = _PIRL | dict(jitter=0.0, gray=0.0)

# The first view of each recipe, beside `_PLAIN`.
_PAPERS = {
    "beit": _BEIT,
    "beit_cifar10": _BEIT | dict(size=32, area=(0.2, 1.0)),
    "byol": _BYOL,
    "byol_cifar10": _BYOL | dict(size=32, blur=0.0),
    "cmc_lab": _LAB,
    "cmc_lab_imagenet": _LAB | dict(area=(0.08, 1.0)),
    "cmc_scenes": _LAB | dict(size=32, area=(0.4, 1.0), flip=0.0),
    "cpc_v2": _CPC,
    "cpc_v2_cifar10": _CPC | dict(size=32, area=(0.765, 1.0)),
    "deepcluster": _IMAGENET | dict(antialias=True),
    "deepcluster_cifar10": _WEAK | _IMAGENET | _PIL | dict(size=32, area=(0.2, 1.0)),
    "deepcluster_digits": _LEANING,
    "dino": _DINO | dict(area=(0.4, 1.0)),
    "dino_resnet": _DINO | dict(area=(0.14, 1.0)),
    "dino_cifar10": _DINO | dict(size=32, area=(0.3, 1.0), blur=0.0),
    "dino_digits": _LEANING,
    "feature_distillation": _ASYMMETRIC | _IMAGENET | _PIL | dict(area=(0.14, 1.0)),
    "jigsaw": _PIRL | _TILES | dict(jitter=0.0, gray=0.66, flip=0.0),
    "jigsaw_cifar10": _PIRL_CIFAR10 | _TILES_CIFAR10 | dict(flip=0.0),
    "jigsaw_digits": _TILES_DIGITS,
    "moco_cifar10": _MOCO_V2 | _CIFAR10 | dict(size=32, area=(0.08, 1.0), blur=0.0),
    "moco_v1": _NPID,
    "moco_v2": _MOCO_V2,
    "moco_v3": _MOCO_V3,
    "moco_v3_vit": _MOCO_V3 | dict(area=(0.08, 1.0)),
    "npid": _NPID,
    "npid_cifar10": _NPID | _CIFAR10 | dict(size=32, flip=0.0, gray_first=False),
    "pirl_jigsaw": _PIRL,
    "pirl_jigsaw_cifar10": _PIRL_CIFAR10,
    "pirl_jigsaw_digits": _LEANING,
    "pirl_rotation": _PIRL,
    "pirl_rotation_cifar10": _PIRL_CIFAR10,
    "pirl_rotation_digits": _LEANING,
    "rand_augment": _IMAGENET
    | dict(
        aspect_scale="linear", crop_rule="height", crop_fallback="whole",
        rand_augment=2, resize="bicubic",
    ),
    "rotation": _ROTATION,
    "rotation_cifar10": _ROTATION | dict(size=32, area=(0.6, 1.0)),
    "rotation_digits": _LEANING,
    "simclr": _SIMCLR,
    "simclr_cifar10": _SIMCLR | _WEAK | dict(size=32, blur=0.0),
    "simclr_digits": _LEANING,
    "swav": _SWAV,
    "swav_cifar10": _SWAV | _WEAK | dict(size=32, blur=0.0),
    "tokenizer": _TOKENIZER,
    "tokenizer_cifar10": _TOKENIZER | dict(size=32, area=(0.6, 1.0)),
    "tokenizer_digits": _TOKENIZER | _DIGITS,
}  # fmt: skip

# What is other in each further view: of pairs nothing, but for those named below.
_SOLARIZED = dict(blur=0.1, solarize=0.2)
_OTHERS = {
    "byol": [_SOLARIZED],
    "byol_cifar10": [dict(solarize=0.2)],
    "dino": [_SOLARIZED] + [dict(size=96, area=(0.05, 0.4), blur=0.5)] * 8,
    "dino_resnet": [_SOLARIZED] + [dict(size=96, area=(0.05, 0.14), blur=0.5)] * 8,
    "dino_cifar10": [dict(solarize=0.2)] + [dict(size=16, area=(0.08, 0.3))] * 4,
    "dino_digits": [{}] + [dict(size=16, area=(0.4, 0.75))] * 2,
    "moco_v3": [_SOLARIZED],
    "moco_v3_vit": [_SOLARIZED],
    "pirl_jigsaw": [_TILES],
    "pirl_jigsaw_cifar10": [_TILES_CIFAR10],
    "pirl_jigsaw_digits": [_TILES_DIGITS | dict(rotation=0.0)],
    "swav": [{}] + [dict(size=96, area=(0.05, 0.14))] * 6,
}
_SINGLE = (
    "beit",
    "cmc",
    "cpc",
    "deepcluster",
    "feature_distillation",
    "jigsaw",
    "npid",
    "rand_augment",
    "rotation",
    "tokenizer",
)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_values_of_the_papers(name):
    """All fields of all views, those too that a paper leaves as they are."""
    recipe = recipes.get(name)
    assert recipe.name == name
    others = _OTHERS.get(name, [] if name.startswith(_SINGLE) else [{}])
    first = _PLAIN | _PAPERS[name]
    found = [dataclasses.asdict(view) for view in recipe]
    assert found == [first | changes for changes in [{}, *others]]


def test_unknown_names_list_the_known():
    with pytest.raises(
        ValueError, match="Unknown recipe 'mocov2'; .*one of moco_v2, .* others"
    ):
        recipes.get("mocov2")
    one = recipes.get([recipes.SIMCLR[0]])
    assert len(one) == 1 and one.scaled(8)[0].size == 8
    assert recipes.get(one) is one
    with pytest.raises(ValueError, match="holds 'simclr'; every entry must be a"):
        recipes.get(["simclr"])


def array(channels=3, dtype=np.uint8):
    return sources.open_source(np.zeros((2, 8, 8, channels), dtype))


def test_preprocessing_fits_recipe_and_source():
    path = recipes.preprocessing_for(recipes.BYOL, array())
    assert (path.size, path.crop, path.resize) == (224, 0.875, "bicubic")
    assert path.mean == (0.485, 0.456, 0.406)
    small = recipes.preprocessing_for(recipes.SIMCLR_CIFAR10, array(1, np.uint16))
    assert (small.size, small.crop, small.channels) == (32, 1.0, 1)
    assert (small.max_value, small.mean, small.std) == (65535.0, (0.0,), (1.0,))
    cropped = recipes.preprocessing_for(recipes.SIMCLR_CIFAR10, array(), crop=0.5)
    assert cropped.crop == 0.5


def test_normalization_fits_any_number_of_channels():
    two = specs.for_channels(recipes.MOCO_V2, 2)
    mean = (0.485 + 0.456 + 0.406) / 3
    np.testing.assert_allclose(two[0].mean, (mean, mean))
    assert len(two[1].std) == 2 and two.name == "moco_v2"
    assert specs.for_channels(recipes.SIMCLR, 2)[0].mean is None


def test_one_number_is_for_all_channels():
    """Also beside a view that is not normalised, with whose colours it is joined."""
    views = [specs.View(size=8, mean=0.5, std=0.25), specs.View(size=8)]
    images = np.random.default_rng(0).integers(256, size=(4, 8, 8, 3), dtype=np.uint8)
    for channels in (1, 2, 3, 4):
        of = sources.open_source(np.repeat(images[..., :1], channels, axis=-1))
        one = specs.for_channels(views, channels)
        assert one[0].mean == (0.5,) * channels and one[1].mean is None
        assert recipes.preprocessing_for(views, of).std == (0.25,) * channels
        many = [views[0].scaled(mean=(0.5,) * channels, std=(0.25,) * channels)]
        found, expected = (
            data.views.finish(next(iter(data.multiview(of, made, batch_size=4))), made)
            for made in (views, [*many, views[1]])
        )
        np.testing.assert_array_equal(
            found["views"]["view_0"], expected["views"]["view_0"]
        )
    mixed = specs.View(mean=(0.1, 0.2, 0.3), std=0.5)
    assert specs.normalization(mixed, 3) == ((0.1, 0.2, 0.3), (0.5,) * 3)


@pytest.mark.parametrize("channels, count", [(3, 2), (1, 2), (3, 4), (5, 4)])
def test_only_values_of_rgb_are_averaged(channels, count):
    for given, name in (
        ({"mean": (0.1,) * count, "std": 0.5}, "mean"),
        ({"mean": 0.5, "std": (0.1,) * count}, "std"),
    ):
        view = specs.View(**given)
        with pytest.raises(
            ValueError,
            match=rf"^{name}=\(0.1, .*\) received for images of {channels} channel.*"
            f"expected one number or {channels}; give one per channel",
        ):
            specs.for_channels([view], channels)
