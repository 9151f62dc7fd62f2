"""What is MoCo's own; what every method promises is in contract_test.py."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods import cases
from tests.methods.cases import batch_of, unit
from tfssl import data, methods, optimizers
from tfssl.data.views import recipes
from tfssl.models import norms
from tfssl.training import checkpoint


def encoder(statistics=None):
    norm = norms.BatchNorm(statistics=statistics, group_size=2) if statistics else None
    return cases.one_convolution(norm=norm)


def views(batch=4, seed=0):
    return cases.two_views(batch, seed)


def make(version=2, **arguments):
    keras.utils.set_random_seed(0)
    small = dict(projection_dim=4)
    if version != 3:
        small["queue_size"] = 10
    else:
        small["projection_hidden"] = 8
    return methods.MoCo(encoder(), version=version, **small | arguments)


def cross_entropy(logits, label):
    return -logits[label] + math.log(sum(math.exp(x) for x in logits))


def estrange(method):
    """Makes the key network another one, or mistakes would not show."""
    for variable in method.target.trainable_variables:
        variable.assign(variable * 1.3 + 0.05)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_loss_is_infonce_against_the_queue(version, symmetric):
    method = make(version, symmetric=symmetric, temperature=0.2)
    estrange(method)
    queue = np.array(method.queue.rows, np.float64)
    directions = [(0, 1), (1, 0)][: 1 + symmetric]
    images = views()
    values = method.image_losses(batch_of(*images), training=True)
    expected, hits = np.zeros(4), np.zeros(4)
    for of_query, of_key in directions:
        q = unit(method.query(images[of_query], training=True))
        k = unit(method.target(images[of_key], training=True))
        for i in range(4):
            logits = [q[i] @ k[i] / 0.2, *(queue @ q[i] / 0.2)]
            expected[i] += cross_entropy(logits, 0)
            hits[i] += (np.argmax(logits) == 0) / len(directions)
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(values["contrastive_accuracy"], hits)


def test_loss_of_v3_is_both_directions_among_the_batch():
    method = make(3, temperature=0.5)
    estrange(method)
    images = views()
    losses = method.image_losses(batch_of(*images), training=True)["loss"]
    expected = np.zeros(4)
    for of_query, of_key in ((0, 1), (1, 0)):
        q = unit(method.query(images[of_query], training=True))
        k = unit(method.target(images[of_key], training=True))
        for i in range(4):
            expected[i] += 2 * 0.5 * cross_entropy(k @ q[i] / 0.5, i)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert method.chance_loss(4096) == pytest.approx(4 * 0.5 * math.log(4096))
    assert make(3).chance_loss(4096) == pytest.approx(33.3, abs=0.05)


def test_keys_move_first_and_enter_the_queue_last():
    """Against the paper's algorithm, followed by hand for three steps."""
    method = make(2, momentum=0.8)
    method.compile(keras.optimizers.SGD(0.5))
    method.build_optimizer()
    queue = np.array(method.queue.rows, np.float64)
    kernel = method.encoder.trainable_variables[0]
    key_kernel = method.target.trainable_variables[0]
    pointer = 0
    for step in range(3):
        before = np.array(kernel)
        moved = 0.8 * np.array(key_kernel) + 0.2 * before
        view_a, view_b = views(seed=step)
        method.train_step(batch_of(view_a, view_b))
        # The key network follows the query network of before the update.
        np.testing.assert_allclose(key_kernel, moved, atol=1e-6)
        assert np.abs(np.array(kernel) - before).max() > 1e-5
        for key in unit(method.target(view_b, training=True)):
            queue[pointer] = key
            pointer = (pointer + 1) % 10
        np.testing.assert_allclose(method.queue.rows, queue, atol=1e-6)


