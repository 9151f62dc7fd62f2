"""What a new Keras or TensorFlow has changed of what `tfssl.internals` takes.

Each test fails with a sentence that names what is gone and who needs it.
"""

import gc
import os
import subprocess
import sys
import threading
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import checks, internals

_VERSIONS = f"Keras {keras.__version__}, TensorFlow {tf.__version__}"


def _changed(what, needed_by):
    return f"{_VERSIONS}: {what} has changed; {needed_by} need it."


def test_layers_inside_of_layers_are_found():
    shared = keras.layers.Dense(2, name="shared")
    inner = keras.Sequential([keras.Input((2,)), shared], name="inner")
    image = keras.Input((2,))
    outer = keras.Model(image, shared(inner(image)), name="outer")

    class Whole(keras.Model):
        def __init__(self):
            super().__init__(name="whole")
            self.parts = [outer]
            self.again = inner

    found = [
        layer.name
        for layer in internals.layers_of(Whole())
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    told = _changed(
        "Layer._flatten_layers",
        "target networks, MoCo's shuffled norms and its warning of leaks",
    )
    assert found[0] == "whole", told
    assert sorted(found) == ["inner", "outer", "shared", "whole"], told


def test_a_keras_tensor_knows_what_it_was_made_of():
    image = keras.Input((2,))
    layer = keras.layers.Dense(2)
    first = layer(image)
    added = keras.layers.Add()([first, layer(first)])
    told = _changed(
        "KerasTensor._keras_history", "stretches of a network between its norms"
    )
    _, (left, right) = internals.made_of(added)
    assert left is first, told
    made_by, sources = internals.made_of(right)
    assert made_by is layer and len(sources) == 1 and sources[0] is first, told
    assert internals.made_of(image)[1] == [], told


@pytest.mark.parametrize("scaled", [False, True])
def test_an_optimizer_knows_its_variables_in_order(scaled):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    told = _changed(
        "Optimizer._trainable_variables", "restarts of a classifier's slots"
    )
    variables = [keras.Variable(np.ones(2), name=name) for name in "abc"]
    optimizer.build(variables)
    found = internals.trained_variables(optimizer)
    assert [v.path for v in found] == ["a", "b", "c"], told
    found.clear()
    assert len(internals.trained_variables(optimizer)) == 3


def test_an_optimizer_tells_its_rate_as_it_was_given():
    told = _changed("Optimizer._learning_rate", "optimizers that are made anew")
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    assert internals.learning_rate(keras.optimizers.SGD(schedule)) is schedule, told
    rate = internals.learning_rate(keras.optimizers.SGD(0.5))
    assert isinstance(rate, keras.Variable) and float(rate) == 0.5, told


def test_a_variable_has_an_index_also_inside_of_an_update():
    """`update_step` may meet Keras's variable or TensorFlow's."""
    told = _changed(
        "Optimizer._get_variable_index", "the slots of SGD, LARS, LARC, AdamW"
    )
    met = []

    class Optimizer(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            met.append((variable.shape[0], internals.variable_index(self, variable)))

    optimizer = Optimizer(0.1)
    variables = [keras.Variable(np.ones(size)) for size in (1, 2, 3)]
    optimizer.build(variables)
    assert [internals.variable_index(optimizer, v) for v in variables] == [0, 1, 2], (
        told
    )
    optimizer.apply([tf.ones(size) for size in (1, 2, 3)])
    assert met == [(1, 0), (2, 1), (3, 2)], told


def test_all_updates_of_a_step_are_one_call():
    told = _changed(
        "TFOptimizer._distributed_tf_update_step", "updates that XLA compiles together"
    )
    met = []

    class Optimizer(internals.UpdatedTogether, keras.optimizers.SGD):
        def update_all(self, gradients, variables, learning_rate):
            pairs = zip(gradients, variables, strict=True)
            met.append(([g.shape == v.shape for g, v in pairs], float(learning_rate)))

    variables = [keras.Variable(np.ones(size)) for size in (1, 2, 3)]
    Optimizer(0.5).apply([tf.ones(size) for size in (1, 2, 3)], variables)
    assert met == [([True] * 3, 0.5)], told


def test_gradients_are_clipped_once_inside_of_the_update():
    told = _changed("BaseOptimizer._clip_gradients", "clipping of several replicas")
    asked, met = [], []

    class Clipping(keras.optimizers.SGD):
        def _clip_gradients(self, gradients):
            asked.append(len(gradients))
            return super()._clip_gradients(gradients)

    class Optimizer(internals.UpdatedTogether, Clipping):
        def update_all(self, gradients, variables, learning_rate):
            met.extend(gradient.numpy() for gradient in gradients)

    Optimizer(0.5, clipnorm=1.0).apply(
        [tf.constant([3.0, 4.0])], [keras.Variable([0.0, 0.0])]
    )
    assert asked == [1], told
    np.testing.assert_allclose(met, [[0.6, 0.8]], rtol=1e-6, err_msg=told)


def _order(global_seed, *, pinned):
    tf.random.set_seed(global_seed)

    def shuffled(_):
        if pinned:
            internals.pin_graph_seed()
        return tf.data.Dataset.range(20).shuffle(20, seed=3)

    return list(tf.data.Dataset.range(1).flat_map(shuffled).as_numpy_iterator())


def test_a_pinned_graph_does_not_see_the_global_seed():
    told = _changed("the seed of a dataset's graph", "the order of streamed images")
    try:
        assert _order(1, pinned=True) == _order(2, pinned=True), told
        assert _order(None, pinned=True) == _order(2, pinned=True), told
        still = _changed(
            "Dataset.shuffle's seed", "no pin_graph_seed any more: nothing"
        )
        assert _order(1, pinned=False) != _order(2, pinned=False), still
    finally:
        tf.random.set_seed(None)


def test_fit_asks_a_model_to_build_before_it_draws_a_batch():
    told = _changed("Trainer._maybe_symbolic_build", "methods on several workers")
    events = []

    class Model(internals.BuiltBeforehand, keras.Model):
        def __init__(self):
            super().__init__()
            self.built = True

        def build_optimizer(self):
            events.append("built")

        def make_train_function(self, force=False):
            def step(iterator):
                events.append(("batch", int(next(iterator))))
                return {"loss": 0.0}

            self.train_function = step

    model = Model()
    model.compile("sgd")
    data = tf.data.Dataset.range(3)
    model.fit(data, steps_per_epoch=2, verbose=0)
    assert events == ["built", ("batch", 0), ("batch", 1)], told


def test_a_running_function_ends_when_its_manager_says_so():
    endless = iter(tf.data.Dataset.range(1).repeat().filter(lambda i: i > 0))
    manager = internals.cancellation_manager()
    timer = threading.Timer(0.2, manager.start_cancel)
    timer.start()
    told = _changed("cancellation.CancellationManager", "waits for input")
    with pytest.raises(tf.errors.CancelledError), internals.cancelled_by(manager):
        tf.function(lambda: next(endless))()
        pytest.fail(told)
    timer.join()


# We ask for 1 ourselves where nobody does, see processor_test.py.
@pytest.mark.parametrize("asked", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_onednn_is_what_the_environment_asks_for(asked):
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "from tfssl import internals; print(internals.onednn())",
        ],
        env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": asked},
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == str(asked == "1"), _changed(
        "_pywrap_util_port.IsMklEnabled", "records of runs and their reports"
    )


def _graphs():
    gc.collect()
    return {id(o) for o in gc.get_objects() if isinstance(o, tf.Graph)}


def _gradients():
    return set(internals.ops.gradient_registry._registry)


@tf.custom_gradient
def _doubled(x):
    return 2 * x, lambda gradient: 2 * gradient


def test_graphs_and_gradients_of_a_function_go_with_it():
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.cond(x > 0, lambda: _doubled(x), lambda: x)
        return tape.gradient(y, x)

    def call():
        function = internals.function(run)
        assert function(tf.constant(3.0)) == 2.0
        assert function(tf.constant(-3.0)) == 1.0
        return _gradients()

    call()  # What stays of a first call is no leak.
    graphs, gradients = _graphs(), _gradients()
    assert call() > gradients
    told = _changed("what a graph leaves behind", "many trainings in one process")
    assert not _graphs() - graphs, told
    assert _gradients() == gradients, told


def _in_a_branch(x):
    return tf.cond(x > 0, lambda: _doubled(x) * x, lambda: x)


def _in_a_loop(x):
    _, y = tf.while_loop(
        lambda i, _: i < 1, lambda i, y: (i + 1, _doubled(y) * y), (0, x)
    )
    return y


@pytest.mark.parametrize("run", [lambda x: _doubled(x) * x, _in_a_branch, _in_a_loop])
@pytest.mark.parametrize("made", [internals.function, tf.function])
def test_the_gradient_of_a_function_inside_another_outlives_the_other(made, run):
    inner = made(run)

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = inner(x)
        return tape.gradient(y, x)

    x = tf.constant(3.0)
    assert internals.function(inner)(x) == 18.0
    gc.collect()
    assert internals.function(slope)(x) == 12.0
    gc.collect()
    assert internals.function(slope)(x) == 12.0


def test_a_function_can_be_run_eagerly():
    function = internals.function(lambda x: x + 1)
    tf.config.run_functions_eagerly(True)
    try:
        assert function(tf.constant(1.0)) == 2.0
    finally:
        tf.config.run_functions_eagerly(False)
    del function
    gc.collect()
    assert tf.constant(1.0) + 1 == 2.0


def _refuse(x):
    if x.shape[0] == 1:
        raise ValueError("one received, expected two.")
    if tf.reduce_sum(x) > 2:
        x = x + 1
    return checks.whole({"x": 0}, "x") if x.shape[0] == 2 else x


def test_what_autograph_rewrites_raises_what_its_author_wrote():
    function = internals.function(_refuse, autograph=True)
    assert function(tf.ones(3)).numpy().tolist() == [2, 2, 2]
    told = _changed("how AutoGraph tells of errors", "messages of encoders")
    for count, sentence, file in (
        (1, "one received, expected two.", "__autograph_generated_file"),
        (2, "x=0 received, expected a whole number, 1 or more.", "tfssl/internals.py"),
    ):
        with pytest.raises(ValueError) as caught:
            function(tf.ones(count))
        assert str(caught.value) == sentence, told
        place = traceback.extract_tb(caught.value.__traceback__)[-1].filename
        assert file in place, told
    # Those of the running graph are TensorFlow's own.
    with pytest.raises(tf.errors.InvalidArgumentError):
        failing = internals.function(
            lambda x: tf.debugging.check_numerics(x, "no number"), autograph=True
        )
        failing(tf.constant(np.nan))
