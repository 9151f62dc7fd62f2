import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import networks
from tests.methods import cases
from tfssl import methods, optimizers
from tfssl.methods import gradient_watch, loss_scale

_SCALE = keras.optimizers.LossScaleOptimizer


def stepped(
    strategy=None,
    *,
    overflow=False,
    optimizer=keras.optimizers.SGD,
    policy="mixed_float16",
):
    """One step of a classifier in float16: every copy of its state, and its watch.

    Args:
        strategy: of `tf.distribute`.
        overflow: whether the last image is too bright for float16, and no other.
        optimizer: learning rate -> Keras optimizer.
        policy: of the encoder.

    Returns:
        dict, the last parts of paths -> array `(copies, 2, …)`, before and after.
    """
    strategy = strategy or tf.distribute.get_strategy()
    keras.config.set_dtype_policy(policy)
    try:
        with strategy.scope():
            keras.utils.set_random_seed(1)
            encoder = cases.one_convolution()
            method = methods.Classification(encoder, class_names=("a", "b"))
            for variable in method.classifier.trainable_variables:
                variable.assign(keras.random.normal(variable.shape, seed=2))
            method.compile(optimizer(0.1))
            method.build_optimizer()
            method.gradient_watch = gradient_watch.GradientWatch(1)
    finally:
        keras.config.set_dtype_policy("float32")
    views = np.random.default_rng(0).uniform(size=(cases.BATCH, 8, 8, 3))
    views[-1] *= 1e9 if overflow else 1
    rows = cases.batch_of(views.astype("float32"))
    rows["label"] = tf.range(cases.BATCH) % 2
    variables = method.variables + method.optimizer.variables
    values = {v.path.partition("/")[2]: v.value for v in variables}
    values["largest"] = method.gradient_watch.largest

    def copies():
        each = strategy.experimental_local_results
        return {k: [copy.numpy() for copy in each(v)] for k, v in values.items()}

    before = copies()
    cases.train(
        method, tf.data.Dataset.from_tensor_slices(rows), steps=1, strategy=strategy
    )
    return {k: np.stack([before[k], v], axis=1) for k, v in copies().items()}


def assert_left_out(states):
    """No copy of a variable has learnt from a step; its scale is halved on all."""
    for name in ("kernel", "bias", "logits/kernel", "iteration", "largest"):
        for before, after in states[name]:
            np.testing.assert_array_equal(before, after, err_msg=name)
    np.testing.assert_array_equal(states["step"], [[0, 1]] * len(states["step"]))
    for before, after in states["dynamic_scale"]:
        assert after == before / 2


@pytest.mark.parametrize(
    "policy, wrapped", [("mixed_float16", True), ("mixed_bfloat16", False)]
)
def test_an_encoder_in_float16_gets_a_scale_under_any_policy(policy, wrapped):
    method = methods.SimCLR(networks.ours(dtype=policy), projection_dim=4)
    assert method.dtype_policy.name == "float32"
    method.compile(keras.optimizers.SGD(0.1))
    assert isinstance(method.optimizer, _SCALE) == wrapped
    method.compile("sgd")
    assert isinstance(method.optimizer, _SCALE) == wrapped


def test_a_scale_of_the_users_stays_and_a_teacher_asks_for_none():
    given = _SCALE(keras.optimizers.SGD(0.1))
    method = methods.SimCLR(networks.ours(dtype="mixed_float16"), projection_dim=4)
    assert loss_scale.scaled(given, method) is given
    teacher = networks.ours(dtype="mixed_float16")
    teacher.trainable = False
    images = keras.Input((8, 8, 3))
    both = keras.layers.Concatenate()(
        [networks.ours(name="student")(images), teacher(images)]
    )
    made = loss_scale.scaled("sgd", keras.Model(images, both))
    assert not isinstance(made, _SCALE)
    assert cases.make("simclr").optimizer.name != "loss_scale_optimizer"


@pytest.mark.parametrize(
    "optimizer, policy",
    [
        (keras.optimizers.SGD, "mixed_float16"),
        (keras.optimizers.SGD, "float16"),
        (optimizers.SGD, "mixed_float16"),
    ],
)
def test_an_overflow_on_the_last_replica_is_one_on_all(optimizer, policy, mirrored):
    assert_left_out(stepped(overflow=True, policy=policy))
    states = stepped(mirrored(2), overflow=True, optimizer=optimizer, policy=policy)
    assert len(states["kernel"]) == 2
    assert_left_out(states)


def test_without_an_overflow_replicas_learn_what_one_device_does(mirrored):
    alone, both = stepped(), stepped(mirrored(2))
    for name, (one,) in alone.items():
        for copy in both[name]:
            np.testing.assert_allclose(copy, one, rtol=1e-3, atol=1e-5, err_msg=name)
    ((before, after),) = alone["logits/kernel"]
    assert np.abs(after - before).max() > 1e-3
