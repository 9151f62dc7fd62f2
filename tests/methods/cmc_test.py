"""What is CMC's own; what every method promises is in contract_test.py."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.losses import nce_test
from tests.methods.cases import batch_of, one_convolution, tiny_branches, unit
from tfssl import data, methods, models
from tfssl.methods import bank_contrast

_FOUR = {"a": (0,), "b": (1,), "c": (2,), "d": (0, 2)}


def images(batch=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(batch, 16, 16, 3)).astype(np.float32)


def make(views=_FOUR, front=(), **arguments):
    keras.utils.set_random_seed(0)
    small = dict(temperature=0.3, projection_dim=4)
    return methods.CMC(tiny_branches(front, views), **small | arguments)


def direction(anchors, candidates, temperature):
    """The losses and hits of finding each anchor's own row, with loops, float64."""
    losses, hits = [], []
    for i, anchor in enumerate(unit(anchors)):
        scores = [math.exp(anchor @ c / temperature) for c in unit(candidates)]
        losses.append(-math.log(scores[i] / sum(scores)))
        hits.append(max(scores) == scores[i])
    return np.array(losses), np.array(hits)


@pytest.mark.parametrize(
    "arguments, pairs",
    [
        ({}, [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]),
        ({"mode": "core"}, [("a", "b"), ("a", "c"), ("a", "d")]),
        ({"mode": "core", "core": "c"}, [("c", "a"), ("c", "b"), ("c", "d")]),
    ],
)
def test_loss_is_the_papers_over_these_pairs(arguments, pairs):
    method = make(**arguments)
    batch = images()
    values = method.image_losses(batch_of(batch), training=True)
    z, views = {}, method.encoder.split(batch)
    for view, network in method.encoder.branches.items():
        # The head of a view is its own dense layer.
        dense = method.projector.get_layer(f"{view}_head").layers[0]
        z[view] = network(views[view], training=True) @ dense.kernel + dense.bias
    losses, hits = 0, []
    for one, other in pairs:
        for anchor, found in ((one, other), (other, one)):
            loss, hit = direction(z[anchor], z[found], 0.3)
            losses = losses + loss
            hits.append(hit)
    np.testing.assert_allclose(values["loss"], losses, rtol=1e-4)
    np.testing.assert_allclose(values["contrastive_accuracy"], np.mean(hits, 0))
    names = ", ".join(f"{one}-{other}" for one, other in pairs)
    assert method.notes(5, 100) == [f"pairs of views that are compared: {names}"]


def _rows(method):
    return [np.array(bank.bank.rows) for bank in method.banks]


@pytest.mark.parametrize("loss", ["nce", "softmax"])
@pytest.mark.parametrize("mode", ["full", "core"])
def test_banks_are_asked_by_the_other_views_with_one_draw(loss, mode):
    method = make(
        {"a": (0,), "b": (1,), "c": (2,)},
        loss=loss, mode=mode, negatives=7, num_images=40, bank_momentum=0.3,
    )  # fmt: skip
    method.compile(keras.optimizers.SGD(0.0))
    method.build_optimizer()
    batch = batch_of(images(), index=[3, 39, 0, 8, 21])
    banks = _rows(method)
    assert all(rows.shape == (40, 4) for rows in banks)
    assert np.abs(banks[0] - banks[1]).max() > 0.1
    values = method.image_losses(batch, training=True)
    z = np.split(method.project(images(), training=True).numpy(), 3, axis=1)
    index = batch["index"].numpy()
    others = bank_contrast.draw(method, batch["index"]).others.numpy()
    assert len(others) == 7 and not np.isin(others, index).any()
    asked_by = {0: [1, 2], 1: [0, 2], 2: [0, 1]}
    if mode == "core":
        asked_by = {0: [1, 2], 1: [0], 2: [0]}
    losses = 0
    for view, anchors in asked_by.items():
        own, noise = banks[view][index], banks[view][others]
        first = np.concatenate(
            [
                np.sum(unit(z[anchors[0]]) * own, 1, keepdims=True),
                unit(z[anchors[0]]) @ noise.T,
            ],
            axis=1,
        )
        constant = 40 * np.exp(first / 0.3).mean()
        for anchor in anchors:
            if loss == "nce":
                losses = losses + np.array(
                    nce_test.slow(z[anchor], own, noise, 0.3, 40, constant)
                )
            else:
                for row, (query, mine) in enumerate(zip(unit(z[anchor]), own)):
                    scores = np.exp(np.array([mine, *noise]) @ query / 0.3)
                    losses = losses + np.eye(5)[row] * -np.log(scores[0] / scores.sum())
    np.testing.assert_allclose(values["loss"], losses, rtol=1e-4)
    assert all((a == b).all() for a, b in zip(banks, _rows(method)))
    method.train_step(batch)
    for old, new, rows in zip(banks, _rows(method), z):
        moved = unit(0.3 * old[index] + 0.7 * unit(rows))
        np.testing.assert_allclose(new[index], moved, atol=1e-5)
        untouched = np.setdiff1d(np.arange(40), index)
        np.testing.assert_array_equal(new[untouched], old[untouched])
    assert method.num_negatives(5) == 7
    pairs = 3 if mode == "full" else 2
    once = bank_contrast.chance_loss(loss, 7)
    assert method.chance_loss(5) == pytest.approx(2 * pairs * once)
    assert "3 banks of 40 images by 4 numbers" in method.notes(5, 40)[1]


