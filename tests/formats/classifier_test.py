import keras
import numpy as np
import pytest

from tests.fixtures.networks import ours, pixels
from tfssl import data, formats
from tfssl.formats import keras_file
from tfssl.tasks import runs

_PREPROCESSING = data.Preprocessing(size=8, mean=(0.4, 0.5, 0.6), std=0.2)
_NAMES = ("ant", "bee", "cat")


def head(encoder, count=3):
    features = encoder.output_shape[-1]
    return keras.Sequential([keras.Input((features,)), keras.layers.Dense(count)])


def classifier(**given):
    encoder = formats.Encoder(ours(), _PREPROCESSING)
    return formats.Classifier(encoder, head(encoder), _NAMES, **given)


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


def of_keras(made, path):
    made.save(path)


def of_a_run(made, path):
    classes = keras_file.Classes(made.class_names, made.multilabel)
    keras_file.save(
        made.network, path, made.preprocessing, head=made.head, classes=classes
    )


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("save", [of_keras, of_a_run])
def test_a_file_holds_all_of_it(save, multilabel, tmp_path):
    made, path = classifier(multilabel=multilabel), str(tmp_path / "mine.keras")
    save(made, path)
    for again in (runs.load_classifier(path), keras_file.load_classifier(path)):
        assert again.class_names == _NAMES and again.multilabel == multilabel
        assert again.preprocessing == _PREPROCESSING
        np.testing.assert_array_equal(again(pixels()), made(pixels()))
    # It is an encoder too, and one may go on from any layer of its head.
    encoder = runs.load(path)
    np.testing.assert_array_equal(encoder(pixels()), made.network(pixels()))
    assert encoder.preprocessing == _PREPROCESSING
    logits = runs.load(path, head_layer=1)(pixels())
    np.testing.assert_allclose(logits, made(pixels()), rtol=1e-6)


def test_what_is_no_classifier_is_refused(tmp_path):
    path = str(tmp_path / "mine.keras")
    encoder = ours()
    keras_file.save(encoder, path, _PREPROCESSING, head=head(encoder))
    with pytest.raises(ValueError, match="holds an encoder and no classifier.*finetun"):
        runs.load_classifier(path)
    with pytest.raises(ValueError, match="No encoder at .*nowhere"):
        runs.load_classifier(str(tmp_path / "nowhere.keras"))
    with pytest.raises(ValueError, match=r"class_names=\['ant'\].*expected 3 names"):
        formats.Classifier(
            encoder, head(encoder), ["ant"], preprocessing=_PREPROCESSING
        )
    with pytest.raises(ValueError, match="carries no preprocessing"):
        formats.Classifier(encoder, head(encoder), _NAMES)
