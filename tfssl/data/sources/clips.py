"""Images that a hold-out must not part: frames of one clip, those that share a file."""

import collections

import numpy as np


def connected(common):
    """The number of the part that each image stands in, int64 `(images,)`.

    Args:
        common: for each image what it has in common with others, an iterable of
            whatever can be a key. Images with a key in common are of one part, as are
            those that others connect.
    """
    leader = list(range(len(common)))

    def first(image):
        while leader[image] != image:
            leader[image] = leader[leader[image]]  # Halves the way of the next ones.
            image = leader[image]
        return image

    holder = {}
    for image, keys in enumerate(common):
        for key in keys:
            ends = sorted((first(image), first(holder.setdefault(key, image))))
            leader[ends[1]] = ends[0]
    return np.asarray([first(image) for image in range(len(leader))], np.int64)


def held_out(parts, labels, order, count):
    """The parts to hold out, whole: those first in an order that come nearest to it.

    A part with all that is left of a class is taken after the others.

    Args:
        parts: int64 `(images,)`, the part that each stands in.
        labels: int64 `(images,)`, their classes.
        order: their places, those to be held out first.
        count: how many images to hold out.

    Returns:
        List of numbers of parts.
    """
    images_of = collections.defaultdict(list)
    for place, part in enumerate(parts.tolist()):
        images_of[part].append(place)
    left = collections.Counter(labels.tolist())
    found, held, late = [], 0, []

    def takes(part):
        """Takes a part that brings nearer, and leaves some to learn from."""
        nonlocal held
        size = len(images_of[part])
        if size > 2 * (count - held) or held + size == len(parts):
            return False
        found.append(part)
        held += size
        return True

    for part in dict.fromkeys(parts[order].tolist()):
        own = collections.Counter(labels[images_of[part]].tolist())
        if any(left[label] == number for label, number in own.items()):
            late.append(part)
        elif takes(part):
            left -= own
    for part in late:
        takes(part)
    return found
