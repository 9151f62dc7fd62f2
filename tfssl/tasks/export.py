"""From a run to a SavedModel for serving, with a check of what was written."""

import os
from typing import Annotated, Any, Literal

import numpy as np
import tensorflow as tf

from tfssl import data as data_lib
from tfssl import formats, models
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import pipeline
from tfssl.data.sources import first_channels
from tfssl.formats import serving, signatures
from tfssl.formats import warmup as warmup_lib
from tfssl.models import copying
from tfssl.tasks import arguments, groups, recorded, resolve, runs
from tfssl.tasks.arguments import FileName, Path, Range

_TOLERANCE = 1e-5


@arguments.task
def export(
    run: Path,
    base_dir: Path = "savedmodels",
    *,
    name: Annotated[str | None, FileName()] = None,
    version: groups.CountOrNone = None,
    warmup: Annotated[int, Range(0, warmup_lib.MOST_IMAGES)] = 0,
    check: bool = False,
    data: Any = None,
    split: str | None = None,
    precision: Literal["float32"] | None = None,
):
    """Exports a run's encoder for TF Serving, of a fine-tuned run its classes too.

    A segmenter gives masks. A tokenizer has two signatures, `tokens` and `images`, see
    `formats.signatures`.

    Args:
        run: folder of a run, or a `.keras` file, of an encoder, a classifier, a
            segmenter or a tokenizer.
        base_dir: folder of all exported models.
        name: name of the model there, a file name and no path; None takes the run
            folder's name, of a version of an exported model that of the model.
        version: version number; None takes the next free one.
        warmup: warm-up records to store, made from images of `data`.
        check: reload the SavedModel and compare its bytes signature with the
            Python path on some images of `data`.
        data: images for `warmup` and `check`, given as for `tfssl.pretrain`; None
            takes the run's.
        split: part of `data`, for sources that have parts.
        precision: `"float32"` exports a copy that computes in it, of the same weights,
            such as LiteRT asks for; None keeps what the network computes in.

    Returns:
        Path of the new version, `<base_dir>/<name>/<version>/`.

    Raises:
        ValueError: if there is no encoder or no preprocessing with it, the name is
            none, the version exists, a tokenizer has collapsed, images are told of that
            nothing asks for, there are fewer than `warmup`, or the check finds a
            difference above 1e-5.
    """
    _check_images(data, split, wanted=check or warmup)
    model = runs.load_whole(run)
    preprocessing = model.preprocessing
    if preprocessing is None:
        raise ValueError(
            f"{run!r} holds no preprocessing, so that nobody knows which pixels its "
            "encoder takes; save it with formats.keras_file.save, which stores both."
        )
    if precision is not None:
        model = copying.copied(model, f"an export in {precision}", precision)
    folder = runs.folder_of(run)
    if name is None:
        name = _name_of(os.path.abspath(run), folder)
    record = runs.record_of(folder) if folder else None
    images = None
    if (warmup or check) and preprocessing.channels not in (1, 3, 4):
        raise ValueError(
            f"{'check' if check else 'warmup'} received, which sends image files, but "
            f"the encoder of {run!r} takes {preprocessing.channels} channels, which no "
            "file has; leave it out."
        )
    if warmup or check:
        source = _source(folder, preprocessing, data, split)
        images = _png_images(source, preprocessing, max(warmup, 4))
        if len(images) < warmup:
            raise ValueError(
                f"warmup={warmup} received, but only {len(images)} of the images "
                f"can be read; give at most {len(images)}, or more images with data=… "
                "(--data)."
            )
    differences = []

    def verify(path):
        differences.append(largest_difference(path, model, images))
        if not differences[0] <= _TOLERANCE:
            raise ValueError(
                f"The SavedModel of {run!r} differs from the Python model by "
                f"{differences[0]:.1e}, more than {_TOLERANCE:g}, and gets no version; "
                "please report it."
            )

    path = formats.saved_model(
        model,
        os.path.join(base_dir, name),
        verify=verify if check else None,
        name=name,
        version=version,
        warmup_images=images[:warmup] if warmup else None,
        model_card=_model_card(record) if folder else serving.card_of(run),
    )
    if check:
        tokenizer = isinstance(model.network, models.Tokenizer)
        through = "both signatures" if tokenizer else "the bytes signature"
        print(
            f"Reloaded {path}: {len(images)} images through {through}, "
            f"largest difference to Python {differences[0]:.1e}"
        )
    return path


def _check_images(data, split, wanted):
    """Raises `ValueError` for settings of images that would do nothing."""
    if split is not None and data is None:
        raise ValueError(
            f"split={split!r} received without data, whose part it is; give data=… "
            "(--data) too, or leave split out for that of the run."
        )
    if data is not None and not wanted:
        raise ValueError(
            "data received, but neither check nor warmup, which its images are for; "
            "give one of them, or leave data out."
        )