def test_shuffled_statistics_separate_keys_from_queries():
    method = methods.MoCo(encoder(statistics="split"), queue_size=10)
    key_norm = method.target.networks[0].layers[2]
    assert method.encoder.layers[2].statistics == "split"
    assert key_norm.statistics == "shuffle"
    # The same weights and images: only the groups of rows differ.
    images = views()[0]
    features = method.encoder(images, training=True).numpy()
    keys = method.target.networks[0](images, training=True).numpy()
    assert np.abs(features - keys).max() > 1e-3
    # Rows 0, 2 and 1, 3 are the groups of the keys, 0, 1 and 2, 3 of the queries.
    order = [0, 2, 1, 3]
    dealt = method.encoder(images[order], training=True).numpy()
    np.testing.assert_allclose(keys[order], dealt, atol=1e-6)
    again = methods.MoCo.from_config(method.get_config())
    assert again.target.networks[0].layers[2].statistics == "shuffle"


@pytest.mark.parametrize("statistics", ["local", "global"])
def test_leaking_statistics_are_told(statistics, caplog):
    inputs = keras.Input((8, 8, 3))
    x = norms.BatchNorm(statistics=statistics)(inputs)
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    methods.MoCo(network, queue_size=10)
    assert "can betray the positive key; build it with norm_statistics=" in caplog.text
    caplog.clear()
    methods.MoCo(network, version=3)
    methods.MoCo(encoder(), queue_size=10)  # No batch norm, no leak.
    methods.MoCo(encoder(statistics="split"), queue_size=10)
    assert not caplog.text


def test_the_papers_values_stand_for_what_is_not_given():
    found = {
        version: methods.MoCo(encoder(), version=version).settings
        for version in (1, 2, 3)
    }
    assert [found[v]["temperature"] for v in found] == [0.07, 0.2, 1.0]
    assert [found[v]["momentum"] for v in found] == [0.999, 0.999, 0.99]
    assert [found[v]["queue_size"] for v in found] == [65_536, 65_536, None]
    names = [methods.MoCo.recipe_for(version=v).name for v in found]
    assert names == ["moco_v1", "moco_v2", "moco_v3"]
    assert methods.MoCo.recipe_for() is recipes.MOCO_V2


def test_heads_have_the_codes_sizes():
    network = cases.one_convolution(dim=2048)  # As many features as a ResNet-50 has.

    def count(head):
        return sum(int(np.prod(v.shape)) for v in head.trainable_variables)

    v1 = methods.MoCo(network, version=1, queue_size=8)
    assert count(v1.projector) == 2048 * 128 + 128
    v2 = methods.MoCo(network, version=2, queue_size=8)
    assert count(v2.projector) == 2048 * 2048 + 2048 + 2048 * 128 + 128
    # Linear layers without bias; gamma and beta behind the hidden one only.
    v3 = methods.MoCo(network, version=3)
    assert count(v3.projector) == 2048 * 4096 + 2 * 4096 + 4096 * 256
    assert count(v3.predictor) == 256 * 4096 + 2 * 4096 + 4096 * 256
    assert v3.projector.layers[-1].name == "last_norm"
    kernel = np.array(v2.projector.layers[0].kernel)
    assert np.abs(kernel).max() <= 1 / math.sqrt(2048)  # PyTorch's default.
    assert kernel.std() == pytest.approx(1 / math.sqrt(3 * 2048), rel=0.01)


def for_transformers(**arguments):
    keras.utils.set_random_seed(0)
    network = cases.tiny_transformer(
        positions="sincos", init="xavier", freeze_patches=True
    )
    given = dict(
        version=3,
        temperature=0.2,
        projection_layers=3,
        projection_hidden=8,
        projection_dim=4,
        predictor_last_norm=True,
    )
    return methods.MoCo(network, **given | arguments)


def test_heads_of_a_transformer_end_with_a_norm_that_learns_nothing():
    method = for_transformers()
    names = [layer.name for layer in method.projector.layers]
    assert [name for name in names if name.endswith("dense")] == [
        "hidden_0_dense", "hidden_1_dense", "last_dense",
    ]  # fmt: skip
    for head in (method.projector, method.predictor):
        assert head.layers[-1].name == "last_norm"
        assert not head.layers[-1].trainable_variables
        assert not any(v.name == "bias" for v in head.variables)
    assert len(method.predictor.layers) == 5
    assert make(3).predictor.layers[-1].name == "last_dense"


