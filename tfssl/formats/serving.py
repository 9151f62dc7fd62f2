"""SavedModels for TF Serving: encoded images in, features out, and classes.

A version is a folder that is complete from the moment on that it has its number. It
holds the variables and the graphs of `signatures`, and what goes on from it in Python
in `assets.extra/`. A `Classifier` has the names of its classes in `assets/` too, the
folder that TF Serving passes on, one a line.
"""

import functools
import os
import platform
import tempfile

import tensorflow as tf
from absl import logging

from tfssl import checks, files, models, python_calls
from tfssl.formats import encoder as encoder_lib
from tfssl.formats import keras_file, signatures, warmup
from tfssl.formats import model_card as model_card_lib
from tfssl.formats.classifier import Classifier

# In the folder of a version.
PREPROCESSING = os.path.join("assets.extra", "preprocessing.json")
ENCODER = os.path.join("assets.extra", "encoder.keras")
TOKENIZER = os.path.join("assets.extra", "tokenizer.keras")
CLASSIFIER = os.path.join("assets.extra", "classifier.keras")
CLASSES = os.path.join("assets", "classes.txt")
CARD = os.path.join("assets.extra", "README.md")
# In the folder of the versions.
_SHOWN_CARD = "README.md"


def saved_model(
    encoder,
    base_dir,
    *,
    preprocessing=None,
    name=None,
    version=None,
    warmup_images=None,
    model_card=None,
    verify=None,
):
    """Writes an encoder or a classifier as the next version of a served model.

    Writes `<base_dir>/<version>/`, with `preprocessing.json` and `encoder.keras` (to
    fine-tune from) and the model card `README.md` in its `assets.extra/`. Of the
    highest version `<base_dir>/README.md` is the card too, unless that file is not by
    an export: then it stays as it is, and a warning says where the card is.
    A `Classifier` gives logits and probabilities too; `assets/classes.txt` has the
    names of its classes, one a line, and `assets.extra/classifier.keras` the whole of
    it. Of a `models.Segmenter` they give masks and probabilities of pixels, its classes
    are in `assets/classes.txt` too, and `encoder.keras` is the segmenter. A
    `models.Tokenizer` has signatures of its own, see `signatures`, and is
    `assets.extra/tokenizer.keras`. Point TF Serving's `--model_base_path` at
    `base_dir`: it can pick the version up only when it is complete.

    Args:
        encoder: any Keras model, images `(batch, h, w, c)` -> features
            `(batch, dim)`, or a `formats.Classifier`. Called with `training=False`;
            nothing else of it (optimizer, other heads) is written. Layers with random
            numbers (dropout) leave their small seed variable in the export.
        base_dir: folder of this model's versions; made if missing.
        preprocessing: the `data.Preprocessing` that turns a file into its input; None
            takes that of an `Encoder`. A `Classifier` has its own.
        name: model name in card and warm-up records; `None`: last part of
            `base_dir`.
        version: int >= 1 that must not exist yet; `None`: the highest plus one.
        warmup_images: list of `bytes`, encoded images, for
            `assets.extra/tf_serving_warmup_requests`.
        model_card: dict of sections (`{"results": [...], "settings": {...}}`), each
            a value, a dict or a list of row dicts, for the model card; or the text of
            another card, see `card_of`, whose sections are taken over.
        verify: function of the path of the finished folder, called before it becomes a
            version, which servers may take at once; what it raises ends the export.

    Returns:
        Path of the new version's folder.

    Raises:
        ValueError: if the version exists or is no positive integer, if encoder and
            preprocessing do not fit or there is none, if the name of a class is not one
            line, for a tokenizer that has collapsed, for a model that calls Python
            functions, or if the folder cannot be written.
    """
    network, preprocessing = encoder_lib.parts(encoder, preprocessing)
    if isinstance(network, models.Tokenizer):
        _check_tokenizer(network, warmup_images)
    classifier = encoder if isinstance(encoder, Classifier) else None
    base_dir = files.expanded(base_dir)
    if name is None:
        name = os.path.basename(os.path.abspath(base_dir))
    checks.file_name({"name": name}, "name")
    if classifier is not None:
        _check_classifier(classifier, preprocessing)
    elif isinstance(network, models.Segmenter):
        _check_names(network.class_names, "train it with other class_names")
    dim = _check_encoder(network, preprocessing)
    _check_version(base_dir, version)
    functions = _traced(classifier or network, preprocessing)
    records = None
    if warmup_images is not None:
        records = warmup.requests(warmup_images, preprocessing)
    card = functools.partial(
        model_card_lib.render,
        network,
        preprocessing,
        name=name,
        dim=dim,
        pixels=signatures.pixel_dtype(preprocessing).name,
        classifier=classifier,
        sections=model_card or {},
    )
    _make_folder(base_dir)
    scratch = _scratch(base_dir)
    try:
        _write_version(network, classifier, preprocessing, functions, scratch)
        if records:
            warmup.write(scratch, name, records)
        if verify is not None:
            verify(scratch)
        path = _publish(scratch, base_dir, version, card)
    finally:
        if tf.io.gfile.exists(scratch):
            tf.io.gfile.rmtree(scratch)
    _show_card(path, base_dir)
    return path


