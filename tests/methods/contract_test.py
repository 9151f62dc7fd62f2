"""What every method promises. A method joins by a line in `case_table.CASES`."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import cases_together
from tests.methods.case_table import BATCH, CASES, KINDS, SIZE, STEPS, VARIANTS
from tests.methods.cases import (
    TOLERANCE,
    as_written,
    assert_close,
    batches,
    give,
    make,
    named,
    rounded,
    state,
    train,
)
from tfssl import methods


class Plain:
    """A case that was trained on one device.

    Attributes:
        name, method: of the case. Tests share the method: each says where it begins.
        start: its state as it was made.
        logs, state: what `STEPS` steps came to.
        traces: list, an entry for each time that its training step was traced.
    """

    def __init__(self, name):
        self.name, self.method, self.traces = name, make(name), []
        losses = self.method.image_losses

        def counted(batch, training):
            if training and not tf.executing_eagerly():
                self.traces.append(name)
            return losses(batch, training)

        self.method.image_losses = counted
        self.start = state(self.method)
        self.logs = train(self.method, batches(name))
        self.state = state(self.method)

    def from_start(self):
        """The method as it was made."""
        return give(self.method, self.start)

    def trained(self):
        """The method as it was after these steps."""
        return give(self.method, self.state)


@pytest.fixture(scope="module")
def plain(request):
    """The `Plain` of a case; all tests of one follow each other."""
    return Plain(request.param)


def fast_for(*names):
    """All cases, of a slow test but for these."""
    return cases_together.fast_for("plain", names)


every_method = fast_for(*(name for name in CASES if name not in VARIANTS))


def test_every_method_has_a_case():
    assert {key for key, _ in CASES.values()} == set(KINDS)


@every_method
def test_every_learned_variable_gets_a_gradient_and_no_other_moves(plain):
    method = plain.from_start()
    batch = next(iter(batches(plain.name, 1).batch(BATCH)))
    variables = [v for v in method.variables if v.dtype == "float32"]
    with tf.GradientTape() as tape:
        losses = method.image_losses(batch, training=True)["loss"]
    gradients = tape.gradient(losses, [variable.value for variable in variables])
    learned = {id(v) for v in method.learned_variables}
    assert learned <= {id(v) for v in variables}
    for variable, gradient in zip(variables, gradients):
        if id(variable) not in learned:
            assert gradient is None, variable.path
            continue
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


@every_method
def test_networks_are_in_training_mode_in_a_step(plain):
    """Else batch norms would keep their statistics, and dropout would do nothing."""
    method = plain.trained()
    still = {id(v) for v in method.constants}
    moving = [
        name
        for name, variable in named(method).items()
        if "moving_" in name and id(variable) not in still
    ]
    for name in moving:
        assert np.any(plain.state[name] != plain.start[name]), name


@every_method
def test_loss_falls_on_a_repeated_batch(plain):
    name = plain.name
    method = make(name, optimizer=keras.optimizers.Adam(0.0))
    # Without learning first: a queue that fills with real keys raises the loss.
    first = train(method, batches(name, 1), steps=6)["loss"]
    first = train(method, batches(name, 1), steps=1)["loss"]
    method.optimizer.learning_rate = 5e-3
    train(method, batches(name, 1), steps=40)
    last = train(method, batches(name, 1), steps=1)["loss"]
    assert last < 0.8 * first, (first, last)


@every_method
def test_two_replicas_equal_one_device(plain, mirrored):
    _compare_replicas(plain, 2, mirrored)


# Two already meet all that replicas share.
@fast_for("simclr")
def test_four_replicas_equal_one_device(plain, mirrored):
    _compare_replicas(plain, 4, mirrored)


def _compare_replicas(plain, replicas, mirrored):
    name = plain.name
    strategy = mirrored(replicas)
    with strategy.scope():
        method = make(name)
    logs = train(method, batches(name), strategy=strategy)
    for key, value in plain.logs.items():
        assert logs[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key
    assert_close(plain.state, state(method))
    for variable in method.variables:
        copies = strategy.experimental_local_results(variable.value)
        for copy in copies[1:]:
            np.testing.assert_array_equal(copies[0], copy, err_msg=variable.path)
    assert int(method.step.numpy()) == STEPS
    assert int(method.position.numpy()) == STEPS * BATCH


# A loop of steps is one for all methods; these keep most from step to step.
@fast_for("simclr_memory", "swav", "cpc", "npid_nce", "deepcluster", "beit", "dvae")
def test_steps_per_execution_does_not_change_the_weights(plain):
    name = plain.name
    with as_written(name):
        train(plain.from_start(), batches(name, 8), steps=8)
        one = state(plain.method)
        eight = make(name, steps_per_execution=8)
        train(eight, batches(name, 8), steps=8)
    assert_close(one, state(eight), tolerance=0)
    # Where this fails, the case is at fault, and says nothing about its method.
    rounded(plain.from_start())
    train(plain.method, batches(name, 8), steps=8)
    assert_close(one, state(plain.method), tolerance=TOLERANCE / 2)


# These differ in what their replicas exchange.
@fast_for("simclr", "swav", "npid_nce", "deepcluster")
def test_steps_per_execution_of_replicas(plain, mirrored):
    name = plain.name
    train(plain.from_start(), batches(name, 8), steps=8)
    strategy = mirrored(2)
    with strategy.scope():
        both = make(name, steps_per_execution=4)
    train(both, batches(name, 8), steps=8, strategy=strategy)
    assert_close(state(plain.method), state(both))


@every_method
def test_xla_compiles_the_step_and_agrees(plain):
    compiled = make(plain.name, jit_compile=True)
    train(compiled, batches(plain.name))
    assert_close(plain.state, state(compiled), tolerance=1e-4)


@every_method
def test_bfloat16_is_finite_and_learns(plain):
    _train_in_half(plain, "mixed_bfloat16")


# The scaling of losses is one for all; these have the most to overflow with.
@fast_for("simclr", "moco_v3", "swav", "cpc", "npid_nce", "beit")
def test_float16_is_finite_and_learns(plain):
    _train_in_half(plain, "mixed_float16")


def _train_in_half(plain, policy):
    name = plain.name
    keras.config.set_dtype_policy(policy)
    try:
        method = make(name)
        before = state(method)
        logs = train(method, batches(name))
        after = state(method)
        flat_logs = train(give(method, before), batches(name, constant=0.0))
    finally:
        keras.config.set_dtype_policy("float32")
    assert logs["loss"] == pytest.approx(plain.logs["loss"], rel=0.05)
    assert np.isfinite(flat_logs["loss"])
    ids = {id(v) for v in method.learned_variables}
    learned = [name for name, v in named(method).items() if id(v) in ids]
    assert max(np.abs(after[path] - before[path]).max() for path in learned) > 1e-4
    of_names = dict(zip(after, plain.state.values()))  # Keras numbers them anew.
    length, expected_length = (
        np.linalg.norm(np.concatenate([found[path].ravel() for path in learned]))
        for found in (after, of_names)
    )
    assert length == pytest.approx(expected_length, rel=0.05)
    for variable in method.variables:
        assert np.isfinite(np.array(variable)).all(), variable.path


@every_method
def test_averages_of_the_optimizer_come_to_what_learns(plain):
    """As at the end of `fit`: Keras pairs them with `trainable_weights` in order."""
    method = plain.trained()
    optimizer = keras.optimizers.SGD(0.0, use_ema=True)
    optimizer.build(method.learned_variables)
    before = [np.array(v) for v in method.variables]
    optimizer.finalize_variable_values(method.trainable_weights)
    learned = {id(v) for v in method.learned_variables}
    for value, variable in zip(before, method.variables, strict=True):
        expected = 0 * value if id(variable) in learned else value
        np.testing.assert_array_equal(variable, expected, err_msg=variable.path)


@every_method
def test_config_round_trip(plain, tmp_path):
    method = plain.trained()
    path = str(tmp_path / "method.keras")
    method.save(path)
    loaded = keras.saving.load_model(path)
    assert isinstance(loaded, type(method))
    for key, value in CASES[plain.name][1].items():
        assert getattr(loaded, key) == value
    images = np.random.default_rng(0).uniform(size=(4, SIZE, SIZE, 3)).astype("float32")
    np.testing.assert_array_equal(method(images), loaded(images))
    np.testing.assert_array_equal(method.embed(images), loaded.embed(images))


@every_method
def test_step_is_traced_once(plain):
    train(plain.method, batches(plain.name, 3), steps=3)
    train(plain.method, batches(plain.name, 3), steps=3)
    assert len(plain.traces) == 1


@every_method
def test_evaluate_reports_the_loss_and_changes_nothing(plain):
    method = plain.trained()
    data = batches(plain.name, 2).batch(BATCH)
    first = method.evaluate(data, verbose=0, return_dict=True)
    second = method.evaluate(data, verbose=0, return_dict=True)
    assert first == second
    assert_close(plain.state, state(method), tolerance=0)


@every_method
def test_settings_of_a_method_are_the_arguments_of_its_constructor(plain):
    method = plain.method
    arguments = set(inspect.signature(type(method)).parameters) - {"encoder", "name"}
    assert set(method.settings) == arguments
    for key, value in method.settings.items():
        assert getattr(method, key) == value, key
        assert method.get_config()[key] == value, key


@every_method
def test_the_head_is_what_follows_the_encoder(plain):
    name, method = plain.name, plain.trained()
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
    np.testing.assert_array_equal(
        method.head(method.encoder(images)), method.embed(images)
    )
    learned = {id(v) for v in method.learned_variables}
    assert {id(v) for v in method.head.trainable_variables} <= learned


@every_method
def test_a_choice_bounds_the_mutual_information(plain):
    name, method = plain.name, plain.method
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
def test_epochs_part_only_where_a_method_acts_between_them(plain):
    acts = plain.name.startswith(("deepcluster", "local_aggregation"))
    assert plain.method.acts_between_epochs == acts


def test_a_subclassed_encoder_is_refused_with_what_makes_a_graph_of_it():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.pool = keras.layers.GlobalAveragePooling2D()
            self.dense = keras.layers.Dense(4)

        def call(self, images):
            return self.dense(self.pool(images))

    model, inputs = Own(), keras.Input((8, 8, 3))
    model(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match=r"\(Own\) is no graph .* wrap it: inputs = "):
        methods.SimCLR(model)
    assert methods.SimCLR(keras.Model(inputs, model(inputs))).feature_dim == 4
