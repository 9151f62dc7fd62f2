"""Embeddings that outlive their step, kept in variables of the method.

Everything here is written with values that are equal on all replicas (gather
first), so that the copies of a variable never differ.
"""

import zlib

import keras
import tensorflow as tf

from tfssl import replicas, stateless


@keras.saving.register_keras_serializable(package="tfssl")
class FeatureQueue(keras.layers.Layer):
    """First in, first out: the newest `size` embeddings, as a ring.

    The queue starts with random directions, as in MoCo's code: until it has been
    filled once, part of the negatives are random, and the loss rises while real
    ones come in.

    Args:
        size: int >= 1, rows of the queue.
        dim: int >= 1, width of an embedding.
        name: optional name.

    Attributes:
        rows: float32 variable `(size, dim)` of unit-norm rows, in ring order.
        pointer: int64 variable, the row that is written next.

    Raises:
        ValueError: if `size` or `dim` is below 1.

    Reference:
        He et al., 2020, https://arxiv.org/abs/1911.05722, Algorithm 1. Their code
        asks that the batch divides the queue; here the write goes around the end.
    """

    def __init__(self, size, dim, *, name="queue"):
        super().__init__(name=name)
        if size < 1 or dim < 1:
            raise ValueError(
                f"A queue of size={size}, dim={dim} was asked for, expected both to "
                "be 1 or more."
            )
        self.size = size
        self.dim = dim
        self.rows = self.add_weight(
            name="rows",
            shape=(size, dim),
            initializer=_random_directions,
            trainable=False,
            autocast=False,
            dtype="float32",
            aggregation="none",
        )
        self.pointer = self.add_weight(
            name="pointer",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            aggregation="none",
        )
        self.built = True

    def check_batch(self, count):
        """Raises `ValueError` if `count` embeddings are more than the queue holds."""
        if count > self.size:
            raise ValueError(
                f"queue_size={self.size} received for batches of {count} images; make "
                f"the queue {count} or larger, or the batch {self.size} or smaller."
            )

    def notes(self, num_images):
        """Lines for the start of a run on this many images, a list."""
        if self.size < num_images:
            return []
        return [
            f"queue of {self.size:,} embeddings for {num_images:,} images: images meet "
            "their own earlier embeddings among the negatives; lower queue_size"
        ]

    def enqueue(self, rows):
        """Overwrites the oldest rows.

        Args:
            rows: float tensor `(n, dim)`, `n <= size`, equal on all replicas.

        Raises:
            ValueError: if more rows are given than the queue holds.
        """
        count = rows.shape[0]
        if count is None:
            count = tf.shape(rows)[0]
        else:
            self.check_batch(count)
        rows = tf.stop_gradient(tf.cast(rows, tf.float32))
        steps = tf.range(count, dtype=tf.int64)
        places = (self.pointer.value + steps) % self.size
        self.rows.assign(
            tf.tensor_scatter_nd_update(self.rows.value, places[:, tf.newaxis], rows)
        )
        self.pointer.assign((self.pointer.value + tf.cast(count, tf.int64)) % self.size)

    def contents(self):
        """The rows `(size, dim)` as they are now, without gradient."""
        return tf.stop_gradient(tf.identity(self.rows.value))

    def local_rows(self):
        """This replica's part `(size / replicas, dim)`, without gradient.

        For what is summed over replicas: each row is on one of them.

        Raises:
            ValueError: if the queue does not divide over the replicas.
        """
        rows, count = self.contents(), self.local_size()
        if count == self.size:
            return rows
        return tf.slice(rows, [replicas.replica_index() * count, 0], [count, -1])

    def local_size(self):
        """Rows of `local_rows`, int; raises `ValueError` as it does."""
        count = replicas.num_replicas()
        if self.size % count:
            raise ValueError(
                f"queue_size={self.size} does not divide over {count} replicas; "
                f"use {self.size // count * count or count}."
            )
        return self.size // count

    def get_config(self):
        return {"size": self.size, "dim": self.dim, "name": self.name}


