"""What users get wrong: each line is one mistake and the sentence that answers it.

A row holds a name, a call, the type of the error, and what its message must say: what
was received, and what to do. Calls take the folder `made` of prepared files; nothing
may be written to it or be left in it.
"""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfssl
from tfssl import data, losses, methods, models, optimizers
from tfssl.data import labels, pipeline
from tfssl.evaluation import features
from tfssl.export import keras_file, serving
from tfssl.models import heads, norms
from tfssl.optimizers import schedules
from tfssl.tasks import (
    data_service,
    export,
    make_tfrecords,
    recorded,
    retrieve,
    show_views,
)
from tfssl.training import checkpoint, strategy

_PIXELS = np.zeros((4, 8, 8, 3), np.uint8)


def _array():
    return data.open_source((_PIXELS, [0, 1, 0, 1]))


def _folder(made):
    return data.open_source(f"{made}/images", labels="none")


def _plain():
    return data.Preprocessing(size=8)


def _encoder():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()]
    )


def _multiview(**kwargs):
    recipe = data.recipes.SIMCLR.scaled(8)
    return pipeline.multiview(_array(), recipe, **{"batch_size": 2, **kwargs})


def _pretrain(made, **kwargs):
    short = {"epochs": 1, "batch_size": 2, "verbose": 0, "warmup_epochs": 0.0}
    given = {"data": _PIXELS, "image_size": 8, **short, **kwargs}
    return tfssl.pretrain(out=f"{made}/out/run", **given)


