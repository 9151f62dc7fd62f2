"""What methods share beyond their contract: followers, errors, configs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods.case_table import BATCH, SIZE
from tests.methods.cases import (
    assert_close,
    batches,
    evaluate,
    make,
    state,
    tiny_encoder,
    train,
)
from tfssl import internals, methods, optimizers
from tfssl.methods import base, one_view_bank


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


def test_a_config_of_before_norm_statistics_is_read():
    config = methods.SimCLR(tiny_encoder()).get_config() | {"batch_norm": "local"}
    del config["norm_statistics"]
    again = methods.SimCLR.from_config(config)
    assert again.norm_statistics == "local"
    assert again.projector.layers[1].statistics == "local"


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


def test_a_method_of_a_file_wants_an_optimizer_before_it_trains(tmp_path):
    make("simclr").save(tmp_path / "method.keras")
    loaded = keras.saving.load_model(tmp_path / "method.keras")
    stream = batches("simclr").batch(BATCH)
    with pytest.raises(ValueError, match=r"has no optimizer .* call compile"):
        loaded.fit(stream, steps_per_epoch=1, verbose=0)
    with pytest.raises(ValueError, match="has no optimizer .* before train_on_batch"):
        loaded.train_on_batch(next(iter(stream)))
    loaded.compile(keras.optimizers.SGD(0.0))
    loaded.fit(stream, steps_per_epoch=1, verbose=0)


@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("name", ["moco_v1", "deepcluster"])
def test_batches_one_by_one_train_and_test_as_fit_and_evaluate_do(name, eagerly):
    fitted = make(name)
    train(fitted, batches(name))
    method = make(name, run_eagerly=eagerly)
    for batch in batches(name).batch(BATCH):
        logs = method.train_on_batch(batch, return_dict=True)
    assert_close(state(fitted), state(method))
    one = batches(name, steps=1)
    values = method.test_on_batch(next(iter(one.batch(BATCH))))
    expected = evaluate(method, one, steps=1)
    np.testing.assert_allclose(values, [expected[k] for k in logs], rtol=1e-5)
    assert logs["loss"] != values[method.metrics_names.index("loss")]


def test_one_batch_and_nothing_else_is_taken_by_itself(mirrored):
    method = make("simclr")
    batch = next(iter(batches("simclr").batch(BATCH)))
    for step in (method.train_on_batch, method.test_on_batch):
        with pytest.raises(ValueError, match=r"a ndarray was received; give next"):
            step(np.zeros((2, SIZE, SIZE, 3)))
        with pytest.raises(ValueError, match="a dict was received with more"):
            step(batch, np.zeros(2))
    method.compile("sgd", steps_per_execution=2)
    with pytest.raises(ValueError, match="steps_per_execution=2; use fit or evaluate"):
        method.train_on_batch(batch)
    with mirrored(2).scope():
        method = make("simclr")
    with pytest.raises(ValueError, match="there are 2 replicas"):
        method.train_on_batch(batch)
