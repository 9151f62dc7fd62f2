import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import optimizers

_NAMES = ("kernel", "bias", "gamma", "debias_proj")


def _start(seed=0):
    """Values of a kernel, a bias, a scale and a kernel whose path has "bias"."""
    random = np.random.default_rng(seed)
    shapes = {"kernel": (3, 4), "bias": (4,), "gamma": (4,), "debias_proj": (2, 2)}
    return {n: random.normal(size=shapes[n]).astype(np.float32) for n in _NAMES}


def _gradient(step, name, value):
    """Gradients that depend on step and value, in the precision of `value`."""
    random = np.random.default_rng(100 * step + _NAMES.index(name))
    target = random.normal(size=value.shape).astype(np.float32)
    return value - target.astype(value.dtype)


class _NumpyLARS:
    """Float64 LARS, from You et al. 2017 and the description of its two forms."""

    def __init__(self, rates, *, momentum, decay, trust, form, nesterov):
        self.rates, self.momentum, self.decay = rates, momentum, decay
        self.trust, self.form, self.nesterov = trust, form, nesterov
        self.slots = {}

    def ratio(self, w, g):
        sizes = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
        return self.trust * sizes[0] / sizes[1] if min(sizes) > 0 else 1.0

    def step(self, name, w, g, *, adapts, decays):
        m = self.slots.get(name, np.zeros_like(w))
        if decays:
            g = g + self.decay * w
        if self.form == "classic":
            scaled = self.rate * (self.ratio(w, g) if adapts else 1.0) * g
            m = self.momentum * m + scaled
            delta = self.momentum * m + scaled if self.nesterov else m
        elif self.form == "adapted":
            scaled = (self.ratio(w, g) if adapts else 1.0) * g
            m = self.momentum * m + scaled
            delta = self.rate * (self.momentum * m + scaled if self.nesterov else m)
        else:
            m = self.momentum * m + g
            d = self.momentum * m + g if self.nesterov else m
            delta = self.rate * (self.ratio(w, d) if adapts else 1.0) * d
        self.slots[name] = m
        return w - delta


def _variables(start):
    scope = {"kernel": "dense", "bias": "dense", "gamma": "norm"}
    variables = []
    for name, value in start.items():
        with keras.name_scope(scope.get(name, name)):
            variables.append(keras.Variable(value, name=name if name in scope else "w"))
    return variables


def _trajectory(optimizer, steps=10, compiled=None):
    start = _start()
    variables = _variables(start)
    optimizer.build(variables)

    def apply(grads):
        optimizer.apply(grads, variables)

    run = tf.function(apply, jit_compile=compiled) if compiled is not None else apply
    for step in range(steps):
        grads = [
            tf.constant(_gradient(step, name, variable.numpy()))
            for name, variable in zip(start, variables)
        ]
        run(grads)
    return {name: v.numpy() for name, v in zip(start, variables)}


def _reference_trajectory(reference, steps=10, adapted=(), decayed=()):
    values = {name: w.astype(np.float64) for name, w in _start().items()}
    for step in range(steps):
        for name, w in values.items():
            g = _gradient(step, name, w)
            reference.rate = reference.rates[step]
            values[name] = reference.step(
                name, w, g, adapts=name in adapted, decays=name in decayed
            )
    return values


@pytest.mark.parametrize("form", ["classic", "adapted", "popular"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_ten_steps_match_numpy(form, nesterov):
    settings = {"momentum": 0.9, "nesterov": nesterov}
    # A rate that changes tells the forms apart that put it in other places.
    rates = [0.5 / (1 + step) for step in range(10)]
    optimizer = optimizers.LARS(
        keras.optimizers.schedules.InverseTimeDecay(0.5, 1, 1.0),
        weight_decay=0.01,
        trust_coefficient=0.02,
        momentum_form=form,
        **settings,
    )
    # The default lists: bias and gamma out of both, "debias_proj" in both.
    expected = _reference_trajectory(
        _NumpyLARS(rates, decay=0.01, trust=0.02, form=form, **settings),
        adapted=("kernel", "debias_proj"),
        decayed=("kernel", "debias_proj"),
    )
    for name, value in _trajectory(optimizer).items():
        error = np.abs(value - expected[name]).max() / np.abs(expected[name]).max()
        assert error < 1e-6, name


def test_exclusion_lists_are_separate():
    optimizer = optimizers.LARS(
        0.3,
        weight_decay=0.1,
        trust_coefficient=0.02,
        exclude_from_adaptation=("kernel",),
        exclude_from_decay=("gamma", "w"),
    )
    expected = _reference_trajectory(
        _NumpyLARS(
            [0.3] * 10,
            momentum=0.9,
            decay=0.1,
            trust=0.02,
            form="classic",
            nesterov=False,
        ),
        adapted=("bias", "gamma", "debias_proj"),
        decayed=("kernel", "bias"),
    )
    for name, value in _trajectory(optimizer).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["classic", "adapted", "popular"])
def test_xla_agrees(form):
    def make():
        return optimizers.LARS(0.5, trust_coefficient=0.02, momentum_form=form)

    plain = _trajectory(make(), steps=5)
    for name, value in _trajectory(make(), steps=5, compiled=True).items():
        np.testing.assert_allclose(value, plain[name], rtol=1e-5, atol=1e-6)


def test_zero_norms_have_ratio_one():
    zero_weight = keras.Variable(np.zeros(3, np.float32), name="kernel")
    zero_gradient = keras.Variable(np.full(3, 2.0, np.float32), name="kernel")
    optimizer = optimizers.LARS(0.5, weight_decay=0.0, trust_coefficient=1e-3)
    optimizer.build([zero_weight, zero_gradient])
    optimizer.apply([tf.fill([3], 4.0), tf.zeros([3])])
    np.testing.assert_array_equal(zero_weight, np.full(3, -2.0))  # -0.5 * 1 * 4.
    np.testing.assert_array_equal(zero_gradient, np.full(3, 2.0))


def test_follows_a_schedule():
    schedule = optimizers.schedules.WarmupCosine(1.0, 2, 10)
    variable = keras.Variable(np.ones(1, np.float32), name="bias")
    optimizer = optimizers.LARS(schedule, momentum=0.0)
    optimizer.build([variable])
    for expected in (1.0, 0.5, -0.5):  # Rates 0, 1/2, 1 with gradient 1.
        optimizer.apply([tf.ones([1])])
        np.testing.assert_allclose(variable, [expected], atol=1e-6)


def test_rows_of_an_embedding():
    table = keras.Variable(np.ones((4, 2), np.float32), name="embeddings")
    optimizer = optimizers.LARS(1.0, weight_decay=0.0, trust_coefficient=1.0)
    optimizer.build([table])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table.value, [1, 1]))
    gradient = tape.gradient(loss, table.value)
    assert isinstance(gradient, tf.IndexedSlices)
    optimizer.apply([gradient])
    # Gradient 2 in row 1, norm sqrt(8) as the table's: the step is the gradient.
    np.testing.assert_allclose(table, [[1, 1], [-1, -1], [1, 1], [1, 1]], atol=1e-6)


