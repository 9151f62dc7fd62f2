"""The classes of two sources side by side: the same number for the same name.

Every source numbers its classes by itself. Where labels of two of them meet (an
evaluation, the kNN monitor, the online probe) the second takes the first one's numbers.
"""

import copy
import re

import numpy as np
from absl import logging

_WHOLE = re.compile(r"[0-9]+(\.0+)?")
_SHOWN = 5  # Classes that a message names.


def matched(source, reference):
    """A source whose classes have the numbers that they have in another source.

    Classes are the same if their names are. Where one source has names and the other
    numbers, a number is the class whose name is that number ("7", "07", "7.0"); if no
    name is a number, it is the place of the name in the list, from 0, which is logged.
    Where neither has names, the numbers are the classes. Classes that only one of them
    has are logged.

    Args:
        source: a `Source`.
        reference: the `Source` whose numbers count.

    Returns:
        `source` itself where nothing changes, else a copy with other `labels` and
        `class_names`. Classes that `reference` lacks are numbered after its own:
        nothing that learned from its labels ever predicts them.

    Raises:
        ValueError: if numbers on one side have no place among the names of the other,
            or images have one class each on one side and any number on the other.
    """
    labels, theirs = source.known_labels, reference.known_labels
    if labels is None or theirs is None:
        return source
    if labels.ndim != theirs.ndim:
        one, several = (source, reference) if labels.ndim == 1 else (reference, source)
        raise ValueError(
            f"The images of {one.name} have one class each, those of {several.name} "
            "any number; give both labels of one kind."
        )
    if labels.ndim == 2:
        return _matched_sets(source, reference)
    names, own = reference.class_names, source.class_names
    if own is None and names is None:
        number_of, known = None, None
    elif own is None:
        number_of, known = _numbers_to_names(source, names, reference.name)
    elif names is None:
        number_of, known = _names_to_numbers(source, reference)
    elif own == names:
        number_of, known = None, names
    else:
        first = set(names)
        known = names + tuple(name for name in own if name not in first)
        places = {name: place for place, name in enumerate(known)}
        number_of = {number: places[name] for number, name in enumerate(own)}
    if number_of is not None:
        source = copy.copy(source)
        present, places = np.unique(source.labels, return_inverse=True)
        renumbered = [number_of[i] if i >= 0 else i for i in present.tolist()]
        source.class_names = known
        source.labels = np.asarray(renumbered, np.int64)[places]
    _tell_differences(source, reference, known)
    return source


def _matched_sets(source, reference):
    """`matched` for any number of classes per image: the columns change places.

    Of a class that `source` lacks it is unknown which of its images have it. Without
    names the columns are the classes.
    """
    names, own = reference.class_names, source.class_names
    here, there = source.label_sets.shape[1], reference.label_sets.shape[1]
    if (own is None) != (names is None):
        if here != there:
            raise ValueError(
                f"The labels of {source.name} have {here} columns, those of "
                f"{reference.name} {there}, and only one of them has names, so the "
                "classes cannot be matched; give the same columns, or names of both."
            )
        return source
    if own == names and here == there:
        return source
    if names is None:
        known, columns, count = None, range(here), max(here, there)
    else:
        first = set(names)
        known = names + tuple(name for name in own if name not in first)
        columns, count = [known.index(name) for name in own], len(known)
    marks = np.full((source.num_images, count), -1, np.int8)
    marks[:, columns] = source.label_sets
    source = copy.copy(source)
    source.class_names = known
    source.labels = marks
    _tell_differences(source, reference, known)
    return source


def _numbers_to_names(source, names, named):
    """`(number of each number, names)` for numbers beside names.

    Args:
        source: a `Source` of numbers.
        names: tuple of texts; numbers that are none of them come after them.
        named: what to call that which has the names.
    """
    present, values = _present(source), _values(names)
    if values is None:
        _check_places(present, source.name, names, named)
        return {number: number for number in present}, names
    place_of = {value: place for place, value in enumerate(values)}
    others = [number for number in present if number not in place_of]
    known = names + tuple(map(str, others))
    place_of |= {number: len(names) + i for i, number in enumerate(others)}
    return place_of, known


