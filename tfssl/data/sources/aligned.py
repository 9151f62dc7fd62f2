"""Images with further files of the same pixels: depth, maps of classes, another frame.

The files of an image are decoded together and stacked behind its red, green and blue,
so that crops and flips are those of all of them, as of any image of many channels.

| kind | file | channels |
|---|---|---|
| `gray` | PNG, JPEG or TIFF of one channel | 1 |
| `rgb` | PNG, JPEG or TIFF of three | 3 |
| `mapN` | PNG or TIFF of one channel, whose values are classes from 0 to N - 1 | N |

A map becomes a channel of 0 and 1 for each class: between its pixels a resize then
makes shares of classes, where numbers of classes would give other classes. The value
255 is no class, of which all channels are 0.
"""

import dataclasses
import re

import tensorflow as tf

from tfssl.data.sources import decoding, image_folder, image_headers

PREFIX = "channels:"
_OF_IMAGE = 3  # Red, green and blue stand before all others.
_MOST = 255  # Classes of a map, and the value of a pixel that has none.
# Why an image cannot be used.
FORM = "no PNG, JPEG or TIFF file (of a map no JPEG) with the channels of its column"
DEEP = "a file of 16 bits, which bit_depth=16 keeps"
PALETTE = "a map in colours or with a palette; save the numbers of the classes as grey"
CLASS = "a map with values that are no classes of its column"
SIZES = "files of different sizes"
REASONS = (FORM, PALETTE, DEEP, CLASS, SIZES)
# Channels of a PNG file by its colour type; a palette's values are not its colours.
_OF_PNG = (1, 0, 3, 0, 2, 0, 4)


@dataclasses.dataclass(frozen=True)
class Column:
    """What further files of images hold.

    Attributes:
        name: of the column, for messages.
        kind: `"gray"`, `"rgb"` or `"map"`.
        channels: int, how many of the image they make.
    """

    name: str
    kind: str
    channels: int

    @property
    def stored(self):
        """Channels of the file itself."""
        return 3 if self.kind == "rgb" else 1


def column(title):
    """The `Column` of a title `channels:NAME:KIND`.

    Raises:
        ValueError: for another title.
    """
    found = re.fullmatch(f"{PREFIX}([^:]+):(gray|rgb|map([0-9]{{1,3}}))", title)
    classes = int(found[3]) if found and found[3] else 2
    if not found or not 2 <= classes <= _MOST:
        raise ValueError(
            f"the column {title!r}, expected {PREFIX}NAME:KIND with the kind gray, rgb "
            f"or, with the number of classes (2 to {_MOST}), map13."
        )
    if found[3]:
        return Column(title, "map", classes)
    return Column(title, found[2], 3 if found[2] == "rgb" else 1)


def channels(columns):
    """How many channels images have with these columns."""
    return _OF_IMAGE + sum(column.channels for column in columns)


