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
    copies of a file are other files. Of images that are made of several pictures (a
    frame and a later one) none may be among those that train. Else whether both sources
    hold the same images in the same order: arrays that share some rows are not found.

    Args:
        train: `Source`.
        validation: `Source`.
        among: what the images of `train` are, for the message.
        fix: what helps other than to give other images.
    """
    count, how = shared(train, validation)
    if count:
        raise ValueError(
            f"{count:,} of the {validation.num_images:,} validation images "
            f"({validation.name}) {how} {among} ({train.name}), which they cannot "
            f"judge; give others, or {fix}."
        )


def shared(train, validation):
    """How many validation images are training images, as far as can be told, and how.

    `(int, text)`; images that are made of several pictures count if one is the same.
    """
    if train.places is not None and validation.places is not None:
        places = [_pictures(source) for source in (train, validation)]
        trains = set().union(*places[0])
        several = any(len(some[0]) > 1 for some in places)
        how = "have pictures in common with" if several else "are among"
        return sum(not trains.isdisjoint(some) for some in places[1]), how
    form = [
        (source.num_images, source.channels, source.dtype, source.image_size)
        for source in (train, validation)
    ]
    if form[0] != form[1] or train.identity() != validation.identity():
        return 0, ""
    return validation.num_images, "are among"


def _pictures(source):
    """The places of each image, tuples of texts."""
    return [(place,) if isinstance(place, str) else place for place in source.places()]
