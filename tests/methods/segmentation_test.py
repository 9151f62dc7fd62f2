import keras
import numpy as np
import pytest

from tests.fixtures import networks
from tests.methods.cases import batch_of, make, one_convolution
from tfssl import methods, models, optimizers
from tfssl.data import sources

NAMES = ("sky", "road", "tree")


def segmentation(**given):
    keras.utils.set_random_seed(1)
    network = models.Segmenter(networks.ours(), NAMES, image_size=8, width=16)
    return methods.Segmentation(network, **given)


def view(between=0):
    """Images of 8x8, channels between, and maps of which a part is no class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=(4, 8, 8))
    labels[rng.uniform(size=labels.shape) < 0.3] = 255
    labels[2] = 255
    maps = labels[..., np.newaxis] == np.arange(3)
    pixels = [rng.uniform(size=(4, 8, 8, 3 + between)), maps]
    return np.concatenate(pixels, axis=-1).astype("float32"), labels


@pytest.mark.parametrize("between", [0, 2])
def test_loss_and_accuracy_equal_a_slow_form(between):
    method = segmentation(map_start=3 + between if between else None)
    seen, labels = view(between)
    found = method.image_losses(batch_of(seen), training=False)
    logits = np.array(method.encoder.logits(seen[..., :3]), np.float64)
    powers = np.exp(logits)
    chances = powers / powers.sum(-1, keepdims=True)
    expected, right, known = [], 0, 0
    for chance, true in zip(chances, labels):
        each = []
        for place in zip(*np.nonzero(true != 255)):
            each.append(-np.log(chance[place][true[place]]))
            right += chance[place].argmax() == true[place]
        known += len(each)
        expected.append(np.mean(each) if each else 0.0)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-4)
    assert float(found["pixel_accuracy"]) == pytest.approx(right / known)
    true, mask, loss = method.judged(seen)
    np.testing.assert_array_equal(true, labels)
    np.testing.assert_array_equal(mask, logits.argmax(-1))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_the_encoder_does_not_see_the_maps():
    method = segmentation()
    seen, _ = view()
    other = np.concatenate([seen[..., :3], np.roll(seen[..., 3:], 1, axis=-1)], axis=-1)
    np.testing.assert_array_equal(method.judged(seen)[1], method.judged(other)[1])
    assert np.abs(method.judged(seen)[2] - method.judged(other)[2]).max() > 0


def test_what_is_frozen_stays_and_leaves_trainable():
    method = segmentation(freeze="all")
    method.compile(optimizers.build("sgd", learning_rate=0.1))
    method.build_optimizer()
    learned = {id(v) for v in method.learned_variables}
    assert learned == {id(v) for v in method.encoder.head.trainable_variables}
    before = [np.array(v) for v in method.encoder.encoder.variables]
    method.train_step(batch_of(view()[0]))
    for old, variable in zip(before, method.encoder.encoder.variables):
        np.testing.assert_array_equal(old, variable)
    network, head = method.product()
    assert head is None and network is method.encoder
    assert all(layer.trainable for layer in network.encoder.layers)


def test_the_average_is_what_leaves():
    method = make("segmentation")
    assert method.average is not None
    network, _ = method.product()
    assert isinstance(network, models.Segmenter) and network is not method.encoder
    assert network.class_names == method.encoder.class_names


def test_refused():
    with pytest.raises(ValueError, match="expected a tfssl.models.Segmenter"):
        methods.Segmentation(one_convolution())
    with pytest.raises(ValueError, match="map_start=2 received, expected 3 or more"):
        segmentation(map_start=2)
    images = sources.ArraySource(np.zeros((4, 8, 8, 5), "uint8"), name="photos")
    with pytest.raises(ValueError, match="photos have 5 channel.*3 to 5 .*:map3 of"):
        segmentation().check_run(4, images)
