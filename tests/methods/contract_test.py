"""What every method promises. A method joins by a line in `case_table.CASES`."""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods.case_table import BATCH, CASES, KINDS, SIZE, STEPS, VARIANTS
from tests.methods.cases import (
    TOLERANCE,
    as_written,
    assert_close,
    batches,
    make,
    rounded,
    state,
    tiny_encoder,
    train,
)
from tfssl import internals, methods, optimizers
from tfssl.methods import base, one_view_bank


def _slow_where(slow, *values):
    return pytest.param(*values, marks=pytest.mark.slow if slow else ())


every_method = pytest.mark.parametrize(
    "name", [_slow_where(name in VARIANTS, name) for name in CASES]
)


@functools.cache
def plainly(name):
    """What training a case on one device comes to: its logs, and its state."""
    method = make(name)
    return train(method, batches(name)), state(method)


def test_every_method_has_a_case():
    assert {key for key, _ in CASES.values()} == set(KINDS)


@every_method
def test_every_learned_variable_gets_a_gradient_and_no_other_moves(name):
    method = make(name, optimizer=keras.optimizers.SGD(0.0))
    batch = next(iter(batches(name, 1).batch(BATCH)))
    with tf.GradientTape(persistent=True) as tape:
        losses = method.image_losses(batch, training=True)["loss"]
    learned = method.learned_variables
    for variable in learned:
        gradient = tape.gradient(losses, variable.value)
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path
    ids = {id(v) for v in learned}
    for variable in method.variables:
        if id(variable) not in ids and variable.dtype == "float32":
            assert tape.gradient(losses, variable.value) is None, variable.path


@every_method
def test_loss_falls_on_a_repeated_batch(name):
    method = make(name, optimizer=keras.optimizers.Adam(0.0))
    # Without learning first: a queue that fills with real keys raises the loss.
    first = train(method, batches(name, 1), steps=6)["loss"]
    first = train(method, batches(name, 1), steps=1)["loss"]
    method.optimizer.learning_rate = 5e-3
    train(method, batches(name, 1), steps=40)
    last = train(method, batches(name, 1), steps=1)["loss"]
    assert last < 0.8 * first, (first, last)


