"""Classes of training and validation images are the same by name, wherever from."""

import keras
import numpy as np
import pytest
from PIL import Image

from tests.fixtures import networks
from tfssl import data
from tfssl.evaluation import features, knn
from tfssl.models import copying
from tfssl.tasks import groups, make_tfrecords, online_probe, pretrain, resolve

_COLORS = {"ant": (250, 20, 20), "bee": (20, 250, 20), "cat": (20, 20, 250)}


def _write(root, classes, count=4, kind="PNG", ending=".png"):
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        image = np.full((8, 8, 3), _COLORS.get(name, (99, 99, 99)), np.uint8)
        for i in range(count):
            Image.fromarray(image).save(root / name / f"{i}{ending}", kind)


def _accuracy(train, test):
    """Of the nearest neighbour in raw pixels; 1.0 for plain colours."""
    path = data.Preprocessing(size=8)
    bank, queries = (
        features.Features(
            values=np.concatenate([b["image"][b["mask"]] for b in batches]).reshape(
                source.num_images, -1
            ),
            labels=source.labels,
            index=np.arange(source.num_images),
        )
        for source in (train, test)
        for batches in [list(data.labeled(source, path))]
    )
    return knn.accuracy(bank, queries, k=1)


def _manifest(folder, names):
    """A manifest beside the folder, whose classes are the folders' names."""
    rows = [f"{folder.name}/{n}/{i}.png,{n}" for n in names for i in range(4)]
    path = folder.with_suffix(".csv")
    path.write_text("\n".join(["path,label", *rows]))
    return str(path)


def _sources(root, kind, train, validation):
    """Training and validation images of these classes, by way of a kind of data."""
    for part, names in (("train", train), ("val", validation)):
        _write(root / part, names)
    found = {"train": root / "train", "val": root / "val"}
    if kind == "manifest":
        found = {k: _manifest(v, {"train": train, "val": validation}[k])
                 for k, v in found.items()}  # fmt: skip
    if kind == "records":
        for k, v in found.items():
            index = make_tfrecords.make_tfrecords(
                str(v),
                str(root),
                name=k,
                num_shards=2,
                labels="folders",
                verbose=0,
            )
            found[k] = f"tfrecord:{index}"
    return resolve.sources(
        data=found["train"],
        validation_data=found["val"],
        labels="folders" if kind == "folder" else "auto",
    )


def kinds(*fast):
    """A test of every kind of data, slow but for these."""
    return pytest.mark.parametrize(
        "kind",
        [
            kind if kind in fast else pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("folder", "manifest", "records")
        ],
    )


@kinds("records")
def test_a_class_that_validation_lacks_moves_no_other(tmp_path, kind):
    train, test = _sources(tmp_path, kind, ("ant", "bee", "cat"), ("ant", "cat"))
    assert test.class_names == train.class_names == ("ant", "bee", "cat")
    assert sorted(set(test.labels)) == [0, 2]
    assert _accuracy(train, test) == 1.0


@kinds("folder", "manifest")
def test_a_stray_class_of_validation_counts_as_wrong_and_moves_no_other(
    tmp_path, kind, caplog
):
    with caplog.at_level("WARNING", "absl"):
        train, test = _sources(tmp_path, kind, ("ant", "cat"), ("_x", "ant", "cat"))
    assert test.class_names == ("ant", "cat", "_x")
    assert _accuracy(train, test) == 8 / 12
    (line,) = [m for m in caplog.messages if "matched by name" in m]
    assert "has _x." in line and "Its 4 images count as wrong." in line


def test_a_class_of_files_that_are_not_read_moves_no_other(tmp_path, caplog):
    _write(tmp_path / "train", ("ant", "bee", "cat"))
    _write(tmp_path / "val", ("ant", "cat"))
    _write(tmp_path / "val", ("bee",), kind="TGA", ending=".tga")
    with caplog.at_level("WARNING", "absl"):
        train, test = resolve.sources(
            data=tmp_path / "train", validation_data=tmp_path / "val", labels="folders"
        )
    assert _accuracy(train, test) == 1.0
    assert "(.tga 4)" in caplog.text and "make no class: bee" in caplog.text
    assert "only" in caplog.text and "train has bee" in caplog.text


