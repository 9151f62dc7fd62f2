import numpy as np
import pytest
import tensorflow as tf

from tfssl.data import bad_files, sources


def source_of(contents):
    return sources.BytesSource(
        contents, name="mem", channels=3, dtype="uint8", labels=None, class_names=None
    )


def png(value=9):
    return tf.io.encode_png(np.full((2, 2, 3), value, np.uint8)).numpy()


def failing_at(numbers, count):
    bad = tf.constant(numbers, tf.int64)

    def check(k):
        tf.debugging.Assert(tf.reduce_all(bad != k), ["bad"])
        return k, k * 10

    return tf.data.Dataset.range(count).map(check)


def test_skipped_elements_are_named_once_each():
    met = bad_files.BadFiles(max_fraction=0.5, log=False)
    source = source_of([png()] * 10)
    elements = failing_at([0, 4, 5, 9], 10)
    kept = bad_files.skip(elements, 4, 0, lambda k: k % 10, source, met, end=10)
    batches = [(k.numpy().tolist(), v.numpy().tolist()) for k, v in kept]
    assert batches == [([1, 2, 3, 6], [10, 20, 30, 60]), ([7, 8], [70, 80])]
    assert met.files == ["mem[0]", "mem[4]", "mem[5]", "mem[9]"] and met.count == 4
    list(kept)  # Another epoch.
    assert met.count == 4


def test_too_many_stop_and_stay_stopped():
    met = bad_files.BadFiles(max_fraction=0.1, log=False)
    kept = bad_files.skip(
        failing_at([2, 3], 10), 2, 0, int, source_of([png()] * 10), met, end=10
    )
    iterator = iter(kept)
    assert next(iterator)[0].numpy().tolist() == [0, 1]
    for _ in range(2):
        with pytest.raises(tf.errors.OpError, match="2 of 10 images of mem"):
            next(iterator)
    assert met.count == 2  # A good image lost with the error is not a bad one.
    assert "raise the limit" in met.error


def test_an_endless_dataset_gives_whole_batches_only():
    met = bad_files.BadFiles(max_fraction=0.5, log=False)
    kept = bad_files.skip(
        failing_at([1, 13], 14), 3, 0, int, source_of([png()] * 14), met
    )
    assert [k.numpy().tolist() for k, _ in kept] == [
        [0, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]
    ]  # fmt: skip
    assert met.files == ["mem[1]"]  # 13 has no batch after it yet.


def test_reading_that_fails_on_and_on_is_noticed_without_a_batch():
    """And ends with the limit, not with the images: the stream has no end."""
    met = bad_files.BadFiles(max_fraction=0.1, log=False)
    elements = failing_at(range(5, 10_000), 10_000)
    kept = iter(bad_files.skip(elements, 4, 0, int, source_of([png()] * 40), met))
    assert next(kept)[0].numpy().tolist() == [0, 1, 2, 3]
    with pytest.raises(tf.errors.OpError, match="5 of 40 images of mem could not be"):
        next(kept)
    assert met.files == [f"mem[{k}]" for k in range(5, 10)]


def test_images_that_come_back_go_on_in_order():
    met = bad_files.BadFiles(max_fraction=0.9, log=False)
    lost = [1, *range(6, 70), 75]
    source = source_of([png()] * 100)
    for size in (3, 16):
        kept = bad_files.skip(failing_at(lost, 100), size, 0, int, source, met)
        found = np.concatenate([k.numpy() for k, _ in kept]).tolist()
        good = [k for k in range(100) if k not in lost]
        assert found == good[: len(good) // size * size]
    assert met.files == [f"mem[{k}]" for k in lost]


def test_a_stream_ends_where_nothing_can_be_read_and_all_may_be_bad():
    met = bad_files.BadFiles(max_fraction=1.0, log=False)
    source = source_of([png()] * 10)
    elements = failing_at(range(4, 10_000), 10_000)
    kept = iter(bad_files.skip(elements, 4, 0, lambda k: k % 10, source, met))
    assert next(kept)[0].numpy().tolist() == [0, 1, 2, 3]
    with pytest.raises(tf.errors.OpError, match="No image of mem can be read any more"):
        next(kept)


def test_check_finds_a_readable_image_and_runs_the_work_on_it():
    used = []

    def use(raw):
        return tf.py_function(lambda r: used.append(r.numpy()) or 0, [raw], tf.int64)

    met = bad_files.BadFiles(max_fraction=1.0, log=False)
    good = png(77)
    bad_files.check(source_of([b"no"] * 39 + [good]), met, use)
    assert used == [good]


def test_check_traces_nothing():
    def use(raw):
        assert tf.executing_eagerly()

    bad_files.check(source_of([png()]), bad_files.BadFiles(), use)


def test_check_shows_mistakes_in_the_work():
    def mistaken(raw):
        return tf.ensure_shape(tf.strings.bytes_split(raw), [1])

    with pytest.raises((ValueError, tf.errors.OpError)):
        bad_files.check(source_of([png()] * 3), bad_files.BadFiles(), mistaken)


def test_check_stops_when_the_limit_is_passed():
    met = bad_files.BadFiles(max_fraction=0.1, log=False)
    with pytest.raises(ValueError, match="of 100 images of mem could not be read"):
        bad_files.check(source_of([b"no"] * 100), met, lambda raw: raw)
    with pytest.raises(ValueError, match="No image of mem could be decoded"):
        bad_files.check(source_of([b"no"] * 3), met, lambda raw: raw)


def test_reasons_are_listed(tmp_path):
    """Too large by its header, gone, and simply not decodable."""
    huge = png()
    # The sides of the PNG's header, big-endian, from byte 16 on: 20,000 x 20,000.
    huge = huge[:16] + (20_000).to_bytes(4, "big") * 2 + huge[24:]
    contents = {"a.png": huge, "b.png": b"no image", "c.png": png(), "d.png": png()}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    source = sources.open_source(tmp_path)
    (tmp_path / "d.png").unlink()
    met = bad_files.BadFiles(max_fraction=0.8, log=False)
    elements = tf.data.Dataset.range(4).map(
        lambda k: (k, tf.shape(source.decode(source.read(k))))
    )
    kept = bad_files.skip(elements, 4, 0, int, source, met, end=4)
    assert [k.numpy().tolist() for k, _ in kept] == [[2]]
    names = [str(tmp_path / name) for name in ("a.png", "b.png", "d.png")]
    assert met.files == names
    assert met.listed == [
        f"{names[0]} (too large: more than 100 megapixels)",
        names[1],
        f"{names[2]} (missing)",
    ]
    strict = bad_files.BadFiles(max_fraction=0.0, log=False)
    with pytest.raises(ValueError, match=r"3 of 4 .*a\.png \(too large"):
        strict.add(dict.fromkeys(met.listed, ""), source)