def _write_version(network, classifier, preprocessing, functions, path):
    _write_saved_model(classifier or network, functions, path)
    files.write_json(os.path.join(path, PREPROCESSING), preprocessing.get_config())
    place = TOKENIZER if isinstance(network, models.Tokenizer) else ENCODER
    keras_file.save(network, os.path.join(path, place), preprocessing)
    if classifier is not None:
        keras_file.save_whole(classifier, os.path.join(path, CLASSIFIER))


def _traced(model, preprocessing):
    """The functions of `signatures`, by their names, each as its only graph.

    A `tf.function` would be traced again by `tf.saved_model.save`.

    Raises:
        ValueError: for a graph that calls Python, which a server does not have.
    """
    functions = {}
    found = signatures.signatures(model, preprocessing)
    for name, (function, spec) in found.items():
        function = tf.function(function, input_signature=[spec], autograph=False)
        function = function.get_concrete_function()
        if python_calls.within(function.graph.as_graph_def()):
            raise ValueError(
                f"{model.name!r} calls Python functions (tf.py_function or "
                "numpy_function), which exist in this process only and which no server "
                "has; write them with TensorFlow's or Keras's operations."
            )
        functions[name] = function
    return functions


def _write_saved_model(model, functions, path):
    """Not by `keras.export.ExportArchive`: it stores every variable twice (3.15)."""
    module = tf.Module()
    module.variables_ = [variable.value for variable in model.variables]
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(model, Classifier | models.Segmenter):
            names = os.path.join(scratch, os.path.basename(CLASSES))
            files.write_text(names, "".join(f"{n}\n" for n in model.class_names))
            module.classes = tf.saved_model.Asset(names)
        tf.saved_model.save(module, path, signatures=functions)


def _check_tokenizer(tokenizer, warmup_images):
    """Raises `ValueError` for one code for all, and for requests it cannot answer."""
    tokenizer.check_use()
    if warmup_images is not None:
        raise ValueError(
            "Warm-up images received for a tokenizer, whose signatures take pixels and "
            "tokens, no files; leave warmup out."
        )


def _check_classifier(classifier, preprocessing):
    """Raises `ValueError` unless it can be written with the names of its classes."""
    if preprocessing != classifier.preprocessing:
        raise checks.refused(
            "preprocessing", preprocessing, "that of the classifier; leave it out"
        )
    _check_names(
        classifier.class_names,
        "give its classes other names (tfssl.formats.Classifier)",
    )


def _check_names(class_names, advice):
    """Raises `ValueError` for a name that is not one line."""
    for name in class_names:
        if name.splitlines() != [name]:
            raise ValueError(
                f"The class {name!r} is not one line of text, but "
                f"{os.path.basename(CLASSES)} of an export has a class a line; "
                f"{advice}."
            )


def _check_encoder(encoder, preprocessing):
    """Runs the encoder once, on nothing, and returns its number of features."""
    size, channels = preprocessing.size, preprocessing.channels
    image = tf.zeros((1, size, size, channels))
    try:
        output = encoder(image, training=False)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        first = str(error).strip().splitlines()[0][:200].rstrip(".")
        raise ValueError(
            f"The encoder does not take images of ({size}, {size}, {channels}), which "
            f"is what its preprocessing makes ({first}); pass the preprocessing that "
            "it was trained with."
        ) from error
    if not tf.is_tensor(output) or output.shape.rank != 2:
        shape = getattr(output, "shape", type(output).__name__)
        raise ValueError(
            f"The encoder gives {shape} for one image; a served encoder must give one "
            "vector per image, (batch, dim). Add global average pooling (for "
            'keras.applications: pooling="avg").'
        )
    return int(output.shape[1])


