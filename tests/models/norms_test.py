import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.batch_norms import built, gradients, images, on_replicas, reference
from tfssl import models
from tfssl.models import norms


@pytest.mark.parametrize("shape", [(3, 4), (4, 6, 3), (3, 1, 1, 4), (4, 3, 2, 5)])
def test_training_matches_numpy_and_keras(shape):
    x = images(shape)
    layer = built(shape, momentum=0.8)
    stock = keras.layers.BatchNormalization(momentum=0.8, epsilon=1e-5)
    stock.build(shape)
    stock.set_weights(layer.get_weights())
    gamma, beta, moving_mean, moving_variance = layer.get_weights()
    weights = tf.constant(images(shape, seed=2))

    ours = gradients(layer, x, weights)
    theirs = gradients(stock, x, weights)

    expected, mean, variance = reference(x, gamma, beta)
    np.testing.assert_allclose(ours[0], expected, atol=1e-5)
    for our, their in zip(ours, theirs):
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-4)
    # A batch of few rows: the unbiased variance would be off by n / (n - 1).
    np.testing.assert_allclose(
        layer.moving_mean, 0.8 * moving_mean + 0.2 * mean, rtol=1e-5
    )
    np.testing.assert_allclose(
        layer.moving_variance, 0.8 * moving_variance + 0.2 * variance, rtol=1e-5
    )


def test_one_row_has_variance_zero():
    layer = built((1, 4), center=False, scale=False)
    before = layer.moving_variance.numpy()
    y = layer(images((1, 4)), training=True)
    np.testing.assert_array_equal(y, np.zeros((1, 4)))
    np.testing.assert_allclose(layer.moving_variance, 0.9 * before, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 4), (4, 3, 2, 5)])
def test_inference_uses_the_moving_moments(shape):
    x = images(shape)
    layer = built(shape)
    gamma, beta, mean, variance = layer.get_weights()
    expected = gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)
    for before, after in zip((gamma, beta, mean, variance), layer.get_weights()):
        np.testing.assert_array_equal(before, after)
    empty = layer(x[:0])
    assert empty.shape == (0, *shape[1:])


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_center_and_scale(center, scale):
    x = images()
    layer = built(center=center, scale=scale)
    gamma = layer.gamma.numpy() if scale else 1.0
    beta = layer.beta.numpy() if center else 0.0
    assert len(layer.trainable_variables) == center + scale
    expected, _, _ = reference(x, gamma, beta)
    np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-5)


def test_frozen_layer_is_in_inference_mode():
    x = images()
    layer = built()
    inference = layer(x, training=False)
    before = layer.get_weights()
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), inference)
    for old, new in zip(before, layer.get_weights()):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_float32_statistics(dtype):
    # 4,096 rows with mean 20: a float16 or bfloat16 sum would be off by percents.
    x = tf.cast(images((4096, 4)) + 18, dtype)
    layer = built((None, 4), dtype=f"mixed_{dtype}", momentum=0.0)
    gamma, beta = layer.get_weights()[:2]
    y = layer(x, training=True)
    assert y.dtype == dtype
    assert {v.dtype for v in layer.variables} == {"float32"}
    expected, mean, variance = reference(tf.cast(x, tf.float32), gamma, beta)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-4)
    # Half a unit in the last place: 2**-11 or 2**-8 of the value; twice that here.
    step = {"float16": 2**-10, "bfloat16": 2**-7}[dtype]
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, rtol=step, atol=step)
    assert layer(x, training=False).dtype == dtype


