"""An encoder and its preprocessing in one `.keras` file.

The file is what `encoder.save` writes, plus a member `preprocessing.json` that
Keras ignores: `keras.models.load_model` opens it as well, and moving or renaming
the file cannot separate the weights from the pixels they expect.
"""

import json
import os
import tempfile
import zipfile

import keras
import tensorflow as tf

from tfssl import models  # noqa: F401  Registers the classes that files name.
from tfssl.data import preprocessing as preprocessing_lib

_MEMBER = "preprocessing.json"


def save(encoder, path, preprocessing):
    """Writes an encoder and its preprocessing, replacing the file atomically.

    Args:
        encoder: a Keras model. Classes of your own in it need
            `@keras.saving.register_keras_serializable`.
        path: ends in `.keras`; local, or any path that `tf.io.gfile` writes.
        preprocessing: the `data.Preprocessing` that the encoder was trained with.

    Returns:
        `path`.

    Raises:
        ValueError: if `path` does not end in `.keras`.
    """
    path = os.fspath(path)
    if not path.endswith(".keras"):
        raise ValueError(f"An encoder file must end in .keras, got {path!r}.")
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    if "://" in path:
        with tempfile.TemporaryDirectory() as scratch:
            part = os.path.join(scratch, "encoder.keras")
            _write(encoder, part, preprocessing)
            tf.io.gfile.copy(part, path, overwrite=True)
        return path
    # Keras insists on the ending. One name, so that the next save takes the place of
    # what a killed one has left.
    part = f"{path.removesuffix('.keras')}.part.keras"
    try:
        _write(encoder, part, preprocessing)
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.remove(part)
        raise
    return path


def _write(encoder, path, preprocessing):
    encoder.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_MEMBER, json.dumps(preprocessing.get_config(), indent=2))


def load(path):
    """Reads an encoder and its preprocessing.

    Keras's safe mode is on: a file cannot run code of its own (`Lambda` layers
    are refused).

    Args:
        path: a `.keras` file, by `save` or by Keras itself.

    Returns:
        `(encoder, preprocessing)`: a trainable Keras model in float32 or its
        saved policy, and a `data.Preprocessing`, or `None` if the file was not
        written by `save`.

    Raises:
        ValueError: if there is no such file, it is not a `.keras` file, it holds code,
            or classes that are not registered.
    """
    path = os.fspath(path)
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
                "written by export.keras_file.save."
            )
        return _load_model(local, path), _read_preprocessing(local)


def _load_model(local, path):
    try:
        return keras.saving.load_model(local, compile=False, safe_mode=True)
    except (KeyError, OSError, TypeError, ValueError) as error:
        if "safe_mode" in str(error) or "ambda" in str(error):
            raise ValueError(
                f"{path!r} holds Python code (a Lambda layer), which loading it would "
                "run; rebuild the model with layers of registered classes."
            ) from error
        first = str(error).strip().splitlines()[0][:200]
        raise ValueError(
            f"{path!r} cannot be loaded ({first.rstrip('.')}); register its classes "
            "with keras.saving.register_keras_serializable, or save it again."
        ) from error


def _read_preprocessing(path):
    with zipfile.ZipFile(path) as archive:
        if _MEMBER not in archive.namelist():
            return None
        config = json.loads(archive.read(_MEMBER))
    return preprocessing_lib.Preprocessing.from_config(config)
