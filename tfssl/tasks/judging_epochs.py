"""What watches a fine-tuning: its accuracy on images that never train."""

import dataclasses

from tfssl import data as data_lib
from tfssl.data import pipeline
from tfssl.tasks import groups, monitoring
from tfssl.training import validation as validation_lib


@dataclasses.dataclass(frozen=True)
class Validating:
    """What watches a fine-tuning and never trains it.

    Attributes:
        validation_epochs: epochs between accuracies on the validation images.
        max_bad_fraction: share of unreadable images that stops the run.
    """

    validation_epochs: groups.Count = 1
    max_bad_fraction: groups.Share = 0.01


class Watch:
    """The monitors of a fine-tuning.

    Args:
        plan: `trainer.Plan`.
        chosen: `Validating`.
        labelled: `labelled_images.LabelledImages`.
        callbacks: Keras callbacks of the user's, called after the monitors.

    Attributes:
        best_by: the number of an epoch by which the best checkpoint is kept.
        told: lines for the start of the run.
        bad_files: the `BadFiles` of the validation images.
    """

    best_by = "val_accuracy"

    def __init__(self, plan, chosen, labelled, callbacks=()):
        self._plan, self._chosen, self._labelled = plan, chosen, labelled
        self._callbacks = list(callbacks)
        self.told = list(labelled.told)
        self.bad_files = [pipeline.BadFiles(max_fraction=chosen.max_bad_fraction)]

    def variables(self):
        """Nothing is saved beside the model."""
        return {}

    def callbacks(self, model, trainer, resumed):
        """As of `monitoring.Watch`."""
        found, source = [], self._labelled.validation
        if source is not None:
            test = data_lib.labeled(
                source,
                self._plan.preprocessing,
                batch_size=self._plan.batch_size,
                bad_files=self.bad_files[0],
            )
            found.append(
                validation_lib.Validation(
                    test,
                    source.labels,
                    every=self._chosen.validation_epochs,
                    epochs=self._plan.epochs,
                    workers=trainer.workers,
                )
            )
        return monitoring.in_order(found, trainer, self.bad_files, self._callbacks)
