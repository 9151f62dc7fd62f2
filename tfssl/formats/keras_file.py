"""An encoder and its preprocessing in one `.keras` file, and the head of a run.

The file is what `encoder.save` writes, plus members that Keras ignores:
`preprocessing.json`, of a run `head.keras`, and, where that head tells classes apart,
`classes.json`. `keras.models.load_model` opens it as well, moving or renaming the file
cannot separate the weights from the pixels they expect, and a run that is trained on
cannot leave the head of one state beside the encoder of another.
"""

import contextlib
import dataclasses
import json
import os
import struct
import tempfile
import zipfile
import zlib

import keras
import tensorflow as tf

from tfssl import (
    checks,
    files,
    models,  # noqa: F401  Registers the classes that files name.
)
from tfssl.data import preprocessing as preprocessing_lib
from tfssl.formats import encoder as encoder_lib
from tfssl.formats.classifier import Classifier
from tfssl.models import copying, image_format

_MEMBER = "preprocessing.json"
_HEAD = "head.keras"
_CLASSES = "classes.json"
# What `zipfile` raises on damaged files, beside its own error.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclasses.dataclass(frozen=True)
class Classes:
    """What the outputs of a head are that tells classes apart.

    Attributes:
        class_names: tuple of texts, by column.
        multilabel: whether an image may be of several classes, or of none.
    """

    class_names: tuple
    multilabel: bool = False


def save(encoder, path, preprocessing=None, *, head=None, classes=None):
    """Writes an encoder and its preprocessing, replacing the file atomically.

    Of an `Encoder` the network is written, so that a reader needs no class but its, and
    of a `Classifier` its head and its classes too. No optimizer of theirs is written.

    Args:
        encoder: a Keras model. Classes of your own in it need
            `@keras.saving.register_keras_serializable`.
        path: ends in `.keras`; local, or any path that `tf.io.gfile` writes.
        preprocessing: the `data.Preprocessing` that the encoder was trained with; None
            takes that of an `Encoder`.
        head: a Keras model of its features that is kept with it, or None.
        classes: `Classes` that the outputs of `head` are, or None.

    Returns:
        `path`.

    Raises:
        ValueError: if `path` does not end in `.keras`, or there is no preprocessing.
    """
    network, preprocessing = encoder_lib.parts(encoder, preprocessing)
    if isinstance(encoder, Classifier) and head is None:
        head, classes = encoder.head, Classes(encoder.class_names, encoder.multilabel)
    _replace(path, lambda part: _write(network, part, preprocessing, head, classes))
    return files.expanded(path)


def save_whole(model, path):
    """Writes a model as Keras saves it, without its optimizer, replacing atomically.

    Args:
        model: a Keras model, such as a `Classifier`.
        path: as for `save`.
    """
    _replace(path, copying.without_optimizer(model).save)


def _replace(path, write):
    """Lets `write(path)` write a `.keras` file that takes the place of another."""
    path = files.expanded(path)
    if not path.endswith(".keras"):
        raise checks.refused("path", path, "a file that ends in .keras")
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    if "://" in path:
        with tempfile.TemporaryDirectory() as scratch:
            part = os.path.join(scratch, "encoder.keras")
            write(part)
            tf.io.gfile.copy(part, path, overwrite=True)
        return
    # Keras insists on the ending. One name, so that the next save takes the place of
    # what a killed one has left.
    part = f"{path.removesuffix('.keras')}.part.keras"
    try:
        write(part)
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.remove(part)
        raise


def _write(network, path, preprocessing, head, classes):
    copying.without_optimizer(network).save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_MEMBER, json.dumps(preprocessing.get_config(), indent=2))
        if head is not None:
            with tempfile.TemporaryDirectory() as scratch:
                part = os.path.join(scratch, _HEAD)
                copying.without_optimizer(head).save(part)
                archive.write(part, _HEAD)
        if classes is not None:
            archive.writestr(_CLASSES, json.dumps(dataclasses.asdict(classes)))


def load(path):
    """Reads an encoder and its preprocessing.

    Keras's safe mode is on: a file cannot run code of its own (`Lambda` layers
    are refused).

    Args:
        path: a `.keras` file, by `save` or by Keras itself.

    Returns:
        `(encoder, preprocessing)`: a trainable Keras model in float32 or its
        saved policy, and a `data.Preprocessing`, or `None` if the file holds none
        (`save` writes it, and Keras that of an `Encoder`).

    Raises:
        ValueError: if there is no such file, it is not a `.keras` file, it is damaged,
            it holds code, or classes that are not registered.
    """
    with _opened(path) as (local, path):
        return _parts(_load_model(local, path), local, path)


def load_with_head(path):
    """Reads an encoder, its preprocessing, and the head that was trained on it.

    Args:
        path: as for `load`.

    Returns:
        `(encoder, preprocessing, head, classes)`: the first two as of `load`, a
        trainable Keras model, or `None` if the file holds no head, and the `Classes`
        that its outputs are, or `None`.

    Raises:
        ValueError: as `load`.
    """
    return _read(path)[1:]


