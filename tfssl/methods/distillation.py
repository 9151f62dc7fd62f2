"""Distillation: a student learns what a teacher says of images, mostly unlabelled."""

import keras
import tensorflow as tf

from tfssl import checks, frozen
from tfssl.losses import soft_targets
from tfssl.methods import classification, mixing


@keras.saving.register_keras_serializable(package="tfssl")
class Distillation(classification.Classification):
    """A classifier that learns the class probabilities of a frozen one.

    The method of `tfssl.distill`. Teacher and student see the same view. The loss of an
    image is

        (1 - label_weight) * losses.distillation + label_weight * cross-entropy

    where the second is that of the true class, 0 for an image without a label
    (`"label"` -1). With `label_weight` 0 a batch needs no labels.

    Args:
        encoder: the student, a built Keras model, images -> features `(batch, dim)`.
        teacher: `frozen.Frozen` of a network that gives logits `(batch, classes)`.
        class_names: texts, by column of both.
        label_weight: float in [0, 1), share of the cross-entropy.
        temperature: float > 0, of both softmaxes. SimCLRv2 takes 0.1 for a student like
            its teacher and 1 for a smaller one.
        freeze: as of `Classification`.
        layer_decay: the same.
        label_smoothing: the same, of the cross-entropy.
        class_weights: the same.
        mixup: the same; the teacher sees the mix. A mix with an image without a label
            has none.
        cutmix: the same.
        averaging: the same.
        seed: the same.
        name: optional name of the model.

    Raises:
        ValueError: as `Classification`, and for a teacher of other classes.

    Reference:
        Chen et al., 2020, https://arxiv.org/abs/2006.10029 (SimCLRv2), section 2. There
        the student has no projection head, and the labelled images are among the
        unlabelled ones; the two sums of its equation are means over all images here.
    """

    def __init__(
        self,
        encoder,
        teacher,
        *,
        class_names,
        label_weight=0.0,
        temperature=1.0,
        freeze="none",
        layer_decay=1.0,
        label_smoothing=0.0,
        class_weights=None,
        mixup=0.0,
        cutmix=0.0,
        averaging=0.0,
        seed=0,
        name=None,
    ):
        own = {
            "teacher": teacher,
            "label_weight": label_weight,
            "temperature": temperature,
        }
        _check(own, len(class_names))
        super().__init__(
            encoder,
            class_names=class_names,
            freeze=freeze,
            layer_decay=layer_decay,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            mixup=mixup,
            cutmix=cutmix,
            averaging=averaging,
            seed=seed,
            name=name,
        )
        del self.settings["multilabel"]
        self.settings |= own
        for key, value in own.items():
            setattr(self, key, value)

    @property
    def with_labels(self):
        return self.label_weight > 0

    @property
    def logged(self):
        return ("loss", "agreement")

    def chance_loss(self, global_batch):
        return None  # The teacher decides what is low.

    def notes(self, global_batch, num_images):
        return [
            *super().notes(global_batch, num_images),
            f"teacher {self.teacher.network.name}: "
            f"{self.teacher.network.count_params():,} parameters, temperature "
            f"{self.temperature:g}, weight of labels {self.label_weight:g}",
        ]

    def image_losses(self, batch, training):
        images, share = self.mixed(batch, training)
        logits = self.trained_logits(images, training)
        taught = self.teacher(images)
        losses = soft_targets.distillation(taught, logits, temperature=self.temperature)
        if self.label_weight:
            true = self._true_losses(logits, batch["label"], share)
            losses = (1 - self.label_weight) * losses + self.label_weight * true
        same = tf.argmax(taught, axis=1) == tf.argmax(logits, axis=1)
        return {"loss": losses, "agreement": tf.cast(same, tf.float32)}

    def _true_losses(self, logits, labels, share):
        """The cross-entropy of images whose label is known, else 0."""
        known = labels >= 0
        if share is not None:
            known &= mixing.partners(known)
        losses = self.mixed_losses(logits, tf.maximum(labels, 0), share)
        return tf.where(known, losses, 0.0)


def _check(given, count):
    teacher = given["teacher"]
    if not isinstance(teacher, frozen.Frozen):
        raise checks.refused(
            "teacher",
            teacher,
            "a tfssl.methods.Frozen: a Keras model with its preprocessing",
        )
    checks.fraction_below_one(given, "label_weight")
    checks.positive(given, "temperature")
    _, shape = teacher.asked_for()
    if len(shape) != 2 or shape[-1] != count:
        raise ValueError(
            f"The teacher {teacher.network.name!r} gives {shape}, expected logits of "
            f"{count} classes, (batch, {count}); give one that tells these classes "
            "apart."
        )
