import keras
import pytest

from tfssl import models


@pytest.mark.parametrize("name", list(models.ENCODERS))
def test_name_gives_the_depth(name):
    kwargs = {"width": 1 / 32, "stem": "cifar"}
    with keras.StatelessScope(initialize_variables=False):
        model = models.encoder(name, input_shape=(None, None, 1), **kwargs)
    assert model.name == name
    assert f"resnet{model.depth}" == name
    assert model.input_shape == (None, None, None, 1)
    assert {k: model.get_config()[k] for k in kwargs} == kwargs


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(ValueError, match="'resnet19'.*resnet18, resnet34"):
        models.encoder("resnet19", input_shape=(32, 32, 3))
