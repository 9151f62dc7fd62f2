import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfssl.data import order as order_lib
from tfssl.data import sources


def make(num_images=1000, batch_size=10, seed=0, start=0, shard=(0, 1), **others):
    source = sources.open_source(np.zeros((num_images, 1, 1, 1), np.uint8))
    return order_lib.Order(source, batch_size, seed, start, shard, **others)


def epochs(order, count):
    positions = tf.range(count * order.epoch_size, dtype=tf.int64)
    return order.index(positions).numpy().reshape(count, order.epoch_size)


@pytest.mark.parametrize("seed", [0, 1, 2**40, -3])
def test_an_epoch_is_a_fair_shuffle(seed):
    order = make(seed=seed)
    found = epochs(order, 60)
    for epoch in found:
        assert len(set(epoch)) == 1000
    # Where an image stands is uniform over the tenths of an epoch: sums of 60
    # epochs' chi-squares over 50 images.
    tenths = found.argsort(1)[:, ::20] // 100
    counts = np.apply_along_axis(np.bincount, 0, tenths, minlength=10)
    chi_square = ((counts - 6) ** 2 / 6).sum()
    assert 1e-4 < stats.chi2(9 * 50).cdf(chi_square) < 1 - 1e-4
    # Images that are neighbours do not stay so: about 2 pairs of 1,000 by chance.
    neighbours = (np.abs(np.diff(found, axis=1)) == 1).sum(1).mean()
    assert neighbours < 3.5
    in_place = (found == np.arange(1000)).sum(1).mean()
    assert in_place < 2.0


def test_one_position_gives_what_a_vector_gives():
    order = make(103)
    many = order.index(tf.range(250, dtype=tf.int64)).numpy()
    singly = [int(order.index(tf.constant(p, tf.int64))) for p in range(250)]
    np.testing.assert_array_equal(many, singly)


@pytest.mark.parametrize("start, worker, k, position", [
    (0, 0, 0, 0), (0, 1, 0, 5), (13, 0, 8, 13), (13, 1, 5, 15), (17, 0, 10, 20),
    (17, 1, 7, 17), (30, 1, 15, 35),
])  # fmt: skip
def test_a_worker_starts_at_its_first_row_not_before_start(start, worker, k, position):
    # Two workers, batches of 10: rows 0 to 4 and 5 to 9 of each.
    order = make(start=start, shard=(worker, 2))
    assert order.first == k
    assert order.position(order.first) == position


def test_the_image_of_an_element():
    order = make(start=20, shard=(1, 2))
    # Element 22 of worker 1: row 2 of its 5 in batch 4, position 47.
    assert order.image(22) == int(order.index(tf.constant(47, tf.int64)))


def test_images_that_are_repeated_stand_a_part_of_the_batch_apart():
    order, once = make(103, 12, repeats=3), make(103, 12)
    assert order.epoch_size == once.epoch_size == 96
    for epoch, all_of_epoch in zip(epochs(order, 3), epochs(once, 3)):
        batches = epoch.reshape(8, 3, 4)  # Three times the same four images.
        np.testing.assert_array_equal(batches, batches[:, :1].repeat(3, axis=1))
        # No image in two batches, and those that come first without repeats.
        np.testing.assert_array_equal(batches[:, 0].ravel(), all_of_epoch[:32])
        assert len(set(epoch)) == 32


def test_workers_and_a_resume_share_the_repeated_images():
    whole = epochs(make(103, 12, repeats=3), 2).ravel()
    for worker in (0, 1):
        order = make(103, 12, start=29, shard=(worker, 2), repeats=3)
        batches = iter(order.batches(lambda _: tf.zeros([12, 1])))
        for _ in range(4):
            _, position, index, _ = next(batches)
            np.testing.assert_array_equal(index, whole[position])
            assert [order.image(k) for k in range(order.first, order.first + 3)] == [
                whole[order.position(k)] for k in range(order.first, order.first + 3)
            ]


def test_repeats_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="batch_size=10 received with repeats=3"):
        make(repeats=3)
    with pytest.raises(ValueError, match="repeats=0 received"):
        make(repeats=0)
    images = tf.data.Dataset.from_tensors(np.zeros((1, 1, 1), np.uint8)).repeat(20)
    stream = sources.open_source(images)
    with pytest.raises(ValueError, match="in sequence, so its images cannot stand in"):
        order_lib.Order(stream, 10, 0, 0, (0, 1), repeats=2)


@pytest.mark.parametrize("encoded", [False, True])
def test_the_buffer_of_a_sequence_is_bounded_by_its_largest_images(
    encoded, monkeypatch
):
    monkeypatch.setattr(order_lib, "_SHUFFLE_BYTES", 1 << 20)
    sides = tf.data.Dataset.from_tensor_slices([100] * 30 + [400] * 20)
    images = sides.map(lambda side: tf.zeros([side, side, 3], tf.uint8))
    if encoded:
        images = images.map(lambda image: tf.io.serialize_tensor(image))
    source = sources.open_source(images)
    buffered = []

    class Watched(tf.data.Dataset):
        shuffle = staticmethod(lambda size, **_: buffered.append(size))

    for part in (source, source.subset(np.arange(40)), source.subset(np.arange(3))):
        order = order_lib.Order(part, 2, 0, 0, (0, 1))
        order._shuffled(Watched, 0)
    # 480,000 bytes each; the small ones of the last part all fit.
    assert buffered == [2, 2, 3]


def test_a_list_of_images_takes_the_place_of_the_shuffle():
    drawn = np.random.default_rng(0).integers(1000, size=1000)
    source = sources.open_source(np.zeros((1000, 1, 1, 1), np.uint8))
    order = order_lib.Order(source, 10, 0, 995, (1, 2), sampling=drawn)
    np.testing.assert_array_equal(epochs(order, 2), [drawn, drawn])
    _, position, index, _ = next(iter(order.batches(lambda _: tf.zeros([10, 1]))))
    # Worker 1's rows of batch 99: the last five places of the epoch.
    np.testing.assert_array_equal(position, np.arange(995, 1000))
    np.testing.assert_array_equal(index, drawn[995:])


@pytest.mark.parametrize(
    "sampling, sentence",
    [
        (np.zeros(999), r"sampling of shape \(999,\) received, .* \(1000,\)"),
        (np.full(1000, 1000), "sampling holds images 1000 to 1000, but .* 0 to 999"),
        (np.full(1000, -1), "sampling holds images -1 to -1"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(sampling, sentence):
    source = sources.open_source(np.zeros((1000, 1, 1, 1), np.uint8))
    with pytest.raises(ValueError, match=sentence):
        order_lib.Order(source, 10, 0, 0, (0, 1), sampling=sampling)