# Four replicas of every method take minutes; two already meet all that replicas share.
@pytest.mark.parametrize(
    "name, replicas",
    [_slow_where(name in VARIANTS, name, 2) for name in CASES]
    + [_slow_where(name not in ("simclr", "swav"), name, 4) for name in CASES],
)
def test_replicas_equal_one_device(name, replicas, mirrored):
    expected, alone = plainly(name)
    strategy = mirrored(replicas)
    with strategy.scope():
        method = make(name)
    logs = train(method, batches(name), strategy=strategy)
    for key, value in expected.items():
        assert logs[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key
    assert_close(alone, state(method))
    for variable in method.variables:
        copies = strategy.experimental_local_results(variable.value)
        for copy in copies[1:]:
            np.testing.assert_array_equal(copies[0], copy, err_msg=variable.path)
    assert int(method.step.numpy()) == STEPS
    assert int(method.position.numpy()) == STEPS * BATCH


@every_method
def test_steps_per_execution_does_not_change_the_weights(name, mirrored):
    with as_written(name):
        one = make(name)
        train(one, batches(name, 8), steps=8)
        eight = make(name, steps_per_execution=8)
        train(eight, batches(name, 8), steps=8)
        assert_close(state(one), state(eight), tolerance=0)
    strategy = mirrored(2)
    with strategy.scope():
        both = make(name, steps_per_execution=4)
    train(both, batches(name, 8), steps=8, strategy=strategy)
    assert_close(state(one), state(both))
    # Where this fails, the case is at fault, and says nothing about its method.
    other = make(name)
    rounded(other)
    train(other, batches(name, 8), steps=8)
    assert_close(state(one), state(other), tolerance=TOLERANCE / 2)


@every_method
def test_xla_compiles_the_step_and_agrees(name):
    _, plain = plainly(name)
    compiled = make(name, jit_compile=True)
    train(compiled, batches(name))
    assert_close(plain, state(compiled), tolerance=1e-4)


@every_method
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_finite_and_learns(name, policy):
    expected, reference = plainly(name)
    keras.config.set_dtype_policy(policy)
    try:
        method = make(name)
        before = state(method)
        logs = train(method, batches(name))
        after = state(method)
        flat = make(name)
        flat_logs = train(flat, batches(name, constant=0.0))
    finally:
        keras.config.set_dtype_policy("float32")
    assert logs["loss"] == pytest.approx(expected["loss"], rel=0.05)
    assert np.isfinite(flat_logs["loss"])
    learned = [v.path for v in method.learned_variables]
    assert max(np.abs(after[path] - before[path]).max() for path in learned) > 1e-4
    of_names = dict(zip(after, reference.values()))  # Keras numbers them anew.
    length, expected_length = (
        np.linalg.norm(np.concatenate([found[path].ravel() for path in learned]))
        for found in (after, of_names)
    )
    assert length == pytest.approx(expected_length, rel=0.05)
    for variable in flat.variables:
        assert np.isfinite(np.array(variable)).all(), variable.path


@every_method
def test_config_round_trip(name, tmp_path):
    method = make(name)
    train(method, batches(name, 1), steps=1)
    path = str(tmp_path / "method.keras")
    method.save(path)
    loaded = keras.saving.load_model(path)
    assert isinstance(loaded, type(method))
    for key, value in CASES[name][1].items():
        assert getattr(loaded, key) == value
    images = np.random.default_rng(0).uniform(size=(4, SIZE, SIZE, 3)).astype("float32")
    np.testing.assert_array_equal(method(images), loaded(images))
    np.testing.assert_array_equal(method.embed(images), loaded.embed(images))


@every_method
def test_step_is_traced_once(name):
    method = make(name)
    traces = []
    original = method.image_losses

    def counted(batch, training):
        traces.append(training)
        return original(batch, training)

    method.image_losses = counted
    method.make_train_function(force=True)
    train(method, batches(name, 3), steps=3)
    train(method, batches(name, 3), steps=3)
    assert len(traces) == 1


@every_method
def test_evaluate_reports_the_loss_and_changes_nothing(name):
    method = make(name)
    train(method, batches(name, 1), steps=1)
    before = state(method)
    data = batches(name, 2).batch(BATCH)
    first = method.evaluate(data, verbose=0, return_dict=True)
    second = method.evaluate(data, verbose=0, return_dict=True)
    assert first == second
    assert_close(before, state(method), tolerance=0)


def test_penalties_of_the_encoder_count_once(mirrored):
    """L2 of a kernel adds its gradient once, whatever the number of replicas."""

    def build(strength):
        inputs = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.GlobalAveragePooling2D()(inputs)
        regularizer = keras.regularizers.L2(strength) if strength else None
        x = keras.layers.Dense(8, kernel_regularizer=regularizer)(x)
        return keras.Model(inputs, x)

    kernels = {}
    for strength, replicas in ((0.0, 1), (0.1, 1), (0.1, 2)):
        strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
        with strategy.scope():
            keras.utils.set_random_seed(1)
            method = methods.SimCLR(build(strength), projection_dim=4)
            method.compile(keras.optimizers.SGD(0.1))
            start = np.array(method.encoder.trainable_variables[0])
        train(method, batches("simclr", 1), steps=1, strategy=strategy)
        kernels[strength, replicas] = np.array(method.encoder.trainable_variables[0])
    # SGD: the penalty 0.1 * |w|^2 moves w by -0.1 * 0.2 * w.
    difference = kernels[0.1, 1] - kernels[0.0, 1]
    np.testing.assert_allclose(difference, -0.02 * start, atol=1e-5)
    np.testing.assert_allclose(kernels[0.1, 2], kernels[0.1, 1], atol=1e-5)


class Teacher(keras.layers.Layer):
    """A layer of nobody's but this test's, which says that it follows."""

    follower = True

    def __init__(self, network):
        super().__init__()
        self.network = network

    def call(self, images):
        return self.network(images, training=True)


class Taught(base.Method):
    """Learns the features of a teacher, whose variables are trainable to Keras."""

    num_views = 1

    def __init__(self, encoder, teacher, *, strength=1.0, name=None):
        super().__init__(encoder, name=name, strength=strength)
        self.teacher = Teacher(teacher)

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)

    def image_losses(self, batch, training):
        (view,) = self.views(batch)
        error = self.encoder(view, training=training) - self.teacher(view)
        return {"loss": self.strength * tf.reduce_mean(tf.square(error), axis=1)}


def test_a_layer_says_itself_that_it_follows():
    method = Taught(tiny_encoder(), tiny_encoder())
    learned = method.learned_variables
    assert method.followers == [method.teacher]
    assert [id(v) for v in learned] == [id(v) for v in method.encoder.trainable_weights]
    method.compile(optimizers.build("sgd", learning_rate=0.1, weight_decay=0.5))
    before = [np.array(v) for v in method.teacher.trainable_weights]
    student = [np.array(v) for v in learned]
    train(method, batches("deepcluster", 2), steps=2)
    for old, variable in zip(before, method.teacher.trainable_weights):
        np.testing.assert_array_equal(old, variable)
    for old, variable in zip(student, learned):
        assert np.abs(old - variable).max() > 0
    optimized = internals.trained_variables(method.optimizer)
    assert {id(v) for v in optimized} == {id(v) for v in learned}


