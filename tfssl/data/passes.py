"""Later passes over a dataset of the user, which must give what the first one gave."""

import re

import numpy as np
import tensorflow as tf

from tfssl.data import running

# The number of what stands for an image once a dataset has changed. With it comes a
# file that can be read, so that it is not taken for an unreadable image.
CHANGED = np.int64(-(2**62))
_END = np.int64(-1)  # In place of a hash, which are from 0 on.
_LOST = 16  # So many files, or one of a hundred, may be lost in a row.
_SENTENCE = re.compile(
    r"assertion failed: \[(.*? does not give the same images .*? itself\.)\]"
)


def told(name, what, more=""):
    """The sentence of a dataset that has changed.

    Args:
        name: of the images.
        what: which of them is another one.
        more: what else it may be, and what to do then.
    """
    return (
        f"{name} does not give the same images in the same order in every "
        f"pass ({what} is another one than in the first{more}); give it without "
        "shuffle() (keras.utils.image_dataset_from_directory: shuffle=False; "
        "list_files: shuffle=False) and without random changes of the images. "
        "Training shuffles and augments them itself."
    )


def _told_of(source):
    """The sentence where nobody can tell changed files from lost ones."""
    more = f", or more than {_LOST} in a row are lost: then bring their files back"
    return told(source.name, "an image", more)


def changed(error):
    """What an error of a pipeline says of a dataset that has changed, or None.

    Args:
        error: `tf.errors.OpError`, whose message has TensorFlow's words around it.
    """
    found = _SENTENCE.search(str(error))
    return found and found[1]


def check(index, source):
    """Raises `ValueError` where an index of a stream stands for a changed dataset."""
    if index == CHANGED:
        raise ValueError(_told_of(source))


def numbered(number, index):
    """An element's number, or `CHANGED` where its index is that; in a graph."""
    return tf.where(index == CHANGED, CHANGED, number)


def renumbered(source, indices, numbers):
    """Some elements of a source's stream, under other numbers.

    Args:
        source: `Source` that is read in sequence.
        indices: int64 `(n,)`, the images that are not left out.
        numbers: int64 `(n,)`, what each of them is called.
    """
    of_all = np.full(source.num_images, -1, np.int64)
    of_all[indices] = numbers

    def renumber(index, image):
        number = tf.gather(tf.constant(of_all), tf.maximum(index, 0))
        return numbered(number, index), image

    return source.stream().map(renumber).filter(lambda number, _: number != -1)


def unchanged(batches, source):
    """Fails where a batch has an element of a changed dataset.

    Args:
        batches: dataset of tuples that start with int64 numbers, see `numbered`.
        source: what they are images of.
    """
    if source.random_access:
        return batches

    def checked(*batch):
        same = tf.reduce_all(batch[0] != CHANGED)
        check = tf.debugging.Assert(same, [_told_of(source)])
        with tf.control_dependencies([check]):
            return tf.nest.map_structure(tf.identity, batch)

    return batches.map(checked)


@running.as_written
def followed(files, noted):
    """Files with the numbers that they had in the first pass, without any error.

    Behind a shuffle nobody could tell which file an error stands for. So a file that is
    lost is `b""`, and from where on the files are others their number is `CHANGED`.

    Args:
        files: dataset of `(int64 hash, file)`, which may fail.
        noted: int64 `(count,)`, the hashes of the first pass.

    Returns:
        Dataset of `(int64 number, file)`.
    """
    count = len(noted)
    most = max(_LOST, count // 100)
    pixel = tf.io.encode_png(np.zeros((1, 1, 1), np.uint8)).numpy()

    def follow(expected, element):
        hashed, file = element
        begin = tf.maximum(expected, 0)
        near = tf.constant(noted)[begin : begin + most + 1]
        fitting = tf.where(near == hashed)[:, 0]

        def until(place, *file):
            """The files that are lost before a place, and that of the place."""
            end = place + len(file)
            lost = tf.fill([place - begin], b"")
            return end, tf.range(begin, end), tf.concat([lost, [*file]], 0)

        def stopped():
            return CHANGED, tf.constant([CHANGED]), tf.constant([pixel])

        found = (tf.size(fitting) > 0, lambda: until(begin + fitting[0], file))
        ended = (hashed == _END, lambda: until(np.int64(count)))
        before = (expected < 0, stopped)
        state, *numbered = tf.case([before, ended, found], default=stopped)
        return state, tuple(numbered)

    # As many as are tried at most: a dataset may do nothing but fail.
    tries = tf.data.Dataset.range(count + most)
    found = tf.data.Dataset.zip(tries, files).ignore_errors(log_warning=True)
    ended = found.map(lambda _, file: file).concatenate(
        tf.data.Dataset.from_tensors((_END, b""))
    )
    return ended.scan(np.int64(0), follow).unbatch()
