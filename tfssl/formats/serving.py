"""SavedModels for TF Serving: encoded images in, features out.

A version holds the encoder's variables and three signatures, each with a batch
dimension of any size and an output `features`, float32 `(batch, dim)`:

* `serving_default`: `encoded_images`, string `(batch,)`, image files as they are.
  Decoding, resizing and normalising happen inside, by the same functions as in
  Python evaluation. A second output `valid`, bool `(batch,)`, says which of them could
  be decoded; the features of the others are zeros. (Not NaN, which JSON does not have:
  a client could not read the answer to the good ones either.)
* `uint8_images`: `images` `(batch, height, width, channels)`, decoded pixels of any
  one size, uint8 (uint16 for an encoder of 16-bit images, float32 for one of float
  images).
* `float_images`: `images` float32 `(batch, size, size, channels)`, already resized
  and normalised: the one that other runtimes can convert. Kept plain for them, so
  it is the only one that does not take an empty batch.
"""

import os
import platform

import tensorflow as tf

from tfssl import checks, files
from tfssl.formats import encoder as encoder_lib
from tfssl.formats import keras_file, warmup
from tfssl.formats import model_card as model_card_lib

_PARALLEL = 16  # Images of a request that are decoded at a time.


def saved_model(
    encoder,
    base_dir,
    *,
    preprocessing=None,
    name=None,
    version=None,
    warmup_images=None,
    model_card=None,
):
    """Writes an encoder as the next version of a served model, atomically.

    Writes `<base_dir>/<version>/`, with `preprocessing.json` and `encoder.keras` (to
    fine-tune from) in its `assets.extra/`, and the model card `<base_dir>/README.md`.
    Point TF Serving's `--model_base_path` at `base_dir`: it can pick the version up
    only when it is complete.

    Args:
        encoder: any Keras model, images `(batch, h, w, c)` -> features
            `(batch, dim)`. Called with `training=False`; nothing else of it
            (optimizer, heads) is written. Layers with random numbers (dropout)
            leave their small seed variable in the export.
        base_dir: folder of this model's versions; made if missing.
        preprocessing: the `data.Preprocessing` that turns a file into its input; None
            takes that of an `Encoder`.
        name: model name in card and warm-up records; `None`: last part of
            `base_dir`.
        version: int >= 1 that must not exist yet; `None`: the highest plus one.
        warmup_images: list of `bytes`, encoded images, for
            `assets.extra/tf_serving_warmup_requests`.
        model_card: dict of sections (`{"results": [...], "settings": {...}}`), each
            a value, a dict or a list of row dicts, for the model card.

    Returns:
        Path of the new version's folder.

    Raises:
        ValueError: if the version exists or is no positive integer, if encoder and
            preprocessing do not fit or there is none, or if the folder cannot be
            written.
    """
    encoder, preprocessing = encoder_lib.parts(encoder, preprocessing)
    base_dir = files.expanded(base_dir)
    if name is None:
        name = os.path.basename(os.path.abspath(base_dir))
    checks.file_name({"name": name}, "name")
    dim = _check_encoder(encoder, preprocessing)
    _check_version(base_dir, version)
    records = None
    if warmup_images is not None:
        records = warmup.requests(warmup_images, preprocessing)
    _make_folder(base_dir)
    scratch = _scratch(base_dir)
    try:
        _write_saved_model(encoder, preprocessing, scratch)
        files.write_json(
            os.path.join(scratch, "assets.extra", "preprocessing.json"),
            preprocessing.get_config(),
        )
        keras_file.save(
            encoder,
            os.path.join(scratch, "assets.extra", "encoder.keras"),
            preprocessing,
        )
        if records:
            warmup.write(scratch, name, records)
        path = _publish(scratch, base_dir, version)
    finally:
        if tf.io.gfile.exists(scratch):
            tf.io.gfile.rmtree(scratch)
    text = model_card_lib.render(
        encoder,
        preprocessing,
        name=name,
        version=int(os.path.basename(path)),
        dim=dim,
        pixels=pixel_dtype(preprocessing).name,
        sections=model_card or {},
    )
    files.write_text(os.path.join(base_dir, "README.md"), text)
    return path


