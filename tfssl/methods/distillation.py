"""Distillation: a student learns what a teacher says of images, mostly unlabelled."""

import keras
import tensorflow as tf

from tfssl import checks, frozen, models
from tfssl.losses import soft_targets
from tfssl.methods import classification, mixing
from tfssl.models import heads


@keras.saving.register_keras_serializable(package="tfssl")
class Distillation(classification.Classification):
    """A classifier that learns the class probabilities of a frozen one.

    The method of `tfssl.distill`. Teacher and student see the same view. The loss of an
    image is

        (1 - label_weight) * losses.distillation + label_weight * cross-entropy

    where the second is that of the true class, 0 for an image without a label
    (`"label"` -1). With `label_weight` 0 a batch needs no labels. With `hard_labels`
    the first is the cross-entropy of the teacher's most likely class.

    A student with a distillation token (`models.ViT`) has a classifier of each token:
    the class token's learns from true classes, the other one's from the teacher. Their
    mean is what it says of images.

    Args:
        encoder: the student, a built Keras model, images -> features `(batch, dim)`.
        teacher: `frozen.Frozen` of a network that gives logits `(batch, classes)`.
        class_names: texts, by column of both.
        label_weight: float in [0, 1), share of the cross-entropy.
        temperature: float > 0, of both softmaxes. SimCLRv2 takes 0.1 for a student like
            its teacher and 1 for a smaller one.
        hard_labels: whether the teacher's most likely class alone counts, DeiT's best.
            There is no temperature then.
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
        ValueError: as `Classification`, for a teacher of other classes, and for a
            distillation token without `label_weight`.

    Reference:
        Chen et al., 2020, https://arxiv.org/abs/2006.10029 (SimCLRv2), section 2. There
        the student has no projection head, and the labelled images are among the
        unlabelled ones; the two sums of its equation are means over all images here.
        Touvron et al., 2021, https://arxiv.org/abs/2012.12877 (DeiT), section 4: hard
        labels with `label_weight` 0.5. Its soft form is a divergence times the squared
        temperature, where this is a cross-entropy.
    """

    def __init__(
        self,
        encoder,
        teacher,
        *,
        class_names,
        label_weight=0.0,
        temperature=1.0,
        hard_labels=False,
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
            "hard_labels": hard_labels,
        }
        _check(own, len(class_names))
        _check_token(encoder, label_weight)
        of_labels = {"label_smoothing": label_smoothing, "class_weights": class_weights}
        _check_labels(label_weight, of_labels)
        super().__init__(
            encoder,
            class_names=class_names,
            freeze=freeze,
            layer_decay=layer_decay,
            **of_labels,
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

    def last_layer(self):
        if not _has_token(self.encoder):
            return super().last_layer()
        return heads.TwoTokens(self.num_classes, dtype="float32", name="logits")

    @property
    def with_labels(self):
        return self.label_weight > 0

    @property
    def logged(self):
        return ("loss", "agreement")

    def chance_loss(self, global_batch):
        return None  # The teacher decides what is low.

    def notes(self, global_batch, num_images):
        softness = f"temperature {self.temperature:g}"
        return [
            *super().notes(global_batch, num_images),
            f"teacher {self.teacher.network.name}: "
            f"{self.teacher.network.count_params():,} parameters, "
            f"{'hard labels' if self.hard_labels else softness}, weight of labels "
            f"{self.label_weight:g}",
        ]

    def image_losses(self, batch, training):
        images, share = self.mixed(batch, training)
        of_class, of_teacher, logits = self._said(images, training)
        taught = self.teacher(images)
        losses = self._taught_losses(taught, of_teacher)
        if self.label_weight:
            true = self._true_losses(of_class, batch["label"], share)
            losses = (1 - self.label_weight) * losses + self.label_weight * true
        same = tf.argmax(taught, axis=1) == tf.argmax(logits, axis=1)
        return {"loss": losses, "agreement": tf.cast(same, tf.float32)}

    def _said(self, images, training):
        """Logits to learn true classes by, those for the teacher's, and what counts."""
        if not _has_token(self.encoder):
            logits = self.logits_of(images, training)
            return logits, logits, logits
        _, classifier = self.networks(training)
        layer = classifier.layers[-1]
        both = layer.both(self.features_of(images, training))
        return *both, layer.mean(*both)

    def _taught_losses(self, taught, logits):
        """The loss of each image by what the teacher says, float32 `(batch,)`."""
        if self.hard_labels:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(
                tf.argmax(taught, axis=1), tf.cast(logits, tf.float32)
            )
        return soft_targets.distillation(taught, logits, temperature=self.temperature)

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
    if given["hard_labels"] and given["temperature"] != 1:
        raise ValueError(
            f"temperature={given['temperature']} received with hard_labels=True, which "
            "know no temperature; leave one of them out."
        )
    _, shape = teacher.asked_for()
    if len(shape) != 2 or shape[-1] != count:
        raise ValueError(
            f"The teacher {teacher.network.name!r} gives {shape}, expected logits of "
            f"{count} classes, (batch, {count}); give one that tells these classes "
            "apart."
        )


def _check_labels(weight, given):
    for name, value in given.items():
        if value and not weight:
            raise ValueError(
                f"{name}={value} received with label_weight={weight}, with which "
                "nothing is learned from labels; give label_weight as well, or leave "
                f"{name} out."
            )


def _has_token(encoder):
    return isinstance(encoder, models.ViT) and encoder.settings["distillation_token"]


def _check_token(encoder, label_weight):
    if _has_token(encoder) and not label_weight:
        raise ValueError(
            f"label_weight={label_weight} received with the student {encoder.name!r}, "
            "whose class token learns from true labels alone; give label_weight=0.5, "
            "as DeiT does, or a student without distillation_token."
        )
