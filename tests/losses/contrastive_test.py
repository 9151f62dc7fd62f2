import doctest
import math

import numpy as np
import pytest
import tensorflow as tf

from tfssl import losses, replicas
from tfssl.losses import contrastive


def _plain(z_a, z_b, **kwargs):
    return losses.nt_xent(z_a, z_b, **kwargs)


def _blockwise(z_a, z_b, **kwargs):
    # 5 divides none of the numbers of candidates here: a partial last block.
    return losses.nt_xent_blockwise(z_a, z_b, **{"block_size": 5, **kwargs})


both_forms = pytest.mark.parametrize("loss", [_plain, _blockwise])


def random_rows(batch, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, dim)).astype(np.float32)


def _reference(z_a, z_b, temperature, negatives=()):
    """Equation 1 of the paper over all pairs, in float64: `(batch,)`."""
    batch = len(z_a)
    z = np.concatenate([z_a, z_b]).astype(np.float64)
    losses = []
    for i in range(2 * batch):
        similarity = [
            z[i] @ z[k] / (np.linalg.norm(z[i]) * np.linalg.norm(z[k]))
            for k in range(2 * batch)
        ]
        positive = similarity[(i + batch) % (2 * batch)]
        total = sum(
            math.exp(s / temperature) for k, s in enumerate(similarity) if k != i
        )
        for row in np.asarray(negatives, np.float64):
            cosine = z[i] @ row / (np.linalg.norm(z[i]) * np.linalg.norm(row))
            total += math.exp(cosine / temperature)
        losses.append(-math.log(math.exp(positive / temperature) / total))
    return (np.array(losses[:batch]) + np.array(losses[batch:])) / 2


@both_forms
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("batch, dim", [(1, 3), (2, 8), (7, 4)])
def test_matches_the_equation(loss, batch, dim, temperature):
    z_a, z_b = random_rows(batch, dim), random_rows(batch, dim, seed=1)
    value = loss(z_a, z_b, temperature=temperature)
    assert value.shape == (batch,)
    assert value.dtype == tf.float32
    expected = _reference(z_a, z_b, temperature)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@both_forms
@pytest.mark.parametrize("num", [1, 9])
def test_negatives_join_the_denominator_of_both_anchors(loss, num):
    z_a, z_b, negatives = (
        random_rows(5, 4),
        random_rows(5, 4, seed=1),
        random_rows(num, 4, seed=2),
    )
    value = loss(z_a, z_b, temperature=0.3, negatives=negatives)
    expected = _reference(z_a, z_b, 0.3, negatives)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    # On another replica they are the same: parts still join to the whole.
    part = loss(
        z_a[3:],
        z_b[3:],
        temperature=0.3,
        global_a=z_a,
        global_b=z_b,
        offset=3,
        negatives=negatives,
    )
    np.testing.assert_allclose(part, expected[3:], rtol=1e-5)
    same = np.ones((5, 4))
    chance = math.log(2 * 5 - 1 + num)
    np.testing.assert_allclose(
        loss(same, same, negatives=same[:1].repeat(num, 0)), [chance] * 5, rtol=1e-6
    )


@both_forms
def test_chance_level(loss):
    # All similarities equal: one of the 2 * 6 - 1 other rows is the positive.
    z = np.ones((6, 4))
    np.testing.assert_allclose(loss(z, z), [math.log(11)] * 6, rtol=1e-6)


@both_forms
def test_derived_value(loss):
    # Pairs on two orthogonal axes: the positive has similarity 1, the two rows
    # of the other pair 0, so -log(e^2 / (e^2 + 2)) at temperature 0.5.
    z = np.eye(2, dtype=np.float32)
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    np.testing.assert_allclose(loss(z, z, temperature=0.5), [expected] * 2, rtol=1e-6)


@both_forms
def test_invariances(loss):
    z_a, z_b = random_rows(6, 4), random_rows(6, 4, seed=1)
    value = loss(z_a, z_b)
    np.testing.assert_allclose(loss(z_b, z_a), value, rtol=1e-5)
    order = [3, 1, 5, 0, 2, 4]
    np.testing.assert_allclose(
        loss(z_a[order], z_b[order]), value.numpy()[order], rtol=1e-5
    )
    scale = np.array([[0.01], [1], [7], [100], [0.3], [2]], np.float32)
    np.testing.assert_allclose(loss(z_a * scale, z_b), value, rtol=1e-4)


def value_and_gradients(loss, tensors, weights, **kwargs):
    """`loss(*tensors)` and gradients of its weighted sum to every tensor."""
    tensors = [tf.convert_to_tensor(t) for t in tensors]
    names = ("global_a", "global_b")
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = loss(*tensors[:2], **dict(zip(names, tensors[2:])), **kwargs)
        total = tf.reduce_sum(value * weights)
    return [value, *tape.gradient(total, tensors)]


