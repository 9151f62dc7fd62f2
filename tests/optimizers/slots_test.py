import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import optimizers
from tfssl.optimizers import slots


def test_the_owner_is_the_longest_name_that_fits():
    paths = ["a/kernel", "a/kernel_2", "b/bias"]
    assert slots.owner("adam/a_kernel_momentum", paths) == ("a/kernel", "momentum")
    assert slots.owner("adam_1/a_kernel_2_velocity", paths) == (
        "a/kernel_2",
        "velocity",
    )
    assert slots.owner("adam/learning_rate", paths) == (None, "learning_rate")


@pytest.mark.parametrize(
    "optimizer, count",
    [
        (lambda: optimizers.SGD(0.1), 1),
        (lambda: optimizers.LARC(0.1), 1),
        (lambda: keras.optimizers.Adam(0.1), 2),
        (lambda: keras.optimizers.AdamW(0.1), 2),
    ],
)
def test_only_the_slots_of_these_variables_are_cleared(optimizer, count):
    variables = [
        keras.Variable(np.ones(2, np.float32), name=name)
        for name in ("kernel", "kernel_2", "bias")
    ]
    optimizer = optimizer()
    optimizer.build(variables)
    for _ in range(2):
        optimizer.apply([tf.ones(2)] * 3)
    before = {v.path: np.array(v) for v in optimizer.variables}
    slots.reset(optimizer, [variables[0]])
    changed = [
        v.path for v in optimizer.variables if (np.array(v) != before[v.path]).any()
    ]
    assert len(changed) == count
    for path in changed:
        assert slots.owner(path, [v.path for v in variables])[0] == "kernel"
    assert int(optimizer.iterations) == 2
