"""A run's folder: what it holds, and how it is written and read again.

```
out/
  run.json          settings, changes of them, versions, commit, results
  run.flags         the same settings as a flagfile (written by the binary)
  metrics.jsonl     one line per epoch        tensorboard/   the same, as curves
  checkpoints/      checkpoint-<step>/, best.json
  encoder.keras     the trained encoder, its preprocessing and its head inside
                    (tokenizer.keras of a tokenizer, segmenter.keras of a segmenter)
  views.png         some training views       evaluation.json, report.html
  pictures.png      what the method makes of some images (BEiT)
```
"""

import dataclasses
import os
import platform
import subprocess

import keras
import numpy as np
import sklearn
import tensorflow as tf
from absl import logging

from tfssl import checks, files, methods, models, processor, version
from tfssl import data as data_lib
from tfssl.formats import encoder as encoder_lib
from tfssl.formats import keras_file, serving
from tfssl.formats.encoder import Encoder
from tfssl.models import headed, heads, norms
from tfssl.training import checkpoint

# In the folder of a run.
ENCODER = methods.Method.kept_as
TOKENIZER = methods.DVAE.kept_as
SEGMENTER = methods.Segmentation.kept_as
_OF_RUNS = (ENCODER, TOKENIZER, SEGMENTER)
_WHOLE = (serving.CLASSIFIER, serving.ENCODER)


@dataclasses.dataclass
class Run:
    """A finished (or loaded) pre-training run.

    Attributes:
        path: the run's folder.
        encoder: the trained encoder, a `formats.Encoder`.
        method: the `Method` that was trained.
        history: list of dicts, the lines of `metrics.jsonl`.
        settings: dict, the arguments of `pretrain`, resolved.
    """

    path: str
    encoder: Encoder
    method: keras.Model
    history: list
    settings: dict


def versions(model=None):
    """Versions and machine that a result depends on; the commit, if there is one.

    Args:
        model: a compiled `Method`, or None: what XLA compiles of its steps, and where
            its images lie and its views are finished.
    """
    found = {
        "tfssl": version.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    } | processor.described()
    if model is not None:
        found["xla"] = model.xla
        found["augment_on"] = model.augment_on
        found["images_on"] = model.images_on
    commit = _commit()
    if commit:
        found["commit"] = commit
    return found


def _commit():
    here = os.path.dirname(os.path.abspath(__file__))
    command = ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None  # Installed from a wheel, or git is not there.
    return done.stdout.strip() or None


