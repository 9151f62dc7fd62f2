import keras
import numpy as np

from tfssl import models


def _weights(filters, area, channels):
    """A convolution with its bias, and the norm's scale and offset."""
    return area * channels * filters + filters + 2 * filters


def test_parameters_and_shapes_of_deepclusters_alexnet():
    with keras.StatelessScope(initialize_variables=False):
        model = models.alexnet(sobel=True)
    expected = (
        _weights(96, 11 * 11, 2)
        + _weights(256, 5 * 5, 96)
        + _weights(384, 9, 256)
        + _weights(384, 9, 384)
        + _weights(256, 9, 384)
        + (6 * 6 * 256 + 1) * 4096
        + (4096 + 1) * 4096
    )
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == expected
    assert {k: x.shape[1:] for k, x in model.stage_outputs.items()} == {
        "conv1": (55, 55, 96),
        "conv2": (27, 27, 256),
        "conv3": (13, 13, 384),
        "conv4": (13, 13, 384),
        "conv5": (13, 13, 256),
    }
    assert model.output_shape == (None, 4096)
    assert model.name == "alexnet"


def test_small_images_keep_five_convolutions():
    with keras.StatelessScope(initialize_variables=False):
        model = models.alexnet(input_shape=(32, 32, 3), stem="cifar", width=0.25)
    assert {k: x.shape[1:] for k, x in model.stage_outputs.items()} == {
        "conv1": (32, 32, 24),
        "conv2": (15, 15, 64),
        "conv3": (7, 7, 96),
        "conv4": (7, 7, 96),
        "conv5": (7, 7, 64),
    }
    assert model.get_layer("flatten").output.shape == (None, 3 * 3 * 64)
    assert model.output_shape == (None, 1024)
    assert model.get_config()["stem"] == "cifar"
