"""What is judged, and what judges it.

A new probe is a class in a file of this folder, and an entry in the table of `probes`:

    @dataclasses.dataclass(frozen=True)
    class Centroids(judging.Probe):
        name = "centroids"  # By which users choose it.
        titles = {"centroids": "Nearest class mean"}  # In the report.

        metric: str = "cosine"  # Its options are fields, checked in __post_init__.

        def rows(self, subject, budgets):
            for budget in budgets:
                banks = budget.banks(subject)
                scores = [_score(bank, subject.queries, self.metric) for bank in banks]
                yield subject.row(budget.name, "centroids", scores, "how it was made")
"""

import dataclasses
from typing import Any, ClassVar

import keras
import numpy as np

from tfssl.evaluation import features as features_lib

# The label budget of what uses labels for the score only.
UNLABELED = "none"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all subjects of an evaluation share.

    Attributes:
        train: `Source` of the training images.
        test: `Source` of the test images, with the same numbers for the same classes.
        preprocessing: `Preprocessing` of both.
        view: the `View` by which probes that train on images augment them.
        max_bad_fraction: share of unreadable images, of either source, that stops it.
        seed: int.
        verbose: 0 or 1.
    """

    train: Any
    test: Any
    preprocessing: Any
    view: Any
    max_bad_fraction: float = 0.01
    seed: int = 0
    verbose: int = 0


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is judged: features, and the network that they come from.

    Attributes:
        name: "pre-trained", "random encoder" or "raw pixels".
        bank: `Features` of the labelled training images, in the order of their source.
        queries: `Features` of the labelled test images.
        setting: `Setting`.
        network: Keras model, images -> these features; None for the pixels themselves.
        stage: name of the encoder's stage whose features these are, or None for its
            output.
    """

    name: str
    bank: features_lib.Features
    queries: features_lib.Features
    setting: Setting
    network: keras.Model | None = None
    stage: str | None = None

    def row(self, labels, probe, accuracies, protocol, **details):
        """A row of the evaluation about this subject, see `row`."""
        if self.stage is None:
            return row(self.name, labels, probe, accuracies, protocol, **details)
        details |= {"encoder": self.name, "stage": self.stage}
        name = f"{self.name} {self.stage}"
        return row(name, labels, probe, accuracies, protocol, **details)


def row(name, labels, probe, accuracies, protocol, **details):
    """A row as `tasks.evaluate` gives, prints and stores it.

    Args:
        name: what was judged ("pre-trained").
        labels: the label budget in words.
        probe: what judged it ("kNN").
        accuracies: one per draw of the labels, in [0, 1].
        protocol: one line that says how the number was made.
        **details: further JSON-able entries.

    Returns:
        Dict.
    """
    return {
        "features": name,
        "labels": labels,
        "probe": probe,
        "accuracy": float(np.mean(accuracies)),
        "std": float(np.std(accuracies)),
        "draws": len(accuracies),
        "protocol": protocol,
    } | details


class Probe:
    """Judges a subject. Subclasses are frozen dataclasses, whose fields are options.

    Attributes:
        name: by which users choose it.
        titles: dict, what the report calls it, by the entry `probe` of its rows.
        of_stages: whether it judges stages of an encoder as well as the output.
        copies: how many times the memory of the features of an output (of stages
            none) it takes beside them.
        copies_of_tests: the same, of those of the test images alone.
    """

    name: ClassVar[str]
    titles: ClassVar[dict] = {}
    of_stages: ClassVar[bool] = True
    copies: ClassVar[int] = 0
    copies_of_tests: ClassVar[int] = 0

    def rows(self, subject, budgets):
        """Yields the rows about a subject, see `Subject.row`.

        Args:
            subject: `Subject`.
            budgets: list of `budgets.Budget`.
        """
        raise NotImplementedError


def first_protocol(results):
    """The protocol of the first draw, and how many there were."""
    more = f"; first of {len(results)} draws" if len(results) > 1 else ""
    return results[0].protocol + more
