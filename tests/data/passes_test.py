"""Files of a sequence that are lost or changed after its first pass."""

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import batches as made
from tfssl import tasks
from tfssl.data import bad_files, pipeline, preprocessing, sources

_COUNT = 40


class _Later:
    """Sequence of files whose later passes are what is set.

    Attributes:
        source: of the sequence.
        numbers: of the files in a pass; one below 0 cannot be read.
        all: the numbers of the first pass.
    """

    def __init__(self, leave_out=False):
        self.files = [made.file_of(image, "PNG") for image in made.images_of(_COUNT)]
        self.all = np.arange(_COUNT)
        self.numbers = tf.Variable(self.all)
        dataset = tf.data.Dataset.range(_COUNT).map(self._file)
        if leave_out:
            dataset = dataset.ignore_errors()
        self.source = sources.open_source(dataset)
        assert self.source.fingerprint()

    def _file(self, place):
        number = self.numbers[place]
        with tf.control_dependencies([tf.debugging.assert_non_negative(number)]):
            return tf.gather(self.files, tf.maximum(number, 0))

    def lose(self, *places):
        self.numbers.assign(np.where(np.isin(self.all, places), -1, self.all))


@pytest.mark.parametrize("leave_out, lost", [(False, [0, 20]), (True, [7, 8, 9, 39])])
def test_files_that_are_lost_later_are_named_and_no_others(leave_out, lost):
    later = _Later(leave_out)
    whole = made.rows_of(later.source, 25)
    later.lose(*lost)
    met = pipeline.BadFiles(max_fraction=0.2)
    rows = made.rows_of(later.source, 20, bad_files=met)  # Two epochs and more.
    kept = [(p, i) for p, i in zip(whole["position"], whole["index"]) if i not in lost]
    assert list(zip(rows["position"], rows["index"])) == kept[:80]
    assert sorted(met.files) == sorted(f"tf.data[{i}]" for i in lost)
    seen = dict(zip(whole["position"], whole["view_0"]))
    for position, view in zip(rows["position"], rows["view_0"]):
        np.testing.assert_array_equal(view, seen[position])
    resumed = made.rows_of(later.source, 5, start=44, bad_files=met)
    assert (
        list(zip(resumed["position"], resumed["index"]))
        == [pair for pair in kept if pair[0] >= 44][:20]
    )


def test_an_evaluation_names_them_too():
    later = _Later()
    later.lose(3, 39)
    one = preprocessing.Preprocessing(size=8)
    for part, wanted, named in (
        (later.source, set(range(_COUNT)) - {3, 39}, ["tf.data[3]", "tf.data[39]"]),
        (later.source.subset([1, 3, 5]), {0, 2}, ["tf.data[3]"]),
    ):
        met = pipeline.BadFiles(max_fraction=0.5)
        found = [
            batch["index"][batch["mask"]]
            for batch in pipeline.labeled(part, one, batch_size=8, bad_files=met)
        ]
        assert set(np.concatenate(found).tolist()) == wanted
        assert met.files == named


def _swapped(numbers):
    numbers = numbers.copy()
    numbers[[30, 31]] = numbers[[31, 30]]
    return numbers


def _doubled(numbers):
    numbers = numbers.copy()
    numbers[25] = 11
    return numbers


changes = pytest.mark.parametrize(
    "change",
    [lambda n: n[::-1], _doubled, _swapped],
    ids=["reversed", "doubled", "swapped"],
)


def _batches(source, met):
    view = made.recipe()
    return pipeline.multiview(source, view, batch_size=made.BATCH, bad_files=met)


def _evaluated(source, met):
    one = preprocessing.Preprocessing(size=8)
    return pipeline.labeled(source, one, batch_size=8, bad_files=met)


@changes
@pytest.mark.parametrize("use, part", [(_batches, True), (_evaluated, False)])
def test_files_that_change_later_stop_and_none_is_named(change, use, part):
    later = _Later()
    source = later.source.subset(np.arange(1, _COUNT)) if part else later.source
    met = pipeline.BadFiles(max_fraction=0.5, log=False)
    dataset = use(source, met)
    later.numbers.assign(change(later.all))
    with pytest.raises(ValueError, match="does not give the same images in the same"):
        with bad_files.explained(met):
            for _ in dataset.take(20):
                pass
    assert set(met.files) <= {"tf.data[30]"}  # Its neighbour comes in its place.


def test_a_start_on_changed_files_is_refused():
    later = _Later()
    later.numbers.assign(later.all[::-1])
    message = (
        "does not give the same images .*, or more than 16 in a row are lost: then"
    )
    with pytest.raises(ValueError, match=message):
        _batches(later.source, pipeline.BadFiles())


@pytest.mark.parametrize("encoded", [False, True])
def test_records_are_not_made_of_a_dataset_that_changes(encoded, tmp_path):
    late = tf.Variable(False)
    images = made.images_of(8)

    def image(place):
        changed = tf.gather(images, place) + 50 * tf.cast(late & (place > 4), tf.uint8)
        return tf.io.encode_png(changed) if encoded else changed

    source = sources.open_source(tf.data.Dataset.range(8).map(image))
    assert source.fingerprint()
    late.assign(True)
    with pytest.raises(ValueError, match="does not give the same images in the same"):
        tasks.make_tfrecords.make_tfrecords(
            source, tmp_path / "records", num_shards=1, max_bad_fraction=0.9, verbose=0
        )