@both_forms
def test_shards_join_to_the_whole(loss):
    z_a, z_b = random_rows(6, 4), random_rows(6, 4, seed=1)
    weights = tf.constant(np.arange(1, 7, dtype=np.float32))
    value, to_a, to_b = value_and_gradients(loss, [z_a, z_b], weights)
    total_a, total_b, parts = 0, 0, []
    for offset in (0, 2, 4):
        rows = slice(offset, offset + 2)
        part, local_a, local_b, global_a, global_b = value_and_gradients(
            loss, [z_a[rows], z_b[rows], z_a, z_b], weights[rows], offset=offset
        )
        parts.append(part)
        padding = [[offset, 4 - offset], [0, 0]]
        total_a += tf.pad(local_a, padding) + global_a
        total_b += tf.pad(local_b, padding) + global_b
    np.testing.assert_allclose(np.concatenate(parts), value, rtol=1e-5)
    np.testing.assert_allclose(total_a, to_a, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(total_b, to_b, rtol=1e-4, atol=1e-5)


@both_forms
def test_replicas_equal_one_device(loss, mirrored):
    z_a, z_b = random_rows(8, 4), random_rows(8, 4, seed=1)
    expected = value_and_gradients(loss, [z_a, z_b], tf.fill([8], 1 / 8))
    strategy = mirrored(2)

    def step(z_a, z_b):
        with tf.GradientTape() as tape:
            tape.watch([z_a, z_b])
            global_a, offset = replicas.gather_rows(z_a)
            global_b, _ = replicas.gather_rows(z_b)
            value = loss(z_a, z_b, global_a=global_a, global_b=global_b, offset=offset)
            total = tf.reduce_mean(value) / 2  # The mean over the global batch.
        return [value, *tape.gradient(total, [z_a, z_b])]

    def spread(z):
        return strategy.experimental_distribute_values_from_function(
            lambda c: tf.constant(np.split(z, 2)[c.replica_id_in_sync_group])
        )

    run = tf.function(lambda a, b: strategy.run(step, args=(a, b)))
    for ours, theirs in zip(run(spread(z_a), spread(z_b)), expected):
        ours = tf.concat(strategy.experimental_local_results(ours), axis=0)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@both_forms
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_zero_rows_and_low_precision(loss, dtype):
    z_a = tf.cast(random_rows(6, 4), dtype)
    z_b = tf.cast(random_rows(6, 4, seed=1), dtype)
    some_zero = tf.where(tf.range(6)[:, tf.newaxis] < 2, tf.zeros_like(z_a), z_a)
    for tensors in ([some_zero, z_b], [z_a * 0, z_b * 0]):
        value, to_a, to_b = value_and_gradients(
            loss, tensors, tf.fill([6], 1.0), temperature=0.01
        )
        assert value.dtype == tf.float32
        assert np.isfinite(value).all()
        assert to_a.dtype == dtype
        assert np.isfinite(tf.cast(to_a, tf.float32)).all()
        assert np.isfinite(tf.cast(to_b, tf.float32)).all()
        assert not tf.cast(to_a, tf.float32)[:2].numpy().any()
    # Everything at similarity 0, whatever the temperature.
    np.testing.assert_allclose(value, [math.log(11)] * 6, rtol=1e-6)


@both_forms
def test_unknown_batch_and_xla(loss):
    z_a, z_b = random_rows(6, 4), random_rows(6, 4, seed=1)
    weights = tf.fill([6], 1.0)
    expected = value_and_gradients(loss, [z_a, z_b], weights)

    def step(z_a, z_b):
        return value_and_gradients(loss, [z_a, z_b], weights)

    unknown = tf.function(step, input_signature=[tf.TensorSpec((None, 4))] * 2)
    compiled = tf.function(step, jit_compile=True)
    for run in (unknown, compiled):
        for ours, theirs in zip(run(tf.constant(z_a), tf.constant(z_b)), expected):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@both_forms
@pytest.mark.parametrize(
    "change, message",
    [
        ({"temperature": 0.0}, "temperature=0.0 received, expected a number above 0"),
        ({"temperature": -1}, "temperature=-1 rec"),
        ({"z_b": np.ones((3, 4))}, r"z_a and z_b .* got \(2, 4\) and \(3, 4\)"),
        ({"z_a": np.ones(4), "z_b": np.ones(4)}, r"got \(4,\) and \(4,\)"),
        ({"global_a": np.ones((4, 4))}, "global_b is None"),
        ({"global_b": np.ones((4, 4))}, "global_a is None"),
        (
            {"global_a": np.ones((4, 3)), "global_b": np.ones((4, 3))},
            r"same last dimension, got shapes \(2, 4\) and \(4, 3\)",
        ),
        ({"negatives": np.ones((7, 3))}, r"negatives must be .* got \(7, 3\) for"),
        ({"negatives": np.ones((2, 7, 4))}, r"negatives must be .* got \(2, 7, 4\)"),
    ],
)
def test_bad_arguments(loss, change, message):
    arguments = {"z_a": np.ones((2, 4)), "z_b": np.ones((2, 4)), **change}
    with pytest.raises(ValueError, match=message):
        loss(arguments.pop("z_a"), arguments.pop("z_b"), **arguments)


def test_match_accuracy():
    # Row 0 finds itself, row 1 is nearest to candidate 0, row 2 to candidate 2.
    z = np.array([[2, 0, 0], [1, 0.1, 0], [0, 0, 5]], np.float32)
    candidates = np.eye(3, dtype=np.float32)
    value = contrastive.match_accuracy(z, candidates)
    np.testing.assert_array_equal(value, [1, 0, 1])
    shifted = contrastive.match_accuracy(z[1:], candidates, offset=1)
    np.testing.assert_array_equal(shifted, [0, 1])


def test_docstring_example():
    result = doctest.testmod(contrastive)
    assert result.attempted > 0
    assert result.failed == 0


def _unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _slow_info_nce(query, positive, negatives, temperature):
    query, positive, negatives = map(_unit, (query, positive, negatives))
    losses = []
    for i, q in enumerate(query):
        own = np.exp(q @ positive[i] / temperature)
        others = negatives if negatives.ndim == 2 else negatives[i]
        total = own + sum(np.exp(q @ k / temperature) for k in others)
        losses.append(-np.log(own / total))
    return losses


@pytest.mark.parametrize("shape", [(9, 4), (5, 9, 4)])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce_equals_the_slow_form(shape, temperature):
    rng = np.random.default_rng(3)
    query, positive = rng.normal(size=(2, 5, 4)).astype("float32")
    negatives = rng.normal(size=shape).astype("float32")
    found = contrastive.info_nce(query, positive, negatives, temperature=temperature)
    expected = _slow_info_nce(query, positive, negatives, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    nearer = contrastive.positive_first(query, positive, negatives)
    others = negatives if negatives.ndim == 3 else np.stack([negatives] * 5)
    q, p, n = _unit(query), _unit(positive), _unit(others)
    hits = [q[i] @ p[i] > max(n[i] @ q[i]) for i in range(5)]
    np.testing.assert_array_equal(nearer, hits)


def test_info_nce_at_chance_and_in_half_precision():
    ones = tf.ones((3, 4), tf.float16)
    found = contrastive.info_nce(ones, ones, tf.ones((7, 4), tf.float16))
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, np.log(8), rtol=1e-5)
    flat = contrastive.info_nce(tf.zeros((3, 4)), ones, tf.ones((7, 4)))
    np.testing.assert_allclose(flat, np.log(8), rtol=1e-5)


def test_gradients_of_in_batch_info_nce_reach_queries_and_all_keys():
    rng = np.random.default_rng(4)
    query, keys = map(tf.constant, rng.normal(size=(2, 6, 4)).astype("float32"))

    def slow(query, keys):
        rows = [tf.math.l2_normalize(x, axis=1) for x in (query, keys)]
        similar = tf.matmul(*rows, transpose_b=True) / 0.3
        return -tf.linalg.diag_part(tf.nn.log_softmax(similar))

    with tf.GradientTape(persistent=True) as tape:
        tape.watch([query, keys])
        found = contrastive.in_batch_info_nce(query, keys, temperature=0.3)
        expected = slow(query, keys)
    for given in (query, keys):
        np.testing.assert_allclose(
            tape.gradient(found, given), tape.gradient(expected, given), atol=1e-5
        )


def test_in_batch_info_nce_equals_the_slow_form_at_any_offset():
    rng = np.random.default_rng(4)
    query, keys = rng.normal(size=(2, 6, 4)).astype("float32")
    expected = [
        _slow_info_nce(query[i : i + 1], keys[i : i + 1], np.delete(keys, i, 0), 0.3)[0]
        for i in range(6)
    ]
    whole = contrastive.in_batch_info_nce(query, keys, temperature=0.3)
    np.testing.assert_allclose(whole, expected, rtol=1e-5)
    part = contrastive.in_batch_info_nce(
        query[4:], keys[4:], temperature=0.3, global_keys=keys, offset=4
    )
    np.testing.assert_allclose(part, expected[4:], rtol=1e-5)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda x: contrastive.info_nce(x, x, x, temperature=0), "ture=0 received"),
        (lambda x: contrastive.info_nce(x, x[:2], x), r"got \(3, 4\), \(2, 4\)"),
        (lambda x: contrastive.info_nce(x, x, x[:, :2]), r"\(3, 2\)"),
        (lambda x: contrastive.info_nce(x, x, tf.ones((2, 5, 4))), r"\(2, 5, 4\)"),
        (
            lambda x: contrastive.in_batch_info_nce(x, x, temperature=-1),
            "temperature=-1 received, expected a number above 0",
        ),
        (lambda x: contrastive.in_batch_info_nce(x, x[:2]), r"\(2, 4\)"),
        (
            lambda x: contrastive.in_batch_info_nce(x, x, global_keys=tf.ones((5, 3))),
            r"\(5, 3\)",
        ),
    ],
)
def test_info_nce_refuses_what_does_not_fit(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(tf.ones((3, 4)))