def test_settings_are_set_and_returned_as_they_were_given():
    method = Taught(tiny_encoder(), tiny_encoder(), strength=0.5)
    assert method.strength == 0.5 and method.settings == {"strength": 0.5}
    assert method.get_config()["strength"] == 0.5


@every_method
def test_settings_of_a_method_are_the_arguments_of_its_constructor(name):
    method = make(name)
    arguments = set(inspect.signature(type(method)).parameters) - {"encoder", "name"}
    assert set(method.settings) == arguments
    for key, value in method.settings.items():
        assert getattr(method, key) == value, key
        assert method.get_config()[key] == value, key


def test_a_config_of_before_norm_statistics_is_read():
    config = methods.SimCLR(tiny_encoder()).get_config() | {"batch_norm": "local"}
    del config["norm_statistics"]
    again = methods.SimCLR.from_config(config)
    assert again.norm_statistics == "local"
    assert again.projector.layers[1].statistics == "local"


@every_method
def test_the_head_is_what_follows_the_encoder(name):
    method = make(name)
    # A classifier that starts anew in every clustering, one of a task of its own, what
    # follows maps, tokens or a grid.
    others = (
        "beit",
        "cpc",
        "deepcluster",
        "dvae",
        "feature_distillation_map",
        "segmentation",
    )
    if name in others or name.startswith(("predictive", "pretext")):
        assert method.head is None
        return
    images = np.random.default_rng(0).uniform(size=(4, SIZE, SIZE, 3)).astype("float32")
    train(method, batches(name, 1), steps=1)
    np.testing.assert_array_equal(
        method.head(method.encoder(images)), method.embed(images)
    )
    learned = {id(v) for v in method.learned_variables}
    assert {id(v) for v in method.head.trainable_variables} <= learned


@every_method
def test_a_choice_bounds_the_mutual_information(name):
    method = make(name)
    chooses = (
        "cmc",
        "cpc",
        "moco",
        "npid_softmax",
        "npid_whole",
        "pirl_both",
        "simclr",
    )
    assert method.chooses == (name.startswith(chooses) and name != "cmc_nce")
    if not method.chooses:
        assert method.mutual_information(1.0, BATCH) is None
        return
    chance, most = method.chance_loss(BATCH), np.log(method.num_negatives(BATCH) + 1)
    for loss, expected in ((chance, 0), (0.0, most), (chance / 4, 0.75 * most)):
        found = method.mutual_information(loss, BATCH)
        assert found == pytest.approx(expected, abs=1e-6)


@every_method
def test_epochs_part_only_where_a_method_acts_between_them(name):
    acts = name.startswith(("deepcluster", "local_aggregation"))
    assert make(name).acts_between_epochs == acts


def test_clear_errors(mirrored):
    with pytest.raises(ValueError, match=r"output shape is .*pooling"):
        inputs = keras.Input((8, 8, 3))
        methods.SimCLR(keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs)))
    with pytest.raises(ValueError, match="not a built Keras model"):
        methods.SimCLR(keras.Sequential([keras.layers.Flatten()]))
    with pytest.raises(ValueError, match="temperature=0 received"):
        methods.SimCLR(tiny_encoder(), temperature=0)
    with pytest.raises(ValueError, match="projection_layers=0"):
        methods.SimCLR(tiny_encoder(), projection_layers=0)
    method = make("simclr")
    with pytest.raises(ValueError, match="brings its own loss"):
        method.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="gradient_accumulation_steps=2"):
        method.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    with mirrored(2).scope():
        method = methods.SimCLR(tiny_encoder())
        with pytest.raises(ValueError, match="run_eagerly=True received with 2"):
            method.compile("sgd", run_eagerly=True)


def test_xla_by_itself_is_for_gpus(monkeypatch, mirrored):
    assert not make("simclr").jit_compile
    monkeypatch.setattr(base.replicas, "kind_of_devices", lambda strategy: "GPU")
    assert make("simclr").jit_compile
    assert not make("simclr", jit_compile=False).jit_compile
    assert not make("simclr", run_eagerly=True).jit_compile
    method = make("simclr")
    method.encoder.layers[1].supports_jit = False
    method.compile("sgd")
    assert not method.jit_compile
    with pytest.raises(ValueError, match="jit_compile='on' received, expected True"):
        method.compile("sgd", jit_compile="on")


def test_base_is_no_method_by_itself():
    assert issubclass(methods.SimCLR, base.Method)
    # The one that two methods are made of is none either.
    bases = (base.Method, one_view_bank.OneViewBank)
    assert one_view_bank.OneViewBank.__bases__ == (base.Method,)
    assert not set(bases) & set(methods.METHODS.values())
    assert all(m.__bases__ in [(b,) for b in bases] for m in methods.METHODS.values())


def test_a_method_of_ones_own_has_no_head_until_it_says_so():
    assert Taught(tiny_encoder(), tiny_encoder()).head is None