def signatures(encoder, preprocessing):
    """The three serving functions and their inputs.

    Args:
        encoder: as for `saved_model`.
        preprocessing: as for `saved_model`.

    Returns:
        Dict of signature name to `(function, tf.TensorSpec)`.
    """
    size, channels = preprocessing.size, preprocessing.channels
    one_image = tf.TensorSpec((size, size, channels), tf.float32)

    def features_of(images):
        # float32 outside, whatever the policy inside.
        return {"features": tf.cast(encoder(images, training=False), tf.float32)}

    def features_of_any(images):
        # An empty batch becomes one zero-filled row that is cut off again: batch
        # normalisation fails on no rows at all.
        count = tf.shape(images)[0]
        empty = tf.cast(tf.equal(count, 0), tf.int32)
        images = tf.pad(images, [[0, empty], [0, 0], [0, 0], [0, 0]])
        images = tf.ensure_shape(images, (None, size, size, channels))
        return features_of(images)["features"][:count]

    def serving_default(encoded_images):
        images, valid = _readable(
            preprocessing.apply_encoded, encoded_images, one_image.shape
        )
        features = features_of_any(images)
        return {
            "features": tf.where(valid[:, tf.newaxis], features, 0.0),
            "valid": valid,
        }

    def uint8_images(images):
        images = tf.map_fn(preprocessing.apply, images, fn_output_signature=one_image)
        return {"features": features_of_any(images)}

    def float_images(images):
        return features_of(images)

    return {
        "serving_default": (
            serving_default,
            tf.TensorSpec((None,), tf.string, name="encoded_images"),
        ),
        "uint8_images": (
            uint8_images,
            tf.TensorSpec(
                (None, None, None, channels), pixel_dtype(preprocessing), name="images"
            ),
        ),
        "float_images": (
            float_images,
            tf.TensorSpec((None, size, size, channels), tf.float32, name="images"),
        ),
    }


def _readable(prepare, encoded, shape):
    """`(images, valid)`: zeros for what `prepare` fails on, which must not fail others.

    Only `tf.data` can go on after an error of an operation.
    """
    count = tf.shape(encoded, tf.int64)[0]
    found = tf.data.Dataset.from_tensor_slices(encoded).enumerate()
    found = found.map(
        lambda row, image: (row, prepare(image)),
        num_parallel_calls=_PARALLEL,
        deterministic=False,
    ).ignore_errors()
    # One more row, cut off below: there is no batch without a single row.
    found = found.concatenate(tf.data.Dataset.from_tensors((count, tf.zeros(shape))))
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = found.batch(count + 1).with_options(options)
    rows, images = tf.data.Dataset.get_single_element(batches)
    rows = rows[:, tf.newaxis]
    whole = tf.concat([[count + 1], tf.constant(shape.as_list(), tf.int64)], 0)
    images = tf.scatter_nd(rows, images, whole)[:-1]
    valid = tf.scatter_nd(rows, tf.ones_like(rows[:, 0]), [count + 1])[:-1] > 0
    return images, valid


def pixel_dtype(preprocessing):
    """Dtype of the decoded pixels that a preprocessing takes, by their range."""
    return {255.0: tf.uint8, 65535.0: tf.uint16}.get(
        float(preprocessing.max_value), tf.float32
    )


def _write_saved_model(encoder, preprocessing, path):
    """Not by `keras.export.ExportArchive`: it stores every variable twice (3.15)."""
    module = tf.Module()
    module.variables_ = [variable.value for variable in encoder.variables]
    functions = {
        name: tf.function(function, input_signature=[spec], autograph=False)
        for name, (function, spec) in signatures(encoder, preprocessing).items()
    }
    tf.saved_model.save(module, path, signatures=functions)


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


def _publish(scratch, base_dir, version):
    """Renames the finished folder to its number; the highest free one if None."""
    number = version or max(versions(base_dir), default=0) + 1
    while True:
        path = os.path.join(base_dir, str(number))
        # A rename replaces an EMPTY folder silently, so look first.
        if not tf.io.gfile.exists(path):
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
