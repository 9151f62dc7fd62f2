"""The labelled images that a fine-tuning learns from, and those that judge it."""

import dataclasses
from typing import Any

import numpy as np
from absl import logging

from tfssl.data import class_names as class_names_lib
from tfssl.data import labels as labels_lib
from tfssl.tasks import groups, label_budgets
from tfssl.tasks.arguments import Path

_UNLABELLED = (
    "The validation images ({}) have no labels; give labelled ones, or leave "
    "validation_data out."
)


@dataclasses.dataclass(frozen=True)
class LabelBudget:
    """How many labels are learned from, and which.

    Attributes:
        budget: how many: `"10%"` or a number per class (`"5"`), class-balanced, the
            same images as an evaluation draws; None takes all.
        budget_seed: seed of that choice: draw 0 of an evaluation with this seed.
        label_list: file with the images to learn from instead: a text with a file name
            a line (SimCLR's lists of 1 % and 10 % of ImageNet), or a selection that an
            evaluation has left in `labels/`.
    """

    budget: str | None = None
    budget_seed: groups.Seed = 0
    label_list: Path | None = None

    def select(self, source):
        """The `labels.Selection` of a labelled source.

        Raises:
            ValueError: for a budget that the labels cannot fill, or a list that does
                not fit.
        """
        if self.label_list is not None:
            if self.budget is not None:
                raise ValueError(
                    f"budget={self.budget} and label_list={self.label_list} received; "
                    "give one of them."
                )
            return labels_lib.from_file(self.label_list, source)
        if self.budget is None:
            return labels_lib.select(source.labels, fraction=1.0)
        asked = label_budgets.parsed((self.budget,), source.labels, source.class_names)
        chosen = {"per_class": None, "fraction": None}
        for key, values in zip(chosen, (asked["per_class"], asked["fractions"])):
            chosen[key] = values[0] if values else None
        return labels_lib.select(source.labels, **chosen, seed=self.budget_seed)


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images with classes that are numbered from 0 without gaps.

    Attributes:
        train: `Source` to learn from.
        validation: `Source`, or None.
        class_names: tuple of texts, by number.
        selection: the `labels.Selection` whose labels are learned from, or None.
        told: lines for the start of the run.
    """

    train: Any
    validation: Any
    class_names: tuple
    selection: labels_lib.Selection
    told: tuple

    @property
    def multilabel(self):
        """Whether an image may be of several classes."""
        return self.train.label_sets is not None

    def kept(self, images):
        """The same, whose decoded images are kept as `groups.TrainingImages` say."""
        train, validation = map(images.keep, (self.train, self.validation))
        return dataclasses.replace(self, train=train, validation=validation)

    def told_in_record(self):
        """What the training learns from, as run.json keeps it."""
        chosen = self.selection
        return {
            "images": 0 if chosen is None else len(chosen.indices),
            "sha256": chosen and chosen.sha256,
            "classes": list(self.class_names),
        }


def prepared(train, validation, amount):
    """`LabelledImages` of these sources.

    Args:
        train: `Source`.
        validation: `Source` whose classes have the numbers of `train`, or None.
        amount: `LabelBudget`.

    Raises:
        ValueError: without labels, for less than two classes, for classes that have no
            image to learn from, or a budget that cannot be filled.
    """
    for source in (train, validation):
        if source is not None and source.label_sets is not None:
            raise ValueError(
                f"The images of {source.name} have any number of classes each; give "
                "task=multilabel (--task=multilabel), which learns every class by "
                "itself."
            )
    rows = labels_lib.labelled(train)
    if not len(rows):
        raise ValueError(
            f"Fine-tuning learns from labels, but {train.name} has none; give images "
            "with labels (class folders, a manifest with a label column, arrays with "
            "their labels)."
        )
    present = np.unique(train.labels[rows])
    names = class_names_lib.of(train, present)
    if len(present) < 2:
        raise ValueError(
            f"{train.name} has labels of one class only ({names[0]}), expected two or "
            "more to tell apart."
        )
    selection = amount.select(train)
    missing = np.setdiff1d(present, train.labels[selection.indices])
    if len(missing):
        raise ValueError(
            f"{amount.label_list} has no image of class "
            f"{names[np.searchsorted(present, missing[0])]!r}, which {train.name} has; "
            "list one or more of every class."
        )
    told = [
        f"learns from {len(selection.indices):,} of {train.num_images:,} images "
        f"({selection.description}, sha256 {selection.sha256[:8]})"
    ]
    if validation is not None:
        validation, lines = _judging(validation, train, present)
        told += lines
    train = class_names_lib.renumbered(
        train.subset(selection.indices, name=train.name), present, names
    )
    if validation is not None:
        validation = class_names_lib.renumbered(validation, present, names)
    return LabelledImages(train, validation, names, selection, tuple(told))


def _judging(validation, train, present):
    """The labelled ones of the validation images, and a line about them."""
    rows = labels_lib.labelled(validation)
    if not len(rows):
        raise ValueError(_UNLABELLED.format(validation.name))
    labels = validation.labels[rows]
    unknown = np.setdiff1d(labels, present)
    if len(unknown):
        name = class_names_lib.of(validation, unknown)[0]
        raise ValueError(
            f"The class {name!r} of the validation images has no image in {train.name} "
            "to learn it from; give some, or take the class out of the validation "
            "images."
        )
    absent = np.setdiff1d(present, labels)
    if len(absent):
        logging.warning(
            "The validation images have none of %s: means over classes leave them out.",
            ", ".join(class_names_lib.of(train, absent)[:5]),
        )
    if len(rows) == validation.num_images:
        return validation, []
    told = f"validation: the {len(rows):,} of {validation.num_images:,} with a label"
    return validation.subset(rows, name=validation.name), [told]


def taught(train, validation, class_names, amount, *, with_labels):
    """`LabelledImages` for a student: all images train, whether labelled or not.

    Args:
        train: `Source`.
        validation: `Source`, or None.
        class_names: tuple of texts, the teacher's.
        amount: `LabelBudget`, of the labels that are learned from too.
        with_labels: whether any are.

    Raises:
        ValueError: for images of classes that the teacher does not know, for labels
            that are to be learned from and are not there, or a budget without use.
    """
    told, selection = [f"learns from {train.num_images:,} images"], None
    for source in (train if with_labels else None, validation):
        labels_lib.check_single(source, "Distillation")
    if with_labels:
        if not len(labels_lib.labelled(train)):
            raise ValueError(
                f"label_weight received, but {train.name} has no labels; give images "
                "with labels, or leave label_weight out."
            )
        train = class_names_lib.placed(train, class_names)
        selection = amount.select(train)
        labels = np.full(train.num_images, -1)
        labels[selection.indices] = train.labels[selection.indices]
        train.labels = labels
        told.append(
            f"of which {len(selection.indices):,} with labels "
            f"({selection.description}, sha256 {selection.sha256[:8]})"
        )
    elif amount.budget is not None or amount.label_list is not None:
        raise ValueError(
            "budget or label_list received, but no labels are learned from; give "
            "label_weight too, or leave them out."
        )
    if validation is not None:
        rows = labels_lib.labelled(validation)
        if not len(rows):
            raise ValueError(_UNLABELLED.format(validation.name))
        validation = class_names_lib.placed(
            validation.subset(rows, name=validation.name), class_names
        )
    return LabelledImages(
        train, validation, tuple(class_names), selection, (", ".join(told),)
    )