def _z(rows=4, dim=3):
    return tf.zeros([rows, dim])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files that are wrong, each in its own way."""
    root = tmp_path_factory.mktemp("made")
    png = tf.io.encode_png(_PIXELS[0]).numpy()
    for folder in ("images", "outside", "broken", "empty", "links"):
        (root / folder).mkdir()
    for i in range(4):
        (root / "images" / f"{i}.png").write_bytes(png)
        (root / "broken" / f"{i}.png").write_bytes(b"no image")
    (root / "outside" / "x.png").write_bytes(png)
    (root / "links" / "x.png").symlink_to(root / "outside" / "x.png")
    texts = {
        "images/escape.csv": "path\n../outside/x.png\n",
        "images/web.csv": "path\nhttps://web/x.png\n",
        "images/twice.csv": "path\n0.png\n0.png\n",
        "images/columns.csv": "file\n0.png\n",
        "images/split.csv": "path,split\n0.png,train\n1.png,test\n",
        "images/mixed.csv": "path,label\n0.png,1\n1.png,cat\n",
        "images/empty.csv": "path\n",
        "images/bad.jsonl": '{"path": "0.png"}\n{"path"\n',
        "index.json": '{"format": "other"}',
        "list.txt": "nothing.png\n",
        "two.txt": "0.png\n1.png\n",
        "cut.json": '{"indices": [',
        "deep.json": "[" * 100_000,
        "object.json": json.dumps(
            {
                "format": "tfssl records 1",
                "num_images": 0,
                "shards": [],
                "channels": 3,
                "pixels": False,
                "class_names": None,
                "dtype": "object",
            }
        ),
        "images/deep.jsonl": '{"path": ' + "[" * 100_000,
        "selection.json": '{"indices": [9], "sha256": "", "description": "x"}',
        "text.tfrecord": "this is text, long enough to have a header",
        "text.keras": "this is text",
        "file": "",
    }
    for name, text in texts.items():
        (root / name).write_text(text)
    (root / "images" / "latin.csv").write_bytes(b"path\n\xe9.png\n")
    whole = tf.train.Example().SerializeToString()
    with tf.io.TFRecordWriter(str(root / "cut.tfrecord")) as writer:
        writer.write(whole + b"0123456789")
    (root / "cut.tfrecord").write_bytes((root / "cut.tfrecord").read_bytes()[:-2])
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Lambda(lambda x: x[:, 0, 0])(inputs)
    keras.Model(inputs, outputs).save(root / "lambda.keras")
    _encoder().save(root / "plain.keras")
    (root / "model" / "1").mkdir(parents=True)
    (root / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    return root


def _open(*args, **kwargs):
    return lambda made: data.open_source(
        *(a.format(made=made) if isinstance(a, str) else a for a in args),
        **{
            k: v.format(made=made) if isinstance(v, str) else v
            for k, v in kwargs.items()
        },
    )


def _view(**kwargs):
    return lambda made: data.View(**{"size": 8, **kwargs})


def _ours(function, *args, **kwargs):
    return lambda made: function(*args, **kwargs)


# Name, call, type of the error, what the message holds.
ROWS = [
    # Sources.
    ("data of no kind", _open(3), ValueError, "type int .*expected"),
    ("data that is not there", _open("{made}/no"), ValueError,
     "/no.*check the path"),
    ("a misspelt name", _open("digitz"), ValueError, "'digitz'.*check the path"),
    ("a file as a folder", _open("{made}/file"), ValueError,
     "no folder.*check the path"),
    ("an empty folder", _open("{made}/empty"), ValueError, "empty holds no.*check"),
    ("only links that lead out", _open("{made}/links"), ValueError,
     "1 links.*follow_links=True"),
    ("labels of another kind", _open("digits", labels="yes"), ValueError,
     "labels='yes'.*expected"),
    ("folder labels of no folder", _open("digits", labels="folders"), ValueError,
     "'folders'.*use labels='auto'"),
    ("folder labels of a flat folder", _open("{made}/images", labels="folders"),
     ValueError, "outside of class folders.*or labels='none'"),
    ("a split of a folder", _open("{made}/images", split="train"), ValueError,
     "split='train'.*pass the part itself"),
    ("a split that digits lack", _open("digits", split="dev"), ValueError,
     "split='dev'.*expected"),
    ("links of no folder", _open("digits", follow_links=True), ValueError,
     "follow_links=True.*leave it out"),
    ("12 bits", _open("digits", bit_depth=12), ValueError, "bit_depth=12.*expected 8"),
    ("no channels", _open("digits", channels=0), ValueError, "channels=0.*expected"),
    ("two channels of files", _open("{made}/images", channels=2), ValueError,
     "channels=2.*expected 1"),
    ("channels of an array", _open(_PIXELS, channels=1), ValueError,
     "channels=1.*leave channels out"),
    ("integers of 32 bits", _open(_PIXELS.astype(np.int32)), ValueError,
     "int32.*expected uint8"),
    ("floats above 1", _open(_PIXELS + 7.0), ValueError, "from 7 to 7.*scale them"),
    ("an array of rank 2", _open(np.zeros((3, 4))), ValueError, r"\(3, 4\).*expected"),
    ("labels for other images", _open((_PIXELS, [1])), ValueError,
     r"shape \(1,\).*give one per image"),
    ("an endless dataset", _open(tf.data.Dataset.from_tensors(_PIXELS[0]).repeat()),
     ValueError, "repeats for ever; remove"),
    ("TFDS that is not there", _open("tfds-dir:{made}/empty"), ValueError,
     "cannot open .*empty"),
    ("holding out everything", lambda m: data.holdout(_array(), fraction=1.0),
     ValueError, "fraction=1.0.*expected a share"),
    ("images that a source lacks", lambda m: _array().subset([4]), ValueError,
     "from 4 to 4.*images 0 to 3"),
    # Manifests.
    ("a manifest that is not there", _open("{made}/no.csv"), ValueError,
     "no manifest.*no.csv.*check the path"),
    ("a manifest of another kind", _open("manifest:{made}/file"), ValueError,
     "file.*expected a file that ends in .csv"),
    ("a path out of the folder", _open("{made}/images/escape.csv"), ValueError,
     r"line 2: '\.\./outside/x.png'.*root=FOLDER"),
    ("a web address", _open("{made}/images/web.csv"), ValueError,
     "line 2: 'https://web/x.png'.*download"),
    ("a row twice", _open("{made}/images/twice.csv"), ValueError,
     "line 3: '0.png' again.*list it once"),
    ("no column of paths", _open("{made}/images/columns.csv"), ValueError,
     "line 1: columns file, but none is called 'path'"),
    ("an unknown split", _open("{made}/images/split.csv", split="dev"), ValueError,
     "split='dev'.*test, train; choose"),
    ("labels of two kinds", _open("{made}/images/mixed.csv"), ValueError,
     "line 3: .*'cat'.*use one kind"),
    ("a manifest of nothing", _open("{made}/images/empty.csv"), ValueError,
     "empty.csv.*add rows"),
    ("a manifest in Latin-1", _open("{made}/images/latin.csv"), ValueError,
     "line 2: not UTF-8; save"),
    ("broken JSON", _open("{made}/images/bad.jsonl"), ValueError,
     "line 2: not JSON.*repair"),
    # Records.
    ("no such records", _open("tfrecord:{made}/no-*"), ValueError,
     "No file matches .*no-.*expected an index"),
    ("no such index", _open("tfrecord:{made}/no.json"), ValueError,
     "no index at .*no.json.*check"),
    ("another JSON file", _open("tfrecord:{made}/index.json"), ValueError,
     "index.json is no index.*make it with"),
    ("text as records", _open("tfrecord:{made}/text.tfrecord"), ValueError,
     "text.tfrecord is cut short, or no TFRecord.*copy it"),
    ("an index that is nested without end", _open("tfrecord:{made}/deep.json"),
     ValueError, "deep.json is no index.*make it with"),
    ("an index of objects", _open("tfrecord:{made}/object.json"), ValueError,
     "object.json is no index.*dtype='object'.*make it with"),
    ("a manifest that is nested without end", _open("{made}/images/deep.jsonl"),
     ValueError, "line 1: not JSON.*repair"),
    ("records cut short", _open("tfrecord:{made}/cut.tfrecord"), ValueError,
     "cut.tfrecord is cut short.*copy it"),
    ("more shards than images",
     lambda m: make_tfrecords.make_tfrecords(_PIXELS, f"{m}/out", num_shards=5),
     ValueError, "num_shards=5 .*expected 1 to"),
    ("smaller JPEG of four channels",
     lambda m: make_tfrecords.make_tfrecords(
         f"{m}/images", f"{m}/out", num_shards=1, channels=4, max_side=4),
     ValueError, "max_side=4 .*use pixels=True, or leave it out"),
    ("records of broken files",
     lambda m: make_tfrecords.make_tfrecords(
         f"{m}/broken", f"{m}/out", num_shards=1, verbose=0),
     ValueError, "No image of .*broken.*expected JPEG"),
    # Recipes, views and the pipeline.
    ("an unknown recipe", _ours(data.recipes.get, "simclrr"), ValueError,
     "'simclrr'; choose one of"),
    ("a view of no pixels", _view(size=0), ValueError, "size=0; give"),
    ("an area above 1", _view(area=(0.1, 1.5)), ValueError, r"area=\(0.1, 1.5\); give"),
    ("a crop of no area", _view(area=(0.0, 1.0)), ValueError,
     r"area=\(0.0, 1.0\); give"),
    ("a blur of no width", _view(blur_sigma=(0.0, 2.0)), ValueError,
     r"blur_sigma=\(0.0, 2.0\); give"),
    ("a mean of 8-bit values", _view(mean=(123.7,), std=(58.4,)), ValueError,
     r"mean=\(123.7,\); give that of values in .0, 1.: divide"),
    ("a threshold of 8-bit values", _view(solarize_threshold=128), ValueError,
     r"solarize_threshold=128; give a value in \[0, 1\]"),
    ("a recipe of no views", lambda m: pipeline.multiview(_array(), [], batch_size=2),
     ValueError, "no views; give at least one"),
    ("preprocessing for another depth",
     lambda m: _plain().apply(tf.zeros([8, 8, 3], tf.uint16)), ValueError,
     "up to 255 got an image of uint16; convert it"),
    ("images of no height", _open(np.zeros((4, 0, 8, 3), np.uint8)), ValueError,
     r"\(4, 0, 8, 3\).*none of them 0"),
    ("a dataset of no height",
     _open(tf.data.Dataset.from_tensors(np.zeros((0, 8, 3), np.uint8))), ValueError,
     r"\(0, 8, 3\), expected some pixels"),
    ("a probability above 1", _view(flip=1.5), ValueError, "flip=1.5; give"),
    ("an unknown filter", _view(resize="lanczos"), ValueError, "'lanczos'; choose"),
    ("a batch above the data", lambda m: _multiview(batch_size=5), ValueError,
     "batch_size=5 .*only 4 images; use"),
    ("a batch of nothing", lambda m: _multiview(batch_size=0), ValueError,
     "batch_size=0 received, expected"),
    ("workers that do not divide", lambda m: _multiview(batch_size=4, shard=(0, 3)),
     ValueError, "batch_size=4 .*3 workers; use a multiple"),
    ("labels that are not there",
     lambda m: pipeline.multiview(
         data.open_source(_PIXELS), data.recipes.SIMCLR, batch_size=2,
         with_labels=True),
     ValueError, "with_labels=True received, .*no labels"),
    ("a share of bad files above 1", _ours(pipeline.BadFiles, 2), ValueError,
     r"max_fraction=2 received, expected a share"),
    ("only broken files",
     lambda m: pipeline.labeled(data.open_source(f"{m}/broken"), _plain()),
     ValueError, "No image of .*broken.*expected JPEG"),
    ("preprocessing for other channels",
     lambda m: pipeline.labeled(_array(), data.Preprocessing(size=8, channels=1)),
     ValueError, "3 channels.*open the data with channels=1"),
    ("preprocessing of no pixels", lambda m: data.Preprocessing(size=0), ValueError,
     "size=0.*must be at least 1"),
    ("a standard deviation of 0", lambda m: data.Preprocessing(size=8, std=0.0),
     ValueError, "std=.*must be above 0"),
    ("settings of another version",
     lambda m: data.Preprocessing.from_config({"size": 8, "zoom": 2}), ValueError,
     "zoom; it knows"),
    # Selections of labels.
    ("a selection without labels", _ours(labels.select, None, fraction=0.1), ValueError,
     "needs labelled images.*no labels"),
    ("a share of 0", _ours(labels.select, [0, 1], fraction=0.0), ValueError,
     "fraction=0.0 received, expected"),
    ("more than a class has", _ours(labels.select, [0, 1], per_class=2), ValueError,
     "per_class=2 .*class 0 has 1"),
    ("a selection for other data",
     lambda m: labels.load(f"{m}/selection.json", _array()), ValueError,
     "names image 9.*has 4.*other data"),
    ("a list of other files",
     lambda m: labels.from_file(f"{m}/list.txt", _folder(m)), ValueError,
     "'nothing.png'.*does not have; give the data that"),
    ("a list for images without names",
     lambda m: labels.from_file(f"{m}/list.txt", _array()), ValueError,
     "list.txt names files, but the images of .* have no names; give"),
    ("a list that is not there",
     lambda m: labels.from_file(f"{m}/no.txt", _folder(m)), ValueError,
     "There is no list of labelled images at .*no.txt"),
    ("a list of nothing",
     lambda m: labels.from_file(f"{m}/file", _folder(m)), ValueError,
     "file chooses no image; expected one file name a line"),
    ("a list that is no text",
     lambda m: labels.from_file(f"{m}/images/latin.csv", _folder(m)), ValueError,
     "latin.csv is no text .UTF-8.; expected one"),
    ("a list of images without labels",
     lambda m: labels.from_file(f"{m}/two.txt", _folder(m)), ValueError,
     "two.txt chooses '.*0.png' and 1 more, which .* has no label of; take"),
    ("a selection of another form",
     lambda m: labels.from_file(f"{m}/index.json", _array()), ValueError,
     "index.json is no saved selection .*give one from the labels/"),
    ("a selection that is cut short",
     lambda m: labels.from_file(f"{m}/cut.json", _array()), ValueError,
     "cut.json is damaged or empty"),
    # Models, losses, optimizers.
    ("an unknown encoder",
     lambda m: models.encoder("resnet19", input_shape=(8, 8, 3)), ValueError,
     "'resnet19'; valid names"),
    ("an unknown stem",
     lambda m: models.encoder("resnet18", input_shape=(8, 8, 3), stem="mnist"),
     ValueError, "stem must be one of .*'mnist'"),
    ("a head of no layers", _ours(heads.mlp, 8, []), ValueError, "dims is empty; give"),
    ("a head of no width", _ours(heads.mlp, 8, [0]), ValueError,
     "must be positive integers.*got"),
    ("statistics of another kind", lambda m: norms.BatchNorm(statistics="all"),
     ValueError, "must be one of .*'all'"),
    ("a temperature of 0", lambda m: losses.nt_xent(_z(), _z(), temperature=0.0),
     ValueError, "temperature must be greater than 0, got 0"),
    ("embeddings of two sizes", lambda m: losses.nt_xent(_z(), _z(dim=4)), ValueError,
     r"must be of one shape.*\(4, 3\) and \(4, 4\)"),
    ("an unknown optimizer",
     lambda m: optimizers.build("lasr", learning_rate=0.1, weight_decay=0.0),
     ValueError, "'lasr'; valid names"),
    ("a momentum of 1", lambda m: optimizers.LARS(0.1, momentum=1.0), ValueError,
     r"momentum=1.0 received, expected a number in \[0, 1\)"),
    ("a negative decay", lambda m: optimizers.LARS(0.1, weight_decay=-1.0), ValueError,
     "weight_decay=-1.0 received, expected 0 or more"),
    ("a warm-up above the training",
     lambda m: schedules.WarmupCosine(0.1, warmup_steps=9, total_steps=5), ValueError,
     "warmup_steps=9, total_steps=5; train longer"),
    ("an unknown scaling rule", _ours(schedules.scaled_rate, 0.1, 256, "cubic"),
     ValueError, "must be one of .*'cubic'"),
    ("a method of no encoder", lambda m: methods.SimCLR("resnet18"), ValueError,
     "encoder='resnet18'.*pass one made with"),
    ("an encoder that gives maps",
     lambda m: methods.SimCLR(keras.Sequential(
         [keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])),
     ValueError, "output shape.*global pooling"),
    ("a strategy of another name", lambda m: strategy.make("mirror"), ValueError,
     "strategy='mirror' received, expected one of"),
    # Tasks.
    ("an unknown method", lambda m: _pretrain(m, method="byoll"), ValueError,
     "method='byoll' received, expected one of"),
    ("an unknown precision", lambda m: _pretrain(m, precision="fp8"), ValueError,
     "precision='fp8' received, expected"),
    ("no epochs", lambda m: _pretrain(m, epochs=0), ValueError,
     "epochs=0 received, expected a whole number, 1 or more"),
    ("steps per call that do not divide",
     lambda m: _pretrain(m, steps_per_execution=3), ValueError,
     "steps_per_execution=3 does not divide .*use one of"),
    *[
        (f"pretrain with {name}={value!r}",
         lambda m, name=name, value=value: _pretrain(m, **{name: value}),
         ValueError, f"^{name}={re.escape(repr(value))} received, expected")
        for name, value in (
            ("epochs", 10**20), ("epochs", 1.5), ("batch_size", True),
            ("batch_size", "8"), ("steps_per_execution", 0), ("keep", 0),
            ("checkpoint_epochs", 0), ("checkpoint_steps", -1), ("knn_k", 0),
            ("checkpoint_minutes", float("nan")), ("knn_epochs", -1),
            ("online_probe_epochs", -1), ("online_probe_steps", 0),
            ("knn_temperature", float("inf")), ("seed", -1), ("seed", 10**20),
            ("image_size", 100_000), ("image_size", 0), ("channels", 0),
            ("learning_rate", float("nan")), ("learning_rate", -1.0),
            ("weight_decay", float("inf")), ("warmup_epochs", float("inf")),
            ("lr_start", -0.1), ("lr_final", float("nan")), ("lr_drop_factor", 0.0),
            ("validation_fraction", float("nan")), ("validation_fraction", 1.0),
            ("max_bad_fraction", 2.0), ("num_replicas", 10**20),
            ("lr_scaling", "cubic"), ("lr_schedule", "linear"), ("strategy", "mirror"),
        )
    ],
    ("drops at no epoch", lambda m: _pretrain(m, lr_drops=[float("nan")]), ValueError,
     "lr_drops=.nan. received, expected a list of numbers"),
    ("a TPU without its strategy", lambda m: _pretrain(m, tpu="local"), ValueError,
     "tpu='local' received with strategy='default'; it is for strategy='tpu'"),
    ("replicas without their strategy", lambda m: _pretrain(m, num_replicas=2),
     ValueError, "num_replicas=2 received with .*it is for strategy='mirrored'"),
    *[
        (f"an encoder with {given}",
         lambda m, given=given, name=name: _pretrain(
             m, encoder=name.format(made=m), encoder_args=given),
         ValueError, sentence)
        for name, given, sentence in (
            ("resnet18", {"nope": 5}, "'nope' received, but resnet18 takes only"),
            ("resnet18", {"width": "abc"}, "width='abc' received, expected a number"),
            ("resnet18", {"width": (1,)}, "width=.1,., which does not work"),
            ("resnet18", {"sobel": "no"}, "sobel='no' received, expected True or F"),
            ("{made}/plain.keras", {"width": 1}, "for .*plain.keras, which takes none"),
            ("keras.applications.MobileNetV2", {"tau": 1}, "'tau' received, but keras"),
        )
    ],
    ("arguments of a built encoder",
     lambda m: _pretrain(m, encoder=_encoder(), encoder_args={"width": 1}), ValueError,
     "width.* received for a model that is built already, which takes none"),
    ("a module as an encoder",
     lambda m: _pretrain(m, encoder="keras.applications.resnet50"), ValueError,
     "'keras.applications.resnet50' is not in keras.applications; expected"),
    *[
        (f"{name} with {given}",
         lambda m, given=given, name=name: _pretrain(
             m, encoder=lambda _: _encoder(), optimizer=name, optimizer_args=given),
         ValueError, sentence)
        for name, given, sentence in (
            ("adamw", {"beta_1": 2}, "beta_1=2 received, expected a number in"),
            ("lamb", {"nope": 2}, "optimizer_arg 'nope' received, but lamb takes only"),
            ("lars", {"learning_rate": 1}, "'learning_rate' received.*give learning_r"),
            ("lars", {"name": ""}, "optimizer_arg 'name' received, but lars takes"),
            ("sgd", {"momentum": "abc"}, "momentum='abc' received, expected a number"),
        )
    ],
    *[
        (f"{name} with {given}",
         lambda m, given=given, name=name: _pretrain(
             m, encoder=lambda _: _encoder(), method=name, hparams=given),
         ValueError, sentence)
        for name, given, sentence in (
            ("simclr", {"temperature": "abc"}, "temperature='abc' received, expected"),
            ("simclr", {"projection_dim": (1,)}, "dims must be positive integers"),
            ("moco", {"total_steps": "abc"}, "total_steps='abc', which does not work"),
            ("moco", {"momentum": "abc"}, "momentum='abc'"),
            ("moco", {"version": [1]}, r"version=\[1\] received, expected"),
            ("swav", {"num_prototypes": 1.5}, "num_prototypes=1.5 received, expected"),
        )
    ],
    ("training on data that is not there", lambda m: _pretrain(m, data=f"{m}/no"),
     ValueError, "/no' is no folder.*check the path"),
    ("an argument that no data takes",
     lambda m: _pretrain(m, data_args={"rot": "/"}), ValueError,
     "data_arg 'rot' received, expected some of follow_links"),
    ("a text that means neither yes nor no",
     lambda m: _pretrain(m, data=f"{m}/images", data_args={"follow_links": "no"}),
     ValueError, "follow_links='no' received, expected True or False"),
    ("kNN without validation images", lambda m: _pretrain(m, knn_epochs=1), ValueError,
     "knn_epochs=1 .*or set knn_epochs=0"),
    ("an argument that a method lacks",
     lambda m: _pretrain(m, encoder=lambda _: _encoder(), hparams={"tau": 1}),
     ValueError, "'tau' received, but simclr takes only"),
    ("an encoder that holds code", lambda m: _pretrain(m, encoder=f"{m}/lambda.keras"),
     ValueError, "lambda.keras' holds Python code.*rebuild"),
    ("evaluating what is no run", lambda m: tfssl.evaluate(f"{m}/no"), ValueError,
     "No encoder at .*no.*pass the --out folder"),
    ("settings of what is no run", lambda m: recorded.settings_of(f"{m}/empty"),
     ValueError, "empty' holds no run.json with settings; pass"),
    *[
        (f"exporting as {name!r}",
         lambda m, name=name: export.export(f"{m}/plain.keras", f"{m}/out", name=name),
         ValueError, "^name=.* received, expected a file name, no path")
        for name in ("../../x", "..", ".", "a/b", "")
    ],
    ("exporting an encoder without preprocessing",
     lambda m: export.export(f"{m}/plain.keras", f"{m}/out"), ValueError,
     "plain.keras' holds no preprocessing.*save it with"),
    ("more warm-up than TF Serving takes",
     lambda m: export.export(f"{m}/plain.keras", f"{m}/out", warmup=998), ValueError,
     "warmup=998 received, expected a whole number from 0 to 997"),
    ("records with a path as their name",
     lambda m: make_tfrecords.make_tfrecords(_PIXELS, f"{m}/out", name="../x"),
     ValueError, "name='../x' received, expected a file name"),
    ("JPEG of quality 101",
     lambda m: make_tfrecords.make_tfrecords(_PIXELS, f"{m}/out", quality=101),
     ValueError, "quality=101 received, expected a whole number from 1 to 100"),
    ("a sheet of huge views",
     lambda m: show_views.show_views(_PIXELS, f"{m}/out/v.png", image_size=100_000),
     ValueError, "image_size=100000 received, expected a whole number from 1 to 10000"),
    ("a port beyond 16 bits", lambda m: data_service.start(port=99_999), ValueError,
     "port=99999 received, expected a whole number from 0 to 65535"),
    ("retrieval at no scale",
     lambda m: retrieve.retrieve(f"{m}/plain.keras", f"{m}/images", m, levels=0),
     ValueError, "levels=0 received, expected"),
    ("evaluating with a negative seed",
     lambda m: tfssl.evaluate(f"{m}/no", seed=-1), ValueError,
     "seed=-1 received, expected a whole number"),
    ("exporting what is no run", lambda m: export.export(f"{m}/no", f"{m}/out"),
     ValueError, "No encoder at .*no.*pass the --out folder"),
    ("embedding without preprocessing",
     lambda m: tfssl.embed(_encoder(), _PIXELS, f"{m}/out/e.npz"), ValueError,
     "carries no preprocessing; load it with"),
    ("a sheet of nothing",
     lambda m: show_views.show_views(_PIXELS, f"{m}/out/v.png", num_images=0),
     ValueError, "num_images=0 received, expected a whole number, 1 or more"),
    # Files of models.
    ("a model that holds code", lambda m: keras_file.load(f"{m}/lambda.keras"),
     ValueError, "lambda.keras' holds Python code.*rebuild"),
    ("a model that is text", lambda m: tfssl.load(f"{m}/text.keras"), ValueError,
     "text.keras' is not a .keras file.*give a file"),
    ("a model that is not there", lambda m: keras_file.load(f"{m}/no.keras"),
     ValueError, "no .keras file at .*no.keras"),
    ("a model of another ending",
     lambda m: keras_file.save(_encoder(), f"{m}/out.h5", _plain()), ValueError,
     "must end in .keras, got .*out.h5"),
    ("a served version that exists",
     lambda m: serving.saved_model(
         _encoder(), f"{m}/model", preprocessing=_plain(), version=1),
     ValueError, "Version 1 exists .*leave the version out"),
    ("a served version of 0",
     lambda m: serving.saved_model(
         _encoder(), f"{m}/out/model", preprocessing=_plain(), version=0),
     ValueError, "version=0 received, expected a whole number, 1 or more"),
    ("preprocessing of other images",
     lambda m: serving.saved_model(
         models.encoder("resnet18", input_shape=(8, 8, 3), width=1 / 64),
         f"{m}/out/model", preprocessing=data.Preprocessing(size=9, channels=1)),
     ValueError, r"does not take images of \(9, 9, 1\).*pass the preprocessing"),
    ("a checkpoint that is none",
     lambda m: checkpoint.read_state(f"{m}/checkpoints/checkpoint-3"), ValueError,
     "checkpoint-3"),
    ("features without rows",
     lambda m: features.Features(np.zeros(3), np.zeros(3), np.zeros(3)), ValueError,
     r"shape \(3,\); give one row per image"),
]  # fmt: skip


def _tree(root):
    return {
        str(path.relative_to(root)): path.stat().st_size if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def _sentences(message):
    """How many there are; a full stop inside a name or a number ends none."""
    return len(re.findall(r"[.!?](?=\s+[A-Z]|\s*$)", message))


@pytest.mark.parametrize("call, kind, pattern", [r[1:] for r in ROWS],
                         ids=[r[0] for r in ROWS])  # fmt: skip
def test_a_mistake_is_answered_in_one_sentence(made, call, kind, pattern):
    before = _tree(made)
    with pytest.raises(kind) as caught:
        call(made)
    message = str(caught.value)
    assert re.search(pattern, message), message
    assert len(message) < 500 and "\n" not in message, message
    assert _sentences(message) == 1 and message[-1] == ".", message
    assert _tree(made) == before


def test_the_table_is_long_enough_and_has_no_row_twice():
    assert len({row[0] for row in ROWS}) == len(ROWS) >= 170


def test_the_count_of_sentences_can_fail():
    assert _sentences("One is here. Two is there.") == 2
    assert _sentences("x=0.5 of a.csv; give b.") == 1