def record_of(run):
    """The content of a folder's `run.json`, or None if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    path = os.path.join(files.expanded(run), "run.json")
    try:
        record = files.read_json(path)
        if not isinstance(record, dict | None):
            raise files.DamagedFile(f"{path} is damaged (no JSON object).")
    except files.DamagedFile as error:
        raise ValueError(
            f"{str(error).rstrip('.')}; put a copy of it back, or delete it and start "
            "the pre-training again with the same flags: it goes on and writes it anew."
        ) from error
    settings = (record or {}).get("settings")
    for name in ("hparams", "encoder_args"):
        if isinstance(settings, dict) and isinstance(settings.get(name), dict):
            settings[name] = norms.renamed(settings[name])
    return record


def steps_of(record):
    """Steps that the encoder of a run was trained for, by its record; else None."""
    return ((record or {}).get("results") or {}).get("steps")


def update(out, **entries):
    """Merges entries into `run.json`."""
    path = os.path.join(out, "run.json")
    files.write_json(path, (record_of(out) or {}) | entries)


def load(path, *, head_layer=0):
    """The trained encoder of a run, ready to embed, fine-tune or export.

    Args:
        path: a run's folder, that of an exported model or of a version of it, or a
            `.keras` file.
        head_layer: int >= 0, how many layers of the head that it was trained with come
            along: 0 for none, 1 to fine-tune with few labels as SimCLRv2 does. A layer
            is a dense one with its batch norm and ReLU. Heads are projectors;
            predictors, prototypes and classifiers are no part of them, and methods that
            have only such have no head (docs/runs.md has a table).

    Returns:
        A `formats.Encoder`, a Keras model; its attribute `preprocessing` turns an image
        into its input (None if the file holds none), `network` is what was trained.
        With layers of the head `network` is a `models.Headed`, its features are what
        the last of these layers gives.

    Raises:
        ValueError: if there is no encoder, or its head has no such layer.
    """
    checks.whole({"head_layer": head_layer}, "head_layer", least=0)
    path = files.expanded(path)
    file = _file_of(path)
    if not head_layer:
        return Encoder(*keras_file.load(file))
    network, preprocessing, head, classes = keras_file.load_with_head(file)
    if classes is not None:
        raise ValueError(
            f"head_layer={head_layer} received, but the head of {path!r} is a "
            "classifier, which gives no features; leave head_layer out."
        )
    _check_head(path, head, head_layer)
    name = f"{network.name}_head_{head_layer}"
    # Under a name of its own: the encoder may itself end in a head.
    part = heads.first_layers(head, head_layer, name=f"{name}_layers")
    shape = encoder_lib.image_shape(preprocessing)
    network = headed.Headed(network, part, image_shape=shape, name=name)
    return Encoder(network, preprocessing)


def left_in(folder):
    """The `.keras` file that a training has left in its folder, or None."""
    return next(filter(tf.io.gfile.exists, _places([folder], _OF_RUNS)), None)


def _file_of(path, exported=(serving.ENCODER,)):
    """The `.keras` file of a folder; that file itself.

    Args:
        path: folder of a run, of an exported version or of all of them (the newest
            counts), or a file.
        exported: which files of a version will do, the best first.
    """
    places = [path]
    if tf.io.gfile.isdir(path):
        of_version = (*exported, serving.TOKENIZER)
        places = _places([path], _OF_RUNS) + _places(_exports(path), of_version)
    for place in places:
        if tf.io.gfile.exists(place):
            _check_of_today(path, place)
            return place
    raise ValueError(
        f"No encoder at {places[0]!r}; pass the --out folder of a finished run, that "
        "of an exported model, or a .keras file."
    )


def _check_of_today(path, place):
    """Says where the encoder of a run is one of before its training went on."""
    if os.path.basename(place) not in _OF_RUNS or place == path:
        return
    try:
        record = record_of(path) or {}
    except ValueError:  # The encoder is whole, and what is to be said is not needed.
        return
    if record.get("settings") and not record.get("results"):
        logging.warning(
            "%s was trained on after %s was written, which is replaced when that "
            "training ends: start it again with the same flags until it has.",
            path,
            place,
        )


def _exports(path):
    """A folder itself, and the newest version in it."""
    return [path, *(os.path.join(path, str(n)) for n in serving.versions(path)[-1:])]


def _places(folders, names):
    return [os.path.join(folder, name) for folder in folders for name in names]


def load_tokenizer(path):
    """The tokenizer of a run, ready to make tokens of images and images of tokens.

    Args:
        path: folder of a run of `tfssl.train_tokenizer`, that of an exported tokenizer
            or of a version of it, or a `.keras` file.

    Returns:
        A `models.Tokenizer`, a Keras model.

    Raises:
        ValueError: if there is none, or it has collapsed (one code for all).
    """
    network, _ = keras_file.load(_file_of(files.expanded(path)))
    if not isinstance(network, models.Tokenizer):
        raise ValueError(
            f"{path!r} holds an encoder ({network.name}) and no tokenizer; pass the "
            "--out folder of tfssl-train-tokenizer, or its tokenizer.keras."
        )
    network.check_use()
    return network


def load_segmenter(path):
    """The segmenter of a run, ready to say what the pixels of images show.

    Args:
        path: folder of a run of `tfssl.train_segmenter`, that of an exported segmenter
            or of a version of it, or a `.keras` file.

    Returns:
        A `formats.Encoder`, whose `network` is a `models.Segmenter` and whose
        `preprocessing` makes its input of an image.

    Raises:
        ValueError: if there is none.
    """
    found = load(path)
    if not isinstance(found.network, models.Segmenter):
        raise ValueError(
            f"{path!r} holds an encoder ({found.network.name}) and no segmenter; pass "
            "the --out folder of tfssl-train-segmenter, or its segmenter.keras."
        )
    return found


def load_classifier(path):
    """The classifier of a fine-tuned run, ready to predict with, distil or export.

    Args:
        path: a run's folder, that of an exported model or of a version of it, or a
            `.keras` file: that of a run, or of a `formats.Classifier` saved by Keras.

    Returns:
        A `formats.Classifier`, a Keras model: images -> logits. Its attributes
        `preprocessing` and `class_names` say what it takes and gives.

    Raises:
        ValueError: if there is none.
    """
    return keras_file.load_classifier(_file_of(files.expanded(path), _WHOLE))


def load_whole(path):
    """The classifier of a run where it has one, else its encoder.

    Args:
        path: as for `load_classifier`.

    Raises:
        ValueError: if there is none.
    """
    return keras_file.load_whole(_file_of(files.expanded(path), _WHOLE))


def _check_head(path, head, head_layer):
    """Raises `ValueError` unless the head that came with an encoder has this layer."""
    received = f"head_layer={head_layer} received, but"
    if head is not None:
        count = len(heads.layers_of(head))
        if head_layer <= count:
            return
        raise ValueError(
            f"{received} the head of {path!r} has {count} layer(s); give 0 (none) "
            f"to {count} (all)."
        )
    if not tf.io.gfile.isdir(path):
        raise ValueError(
            f"{received} {path!r} holds an encoder alone; pass the --out folder of a "
            f"pre-training run, or the {ENCODER} in it."
        )
    record = record_of(path) or {}
    # A task of its own (a tokenizer's training) is of one method.
    method = (record.get("settings") or {}).get("method") or record.get("task")
    kind = methods.METHODS.get(method)
    headless = kind is not None and kind.head is methods.Method.head
    if headless or (record.get("results") or {}).get("head") is False:
        raise ValueError(
            f"{received} {method}, which trained {path!r}, has no head; leave "
            "head_layer out."
        )
    advice = "and no checkpoint to take it from is left; train it again"
    if checkpoint.latest(os.path.join(path, "checkpoints")):
        advice = (
            "start its pre-training again with the same flags, which adds the head "
            "from the last checkpoint"
        )
    raise ValueError(
        f"{received} {path!r} is of a version of tfssl that kept no head; {advice}."
    )


def folder_of(run):
    """The folder of a run, None for an encoder that came from elsewhere.

    As the folder of an exported model does, of all its versions or of one.
    """
    if not isinstance(run, str | os.PathLike) or not tf.io.gfile.isdir(run):
        return None
    path = files.expanded(run)
    of_run = _places([path], ("run.json", *_OF_RUNS))
    exported = _places(_exports(path), (serving.ENCODER, serving.TOKENIZER))
    of_run, exported = (any(map(tf.io.gfile.exists, x)) for x in (of_run, exported))
    return None if exported and not of_run else path


def encoder_of(run, preprocessing=None, *, any_size=False):
    """`(network, preprocessing)` of a run, a `.keras` file, or an encoder itself.

    Args:
        run: folder, file, or Keras model. Of a `formats.Classifier` it is the encoder.
        preprocessing: `data.Preprocessing`; None takes the encoder's own.
        any_size: whether the encoder is to get images of other sizes than those that
            `preprocessing` makes.

    Raises:
        ValueError: if there is no encoder, no preprocessing is known, or the encoder
            takes other images than it makes.
    """
    encoder = load(run) if isinstance(run, str | os.PathLike) else run
    if not isinstance(encoder, keras.layers.Layer):
        raise checks.refused(
            "run", run, "the folder of a run, a .keras file or a Keras model"
        )
    network, preprocessing = encoder_lib.parts(encoder, preprocessing)
    if not isinstance(preprocessing, data_lib.Preprocessing):
        raise checks.refused(
            "preprocessing", preprocessing, "a tfssl.data.Preprocessing"
        )
    if not any_size:
        _check_fit(network, preprocessing)
    return network, preprocessing


def _check_fit(encoder, preprocessing):
    models.check_images(encoder, preprocessing.size, preprocessing.size)
    inputs = getattr(encoder, "inputs", None)
    if not inputs:
        return  # It has a `call` of its own, which says nothing of shapes.
    made = (preprocessing.size, preprocessing.size, preprocessing.channels)
    taken = tuple(inputs[0].shape[1:])
    fits = len(taken) == 3 and all(t in (None, m) for t, m in zip(taken, made))
    if len(inputs) > 1 or not fits:
        told = " and ".join(" x ".join(map(str, i.shape[1:])) for i in inputs)
        raise ValueError(
            f"The encoder {encoder.name!r} takes images of {told}, but the "
            f"preprocessing makes {' x '.join(map(str, made))}; pass the preprocessing "
            "that it was made for."
        )
