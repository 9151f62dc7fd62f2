"""What NPID, PIRL and CMC share, by itself."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.losses import nce_test
from tests.methods.cases import unit
from tfssl.methods import bank_contrast

_IMAGES, _DIM, _TAU = 30, 6, 0.2


def make(**arguments):
    settings = dict(loss="nce", temperature=_TAU, momentum=0.3, seed=1)
    return bank_contrast.BankContrast(_IMAGES, _DIM, **settings | arguments)


def rows(count, seed):
    return np.random.default_rng(seed).normal(size=(count, _DIM)).astype(np.float32)


def tensor(index):
    return tf.constant(index, tf.int64)


def drawn(index, others):
    """Of one replica."""
    return bank_contrast.Draw(tensor(index), tf.constant(0), tensor(others))


def settings(**given):
    return {
        "num_images": _IMAGES,
        "negatives": 8,
        "loss": "nce",
        "temperature": _TAU,
        "bank_momentum": 0.5,
        "projection_dim": _DIM,
        "seed": 0,
        "max_bank_gib": 1.0,
    } | given


def test_nce_has_the_z_of_the_first_batch_for_all_queries_and_steps():
    contrast = make()
    bank = np.array(contrast.bank.rows)
    queries, index, others = [rows(4, 1), rows(4, 2)], [3, 9, 0, 29], [7, 8, 7, 20, 11]
    found = contrast.compare(queries, drawn(index, others))
    candidates = [[bank[i], *bank[others]] for i in index]
    similar = np.einsum("bd,bkd->bk", unit(queries[0]), candidates)
    z = _IMAGES * np.exp(similar / _TAU).mean()
    assert float(found.normalizer) == pytest.approx(z, rel=1e-5)
    assert contrast.normalizer == 0  # Only remembering changes anything.
    np.testing.assert_array_equal(found.own, bank[index])
    for query, losses, hits in zip(queries, found.losses, found.hits):
        expected = nce_test.slow(query, bank[index], bank[others], _TAU, _IMAGES, z)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
        cosines = np.einsum("bd,bkd->bk", unit(query), candidates)
        np.testing.assert_array_equal(hits, cosines.argmax(1) == 0)
    contrast.remember(queries[0], found)
    moved = unit(0.3 * bank[index] + 0.7 * unit(queries[0]))
    np.testing.assert_allclose(np.array(contrast.bank.rows)[index], moved, atol=1e-6)
    untouched = np.setdiff1d(np.arange(_IMAGES), index)
    np.testing.assert_array_equal(
        np.array(contrast.bank.rows)[untouched], bank[untouched]
    )
    again = contrast.compare([rows(4, 3)], drawn(index, others))
    assert float(again.normalizer) == pytest.approx(z, rel=1e-5)


def test_softmax_chooses_among_its_own_memory_and_the_others():
    contrast = make(loss="softmax")
    bank = np.array(contrast.bank.rows)
    query, index, others = rows(3, 1), [3, 9, 0], [7, 8, 7, 20]
    found = contrast.compare([query], drawn(index, others))
    for i, z in enumerate(unit(query)):
        logits = np.array([bank[index[i]], *bank[others]]) @ z / _TAU
        expected = np.log(np.exp(logits).sum()) - logits[0]
        assert float(found.losses[0][i]) == pytest.approx(expected, rel=1e-5)
    contrast.remember(query, found)
    assert contrast.normalizer == 0


@pytest.mark.parametrize("loss", bank_contrast.LOSSES)
def test_only_the_query_has_a_gradient(loss):
    contrast = make(loss=loss)
    query = tf.constant(rows(3, 1))
    with tf.GradientTape() as tape:
        tape.watch([query, contrast.bank.rows.value, contrast.normalizer.value])
        found = contrast.compare([query], drawn([1, 2, 3], [4, 5]))
    watched = [query, contrast.bank.rows.value, contrast.normalizer.value]
    gradient, *none = tape.gradient(found.losses, watched)
    assert np.abs(gradient).max() > 0 and none == [None, None]


def two_steps(contrast, strategy, jit=False):
    """Losses of two steps of 8 images, and what the layer then holds, by replica."""
    count = strategy.num_replicas_in_sync
    method = types.SimpleNamespace(**settings(negatives=12), step=tf.Variable([0]))

    def step(index, query, number):
        method.step = types.SimpleNamespace(value=number)
        found = contrast.compare([query], bank_contrast.draw(method, index))
        contrast.remember(query, found)
        return found.losses[0], found.drawn.others

    def part(values):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.split(values, count)[context.replica_id_in_sync_group]
        )

    run = tf.function(
        lambda index, query, number: strategy.run(step, (index, query, number)),
        jit_compile=jit,
    )
    losses, negatives = [], []
    for number, index in enumerate(
        ([3, 9, 0, 29, 7, 1, 2, 4], [9, 3, 9, 5, 6, 8, 9, 0])
    ):
        loss, others = run(part(tensor(index)), part(rows(8, number)), tensor(number))
        losses += strategy.experimental_local_results(loss)
        negatives.append(strategy.experimental_local_results(others))
        assert not np.intersect1d(negatives[-1][0], index).size
    held = [
        strategy.experimental_local_results(variable.value)
        for variable in contrast.variables
    ]
    return np.concatenate(losses), negatives, held


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_draw_and_remember_like_one(mirrored, replicas):
    alone = two_steps(make(), tf.distribute.get_strategy())
    strategy = mirrored(replicas)
    with strategy.scope():
        contrast = make()
    both = two_steps(contrast, strategy)
    np.testing.assert_allclose(both[0], alone[0], rtol=1e-5)
    for (one,), copies in zip(alone[1], both[1]):
        for copy in copies:
            np.testing.assert_array_equal(copy, one)
    assert len(both[2]) == 2
    for (one,), copies in zip(alone[2], both[2]):
        for copy in copies:
            np.testing.assert_array_equal(copy, copies[0])
        np.testing.assert_allclose(copies[0], one, rtol=1e-5, atol=1e-6)


def test_xla_draws_the_same_and_agrees():
    plain = two_steps(make(), tf.distribute.get_strategy())
    compiled = two_steps(make(), tf.distribute.get_strategy(), jit=True)
    np.testing.assert_array_equal(plain[1], compiled[1])
    np.testing.assert_allclose(plain[0], compiled[0], rtol=1e-5)
    for one, other in zip(plain[2], compiled[2]):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_half_precision_is_compared_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        contrast = make()
    finally:
        keras.config.set_dtype_policy("float32")
    query = tf.cast(rows(2, 1), tf.float16)
    found = contrast.compare([query], drawn([0, 1], [2, 3]))
    contrast.remember(query, found)
    assert found.losses[0].dtype == tf.float32
    assert {v.dtype for v in contrast.variables} == {"float32"}


def test_the_chance_of_one_query_is_that_of_equal_similarities():
    same = np.ones((1, _DIM), np.float32)
    for loss in bank_contrast.LOSSES:
        contrast = make(loss=loss)
        contrast.bank.rows.assign(np.repeat(unit(same), _IMAGES, 0))
        found = contrast.compare([same], drawn([0], range(1, 9)))
        expected = bank_contrast.chance_loss(loss, 8)
        assert float(found.losses[0][0]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(negatives=0), "negatives=0 received"),
        (dict(loss="ce"), "loss='ce' received, expected one of nce, softmax"),
        (dict(temperature=0), "temperature=0 received"),
        (dict(bank_momentum=1.5), "bank_momentum=1.5 received"),
        (dict(max_bank_gib=0), "max_bank_gib=0 received"),
        (
            dict(num_images=10**8, projection_dim=128),
            r"max_bank_gib=1 received, but 2 bank\(s\) of 100,000,000 images by 128 "
            r"numbers take 95.4 GiB on every device; .* max_bank_gib to 96",
        ),
    ],
)
def test_settings_that_cannot_work(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        bank_contrast.check_settings(settings(**given), banks=2)


def test_the_default_limit_admits_imagenet_with_two_banks():
    bank_contrast.check_settings(
        settings(
            num_images=1_281_167,
            projection_dim=128,
            max_bank_gib=bank_contrast.MAX_GIB,
        ),
        banks=2,
    )


def test_a_batch_of_all_images_is_refused():
    method = types.SimpleNamespace(num_images=30)
    bank_contrast.check_batch(method, 29)
    with pytest.raises(ValueError, match="batch_size=30 received for 30 images"):
        bank_contrast.check_batch(method, 30)


def test_notes_say_the_memory_and_where_z_is_unreliable():
    def told(**given):
        return bank_contrast.notes(types.SimpleNamespace(**settings(**given)), banks=2)

    large = dict(num_images=1_281_167, projection_dim=128)
    assert told(**large) == [
        "2 banks of 1,281,167 images by 128 numbers: 1.22 GiB on every device"
    ]
    (_, warning) = told(num_images=1437)
    assert "loss='nce' with 1,437 images" in warning and "loss='softmax'" in warning
    assert len(told(num_images=1437, loss="softmax")) == 1
