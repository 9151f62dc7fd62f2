"""TIFF files by way of Pillow, since TensorFlow does not read them.

Each is made a PNG file as it is read, and from there on is like any other. Python does
that, so such data cannot go to a data service; `tasks.make_tfrecords` stores the PNG
files, and from the records neither Pillow nor Python is needed.
"""

import io

import tensorflow as tf

from tfssl.data.sources import image_headers

EXTENSIONS = (".tif", ".tiff")
INSTALL = "pip install 'tfssl[tiff]'"
NOT_FOR_PNG = "a TIFF file of float, 32-bit or other pixels that PNG does not hold"
_MAGIC = (b"II*\0", b"MM\0*")
# As Pillow has them, and what of them a PNG file holds.
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
_PLAIN = ("1", "L", "LA", "P", "RGB", "RGBA")
_INKS = ("CMYK", "YCbCr", "LAB", "RGBX")
_ORIENTATION = 0x0112  # The tag.


def is_tiff(name):
    """Whether a file's name ends like those of TIFF files."""
    return name.lower().endswith(EXTENSIONS)


def available():
    """Whether Pillow can be imported."""
    try:
        # At once, since Pillow finds its kinds in no safe way for threads.
        import PIL.Image
        import PIL.PngImagePlugin
        import PIL.TiffImagePlugin  # noqa: F401
    except ImportError:
        return False
    return True


def as_png(encoded):
    """The bytes of an image file (scalar string), those of a TIFF file made PNG.

    The first page of it, its pixels as they are stored; 16-bit grey stays so, palettes
    and inks become RGB.

    Raises:
        tf.errors.InvalidArgumentError: when run, for files that Pillow does not read,
            pixels that PNG does not hold (float, 32-bit), and images of more than
            `image_headers.MAX_PIXELS`.
    """
    start = tf.strings.substr(encoded, 0, tf.minimum(4, tf.strings.length(encoded)))
    matches = tf.reduce_any(tf.equal(start, tf.constant(_MAGIC)))

    def convert():
        return tf.numpy_function(_png_of, [encoded], tf.string, stateful=False)

    return tf.ensure_shape(tf.cond(matches, convert, lambda: encoded), [])


def _png_of(encoded):
    import PIL.Image

    try:
        # Bytes in a graph, an array of them outside.
        content = encoded if isinstance(encoded, bytes) else encoded.item()
        image = PIL.Image.open(io.BytesIO(content), formats=["TIFF"])
        if image.width * image.height > image_headers.MAX_PIXELS:
            raise ValueError(image_headers.TOO_LARGE)
        image = _as_stored(image)
        if image.mode in _INKS:
            image = image.convert("RGB")
        elif image.mode not in (*_PLAIN, *_DEEP):
            raise ValueError(NOT_FOR_PNG)
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1)
    except Exception as error:  # Of many kinds, for files that are cut or damaged.
        raise tf.errors.InvalidArgumentError(None, None, str(error)) from None
    return file.getvalue()


def _as_stored(image):
    """The image without the turn by its orientation, which no other file is given.

    Pillow makes it as the image is loaded, in no way that can be left out.
    """
    from PIL.Image import Transpose

    # Two of the turns are each other's way back, the others their own.
    back = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_90,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_270,
    }
    orientation = image.getexif().get(_ORIENTATION)
    image.load()
    return image.transpose(back[orientation]) if orientation in back else image
