import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.networks import application, ours, own, pixels, sequential
from tfssl.models import headed, heads

_SHAPE = (8, 8, 3)


def head(width, layers=2, **kwargs):
    """A projector whose statistics are not those of its start."""
    made = heads.mlp(width, (7,) * layers, last_norm="batch", **kwargs)
    rng = np.random.default_rng(1)
    for variable in made.variables:
        variable.assign(rng.uniform(0.5, 2.0, size=variable.shape))
    return made


def with_head(network, layers=1, name="both", **kwargs):
    width = network(pixels(network.image_size)).shape[-1]
    part = heads.first_layers(head(width, **kwargs), layers, name=f"{name}_head")
    return headed.Headed(network, part, image_shape=_SHAPE, name=name)


def make(function):
    network = function()
    network.image_size = 32 if function is application else 8
    return network


_NETWORKS = {"own": own, "sequential": sequential, "ours": ours, "keras": application}
every_network = pytest.mark.parametrize("function", _NETWORKS.values(), ids=_NETWORKS)


@every_network
@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_one_after_the_other(function, training):
    network = make(function)
    whole = with_head(network)
    images = pixels(network.image_size)
    # Whatever moves in training (statistics, dropout) moves in the first call alike.
    keras.utils.set_random_seed(3)
    expected = network(images, training=training)
    for layer in heads.layers_of(whole.head)[0][:3]:
        expected = layer(expected, training=training)
    keras.utils.set_random_seed(3)
    found = whole(images, training=training)
    if function is not own or not training:  # Its dropout draws anew.
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert whole.output_shape == (None, 7)
    mine = {id(v) for v in whole.variables}
    assert mine == {id(v) for v in network.variables + whole.head.variables}


@every_network
def test_files_hold_both(function, tmp_path):
    network = make(function)
    whole, images = with_head(network), pixels(network.image_size)
    whole.save(tmp_path / "both.keras")
    again = keras.saving.load_model(tmp_path / "both.keras")
    assert type(again) is headed.Headed and type(again.encoder) is type(network)
    np.testing.assert_array_equal(again(images), whole(images))
    assert again.name == whole.name and again.image_shape == _SHAPE


def test_every_variable_is_trained_and_the_stages_are_those_of_the_encoder():
    network = make(lambda: ours(zero_init_residual=False))
    whole = with_head(network)
    assert whole.stage_outputs == network.stage_outputs
    part = keras.Model(whole.inputs[0], whole.stage_outputs["res2"])
    assert part(pixels()).shape == (4, 8, 8, 4)
    assert with_head(make(sequential)).stage_outputs == {}
    logits = keras.layers.Dense(3, name="logits")(whole.output)
    classifier = keras.Model(whole.input, logits)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(classifier(pixels(), training=True) ** 2)
    variables = classifier.trainable_variables
    assert len(variables) == len(network.trainable_variables) + 3 + 2
    for variable, slope in zip(variables, tape.gradient(loss, variables)):
        assert np.abs(slope).max() > 0, variable.path
    whole.trainable = False
    assert len(classifier.trainable_variables) == 2


def test_an_encoder_with_a_head_gets_another_one():
    network = make(ours)
    inner = with_head(network, name="inner")
    inner.image_size = 8
    outer = with_head(inner, layers=2, name="outer")
    expected = outer.head(inner(pixels()))
    np.testing.assert_array_equal(outer(pixels()), expected)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_features_are_wide_in_every_precision(policy, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        network = make(ours)
        whole = with_head(network)
    finally:
        keras.config.set_dtype_policy(before)
    wide = "float64" if policy == "float64" else "float32"
    narrow = whole.head.layers[0](network(pixels()))
    assert narrow.dtype == policy.removeprefix("mixed_")
    assert whole(pixels()).dtype == whole.output.dtype == wide
    assert whole.dtype_policy.name == network.dtype_policy.name
    whole.save(tmp_path / "both.keras")
    again = keras.saving.load_model(tmp_path / "both.keras")
    np.testing.assert_array_equal(again(pixels()), whole(pixels()))
