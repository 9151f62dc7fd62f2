"""Any number of classes per image, through every kind of source."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tfssl import data as data_lib
from tfssl.data import class_names, labels, sources, views
from tfssl.data.sources import tfds as tfds_source
from tfssl.evaluation import features, supervised
from tfssl.tasks import make_tfrecords

MARKS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, -1], [-1, -1, -1], [0, 0, 1], [1, 1, 0]])
NAMES = ("ant", "bee", "cat")


def images(count=6):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


def source_of(marks=MARKS, names=NAMES, name="array"):
    return sources.ArraySource(
        images(len(marks)), np.asarray(marks), name=name, class_names=names
    )


def assert_marks(source, marks=MARKS):
    assert source.labels is None and source.label_sets.dtype == np.int8
    np.testing.assert_array_equal(source.label_sets, marks)


@pytest.mark.parametrize("dtype", ["int64", "int8", "int32"])
def test_arrays(dtype):
    source = sources.open_source((images(), MARKS.astype(dtype)))
    assert_marks(source)
    bare = sources.open_source(source, labels="none")
    assert bare.label_sets is None and bare.labels is None
    assert_marks(source)
    assert_marks(sources.open_source((images(), MARKS == 1)), MARKS == 1)


@pytest.mark.parametrize(
    "marks, names, message",
    [
        (2 * MARKS, None, "has the mark 2 in its labels"),
        (MARKS[:5], None, r"has 6 images, but labels of shape \(5, 3\)"),
        (MARKS[:, :0], None, r"labels of shape \(6, 0\)"),
        (MARKS, NAMES[:2], "labels with 3 columns, but names of 2 classes"),
        (MARKS.astype(float), None, "one-hot labels give the argmax, of several"),
    ],
)
def test_matrices_that_are_refused(marks, names, message):
    with pytest.raises(ValueError, match=message):
        sources.ArraySource(images(), marks, class_names=names)


def test_parts_and_fingerprints():
    source = source_of()
    part = source.subset([5, 2])
    assert_marks(part, MARKS[[5, 2]])
    assert_marks(part.subset([1]), MARKS[[2]])
    other = MARKS.copy()
    other[1, 1] = 1
    prints = [source_of(m).fingerprint() for m in (MARKS, MARKS, other)]
    assert prints[0] == prints[1] != prints[2]
    assert source.identity() == source_of(other).identity()
    train, validation = sources.holdout(source, fraction=0.5, seed=1)
    both = np.concatenate([train.label_sets, validation.label_sets])
    assert sorted(both.tolist()) == sorted(MARKS.tolist())


def written(folder, name, text):
    for number, image in enumerate(images()):
        (folder / f"{number}.png").write_bytes(tf.io.encode_png(image).numpy())
    (folder / name).write_text(text)
    return str(folder / name)


def json_lines(rows, **more):
    return "".join(
        json.dumps({"path": f"{number}.png", "labels": row, **more}) + "\n"
        for number, row in enumerate(rows)
    )


LISTS = [["cat", "ant"], [], ["bee"], None, ["cat"], ["ant", "bee"]]
# What a list can say: all that is not in it the image has not.
OF_LISTS = np.where((MARKS < 0).all(1, keepdims=True), -1, MARKS == 1)


@pytest.mark.parametrize("numbers", [False, True])
def test_manifests_in_json(tmp_path, numbers):
    lists = LISTS
    if numbers:
        lists = [x and [NAMES.index(name) for name in x] for x in LISTS]
    source = sources.open_source(written(tmp_path, "m.jsonl", json_lines(lists)))
    assert_marks(source, OF_LISTS)
    assert source.class_names == (None if numbers else NAMES)


def csv_of(rows):
    return "path,labels,split\n" + "".join(
        f"{number}.png,{row}\n" for number, row in enumerate(rows)
    )


def test_manifests_in_csv(tmp_path):
    rows = [
        "cat|ant,train",
        ",train",
        "bee,train",
        "dog,test",
        "cat,train",
        "ant,train",
    ]
    path = written(tmp_path, "m.csv", csv_of(rows))
    source = sources.open_source(path)
    assert source.class_names == ("ant", "bee", "cat", "dog")  # Of all splits.
    assert_marks(
        source,
        [[1, 0, 1, 0], [-1] * 4, [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]],
    )
    assert_marks(sources.open_source(path, split="test"), [[0, 0, 0, 1]])
    written(tmp_path, "m.csv", csv_of(["cat|ant,train", "bee|7,train"]))
    with pytest.raises(ValueError, match="line 2: .* numbers .7 in line 3.*one kind"):
        sources.open_source(path)
    written(tmp_path, "m.csv", csv_of(["cat|ant,train", "[],train", "ant,train"]))
    assert_marks(sources.open_source(path), [[1, 1], [0, 0], [1, 0]])
    written(tmp_path, "m.csv", csv_of(["cat|ant,train", """"[""cat""]",train"""]))
    with pytest.raises(ValueError, match="line 3: labels .* expected a list .*cat.dog"):
        sources.open_source(path)


@pytest.mark.parametrize(
    "text, message",
    [
        (json_lines([["ant", 3]]), "line 1: labels that are numbers .3 in line 1."),
        (json_lines([["ant", ""]]), r"line 1: labels \['ant', ''\], expected a list"),
        (json_lines([{"a": 1}]), "line 1: labels .*expected a list of classes"),
        (json_lines([[0, -1]]), "line 1: -1 among 'labels'"),
        (json_lines([["ant"]], label="bee"), "line 1: 'labels', but line 1 has a"),
        (json_lines([["ant"], [], ["ant"]]), "one class only in 'labels'"),
        (json_lines([[3_000_001, 7], [7], [5]]), "labels up to 3000001 of 3 classes"),
    ],
)
def test_manifests_that_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        sources.open_source(written(tmp_path, "m.jsonl", text))


def dataset(marks=MARKS):
    pairs = {"image": images(), "label": marks}
    return tf.data.Dataset.from_tensor_slices(pairs)


def test_datasets():
    source = sources.open_source(dataset())
    assert_marks(source)
    other = MARKS.copy()
    other[0, 1] = 1
    assert source.fingerprint() != sources.open_source(dataset(other)).fingerprint()
    assert source.identity() == sources.open_source(dataset(other)).identity()
    assert_marks(source.subset([1, 4]), MARKS[[1, 4]])


def test_records(tmp_path):
    """With and without their index."""
    make_tfrecords.make_tfrecords(
        source_of(), tmp_path, name="train", num_shards=2, verbose=0
    )
    again = sources.open_source(f"tfrecord:{tmp_path / 'train.json'}")
    assert_marks(again)
    assert again.class_names == NAMES
    files = written(tmp_path, "m.jsonl", json_lines(LISTS))
    make_tfrecords.make_tfrecords(files, tmp_path / "of_files", num_shards=2, verbose=0)
    found = sources.open_source(f"tfrecord:{tmp_path}/of_files/*.tfrecord")
    assert_marks(found, OF_LISTS)


def test_an_index_with_other_marks_is_refused(tmp_path):
    make_tfrecords.make_tfrecords(
        source_of(), tmp_path, name="train", num_shards=1, verbose=0
    )
    path = tmp_path / "train.json"
    index = json.loads(path.read_text())
    for wrong in ([1, 0], [1, 0, 5]):
        index["shards"][0]["labels"][1] = wrong
        path.write_text(json.dumps(index))
        with pytest.raises(ValueError, match="no index of records .*label .1, 0"):
            sources.open_source(f"tfrecord:{path}")


@pytest.mark.parametrize("memory", [True, False])
def test_tfds_with_difficult_objects(tmp_path, memory, monkeypatch):
    """As VOC has them: a class of which all objects are difficult is unknown."""
    kinds = tfds.features.Sequence(tfds.features.ClassLabel(names=NAMES))
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="voc_like",
        version="1.0.0",
        disable_shuffling=True,
        data_dir=tmp_path,
        config="all",
        split_datasets={
            "train": [
                (key, {"image": image, "labels": has, "labels_no_difficult": sure})
                for key, (image, has, sure) in enumerate(
                    zip(images(), ([0, 2], [], [1, 2]), ([0, 2], [], [1]))
                )
            ]
        },
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 3)),
                "labels": kinds,
                "labels_no_difficult": kinds,
            }
        ),
    )
    if not memory:
        monkeypatch.setattr(tfds_source, "_MEMORY_BYTES", 1)
    source = sources.open_source(f"tfds-dir:{builder.data_path}")
    assert source.random_access == memory
    assert_marks(source, MARKS[:3])
    assert source.class_names == NAMES


def test_batches_carry_the_marks():
    source = source_of()
    view = views.View(size=8, jitter=0.0)
    (batch,) = data_lib.multiview(source, [view], batch_size=6, with_labels=True).take(
        1
    )
    assert batch["label"].dtype == tf.int8
    np.testing.assert_array_equal(batch["label"], MARKS[batch["index"].numpy()])
    path = data_lib.Preprocessing(size=8, channels=3)
    batches = list(data_lib.labeled(source, path, batch_size=4))
    found = np.concatenate([b["label"][b["mask"]] for b in batches])
    np.testing.assert_array_equal(found, MARKS)
    values = features.raw_pixels(data_lib.labeled(source, path, batch_size=4))
    assert values.labels.tolist() == [-1] * 6


def test_columns_are_matched_by_name(caplog):
    caplog.set_level("WARNING", "absl")
    reference = source_of(MARKS[:, :2], ("cat", "bee"), "first")
    found = class_names.matched(source_of(), reference)
    assert found.class_names == ("cat", "bee", "ant")
    assert_marks(found, MARKS[:, [2, 1, 0]])
    (line,) = caplog.messages
    assert "only array has ant." in line and "wrong" not in line
    found = class_names.matched(reference, source_of())
    assert found.class_names == NAMES
    np.testing.assert_array_equal(found.label_sets[:, 0], [-1] * 6)
    np.testing.assert_array_equal(found.label_sets[:, [2, 1]], MARKS[:, :2])
    plain = source_of(names=None)
    assert class_names.matched(plain, source_of()) is plain
    with pytest.raises(ValueError, match="have 2 columns, those of array 3"):
        class_names.matched(source_of(MARKS[:, :2], None), source_of())
    single = sources.ArraySource(images(), np.arange(6) % 3, name="single")
    for pair in ((plain, single), (single, plain)):
        with pytest.raises(ValueError, match="single have one class each, .* array"):
            class_names.matched(*pair)


def test_numbers_are_matched_where_the_largest_differ(caplog):
    caplog.set_level("WARNING", "absl")
    wide, narrow = source_of(MARKS, None, "wide"), source_of(MARKS[:, :2], None)
    found = class_names.matched(narrow, wide)
    assert found.class_names is None
    assert_marks(found, np.insert(MARKS[:, :2], 2, -1, axis=1))
    assert "matched by number: only wide has 2" in caplog.messages[0]
    assert_marks(class_names.matched(wide, narrow))
    assert "matched by number: only wide has 2" in caplog.messages[1]
    assert class_names.matched(wide, wide) is wide


def test_what_needs_one_class_says_so(tmp_path):
    source = source_of()
    sentence = "needs one class per image, but the images of array have any number"
    (tmp_path / "list").write_text("array[0]\n")
    with pytest.raises(ValueError, match=sentence):
        labels.from_file(tmp_path / "list", source)
    with pytest.raises(ValueError, match=f"The kNN .*{sentence}"):
        labels.check_single(source, "The kNN")
    with pytest.raises(ValueError, match=f"The supervised baseline {sentence}"):
        supervised.train(None, source, source, preprocessing=None)
