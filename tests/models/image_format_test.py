"""Networks and files of channels last are not made where Keras has them first."""

import keras
import pytest

from tests.tasks import finetune_test
from tfssl import methods, models
from tfssl.formats import keras_file

SMALL = dict(input_shape=(32, 32, 3))


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.encoder("resnet18", width=0.25, stem="cifar", **SMALL),
        lambda: models.encoder("revnet50", width=0.25, stem="cifar", **SMALL),
        lambda: models.encoder("alexnet", width=0.25, stem="cifar", **SMALL),
        lambda: models.encoder("vgg16", width=0.25, **SMALL),
        lambda: models.encoder("vit_tiny_4", depth=1, **SMALL),
        lambda: models.Tokenizer(vocabulary=8, width=8, blocks=1, decoder_width=8),
        lambda: methods.SimCLR(keras.Sequential([keras.Input((3,))])),
    ],
)
def test_a_network_is_refused(make, channels_first):
    with pytest.raises(ValueError, match="image_data_format='channels_first', but"):
        make()


def test_a_file_is_refused(tmp_path):
    path = str(tmp_path / "encoder.keras")
    finetune_test.encoder().save(path)
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="set_image_data_format"):
            keras_file.load(path)
    finally:
        keras.config.set_image_data_format("channels_last")
