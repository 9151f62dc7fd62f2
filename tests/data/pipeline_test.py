import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import batches as made
from tfssl.data import pipeline, preprocessing, sources, views
from tfssl.data.views import batched, recipes


@pytest.fixture(autouse=True)
def global_seed():
    yield
    tf.random.set_seed(None)  # As in a fresh process.


@made.both_kinds
def test_epochs(make):
    rows = made.whole_of(make)
    np.testing.assert_array_equal(rows["position"], np.arange(4 * made.EPOCH))
    assert rows["index"].dtype == rows["position"].dtype == np.int64
    assert rows["view_0"].shape == (4 * made.EPOCH, 8, 8, 3)
    assert rows["view_0"].dtype == np.float32
    epochs = rows["index"].reshape(4, made.EPOCH)
    for epoch in epochs:
        # No image twice in an epoch, hence in none of its batches.
        assert len(set(epoch)) == made.EPOCH
        assert set(epoch) <= set(range(made.COUNT))
        assert list(epoch) != sorted(epoch)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    left_out = [frozenset(range(made.COUNT)) - set(epoch) for epoch in epochs]
    assert len(set(left_out)) > 1


@made.both_kinds
def test_views_are_of_the_indexed_image_and_differ(make):
    source = make()
    rows = made.cut(made.whole_of(make), 0, 2 * made.EPOCH)
    plain = made.rows_of(source, 2 * made.EPOCH // made.BATCH, augment=False)
    np.testing.assert_array_equal(rows["index"], plain["index"])
    one = preprocessing.Preprocessing(size=8)
    images = made.images_of()
    for i, view in zip(plain["index"], plain["view_0"]):
        np.testing.assert_array_equal(view, one.apply(tf.constant(images[i])))
    np.testing.assert_array_equal(plain["view_0"], plain["view_1"])
    for a, b in zip(rows["view_0"], rows["view_1"]):
        assert np.abs(a - b).max() > 0.01
    first, second = (
        rows["index"][: made.EPOCH].tolist(),
        rows["index"][made.EPOCH :].tolist(),
    )
    common = set(first) & set(second)
    assert len(common) >= 17  # Each epoch leaves out 3 of 23.
    for i in common:
        a, b = first.index(i), made.EPOCH + second.index(i)
        assert np.abs(rows["view_0"][a] - rows["view_0"][b]).max() > 0.01


@made.both_kinds
@pytest.mark.parametrize("start", [pytest.param(10, marks=pytest.mark.slow), 45])
def test_a_resumed_stream_is_the_uninterrupted_one(make, start):
    # Both lie inside of a batch, 45 in the third epoch.
    source = make()
    whole = made.whole_of(make)
    rest = made.rows_of(source, 4, start=start, with_labels=True)
    assert rest["position"][0] == start
    made.assert_same(rest, made.cut(whole, start, start + 16))


@made.both_kinds
@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_shards_are_the_rows_of_the_whole(make, workers):
    source = make()
    whole = made.whole_of(make)
    rows = made.BATCH // workers
    parts = [
        made.rows_of(source, 6, shard=(w, workers), with_labels=True)
        for w in range(workers)
    ]
    for step in range(6):
        mine = [made.cut(part, step * rows, step * rows + rows) for part in parts]
        joined = {key: np.concatenate([m[key] for m in mine]) for key in whole}
        made.assert_same(
            joined, made.cut(whole, step * made.BATCH, (step + 1) * made.BATCH)
        )


@made.both_kinds
def test_shards_resume_inside_of_a_batch(make):
    # Position 6 is row 2 of the batch of 4 to 7: worker 0 goes on at 8, worker 1 at 6.
    source = make()
    whole = made.whole_of(make)
    for worker, wanted in [(0, [8, 9, 12, 13]), (1, [6, 7, 10, 11])]:
        part = made.rows_of(source, 2, shard=(worker, 2), start=6, with_labels=True)
        made.assert_same(part, {key: value[wanted] for key, value in whole.items()})


@made.both_kinds
def test_parallel_calls_and_the_global_seed_change_nothing(make):
    source = make()
    whole = made.cut(made.whole_of(make), 0, 28)  # Made without a global seed.
    for seed, parallel in ((0, 1), (5, 3)):
        tf.random.set_seed(seed)
        rows = made.rows_of(source, 7, num_parallel_calls=parallel, with_labels=True)
        made.assert_same(rows, whole)


@made.both_kinds
def test_the_seed_decides_order_and_views(make):
    source = make()
    a, b = (
        made.cut(made.whole_of(make), 0, 20),
        made.rows_of(source, 5, seed=8),
    )
    made.assert_same(made.rows_of(make(), 5, seed=0, with_labels=True), a)  # Made anew.
    assert list(a["index"]) != list(b["index"])
    # One image, other views.
    i = next(i for i in a["index"] if i in b["index"])
    views_of = [rows["view_0"][list(rows["index"]).index(i)] for rows in (a, b)]
    assert np.abs(views_of[0] - views_of[1]).max() > 0.01


@made.both_kinds
def test_labels_belong_to_their_images(make):
    rows = made.whole_of(make)
    assert rows["label"].dtype == np.int64
    np.testing.assert_array_equal(rows["label"], rows["index"] * 10)
    assert "label" not in made.rows_of(make(), 1)


def test_a_sequence_reads_every_image_once_per_epoch():
    # 20 images divide into batches: nothing is left out.
    rows = made.rows_of(made.sequential(20), 15)
    epochs = rows["index"].reshape(3, 20)
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_sequence_whose_length_is_not_known():
    images = made.images_of()
    dataset = tf.data.Dataset.from_tensor_slices(images).filter(lambda _: True)
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    source = sources.open_source(dataset)
    assert source.num_images == made.COUNT and source.labels is None
    known = made.rows_of(made.sequential(labelled=False), 5, augment=False)
    made.assert_same(made.rows_of(source, 5, augment=False), known)


# Kinds of images ----------------------------------------------------------------


@pytest.mark.parametrize(
    "channels, dtype",
    [
        (1, np.uint8),
        pytest.param(1, np.float32, marks=pytest.mark.slow),
        (3, np.uint16),
        pytest.param(3, np.float32, marks=pytest.mark.slow),
        pytest.param(4, np.uint8, marks=pytest.mark.slow),
        (4, np.uint16),
        pytest.param(13, np.uint16, marks=pytest.mark.slow),
        (13, np.float32),
    ],
)
def test_channels_and_depths(channels, dtype):
    source = made.array(count=6, channels=channels, dtype=dtype)
    # Normalisation is given for RGB and must fit any number of channels.
    recipe = made.recipe(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    rows = made.rows_of(source, 1, recipe)
    view = rows["view_0"] * 0.2
    view += (0.4, 0.5, 0.6) if channels == 3 else 0.5
    assert view.shape == (4, 8, 8, channels)
    assert view.min() > -1e-4 and view.max() < 1 + 1e-4
    # Not one colour: the range is used, whatever the raw depth is.
    assert view.max() - view.min() > 0.2
    plain = made.rows_of(source, 1, recipe, augment=False)
    one = recipes.preprocessing_for(recipe, source)
    for i, found in zip(plain["index"], plain["view_1"]):
        expected = one.apply(tf.constant(source.read(int(i))))
        np.testing.assert_array_equal(found, expected)


def test_every_view_has_its_own_size():
    recipe = recipes.Recipe([views.View(size=12), views.View(size=6)], "two")
    rows = made.rows_of(made.array(), 1, recipe, augment=False)
    assert rows["view_0"].shape == (4, 12, 12, 3)
    assert rows["view_1"].shape == (4, 6, 6, 3)


# Errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"batch_size": 24}, "has only 23 images"),
        ({"batch_size": 0}, "expected a whole number, 1 or more"),
        ({"batch_size": 4, "shard": (0, 3)}, "multiple"),
    ],
)
def test_bad_batch_sizes(kwargs, message):
    with pytest.raises(ValueError, match=message):
        pipeline.multiview(made.array(), made.recipe(), **kwargs)


def test_labels_that_are_not_there():
    with pytest.raises(ValueError, match="array has no labels"):
        pipeline.multiview(
            sources.ArraySource(made.images_of()),
            made.recipe(),
            batch_size=4,
            with_labels=True,
        )


def test_steps_per_epoch():
    source = made.array()
    assert [pipeline.steps_per_epoch(source, n) for n in (1, 4, 23)] == [23, 5, 1]


@made.both_kinds
def test_large_views_come_in_the_same_order(make, monkeypatch):
    # Views above `SMALL` pixels are made one by one; here all count as large.
    monkeypatch.setattr(batched, "SMALL", 0)
    rows = made.rows_of(make(), 4, start=6, shard=(1, 2), with_labels=True)
    places = [p for p in range(6, 22) if p % 4 >= 2][:8]
    small = {key: value[places] for key, value in made.whole_of(make).items()}
    for key in ("position", "index", "label"):
        np.testing.assert_array_equal(rows[key], small[key])
    for key in ("view_0", "view_1"):
        np.testing.assert_allclose(rows[key], small[key], atol=1e-5)
