import numpy as np
import pytest

from tfssl import data
from tfssl.data import sources
from tfssl.data.views import recipes, specs

# Values as the papers and their code state them, written here a second time.
_PIRL = dict(
    jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2, gray=0.2,
    flip=0.5, blur=0.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
)  # fmt: skip
_DINO = dict(
    flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1,
    gray=0.2, resize="bicubic", antialias=True, mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)  # fmt: skip
_PAPERS = {
    "dino": _DINO | dict(size=224, area=(0.4, 1.0), blur=1.0, solarize=0.0),
    "dino_resnet": _DINO | dict(size=224, area=(0.14, 1.0), blur=1.0, solarize=0.0),
    "dino_cifar10": _DINO | dict(size=32, area=(0.3, 1.0), blur=0.0, solarize=0.0),
    "dino_digits": dict(
        size=32, area=(0.75, 1.0), flip=0.0, jitter=0.0, gray=0.0, rotation=0.3,
    ),
    "simclr": dict(
        size=224, area=(0.08, 1.0), flip=0.5, jitter=0.8, brightness=0.8, contrast=0.8,
        saturation=0.8, hue=0.2, gray=0.2, blur=0.5, blur_sigma=(0.1, 2.0),
        resize="bicubic", antialias=False, mean=None, brightness_mode="multiply",
        crop_rule="height", crop_fallback="whole", clip_resized=False,
    ),
    "simclr_cifar10": dict(
        crop_rule="height",
        size=32, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.0,
        jitter=0.8, gray=0.2,
    ),
    "simclr_digits": dict(
        size=32, area=(0.75, 1.0), flip=0.0, jitter=0.0, gray=0.0, rotation=0.3,
        crop_rule="area",
    ),
    "byol": dict(
        crop_rule="area", clip_resized=True,
        size=224, area=(0.08, 1.0), crop_tries=1, brightness=0.4, contrast=0.4,
        saturation=0.2, hue=0.1, brightness_mode="add", blur=1.0, solarize=0.0,
        resize="bicubic", std=(0.229, 0.224, 0.225),
    ),
    "moco_v1": dict(
        area=(0.2, 1.0), aspect_scale="log", crop_tries=10, flip=0.5, jitter=1.0,
        brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, gray=0.2,
        gray_first=True, blur=0.0, antialias=True, contrast_mean="gray",
    ),
    "byol_cifar10": dict(size=32, brightness=0.4, saturation=0.2, blur=0.0, gray=0.2),
    "moco_cifar10": dict(
        size=32, area=(0.08, 1.0), jitter=0.8, brightness=0.4, contrast=0.4,
        saturation=0.4, hue=0.1, gray=0.2, blur=0.0,
        mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010),
    ),
    "moco_v2": dict(
        area=(0.2, 1.0), jitter=0.8, hue=0.1, blur=0.5, gray=0.2, gray_first=False,
    ),
    "moco_v3": dict(
        area=(0.2, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2,
        hue=0.1, gray=0.2, gray_first=False, blur=1.0, solarize=0.0, flip=0.5,
    ),
    "moco_v3_vit": dict(
        area=(0.08, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2,
        hue=0.1, gray=0.2, gray_first=False, blur=1.0, solarize=0.0, flip=0.5,
    ),
    "npid": dict(
        size=224, area=(0.2, 1.0), flip=0.5, jitter=1.0, brightness=0.4, contrast=0.4,
        saturation=0.4, hue=0.4, gray=0.2, gray_first=True, blur=0.0, antialias=True,
    ),
    "npid_cifar10": dict(
        size=32, area=(0.2, 1.0), flip=0.0, jitter=1.0, brightness=0.4, contrast=0.4,
        saturation=0.4, hue=0.4, gray=0.2, gray_first=False, blur=0.0,
        mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010),
    ),
    "swav": dict(
        area=(0.14, 1.0), jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8,
        hue=0.2, gray=0.2, blur=0.5, flip=0.5, std=(0.228, 0.224, 0.225),
    ),
    "swav_cifar10": dict(
        size=32, area=(0.14, 1.0), jitter=0.8, brightness=0.4, contrast=0.4,
        saturation=0.4, hue=0.1, gray=0.2, blur=0.0, flip=0.5,
    ),
    "cpc_v2": dict(
        size=260, area=(0.5, 0.75), aspect=(1.0, 1.0), flip=0.5, jitter=0.0, gray=0.0,
        blur=0.0, antialias=True, mean=None, std=None,
    ),
    "cpc_v2_cifar10": dict(size=32, area=(0.765, 1.0), flip=0.5, jitter=0.0, mean=None),
    "deepcluster": dict(
        size=224, area=(0.08, 1.0), flip=0.5, jitter=0.0, gray=0.0, blur=0.0,
        solarize=0.0, antialias=True, mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "deepcluster_cifar10": dict(
        size=32, area=(0.2, 1.0), flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4,
        saturation=0.4, hue=0.1, gray=0.2, blur=0.0,
    ),
    "deepcluster_digits": dict(
        size=32, area=(0.75, 1.0), flip=0.0, jitter=0.0, gray=0.0, rotation=0.3,
    ),
    "feature_distillation": dict(
        size=224, area=(0.14, 1.0), flip=0.5, jitter=0.8, brightness=0.4, contrast=0.4,
        saturation=0.2, hue=0.1, gray=0.2, blur=0.0, solarize=0.0,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    ),
    "beit": dict(
        size=224, area=(0.08, 1.0), flip=0.5, jitter=1.0, hue=0.0, gray=0.0, blur=0.0,
    ),
    "beit_cifar10": dict(size=32, area=(0.2, 1.0), jitter=1.0, brightness=0.4),
    "cmc_lab": dict(
        size=224, area=(0.2, 1.0), flip=0.5, jitter=0.0, gray=0.0, blur=0.0, mean=None,
    ),
    "cmc_lab_imagenet": dict(
        size=224, area=(0.08, 1.0), flip=0.5, jitter=0.0, gray=0.0, blur=0.0, mean=None,
    ),
    "cmc_scenes": dict(
        size=32, area=(0.4, 1.0), flip=0.0, jitter=0.0, gray=0.0, blur=0.0, mean=None,
    ),
    "tokenizer": dict(
        size=256, area=(0.444, 0.79), aspect=(1.0, 1.0), flip=0.5, jitter=0.0,
        mean=None,
    ),
    "tokenizer_cifar10": dict(size=32, area=(0.6, 1.0), flip=0.5, jitter=0.0),
    "tokenizer_digits": dict(size=32, area=(0.75, 1.0), flip=0.0, jitter=0.0),
    "rand_augment": dict(
        size=224, area=(0.08, 1.0), flip=0.5, jitter=0.0, gray=0.0, blur=0.0,
        rand_augment=2, rand_augment_magnitude=9.0, crop_rule="height",
    ),
    "rotation": dict(
        size=224, area=(0.08, 1.0), flip=0.5, jitter=0.0, gray=0.0, blur=0.0,
    ),
    "rotation_cifar10": dict(size=32, area=(0.6, 1.0), flip=0.5, jitter=0.0),
    "rotation_digits": dict(size=32, flip=0.0, rotation=0.3, jitter=0.0),
    "jigsaw": dict(
        size=64, whole=255, grid=3, gray=0.66, jitter=0.0, flip=0.0, area=(0.6, 1.0),
    ),
    "jigsaw_cifar10": dict(
        size=12, whole=48, grid=3, gray=0.2, jitter=0.8, hue=0.1, flip=0.0,
    ),
    "jigsaw_digits": dict(size=14, whole=36, grid=2, gray=0.0, flip=0.0),
    "pirl_jigsaw": _PIRL | dict(size=224, area=(0.08, 1.0)),
    "pirl_jigsaw_cifar10": _PIRL | dict(size=32, area=(0.2, 1.0), jitter=0.8, hue=0.1),
    "pirl_jigsaw_digits": dict(size=32, flip=0.0, rotation=0.3, jitter=0.0),
    "pirl_rotation": _PIRL | dict(size=224, area=(0.08, 1.0)),
    "pirl_rotation_cifar10": _PIRL
    | dict(size=32, area=(0.2, 1.0), jitter=0.8, hue=0.1),
    "pirl_rotation_digits": dict(size=32, flip=0.0, rotation=0.3, jitter=0.0),
}  # fmt: skip
_MULTICROP = {
    "swav": 8, "dino": 10, "dino_resnet": 10, "dino_cifar10": 6, "dino_digits": 4,
}  # fmt: skip
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
    view = recipes.RECIPES[name][0]
    for field, value in _PAPERS[name].items():
        assert getattr(view, field) == value, field
    assert recipes.get(name).name == name
    single = name.startswith(_SINGLE)
    views = _MULTICROP.get(name, 1 if single else 2)
    assert len(recipes.get(name)) == views


def test_second_views_of_the_asymmetric_recipes():
    for recipe in (recipes.BYOL, recipes.MOCO_V3):
        assert recipe[1] == recipe[0].scaled(blur=0.1, solarize=0.2)
    assert (recipes.SWAV[2].size, recipes.SWAV[2].area) == (96, (0.05, 0.14))


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