def test_without_banks_nothing_is_kept():
    method = make(num_images=40)
    assert method.banks == [] and len(method.notes(5, 40)) == 1


def test_of_two_views_core_and_full_are_one():
    values = [
        make({"L": (0,), "ab": (1, 2)}, [models.Lab], mode=mode).image_losses(
            batch_of(images()), training=True
        )["loss"]
        for mode in ("full", "core")
    ]
    np.testing.assert_array_equal(*values)


def test_collapsed_embeddings_give_the_chance_loss():
    method = make()
    for variable in method.projector.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    losses = method.image_losses(batch_of(images(7)), training=True)["loss"]
    np.testing.assert_allclose(losses, 12 * math.log(7), rtol=1e-6)
    assert method.chance_loss(7) == pytest.approx(12 * math.log(7))
    assert method.num_negatives(7) == 6


def test_views_share_no_weights_and_the_head_is_one_layer_each():
    method = make()
    kernels = [v for v in method.projector.trainable_variables if "kernel" in v.path]
    assert [v.shape for v in kernels] == [(16, 4)] * 4
    paths = [v.path for v in method.learned_variables]
    assert len(set(paths)) == len(paths)
    z = method.embed(images())
    assert z.shape == (5, 16)
    np.testing.assert_array_equal(z, method.head(method.encoder(images())))


def test_features_from_before_a_relu_get_it_in_front_of_the_head():
    keras.utils.set_random_seed(0)
    views = {"a": (0,), "b": (1, 2)}
    networks = {
        name: models.alexnet(
            width=1 / 64, stem="cifar", input_shape=(16, 16, len(view)), dropout=0.0
        )
        for name, view in views.items()
    }
    encoder = models.Branches(networks, views, input_shape=(16, 16, 3))
    method = methods.CMC(encoder, loss="in_batch", projection_dim=4)
    features = encoder(images()).numpy()
    assert features.min() < 0
    heads = [v.numpy() for v in method.projector.trainable_variables]
    assert [v.shape for v in heads] == [(64, 4), (4,)] * 2
    found = [
        np.maximum(part, 0) @ kernel + bias
        for part, kernel, bias in zip(np.split(features, 2, 1), heads[::2], heads[1::2])
    ]
    np.testing.assert_allclose(
        method.head(features), np.concatenate(found, 1), rtol=1e-4, atol=1e-7
    )


def test_banks_have_the_authors_settings():
    given = make(loss="nce", num_images=40).settings
    assert (given["negatives"], given["bank_momentum"]) == (4096, 0.5)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"mode": "half"}, "mode='half' received, expected one of full, core"),
        ({"core": "a"}, "core='a' received with mode='full', .* give mode='core' too"),
        ({"mode": "core", "core": "depth"},
         "core='depth' received, but the views of the encoder .* are a, b, c, d"),
        ({"temperature": 0}, "temperature=0 received"),
        ({"loss": "ce"}, "loss='ce' received, expected one of in_batch, nce, softmax"),
        ({"negatives": 7}, "negatives=7 received with loss='in_batch', .* give loss="),
        ({"bank_momentum": 0.5}, "bank_momentum=0.5 received with loss='in_batch'"),
        ({"loss": "nce"}, "num_images=None received, expected a whole number"),
        ({"loss": "nce", "num_images": 10**6, "max_bank_gib": 0.05},
         r"max_bank_gib=0.05 received, but 4 bank\(s\) of 1,000,000 images by 4"),
        ({"views": {"a": (0,)}}, "CMC compares 2 views or more, but .* has only a"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**arguments)


def test_an_encoder_without_branches_is_refused():
    with pytest.raises(ValueError, match="CMC needs an encoder with a branch per view"):
        methods.CMC(one_convolution())


def test_one_image_a_step_is_refused():
    source = data.open_source(np.zeros((100, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="batch_size=1 received, but CMC finds an im"):
        make().check_run(1, source)
    make().check_run(2, source)
    with_banks = make(loss="nce", num_images=16)
    with pytest.raises(ValueError, match="batch_size=16 received for 16 images"):
        with_banks.check_run(16, source)
    with_banks.check_run(1, source)
