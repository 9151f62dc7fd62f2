"""Images without what lies in channels behind them, such as their maps of classes."""

from tfssl.data.sources import base


def of(source, count):
    """The same images, of each the first channels.

    Args:
        source: `Source`.
        count: int, how many of its channels.

    Returns:
        A `Source`; the same, if it has no more.

    Raises:
        ValueError: for fewer channels, and for image files, whose further channels are
            no images of their own: open them with `channels=count`.
    """
    if source.channels == count:
        return source
    if source.channels < count or source.holds_files:
        raise ValueError(
            f"{source.name} has images of {source.channels} channel(s), expected "
            f"{count}, or more behind these; give images of {count} channel(s)."
        )
    return _FirstChannels(source, count)


class _FirstChannels(base.Source):
    stacked = None  # A pixel of `read` has all channels.

    def __init__(self, source, count):
        self.encoded, self.random_access = source.encoded, source.random_access
        self._source = source
        super().__init__(
            source.name,
            source.num_images,
            channels=count,
            dtype=source.dtype,
            labels=lambda: source.known_labels,
            class_names=source.class_names,
            image_size=source.image_size,
        )
        self.places, self.together = source.places, source.together

    @property
    def holds_files(self):
        return False  # A file has all channels.

    @property
    def image_bytes(self):
        return self._source.image_bytes

    def read(self, index):
        return self._source.read(index)

    def stream(self):
        """Dataset of `(index, raw image)`, as of the source."""
        return self._source.stream()

    def decode(self, raw, side=None):
        return self._source.decode(raw, side)[..., : self.channels]

    def decode_window(self, raw, boxes_of, sizes=None):
        image, boxes = self._source.decode_window(raw, boxes_of, sizes)
        return image[..., : self.channels], boxes

    def describe(self, index):
        return self._source.describe(index)

    def attempts(self, index):
        return self._source.attempts(index)

    @property
    def has_names(self):
        return self._source.has_names

    def _fingerprint(self, digest):
        digest.update(self._source.fingerprint().encode())
        digest.update(str(self.channels).encode())

    def _identity(self, digest):
        digest.update(self._source.identity().encode())
        digest.update(str(self.channels).encode())
