import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.classifiers import (
    NAMES,
    PREPROCESSING,
    classifier,
    in_python,
    of_a_run,
    of_keras,
    pictures,
    write_pictures,
)
from tfssl import data as data_lib
from tfssl import formats, processor
from tfssl.evaluation import features
from tfssl.tasks import predict, predictions, runs


def said(run, data, **given):
    return predict.predict(run, data, verbose=0, **given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four image files, numbered in the order of `pictures`."""
    folder = tmp_path_factory.mktemp("images")
    write_pictures(folder)
    return folder


@pytest.fixture(scope="module")
def expected():
    return in_python(classifier(), pictures())[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return formats.saved_model(classifier(), tmp_path_factory.mktemp("exported") / "m")


@pytest.fixture
def of_run(tmp_path):
    (tmp_path / "run").mkdir()
    of_a_run(classifier(), str(tmp_path / "run" / "encoder.keras"))
    return str(tmp_path / "run")


@pytest.fixture
def of_file(tmp_path):
    of_keras(classifier(), str(tmp_path / "c.keras"))
    return tmp_path / "c.keras"


def test_a_manifest_with_further_files_gives_its_images_alone(tmp_path, expected):
    write_pictures(tmp_path)
    path = tmp_path / "list.csv"
    rows = [f"{i}.png,{3 - i}.png" for i in range(4)]
    path.write_text("\n".join(["path,channels:other:rgb", *rows]))
    found = said(classifier(), path)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("place", ["of_run", "of_file", "exported"])
def test_a_classifier_is_found_wherever_it_is(request, expected, place):
    found = said(request.getfixturevalue(place), pictures())
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.class_names == NAMES


def test_images_of_a_folder_are_said_in_their_order(folder, expected):
    found = said(classifier(), str(folder), batch_size=3)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.images == tuple(str(folder / f"{i}.png") for i in range(4))
    assert found.class_names == NAMES and not found.unreadable
    for row, probabilities in zip(found, found.probabilities):
        assert sorted(row.classes) == sorted(NAMES)
        assert row.classes[0] == NAMES[probabilities.argmax()]
        assert row.probabilities[0] == probabilities.max()


def test_it_says_what_the_served_model_says(exported, folder):
    names = sorted(os.listdir(folder))
    batch = [(folder / name).read_bytes() for name in names]
    served = tf.saved_model.load(exported).signatures["serving_default"]
    answer = served(tf.constant(batch))
    found = said(exported, str(folder))
    np.testing.assert_allclose(found.probabilities, answer["probabilities"], atol=1e-5)


def test_images_may_be_listed(tmp_path, folder, expected):
    made, paths = classifier(), [str(folder / f"{i}.png") for i in (2, 0)]
    found = said(made, [paths[0], folder / "0.png"])
    assert found.images == tuple(paths)
    np.testing.assert_allclose(found.probabilities, expected.numpy()[[2, 0]])
    (row,) = said(made, folder / "3.png", top=1)
    assert row.image == str(folder / "3.png") and len(row.classes) == 1
    found = said(made, pictures())
    assert found.images[1] == "list[1]"
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    manifest = tmp_path / "m.csv"
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes())
    manifest.write_text("path,label,split\n0.png,ant,train\n1.png,bee,test\n")
    found = said(made, str(manifest), split="test")
    assert found.images == (str(tmp_path / "1.png"),)
    np.testing.assert_allclose(found.probabilities, expected[1:2], atol=1e-6)


def test_a_multilabel_classifier_names_what_is_probable():
    made = classifier(multilabel=True)
    rows = in_python(made, pictures())[2].numpy()
    limit = float(np.median(rows))
    found = said(made, pictures(), threshold=limit)
    np.testing.assert_allclose(found.probabilities, rows, atol=1e-6)
    assert sum(len(row.classes) for row in found) == (rows >= limit).sum() == 6
    assert all(p >= limit for row in found for p in row.probabilities)
    usual = sum(len(row.classes) for row in said(made, pictures()))
    assert usual == (rows >= 0.5).sum()


def test_unreadable_images_are_left_out_and_named(tmp_path, folder, expected):
    write_pictures(tmp_path / "images")
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    out = tmp_path / "deep" / "p.jsonl"
    with pytest.raises(ValueError, match="1 of 4 images.*max_bad_fraction=0.01: .*1.p"):
        said(classifier(), str(tmp_path / "images"), out=str(out))
    assert not out.exists()
    found = said(
        classifier(), str(tmp_path / "images"), out=str(out), max_bad_fraction=0.25
    )
    assert found.positions.tolist() == [0, 2, 3]
    assert found.unreadable == [str(tmp_path / "images" / "1.png")]
    np.testing.assert_allclose(
        found.probabilities, expected.numpy()[[0, 2, 3]], atol=1e-6
    )
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["image"] for line in lines] == list(found.images)
    with pytest.raises(ValueError, match="No image of .*1.png could be decoded"):
        said(classifier(), tmp_path / "images" / "1.png")
    with pytest.raises(ValueError, match="1 of 2 images of the list .*away.png.*missi"):
        said(classifier(), [folder / "0.png", folder / "away.png"])


def test_files_become_what_the_classifier_takes(folder):
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.GlobalAveragePooling2D()]
    )
    head = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    grey = formats.Classifier(
        network,
        head,
        ("dark", "light"),
        preprocessing=data_lib.Preprocessing(size=8, channels=1),
    )
    for given in (str(folder), [folder / "0.png"], "digits"):
        assert said(grey, given).probabilities.shape[1] == 2
    for given in ("digits", np.zeros((2, 8, 8), np.uint8), [np.zeros((8, 8), "uint8")]):
        with pytest.raises(
            ValueError, match="has images of 1 channel.s., but the classifier takes 3; "
        ):
            said(classifier(), given)
    with pytest.raises(ValueError, match="of 1 channel.s., but the classifier takes 3"):
        said(classifier(), str(folder), channels=1)


@pytest.mark.parametrize("as_list", [False, True])
def test_files_of_16_bits_keep_them(tmp_path, as_list):
    made = classifier(preprocessing=data_lib.Preprocessing(size=8, max_value=65535.0))
    rng = np.random.default_rng(0)
    dark = rng.integers(300, size=(9, 9, 3)).astype(np.uint16)  # One of 256 values.
    (tmp_path / "dark.png").write_bytes(tf.io.encode_png(dark).numpy())
    data = [tmp_path / "dark.png"] if as_list else str(tmp_path)
    expected = in_python(made, [dark])[2]
    np.testing.assert_allclose(said(made, data).probabilities, expected, rtol=1e-6)
    other = in_python(made, [dark // 256 * 257])[2]
    assert np.abs(expected - other).max() > 1e-4


def test_what_has_no_classes_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    encoder = formats.Encoder(classifier().network, PREPROCESSING)
    formats.keras_file.save(encoder, tmp_path / "run" / "encoder.keras")
    images = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="holds an encoder and no classifier; .*finet"):
        said(str(tmp_path / "run"), images)
    for given in (encoder, 3):
        with pytest.raises(ValueError, match="run=.*formats.Classifier; an encoder is"):
            said(given, images)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"out": "{}/p.txt"}, "p.txt' received, expected a file that ends in .csv"),
        ({"out": "{}"}, "received, expected a file that ends"),
        ({"threshold": 0.5}, "threshold=0.5 .* one class per image.*give top instead"),
        ({"top": 0}, "top=0 received, expected a whole number"),
        ({"labels": "folders"}, "labels='folders' received, expected none:"),
        ({"split": "test"}, "split='test' received for"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(tmp_path, folder, given, message):
    given = {k: v.format(tmp_path) if k == "out" else v for k, v in given.items()}
    with pytest.raises(ValueError, match=message):
        said(classifier(), str(folder), **given)
    assert not os.listdir(tmp_path)
    with pytest.raises(ValueError, match="top=3 .* multi-label .*threshold instead"):
        said(classifier(multilabel=True), str(folder), top=3)


def test_a_classifier_that_diverged_says_so(tmp_path):
    made = classifier()
    made.head.layers[-1].bias.assign([np.nan, 0, 0])
    with pytest.raises(ValueError, match="NaN or infinity for 4 of 4 images"):
        said(made, pictures(), out=str(tmp_path / "p.csv"))
    assert not os.listdir(tmp_path)


def test_the_classifier_is_not_changed():
    made = classifier()
    before = [np.array(v) for v in made.variables]
    said(made, pictures())
    for variable, value in zip(made.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_version_is_a_start_for_what_comes_next(exported):
    assert runs.folder_of(exported) is None  # Nothing is written beside what is served.
    network, preprocessing = runs.encoder_of(exported)
    assert preprocessing == PREPROCESSING and network.output_shape[-1] == 6


def test_probabilities_are_computed_for_some_images_at_a_time(expected, monkeypatch):
    monkeypatch.setattr(features, "_ROWS", 3)
    seen, plain = [], formats.Classifier.probabilities_of

    def probabilities_of(self, logits):
        seen.append(len(logits))
        return plain(self, logits)

    monkeypatch.setattr(formats.Classifier, "probabilities_of", probabilities_of)
    found = said(classifier(), list(pictures()))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert seen == [3, 1]


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "npz"])
def test_blocks_give_what_one_gives(tmp_path, monkeypatch, batch_size, ending):
    made, paths = classifier(), [tmp_path / f"{n}.{ending}" for n in range(2)]
    given = {"batch_size": batch_size, "top": 2}
    once = said(made, pictures(), out=paths[0], **given)
    monkeypatch.setattr(features, "_ROWS", 3)
    blocks = said(made, pictures(), out=paths[1], **given)
    np.testing.assert_array_equal(once.probabilities, blocks.probabilities)
    assert list(once) == list(blocks) and once.positions.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(once.positions, blocks.positions)
    if ending == "npz":
        old, new = map(np.load, paths)
        assert all((old[name] == new[name]).all() for name in old)
    else:
        assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_lines_are_written_while_images_come(tmp_path, monkeypatch, ending):
    """And what fails in between leaves the earlier file."""
    monkeypatch.setattr(features, "_ROWS", 3)
    out = tmp_path / f"p.{ending}"
    whole = said(classifier(), pictures(), out=out)
    written, before = [], out.read_bytes()
    check = predictions.check_finite

    def watched(found, what):
        written.append(len(found))
        if len(written) == 2:
            assert len(list(tmp_path.glob("*.part"))) == 1
            raise ValueError("stopped")
        check(found, what)

    with monkeypatch.context() as patch:
        patch.setattr(predictions, "check_finite", watched)
        with pytest.raises(ValueError, match="stopped"):
            said(classifier(), pictures(), out=out)
    assert written == [3, 1] and out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    rows = said(classifier(), pictures(), out=out, all_probabilities=False)
    assert list(rows) == list(whole) and rows.images == whole.images
    assert not hasattr(rows, "probabilities") and len(rows) == 4
    assert out.read_bytes() == before


def test_probabilities_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "free_memory", lambda: 4 * 4 * len(NAMES) - 1)
    monkeypatch.setattr(features, "_parts", None)  # Nothing is computed.
    out = str(tmp_path / "p.npz")
    for given in ({}, {"out": out}):
        with pytest.raises(
            ValueError, match="of 4 images and 3 classes take .* are fr"
        ):
            said(classifier(), pictures(), **given)
    with pytest.raises(ValueError, match=r"all_probabilities=False .*p.npz.*all prob"):
        said(classifier(), pictures(), out=out, all_probabilities=False)
    monkeypatch.undo()
    monkeypatch.setattr(processor, "free_memory", lambda: 1)
    assert len(said(classifier(), pictures(), all_probabilities=False)) == 4
