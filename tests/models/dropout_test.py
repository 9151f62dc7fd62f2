import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.models import dropout


def _model(seed=3):
    inputs = keras.Input((1000,))
    return keras.Model(inputs, dropout.Dropout(0.25, seed=seed, name="drop")(inputs))


def _train_steps(strategy, model, steps):
    """Masks `(steps, replicas, 2, 1000)` of rows of ones."""

    @tf.function
    def step():
        return strategy.run(lambda: model(tf.ones((2, 1000)), training=True))

    return np.array(
        [
            [x.numpy() for x in strategy.experimental_local_results(step())]
            for _ in range(steps)
        ]
    )


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_share_and_scale(dtype):
    layer = dropout.Dropout(0.25, seed=1, dtype=dtype)
    x = tf.ones((200, 1000), layer.compute_dtype)
    dropped = tf.cast(layer(x, training=True), tf.float32).numpy()
    kept = dropped > 0
    # 200,000 draws: the share's own deviation is 0.001.
    assert kept.mean() == pytest.approx(0.75, abs=0.005)
    np.testing.assert_allclose(dropped[kept], 4 / 3, rtol=0.005)
    assert layer(x, training=True).dtype == layer.compute_dtype
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(dropout.Dropout(0)(x, training=True), x)


def test_gradient_goes_where_the_units_went():
    layer = dropout.Dropout(0.5, seed=1)
    x = tf.ones((3, 100))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    np.testing.assert_array_equal(tape.gradient(y, x), y)


def test_replicas_and_steps_differ_and_a_run_repeats(mirrored):
    strategy = mirrored(2)
    with strategy.scope():
        models = [_model(), _model()]
    first = _train_steps(strategy, models[0], 3)
    again = _train_steps(strategy, models[1], 3)
    np.testing.assert_array_equal(first, again)
    masks = first.reshape(3 * 2 * 2, 1000) > 0
    # Independent masks agree in 0.75 ** 2 + 0.25 ** 2 = 0.625 of the units.
    alike = [(a == b).mean() for i, a in enumerate(masks) for b in masks[:i]]
    assert len(alike) == 66
    assert 0.55 < min(alike) and max(alike) < 0.7


def test_the_state_is_a_variable_from_which_a_run_continues(mirrored):
    strategy = mirrored(2)
    with strategy.scope():
        straight, resumed = _model(), _model(seed=99)
    (state,) = straight.variables
    assert state.path.endswith("seed_generator_state")
    _train_steps(strategy, straight, 2)
    values = state.numpy()
    np.testing.assert_array_equal(values, [3, 2])  # Seed and steps.
    for copy in strategy.experimental_local_results(state.value):
        np.testing.assert_array_equal(copy, values)
    resumed.variables[0].assign(values)
    np.testing.assert_array_equal(
        _train_steps(strategy, straight, 2), _train_steps(strategy, resumed, 2)
    )
    assert straight.trainable_variables == []


def test_xla_repeats_its_masks():
    """Not those without XLA, which has a random generator of its own."""
    x = tf.ones((2, 1000))
    first, again = (
        tf.function(lambda m=m: m(x, training=True), jit_compile=True)
        for m in (_model(), _model())
    )
    masks = [first().numpy(), first().numpy()]
    assert (masks[0] != masks[1]).mean() > 0.3
    assert (masks[0] > 0).mean() == pytest.approx(0.75, abs=0.04)
    for mask in masks:
        np.testing.assert_array_equal(again(), mask)


def test_global_seed_and_config():
    states = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        states.append(dropout.Dropout(0.5).seed_generator.state.numpy())
    np.testing.assert_array_equal(*states)
    layer = dropout.Dropout.from_config(dropout.Dropout(0.5, seed=4).get_config())
    assert (layer.rate, layer.seed) == (0.5, 4)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
        dropout.Dropout(1)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dropout,
        keras.layers.SpatialDropout1D,
        keras.layers.GaussianDropout,
        keras.layers.AlphaDropout,
        keras.layers.GaussianNoise,
    ],
)
def test_switched_off_no_unit_is_dropped(layer):
    shape = (4, 50) if layer is keras.layers.SpatialDropout1D else (50,)
    inner = keras.Sequential([keras.Input(shape), dropout.Dropout(0.5, seed=1)])
    inputs = keras.Input(shape)
    x = layer(0.5, seed=2)(inner(inputs))
    model = keras.Model(inputs, x)
    rows = tf.ones((3, *shape))
    assert np.abs(model(rows, training=True) - rows).max() > 0
    dropout.switch_off(model)
    np.testing.assert_array_equal(model(rows, training=True), rows)
