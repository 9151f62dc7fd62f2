"""Which image stands where in the endless training stream, without any state.

Position `p` of the stream belongs to epoch `p // epoch_size`, where `epoch_size` is
the largest multiple of the batch size that the source fills. Its image is a
stateless shuffle of `p % epoch_size` under (seed, epoch): no image comes twice in
an epoch, a batch never straddles two epochs, and each epoch leaves out others.

With `repeats` every image of a batch stands in it so many times, a part of the batch
apart, and an epoch, which stays as long, has so many times fewer images.

A worker takes its own block of rows out of every global batch. Its elements are
counted by `k`: row `k % rows` of its block in global batch `k // rows`.
"""

import functools

import numpy as np
import tensorflow as tf

from tfssl import checks, internals, stateless
from tfssl.data import running

# Sequential sources shuffle in a buffer of at most this many bytes.
_SHUFFLE_BYTES = 256 << 20
_FOREVER = np.int64(2) ** 62


class Order:
    """The order of one worker's images.

    Args:
        source: `sources.Source`.
        batch_size: images of the global batch.
        seed: of the order.
        start: stream position of the first image wanted.
        shard: `(worker, workers)`.
        sampling: int64 `(epoch_size,)`, the images of an epoch in order, or None for
            a shuffle of all; every epoch then takes this list. Random access only.
        repeats: int, how often an image of a batch stands in it; divides the batch.
            More than 1 by random access only.
        hand: `(number, count)`: only every `count`-th batch of this worker, from
            batch `number` on, see `service.deal`. Elements are then counted without
            the batches of the other hands.
    """

    def __init__(
        self,
        source,
        batch_size,
        seed,
        start,
        shard,
        *,
        sampling=None,
        repeats=1,
        hand=(0, 1),
    ):
        worker, workers = shard
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.rows = batch_size // workers
        self.first_row = worker * self.rows
        self.epoch_size = source.num_images // batch_size * batch_size
        batch, row = divmod(start, batch_size)
        row = int(np.clip(row - self.first_row, 0, self.rows))
        # Without the rest of a batch, or of an epoch, in which no row is its own.
        self.start = start if row < self.rows else (batch + 1) * batch_size
        self.first = batch * self.rows + row  # The `k` of the first element.
        self.hand = hand
        self.repeats = repeats
        check_repeats(source, batch_size, repeats)
        self.sampling = None if sampling is None else self._checked(sampling)
        self._numbers = None, None  # An epoch, and its images in order.

    def _checked(self, sampling):
        sampling = np.asarray(sampling, np.int64)
        _check_access(self.source, "be drawn by a list")
        if sampling.shape != (self.epoch_size,):
            raise ValueError(
                f"sampling of shape {sampling.shape} received, expected one image for "
                f"each place of an epoch, ({self.epoch_size},)."
            )
        if not 0 <= sampling.min() <= sampling.max() < self.source.num_images:
            raise ValueError(
                f"sampling holds images {sampling.min()} to {sampling.max()}, but "
                f"{self.source.name} has 0 to {self.source.num_images - 1}."
            )
        return sampling

    def position(self, k):
        """Stream position of this worker's element `k`; ints or int64 tensors."""
        k = self._among_all(k)
        batch, row = k // self.rows, k % self.rows
        return batch * self.batch_size + self.first_row + row

    def _among_all(self, k):
        """Element `k` of this hand -> its number among those of all hands."""
        number, count = self.hand
        batch, row = (k - self.first) // self.rows, (k - self.first) % self.rows
        return self.first + (batch * count + number) * self.rows + row

    def index(self, positions):
        """Images at int64 positions (scalar or vector); random access only."""
        epoch, place = positions // self.epoch_size, positions % self.epoch_size
        if self.repeats > 1:
            different = self.batch_size // self.repeats
            batch, row = place // self.batch_size, place % self.batch_size
            place = batch * different + row % different
        if self.sampling is not None:
            return tf.gather(tf.constant(self.sampling), place)
        # The raw operation: its public form refuses a seed per position. Keys must
        # be well mixed, and 8 rounds: with small keys and 4 rounds many images stay
        # near their place (chi-square of places 9 times that of a fair shuffle).
        key = stateless.mixed(
            tf.cast(epoch, tf.uint64) + stateless.mixed(stateless.uint64(self.seed))
        )
        words = [
            stateless.mixed(key + stateless.uint64(n)) & stateless.uint64(0xFFFFFFFF)
            for n in range(3)
        ]
        return tf.raw_ops.RandomIndexShuffle(
            index=place,
            seed=tf.cast(tf.stack(words, -1), tf.int64),
            max_index=np.int64(self.source.num_images - 1),
            rounds=8,
        )

    def image(self, k):
        """The image that stands at this worker's element `k`, as an int."""
        position = self.position(int(k))
        if self.source.random_access:
            index = self.index(tf.constant(position, tf.int64))
        else:
            # A shuffle depends on the number of elements only, not on what they are.
            epoch, place = divmod(position, self.epoch_size)
            if self._numbers[0] != epoch:
                self._numbers = epoch, self._numbers_of(epoch)
            index = self._numbers[1][place]
        return int(index)

    @running.as_written
    def _numbers_of(self, epoch):
        numbers = tf.data.Dataset.range(self.source.num_images)
        epochs = tf.data.Dataset.from_tensors(np.int64(epoch))
        shuffled = epochs.flat_map(lambda e: self._shuffled(numbers, e))
        return np.fromiter(shuffled.as_numpy_iterator(), np.int64)

    def batches(self, draw):
        """Endless dataset of `(k, position, index, numbers)`, `rows` at a time.

        The index is -1 where the source is read in sequence.

        Args:
            draw: function of the int64 number of a global batch, which gives a
                tensor with a row for each of its images.
        """
        minus_one = np.int64(-1)

        def of_batch(number):
            k = self.first + number * self.rows + tf.range(self.rows, dtype=tf.int64)
            inside = self.first % self.rows
            batch = self._among_all(k[0]) // self.rows
            numbers = self._mine(draw(batch))
            if inside:  # A start in mid-batch takes the rest from the next one.
                following = self._mine(draw(batch + 1))
                numbers = tf.concat([numbers[inside:], following[:inside]], 0)
            position = self.position(k)
            known = self.source.random_access
            index = self.index(position) if known else tf.fill(tf.shape(k), minus_one)
            return k, position, index, numbers

        dataset = tf.data.Dataset.range(_FOREVER)
        return dataset.map(of_batch, num_parallel_calls=2)

    def _mine(self, numbers):
        return numbers[self.first_row : self.first_row + self.rows]

    def stream(self):
        """`(index, raw)` of this worker, from a source that is read in sequence.

        Every epoch is shuffled anew in a buffer bounded in bytes. A start in the
        middle of an epoch is reached by skipping.
        """
        first_epoch, inside = divmod(self.start, self.epoch_size)
        images = self.source.stream()

        def of_epoch(epoch):
            shuffled = self._shuffled(images, epoch)
            skipped = tf.where(epoch == first_epoch, np.int64(inside), np.int64(0))
            return shuffled.take(self.epoch_size).skip(skipped)

        stream = tf.data.Dataset.range(first_epoch, _FOREVER).flat_map(of_epoch)
        return self._of_hand(self._of_worker(stream))

    def _of_worker(self, stream):
        if self.workers == 1:
            return stream
        low, high = self.first_row, self.first_row + self.rows

        def is_mine(position, _):
            row = position % self.batch_size
            return (row >= low) & (row < high)

        places = tf.data.Dataset.range(self.start, _FOREVER)
        placed = tf.data.Dataset.zip(places, stream)
        return placed.filter(is_mine).map(lambda _, element: element)

    def _of_hand(self, stream):
        number, count = self.hand
        if count == 1:
            return stream
        mine = stream.enumerate().filter(lambda n, _: n // self.rows % count == number)
        return mine.map(lambda _, element: element)

    def _shuffled(self, dataset, epoch):
        """A dataset of the source's images in the order of an epoch."""
        internals.pin_graph_seed()  # Or the global seed would change the order.
        return dataset.shuffle(
            self._buffered,
            seed=self.seed + epoch * 1_000_003,
            reshuffle_each_iteration=False,
        )

    @functools.cached_property
    def _buffered(self):
        """How many images the buffer of a shuffle takes: as many as always fit."""
        largest_first = np.sort(self.source.image_bytes)[::-1]
        return max(1, int((largest_first.cumsum() <= _SHUFFLE_BYTES).sum()))


def check_repeats(source, batch_size, repeats):
    """Raises `ValueError` unless images can stand so often in a batch.

    Args:
        source: `sources.Source`.
        batch_size: int, images of the global batch.
        repeats: int.
    """
    checks.whole({"repeats": repeats}, "repeats")
    if repeats == 1:
        return
    _check_access(source, "stand in a batch several times")
    if batch_size % repeats:
        fits = -(-batch_size // repeats) * repeats
        raise ValueError(
            f"batch_size={batch_size} received with repeats={repeats}, expected a "
            f"multiple of it, for example {fits}."
        )


def _check_access(source, what):
    if not source.random_access:
        raise ValueError(
            f"{source.name} is read in sequence, so its images cannot {what}; use a "
            "folder, arrays or TFRecord files with an index."
        )
