"""What is NPID's own; what every method promises is in contract_test.py."""

import math

import keras
import numpy as np
import pytest

from tests.losses import nce_test
from tests.methods.cases import batch_of, one_convolution, two_views, unit
from tfssl import memory, methods

_INDEX = [4, 9, 0, 29, 11]


def make(**arguments):
    keras.utils.set_random_seed(0)
    small = dict(num_images=30, negatives=8, temperature=0.2, projection_dim=3)
    method = methods.NPID(one_convolution(), **small | arguments)
    method.compile(keras.optimizers.SGD(0.1))
    method.build_optimizer()
    return method


def embedded(method, view):
    return unit(method.projector(method.encoder(view, training=True), training=True))


def drawn(method):
    """The negatives of the first step."""
    return memory.others(
        _INDEX, num_images=30, count=method.negatives, seed=method.seed, step=[0]
    ).numpy()


@pytest.mark.parametrize("proximal", [0.0, 30.0])
def test_nce_is_a_double_loop_and_a_distance_to_the_own_memory(proximal):
    method, view = make(proximal=proximal), two_views(5)[0]
    bank, others = np.array(method.contrast.bank.rows), drawn(method)
    z = embedded(method, view)
    candidates = np.stack([[bank[i], *bank[others]] for i in _INDEX])
    similar = np.einsum("bd,bkd->bk", z, candidates) / 0.2
    normalizer = 30 * np.exp(similar).mean()
    values = method.image_losses(batch_of(view, index=_INDEX), training=True)
    expected = nce_test.slow(z, bank[_INDEX], bank[others], 0.2, 30, normalizer)
    expected += proximal * np.square(z - bank[_INDEX]).sum(1)
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-4)
    hits = similar.argmax(1) == 0
    np.testing.assert_array_equal(values["contrastive_accuracy"], hits)


@pytest.mark.parametrize("negatives", [0, 8])
def test_softmax_is_over_the_negatives_or_over_the_whole_bank(negatives):
    method, view = make(loss="softmax", negatives=negatives), two_views(5)[0]
    bank = np.array(method.contrast.bank.rows)
    z = embedded(method, view)
    values = method.image_losses(batch_of(view, index=_INDEX), training=True)
    for row, i in enumerate(_INDEX):
        others = drawn(method) if negatives else np.delete(np.arange(30), i)
        logits = np.array([bank[i], *bank[others]]) @ z[row] / 0.2
        expected = math.log(np.exp(logits).sum()) - logits[0]
        assert float(values["loss"][row]) == pytest.approx(expected, rel=1e-4)
        assert float(values["contrastive_accuracy"][row]) == (logits.argmax() == 0)


@pytest.mark.parametrize("loss, negatives", [("nce", 8), ("softmax", 0)])
def test_the_memory_moves_after_the_step(loss, negatives):
    method, view = (
        make(loss=loss, negatives=negatives, bank_momentum=0.3),
        two_views()[0],
    )
    bank = np.array(method.contrast.bank.rows)
    z = embedded(method, view)
    method.train_step(batch_of(view, index=_INDEX))
    moved = unit(0.3 * bank[_INDEX] + 0.7 * z)
    now = np.array(method.contrast.bank.rows)
    np.testing.assert_allclose(now[_INDEX], moved, atol=1e-5)
    untouched = np.setdiff1d(np.arange(30), _INDEX)
    np.testing.assert_array_equal(now[untouched], bank[untouched])
    assert (float(method.contrast.normalizer.value) > 0) == (loss == "nce")


def test_chance_and_negatives_of_the_papers_settings():
    paper = dict(num_images=50_000, projection_dim=2)
    nce = make(negatives=4096, **paper)
    assert nce.chance_loss(256) == pytest.approx(math.log(4097) + 1, abs=1e-3)
    cifar10 = make(negatives=0, loss="softmax", **paper)
    assert cifar10.chance_loss(128) == pytest.approx(math.log(50_000))
    assert cifar10.num_negatives(128) == 49_999
    assert make(proximal=1.0).chance_loss(128) is None


def test_what_it_says_at_the_start():
    told = make(negatives=0, loss="softmax").notes(8, 30)
    assert told[0].startswith("bank of 30 images by 3 numbers: ")
    assert "8 x 30 logits" in told[1]
    with pytest.raises(ValueError, match="batch_size=30 received for 30 images"):
        make().check_run(30, None)
    with pytest.raises(ValueError, match="negatives=0 received with loss='nce'"):
        make(negatives=0)
    with pytest.raises(ValueError, match="proximal=-1 received"):
        make(proximal=-1)
    with pytest.raises(ValueError, match="max_bank_gib=1e-09 received"):
        make(max_bank_gib=1e-9)
