import keras
import numpy as np
import pytest

from tfssl import models


# torchvision's vgg16_bn has 138,365,992 with its classifier of 4096 * 1000 + 1000;
# one channel less at the first convolution is 9 * 64 less.
@pytest.mark.parametrize(
    "sobel, expected", [(False, 134_268_992), (True, 134_268_992 - 9 * 64)]
)
def test_parameters_and_shapes(sobel, expected):
    with keras.StatelessScope(initialize_variables=False):
        model = models.vgg(16, sobel=sobel)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == expected
    assert {k: x.shape[1:] for k, x in model.stage_outputs.items()} == {
        "conv1": (224, 224, 64),
        "conv2": (112, 112, 128),
        "conv3": (56, 56, 256),
        "conv4": (28, 28, 512),
        "conv5": (14, 14, 512),
    }
    assert model.output_shape == (None, 4096)
    assert model.name == "vgg16"
