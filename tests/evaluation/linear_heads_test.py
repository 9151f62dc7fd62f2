import numpy as np
import pytest
import tensorflow as tf

from tfssl.evaluation import linear_heads

RATES, DECAYS = (0.01, 0.1, 0.5), (0.0, 0.1, 0.01)
DIM, CLASSES, BATCH = 5, 4, 12


def batches(steps, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        x = rng.normal(1.0, 2.0, size=(BATCH, DIM)).astype(np.float32)
        yield x, rng.integers(0, CLASSES, BATCH), rng.integers(0, 2, BATCH)


def heads(rates=RATES, decays=DECAYS, groups=(0, 1, 1), **options):
    return linear_heads.LinearHeads(rates, decays, groups, DIM, CLASSES, **options)


def trained(made, steps=6):
    state = made.start()
    for step, (x, y, kept) in enumerate(batches(steps)):
        weights = np.stack([kept, np.ones(BATCH)], 1).astype(np.float32)
        state = made.update(
            state, tf.constant(x), y, tf.constant(weights), 1 - step / 10
        )
    return state


def slow(rate, decay, group, optimizer, start, standardize, steps=6):
    """One classifier, row by row from the formulas, in float64."""
    kernel, bias = np.array(start, float), np.zeros(CLASSES)
    kernel_m, bias_m = np.zeros_like(kernel), np.zeros_like(bias)
    mean, variance = np.zeros(DIM), np.ones(DIM)
    for step, (x, y, kept) in enumerate(batches(steps)):
        x = x.astype(float)
        if standardize:
            mean = 0.9 * mean + 0.1 * x.mean(0)
            variance = 0.9 * variance + 0.1 * x.var(0)
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        by_kernel, by_bias, count = np.zeros_like(kernel), np.zeros_like(bias), 0
        for row, label, keep in zip(x, y, kept):
            if group == 0 and not keep:
                continue
            logits = row @ kernel + bias
            error = np.exp(logits - logits.max())
            error /= error.sum()
            error[label] -= 1
            by_kernel += np.outer(row, error)
            by_bias += error
            count += 1
        by_kernel, by_bias = by_kernel / max(count, 1), by_bias / max(count, 1)
        by_kernel += decay * kernel
        if optimizer == "lars":
            size, length = np.linalg.norm(kernel), np.linalg.norm(by_kernel)
            by_kernel = by_kernel * (1e-3 * size / length if size * length else 1.0)
        now = rate * (1 - step / 10)
        kernel_m, bias_m = 0.9 * kernel_m + by_kernel, 0.9 * bias_m + by_bias
        look = optimizer == "sgd"
        kernel = kernel - now * (0.9 * kernel_m + by_kernel if look else kernel_m)
        bias = bias - now * (0.9 * bias_m + by_bias if look else bias_m)
    return kernel, bias, mean, variance


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
@pytest.mark.parametrize("initial", ["zeros", "normal"])
@pytest.mark.parametrize("standardize", [False, True])
def test_equals_slow_numpy_and_each_rate_alone(optimizer, initial, standardize):
    options = dict(optimizer=optimizer, initial=initial, standardize=standardize)
    made = heads(**options)
    start = made.start()["kernel"].numpy()[:, 0]
    assert np.abs(start).max() == 0 or 0.005 < start.std() < 0.02
    state = trained(made)
    for i, (rate, decay, group) in enumerate(zip(RATES, DECAYS, (0, 1, 1))):
        kernel, bias, mean, variance = slow(
            rate, decay, group, optimizer, start, standardize
        )
        # Rate 20 moves weights by tens: float32 leaves 1e-6 of the largest.
        size = max(1.0, np.abs(kernel).max())
        np.testing.assert_allclose(state["kernel"][:, i], kernel, atol=3e-6 * size)
        np.testing.assert_allclose(state["bias"][i], bias, atol=3e-6 * size)
        alone = trained(heads([rate], [decay], [group], **options))
        np.testing.assert_allclose(
            state["kernel"][:, i], alone["kernel"][:, 0], atol=1e-6 * size
        )
    if standardize:
        np.testing.assert_allclose(state["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(state["variance"], variance, rtol=1e-5)
    assert int(state["step"]) == 6


def test_scores_are_those_of_a_sorted_list():
    made = heads(groups=(1, 1, 1))
    state = trained(made)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2500, DIM)).astype(np.float32)  # Three chunks of rows.
    y = rng.integers(-1, CLASSES, 2500)
    top1, top5, loss = made.scores(state, x, y)
    for i in range(3):
        logits = x @ state["kernel"].numpy()[:, i] + state["bias"].numpy()[i]
        assert top1[i] == (logits.argmax(1) == y).mean()
        assert top5[i] == (y >= 0).mean()  # Four classes: all known ones are in.
        rows = np.flatnonzero(y >= 0)
        own = logits[rows, y[rows]]
        expected = np.mean(np.log(np.exp(logits[rows]).sum(1)) - own)
        assert loss[i] == pytest.approx(expected, rel=1e-4)
    # Top-5 of eight classes in a fixed order: the label's place among the logits.
    wide = linear_heads.LinearHeads([1.0], [0.0], [0], 1, 8)
    state = wide.start() | {
        "step": tf.constant(1, tf.int64),
        "kernel": tf.reshape(tf.range(8, 0, -1.0), [1, 1, 8]),
    }
    top1, top5, _ = wide.scores(state, np.ones([8, 1], np.float32), np.arange(8))
    assert (top1[0], top5[0]) == (1 / 8, 5 / 8)
    # Equal logits: the first class wins, as argmax says.
    top1, top5, _ = wide.scores(
        state, np.zeros([4, 1], np.float32), np.array([0, 1, 4, 5])
    )
    assert (top1[0], top5[0]) == (1 / 4, 3 / 4)


def test_an_overflown_head_scores_nothing_and_spoils_no_other():
    made = heads(groups=(1, 1, 1))
    state = trained(made)
    broken = state["kernel"].numpy()
    broken[:, 1] = np.nan
    x, y = np.ones([6, DIM], np.float32), np.arange(6) % CLASSES
    before = made.scores(state, x, y)
    after = made.scores(state | {"kernel": tf.constant(broken)}, x, y)
    assert [column[1] for column in after] == [0.0, 0.0, np.inf]
    for a, b in zip(before, after):
        np.testing.assert_array_equal(a[[0, 2]], b[[0, 2]])


def test_untrained_heads_are_refused():
    made = heads()
    with pytest.raises(ValueError, match="have not been trained"):
        made.scores(made.start(), np.zeros([2, DIM], np.float32), np.zeros(2, int))


def test_no_gradient_leaves_through_the_features():
    made, source = heads(groups=(1, 1, 1)), tf.Variable(tf.ones([BATCH, DIM]))
    with tf.GradientTape() as tape:
        state = made.update(
            made.start(), source * 2.0, [0] * BATCH, tf.ones([BATCH, 2]), 1.0
        )
        loss = tf.reduce_sum(state["kernel"]) + tf.reduce_sum(state["bias"] ** 2)
    assert float(loss) != 0
    assert tape.gradient(loss, source) is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rates": ()}, "Learning rates .* above 0"),
        ({"rates": (0.1, 0.0, 1.0)}, "Learning rates .*0.0.* above 0"),
        ({"rates": (0.1, np.nan, 1.0)}, "finite"),
        ({"decays": (0.0, -1.0, 0.0)}, "Weight decays"),
        ({"optimizer": "adam"}, "optimizer='adam' received"),
        ({"initial": "ones"}, "initial='ones' received"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        heads(**changes)
