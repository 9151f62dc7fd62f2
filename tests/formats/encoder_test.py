import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.networks import application, ours, own, pixels, sequential
from tfssl import data, formats
from tfssl.formats import keras_file
from tfssl.tasks import embed, export, resolve, runs

_PREPROCESSING = data.Preprocessing(size=8, mean=(0.4, 0.5, 0.6), std=0.2)


_NETWORKS = {"own": own, "sequential": sequential, "ours": ours}
every_network = pytest.mark.parametrize("make", _NETWORKS.values(), ids=_NETWORKS)


@every_network
def test_it_is_the_network_itself(make):
    network = make()
    encoder = formats.Encoder(network, _PREPROCESSING)
    assert encoder.network is network and encoder.name == network.name
    mine, its = encoder.variables, network.variables
    assert [id(v) for v in mine] == [id(v) for v in its]
    assert encoder.count_params() == network.count_params()
    assert encoder.output_shape[-1] == network(pixels()).shape[-1]
    for training in (False, True):
        keras.utils.set_random_seed(3)
        expected = network(pixels(), training=training)
        keras.utils.set_random_seed(3)
        found = encoder(pixels(), training=training)
        if make is not own:  # Its dropout draws anew.
            np.testing.assert_array_equal(found, expected)
        else:
            assert ((found == 0).numpy().mean() > 0.5) == training


def test_it_computes_as_its_network_does_in_mixed_precision():
    network = ours(dtype="mixed_bfloat16")
    encoder = formats.Encoder(network, _PREPROCESSING)
    assert encoder.dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_array_equal(encoder(pixels()), network(pixels()))


@every_network
@pytest.mark.parametrize("by_keras", [True, False])
def test_files_hold_the_network_and_the_preprocessing(make, by_keras, tmp_path):
    encoder = formats.Encoder(make(), _PREPROCESSING)
    path = str(tmp_path / "mine.keras")
    encoder.save(path) if by_keras else keras_file.save(encoder, path)
    network, preprocessing = keras_file.load(path)
    assert type(network) is type(encoder.network)
    assert preprocessing == _PREPROCESSING
    again = runs.load(path)
    assert isinstance(again, formats.Encoder) and again.preprocessing == _PREPROCESSING
    by_itself = keras.saving.load_model(path)
    assert isinstance(by_itself, formats.Encoder if by_keras else type(network))
    for one in (network, again, by_itself):
        np.testing.assert_array_equal(one(pixels()), encoder(pixels()))


def test_stages_are_those_of_the_network():
    network = ours()
    encoder = formats.Encoder(network, _PREPROCESSING)
    assert encoder.stage_outputs == network.stage_outputs
    part = keras.Model(encoder.inputs[0], encoder.stage_outputs["res2"])
    assert part(pixels()).shape == (4, 8, 8, 4)
    assert formats.Encoder(sequential(), _PREPROCESSING).stage_outputs == {}


def test_a_classifier_on_top_trains_every_variable():
    encoder = formats.Encoder(ours(zero_init_residual=False), _PREPROCESSING)
    classifier = keras.Model(
        encoder.input, keras.layers.Dense(3, name="logits")(encoder.output)
    )
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(classifier(pixels(), training=True) ** 2)
    gradients = tape.gradient(loss, encoder.trainable_variables)
    assert len(gradients) > 60
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)
    encoder.trainable = False
    assert len(classifier.trainable_variables) == 2


def test_a_network_from_elsewhere_is_embedded_and_exported(tmp_path):
    network = application()
    encoder = formats.Encoder(network, data.Preprocessing(size=32, std=1 / 255))
    images = np.random.default_rng(0).integers(256, size=(5, 40, 32, 3), dtype="uint8")
    found = embed.embed(encoder, images, verbose=0)
    inputs = tf.stack(
        [encoder.preprocessing.apply(tf.constant(image)) for image in images]
    )
    expected = network(inputs, training=False)
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)
    path = str(tmp_path / "mobilenet.keras")
    encoder.save(path)
    served = export.export(path, str(tmp_path / "models"), check=True, data=images)
    card = (tmp_path / "models" / "mobilenet" / "README.md").read_text()
    assert served and "Functional" in card  # Its own class, and no wrapper's.


def test_an_encoder_that_trains_on_is_taken_out_of_its_old_preprocessing():
    network = ours()
    encoder = formats.Encoder(network, _PREPROCESSING)
    assert resolve.encoder(encoder, (8, 8, 3)) is network
    assert resolve.encoder(lambda shape: encoder, (8, 8, 3)) is network
    assert formats.Encoder(encoder, None).network is network


def test_what_nobody_knows_is_refused(tmp_path):
    unbuilt = keras.Sequential([keras.layers.Flatten()], name="new")
    with pytest.raises(ValueError, match="'new' is not built; call it once"):
        formats.Encoder(unbuilt, _PREPROCESSING)
    with pytest.raises(ValueError, match="'own' is no graph .* give its prepro"):
        formats.Encoder(own(), None)
    unknown = formats.Encoder(sequential(), None)
    for encoder in (unknown, sequential()):
        with pytest.raises(ValueError, match="carries no preprocessing; load it with"):
            keras_file.save(encoder, tmp_path / "e.keras")
        with pytest.raises(ValueError, match="carries no preprocessing"):
            embed.embed(encoder, np.zeros((1, 8, 8, 3), np.uint8))
    path = str(tmp_path / "plain.keras")
    unknown.save(path)
    assert runs.load(path).preprocessing is None