@keras.saving.register_keras_serializable(package="tfssl")
class MemoryBank(keras.layers.Layer):
    """One embedding per image of the data, written as the images come by.

    Args:
        num_images: int >= 1.
        dim: int >= 1, width of an embedding.
        initializer: `"zeros"`, or `"unit"`: random directions.
        seed: int, of the random directions; banks of other names get others.
        name: optional name.

    Attributes:
        of_images: True: what it holds belongs to its images, so that a training on
            others begins without it (`init_from`).
        rows: float32 variable `(num_images, dim)`; zeros or a random direction for an
            image that was not written yet. 656 MB for ImageNet at 128 numbers, on every
            device.

    Raises:
        ValueError: if `num_images` or `dim` is below 1, or for another initializer.

    Reference:
        Wu et al., 2018, https://arxiv.org/abs/1805.01978. Their code starts with
        uniform numbers, whose rows are of length 1 in the mean only.
    """

    of_images = True

    def __init__(self, num_images, dim, *, initializer="zeros", seed=0, name="bank"):
        super().__init__(name=name)
        if num_images < 1 or dim < 1:
            raise ValueError(
                f"A bank of num_images={num_images}, dim={dim} was asked for, expected "
                "both to be 1 or more."
            )
        if initializer not in ("zeros", "unit"):
            raise ValueError(
                f"initializer={initializer!r} received for a bank, expected 'zeros' or "
                "'unit'."
            )
        self.num_images = num_images
        self.dim = dim
        self.initializer = initializer
        self.seed = seed
        self.rows = self.add_weight(
            name="rows",
            shape=(num_images, dim),
            initializer=self._directions if initializer == "unit" else "zeros",
            trainable=False,
            autocast=False,
            dtype="float32",
            aggregation="none",
        )
        self.built = True

    def _directions(self, shape, dtype=None):
        key = tf.constant([self.seed, zlib.crc32(self.name.encode())], tf.int64)
        return tf.math.l2_normalize(tf.random.stateless_normal(shape, key), axis=1)

    def rows_of(self, index):
        """The embeddings of some images, without gradient.

        Args:
            index: int `(n,)`.

        Returns:
            float32 `(n, dim)`.
        """
        # By this operation, since tf.gather reads the whole of a mirrored variable,
        # and a variable that is read in a step is copied where it is written.
        rows = tf.raw_ops.ResourceGather(
            resource=self.rows.value.handle, indices=index, dtype=tf.float32
        )
        return tf.stop_gradient(rows)

    def contents(self):
        """All embeddings as they are now, `(num_images, dim)`, without gradient."""
        return tf.stop_gradient(tf.identity(self.rows.value))

    def write(self, index, rows):
        """Replaces the embeddings of some images.

        Args:
            index: int64 `(n,)`; of an image that is there twice the first row counts.
                Equal on all replicas.
            rows: float `(n, dim)`, equal on all replicas.
        """
        same = tf.equal(index[:, tf.newaxis], index)
        first = tf.argmax(tf.cast(same, tf.float32), axis=1)  # Of ints no GPU has it.
        rows = tf.gather(tf.stop_gradient(tf.cast(rows, tf.float32)), first)
        # In place: a bank is too large to be copied in every step.
        self.rows.value.scatter_update(tf.IndexedSlices(rows, index))

    def update(self, index, rows, momentum=0.5, old=None):
        """Moves the embeddings of some images: `unit(momentum * old + (1 - m) * new)`.

        Args:
            index: int64 `(n,)`, as for `write`.
            rows: float `(n, dim)` of unit norm, equal on all replicas.
            momentum: float in [0, 1], the share of what was there.
            old: `rows_of(index)`, where a step has read it already. A step that XLA
                compiles should read a bank once: what it writes then depends on all
                that it read, without which XLA copies the bank.
        """
        rows = tf.cast(rows, tf.float32)
        old = self.rows_of(index) if old is None else old
        moved = momentum * old + (1 - momentum) * rows
        self.write(index, tf.math.l2_normalize(moved, axis=1))

    def get_config(self):
        return {
            "num_images": self.num_images,
            "dim": self.dim,
            "initializer": self.initializer,
            "seed": self.seed,
            "name": self.name,
        }