def test_float64_policy_takes_the_exact_form():
    x = np.random.default_rng(0).normal(size=(6, 2, 2, 3))
    layer = built((None, 2, 2, 3), dtype="float64")
    gamma, beta = layer.get_weights()[:2]
    expected, _, _ = reference(x, gamma, beta)
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_xla_agrees(training):
    x, weights = images(), tf.constant(images(seed=2))
    plain, compiled = built(), built()
    expected = gradients(plain, x, weights, training)
    step = tf.function(
        lambda x: gradients(compiled, x, weights, training), jit_compile=True
    )
    for ours, theirs in zip(step(tf.constant(x)), expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(compiled.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("count", [2, 4])
def test_global_statistics_equal_one_replica(mirrored, count, dtype, tolerance):
    x = images((8, 3, 2, 5)).astype(dtype)
    # Shards of unlike mean and spread, so that local statistics would fail.
    x *= np.linspace(0.2, 3, 8).reshape(8, 1, 1, 1).astype(dtype)
    x += np.linspace(-2, 2, 8).reshape(8, 1, 1, 1).astype(dtype)
    weights = images(seed=2).astype(dtype)
    single = built(dtype=dtype)
    y, dx, dgamma, dbeta = gradients(single, x, tf.constant(weights))

    results, copies = on_replicas(mirrored(count), "global", x, weights, dtype)

    np.testing.assert_allclose(np.concatenate(results[0]), y, atol=tolerance)
    np.testing.assert_allclose(np.concatenate(results[1]), dx, atol=tolerance)
    # The optimizer sums the gradients of the replicas.
    np.testing.assert_allclose(sum(results[2]), dgamma, rtol=tolerance, atol=1e-4)
    np.testing.assert_allclose(sum(results[3]), dbeta, rtol=tolerance, atol=1e-4)
    for values, expected in zip(copies, single.get_weights()[2:]):
        for value in values:
            np.testing.assert_array_equal(value, values[0])
            np.testing.assert_allclose(value, expected, rtol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-12)])
def test_groups_of_replicas_are_as_many_runs_with_global_statistics(
    mirrored, dtype, tolerance
):
    x, weights = images((8, 3, 2, 5)).astype(dtype), images(seed=2).astype(dtype)
    x *= np.linspace(0.2, 3, 8).reshape(8, 1, 1, 1).astype(dtype)
    results, copies = on_replicas(
        mirrored(4), "global", x, weights, dtype, replica_groups=2
    )
    means = []
    for group in (0, 1):  # Replicas 0 and 1, 2 and 3, of two images each.
        rows = slice(4 * group, 4 * group + 4)
        alone = built(dtype=dtype)
        expected = gradients(alone, x[rows], tf.constant(weights[rows]))
        for made, value in zip(results[:2], expected):
            found = np.concatenate(made)[rows]
            np.testing.assert_allclose(found, value, atol=tolerance)
        for made, value in zip(results[2:], expected[2:]):
            found = sum(made[2 * group : 2 * group + 2])
            np.testing.assert_allclose(found, value, rtol=tolerance, atol=1e-4)
        means.append(alone.get_weights()[2:])
    for values, expected in zip(copies, np.mean(means, axis=0)):
        for value in values:  # The mean of both groups, the same bits on all.
            np.testing.assert_array_equal(value, values[0])
            np.testing.assert_allclose(value, expected, rtol=tolerance)


def test_as_many_groups_as_replicas_are_local_statistics(mirrored):
    x, weights = images(), images(seed=2)
    for groups in (2, 8):
        found = on_replicas(mirrored(2), "global", x, weights, replica_groups=groups)
        local = on_replicas(mirrored(2), "local", x, weights)
        tf.nest.map_structure(np.testing.assert_array_equal, found, local)


def test_replicas_that_do_not_divide_are_refused_when_the_layer_is_built(mirrored):
    with mirrored(4).scope():
        with pytest.raises(ValueError, match="replica_groups=3 .* with 4 replicas"):
            built(statistics="global", replica_groups=3)


def test_global_statistics_in_half_precision(mirrored):
    x, weights = images(), images(seed=2)
    y, dx, *_ = gradients(built(), x, tf.constant(weights))
    results, _ = on_replicas(mirrored(2), "global", x, weights, "mixed_bfloat16")
    np.testing.assert_allclose(np.concatenate(results[0]), y, atol=0.06)
    np.testing.assert_allclose(np.concatenate(results[1]), dx, atol=0.06)


