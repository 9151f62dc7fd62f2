"""Image files of 16 bits, of which 8 would be lost without a word."""

import numpy as np
import tensorflow as tf
from absl import logging

from tfssl.data.sources import image_folder, image_headers

_LOOKED_AT = 8  # Images, spread over the source.


def tell_if_cut(source):
    """Warns where image files have 16 bits and are read with 8.

    Some of the files are looked at; those that cannot be read are for others to find.

    Args:
        source: a `Source` of files or records.
    """
    if source.dtype != "uint8":
        return
    if isinstance(source, image_folder.FileSource):

        def file_of(index):  # With further files too, the image's own.
            return image_folder.FileSource.read(source, index)
    elif source.holds_files:

        def file_of(index):
            return source.file_of(source.read(index))
    else:
        return
    spread = np.linspace(0, source.num_images - 1, _LOOKED_AT).astype(np.int64)
    for index in np.unique(spread):
        if _is_deep(file_of, index):
            logging.warning(
                "%s: files of 16 bits (%s) are read with 8, the upper ones; "
                "bit_depth=16 (--bit_depth=16) keeps them all.",
                source.name,
                source.describe(index),
            )
            return


def _is_deep(file_of, index):
    try:
        file = file_of(tf.constant(index, tf.int64))
        return bool(image_headers.is_png(file)) and (
            int(image_headers.png_form(file)[2]) > 8
        )
    except (tf.errors.OpError, UnicodeDecodeError):  # Messages quote bytes.
        return False