def test_a_folder_beside_a_manifest_of_numbers(tmp_path):
    _write(tmp_path / "train", ("ant", "bee", "cat"))
    _write(tmp_path / "val", ("ant", "cat"))
    (tmp_path / "val.csv").write_text("path,label\nval/ant/0.png,0\nval/cat/0.png,2\n")
    train, test = resolve.sources(
        data=f"folder:{tmp_path}/train", validation_data=f"{tmp_path}/val.csv"
    )
    assert train.labels is None and test.labels.tolist() == [0, 2]
    train = data.open_source(tmp_path / "train", labels="folders")
    train, test = resolve.sources(data=train, validation_data=f"{tmp_path}/val.csv")
    assert _accuracy(train, test) == 1.0


@pytest.mark.parametrize("kinds", [("folder", "csv"), ("csv", "folder")])
def test_class_folders_beside_other_data(tmp_path, kinds):
    given = {}
    for part, kind in zip(("train", "val"), kinds):
        _write(tmp_path / part, ("ant", "bee"))
        path = tmp_path / part
        given[part] = _manifest(path, ("ant", "bee")) if kind == "csv" else str(path)
    both = dict(data=given["train"], validation_data=given["val"])
    train, test = resolve.sources(**both, labels="folders")
    assert train.class_names == test.class_names == ("ant", "bee")
    assert _accuracy(train, test) == 1.0
    with pytest.raises(ValueError, match="labels='folders' received, .* is no folder"):
        resolve.sources(data=_manifest(tmp_path / "train", ("ant",)),
                        validation_data=_manifest(tmp_path / "val", ("ant",)),
                        labels="folders")  # fmt: skip


def test_a_probe_has_class_folders_where_the_training_images_have_none(
    tmp_path, caplog
):
    """The command in docs/evaluation.md, and one with a manifest that trains."""
    for part in ("labelled", "test"):
        _write(tmp_path / part, ("ant", "bee"))
    _write(tmp_path / "photos", (".",))
    _write(tmp_path / "listed", (".",))
    (tmp_path / "listed.csv").write_text("path\nlisted/0.png\n")
    images = groups.Images(labels="folders")
    test = groups.Validation(validation_data=str(tmp_path / "test"))
    probe = str(tmp_path / "labelled")
    monitors = groups.Monitors(online_probe_epochs=1, online_probe_data=probe)
    for name, count in (("photos", 1), ("listed.csv", 0)):
        where = str(tmp_path / name)
        caplog.clear()
        with caplog.at_level("WARNING", "absl"):
            found = test.sources(where, images, 0, probe_data=probe)
        assert "".join(caplog.messages).count("trains without labels") == count
        assert found[0].labels is None
        probed = online_probe.images(where, *found, images, monitors)
        assert probed.class_names == found[1].class_names == ("ant", "bee")
    with pytest.raises(ValueError, match="photos holds image files outside of class"):
        test.sources(str(tmp_path / "photos"), images, 0)
    with pytest.raises(ValueError, match="photos holds image files outside of class"):
        groups.Validation(
            validation_data=_manifest(tmp_path / "test", ("ant", "bee"))
        ).sources(
            str(tmp_path / "photos"),
            images,
            0,
            probe_data=_manifest(tmp_path / "labelled", ("ant", "bee")),
        )
    # The probe's images may be those that are no folder.
    monitors = groups.Monitors(
        online_probe_epochs=1,
        online_probe_data=_manifest(tmp_path / "labelled", ("ant", "bee")),
    )
    probed = online_probe.images(where, *found, images, monitors)
    assert probed.class_names == ("ant", "bee")


def test_a_folder_of_tfds_data_is_for_tfds_data(tmp_path, monkeypatch):
    _write(tmp_path, ("ant", "bee"))
    with pytest.raises(
        ValueError, match="data_dir='x' received for .* for tfds:… data"
    ):
        resolve.sources(data=tmp_path, data_dir="x")
    asked = []

    def opened(given, data_dir=None, **_):
        asked.append((given, data_dir))
        images = np.full((4, 8, 8, 3), len(asked), np.uint8)
        return data.sources.ArraySource(images)

    monkeypatch.setattr(data, "open_source", opened)
    for train, validation in (
        ("tfds:a", "tfds:b"),
        ("tfds:a", "digits"),
        ("digits", "tfds:b"),
    ):
        resolve.sources(data=train, validation_data=validation, data_dir="x")
    assert asked == [
        ("tfds:a", "x"), ("tfds:b", "x"), ("tfds:a", "x"), ("digits", None),
        ("digits", None), ("tfds:b", "x"),
    ]  # fmt: skip


def _takes(*shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Flatten()(inputs), name="mine")