def test_local_statistics_on_replicas(mirrored):
    x, weights = images(), images(seed=2)
    x[4:] = 5 * x[4:] + 1
    gamma, beta, moving_mean, moving_variance = built().get_weights()
    results, (means, variances) = on_replicas(mirrored(2), "local", x, weights)
    first, second = reference(x[:4], gamma, beta), reference(x[4:], gamma, beta)
    np.testing.assert_allclose(results[0][0], first[0], atol=1e-5)
    np.testing.assert_allclose(results[0][1], second[0], atol=1e-5)
    # Moving moments: the mean over the replicas, the same bits on both.
    np.testing.assert_array_equal(means[0], means[1])
    np.testing.assert_array_equal(variances[0], variances[1])
    np.testing.assert_allclose(
        means[0], 0.9 * moving_mean + 0.05 * (first[1] + second[1]), rtol=1e-5
    )
    np.testing.assert_allclose(
        variances[0], 0.9 * moving_variance + 0.05 * (first[2] + second[2]), rtol=1e-5
    )


def test_functional_model_is_built_in_cross_replica_context(mirrored):
    with mirrored(2).scope():
        inputs = keras.Input((4,))
        outputs = norms.BatchNorm(statistics="global")(inputs, training=True)
        model = keras.Model(inputs, outputs)
    assert model.output_shape == (None, 4)


def test_config_round_trip():
    layer = norms.BatchNorm(
        momentum=0.7,
        epsilon=1e-3,
        statistics="global",
        center=False,
        gamma_initializer="zeros",
        dtype="mixed_float16",
        name="norm",
    )
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, norms.BatchNorm)
    assert again.get_config() == layer.get_config()
    again.build((None, 3))
    np.testing.assert_array_equal(again.gamma, np.zeros(3))
    assert again.beta is None


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"momentum": 1.5}, "momentum must be in .* got 1.5"),
        ({"epsilon": 0.0}, "epsilon .* got 0.0"),
        ({"statistics": "sync"}, "statistics must be one of .* got 'sync'"),
        ({"replica_groups": 0}, "replica_groups must be at least 1, got 0"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        norms.BatchNorm(**kwargs)


@pytest.mark.parametrize("shape", [(4,), (None, 3, None)])
def test_bad_input_shape(shape):
    with pytest.raises(ValueError, match="known channels, got shape"):
        norms.BatchNorm().build(shape)


@pytest.mark.parametrize("kind, axes", [("layer", (3,)), ("layer_map", (1, 2, 3))])
def test_norms_of_layers_are_of_one_image(kind, axes):
    layer = norms.maker(kind, keras.dtype_policies.get("float32"))("first", "zeros")
    x = np.random.default_rng(0).normal(2.0, 3.0, (4, 5, 6, 8)).astype("float32")
    assert not layer(x).numpy().any()
    gamma, beta = np.arange(8.0), np.arange(8.0)[::-1]
    layer.set_weights([gamma, beta])
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    expected = (x - mean) / np.sqrt(var + 1e-5) * gamma + beta
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-4, atol=1e-4)
    assert layer.name == "first_ln"


@pytest.mark.parametrize("kind", ["layer", "layer_map"])
def test_a_network_of_layer_norms_shares_nothing_between_images(kind):
    network = models.resnet(18, width=1 / 16, input_shape=(16, 16, 3), norm=kind)
    x = np.random.default_rng(0).uniform(size=(6, 16, 16, 3)).astype("float32")
    both = network(x, training=True)
    np.testing.assert_allclose(network(x[:2], training=True), both[:2], atol=1e-5)
    assert not network.non_trainable_variables
    again = type(network).from_config(network.get_config())
    again.set_weights(network.get_weights())
    np.testing.assert_array_equal(network(x), again(x))


def test_a_config_says_itself_what_its_norm_is():
    config = {"norm": "batch", "norm_statistics": "global"}
    assert norms.renamed(config) == config
    assert norms.renamed({"norm": "batch_global"}) == {"norm_statistics": "global"}


def test_statistics_of_a_batch_are_refused_where_none_are_taken():
    with pytest.raises(ValueError, match="norm_statistics='global' received with norm"):
        models.resnet(18, norm="layer", norm_statistics="global")
    with pytest.raises(ValueError, match="norm must be one of"):
        models.resnet(18, norm="group")