def _name_of(path, folder):
    above, name = os.path.split(path)
    is_version = folder is None and name.isdecimal()
    return os.path.basename(above) if is_version else name.removesuffix(".keras")


def largest_difference(path, model, images):
    """Largest difference of any output, SavedModel against Python.

    Infinite if the SavedModel says that one of the images cannot be read. Differences
    are absolute, but those of features and logits, which have no bound, relative to the
    largest of them, where that is above 1. Of a mask and of tokens it is how far the
    logits can have been moved, also relative: half of what the logit of the class or
    code in the SavedModel lies below the largest of its place, 0 where it is that one.
    Of a tokenizer it is also the largest difference of the images of the same tokens.

    Args:
        path: a SavedModel with our signatures.
        model: the `formats.Encoder` or `formats.Classifier`.
        images: list of encoded images (`bytes`).
    """
    loaded = tf.saved_model.load(path)  # Keep it: its variables die with it.
    if isinstance(model.network, models.Tokenizer):
        return _of_tokenizer(loaded.signatures, model, images)
    served = loaded.signatures["serving_default"](tf.constant(images))
    if not np.all(served["valid"]):
        return float("inf")
    inputs = [model.preprocessing.apply_encoded(image) for image in images]
    expected = signatures.outputs(model, tf.stack(inputs))
    differences = {
        name: np.abs(served[name] - values).max() for name, values in expected.items()
    }
    if "mask" in differences:
        logits = model.network.logits(tf.stack(inputs))
        differences["mask"] = _moved(logits, served["mask"])
    for name in {"features", "logits"} & set(differences):
        differences[name] /= _scale(expected[name])
    return float(np.max(list(differences.values())))  # NaN, if one of them is.


def _of_tokenizer(served, model, images):
    """As `largest_difference`."""
    inputs = tf.stack([model.preprocessing.apply_encoded(image) for image in images])
    tokens = model.network.tokens(inputs)
    others = served["tokens"](images=inputs)["tokens"]
    again = served["images"](tokens=tokens)["images"]
    pixels = np.abs(again - model.network.images(tokens)).max()
    return float(np.max([_moved(model.network.logits(inputs), others), pixels]))


def _scale(values):
    return max(1.0, np.abs(values).max())


def _moved(logits, chosen):
    """How far logits must be moved for these choices to be the largest ones."""
    logits = np.asarray(logits, np.float32)
    of_chosen = np.take_along_axis(logits, np.asarray(chosen)[..., np.newaxis], -1)
    below = logits.max(axis=-1, keepdims=True) - of_chosen
    return below.max() / 2 / _scale(logits)


def _source(run, preprocessing, data, split):
    """The images that the export is tried on."""
    channels = preprocessing.channels
    if data is not None:
        depth = resolve.bit_depth(8, preprocessing)
        return resolve.source(data, split=split, channels=channels, bit_depth=depth)
    if run is None:
        raise ValueError(
            "check and warmup need images, which come from the run's data; pass "
            "the run's folder instead of a .keras file, or data=… (--data)."
        )
    settings = recorded.settings_of(run)
    recorded.check_can_be_opened(run, settings)
    options = ("data_args", "split", "channels", "bit_depth", "data_dir")
    given = {key: settings[key] for key in options} | {"labels": "none"}
    if runs.record_of(run).get("task") != "train_segmenter":
        given["channels"] = given["channels"] or channels
    given["bit_depth"] = resolve.bit_depth(given["bit_depth"], preprocessing)
    # Without the maps that a segmenter learned from.
    source = resolve.source(settings["data"], **given)
    return first_channels.of(source, channels)


def _png_images(source, preprocessing, count):
    """The first images of a source that can be read, as PNG files in memory."""
    bad_files = pipeline.BadFiles(max_fraction=1.0)  # They are passed over.
    dataset = data_lib.labeled(
        source, preprocessing.raw(), batch_size=count, bad_files=bad_files
    )
    images = []
    with bad_files_lib.explained(bad_files):
        for batch in dataset:
            images.extend(batch["image"][batch["mask"]])
            if len(images) >= count:
                break
    pixels = tf.cast(tf.round(images[:count]), preprocessing.image_dtype)
    return [tf.io.encode_png(image).numpy() for image in pixels]


def _model_card(record):
    if record is None:
        return None
    return {
        "settings": record.get("settings"),
        "teacher": (record.get("made") or {}).get("teacher"),
        "versions": record.get("versions"),
        "results": record.get("results"),
        "classification": _scores(record.get("classification")),
        "segmentation": _scores(record.get("segmentation")),
        "tokenizer": record.get("tokenizer"),
        "evaluated_on": record.get("evaluated_on"),
        "evaluation": record.get("evaluation"),
    }


def _scores(entry):
    """Rows of scores on validation images: of what was trained, and beside it."""
    entry = dict(entry or {})
    images = entry.pop("validation", "")  # An older version did not name them.
    return [
        {"of": name, "images": images}
        | {score: value for score, value in told.items() if value is not None}
        for name, told in entry.items()
    ]