def _read(path):
    """`(what Keras saved, encoder, preprocessing, head, classes)` of a file."""
    with _opened(path) as (local, path), tempfile.TemporaryDirectory() as scratch:
        model = _load_model(local, path)
        encoder, preprocessing = _parts(model, local, path)
        if isinstance(model, Classifier):
            classes = Classes(model.class_names, model.multilabel)
            return model, encoder, preprocessing, model.head, classes
        head = classes = None
        with zipfile.ZipFile(local) as archive:
            members = archive.namelist()
            if _HEAD in members:
                head = _load_model(archive.extract(_HEAD, scratch), path)
            if _CLASSES in members:
                classes = Classes(**json.loads(archive.read(_CLASSES)))
        return model, encoder, preprocessing, head, classes


def load_classifier(path):
    """Reads a `Classifier`, of a fine-tuned run or saved by Keras.

    Args:
        path: as for `load`.

    Raises:
        ValueError: as `load`, and if the file holds none.
    """
    found = load_whole(path)
    if isinstance(found, Classifier):
        return found
    raise ValueError(
        f"{path!r} holds an encoder and no classifier; pass the --out folder of a "
        "fine-tuning, or fine-tune this encoder first (tfssl.finetune)."
    )


def load_whole(path):
    """Reads a `Classifier` where a file holds one, else an `Encoder`.

    Args:
        path: as for `load`.

    Raises:
        ValueError: as `load`.
    """
    model, encoder, preprocessing, head, classes = _read(path)
    if isinstance(model, Classifier):
        return model
    if classes is None:
        return encoder_lib.Encoder(encoder, preprocessing)
    return Classifier(
        encoder,
        head,
        classes.class_names,
        preprocessing=preprocessing,
        multilabel=classes.multilabel,
    )


def holds_head(path):
    """Whether a `.keras` file holds a head; a damaged one holds nothing."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return _HEAD in archive.namelist()
    # TensorFlow's, of a file that is shorter than the end of any zip file.
    except (zipfile.BadZipFile, tf.errors.InvalidArgumentError):
        return False


@contextlib.contextmanager
def _opened(path):
    """`(local, path)`: the file on this machine, sound, and what the user calls it."""
    path = files.expanded(path)
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
        raise ValueError(f"There is no .keras file at {path!r}.")
    with tempfile.TemporaryDirectory() as scratch:
        local = path
        if "://" in path:
            local = os.path.join(scratch, "encoder.keras")
            tf.io.gfile.copy(path, local)
        if not zipfile.is_zipfile(local):
            raise ValueError(
                f"{path!r} is not a .keras file (or is cut short); give a file "
                "written by formats.keras_file.save."
            )
        _check_members(local, path)
        yield local, path


def _parts(model, local, path):
    """`(network, preprocessing)` of the model that a file holds."""
    if isinstance(model, encoder_lib.Preprocessed):
        return model.network, model.preprocessing
    return model, _read_preprocessing(local, path)


def _check_members(local, path):
    """Reads every byte against its checksum: Keras would say little of a wrong one."""
    try:
        with zipfile.ZipFile(local) as archive:
            damaged = archive.testzip()
    except _ZIP_ERRORS as error:
        damaged = error
    if damaged is not None:
        raise ValueError(
            f"{path!r} is damaged ({damaged}); copy it anew, or save the encoder again."
        )


def _load_model(local, path):
    image_format.check()
    try:
        return keras.saving.load_model(local, compile=False, safe_mode=True)
    except (MemoryError, tf.errors.ResourceExhaustedError):
        raise
    except Exception as error:  # Keras has no error of its own for this.
        if "safe_mode" in str(error) or "ambda" in str(error):
            raise ValueError(
                f"{path!r} holds Python code (a Lambda layer), which loading it would "
                "run; rebuild the model with layers of registered classes."
            ) from error
        # Keras puts the cause behind the configs of all that it stands in.
        cause = str(error).rpartition("Exception encountered: ")[2].strip()
        first = (cause or type(error).__name__).splitlines()[0][:200]
        advice = "save it again with this version of Keras"
        if "register_keras_serializable" in str(error):
            advice = (
                "register its classes with keras.saving.register_keras_serializable "
                "before"
            )
        raise ValueError(
            f"{path!r} cannot be loaded ({first.rstrip('.')}); {advice}."
        ) from error


def _read_preprocessing(local, path):
    with zipfile.ZipFile(local) as archive:
        if _MEMBER not in archive.namelist():
            return None
        text = archive.read(_MEMBER)
    try:
        return preprocessing_lib.Preprocessing.from_config(json.loads(text))
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(
            f"The {_MEMBER} in {path!r} is none of tfssl ({first.rstrip('.')}); save "
            "the encoder again with formats.keras_file.save."
        ) from error
