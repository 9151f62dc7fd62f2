import keras
import pytest

from tfssl import models

_RESNETS = [name for name in models.ENCODERS if name.startswith("resnet")]


@pytest.mark.parametrize(
    "name, kwargs",
    [
        *[(name, {"width": 1 / 32, "stem": "cifar"}) for name in _RESNETS],
        ("resnet50", {"width": 3, "selective_kernels": True}),
    ],
)
def test_name_gives_the_depth(name, kwargs):
    with keras.StatelessScope(initialize_variables=False):
        model = models.encoder(name, input_shape=(None, None, 1), **kwargs)
    assert model.name == name
    assert f"resnet{model.depth}" == name
    assert model.input_shape == (None, None, None, 1)
    assert {k: model.get_config()[k] for k in kwargs} == kwargs


@pytest.mark.parametrize(
    "name", [n for n in models.ENCODERS if n not in [*_RESNETS, "patches"]]
)
def test_other_names_take_their_arguments(name):
    kwargs = {"width": 1 / 32, "sobel": True}
    with keras.StatelessScope(initialize_variables=False):
        model = models.encoder(name, input_shape=(64, 64, 1), **kwargs)
    assert model.name == name
    assert {k: model.get_config()[k] for k in kwargs} == kwargs
    assert model.output_shape == (None, 128)


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(ValueError, match="'resnet19'.*resnet18, resnet34"):
        models.encoder("resnet19", input_shape=(32, 32, 3))