def test_a_frozen_projection_of_patches_stays_and_is_kept(tmp_path):
    method = for_transformers()
    frozen = [v for v in method.encoder.variables if v.path.startswith("patches")]
    other = method.encoder.block_layers[0].hidden.kernel
    before, moves = [np.array(v) for v in frozen], np.array(other)
    assert len(frozen) == 2 and np.abs(before[0]).max() > 0
    optimizer = optimizers.build("adamw", learning_rate=0.1, weight_decay=0.1)
    method.compile(optimizer)
    cases.train(method, cases.batches("moco_v3"), steps=2)
    assert np.abs(np.array(other) - moves).max() > 1e-3
    method.encoder.save(str(tmp_path / "encoder.keras"))
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    kept = {v.path: np.array(v) for v in loaded.variables}
    stored = checkpoint.named_variables(method)
    of_key = method.target.networks[0].layers[1]
    for old, variable, key in zip(before, frozen, of_key.variables, strict=True):
        np.testing.assert_array_equal(variable, old)
        np.testing.assert_array_equal(key, old)
        np.testing.assert_array_equal(kept[variable.path], old)
        assert any(v is variable.value for v in stored.values())


def test_a_fine_tuning_trains_the_projection_of_patches():
    network = for_transformers().encoder
    tuned = methods.Classification(network, class_names=("a", "b"))
    kernel = network.get_layer("patches").kernel
    assert any(v is kernel for v in tuned.learned_variables)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network(cases.two_views()[0]) ** 3)
    assert np.abs(tape.gradient(loss, kernel.value)).max() > 0


def test_all_similarities_equal_give_the_chance_loss():
    for version in (1, 2):
        method = make(version)
        for variable in method.projector.trainable_variables:
            variable.assign(tf.zeros_like(variable))
        losses = method.image_losses(batch_of(*views()), training=True)["loss"]
        np.testing.assert_allclose(losses, math.log(11), rtol=1e-5)
        assert method.chance_loss(4) == pytest.approx(math.log(11))
        assert method.num_negatives(4) == 10
    assert make(3).num_negatives(4) == 3


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"version": 4}, "version=4 received, expected one of 1, 2, 3"),
        ({"version": 3, "queue_size": 8}, "queue_size=8 received with version=3"),
        ({"version": 3, "symmetric": False}, "symmetric=False received with"),
        ({"momentum": -0.1}, "momentum=-0.1 received"),
        ({"temperature": 0}, "temperature=0 received"),
        ({"projection_layers": 0}, "projection_layers=0 received"),
        ({"predictor_last_norm": True}, "predictor_last_norm=True received with vers"),
        ({"version": 3, "predictor_last_norm": "no"}, "predictor_last_norm='no' rec"),
        ({"queue_size": 0}, "size=0"),
    ],
)
def test_clear_errors(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**arguments)


def test_a_batch_larger_than_the_queue_is_refused():
    method = make(2, queue_size=3)
    method.compile("sgd")
    dataset = tf.data.Dataset.from_tensors(batch_of(*views()))
    source = data.open_source(np.zeros((100, 1, 1, 1), np.uint8))
    sentence = "queue_size=3 received for batches of 4 images; make the queue 4"
    with pytest.raises(ValueError, match=sentence):
        method.fit(dataset, verbose=0)
    with pytest.raises(ValueError, match=sentence):  # Before a run begins.
        method.check_run(4, source)
    method.check_run(3, source)
    make(3).check_run(4, source)


def test_an_encoder_that_thaws_later_than_its_target_network_is_refused():
    frozen = encoder()
    frozen.trainable = False
    method = methods.MoCo(frozen, queue_size=10, projection_dim=4)
    dataset = tf.data.Dataset.from_tensors(batch_of(*views()))
    method.compile("sgd")
    method.fit(dataset, verbose=0)  # The head learns.
    frozen.trainable = True
    method.compile("sgd")
    with pytest.raises(ValueError, match="were frozen when its target network was ma"):
        method.fit(dataset, verbose=0)


def test_a_recipe_with_other_views_is_refused():
    method = make(2)
    with pytest.raises(ValueError, match=r"1 view\(s\) received, but MoCo takes 2"):
        method.train_step(batch_of(views()[0]))