@pytest.mark.parametrize("returned", [None, "resnet18", lambda x: x])
def test_a_function_that_builds_no_model_is_refused(returned):
    with pytest.raises(
        ValueError, match=r"returned .* for input_shape=\(8, 8, 3\), expected a Keras"
    ):
        resolve.encoder(lambda shape: returned, (8, 8, 3))
    with pytest.raises(ValueError, match="encoder=3 received, expected a name, a .ker"):
        resolve.encoder(3, (8, 8, 3))


@pytest.mark.parametrize(
    "takes, fix",
    [
        ((32, 32, 3), "; set image_size=32, or pass a function"),
        (
            (8, 8, 1),
            r"; give images of 1 channel\(s\), of files by channels=…, or pass",
        ),
        ((None, None, 1), "; give images of 1 channel"),
        ((32, 32, 1), "; set image_size=32 and give images of 1 channel"),
        ((8, 16, 3), "; pass a function that builds the encoder"),
        ((192,), "; pass a function"),
        ((8, 8), "; pass a function"),
    ],
)
def test_an_encoder_of_other_images_is_refused(takes, fix):
    for encoder in (_takes(*takes), lambda shape: _takes(*takes)):
        with pytest.raises(ValueError, match=fix) as caught:
            resolve.encoder(encoder, (8, 8, 3))
        said = f"'mine' takes images of shape {takes} (height, width, channels"
        assert said in str(caught.value)
        assert "but these are (8, 8, 3);" in str(caught.value)


def test_an_encoder_of_any_images_is_taken():
    for takes in ((8, 8, 3), (None, None, 3), (None, 8, None), (None, None, None)):
        for images in ((8, 8, 3), (None, None, 3)):
            network = _takes(*takes)
            assert resolve.encoder(network, images) is network
    grey = _takes(8, 8)  # Keras drops the axis of one channel.
    assert resolve.encoder(grey, (8, 8, 1)) is grey
    inputs = [keras.Input((4, 4, 1)), keras.Input((2,))]
    several = keras.Model(inputs, keras.layers.Flatten()(inputs[0]))
    assert resolve.encoder(several, (8, 8, 3)) is several


def test_an_encoder_of_other_images_is_refused_before_anything_is_written(tmp_path):
    images = np.zeros((8, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="'mine' takes images of shape"):
        pretrain.pretrain(
            images,
            str(tmp_path / "run"),
            encoder=_takes(16, 16, 3),
            image_size=8,
            batch_size=4,
            epochs=1,
            verbose=0,
        )
    assert not list(tmp_path.rglob("*.*"))


def test_an_encoder_of_one_size_is_refused_for_views_of_several(tmp_path):
    images = np.zeros((8, 20, 20, 3), np.uint8)
    given = dict(method="swav", recipe="swav", image_size=16, verbose=0)
    given["hparams"] = {"num_prototypes": 2}
    with pytest.raises(ValueError, match=r"but these are \(7, 7, 3\); pass a func"):
        pretrain.pretrain(
            images, tmp_path / "run", encoder=_takes(16, 16, 3), batch_size=4, **given
        )
    assert not list(tmp_path.rglob("*.*"))


def _in(policy):
    """A small encoder that computes so."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, activation="relu", dtype=policy),
            keras.layers.GlobalAveragePooling2D(dtype="float32"),
        ]
    )


@pytest.mark.parametrize(
    "from_file, had, asked",
    [
        pytest.param(True, "mixed_float16", "float32", marks=pytest.mark.slow),
        (True, "float32", "mixed_float16"),
        (False, "float32", "mixed_bfloat16"),
    ],
)
def test_an_encoder_that_is_there_is_trained_in_the_precision_that_is_asked_for(
    from_file, had, asked, tmp_path, capsys
):
    encoder = given = _in(had)
    if from_file:
        given = str(tmp_path / "given.keras")
        encoder.save(given)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 8, 3), np.uint8)
    before = encoder.get_weights()
    run = pretrain.pretrain(
        pixels,
        tmp_path / "run",
        encoder=given,
        recipe="simclr_cifar10",
        image_size=8,
        hparams={"projection_dim": 4},
        epochs=1,
        batch_size=4,
        warmup_epochs=0,
        precision=asked,
    )
    assert f"features, {asked}, input" in capsys.readouterr().out
    assert copying.policy_of(run.method.encoder) == asked
    scaled = isinstance(run.method.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (asked == "mixed_float16")
    assert copying.policy_of(encoder) == had
    for old, new in zip(before, encoder.get_weights()):
        np.testing.assert_array_equal(old, new)
    saved = keras.saving.load_model(tmp_path / "run/encoder.keras")
    assert copying.policy_of(saved) == asked
    trained = run.encoder.network
    np.testing.assert_array_equal(saved(networks.pixels()), trained(networks.pixels()))
