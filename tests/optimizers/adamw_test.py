import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import optimizers


def _variables():
    values = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    return [keras.Variable(v, name=name) for v, name in zip(values, ("body", "head"))]


def _gradients(steps):
    values = np.random.default_rng(1).normal(size=(steps, 2, 3))
    return tf.constant(values, tf.float32)


def _train(optimizer, variables, gradients, strategy=None):
    strategy = strategy or tf.distribute.get_strategy()

    @tf.function
    def step(both):
        strategy.run(lambda: optimizer.apply(tf.unstack(both), variables))

    for both in gradients:
        step(both)
    return [v.numpy() for v in variables]


def test_without_a_restart_every_step_is_keras_s():
    found = []
    for made in (optimizers.AdamW, keras.optimizers.AdamW):
        variables = _variables()
        optimizer = made(0.1, weight_decay=0.3)
        optimizer.build(variables)
        found.append(_train(optimizer, variables, _gradients(20)))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_restarted_variable_moves_as_under_a_new_optimizer(
    scaled, replicas, mirrored
):
    strategy = mirrored(2) if replicas == 2 else tf.distribute.get_strategy()
    gradients = _gradients(60) / replicas  # Keras adds the replicas' up.
    with strategy.scope():
        body, head = _variables()
        optimizer = optimizers.AdamW(0.1, weight_decay=0.3)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, initial_scale=1.0, dynamic_growth_steps=1000
            )
        optimizer.build([body, head])
    _train(optimizer, [body, head], gradients[:50], strategy)
    again = head.numpy()
    optimizers.slots.reset(optimizer, [head])
    found = _train(optimizer, [body, head], gradients[50:], strategy)
    assert int(optimizer.iterations.numpy()) == 60

    plain, fresh = _variables()
    reference = keras.optimizers.AdamW(0.1, weight_decay=0.3)
    reference.build([plain, keras.Variable(fresh.numpy())])
    for one in gradients * replicas:
        reference.apply([one[0], tf.zeros(3)])
    fresh.assign(again)
    new = keras.optimizers.AdamW(0.1, weight_decay=0.3)
    new.build([fresh])
    for one in gradients[50:] * replicas:
        new.apply([one[1]])
    np.testing.assert_allclose(found[0], plain.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], fresh.numpy(), rtol=1e-5, atol=1e-6)


def test_the_start_is_part_of_the_state():
    variables = _variables()
    optimizer = optimizers.AdamW(0.1)
    optimizer.build(variables)
    _train(optimizer, variables, _gradients(5))
    optimizers.slots.reset(optimizer, variables[1:])
    (starts,) = [v for v in optimizer.variables if v.path.endswith("starts")]
    np.testing.assert_array_equal(starts, [0, 5])


def test_config_round_trip():
    optimizer = optimizers.AdamW(0.2, weight_decay=0.1, beta_2=0.95)
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is optimizers.AdamW
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_weight_decay_follows_its_schedule(replicas, mirrored):
    strategy = mirrored(2) if replicas == 2 else tf.distribute.get_strategy()
    schedule = optimizers.schedules.WarmupCosine(0.04, 0, 10, final=0.4)
    with strategy.scope():
        variables = _variables()
        optimizer = optimizers.build(
            "adamw",
            learning_rate=0.5,
            weight_decay=schedule,
            exclude_from_decay=("head",),
        )
        optimizer.build(variables)
    body, head = (v.numpy() for v in variables)
    zero = tf.zeros((12, 2, 3))  # Nothing but the decay moves a variable.
    for step in range(12):
        found = _train(optimizer, variables, zero[:1], strategy)
        share = min(step / 10, 1)
        decay = 0.4 + (0.04 - 0.4) * (1 + np.cos(np.pi * share)) / 2
        body = body * (1 - 0.5 * decay)
        np.testing.assert_allclose(found[0], body, rtol=1e-5)
        np.testing.assert_array_equal(found[1], head)
    assert float(optimizer.weight_decay) == pytest.approx(0.4)


def test_schedules_are_read_once_for_all_variables():
    read = []

    class Constant(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            read.append(self)
            return tf.constant(0.1)

    rate, decay = Constant(), Constant()
    variables = _variables()
    optimizer = optimizers.AdamW(rate, weight_decay=decay)
    optimizer.build(variables)
    read.clear()
    _train(optimizer, variables, _gradients(1))
    assert len(read) == 2 and set(read) == {rate, decay}


def test_a_scheduled_weight_decay_is_in_the_config():
    schedule = optimizers.schedules.WarmupCosine(0.04, 0, 10, final=0.4)
    optimizer = optimizers.AdamW(0.1, weight_decay=schedule)
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert float(again.weight_decay) == pytest.approx(0.04)
    assert again.get_config() == optimizer.get_config()