def others(index, *, num_images, count, seed, step):
    """Images that are not in a batch, drawn uniformly and with replacement.

    A function of its arguments: equal on all replicas, after a resume, in a graph and
    under XLA.

    Args:
        index: int64 `(n,)`, the images of the global batch, each from 0 to
            `num_images - 1`; they may repeat. At least one image must be left.
        num_images: int, images of the data, at most 2^31.
        count: int, how many are drawn.
        seed: int.
        step: int64 scalar, the step that draws; each draws others.

    Returns:
        int64 `(count,)`.
    """
    ordered = tf.sort(tf.cast(index, tf.int64))
    new = tf.concat([[True], ordered[1:] != ordered[:-1]], axis=0)
    left = num_images - tf.reduce_sum(tf.cast(new, tf.int64))
    # Repetitions go behind all images, where no number reaches them.
    distinct = tf.sort(tf.where(new, ordered, 2 * tf.int32.max))
    places = stateless.below(
        left, seed, tf.reshape(step, [1]), count, purpose="negatives"
    )[0]
    # The images of the batch that lie before the place-th of the others.
    before = distinct - tf.range(tf.size(distinct, tf.int64))
    return places + tf.searchsorted(before, places, side="right", out_type=tf.int64)


@keras.saving.register_keras_serializable(package="tfssl")
class Assignments(keras.layers.Layer):
    """The cluster of every image, from one clustering or several.

    Args:
        num_images: int >= 1.
        count: int >= 1, number of clusterings.
        name: optional name.

    Attributes:
        of_images: True, as of `MemoryBank`.
        clusters: int64 variable `(count, num_images)`, -1 for an image that was in no
            clustering yet.
        numbers: float32 variable `(len(NUMBERS),)`, what is known of the last
            clustering, zeros before the first. In the checkpoint, so that an epoch
            that is resumed in its middle still logs them. `kmeans_objective` is the
            mean squared distance of an image to its centroid, `cluster_nmi` the
            normalized mutual information with the clustering before (it should rise,
            and stay below 1; 0 before there are two), the others are sizes in images
            and a count.
    """

    of_images = True

    NUMBERS = (
        "kmeans_objective",
        "cluster_nmi",
        "largest_cluster",
        "smallest_cluster",
        "empty_clusters",
    )

    def __init__(self, num_images, count=1, *, name="assignments"):
        super().__init__(name=name)
        if num_images < 1 or count < 1:
            raise ValueError(
                f"{count} clustering(s) of {num_images} images asked for, expected 1 "
                "or more of both."
            )
        self.num_images = num_images
        self.count = count

        def variable(name, shape, dtype, value):
            return self.add_weight(
                name=name,
                shape=shape,
                dtype=dtype,
                initializer=value,
                trainable=False,
                autocast=False,
                aggregation="none",
            )

        self.clusters = variable(
            "clusters", (count, num_images), "int64", keras.initializers.Constant(-1)
        )
        self.numbers = variable("numbers", (len(self.NUMBERS),), "float32", "zeros")
        self.built = True

    def of(self, index):
        """int64 `(count, n)`: the clusters of images `index`, int64 `(n,)`."""
        return tf.gather(self.clusters.value, index, axis=1)

    def named_numbers(self):
        """What `numbers` holds, a dict of floats."""
        return dict(zip(self.NUMBERS, map(float, self.numbers.numpy())))

    def get_config(self):
        return {
            "num_images": self.num_images,
            "count": self.count,
            "name": self.name,
        }


def _random_directions(shape, dtype=None):
    rows = keras.random.normal(shape, dtype=dtype)
    return rows / keras.ops.norm(rows, axis=-1, keepdims=True)