def _model():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)]
    )
    random = np.random.default_rng(0)
    model.set_weights([random.normal(size=v.shape) for v in model.variables])
    return model


def test_config_and_keras_file_keep_everything(tmp_path):
    optimizer = optimizers.LARS(
        optimizers.schedules.WarmupCosine(0.5, 2, 20),
        momentum=0.8,
        weight_decay=1e-4,
        trust_coefficient=0.01,
        momentum_form="popular",
        nesterov=True,
        exclude_from_adaptation=("bias",),
        exclude_from_decay=("beta",),
        global_clipnorm=1.0,
    )
    config = keras.saving.serialize_keras_object(optimizer)
    assert keras.saving.deserialize_keras_object(config).get_config() == (
        optimizer.get_config()
    )
    model = _model()
    model.compile(optimizer, loss="mse")
    random = np.random.default_rng(1)
    x, y = random.normal(size=(8, 4)), random.normal(size=(8, 2))
    model.fit(x, y, epochs=3, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again.optimizer, optimizers.LARS)
    for ours, theirs in zip(again.optimizer.variables, optimizer.variables):
        np.testing.assert_array_equal(ours, theirs)
    assert any(np.abs(v.numpy()).max() > 0 for v in optimizer.momentums)
    for part in (model, again):
        part.fit(x, y, epochs=2, shuffle=False, verbose=0)
    for ours, theirs in zip(again.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_replicas_equal_one_device(mirrored):
    random = np.random.default_rng(1)
    x = random.normal(size=(8, 4)).astype(np.float32)

    def train(strategy):
        with strategy.scope():
            model = _model()
            optimizer = optimizers.LARS(0.5, trust_coefficient=0.02)
            optimizer.build(model.trainable_variables)
        count = strategy.num_replicas_in_sync
        shards = strategy.experimental_distribute_values_from_function(
            lambda c: tf.constant(np.split(x, count)[c.replica_id_in_sync_group])
        )

        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x))) / count
            variables = model.trainable_variables
            grads = tape.gradient(loss, [v.value for v in variables])
            optimizer.apply(grads, variables)

        run = tf.function(lambda: strategy.run(step, args=(shards,)))
        for _ in range(3):
            run()
        return [v.numpy() for v in [*model.variables, *optimizer.momentums]]

    one = train(tf.distribute.get_strategy())
    for ours, theirs in zip(train(mirrored(2)), one):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_loss_scaling_of_mixed_float16():
    plain = keras.Variable(np.ones(2, np.float32), name="kernel")
    scaled = keras.Variable(np.ones(2, np.float32), name="kernel")
    inner = optimizers.LARS(0.5, trust_coefficient=0.02)
    wrapper = keras.optimizers.LossScaleOptimizer(
        optimizers.LARS(0.5, trust_coefficient=0.02), initial_scale=1024.0
    )
    inner.build([plain])
    wrapper.build([scaled])
    gradient = tf.constant([1.0, 2.0])
    for _ in range(3):
        inner.apply([gradient])
        wrapper.apply([gradient * 1024.0])
    np.testing.assert_allclose(scaled, plain, rtol=1e-6)
    before = scaled.numpy()
    wrapper.apply([tf.constant([np.inf, 1.0])])  # Skipped, and the scale halves.
    np.testing.assert_array_equal(scaled, before)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"momentum": 1.0}, "momentum=1.0 received"),
        ({"weight_decay": -1e-4}, "weight_decay=-0.0001 received"),
        ({"trust_coefficient": 0}, "trust_coefficient=0 received"),
        ({"momentum_form": "nesterov"}, "momentum_form='nesterov' received"),
        ({"exclude_from_decay": "bias"}, "exclude_from_decay .* got 'bias'"),
        ({"exclude_from_adaptation": ["/a"]}, "exclude_from_adaptation .* got"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        optimizers.LARS(0.1, **kwargs)
