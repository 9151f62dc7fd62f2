"""Label budgets: how many training labels a probe sees, and which ones.

With few labels the number depends on which images were lucky to be labelled, so
each budget is drawn several times and reported as mean and standard deviation.
"""

import dataclasses

from tfssl.data import labels as labels_lib


@dataclasses.dataclass(frozen=True)
class Budget:
    """Some of the labels of the training images.

    Attributes:
        name: in words: "5 per class", "10 %", "list 1percent.txt".
        selections: tuple of a `labels.Selection` of rows of the features per draw.
    """

    name: str
    selections: tuple

    def banks(self, subject, draws=None):
        """Yields the training features of each draw, of the first `draws` if given.

        Args:
            subject: `judging.Subject`.
            draws: int or None.
        """
        bank = subject.bank
        for selection in self.selections[:draws]:
            # All rows are taken without a copy: a selection's indices ascend.
            every = len(selection.indices) == len(bank)
            yield bank if every else bank.take(selection.indices)


def budget_name(*, per_class=None, fraction=None):
    """A label budget in words: "5 per class", "10 %", "100 %"."""
    if per_class is not None:
        return f"{per_class} per class"
    return f"{100 * fraction:.4g} %"


def share(name):
    """The share of the labels, in %, that a budget's name tells; None of another."""
    number, space, percent = name.rpartition(" %")
    try:
        return float(number) if space and not percent else None
    except ValueError:
        return None


def drawn(bank, *, per_class=(), fractions=(), draws=5, seed=0):
    """Class-balanced budgets, each drawn several times.

    Args:
        bank: labelled `Features` of the training images, in the order of their
            `index`, on which the choice depends.
        per_class: ints, numbers of labels per class.
        fractions: floats in (0, 1], shares of all labels. 1.0 is drawn once.
        draws: draws per budget, with seeds `seed`, `seed + 1`, …
        seed: int.

    Returns:
        List of `Budget`, those of `per_class` first.

    Raises:
        ValueError: on missing labels, or a budget that some class cannot fill.
    """
    asked = [{"per_class": count} for count in per_class]
    asked += [{"fraction": fraction} for fraction in fractions]
    return [
        Budget(
            budget_name(**budget),
            tuple(
                labels_lib.select(
                    bank.labels, **budget, seed=seed + draw, index=bank.index
                )
                for draw in range(1 if budget.get("fraction") == 1 else draws)
            ),
        )
        for budget in asked
    ]
