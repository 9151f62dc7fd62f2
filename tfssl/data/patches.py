"""An image as a grid of square patches, which may overlap."""

import tensorflow as tf

from tfssl import checks


def count_along(length, patch, stride):
    """How many patches lie along a side of an image.

    Args:
        length: int, pixels of the side.
        patch: int, pixels of a patch's side.
        stride: int, pixels from one patch to the next. Less than `patch` makes
            neighbours overlap, more leaves gaps.

    Returns:
        int from 1. What is left behind the last patch, less than a stride, is in none.

    Raises:
        ValueError: for sizes below 1, or a patch that is larger than the image.
    """
    checks.whole({"patch": patch, "stride": stride}, "patch", "stride")
    if patch > length:
        raise ValueError(
            f"patch={patch} received for images of {length} pixels, in which no patch "
            "has room; take a smaller patch or larger images."
        )
    return (length - patch) // stride + 1


def grid_of(height, width, patch, stride):
    """`(rows, columns)` of the grid of an image, see `count_along`.

    Raises:
        ValueError: for a single row or column, with what `count_along` refuses.
    """
    grid = tuple(count_along(length, patch, stride) for length in (height, width))
    if min(grid) < 2:
        raise ValueError(
            f"stride={stride} received with patch={patch} for images of {height} x "
            f"{width} pixels, which leaves no grid: {grid[0]} row(s) of {grid[1]} "
            "patch(es); take a smaller stride or patch, for two rows and columns."
        )
    return grid


def first_apart(patch, stride):
    """By how many rows two patches must be apart to share no pixel."""
    return -(-patch // stride)


def cut(images, patch, stride):
    """Cuts images into their patches, row by row from the top left.

    Args:
        images: `(batch, height, width, channels)` of any dtype; sides may be unknown
            until the images come.
        patch: int, see `count_along`.
        stride: int, the same.

    Returns:
        `(batch, rows, columns, patch, patch, channels)`: the patch of row `r` and
        column `c` begins at pixel `(r * stride, c * stride)`.
    """
    for axis, length in ((1, images.shape[1]), (3, images.shape[2])):
        if length is None:
            length = tf.shape(images)[axis]
            number = (length - patch) // stride + 1
        else:
            number = count_along(length, patch, stride)
        starts = stride * tf.range(number)
        places = starts[:, tf.newaxis] + tf.range(patch)
        images = tf.gather(images, places, axis=axis)
    # (batch, rows, patch, columns, patch, channels)
    return tf.transpose(images, [0, 1, 3, 2, 4, 5])
