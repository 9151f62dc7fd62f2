import keras
import numpy as np
import pytest

from tfssl.optimizers import updates


def test_names():
    assert updates.names("x", ["bias", "gamma"]) == ("bias", "gamma")
    assert updates.names("x", ()) == ()
    for value in ("bias", ("dense/bias",), ("",), (1,)):
        with pytest.raises(ValueError, match="which must be|x must be a tuple"):
            updates.names("x", value)


def test_flags_compare_the_whole_last_part():
    variables = []
    for scope, name in (("a", "bias"), ("bias", "kernel"), ("a", "bias_2")):
        with keras.name_scope(scope):
            variables.append(keras.Variable(np.zeros(1), name=name))
    assert updates.flags(variables, ("bias",)) == [False, True, True]
