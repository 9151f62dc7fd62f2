"""Images that judge must be others than those that train."""


def check(
    train,
    validation,
    *,
    among="those that train",
    fix="hold some out by validation_fraction (--validation_fraction)",
):
    """Raises `ValueError` where validation images are among those that train.

    Where it is known in which files images lie, by these, whatever links lead to them;
    copies of a file are other files. Else whether both sources hold the same images in
    the same order: arrays that share some rows are not found.

    Args:
        train: `Source`.
        validation: `Source`.
        among: what the images of `train` are, for the message.
        fix: what helps other than to give other images.
    """
    shared = _shared(train, validation)
    if shared:
        raise ValueError(
            f"{shared:,} of the {validation.num_images:,} validation images "
            f"({validation.name}) are among {among} ({train.name}), "
            f"which they cannot judge; give others, or {fix}."
        )


def _shared(train, validation):
    """How many validation images are training images too, as far as can be told."""
    if train.places is not None and validation.places is not None:
        trains = set(train.places())
        return sum(place in trains for place in validation.places())
    form = [
        (source.num_images, source.channels, source.dtype, source.image_size)
        for source in (train, validation)
    ]
    if form[0] != form[1] or train.identity() != validation.identity():
        return 0
    return validation.num_images
