"""Where the channels of an image are."""

import keras


def check():
    """Raises `ValueError` unless Keras has channels last, as all images here have them.

    Its layers would take rows for channels, and many of them without an error.
    """
    found = keras.config.image_data_format()
    if found != "channels_last":
        raise ValueError(
            f"Keras is set to image_data_format={found!r}, but images of tfssl have "
            "their channels last; call "
            "keras.config.set_image_data_format('channels_last') before networks are "
            "made or loaded (~/.keras/keras.json may set it, too)."
        )
