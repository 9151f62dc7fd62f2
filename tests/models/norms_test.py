import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.models import norms


def _reference(x, gamma, beta, epsilon=1e-5):
    """Float64 output, mean and biased variance, written from the paper."""
    x = np.asarray(x, np.float64)
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = ((x - mean) ** 2).mean(axes)
    y = gamma * (x - mean) / np.sqrt(variance + epsilon) + beta
    return y, mean, variance


def _images(shape=(8, 3, 2, 5), seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(np.float32)


def _randomize(layer, seed=1):
    """Gives every variable of a built layer a value of its own."""
    random = np.random.default_rng(seed)
    for variable in layer.variables:
        variable.assign(random.uniform(0.5, 2.0, variable.shape))


def _built(shape=(None, 3, 2, 5), **kwargs):
    layer = norms.BatchNorm(**kwargs)
    layer.build(shape)
    _randomize(layer)
    return layer


def _gradients(layer, x, weights, training=True):
    """Output, and gradients of sum(weights * y) towards x, gamma and beta."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        loss = tf.reduce_sum(tf.cast(y, weights.dtype) * weights)
    return y, *tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])


@pytest.mark.parametrize("shape", [(3, 4), (4, 6, 3), (3, 1, 1, 4), (4, 3, 2, 5)])
def test_training_matches_numpy_and_keras(shape):
    x = _images(shape)
    layer = _built(shape, momentum=0.8)
    stock = keras.layers.BatchNormalization(momentum=0.8, epsilon=1e-5)
    stock.build(shape)
    stock.set_weights(layer.get_weights())
    gamma, beta, moving_mean, moving_variance = layer.get_weights()
    weights = tf.constant(_images(shape, seed=2))

    ours = _gradients(layer, x, weights)
    theirs = _gradients(stock, x, weights)

    expected, mean, variance = _reference(x, gamma, beta)
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
    layer = _built((1, 4), center=False, scale=False)
    before = layer.moving_variance.numpy()
    y = layer(_images((1, 4)), training=True)
    np.testing.assert_array_equal(y, np.zeros((1, 4)))
    np.testing.assert_allclose(layer.moving_variance, 0.9 * before, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 4), (4, 3, 2, 5)])
def test_inference_uses_the_moving_moments(shape):
    x = _images(shape)
    layer = _built(shape)
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
    x = _images()
    layer = _built(center=center, scale=scale)
    gamma = layer.gamma.numpy() if scale else 1.0
    beta = layer.beta.numpy() if center else 0.0
    assert len(layer.trainable_variables) == center + scale
    expected, _, _ = _reference(x, gamma, beta)
    np.testing.assert_allclose(layer(x, training=True), expected, atol=1e-5)


def test_frozen_layer_is_in_inference_mode():
    x = _images()
    layer = _built()
    inference = layer(x, training=False)
    before = layer.get_weights()
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), inference)
    for old, new in zip(before, layer.get_weights()):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_float32_statistics(dtype):
    # 4,096 rows with mean 20: a float16 or bfloat16 sum would be off by percents.
    x = tf.cast(_images((4096, 4)) + 18, dtype)
    layer = _built((None, 4), dtype=f"mixed_{dtype}", momentum=0.0)
    gamma, beta = layer.get_weights()[:2]
    y = layer(x, training=True)
    assert y.dtype == dtype
    assert {v.dtype for v in layer.variables} == {"float32"}
    expected, mean, variance = _reference(tf.cast(x, tf.float32), gamma, beta)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-4)
    # Half a unit in the last place: 2**-11 or 2**-8 of the value; twice that here.
    step = {"float16": 2**-10, "bfloat16": 2**-7}[dtype]
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, rtol=step, atol=step)
    assert layer(x, training=False).dtype == dtype


def test_float64_policy_takes_the_exact_form():
    x = np.random.default_rng(0).normal(size=(6, 2, 2, 3))
    layer = _built((None, 2, 2, 3), dtype="float64")
    gamma, beta = layer.get_weights()[:2]
    expected, _, _ = _reference(x, gamma, beta)
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_xla_agrees(training):
    x, weights = _images(), tf.constant(_images(seed=2))
    plain, compiled = _built(), _built()
    expected = _gradients(plain, x, weights, training)
    step = tf.function(
        lambda x: _gradients(compiled, x, weights, training), jit_compile=True
    )
    for ours, theirs in zip(step(tf.constant(x)), expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(compiled.get_weights(), plain.get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def _on_replicas(strategy, statistics, x, weights, dtype=None, **kwargs):
    """Runs one training call on shards of `x`; per-replica results, stacked."""
    with strategy.scope():
        layer = _built(
            (None, *x.shape[1:]), statistics=statistics, dtype=dtype, **kwargs
        )
    count = strategy.num_replicas_in_sync
    x, weights = np.split(x, count), np.split(weights, count)

    @tf.function
    def step(x, weights):
        return strategy.run(
            lambda x, w: _gradients(layer, x, w), args=(x, tf.identity(weights))
        )

    def spread(shards):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(shards[context.replica_id_in_sync_group])
        )

    results = [
        [
            np.array(tf.cast(r, tf.float64))
            for r in strategy.experimental_local_results(v)
        ]
        for v in step(spread(x), spread(weights))
    ]
    copies = [
        [c.numpy() for c in strategy.experimental_local_results(v.value)]
        for v in layer.non_trainable_variables
    ]
    return results, copies


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("count", [2, 4])
def test_global_statistics_equal_one_replica(mirrored, count, dtype, tolerance):
    x = _images((8, 3, 2, 5)).astype(dtype)
    # Shards of unlike mean and spread, so that local statistics would fail.
    x *= np.linspace(0.2, 3, 8).reshape(8, 1, 1, 1).astype(dtype)
    x += np.linspace(-2, 2, 8).reshape(8, 1, 1, 1).astype(dtype)
    weights = _images(seed=2).astype(dtype)
    single = _built(dtype=dtype)
    y, dx, dgamma, dbeta = _gradients(single, x, tf.constant(weights))

    results, copies = _on_replicas(mirrored(count), "global", x, weights, dtype)

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
    x, weights = _images((8, 3, 2, 5)).astype(dtype), _images(seed=2).astype(dtype)
    x *= np.linspace(0.2, 3, 8).reshape(8, 1, 1, 1).astype(dtype)
    results, copies = _on_replicas(
        mirrored(4), "global", x, weights, dtype, replica_groups=2
    )
    means = []
    for group in (0, 1):  # Replicas 0 and 1, 2 and 3, of two images each.
        rows = slice(4 * group, 4 * group + 4)
        alone = _built(dtype=dtype)
        expected = _gradients(alone, x[rows], tf.constant(weights[rows]))
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
    x, weights = _images(), _images(seed=2)
    for groups in (2, 8):
        found = _on_replicas(mirrored(2), "global", x, weights, replica_groups=groups)
        local = _on_replicas(mirrored(2), "local", x, weights)
        tf.nest.map_structure(np.testing.assert_array_equal, found, local)


def test_replicas_that_do_not_divide_are_refused_when_the_layer_is_built(mirrored):
    with mirrored(4).scope():
        with pytest.raises(ValueError, match="replica_groups=3 .* with 4 replicas"):
            _built(statistics="global", replica_groups=3)


def test_global_statistics_in_half_precision(mirrored):
    x, weights = _images(), _images(seed=2)
    y, dx, *_ = _gradients(_built(), x, tf.constant(weights))
    results, _ = _on_replicas(mirrored(2), "global", x, weights, "mixed_bfloat16")
    np.testing.assert_allclose(np.concatenate(results[0]), y, atol=0.06)
    np.testing.assert_allclose(np.concatenate(results[1]), dx, atol=0.06)


def test_local_statistics_on_replicas(mirrored):
    x, weights = _images(), _images(seed=2)
    x[4:] = 5 * x[4:] + 1
    gamma, beta, moving_mean, moving_variance = _built().get_weights()
    results, (means, variances) = _on_replicas(mirrored(2), "local", x, weights)
    first, second = _reference(x[:4], gamma, beta), _reference(x[4:], gamma, beta)
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


def _members(statistics, size, count):
    """Group number of each of `count` rows, written from the docstring."""
    groups = max(count // size, 1)
    if statistics == "split":
        return [row * groups // count for row in range(count)]
    return [row % groups for row in range(count)]


def _group_reference(x, members, gamma, beta):
    """Each group normalized by itself; the mean of the groups' moments."""
    y, moments = np.zeros(x.shape), []
    for group in set(members):
        rows = [i for i, g in enumerate(members) if g == group]
        y[rows], *of_group = _reference(x[rows], gamma, beta)
        moments.append(of_group)
    return y, *np.mean(moments, axis=0)


@pytest.mark.parametrize("statistics", ["split", "shuffle"])
@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 2, 5), (7, 3, 2, 5), (3, 5)])
def test_groups_are_normalized_by_themselves(statistics, shape):
    x = _images(shape)
    layer = _built(shape, statistics=statistics, group_size=4)
    gamma, beta, moving_mean, moving_variance = layer.get_weights()
    members = _members(statistics, 4, len(x))
    expected, mean, variance = _group_reference(x, members, gamma, beta)
    weights = tf.constant(_images(shape, seed=2))
    y, dx, dgamma, dbeta = _gradients(layer, x, weights)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(
        layer.moving_mean, 0.9 * moving_mean + 0.1 * mean, rtol=1e-5
    )
    np.testing.assert_allclose(
        layer.moving_variance, 0.9 * moving_variance + 0.1 * variance, rtol=1e-5
    )
    # The gradient of a layer with local statistics, group by group.
    local = _built(shape)
    slow_dx, slow_gamma, slow_beta = np.zeros(shape), 0.0, 0.0
    for group in set(members):
        rows = [i for i, g in enumerate(members) if g == group]
        _, part, to_gamma, to_beta = _gradients(local, x[rows], weights.numpy()[rows])
        slow_dx[rows] = part
        slow_gamma, slow_beta = slow_gamma + to_gamma, slow_beta + to_beta
    np.testing.assert_allclose(dx, slow_dx, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(dgamma, slow_gamma, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dbeta, slow_beta, rtol=1e-4, atol=1e-4)


def test_split_and_shuffle_groups_meet_as_rarely_as_chance():
    split, shuffled = (_members(s, 32, 256) for s in ("split", "shuffle"))
    for row in range(256):
        met = [i for i in range(256) if split[i] == split[row]]
        again = [i for i in met if shuffled[i] == shuffled[row]]
        assert len(met) == 32
        assert len(again) == 32 // 8  # Mean of a random permutation: 32 * 32 / 256.


@pytest.mark.parametrize("statistics", ["split", "shuffle"])
@pytest.mark.parametrize("replicas", [2, 4])
def test_groups_do_not_depend_on_the_replicas(statistics, replicas, mirrored):
    x = _images((16, 3, 2, 5))
    weights = _images((16, 3, 2, 5), seed=2)
    alone = _built(x.shape, statistics=statistics, group_size=4)
    expected = _gradients(alone, x, tf.constant(weights))
    strategy = mirrored(replicas)
    with strategy.scope():
        layer = _built(x.shape, statistics=statistics, group_size=4)
    parts = strategy.experimental_distribute_values_from_function(
        lambda c: tf.constant(
            np.stack([x, weights], axis=1)[
                np.split(np.arange(16), replicas)[c.replica_id_in_sync_group]
            ]
        )
    )

    @tf.function
    def step(values):
        return strategy.run(
            lambda v: _gradients(layer, v[:, 0], v[:, 1]), args=(values,)
        )

    results = [strategy.experimental_local_results(r) for r in step(parts)]
    for i in (0, 1):  # Output and gradient of the rows.
        joined = np.concatenate(results[i])
        np.testing.assert_allclose(joined, expected[i], rtol=1e-4, atol=1e-4)
    for i in (2, 3):  # gamma and beta: each replica holds its part of the sum.
        np.testing.assert_allclose(sum(results[i]), expected[i], rtol=1e-4, atol=1e-4)
    for a, b in zip(alone.get_weights(), layer.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_without_a_group_size_split_is_local():
    x, weights = _images(), tf.constant(_images(seed=2))
    split = _gradients(_built(statistics="split"), x, weights)
    local = _gradients(_built(), x, weights)
    for a, b in zip(split, local):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_groups_keep_the_compute_dtype(policy):
    layer = norms.BatchNorm(statistics="shuffle", group_size=4, dtype=policy)
    y = layer(tf.cast(_images(), layer.compute_dtype), training=True)
    assert y.dtype == layer.compute_dtype
    expected, *_ = _group_reference(_images(), _members("shuffle", 4, 8), 1.0, 0.0)
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=0.03)


def test_shuffle_statistics_changes_what_can_leak():
    inputs = keras.Input((4, 4, 3))
    x = norms.BatchNorm(statistics="split", group_size=2)(inputs)
    x = norms.BatchNorm(statistics="global")(x)
    inner = keras.Sequential([keras.Input((4, 4, 3)), norms.BatchNorm()])
    model = keras.Model(inputs, inner(x))
    changed = norms.shuffle_statistics(model)
    assert [layer.statistics for layer in changed] == ["shuffle"] * 2
    assert [layer.group_size for layer in changed] == [2, None]
    assert model.layers[2].statistics == "global"


def test_group_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="group_size must be at least 1.*got 0"):
        norms.BatchNorm(statistics="split", group_size=0)
