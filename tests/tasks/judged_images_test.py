import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import deep_images
from tests.tasks import finetune_test
from tests.tasks import pretrain_test as small
from tfssl import data as data_lib
from tfssl import files
from tfssl.tasks import judged_images, resolve

_PLAIN = data_lib.Preprocessing(size=8, channels=1)


def opened(folder=None, preprocessing=_PLAIN, **arguments):
    arguments = {
        "data": small.images(),
        "validation_data": small.images(seed=1),
    } | arguments
    images = judged_images.JudgedImages(**arguments)
    return images.open(folder, preprocessing, seed=3, verbose=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of images of 16 bits."""
    root = tmp_path_factory.mktemp("deep")
    for name in "ab":
        (root / name).mkdir()
        for i in range(2):
            image = np.full((8, 8, 1), 40_000, np.uint16)
            (root / name / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    return str(root)


def test_what_an_encoder_without_a_run_is_judged_on():
    setting = opened()
    assert (setting.train.num_images, setting.test.num_images) == (40, 40)
    assert setting.max_bad_fraction == 0.01
    assert (setting.view.area, setting.view.flip) == ((0.5, 1.0), 0.0)
    assert opened(max_bad_fraction=0.5).max_bad_fraction == 0.5


def test_files_are_decoded_to_what_the_preprocessing_is_for(folder, tmp_path):
    others = str(shutil.copytree(folder, tmp_path / "others"))
    files_of = {"data": folder, "validation_data": others, "labels": "folders"}
    assert opened(**files_of).train.dtype == "uint8"
    deep = data_lib.Preprocessing(size=8, channels=1, max_value=65535)
    assert opened(preprocessing=deep, **files_of).train.dtype == "uint16"
    assert opened(preprocessing=deep, bit_depth=8, **files_of).train.dtype == "uint8"


def test_what_learned_from_files_of_sixteen_bits_is_judged_on_such(tmp_path):
    folder, out = deep_images.folder(tmp_path / "deep"), str(tmp_path / "run")
    encoder = deep_images.encoder()
    changes = {"validation_data": None, "validation_fraction": 0.25, "epochs": 1}
    run = finetune_test.tuned(out, encoder, folder, **changes)
    assert files.read_json(f"{out}/run.json")["made"]["images"]["dtype"] == "uint16"
    assert run.encoder.preprocessing.max_value == 65535
    of_run = {"data": None, "validation_data": None}
    setting = opened(out, run.encoder.preprocessing, **of_run)
    assert setting.train.dtype == setting.test.dtype == "uint16"


def test_what_is_not_given_is_that_of_the_run(run, tmp_path):
    record = files.read_json(run / "run.json")
    record["settings"] |= {
        "max_bad_fraction": 0.25,
        "data_args": {"follow_links": True},
    }
    files.write_json(tmp_path / "run.json", record)
    setting = opened(str(tmp_path), data_args={})  # As a flag that is not given.
    assert setting.max_bad_fraction == 0.25
    assert setting.view.rotation == 0.3  # Of the digits' recipe.
    with pytest.raises(ValueError, match="data_arg 'rot' received"):
        opened(str(tmp_path), data_args={"rot": "/"})


def test_images_are_trained_on_as_they_are_tested(run):
    """Also with another preprocessing than that of the run's recipe."""
    other = data_lib.Preprocessing(
        size=6, channels=1, resize="bicubic", antialias=True, mean=0.25, std=0.5
    )
    for preprocessing in (other, _PLAIN):
        view = opened(str(run), preprocessing).view
        for field in ("size", "resize", "antialias", "mean", "std"):
            assert getattr(view, field) == getattr(preprocessing, field), field
        assert (view.rotation, view.flip) == (0.3, 0.0)  # Of the digits' recipe.


def test_of_a_recipe_in_tiles_the_whole_crop_is_trained_on(run, tmp_path):
    record = files.read_json(run / "run.json")
    record["settings"] |= {
        "method": "pretext",
        "hparams": {"task": "jigsaw"},
        "recipe": "jigsaw_digits",
        "image_size": None,
    }
    files.write_json(tmp_path / "run.json", record)
    view = opened(str(tmp_path)).view
    assert type(view) is data_lib.View and view.size == _PLAIN.size


@pytest.fixture
def held_out(tmp_path):
    """A run that held out a part of a folder without labels; what it trained on."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    for name in "abc":
        (folder / name).mkdir(parents=True)
        for i in range(10):
            image = rng.integers(0, 255, (8, 8, 1)).astype(np.uint8)
            (folder / name / f"{i}.png").write_bytes(tf.io.encode_png(image).numpy())
    settings = {"data": str(folder), "validation_fraction": 0.3, "seed": 3}
    train, _ = resolve.sources(**settings)
    record = {
        "settings": {"labels": "auto", **settings},
        "made": {"images": {"identity": train.identity()}},
        "results": {"steps": 1},
    }
    files.write_json(tmp_path / "run.json", record)
    return tmp_path, folder, _names(train)


def _names(source):
    return {source.describe(i) for i in range(source.num_images)}


_OWN = {"data": None, "validation_data": None}


def test_what_a_run_held_out_is_that_whatever_labels_are_judged(held_out):
    run, folder, trained = held_out
    for data in (None, str(folder)):
        setting = opened(str(run), **_OWN | {"data": data}, labels="folders")
        assert setting.train.class_names == ("a", "b", "c")
        assert _names(setting.train) == trained
        assert len(_names(setting.test)) == 9 and not _names(setting.test) & trained


def test_other_images_than_those_of_the_run_are_cut_by_their_own_labels(
    held_out, caplog
):
    run, folder, _ = held_out
    (folder / "c" / "9.png").rename(folder / "c" / "new.png")
    with pytest.raises(ValueError, match="are others now than those it was trained on"):
        opened(str(run), **_OWN, labels="folders")
    setting = opened(str(run), **_OWN | {"data": str(folder)}, labels="folders")
    assert np.bincount(setting.test.labels).tolist() == [3, 3, 3]
    assert "some of what this evaluation holds out of them may have" in caplog.text


def test_what_a_run_without_labels_held_out_of_arrays(held_out):
    """Labels come with the data here, whatever the setting is."""
    run, _, _ = held_out
    pixels, labels = small.images()
    train, _ = resolve.sources(data=pixels, validation_fraction=0.3, seed=3)
    record = files.read_json(run / "run.json")
    record["settings"]["data"] = {"in_memory": "ndarray"}
    record["made"]["images"]["identity"] = train.identity()
    files.write_json(run / "run.json", record)
    setting = opened(str(run), **_OWN | {"data": (pixels, labels)})
    assert setting.train.identity() == train.identity()
    assert setting.test.num_images == 12 and set(setting.test.labels) == {0, 1}
    with pytest.raises(ValueError, match="needs labelled validation images"):
        opened(str(run), data=(pixels, labels), validation_data=pixels[::-1])


def test_a_split_of_the_run_is_for_data_of_its_kind(held_out):
    run, folder, _ = held_out
    record = files.read_json(run / "run.json")
    record["settings"] |= {
        "data": "digits",
        "split": "test",
        "validation_split": "train",
        "validation_fraction": 0.0,
    }
    files.write_json(run / "run.json", record)
    others = shutil.copytree(folder, run / "others")
    other = {"data": str(folder), "validation_data": str(others), "labels": "folders"}
    assert opened(str(run), **other).train.num_images == 30
    assert opened(str(run), **_OWN | {"data": "digits"}).train.num_images == 500
    with pytest.raises(ValueError, match="give --validation_data"):
        opened(str(run), **other | {"validation_data": None})
    with pytest.raises(ValueError, match="split='all' received for array"):
        opened(str(run), split="all")


def test_class_folders_of_the_run_are_not_asked_of_other_data(held_out):
    run, folder, _ = held_out
    record = files.read_json(run / "run.json")
    record["settings"] |= {"labels": "folders", "validation_fraction": 0.0}
    files.write_json(run / "run.json", record)
    assert opened(str(run), **_OWN | {"data": "digits", "validation_split": "test"})
    others = str(shutil.copytree(folder, run / "others"))
    setting = opened(str(run), data="digits", split="test", validation_data=others)
    assert setting.test.class_names


def test_a_run_of_an_unsorted_folder_is_judged_by_labelled_images(held_out):
    run, folder, _ = held_out
    labelled, beside = (str(shutil.copytree(folder, run / name)) for name in "lb")
    (folder / "0.png").write_bytes((folder / "a" / "0.png").read_bytes())
    record = files.read_json(run / "run.json")
    record["settings"] |= {
        "labels": "folders",
        "online_probe_data": labelled,
        "validation_data": beside,
        "validation_fraction": 0.0,
    }
    files.write_json(run / "run.json", record)
    told = r"trained without labels on .*images, which .* --data.*, such as those of"
    with pytest.raises(ValueError, match=told.replace("--data", r"\(--data\)")):
        opened(str(run), **_OWN)
    (run / "l" / "a" / "0.png").unlink()  # Others than the validation images.
    assert opened(str(run), **_OWN | {"data": labelled}).train.num_images == 29


def test_one_class_is_nothing_to_tell_apart():
    pixels, labels = small.images()
    with pytest.raises(ValueError, match=r"of one class only \(1\), expected two or"):
        opened(data=(pixels, 0 * labels + 1))
    with pytest.raises(ValueError, match=r"of one class only \(0\), expected two or"):
        opened(data=(pixels, np.where(labels, -1, 0)))
    others, _ = small.images(seed=1)
    opened(validation_data=(others, 0 * labels))  # All of which may be wrong.
