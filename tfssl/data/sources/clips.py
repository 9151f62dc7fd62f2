"""Images that a hold-out must not part: frames of one clip, those that share a file."""

import collections
import itertools

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
    """The parts to hold out, whole: those first in an order that fit in a number.

    If some of it is left, one more part, the smallest, where that comes nearer or as
    near. A part with all that is left of a class is taken after the others.

    Args:
        parts: int64 `(images,)`, the part that each stands in.
        labels: int64 `(images,)`, their classes.
        order: their places, those to be held out first.
        count: how many images to hold out.

    Returns:
        List of numbers of parts.
    """
    labels_of = collections.defaultdict(list)
    for part, label in zip(parts.tolist(), labels.tolist()):
        labels_of[part].append(label)
    left = collections.Counter(labels.tolist())
    found, held = {}, 0

    def is_last(part):
        """Whether it has all that is left of a class."""
        own = collections.Counter(labels_of[part])
        return any(left[label] == number for label, number in own.items())

    ordered = list(dict.fromkeys(parts[order].tolist()))
    by_size = sorted(ordered, key=lambda part: len(labels_of[part]))
    candidates = ((1, ordered), (2, by_size))
    for spares_classes, (most, some) in itertools.product((True, False), candidates):
        for part in some:
            size = len(labels_of[part])
            if part in found or size > most * (count - held):
                continue
            if held + size == len(parts) or spares_classes and is_last(part):
                continue
            found[part] = True
            held += size
            left.subtract(labels_of[part])
    return list(found)