def _check_version(base_dir, version):
    if version is None:
        return
    # TF Serving ignores other names.
    checks.whole({"version": version}, "version", most=2**63 - 1)
    if tf.io.gfile.exists(os.path.join(base_dir, str(version))):
        raise ValueError(
            f"Version {version} exists in {base_dir!r} and is never overwritten; leave "
            "the version out to write the next one, or remove the folder first."
        )


def versions(base_dir):
    """The version numbers in a folder of exports, ascending."""
    if not tf.io.gfile.isdir(base_dir):
        return []
    names = (entry.rstrip("/") for entry in tf.io.gfile.listdir(base_dir))
    return sorted(int(name) for name in names if name.isdecimal())


def _scratch(base_dir):
    """The folder that this process writes in; what killed ones have left is removed.

    A process of another host cannot be asked whether it lives; its folder stays.
    """
    mine = f".writing-{platform.node()}-"
    for entry in tf.io.gfile.listdir(base_dir):
        process = entry.rstrip("/").removeprefix(mine)
        if process.isdecimal() and not _is_alive(int(process)):
            tf.io.gfile.rmtree(os.path.join(base_dir, entry))
    return os.path.join(base_dir, f"{mine}{os.getpid()}")


def _is_alive(process):
    """Whether another process of this host has this number."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # It lives, and is somebody else's.
        return True
    return True


def card_of(path):
    """The text of an exported version's model card, or None if it has none.

    Args:
        path: folder of a version, or of all of them (the newest counts), or a `.keras`
            file in `assets.extra/` of a version.
    """
    path = files.expanded(path)
    if not tf.io.gfile.isdir(path):
        path = os.path.dirname(os.path.dirname(path))
    elif versions(path):
        path = os.path.join(path, str(versions(path)[-1]))
    base_dir, number = os.path.split(path.rstrip("/"))
    place = os.path.join(path, CARD)
    if tf.io.gfile.exists(place):
        return _text(place)
    # Versions of an older tfssl have one card for all, that of the highest.
    place = os.path.join(base_dir, _SHOWN_CARD)
    if list(map(str, versions(base_dir)[-1:])) == [number]:
        return _text(place) if tf.io.gfile.exists(place) else None
    return None


def _show_card(path, base_dir):
    """Copies the card of the highest version to where readers look for it."""
    if int(os.path.basename(path)) < versions(base_dir)[-1]:
        return
    card, shown = os.path.join(path, CARD), os.path.join(base_dir, _SHOWN_CARD)
    if tf.io.gfile.exists(shown) and model_card_lib.MARKER not in _text(shown):
        logging.warning(
            "%s was not written by this version of tfssl and stays as it is; the model "
            "card is %s.",
            shown,
            card,
        )
        return
    files.write_text(shown, _text(card))


def _text(path):
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read().decode(errors="replace")


def _publish(scratch, base_dir, version, card):
    """Renames the finished folder to its number; the highest free one if None.

    Args:
        scratch: the folder, finished but for the card.
        base_dir: folder of the versions.
        version: the number, or None.
        card: function of `version=` to the text of the card.

    Returns:
        Path of the version.
    """
    number = version or max(versions(base_dir), default=0) + 1
    while True:
        path = os.path.join(base_dir, str(number))
        # A rename replaces an EMPTY folder silently, so look first.
        if not tf.io.gfile.exists(path):
            files.write_text(os.path.join(scratch, CARD), card(version=number))
            try:
                tf.io.gfile.rename(scratch, path)
                return path
            except tf.errors.OpError:
                if not tf.io.gfile.exists(path):
                    raise
        if version:
            raise ValueError(
                f"Version {version} appeared in {base_dir!r} during the export and is "
                "never overwritten; leave the version out to write the next one."
            )
        number += 1  # Another export took the number meanwhile.


def _make_folder(path):
    try:
        tf.io.gfile.makedirs(path)
    except tf.errors.OpError as error:
        raise ValueError(f"Cannot write to {path!r}: {error.message}") from error
