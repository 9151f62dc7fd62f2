"""Label budgets of an evaluation: what is asked for, and what the labels can fill."""

import re

import numpy as np
from absl import logging

DEFAULT = ("1", "5", "10%", "100%")


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
    found = {"per_class": (), "fractions": ()}
    for budget in DEFAULT if budgets is None else budgets:
        kind, value = _value(budget)
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
