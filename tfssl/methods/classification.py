"""Classification: an encoder and a linear layer learn from labels (fine-tuning)."""

import keras
import tensorflow as tf

from tfssl import checks
from tfssl.methods import averaged, mixing
from tfssl.models import freezing


@keras.saving.register_keras_serializable(package="tfssl")
class Classification(averaged.Averaged):
    """Trains an encoder, or a part of it, to tell classes apart.

    The method of `tfssl.finetune`. A batch has the true classes beside the view:
    `"label"`, int `(batch,)`, columns of `class_names`; with `multilabel` int
    `(batch, classes)`: 1 for a class that the image is of, 0 for another, -1 where
    nobody knows, which is left out of the loss.

    The loss is the cross-entropy of the softmax of the logits, or with `multilabel` the
    mean over the known classes of that of their sigmoids. The classifier is one dense
    layer whose weights start at zero, as in SimCLRv2's commands for fine-tuning.

    Args:
        encoder: a built Keras model, images -> features `(batch, dim)`. Its layers'
            `trainable` are set by `freeze`.
        class_names: texts, by column; two or more, or one with `multilabel`.
        multilabel: whether an image may be of several classes, or of none.
        freeze: what of the encoder stays as it is, see `models.freezing.freeze`. With
            `"all"` the encoder is in inference mode as a whole, without dropout.
        layer_decay: float in (0, 1], by which the learning rate (and with it a decay
            that is multiplied by the rate) is multiplied once more for every stage from
            the encoder's end: `layer_decay ** 1` in the last stage, 1 in the
            classifier, in layers behind the stages and in what several blocks share. 1
            is the same rate for all.
        label_smoothing: float in [0, 1), the share of a label that is spread evenly
            over all classes.
        class_weights: floats > 0, one per class, by which the losses of its images are
            multiplied (with `multilabel` the loss of the class, where an image is of
            it); None for 1. The loss stays the sum over the images of a batch by their
            number.
        mixup: float >= 0, alpha of the mixup of images and labels, see `mixing`; 0 is
            none, 0.2 to 0.8 usual. The logged accuracy is that of the images' own
            labels, and stays below what it would be without.
        cutmix: the same of cutmix, 1 usual. With both a coin decides for each pair.
        averaging: float in [0, 1), momentum of a moving average of all weights and
            batch-norm statistics, which takes the place of the trained ones in
            validation, prediction and files; 0 is none. At step `t` it is at most
            `(1 + t) / (10 + t)`: a short training is not an average with its start.
        seed: int, of the mixes.
        name: optional name of the model.

    Attributes:
        classifier: `keras.Sequential`, features -> logits `(batch, classes)`, float32.
        average: `ema.TargetNetwork` of encoder and classifier, or None.

    Raises:
        ValueError: for settings that cannot work, for `freeze` or `layer_decay` where
            the encoder has no such stage.

    Reference:
        Chen et al., 2020, https://arxiv.org/abs/2002.05709, appendix B.5, and
        https://arxiv.org/abs/2006.10029, section 2 (fine-tuning). `layer_decay` is that
        of Bao et al., 2021, https://arxiv.org/abs/2106.08254 (BEiT), by stages: the
        step of a variable is multiplied, which is the same for every optimizer whose
        step is proportional to its rate.
    """

    num_views = 1
    with_labels = True
    starts_in_part = False

    def __init__(
        self,
        encoder,
        *,
        class_names,
        multilabel=False,
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
        super().__init__(
            encoder,
            name=name,
            class_names=tuple(class_names),
            multilabel=multilabel,
            freeze=freeze,
            layer_decay=layer_decay,
            label_smoothing=label_smoothing,
            class_weights=None if class_weights is None else tuple(class_weights),
            mixup=mixup,
            cutmix=cutmix,
            averaging=averaging,
            seed=seed,
        )
        self._mixing = mixing.Mixing(mixup, cutmix)
        freezing.freeze(encoder, freeze)
        depths = freezing.depths(encoder) if layer_decay != 1 else {}
        self._scales = {key: layer_decay**depth for key, depth in depths.items()}
        self.classifier = keras.Sequential(
            [keras.Input((self.feature_dim,)), self.last_layer()],
            name="classifier",
        )
        self.average_of(encoder, self.classifier)

    @classmethod
    def check_settings(cls, given):
        checks.fraction_below_one(given, "label_smoothing", "averaging")
        checks.within(given, checks.Above(0, 1), "layer_decay")
        checks.not_negative(given, "mixup", "cutmix")
        count, least = len(given["class_names"]), 1 if given["multilabel"] else 2
        if count < least:
            raise checks.refused(
                "class_names", list(given["class_names"]), f"{least} or more"
            )
        weights = given["class_weights"]
        if weights is not None and not (
            len(weights) == count and all(map(_is_weight, weights))
        ):
            raise checks.refused(
                "class_weights", list(weights), f"{count} numbers above 0, one a class"
            )

    def last_layer(self):
        """The layer that tells classes apart, not built."""
        return keras.layers.Dense(
            self.num_classes,
            kernel_initializer="zeros",
            dtype="float32",  # Under mixed precision too.
            name="logits",
        )

    @property
    def logged(self):
        return ("loss",) if self.multilabel else ("loss", "accuracy")

    @property
    def head(self):
        return self.classifier

    @property
    def num_classes(self):
        return len(self.class_names)

    def product(self):
        """The averaged networks, if there are any, all of their layers trainable."""
        networks = self.networks(training=False)
        for network in networks:
            freezing.thaw(network)
        return networks

    def chance_loss(self, global_batch):
        if self.class_weights is not None:
            return None
        return float(tf.math.log(2.0 if self.multilabel else float(self.num_classes)))

    def check_run(self, global_batch, source):
        replicas = self.distribute_strategy.num_replicas_in_sync
        if self._mixing.active and global_batch // replicas % 2:
            raise ValueError(
                f"batch_size={global_batch} received, of which each of {replicas} "
                f"replica(s) gets {global_batch // replicas} images, but mixup and "
                "cutmix mix neighbours; use an even number."
            )

    def notes(self, global_batch, num_images):
        moving = sum(int(tf.size(v.value)) for v in self.learned_variables)
        kind = (
            "classes, of which an image may be several"
            if self.multilabel
            else ("classes")
        )
        return [
            f"{self.num_classes} {kind}; freeze={self.freeze}: {moving:,} of "
            f"{self.encoder.count_params() + self.classifier.count_params():,} "
            "parameters train"
        ]

    # The loss. ---------------------------------------------------------------

    def image_losses(self, batch, training):
        images, share = self.mixed(batch, training)
        logits = self.logits_of(images, training)
        values = {"loss": self.mixed_losses(logits, batch["label"], share)}
        if not self.multilabel:
            said = tf.argmax(logits, axis=1)
            right = said == tf.cast(batch["label"], said.dtype)
            values["accuracy"] = tf.cast(right, tf.float32)
        return values

    def mixed(self, batch, training):
        """`(images, share)`: the view, and each image's share in it, None for all."""
        (images,) = self.views(batch)
        if not (training and self._mixing.active):
            return images, None
        return mixing.apply(images, self._mixing.draw(self.seed, batch["position"]))

    def logits_of(self, images, training):
        """float32 `(batch, classes)` of `networks(training)`."""
        _, classifier = self.networks(training)
        return classifier(self.features_of(images, training))

    def features_of(self, images, training):
        """`(batch, dim)` of the encoder among `networks(training)`, or a frozen one."""
        encoder, _ = self.networks(training)
        features = encoder(images, training=training and self.freeze != "all")
        return tf.stop_gradient(features) if self.freeze == "all" else features

    def mixed_losses(self, logits, labels, share):
        """`label_losses` of images, or of mixes with their neighbours."""
        losses = self.label_losses(logits, labels)
        if share is None:
            return losses
        of_partner = self.label_losses(logits, mixing.partners(labels))
        return share * losses + (1 - share) * of_partner

    def label_losses(self, logits, labels):
        """The loss of each image: float32 `(batch,)`.

        Args:
            logits: float `(batch, classes)`.
            labels: as in a batch.
        """
        logits = tf.cast(logits, tf.float32)
        smooth = self.label_smoothing
        if not self.multilabel:
            sharp = tf.one_hot(labels, self.num_classes)
            losses = tf.nn.softmax_cross_entropy_with_logits(
                labels=(1 - smooth) * sharp + smooth / self.num_classes, logits=logits
            )
            if self.class_weights is not None:
                losses *= tf.gather(tf.constant(self.class_weights), labels)
            return losses
        known = tf.cast(labels >= 0, tf.float32)
        of_class = tf.cast(labels > 0, tf.float32)
        losses = known * tf.nn.sigmoid_cross_entropy_with_logits(
            labels=(1 - smooth) * of_class + smooth / 2, logits=logits
        )
        if self.class_weights is not None:
            weights = tf.constant(self.class_weights)
            losses *= 1 + of_class * (weights - 1)
        return tf.math.divide_no_nan(
            tf.reduce_sum(losses, axis=1), tf.reduce_sum(known, axis=1)
        )

    def probabilities_of(self, logits):
        """Logits -> float32 probabilities: their sum is 1, or each is by itself."""
        logits = tf.cast(logits, tf.float32)
        return tf.sigmoid(logits) if self.multilabel else tf.nn.softmax(logits)

    def apply_gradients(self, gradients, variables):
        before = [
            (variable, tf.identity(variable.value), self._scales[id(variable)])
            for variable in variables
            if self._scales.get(id(variable), 1.0) != 1
        ]
        super().apply_gradients(gradients, variables)
        for variable, old, scale in before:
            variable.assign(old + scale * (tf.convert_to_tensor(variable.value) - old))

    # What it says of images. ------------------------------------------------

    def logits(self, images):
        """float32 `(batch, classes)` in inference mode, of the networks that leave."""
        return tf.cast(self.logits_of(images, training=False), tf.float32)


def _is_weight(value):
    return checks.is_number(value) and checks.Above(0).holds(value)
