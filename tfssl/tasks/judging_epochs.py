"""What watches the training of a classifier: its accuracy on images of their own."""

import dataclasses

from tfssl import data as data_lib
from tfssl.data import pipeline
from tfssl.tasks import epoch_judges, groups, monitoring
from tfssl.training import validation as validation_lib


@dataclasses.dataclass(frozen=True)
class Validating:
    """What watches the training of a classifier and never trains it.

    Attributes:
        validation_epochs: epochs between accuracies on the validation images; None for
            about 30 in all, fewer where they would cost more than the training.
        max_bad_fraction: share of unreadable images that stops the run.
    """

    validation_epochs: groups.CountOrNone = None
    max_bad_fraction: groups.Share = 0.01

    def every(self, plan, validation, least):
        """Epochs between validations.

        Unless it is said, they take no longer than the training itself: a training step
        costs three forward passes, and few labels make short epochs.

        Args:
            plan: `trainer.Plan`.
            validation: source of the validation images, or None.
            least: int, fewest epochs, unless it is said.

        Raises:
            ValueError: if it is said, and there are no validation images.
        """
        if self.validation_epochs and validation is None:
            raise ValueError(
                f"validation_epochs={self.validation_epochs} received, but there "
                "are no validation images; give validation_data or "
                "validation_fraction, or leave it out."
            )
        if self.validation_epochs or validation is None:
            return self.validation_epochs or least
        passes = 3 * plan.steps_per_epoch * plan.batch_size
        return max(least, -(-validation.num_images // passes))


class Watch:
    """The monitors of the training of a classifier, as `monitoring.Watch`.

    Args:
        plan: `trainer.Plan`.
        labelled: `labelled_images.LabelledImages`.
        every: int, epochs between two validations.
        max_bad_fraction: float, of the validation images.
        callbacks: Keras callbacks of the user's, called after the monitors.

    Attributes:
        best_by: the number of an epoch by which the best checkpoint is kept.
        told: lines for the start of the run.
        bad_files: the `BadFiles` of the validation images.
    """

    def __init__(self, plan, labelled, *, every, max_bad_fraction, callbacks=()):
        self._plan, self._labelled, self._every = plan, labelled, every
        self._callbacks = list(callbacks)
        self.best_by = validation_lib.score_of(labelled.multilabel)
        self.told = list(labelled.told)
        self.bad_files = [pipeline.BadFiles(max_fraction=max_bad_fraction)]

    def variables(self):
        """Nothing is saved beside the model."""
        return {}

    def judging(self):
        """As of `monitoring.Watch`."""
        source = self._labelled.validation
        if source is None:
            return None
        crop = self._plan.preprocessing.crop
        return epoch_judges.judging(source, judged_crop=crop)

    def callbacks(self, model, trainer, resumed):
        """As of `monitoring.Watch`."""
        found, source = [], self._labelled.validation
        if source is not None:
            test = data_lib.labeled(
                source,
                self._plan.preprocessing,
                batch_size=trainer.images_at_once,
                bad_files=self.bad_files[0],
            )
            found.append(
                validation_lib.Validation(
                    test,
                    source.known_labels,
                    every=self._every,
                    epochs=self._plan.epochs,
                    workers=trainer.workers,
                )
            )
        return monitoring.in_order(found, trainer, self.bad_files, self._callbacks)