def _names_to_numbers(source, reference):
    """`(number of each number, None)` for names beside a source of numbers."""
    values = _values(source.class_names)
    if values is None:
        _check_places(
            _present(reference), reference.name, source.class_names, source.name
        )
        return None, source.class_names
    return dict(enumerate(values)), None


def _values(names):
    """The names of classes as numbers, or None if they are not whole numbers."""
    if not all(map(_WHOLE.fullmatch, names)):
        return None
    values = [int(name.partition(".")[0]) for name in names]
    return values if len(set(values)) == len(values) else None


def _check_places(present, numbered, names, named):
    """Says that numbers are taken as places in a list of names; refuses others.

    Args:
        present: the numbers, ascending.
        numbered: what has them.
        names: the list.
        named: what has it.
    """
    if present and present[-1] >= len(names):
        raise ValueError(
            f"The labels of {numbered} are numbers up to {present[-1]}, those of "
            f"{named} are {len(names)} names, so the classes cannot be matched; "
            "give both names (a manifest, class folders) or both numbers, or leave "
            "labels out with labels='none'."
        )
    shown = ", ".join(f"{i} = {name}" for i, name in enumerate(names[:_SHOWN]))
    logging.warning(
        "The labels of %s are numbers, those of %s are names: numbers are taken as "
        "places in their list, %s%s. Give both names, or both numbers, if that "
        "is wrong.",
        numbered,
        named,
        shown,
        ", …" if len(names) > _SHOWN else "",
    )


def _present(source):
    """Numbers of the classes that have images, sorted."""
    if source.label_sets is not None:
        return np.flatnonzero((source.label_sets == 1).any(axis=0)).tolist()
    return [number for number in np.unique(source.labels).tolist() if number >= 0]


def _tell_differences(source, reference, names):
    here, there = set(_present(source)), set(_present(reference))
    only = [
        f"only {of.name} has {_listed(sorted(numbers), names)}"
        for of, numbers in ((reference, there - here), (source, here - there))
        if numbers
    ]
    if only:
        logging.warning(
            "Classes of %s and %s are matched by %s: %s.%s%s",
            source.name,
            reference.name,
            "number" if names is None else "name",
            "; ".join(only),
            "" if here & there else " They share no class.",
            f" Its {np.isin(source.labels, list(here - there)).sum():,} images count "
            "as wrong."
            if here - there and source.labels is not None
            else "",
        )


def _listed(numbers, names):
    shown = [str(i) if names is None else names[i] for i in numbers[:_SHOWN]]
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return ", ".join(shown) + more


def of(source, numbers):
    """The names of some classes of a source, a tuple; without names their numbers."""
    names = source.class_names
    return tuple(str(i) if names is None else names[i] for i in np.asarray(numbers))


def renumbered(source, numbers, names):
    """A copy of a source whose classes are numbered from 0 in a given order.

    Args:
        source: a `Source`, all of whose images have a label among `numbers`.
        numbers: int array, its classes, ascending.
        names: their names.
    """
    source = copy.copy(source)
    labels = np.searchsorted(numbers, source.labels)
    source.class_names = tuple(names)
    source.labels = labels.astype(np.int64)
    return source


def placed(source, names):
    """A copy of a source whose labels are places in a teacher's list of names.

    Args:
        source: a `Source` with labels; numbers without names are matched with the list
            as `matched` does.
        names: tuple of texts.

    Raises:
        ValueError: if it has images of a class that is not among them.
    """
    present = np.asarray(_present(source), np.int64)
    if source.class_names is None:
        place_of, known = _numbers_to_names(source, names, "the teacher")
        own = [known[place_of[number]] for number in present.tolist()]
    else:
        own = of(source, present)
    missing = [name for name in own if name not in names]
    if missing:
        raise ValueError(
            f"{source.name} has images of class {missing[0]!r}"
            f"{f' and {len(missing) - 1} more' if missing[1:] else ''}, expected only "
            f"those of the teacher: {', '.join(names[:20])}; rename the classes, or "
            "leave these images out."
        )
    source = copy.copy(source)
    place = np.full(present.max(initial=0) + 1, -1)
    place[present] = [names.index(name) for name in own]
    labels = np.where(source.labels >= 0, place[source.labels], -1)
    source.class_names = tuple(names)
    source.labels = labels.astype(np.int64)
    return source
