"""Linear probes where few training labels are known: 1 per class, 10 %, all.

With few labels the number depends on which images were lucky to be labelled, so
each budget is drawn several times and reported as mean and standard deviation.
"""

import dataclasses

import numpy as np

from tfssl.data import labels as labels_lib
from tfssl.evaluation import features as features_lib
from tfssl.evaluation import linear_probe


@dataclasses.dataclass(frozen=True)
class Row:
    """Accuracy with one label budget.

    Attributes:
        labels: the budget in words: "1 per class", "10 %", "100 %".
        accuracy: mean over the draws, in [0, 1].
        std: standard deviation over the draws (population form); 0 for one draw.
        draws: number of label draws.
        protocol: how one draw was measured, and the hashes of the label choices.
        accuracies: the accuracy of each draw.
        selections: the `labels.Selection` of each draw, to save or check.
    """

    labels: str
    accuracy: float
    std: float
    draws: int
    protocol: str
    accuracies: tuple
    selections: tuple


def budget_name(*, per_class=None, fraction=None):
    """A label budget in words: "5 per class", "10 %", "100 %"."""
    if per_class is not None:
        return f"{per_class} per class"
    return f"{100 * fraction:.4g} %"


def evaluate(
    train,
    test,
    *,
    per_class=(1, 5),
    fractions=(0.01, 0.1, 1.0),
    draws=5,
    seed=0,
    **probe,
):
    """Linear probes of frozen features over several label budgets and draws.

    Args:
        train: labelled `Features`; each draw uses the labels of a part of them,
            class-balanced, chosen by `labels.select` on the images in the order of
            their `index`.
        test: labelled `Features`.
        per_class: ints, numbers of labels per class.
        fractions: floats in (0, 1], shares of all labels. 1.0 is drawn once.
        draws: label draws per budget, with seeds `seed`, `seed + 1`, …
        seed: int.
        **probe: further arguments of `linear_probe.fit`.

    Returns:
        List of `Row`, the `per_class` budgets first.

    Raises:
        ValueError: on missing labels, or a budget that some class cannot fill.
    """
    features_lib.check_labeled(train, "The label-fraction probe", "training")
    train = train.take(np.argsort(train.index, kind="stable"))
    budgets = [{"per_class": count} for count in per_class]
    budgets += [{"fraction": fraction} for fraction in fractions]
    return [_row(train, test, budget, draws, seed, probe) for budget in budgets]


def _row(train, test, budget, draws, seed, probe):
    if budget.get("fraction") == 1:
        draws = 1
    chosen = [
        labels_lib.select(train.labels, **budget, seed=seed + draw, index=train.index)
        for draw in range(draws)
    ]
    results = [
        linear_probe.fit(train.take(selection.indices), test, **probe)
        for selection in chosen
    ]
    accuracies = tuple(result.accuracy for result in results)
    protocol = results[0].protocol
    if draws > 1:
        hashes = ", ".join(selection.sha256[:8] for selection in chosen)
        protocol += f"; first of {draws} draws, label lists {hashes}"
    return Row(
        budget_name(**budget),
        float(np.mean(accuracies)),
        float(np.std(accuracies)),
        draws,
        protocol,
        accuracies,
        tuple(chosen),
    )
