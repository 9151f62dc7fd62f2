"""`.keras` files of all networks give the same on JAX and PyTorch as on TensorFlow."""

import numpy as np
import pytest

from tests.fixtures import backends
from tests.fixtures.small_resnets import images, tiny
from tests.methods.cases import tiny_branches, tiny_encoder
from tfssl import models

_LOAD = """
import pathlib, sys
import keras
import numpy as np
import tfssl.models
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("*.keras")):
    network = keras.saving.load_model(path)
    images = np.load(path.with_suffix(".npy"))
    found = (network.logits if path.stem == "segmenter" else network)(images)
    found = keras.ops.convert_to_numpy(found)
    np.save(folder / f"{path.stem}.{keras.config.backend()}.npy", found)
    network(images, training=True)
"""


def _vit(**changes):
    given = dict(patch=4, depth=2, heads=2, input_shape=(16, 16, 3))
    return models.ViT(12, **given | changes)


def _segmenter():
    return models.Segmenter(_vit(), "abc", image_size=16, width=16)


def _branches(*front):
    return tiny_branches(front, {"L": (0,), "ab": (1, 2)})


# Name -> (builder, side of the images).
_NETWORKS = {
    "resnet": (lambda: tiny(input_shape=(32, 32, 3)), 32),
    "revnet": (lambda: models.RevNet(width=1 / 16, input_shape=(32, 32, 3)), 32),
    "vit": (_vit, 16),
    "vit_of_another_size": (_vit, 24),
    "vit_sincos": (
        lambda: _vit(positions="sincos", class_token=False, pooling="mean"),
        16,
    ),
    "vit_beit": (
        lambda: _vit(
            positions="none", relative="shared", layer_scale=0.5, drop_path=0.2
        ),
        24,
    ),
    "vit_blocks": (lambda: _vit(relative="blocks"), 16),
    "vit_distillation": (lambda: _vit(distillation_token=True), 16),
    "alexnet": (lambda: models.alexnet(width=1 / 32, input_shape=(67, 67, 3)), 67),
    "branches_lab": (lambda: _branches(models.Lab), 16),
    "branches_ycbcr": (lambda: _branches(models.YCbCr), 16),
    "patches": (
        lambda: models.PatchEncoder(
            tiny_encoder(), patch=8, stride=4, image_shape=(16, 16, 3)
        ),
        16,
    ),
    "tokenizer": (
        lambda: models.Tokenizer(vocabulary=6, width=4, blocks=1, downsampling=4),
        16,
    ),
    "segmenter": (_segmenter, 16),
    "segmenter_features": (_segmenter, 16),
}


@pytest.fixture(scope="module", params=backends.NAMES)
def loaded(request, tmp_path_factory):
    """A function: name of a network -> what it gave on TensorFlow, and elsewhere."""
    backend = request.param
    backends.skip_without(backend)
    folder = tmp_path_factory.mktemp(backend)
    expected = {}
    for name, (build, side) in _NETWORKS.items():
        network = build()
        x = images((2, side, side, 3))
        network.save(folder / f"{name}.keras")
        np.save(folder / f"{name}.npy", x)
        of = network.logits if name == "segmenter" else network
        expected[name] = np.array(of(x))
    backends.run(backend, _LOAD, folder)
    return lambda name: (expected[name], np.load(folder / f"{name}.{backend}.npy"))


@pytest.mark.parametrize("name", _NETWORKS)
def test_a_keras_file_gives_the_same_on_another_backend(name, loaded):
    expected, found = loaded(name)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)
