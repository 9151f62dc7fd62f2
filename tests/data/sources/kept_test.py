import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import batches as made
from tfssl.data import class_names, pipeline, preprocessing, sources
from tfssl.tasks import data_service, make_tfrecords

ROOM = 1 << 30


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def files(folder, images, kind="JPEG"):
    """A folder of them, in class folders."""
    for i, image in enumerate(images):
        path = folder / f"class_{i % 2}" / f"{i:02d}.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.file_of(image, kind))
    return sources.open_source(str(folder), labels="folders")


def decoded(source):
    return np.stack(
        [source.decode(source.read(tf.constant(i))) for i in range(source.num_images)]
    )


def evaluated(source, **settings):
    path = preprocessing.Preprocessing(**settings)
    bad = pipeline.BadFiles(max_fraction=0.5)
    batches = list(pipeline.labeled(source, path, batch_size=4, bad_files=bad))
    joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    return joined, bad.listed


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Files of all kinds and of two sizes, three of which cannot be read."""
    folder = tmp_path_factory.mktemp("mixed") / "images"
    made.folder_of(folder)
    for kind in ("PNG", "JPEG"):
        (folder / f"large.{kind.lower()}").write_bytes(
            made.file_of(noise(100, 90, 3), kind)
        )
    return sources.open_source(str(folder))


# Views of 4 px are made of a smaller image; those of 80 px image by image.
@pytest.mark.parametrize("size", [4, 80])
def test_views_and_unreadable_images_are_those_without(mixed, size):
    found = []
    for source in (mixed, sources.keep(mixed, ROOM)):
        bad = pipeline.BadFiles(max_fraction=0.5)
        one = made.recipe(size)[:1]
        rows = made.rows_of(source, 15, one, bad_files=bad, start=2)
        found.append((rows, bad.listed))
    made.assert_same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] and len(found[0][1]) == 3


def test_too_many_unreadable_images_stop_the_stream_as_ever(mixed):
    bad = pipeline.BadFiles(max_fraction=0.1)
    with pytest.raises((ValueError, tf.errors.OpError), match="3 of 27 images"):
        made.rows_of(sources.keep(mixed, ROOM), 20, bad_files=bad)


@pytest.mark.parametrize("settings", [{"size": 8}, {"size": 90, "crop": 0.875}])
def test_evaluation_is_that_without(mixed, settings):
    (plain, bad), (kept, kept_bad) = (
        evaluated(source, **settings) for source in (mixed, sources.keep(mixed, ROOM))
    )
    made.assert_same(plain, kept)
    assert bad == kept_bad and len(bad) == 3


def test_small_images_of_one_size_are_those_of_arrays(tmp_path):
    plain = files(tmp_path / "images", noise(23, 12, 10, 3))
    kept = sources.keep(plain, ROOM)
    recipe = made.recipe(jitter=0.8)
    given = dict(views_of=recipe, with_labels=True, batch_size=8)
    whole = made.rows_of(kept, 6, **given)
    array = sources.ArraySource(decoded(plain), plain.labels)
    made.assert_same(whole, made.rows_of(array, 6, **given))
    # Batched matrices round elsewhere than a resize of one image.
    for key, value in made.rows_of(plain, 6, **given).items():
        np.testing.assert_allclose(whole[key], value, atol=2e-5, err_msg=key)
    resumed = made.rows_of(kept, 4, start=16, **given)
    made.assert_same(made.cut(whole, 16), resumed)
    workers = [made.rows_of(kept, 6, shard=(w, 2), **given) for w in range(2)]
    for w, rows in enumerate(workers):
        mine = {k: v.reshape(6, 2, 4, *v.shape[1:])[:, w] for k, v in whole.items()}
        made.assert_same({k: np.concatenate(v) for k, v in mine.items()}, rows)


def test_images_are_decoded_once_for_all_that_read_them(tmp_path):
    plain = files(tmp_path / "images", noise(8, 12, 10, 3))
    kept = sources.keep(plain, ROOM)
    expected = evaluated(plain, size=8)
    assert sources.keep(kept, 1) is kept
    first = made.rows_of(kept, 2, seed=0)
    shutil.rmtree(tmp_path / "images")
    made.assert_same(first, made.rows_of(kept, 2, seed=0))
    made.assert_same(evaluated(kept, size=8)[0], expected[0])


def test_a_part_of_kept_images_is_kept(tmp_path):
    indices, given = [5, 2, 7, 0], dict(batch_size=2, with_labels=True)
    plain = files(tmp_path / "images", noise(8, 12, 10, 3))
    part = sources.keep(plain, ROOM).subset(indices)
    expected = evaluated(plain.subset(indices), size=8)
    array = sources.ArraySource(decoded(plain)[indices], plain.labels[indices])
    views = made.rows_of(array, 2, **given)
    made.assert_same(views, made.rows_of(part, 2, **given))
    shutil.rmtree(tmp_path / "images")
    made.assert_same(evaluated(part, size=8)[0], expected[0])
    made.assert_same(views, made.rows_of(part, 2, **given))


def test_a_part_of_kept_images_keeps_the_labels_that_it_was_given(tmp_path):
    indices, given = [5, 2, 7, 0], dict(batch_size=2, with_labels=True)
    plain = files(tmp_path / "images", noise(8, 12, 10, 3))
    plain.class_names, plain.labels = None, np.where(plain.labels, 9, 5)
    numbers, names = [5, 9], ("five", "nine")
    part = sources.keep(plain, ROOM).subset(indices)
    part = class_names.renumbered(part, numbers, names)
    array = sources.ArraySource(decoded(plain)[indices], [1, 0, 1, 0])
    made.assert_same(made.rows_of(array, 2, **given), made.rows_of(part, 2, **given))
    ready = part.ready()
    assert ready is not part and ready.class_names == names
    # Also a part of such a part, and one without labels.
    part = part.subset([3, 1])
    part.labels = [1, 0]
    assert part.ready().labels.tolist() == [1, 0]
    part.labels = None
    assert part.ready().known_labels is None


def test_what_a_run_compares_and_learns_from_stays(tmp_path):
    plain = files(tmp_path / "images", noise(6, 12, 10, 3))
    kept = sources.keep(plain, ROOM)
    assert (kept.fingerprint(), kept.identity()) == (
        plain.fingerprint(),
        plain.identity(),
    )
    np.testing.assert_array_equal(kept.labels, plain.labels)
    assert kept.describe(3) == plain.describe(3)
    part = kept.subset([4, 1])
    np.testing.assert_array_equal(decoded(part), decoded(plain)[[4, 1]])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_records_of_pixels(tmp_path, dtype):
    images = noise(6, 70, 70, 2).astype(dtype)
    images = images / dtype(255) if dtype == np.float32 else images * dtype(257)
    make_tfrecords.make_tfrecords(
        images, tmp_path, name="part", num_shards=2, verbose=0
    )
    plain = sources.open_source(f"tfrecord:{tmp_path}/part.json")
    ready = sources.keep(plain, ROOM).ready()
    assert ready is not plain and ready.dtype == np.dtype(dtype).name
    np.testing.assert_array_equal(decoded(ready), images)


def test_what_is_no_encoded_file_is_left_alone():
    for source in (made.array(), made.sequential(), made.encoded_sequence([])):
        assert sources.keep(source, ROOM) is source


def test_images_that_do_not_fit_are_read_as_ever(tmp_path):
    plain = files(tmp_path / "images", noise(6, 12, 10, 3))
    kept = sources.keep(plain, 6 * 12 * 10 * 3 - 1)
    assert kept.ready() is kept
    words = "in every epoch", "cache_gib"
    assert "in every epoch" in kept.memory.told(*words)
    made.assert_same(made.rows_of(plain, 2), made.rows_of(kept, 2))
    assert "kept" in sources.keep(plain, 6 * 12 * 10 * 3).memory.told(*words)


def test_photographs_as_jpeg_files_are_decoded_where_their_crops_lie(tmp_path):
    photos = sources.keep(files(tmp_path / "a", noise(4, 70, 60, 3)), ROOM)
    assert photos.ready() is photos
    told = photos.memory.told("in every epoch", "cache_gib")
    assert "JPEG files of more than 64 px" in told
    whole = sources.keep(files(tmp_path / "b", noise(4, 70, 60, 3), "PNG"), ROOM)
    assert whole.ready() is not whole


def test_what_an_estimate_misses_is_read_from_its_file(tmp_path):
    # 32 of 63 images are looked at, every second one; the others are larger.
    images = [noise(*((8, 8, 3), (30, 30, 3))[i % 2]) for i in range(63)]
    for i, image in enumerate(images):
        (tmp_path / f"{i:02d}.png").write_bytes(made.file_of(image, "PNG"))
    plain = sources.open_source(str(tmp_path))
    ready = sources.keep(plain, 63 * 8 * 8 * 3).ready()
    np.testing.assert_array_equal(ready.decode(ready.read(1)), images[1])
    for path in tmp_path.iterdir():
        path.unlink()
    np.testing.assert_array_equal(ready.decode(ready.read(0)), images[0])
    with pytest.raises(tf.errors.NotFoundError):
        ready.decode(ready.read(61))


def test_a_data_service_decodes_for_itself(tmp_path, monkeypatch):
    plain = files(tmp_path / "images", noise(8, 12, 10, 3))
    server = data_service.start("localhost", port=0)
    kept = sources.keep(plain, ROOM)
    monkeypatch.setattr(kept.memory, "ready", None)  # Never asked.
    rows = made.rows_of(kept, 4, data_service=server.address)
    made.assert_same(rows, made.rows_of(plain, 4))


def test_pipelines_share_the_memory(tmp_path):
    images = [np.full((1000, 1200, 3), i, np.uint8) for i in range(60)]
    kept = sources.keep(files(tmp_path / "images", images, "PNG"), ROOM)

    def resident():
        pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    held = [iter(pipeline.multiview(kept, made.recipe(), batch_size=2))]
    path = preprocessing.Preprocessing(size=8)
    held.append(iter(pipeline.labeled(kept, path, batch_size=2)))
    for batches in held:
        next(batches)
    assert resident() - before < 1.6 * 60 * 3_600_000
