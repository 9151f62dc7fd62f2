"""What a served model answers: its signatures, as functions to be saved.

Each has a batch dimension of any size and an output `features`, float32 `(batch, dim)`;
with a `Classifier` also `logits` and `probabilities`, float32 `(batch, classes)`; with
a `models.Segmenter` `mask`, the class of each pixel, int32 `(batch, size, size)`, and
`probabilities`, float32 `(batch, size, size, classes)`:

* `serving_default`: `encoded_images`, string `(batch,)`, image files as they are.
  Decoding, resizing and normalising happen inside, by the same functions as in
  Python evaluation. A second output `valid`, bool `(batch,)`, says which of them could
  be decoded; all other outputs of the rest are zeros. (Not NaN, which JSON does not
  have: a client could not read the answer to the good ones either.)
* `uint8_images`: `images` `(batch, height, width, channels)`, decoded pixels of any
  one size, uint8 (uint16 for an encoder of 16-bit images, float32 for one of float
  images).
* `float_images`: `images` float32 `(batch, size, size, channels)`, already resized
  and normalised: the one that other runtimes can convert. Kept plain for them, so
  it is the only one that does not take an empty batch.

A `models.Tokenizer` has two of its own:

* `tokens`: `images` float32 `(batch, height, width, channels)` in [0, 1], of any size
  that its `downsampling` divides -> `tokens` int32 `(batch, rows, columns)`.
* `images`: `tokens` as above -> `images` as above.
"""

import tensorflow as tf

from tfssl import models
from tfssl.data import running
from tfssl.formats import encoder as encoder_lib
from tfssl.formats.classifier import Classifier

_PARALLEL = 16  # Images of a request that are decoded at a time.


def outputs(model, images):
    """What a served model gives for images that are prepared for it.

    Args:
        model: an encoder, or a `Classifier`.
        images: `(batch, size, size, channels)`.

    Returns:
        Dict of name to tensor, float32 whatever the policy inside; a mask is int32.
    """
    if not isinstance(model, Classifier):
        network = encoder_lib.network_of(model)
        if isinstance(network, models.Segmenter):
            return _of_segmenter(network, images)
        return {"features": tf.cast(model(images, training=False), tf.float32)}
    features = model.network(images, training=False)
    logits = model.head(features, training=False)
    return {
        "features": tf.cast(features, tf.float32),
        "logits": tf.cast(logits, tf.float32),
        "probabilities": model.probabilities_of(logits),
    }


def _of_segmenter(network, images):
    features, logits = network.features_and_logits(images)
    logits = tf.cast(logits, tf.float32)
    return {
        "features": tf.cast(features, tf.float32),
        "mask": tf.argmax(logits, axis=-1, output_type=tf.int32),
        "probabilities": tf.nn.softmax(logits),
    }


def signatures(model, preprocessing):
    """The serving functions and their inputs.

    Args:
        model: as for `outputs`.
        preprocessing: its `data.Preprocessing`.

    Returns:
        Dict of signature name to `(function, tf.TensorSpec)`.
    """
    if isinstance(model, models.Tokenizer):
        return _of_tokenizer(model)
    size, channels = preprocessing.size, preprocessing.channels
    one_image = tf.TensorSpec((size, size, channels), tf.float32)

    def outputs_of_any(images):
        # An empty batch becomes one zero-filled row that is cut off again: batch
        # normalisation fails on no rows at all.
        count = tf.shape(images)[0]
        empty = tf.cast(tf.equal(count, 0), tf.int32)
        images = tf.pad(images, [[0, empty], [0, 0], [0, 0], [0, 0]])
        images = tf.ensure_shape(images, (None, size, size, channels))
        return {name: rows[:count] for name, rows in outputs(model, images).items()}

    def serving_default(encoded_images):
        images, valid = _readable(
            preprocessing.apply_encoded, encoded_images, one_image.shape
        )
        found = {
            name: tf.where(_along(valid, rows), rows, tf.zeros_like(rows))
            for name, rows in outputs_of_any(images).items()
        }
        return found | {"valid": valid}

    def uint8_images(images):
        images = tf.map_fn(preprocessing.apply, images, fn_output_signature=one_image)
        return outputs_of_any(images)

    def float_images(images):
        # What is loaded checks no shape, and of another rank TensorFlow may abort.
        return outputs(model, tf.ensure_shape(images, (None, size, size, channels)))

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


def _along(valid, rows):
    """`(batch,)` with as many axes as the rows have."""
    return tf.reshape(valid, [-1] + [1] * (rows.shape.rank - 1))


def _of_tokenizer(tokenizer):
    """As `signatures`, of a tokenizer."""
    side, codes = tokenizer.downsampling, tokenizer.vocabulary
    shape = (None, None, None, tokenizer.channels)

    def tokens(images):
        images = tf.ensure_shape(images, shape)
        fits = tf.debugging.assert_equal(
            tf.shape(images)[1:3] % side,
            0,
            f"images: sides that are a multiple of {side} expected",
        )
        with tf.control_dependencies([fits]):
            images = tf.identity(images)
        return {"tokens": tokenizer.tokens(images)}

    def images(tokens):
        tokens = tf.ensure_shape(tokens, (None,) * 3)
        known = tf.debugging.Assert(
            tf.reduce_all((tokens >= 0) & (tokens < codes)),
            [f"tokens: 0 to {codes - 1} expected"],
        )
        with tf.control_dependencies([known]):
            tokens = tf.identity(tokens)
        return {"images": tf.cast(tokenizer.images(tokens), tf.float32)}

    return {
        "tokens": (tokens, tf.TensorSpec(shape, tf.float32, name="images")),
        "images": (images, tf.TensorSpec((None,) * 3, tf.int32, name="tokens")),
    }


@running.as_written
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
