"""R-MAC: one vector for an image of any size, from the maxima of a feature map.

Reference:
    Tolias et al., 2016, https://arxiv.org/abs/1511.05879, section 3 and 4.1, and
    DeepCluster's eval_retrieval.py, which this follows where they differ: the map is
    not pooled as a whole besides its regions, a query's box is cut out of the resized
    image and not resized again, eigenvalues of the whitening are at least 1e-5 of the
    largest. Difference: places of regions are computed in whole numbers, so that
    rounding cannot move the last region by a pixel.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfssl import internals, kmeans
from tfssl.data import bad_files as bad_files_lib
from tfssl.data import running

LONGER_SIDE = 1024
LEVELS = 3
_OVERLAP = 0.4
_STEPS = np.arange(2, 8)  # Largest squares along the longer side that are tried.
_FLOOR = 1e-5  # Of the largest eigenvalue: channels that never fire have 0.


def regions(height, width, levels=LEVELS):
    """Square regions of a map at several scales.

    At scale `l` the side is `2 * min(height, width) / (l + 1)`, rounded down, and
    there are `l` regions along the shorter side and `l + m - 1` along the longer one,
    evenly spaced. `m` (2 to 7; 1 for a square map) makes the overlap of neighbours at
    scale 1 as close to 40 % as possible.

    Args:
        height: int >= 1.
        width: int >= 1.
        levels: int >= 1, scales. Those whose side would be 0 are left out.

    Returns:
        int64 `(num_regions, 3)`: top, left and side.
    """
    if min(height, width, levels) < 1:
        raise ValueError(
            f"Regions of a map of {height} x {width} at {levels} scales asked for, "
            "expected numbers of at least 1."
        )
    shorter, longer = min(height, width), max(height, width)
    overlap = 1 - (longer - shorter) / (_STEPS - 1) / shorter
    more = 0 if longer == shorter else int(np.argmin(np.abs(overlap - _OVERLAP))) + 1
    found = []
    for level in range(1, levels + 1):
        side = 2 * shorter // (level + 1)
        if side:
            tops = _places(height, side, level + more * (height > width))
            lefts = _places(width, side, level + more * (width > height))
            found += [(top, left, side) for top in tops for left in lefts]
    return np.array(found, np.int64)


def _places(length, side, count):
    """Where `count` regions begin, from one end to the other."""
    return [i * (length - side) // max(count - 1, 1) for i in range(count)]


def region_vectors(feature_map, levels=LEVELS):
    """The maxima of every region, as unit vectors.

    Args:
        feature_map: float `(height, width, channels)`.
        levels: see `regions`.

    Returns:
        float32 `(num_regions, channels)`; a region of zeros stays zero.
    """
    height, width, _ = feature_map.shape
    maxima = [
        feature_map[top : top + side, left : left + side].max(axis=(0, 1))
        for top, left, side in regions(height, width, levels)
    ]
    return kmeans.unit_norm(np.stack(maxima))


def describe(feature_map, levels=LEVELS, whitening=None):
    """The R-MAC vector of a map: unit region vectors, whitened, summed.

    Args:
        feature_map: float `(height, width, channels)`.
        levels: see `regions`.
        whitening: of `learn_whitening`, or None for none.

    Returns:
        float32 `(dim,)` of length 1: `channels`, or the components of the whitening.
    """
    return summed(region_vectors(feature_map, levels), whitening)


def summed(vectors, whitening=None):
    """The R-MAC vector of an image by its `region_vectors`, see `describe`."""
    if whitening is not None:
        vectors = kmeans.unit_norm(whitening.transform(vectors))
    return kmeans.unit_norm(vectors.sum(axis=0, keepdims=True))[0]


def learn_whitening(maps, *, levels=LEVELS, components=None):
    """PCA-whitening of the region vectors of images.

    Learn it on other images than those it is applied to (Paris for Oxford).

    Args:
        maps: iterable of float `(height, width, channels)`, each used once and not
            kept: memory is `8 * channels ** 2` bytes.
        levels: see `regions`.
        components: int <= channels; None is all of them.

    Returns:
        `kmeans.PCA`.

    Raises:
        ValueError: if there are fewer region vectors than components.
    """
    moments = None
    for feature_map in maps:
        vectors = region_vectors(feature_map, levels)
        moments = moments or kmeans.Moments(vectors.shape[1])
        moments.update(vectors)
    if moments is None:
        raise ValueError("The whitening needs one or more images, got none.")
    found = kmeans.pca(
        moments, components=components or len(moments.total), whiten=False
    )
    if not found.eigenvalues[0] > 0:
        raise ValueError(
            f"All {moments.count} regions of the images to learn the whitening from "
            "look alike; give other images, or an encoder that has not collapsed."
        )
    variances = np.maximum(found.eigenvalues, _FLOOR * found.eigenvalues[0])
    projection = (found.projection / np.sqrt(variances)).astype(np.float32)
    return dataclasses.replace(found, projection=projection)


class MapReader:
    """Feature maps of whole images, each at its own shape, one per forward pass.

    Args:
        model: Keras model for any image size, `(1, h, w, c)` to `(1, h', w', c')`
            (`stages.any_size`). Called in inference mode.
        preprocessing: the encoder's `data.Preprocessing`, for depth, resize filter,
            mean and std. Its size and crop are not used.
        longer_side: int, pixels that the longer side of every image gets.
    """

    def __init__(self, model, preprocessing, *, longer_side=LONGER_SIDE):
        if longer_side < 1:
            raise ValueError(
                f"longer_side={longer_side} received, expected 1 or more pixels."
            )
        self._preprocessing = preprocessing
        self._longer_side = longer_side
        spec = tf.TensorSpec([1, None, None, preprocessing.channels], tf.float32)

        def run(images):
            return tf.cast(model(images, training=False), tf.float32)[0]

        self._run = internals.function(run, autograph=True, input_signature=[spec])

    def maps(self, source, bad_files):
        """Yields `(index, map)` of every readable image of a source of files.

        Args:
            source: `data` source of encoded images.
            bad_files: `BadFiles` that collects the others.

        Raises:
            ValueError: if no image, or too few, can be read.
        """
        batches = self._prepared(source, bad_files)
        with bad_files_lib.explained(bad_files):
            for number, image in batches:
                yield int(number[0]), self._run(image).numpy()

    @running.as_written
    def _prepared(self, source, bad_files):
        indices = tf.data.Dataset.range(source.num_images)
        images = indices.map(
            lambda i: (i, self._prepare(source.read(i))),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        bad_files_lib.check(source, bad_files, self._prepare)
        batches = bad_files_lib.skip(
            images, 1, 0, lambda k: k, source, bad_files, end=source.num_images
        )
        return batches.prefetch(2)

    def map_of(self, encoded, box=None):
        """The map of one image file.

        Args:
            encoded: its bytes.
            box: `(left, top, right, bottom)` in its pixels: only this part of the
                resized image is passed on, at the same scale.

        Raises:
            ValueError: if the box and the image have no pixel in common.
            tf.errors.OpError: if the bytes are no image.
        """
        image = self._prepare(encoded, box)
        if 0 in image.shape:
            raise ValueError(f"The box {box} holds no pixel of the image; correct it.")
        return self._run(image[tf.newaxis]).numpy()

    def _prepare(self, encoded, box=None):
        made_for = self._preprocessing
        image = made_for.decode(encoded)
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        ratio = self._longer_side / tf.reduce_max(shape)
        size = tf.maximum(tf.cast(tf.round(shape * ratio), tf.int32), 1)
        image = tf.image.resize(image, size, made_for.resize, antialias=True)
        if box is not None:
            edges = tf.cast(tf.round(tf.constant(box) * ratio), tf.int32)
            left, top, right, bottom = tf.unstack(tf.maximum(edges, 0))
            image = image[top:bottom, left:right]
        return made_for.normalize(tf.clip_by_value(image / made_for.max_value, 0, 1))
