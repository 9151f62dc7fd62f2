"""Warm-up records for TF Serving, without the serving packages.

TF Serving replays `<version>/assets.extra/tf_serving_warmup_requests`, a TFRecord
file of serialised `PredictionLog` messages, before it reports a version ready, so
that the first real request is not the slow one. The three nested messages are
written here field by field; `tensorflow-serving-api` gives the same bytes.
"""

import os

import numpy as np
import tensorflow as tf

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000  # TF Serving refuses a file with more.
MOST_IMAGES = MAX_RECORDS - 3  # A record each, and three more, see `requests`.


def requests(images, preprocessing):
    """Warm-up inputs of every signature, from some encoded images.

    Args:
        images: list of `bytes`, encoded images (JPEG, PNG, …).
        preprocessing: the `data.Preprocessing` of the export.

    Returns:
        List of `(signature, {input name: array})`: the bytes signature with each
        image alone and then with all of them, the two pixel signatures with the
        first image.

    Raises:
        ValueError: if there are no images, too many, or one cannot be decoded.
    """
    if not 1 <= len(images) <= MOST_IMAGES:
        raise ValueError(f"Warm-up takes 1 to {MOST_IMAGES} images, got {len(images)}.")
    for position, image in enumerate(images):
        if not isinstance(image, bytes):
            raise ValueError(
                "Warm-up images are encoded files (bytes), but image "
                f"{position} is of type {type(image).__name__}."
            )
        try:
            preprocessing.decode(image)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                f"Warm-up image {position} cannot be decoded: {error.message}"
            ) from error
    found = [("serving_default", {"encoded_images": [image]}) for image in images]
    if len(images) > 1:
        found.append(("serving_default", {"encoded_images": list(images)}))
    pixels = preprocessing.decode(images[0])[tf.newaxis]
    normalized = preprocessing.apply_encoded(images[0])[tf.newaxis]
    found.append(("uint8_images", {"images": pixels.numpy()}))
    found.append(("float_images", {"images": normalized.numpy()}))
    return found


def write(version_dir, model_name, records):
    """Writes the warm-up file of a SavedModel version.

    Args:
        version_dir: folder of the version.
        model_name: the name that the server knows the model by.
        records: as `requests` returns them.
    """
    path = os.path.join(version_dir, FILE)
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for signature, inputs in records:
            writer.write(prediction_log(model_name, signature, inputs))


def prediction_log(model_name, signature, inputs):
    """A serialised `tensorflow.serving.PredictionLog` of one predict request.

    Args:
        model_name: str.
        signature: str, name of the signature.
        inputs: dict of input name to array, or to a list of `bytes`.

    Returns:
        `bytes`.
    """
    spec = _field(1, model_name.encode()) + _field(3, signature.encode())
    items = b""
    for name, value in inputs.items():
        if isinstance(value, list):  # NumPy's own byte strings drop trailing zeros.
            value = np.array(value, dtype=object)
        tensor = tf.make_tensor_proto(value).SerializeToString()
        items += _field(2, _field(1, name.encode()) + _field(2, tensor))
    request = _field(1, spec) + items  # PredictRequest: model_spec 1, inputs 2.
    # PredictionLog: predict_log 6. PredictLog: request 1.
    return _field(6, _field(1, request))


def _field(number, payload):
    """A length-delimited protocol-buffer field (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value):
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])
