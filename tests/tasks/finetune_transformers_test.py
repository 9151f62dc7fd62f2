"""Fine-tuning of vision transformers as BEiT's authors do it."""

import keras
import numpy as np
import pytest

import tfssl
from tests.tasks import finetune_test
from tests.tasks import pretrain_test as small
from tfssl import formats, models
from tfssl.tasks import beginnings


def transformer():
    """As BEiT leaves it: one table of relative positions, not of zeros any more."""
    keras.utils.set_random_seed(0)
    network = models.vit(
        8,
        depth=2,
        heads=2,
        patch=4,
        input_shape=(8, 8, 1),
        positions="none",
        relative="shared",
        pooling="mean",
    )
    rng = np.random.default_rng(0)
    shared = network.block_layers[0].attention.relative
    for variable in shared.variables:
        variable.assign(rng.normal(size=variable.shape))
    return formats.Encoder(network, finetune_test.PREPROCESSING)


def tables(encoder):
    return [
        np.array(block.attention.relative.table)
        for block in encoder.network.block_layers
    ]


def of_blocks(out, given=None, **settings):
    given = transformer() if given is None else given
    return finetune_test.tuned(
        out, given, encoder_args={"relative": "blocks"}, **settings
    )


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Of two classes, with a table per block."""
    return of_blocks(
        tmp_path_factory.mktemp("tuned"), layer_decay=0.65, epochs=1, baseline=True
    )


def test_a_table_of_each_block_begins_as_the_shared_one_and_learns(tuned, tmp_path):
    still = of_blocks(tmp_path / "still", learning_rate=0.0, epochs=1)
    began = transformer()
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(still.encoder(images), began(images))
    (shared, _), (first, second) = tables(began), tables(tuned.encoder)
    for table in (first, second):
        assert np.abs(table - shared).max() > 1e-4
    assert np.abs(first - second).max() > 1e-4
    scratch = tfssl.load(f"{tuned.path}/baseline")
    assert scratch.network.settings == tuned.encoder.network.settings


def test_a_classifier_goes_on_at_another_size(tuned, tmp_path):
    run = of_blocks(
        tmp_path / "run",
        tuned.path,
        image_size=16,
        crop=0.75,
        init_from=tuned.path,
        learning_rate=0.0,
        epochs=1,
    )
    preprocessing = run.encoder.preprocessing
    assert (preprocessing.size, preprocessing.crop) == (16, 0.75)
    images = np.random.default_rng(0).uniform(size=(3, 16, 16, 1)).astype("float32")
    said, before = (tfssl.load_classifier(p)(images) for p in (run.path, tuned.path))
    np.testing.assert_allclose(said, before, rtol=1e-5, atol=1e-6)
    assert np.ptp(before, axis=1).min() > 1e-3  # It was trained.


def test_a_segmenter_s_transformer_takes_its_settings():
    given = transformer()
    network = models.Segmenter(given.network, ["a", "b"], image_size=8)
    begun = beginnings.of(
        network,
        preprocessing=given.preprocessing,
        encoder_args={"relative": "blocks"},
        image_size=None,
        open_images=None,
        seed=0,
    )
    assert begun.network.settings["relative"] == "blocks"


def test_a_run_on_some_classes_begins_one_on_others(tuned, tmp_path):
    """Intermediate fine-tuning: the encoder goes along, the classifier does not."""
    pixels, labels = small.images()
    several = labels + 2 * (np.arange(len(labels)) % 4 > 1)
    run = of_blocks(
        tmp_path / "run",
        tuned.path,
        train=(pixels, several),
        validation_data=None,
        learning_rate=0.0,
        epochs=1,
    )
    assert tfssl.load_classifier(run.path).class_names == ("0", "1", "2", "3")
    for old, new in zip(
        tfssl.load(tuned.path).get_weights(), run.encoder.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    for weight in run.method.classifier.get_weights():
        assert not weight.any()
