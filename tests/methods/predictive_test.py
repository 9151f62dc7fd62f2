"""What is Predictive's own; what every method promises is in contract_test.py."""

import keras
import numpy as np
import pytest

from tests.methods.cases import batch_of, one_convolution, tiny_branches
from tfssl import methods, models
from tfssl.models import feature_maps

_LAB = {"L": (0,), "ab": (1, 2)}


def images(batch=3):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(batch, 16, 16, 3)).astype(np.float32)


def make(views=_LAB, front=(models.Lab,), **arguments):
    keras.utils.set_random_seed(0)
    return methods.Predictive(
        tiny_branches(front, views), **{"decoder_hidden": 6} | arguments
    )


def difference(a, b, loss):
    """Per image, with loops, float64."""
    found = []
    for one, other in zip(np.asarray(a, np.float64), np.asarray(b, np.float64)):
        each = [abs(x - y) for x, y in zip(one.ravel(), other.ravel())]
        found.append(np.mean(each if loss == "l1" else [0.5 * x * x for x in each]))
    return np.array(found)


@pytest.mark.parametrize("loss", ["l1", "l2"])
@pytest.mark.parametrize(
    "views, targets, expected",
    [
        (_LAB, None, {"L": [1, 2], "ab": [0]}),
        ({"L": (0,)}, {"L": (1, 2)}, {"L": [1, 2]}),
        (_LAB, {"ab": 0, "L": [2]}, {"L": [2], "ab": [0]}),
    ],
)
def test_loss_is_the_difference_from_the_other_channels(loss, views, targets, expected):
    method = make(views, targets=targets, loss=loss)
    batch = images()
    found = method.image_losses(batch_of(batch), training=True)["loss"]
    lab, parts = models.Lab()(batch).numpy(), method.encoder.split(batch)
    losses = 0
    for view, channels in expected.items():
        part = feature_maps.up_to(method.encoder.branches[view])
        shown = method.decoders[view](part(parts[view], training=True), training=True)
        assert shown.shape == (3, 3, 3, len(channels))
        predicted = feature_maps.resized(shown, (16, 16))
        losses = losses + difference(predicted, lab[..., channels], loss)
    np.testing.assert_allclose(found, losses, rtol=1e-4)


def test_predictions_are_views_in_the_size_of_the_images():
    found = make().predict_views(images())
    assert {view: x.shape for view, x in found.items()} == {
        "L": (3, 16, 16, 2),
        "ab": (3, 16, 16, 1),
    }


def test_all_that_is_written_is_told():
    assert make().notes(4, 10) == [
        "L predicts the channels 1, 2; ab predicts the channels 0"
    ]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"loss": "l3"}, "loss='l3' received, expected one of l1, l2"),
        ({"views": {"L": (0,)}}, "has the view 'L' alone, and nothing to predict from"),
        ({"targets": {"L": (1,)}}, "expected a dict from each of the views L, ab to"),
        (
            {"targets": {"L": (3,), "ab": (0,)}},
            r"'L' was given the channels \(3,\), bu",
        ),
        ({"targets": {"L": (0, 1), "ab": (0,)}}, "view 'L' has the channels .* itself"),
    ],
)
def test_what_cannot_work_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**arguments)


def test_encoders_that_do_not_end_in_a_map_are_refused():
    with pytest.raises(ValueError, match="Predictive needs an encoder with a branch"):
        methods.Predictive(one_convolution())
    network = models.encoder(
        "branches", of="alexnet", input_shape=(64, 64, 3), width=1 / 32
    )
    with pytest.raises(ValueError, match="weights behind its last feature map, .*fc6"):
        methods.Predictive(network)
