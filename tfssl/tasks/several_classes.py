"""Images of any number of classes each, to fine-tune on and to judge by."""

import copy

import numpy as np
from absl import logging

from tfssl.data import labels as labels_lib
from tfssl.data.sources import label_sets
from tfssl.tasks import label_budgets, labelled_images


def prepared(train, validation, amount):
    """`LabelledImages` whose labels are rows of marks, see `Source.label_sets`.

    Args:
        train: `Source`; labels of one class per image become rows with one mark.
        validation: `Source` whose classes have the numbers of `train`, or None.
        amount: `labelled_images.LabelBudget`. A share is of all images, since classes
            overlap; numbers per class and lists are not for these labels.

    Raises:
        ValueError: without labels, for a class of the validation images that no image
            to learn from has, or a budget of another kind.
    """
    train = _with_marks(train)
    validation = _with_marks(validation, train.label_sets.shape[1])
    rows = np.flatnonzero((train.label_sets >= 0).any(axis=1))
    names = train.class_names or tuple(map(str, range(train.label_sets.shape[1])))
    selection = _select(train, rows, amount)
    learned = train.label_sets[selection.indices]
    lacking = [n for n, has in zip(names, (learned == 1).any(axis=0)) if not has]
    if len(lacking) == len(names):
        raise ValueError(
            f"None of the images to learn from in {train.name} has any class; give "
            "labels with some 1 in them."
        )
    if lacking:
        logging.warning(
            "No image to learn from has %s: nothing but their absence is learned.",
            ", ".join(lacking[:5]),
        )
    told = [
        f"learns from {len(selection.indices):,} of {train.num_images:,} images, each "
        f"of any number of classes ({selection.description}, sha256 "
        f"{selection.sha256[:8]})"
    ]
    if validation is not None:
        validation = _judging(validation, train, names)
    return labelled_images.LabelledImages(
        train.subset(selection.indices, name=train.name),
        validation,
        tuple(names),
        selection,
        tuple(told),
    )


def _with_marks(source, least=2):
    """The source with rows of `least` or more marks, whatever its labels are."""
    if source is None or source.label_sets is not None:
        return source
    rows = labels_lib.labelled(source)
    if not len(rows):
        raise ValueError(
            f"Fine-tuning and its validation need labels, but {source.name} has none; "
            "give images with labels (a manifest with several in a field, arrays with "
            "a row of 0 and 1 per image)."
        )
    names = source.class_names
    if names is not None and len(names) < least:
        raise ValueError(
            f"{source.name} has the classes {', '.join(names)} only, expected {least} "
            "or more for task=multilabel; give images of all of them."
        )
    count = max(least, len(names or range(source.labels.max() + 1)))
    lists = [None if label < 0 else (label,) for label in source.labels.tolist()]
    source = copy.copy(source)
    source.labels = label_sets.of_numbers(lists, count)
    return source


def _select(train, rows, amount):
    if amount.label_list is not None:
        raise ValueError(
            f"label_list={amount.label_list} received with task=multilabel, which "
            "takes all images or a share of them; give budget='10%', or leave it out."
        )
    share = 1.0
    if amount.budget is not None:
        asked = label_budgets.parsed((amount.budget,), np.zeros(len(rows), int))
        if asked["per_class"]:
            raise ValueError(
                f"budget={amount.budget} received with task=multilabel, where images "
                "are of several classes; give a share, such as '10%'."
            )
        (share,) = asked["fractions"]
    return labels_lib.share(rows, train.label_sets, share, amount.budget_seed)


def _judging(validation, train, names):
    """The validation images of which something is known."""
    marks = validation.label_sets
    beyond = np.flatnonzero((marks[:, len(names) :] == 1).any(axis=0))
    if len(beyond):
        found = validation.class_names
        name = found[len(names) + beyond[0]] if found else len(names) + beyond[0]
        raise ValueError(
            f"The class {name!r} of the validation images has no image in {train.name} "
            "to learn it from; give some, or take the class out of the validation "
            "images."
        )
    known = np.flatnonzero((marks[:, : len(names)] >= 0).any(axis=1))
    validation = validation.subset(known, name=validation.name)
    kept = validation.label_sets[:, : len(names)]
    validation.class_names = None  # Until both fit.
    validation.labels = kept
    validation.class_names = tuple(names)
    if not (kept == 1).any():
        raise ValueError(
            f"None of the validation images ({validation.name}) has any of the classes "
            "that are learned; give images with labels, or leave validation_data out."
        )
    return validation
