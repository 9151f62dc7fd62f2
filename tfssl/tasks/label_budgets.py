"""Label budgets of an evaluation: what is asked for, and what the labels can fill."""

import dataclasses
import os
import re
from collections.abc import Sequence

import numpy as np
from absl import logging

from tfssl.data import labels as labels_lib
from tfssl.evaluation import budgets as budgets_lib
from tfssl.tasks import groups
from tfssl.tasks.arguments import Path

DEFAULT = ("1", "5", "10%", "100%")
NONE = {"per_class": (), "fractions": ()}


@dataclasses.dataclass(frozen=True)
class LabelBudgets:
    """How many labels there are to learn from, and which.

    Attributes:
        budgets: how many labels: `5` (per class) or `10%`, class-balanced. None takes
            1, 5, 10% and 100%, of them what the classes have images for, or, where
            there is a `label_list`, none of them.
        label_list: file with the images whose labels may be used, a budget of its own
            beside `budgets`: a text with a file name a line (SimCLR's lists of 1 % and
            10 % of ImageNet), or a selection that an evaluation has left in `labels/`.
        draws: independent choices of the labelled images below 100 %.
    """

    budgets: Sequence[str] | None = None
    label_list: Path | None = None
    draws: groups.Count = 10

    def asked(self, train):
        """What is asked for, checked against the labels of the training images.

        Args:
            train: their `Source`.

        Returns:
            `(budgets as by parsed, labels.Selection of the list or None)`.
        """
        if self.label_list is None:
            return parsed(self.budgets, train.labels, train.class_names), None
        listed = labels_lib.from_file(self.label_list, train)
        classes = np.unique(train.labels[listed.indices])
        if len(classes) < 2:
            raise ValueError(
                f"{self.label_list} chooses images of one class only ({classes[0]}), "
                "expected two or more."
            )
        if self.budgets is None:
            return NONE, listed
        return parsed(self.budgets, train.labels, train.class_names), listed

    def drawn(self, asked, bank, class_names, seed):
        """The budgets of the images that could be read.

        Args:
            asked: of `asked`.
            bank: labelled `Features` of the training images, in their order.
            class_names: names of the classes, or None.
            seed: int.

        Returns:
            List of `budgets.Budget`.

        Raises:
            ValueError: if no image of the list could be read.
        """
        counted, listed = asked
        counted = fitting(counted, bank.labels, class_names)
        found = budgets_lib.drawn(bank, **counted, draws=self.draws, seed=seed)
        if listed is not None:
            rows = labels_lib.among(listed, bank.labels, bank.index)
            lost = len(listed.indices) - len(rows.indices)
            if not len(rows.indices):
                raise ValueError(
                    f"None of the {lost} images of {self.label_list} can be read; mend "
                    "them, or give another list."
                )
            if lost:
                logging.warning(
                    "%d of the %d images of %s could not be read and are left out.",
                    lost,
                    len(listed.indices),
                    self.label_list,
                )
            name = f"list {os.path.basename(self.label_list)}"
            found.append(budgets_lib.Budget(name, (rows,)))
        return found


def parsed(budgets, labels, class_names=None):
    """`("5", "10%")` -> `{"per_class": (5,), "fractions": (0.1,)}`.

    Args:
        budgets: texts, numbers per class or shares. None takes `DEFAULT`, without what
            a class has too few images for; that is logged.
        labels: int array `(num_images,)`; negative means unlabelled.
        class_names: names of the classes, or None.

    Raises:
        ValueError: for a text of another form, a share out of range, or a number that
            a class has too few images for.
    """
    if budgets is not None and (isinstance(budgets, str) or not len(budgets)):
        raise ValueError(
            f"budgets={budgets!r} received, expected one or more of numbers per class "
            "('5') and shares ('10%')."
        )
    found = dict(NONE)
    for budget in DEFAULT if budgets is None else budgets:
        kind, value = _value(budget)
        if value in found[kind]:
            raise ValueError(f"label budget '{budget}' received twice; give it once.")
        found[kind] += (value,)
    if budgets is None:
        return fitting(found, labels, class_names)
    for count in found["per_class"]:
        reason = _lacking(count, labels, class_names)
        if reason:
            raise ValueError(f"label budget '{count}' received, but {reason}.")
    return found


def fitting(parsed_budgets, labels, class_names=None):
    """The budgets that these labels can fill; what is left out is logged.

    Args:
        parsed_budgets: of `parsed`.
        labels: as for `parsed`.
        class_names: as for `parsed`.
    """
    kept = ()
    for count in parsed_budgets["per_class"]:
        reason = _lacking(count, labels, class_names)
        if reason:
            logging.warning("%d labels per class are left out: %s.", count, reason)
        else:
            kept += (count,)
    return parsed_budgets | {"per_class": kept}


def _value(budget):
    """`("per_class", 5)` of "5", `("fractions", 0.1)` of "10%"."""
    if re.fullmatch(r"[1-9]\d{0,8}", str(budget)):
        return "per_class", int(budget)
    if re.fullmatch(r"\d+(\.\d+)?%", str(budget)):
        share = float(budget[:-1]) / 100
        if 0 < share <= 1:
            return "fractions", share
    raise ValueError(
        f"label budget {budget!r} received, expected a number per class ('5') or a "
        "share above 0 and up to 100 % ('10%')."
    )


def _lacking(count, labels, class_names):
    """Why `count` labels per class are too many, or None."""
    labels = np.asarray(labels)
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    if not len(sizes) or sizes.min() >= count:
        return None
    label = classes[sizes.argmin()]
    name = repr(class_names[label]) if class_names is not None else label
    return f"class {name} has {sizes.min()} labelled training images"