class AlignedSource(image_folder.FileSource):
    """Image files and, for each, further files of the same height and width.

    All of them are decoded whole. An image cannot be read if one of its files cannot,
    or if their sizes differ.

    Args:
        files: paths of the images, see `FileSource`.
        others: dict of `Column` to as many paths, in the order of the channels.
        name: for logs.
        labels: as for `FileSource`.
        class_names: as for `FileSource`.
        bit_depth: 8 or 16, of all files. With 8 a further file of 16 bits is refused,
            since depth of 8 of its bits is another. With 16 those of 8 are stretched.
    """

    def __init__(
        self, files, others, *, name, labels=None, class_names=None, bit_depth=8
    ):
        super().__init__(
            files,
            name=name,
            labels=labels,
            class_names=class_names,
            channels=channels(others),
            bit_depth=bit_depth,
        )
        self._others = {
            column: image_folder.FileSource(
                paths, name=name, channels=column.stored, bit_depth=bit_depth
            )
            for column, paths in others.items()
        }
        self.maps, first = {}, _OF_IMAGE
        for column in others:
            if column.kind == "map":
                names = tuple(map(str, range(column.channels)))
                self.maps[column.name] = first, names
            first += column.channels
        if self._pictures:
            self.together = self.places

    @property
    def _pictures(self):
        """Sources of the further files that are pictures, as another frame is."""
        return [
            source for column, source in self._others.items() if column.kind == "rgb"
        ]

    def places(self):
        """The paths of an image and of its further pictures, without links.

        Maps and depth may be those of several images.
        """
        first = super().places()
        further = [source.places() for source in self._pictures]
        return list(zip(first, *further)) if further else first

    @property
    def holds_files(self):
        return False  # No single one has all channels.

    # AutoGraph has nothing to do here, and takes its time for each of twenty files.
    @tf.autograph.experimental.do_not_convert
    def read(self, index):
        """The files of image `index`, serialised to one string."""
        others = [source.read(index) for source in self._others.values()]
        return tf.io.serialize_tensor(tf.stack([super().read(index), *others]))

    @tf.autograph.experimental.do_not_convert
    def decode(self, raw, side=None):
        encoded = tf.io.parse_tensor(raw, tf.string)
        encoded = tf.unstack(tf.ensure_shape(encoded, [1 + len(self._others)]))
        parts = [self._color(encoded[0])]
        for column, file in zip(self._others, encoded[1:]):
            parts.append(_decoded(file, column, tf.as_dtype(self.dtype)))
        sizes = tf.stack([tf.shape(part)[:2] for part in parts])
        alike = tf.debugging.Assert(tf.reduce_all(sizes == sizes[0]), [SIZES, sizes])
        with tf.control_dependencies([alike]):
            image = tf.concat(parts, axis=2)
        image.set_shape([None, None, self.channels])
        return image

    def decode_window(self, raw, boxes_of, sizes=None):
        image = self.decode(raw)
        shape = tf.shape(image)
        return image, boxes_of(shape[0], shape[1])

    def _color(self, encoded):
        return decoding.decode(encoded, _OF_IMAGE, tf.as_dtype(self.dtype))

    def attempts(self, index):
        index = tf.constant(index, tf.int64)
        yield "", lambda: self._color(super(AlignedSource, self).read(index))
        for column, source in self._others.items():
            yield (
                f"{column.name} {source.describe(index)}",
                lambda c=column, s=source: _decoded(
                    s.read(index), c, tf.as_dtype(self.dtype)
                ),
            )
        yield from super().attempts(int(index))

    def _fingerprint(self, digest):
        super()._fingerprint(digest)
        for column, source in self._others.items():
            digest.update(f"{column}\n{source.fingerprint()}\n".encode())

    def _identity(self, digest):
        super()._identity(digest)
        for column, source in self._others.items():
            digest.update(f"{column}\n{source.identity()}\n".encode())


def _decoded(encoded, column, dtype):
    """The channels of a further file, `(height, width, column.channels)`.

    Not by `decoding.decode`: a graph that looks for every kind of file, once for each
    of twenty columns, takes long to build.
    """
    png = image_headers.is_png(encoded)
    if column.kind == "map":
        with tf.control_dependencies([tf.debugging.Assert(png, [FORM])]):
            return _marks(tf.identity(encoded), column.channels, dtype)

    def of_png():
        *size, bits, color_type = image_headers.png_form(encoded)
        checks = [_of_form(_png_channels(color_type), column)]
        if dtype == tf.uint8:
            checks.append(tf.debugging.Assert(bits <= 8, [DEEP]))
        with tf.control_dependencies(checks):
            limited = image_headers.refuse_large(encoded, *size)
        return tf.io.decode_png(limited, column.stored, dtype)

    def of_jpeg():
        known = tf.debugging.Assert(image_headers.is_jpeg(encoded), [FORM])
        with tf.control_dependencies([known]):
            shape = tf.image.extract_jpeg_shape(encoded)
        with tf.control_dependencies([_of_form(shape[2], column)]):
            limited = image_headers.refuse_large(encoded, shape[1], shape[0])
        image = tf.cast(tf.io.decode_jpeg(limited, column.stored), dtype)
        return image * tf.constant(257, dtype) if dtype == tf.uint16 else image

    image = tf.cond(png, of_png, of_jpeg)
    image.set_shape([None, None, column.stored])
    return image


def _of_form(stored, column):
    return tf.debugging.Assert(tf.equal(stored, column.stored), [FORM, stored])


def _png_channels(color_type):
    known = tf.constant((*_OF_PNG, 0))
    return tf.gather(known, tf.minimum(color_type, len(_OF_PNG)))


def _marks(encoded, classes, dtype):
    """A channel for each class of a map in a PNG file."""
    *size, bits, color_type = image_headers.png_form(encoded)
    form = tf.debugging.Assert(tf.equal(_png_channels(color_type), 1), [PALETTE])
    with tf.control_dependencies([form]):
        limited = image_headers.refuse_large(encoded, *size)
    # As 16 bits, values of fewer are stretched over all of the range.
    values = tf.io.decode_png(limited, 1, tf.uint16)[..., 0]
    step = 65535 // (tf.bitwise.left_shift(1, bits) - 1)
    found = tf.cast(values, tf.int32) // step
    known = tf.reduce_all((found < classes) | tf.equal(found, _MOST))
    check = tf.debugging.Assert(known, [CLASS, tf.reduce_max(found)])
    with tf.control_dependencies([check]):
        marks = tf.one_hot(found, classes, dtype=tf.float32)
    return tf.cast(marks * float(dtype.max), dtype)
