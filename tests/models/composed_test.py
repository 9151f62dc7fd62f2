"""Encoders made of encoders: whose arguments they take."""

import inspect

import pytest

from tfssl.models import composed


def _one(*, input_shape, width=1, name=None):
    return ("one", input_shape, width, name)


def _two(*, input_shape, depth=3, name=None):
    return ("two", input_shape, depth, name)


_ENCODERS = {"one": _one, "two": _two}


def test_a_signature_names_the_arguments_of_all():
    def build(*, input_shape, of="one", depth=5, **more):
        return of, more

    found = composed.with_arguments_of(_ENCODERS, build)
    assert found is build
    parameters = inspect.signature(build).parameters
    assert set(parameters) == {"input_shape", "of", "depth", "width", "name"}
    assert parameters["depth"].default == 5 and parameters["width"].default == 1


def test_arguments_of_another_encoder_are_refused():
    composed.check(_ENCODERS, "two", {"depth": 2})
    with pytest.raises(ValueError, match="encoder_arg 'width' received, but two takes"):
        composed.check(_ENCODERS, "two", {"width": 2})
    with pytest.raises(
        ValueError, match="of='three' received, expected one of one, two"
    ):
        composed.check(_ENCODERS, "three", {})
    with pytest.raises(ValueError, match="encoder_arg 'name' received"):
        composed.check(_ENCODERS, "one", {"name": "x"})
