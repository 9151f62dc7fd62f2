"""Labels of images: a number each, or of any number of classes a row of marks."""

import numpy as np

HAS, HAS_NOT, UNKNOWN = 1, 0, -1
_SPARSE = 1000  # A number is no id below this, nor below so many times the classes.


def are_sets(labels):
    """Whether these are rows of marks: a matrix of whole numbers, two columns or more.

    A matrix of floats is not: it is what one-hot encoders give, of one class per image.
    One column is a list of labels of the wrong shape.
    """
    return labels.ndim == 2 and labels.shape[1] != 1 and labels.dtype.kind in "biu"


def checked(labels, count, class_names, name):
    """Rows of marks as int8.

    Args:
        labels: `(count, classes)` of 1 (has the class), 0 (has it not) and -1 (unknown,
            or VOC's difficult), of any whole or boolean dtype.
        count: int, images.
        class_names: names of the columns, or None.
        name: of the images, for the message.

    Raises:
        ValueError: for anything else.
    """
    if labels.shape[0] != count or not labels.shape[1]:
        raise ValueError(
            f"{name} has {count} images, but labels of shape {labels.shape}; give a "
            "row per image with a column per class."
        )
    wrong = labels[(labels != HAS) & (labels != HAS_NOT) & (labels != UNKNOWN)]
    if len(wrong):
        raise ValueError(
            f"{name} has the mark {wrong[0]} in its labels, expected 1 (has the "
            "class), 0 (has it not) or -1 (unknown)."
        )
    if class_names is not None and labels.shape[1] != len(class_names):
        raise ValueError(
            f"{name} has labels with {labels.shape[1]} columns, but names of "
            f"{len(class_names)} classes; give a name for each column."
        )
    return labels.astype(np.int8)


def of_numbers(lists, classes):
    """Rows of marks, int8, from the classes that images have.

    Args:
        lists: for each image the numbers of its classes, or None where unknown.
        classes: int, columns.
    """
    marks = np.zeros((len(lists), classes), np.int8)
    for row, numbers in enumerate(lists):
        if numbers is None:
            marks[row] = UNKNOWN
        else:
            marks[row, list(numbers)] = HAS
    return marks


def check_numbers(numbers, name):
    """Raises `ValueError` for ids, which would need as many columns as the largest.

    Args:
        numbers: iterable of ints, the classes of all images.
        name: of the images, for the message.
    """
    classes = set(numbers) - {UNKNOWN}
    largest = max(classes, default=0)
    if largest >= _SPARSE * max(1, len(classes)):
        raise ValueError(
            f"{name} has labels up to {largest} of {len(classes)} classes, expected "
            "numbers from 0 without large gaps; number the classes from 0, or give "
            "their names."
        )


def whole_labels(labels, count, name):
    """Labels as int64.

    Args:
        labels: `(count,)` whole numbers of any dtype.
        count: int, images.
        name: of the images, for the message.

    Raises:
        ValueError: for anything else: another shape (one-hot), text, fractions, NaN,
            numbers beyond int64.
    """
    labels = np.asarray(labels)
    if labels.shape != (count,):
        hint = ""
        if labels.shape == (count, 1):
            hint = ": labels[:, 0], not a list of one each"
        elif labels.ndim == 2:
            hint = (
                "; of one-hot labels give the argmax, of several classes per image "
                "whole numbers: 1, 0, and -1 where unknown"
            )
        raise ValueError(
            f"{name} has {count} images, but labels of shape {labels.shape}; give one "
            f"per image{hint}."
        )
    if labels.dtype.kind not in "biuf":
        first = labels[:1].tolist()[0]
        raise ValueError(
            f"{name} has labels of dtype {labels.dtype} ({first!r}, …), expected whole "
            "numbers, -1 where unknown; number the classes."
        )
    with np.errstate(invalid="ignore"):  # What does not fit is found below.
        whole = labels.astype(np.int64)
        wrong = np.flatnonzero((whole != labels) | ((whole < 0) & (labels >= 0)))
    if len(wrong):
        raise ValueError(
            f"{name} has the label {labels[wrong[0]]!s} of image {wrong[0]}, expected "
            "whole numbers, -1 where unknown."
        )
    return whole
