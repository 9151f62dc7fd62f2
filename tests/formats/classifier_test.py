import keras
import numpy as np
import pytest

from tests.fixtures import backends
from tests.fixtures.classifiers import (
    NAMES,
    PREPROCESSING,
    classifier,
    head,
    of_a_run,
    of_keras,
)
from tests.fixtures.networks import ours, pixels
from tfssl import formats
from tfssl.formats import keras_file
from tfssl.tasks import runs


@pytest.mark.parametrize("multilabel", [False, True])
def test_it_says_how_probable_classes_are(multilabel):
    made = classifier(multilabel=multilabel)
    logits = np.asarray(made(pixels()), np.float64)
    expected = np.exp(logits)
    if multilabel:
        expected = expected / (1 + expected)
    else:
        expected = expected / expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(made.probabilities(pixels()), expected, rtol=1e-5)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("save", [of_keras, of_a_run, keras_file.save])
def test_a_file_holds_all_of_it(save, multilabel, tmp_path):
    made = classifier(make=ours, multilabel=multilabel)
    path = str(tmp_path / "mine.keras")
    save(made, path)
    for again in (runs.load_classifier(path), keras_file.load_classifier(path)):
        assert again.class_names == NAMES and again.multilabel == multilabel
        assert again.preprocessing == PREPROCESSING
        np.testing.assert_array_equal(again(pixels()), made(pixels()))
    # It is an encoder too.
    encoder = runs.load(path)
    np.testing.assert_array_equal(encoder(pixels()), made.network(pixels()))
    assert encoder.preprocessing == PREPROCESSING


def test_what_is_no_classifier_is_refused(tmp_path):
    path = str(tmp_path / "mine.keras")
    encoder = ours()
    keras_file.save(encoder, path, PREPROCESSING, head=head(encoder))
    with pytest.raises(ValueError, match="holds an encoder and no classifier.*finetun"):
        runs.load_classifier(path)
    with pytest.raises(ValueError, match="No encoder at .*nowhere"):
        runs.load_classifier(str(tmp_path / "nowhere.keras"))
    with pytest.raises(ValueError, match=r"class_names=\['ant'\].*expected 3 names"):
        formats.Classifier(encoder, head(encoder), ["ant"], preprocessing=PREPROCESSING)
    with pytest.raises(ValueError, match="carries no preprocessing"):
        formats.Classifier(encoder, head(encoder), NAMES)


def test_keras_trains_it_and_saves_it_again(tmp_path):
    classifier().save(tmp_path / "c.keras")
    again = keras.saving.load_model(tmp_path / "c.keras")
    assert isinstance(again, formats.Classifier)
    np.testing.assert_array_equal(again(pixels()), classifier()(pixels()))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    again.compile(keras.optimizers.SGD(0.3), loss)
    labels = np.array([0, 1, 2, 1])
    before = [np.array(v) for v in again.trainable_variables]
    losses = again.fit(pixels(), labels, epochs=10, verbose=0).history["loss"]
    changed = [np.any(v != b) for v, b in zip(again.trainable_variables, before)]
    assert all(changed) and losses[-1] < 0.8 * losses[0]
    again.save(tmp_path / "d.keras")
    for trained in (
        keras.saving.load_model(tmp_path / "d.keras"),
        runs.load_classifier(tmp_path / "d.keras"),
    ):
        assert trained.class_names == NAMES
        np.testing.assert_array_equal(trained(pixels()), again(pixels()))


def test_it_is_taken_for_its_encoder():
    made = classifier(make=ours)
    network, preprocessing = runs.encoder_of(made)
    assert network is made.network and preprocessing == PREPROCESSING
    assert formats.Encoder(made, None).network is made.network
    assert made.stage_outputs == made.network.stage_outputs != {}


_LOAD = """
import sys
import keras
import numpy as np
import tfssl
classifier = keras.saving.load_model(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], keras.ops.convert_to_numpy(classifier.probabilities(x)))
assert classifier.class_names == ("ant", "bee", "cat")
classifier(x, training=True)
"""


@pytest.mark.parametrize("backend", backends.NAMES)
def test_a_keras_file_loads_on_other_backends(tmp_path, backend):
    backends.skip_without(backend)
    paths = [str(tmp_path / name) for name in ("c.keras", "x.npy", "y.npy")]
    classifier(make=ours).save(paths[0])
    np.save(paths[1], pixels())
    backends.run(backend, _LOAD, *paths)
    expected = classifier(make=ours).probabilities(pixels())
    np.testing.assert_allclose(np.load(paths[2]), expected, atol=1e-5)
