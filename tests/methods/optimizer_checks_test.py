import keras
import pytest

from tests.methods import cases

_SCALE = keras.optimizers.LossScaleOptimizer


def test_gradients_of_several_steps_are_not_added():
    method = cases.make("npid_nce")
    adding = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    for optimizer in (adding, _SCALE(adding)):
        with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
            method.compile(optimizer)


def test_an_optimizer_is_one_of_the_strategy_that_it_trains_under(mirrored):
    outside = keras.optimizers.SGD(0.1)
    with mirrored(2).scope():
        method = cases.make("npid_nce")
        for optimizer in (outside, _SCALE(outside)):
            with pytest.raises(ValueError, match="made outside of the strategy of 2"):
                method.compile(optimizer)
        method.compile(_SCALE(keras.optimizers.SGD(0.1)))
    method.compile("sgd")  # Made of its name where the method was.
    cases.make("npid_nce").compile(outside)
