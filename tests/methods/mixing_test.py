import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfssl.methods import mixing

BOTH = mixing.Mixing(mixup=0.4, cutmix=1.0)


def positions(count, first=0):
    return tf.range(first, first + count, dtype=tf.int64)


def batch(rows=8, size=6, channels=3, dtype="float32"):
    images = np.random.default_rng(0).random((rows, size, size + 2, channels))
    return tf.cast(images, dtype)


def slow_mixed(images, drawn):
    """Pair by pair and pixel by pixel, as the two papers' code has it."""
    out, weights = np.zeros(images.shape), []
    height, width = images.shape[1:3]
    for pair, (kept, side, row, column) in enumerate(zip(*(x.numpy() for x in drawn))):
        cut_h, cut_w = int(side * height), int(side * width)
        middle_y, middle_x = int(row * height), int(column * width)
        y = np.clip([middle_y - cut_h // 2, middle_y + cut_h // 2], 0, height)
        x = np.clip([middle_x - cut_w // 2, middle_x + cut_w // 2], 0, width)
        area = (y[1] - y[0]) * (x[1] - x[0]) / (height * width)
        for own, other in ((2 * pair, 2 * pair + 1), (2 * pair + 1, 2 * pair)):
            out[own] = kept * images[own] + (1 - kept) * images[other]
            out[own, y[0] : y[1], x[0] : x[1]] = images[other, y[0] : y[1], x[0] : x[1]]
            weights.append(kept * (1 - area))
    return out, weights


@pytest.mark.parametrize(
    "settings", [mixing.Mixing(mixup=0.4), mixing.Mixing(cutmix=1.0), BOTH]
)
def test_equals_the_slow_form(settings):
    images = batch(rows=40)
    drawn = settings.draw(7, positions(40))
    mixed, weight = mixing.apply(images, drawn)
    expected, weights = slow_mixed(images.numpy(), drawn)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    np.testing.assert_allclose(weight, weights, atol=1e-6)
    assert weight.dtype == tf.float32


def test_the_weight_is_the_share_of_the_own_image():
    """Of images of one colour each, so that the mean of a mixed one is that share."""
    images = tf.ones([64, 9, 7, 1]) * tf.reshape([0.0, 1.0] * 32, [-1, 1, 1, 1])
    mixed, weight = mixing.apply(images, BOTH.draw(1, positions(64)))
    share = np.mean(mixed, (1, 2, 3))
    share[::2] = 1 - share[::2]
    np.testing.assert_allclose(weight, share, atol=1e-6)
    assert len(np.unique(np.round(weight[::2], 5))) > 10


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 4.0])
def test_lambdas_are_beta_distributed(alpha):
    count = 20000
    fades = mixing.Mixing(mixup=alpha).draw(5, positions(2 * count))
    cuts = mixing.Mixing(cutmix=alpha).draw(5, positions(2 * count))
    assert not fades.side.numpy().any() and (cuts.kept.numpy() == 1).all()
    for kept in (fades.kept.numpy(), 1 - np.square(cuts.side.numpy())):
        for below in (0.2, 0.35, 0.5, 0.65, 0.8):
            found = (kept < stats.beta(alpha, alpha).ppf(below)).mean()
            assert abs(found - below) < 4 * math.sqrt(below * (1 - below) / count)


def test_whole_numbers_are_alphas_too():
    for given in ({"mixup": 1}, {"cutmix": 1}, {"mixup": 1, "cutmix": 2}):
        whole = mixing.Mixing(**given).draw(0, positions(8))
        exact = mixing.Mixing(**{k: float(v) for k, v in given.items()})
        for a, b in zip(whole, exact.draw(0, positions(8))):
            np.testing.assert_array_equal(a, b)


def test_shares_of_the_kinds():
    count = 10000
    drawn = mixing.Mixing(0.5, 1.0, probability=0.6, switch=0.25).draw(
        0, positions(2 * count)
    )
    cuts, fades = drawn.side.numpy() > 0, drawn.kept.numpy() < 1
    assert not (cuts & fades).any()
    for found, expected in ((cuts.mean(), 0.15), (fades.mean(), 0.45)):
        assert abs(found - expected) < 4 * math.sqrt(0.25 / count)


@pytest.mark.parametrize("probability, both", [(0.0, True), (1.0, False)])
def test_off_changes_no_bit(probability, both):
    settings = mixing.Mixing(0.4 * both, 1.0 * both, probability=probability)
    assert not settings.active and BOTH.active
    images = batch()
    mixed, weight = mixing.apply(images, settings.draw(0, positions(8)))
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(weight, np.ones(8))


@pytest.mark.parametrize("count", [2, 4])
def test_replicas_mix_as_one(mirrored, count):
    strategy = mirrored(count)
    images = batch(rows=16)

    def mix(images, places):
        return mixing.apply(images, BOTH.draw(3, places))

    parts = strategy.experimental_distribute_values_from_function(
        lambda context: (
            tf.split(images, count)[context.replica_id_in_sync_group],
            tf.split(positions(16, 160), count)[context.replica_id_in_sync_group],
        )
    )

    @tf.function
    def step(images, places):
        return strategy.run(mix, args=(images, places))

    found = step(*parts)
    expected = mix(images, positions(16, 160))
    for one, whole in zip(found, expected):
        one = tf.concat(strategy.experimental_local_results(one), 0)
        np.testing.assert_allclose(one, whole, atol=1e-6)


def test_every_batch_and_seed_has_other_numbers():
    first = BOTH.draw(3, positions(16)).row.numpy()
    for other in (BOTH.draw(4, positions(16)), BOTH.draw(3, positions(16, 16))):
        assert not np.intersect1d(first, other.row).size


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_under_xla_and_in_half_precision(dtype):
    images = batch(dtype=dtype)

    @tf.function(jit_compile=True)
    def compiled(images, places):
        return mixing.apply(images, BOTH.draw(3, places))

    mixed, weight = compiled(images, positions(8))
    assert mixed.dtype == images.dtype and weight.dtype == tf.float32
    expected, weights = mixing.apply(images, BOTH.draw(3, positions(8)))
    close = {"float32": 1e-5, "bfloat16": 8e-3, "float16": 1e-3}[dtype]
    np.testing.assert_allclose(
        tf.cast(mixed, "float32"), tf.cast(expected, "float32"), atol=close
    )
    np.testing.assert_allclose(weight, weights, atol=1e-6)


def test_partners_change_places():
    assert mixing.partners(tf.constant([5, 6, 7, 8])).numpy().tolist() == [6, 5, 8, 7]
    with pytest.raises(ValueError, match="3 images of a replica cannot be mixed"):
        mixing.partners(tf.zeros([3, 2]))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mixup": -0.1}, "mixup=-0.1 received, expected a number, 0 or more"),
        ({"cutmix": "1"}, "cutmix='1' received"),
        ({"probability": 1.5}, "probability=1.5 received, expected a number from 0"),
        ({"switch": -1}, "switch=-1 received"),
    ],
)
def test_settings_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        mixing.Mixing(**arguments)
