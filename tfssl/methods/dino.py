"""DINO (Caron et al., 2021), https://arxiv.org/abs/2104.14294.

A student predicts, from many views of an image, what a slowly moving teacher says of
two large ones: a distribution over outputs that have no meaning beforehand. The
teacher's outputs are centred, lest one of them take all images, and sharpened, lest
they all be the same.
"""

import math

import keras
import tensorflow as tf

from tfssl import checks, ema, replicas
from tfssl.data.views import dino_recipes
from tfssl.losses import soft_targets
from tfssl.methods import base, batch_checks, multicrop
from tfssl.models import dropout, heads

_START = 0.04  # The teacher's temperature of the first epoch.
_TEACHERS = 2  # Views that the teacher sees.
# In nats: what the outputs say of which image it is. An untrained ResNet says more.
_LEAST_INFORMATION = 1e-3


@keras.saving.register_keras_serializable(package="tfssl")
class DINO(base.Method):
    """DINO: self-distillation without labels.

    Args:
        encoder: a built Keras model, images -> `(batch, dim)`, a ResNet or a vision
            transformer; for views of several sizes one that takes them all,
            `input_shape=(None, None, channels)`. Its dropout and stochastic depth are
            the student's alone.
        num_outputs: int >= 2. 65,536 on ImageNet, 60,000 for the paper's ResNet-50;
            4096 on CIFAR-10.
        temperature: float > 0, of the student.
        teacher_temperature: float > 0. Above 0.07 training becomes unstable.
        teacher_temperature_start: float > 0, that of the first epoch where it rises.
            None is 0.04.
        teacher_warmup_epochs: int >= 0, epochs in which the temperature rises linearly
            from the one to the other, epoch by epoch: 30 in the paper's runs with
            0.07. 0 for none.
        momentum: float in [0, 1], of the teacher at step 0; 0.9995 for batches of 256.
        total_steps: int, the step at which the momentum has risen to 1 along half a
            cosine; None keeps it constant. `tfssl.pretrain` fills it in.
        center_momentum: float in [0, 1], of the centre.
        freeze_epochs: float >= 0, how long the last layer stays as it starts.
        steps_per_epoch: int, what these epochs mean; `tfssl.pretrain` fills it in. May
            be None where both are 0.
        norm_last_layer: whether the last layer's scales stay 1. Without, a small
            vision transformer is better, and training less stable.
        projection_layers: int >= 1, of the head, without the last layer.
        projection_hidden: int, width of its hidden layers.
        projection_dim: int, width of the bottleneck, which the last layer compares.
        head_norm: whether hidden layers have a batch norm, as for the paper's
            ResNet-50.
        norm_statistics: of this batch norm, `"global"` as in the paper, or `"local"`.
        norm_replica_groups: int >= 1, into how many groups `"global"` divides the
            replicas, see `norms.BatchNorm`; the encoder has its own setting.
        name: optional name.

    Views: two or more, float32; the first two are of one size, none of the others is
    larger, and the teacher sees these two. The default recipe has two of 224 and eight
    of 96 pixels.

    The encoder that leaves a training is the teacher's (`product`), as in the paper;
    `embed`, and so the monitors, look at the student's.

    Metrics, in nats: `teacher_entropy`, mean entropy of the teacher's output of an
    image; `teacher_kl`, mean divergence of the student's from it; `image_information`,
    how much the teacher's outputs tell images of a global batch apart, their mutual
    information. Where this is 0 all images have one output, and the training has
    collapsed: to a constant if the entropy is low, to uniform outputs if it is near
    `ln(num_outputs)`. The collapse monitor watches it.

    Reference: facebookresearch/dino, main_dino.py. Differences: while the last layer is
    frozen its gradient moves the optimizer's moments, and only the update is undone;
    there it has no moments before. The gradient is clipped by the optimizer
    (`clipnorm`), which is per variable as there.

    Raises:
        ValueError: if an argument is out of range, or epochs are given without
            `steps_per_epoch`.
    """

    default_recipe = dino_recipes.DINO
    more_views = True
    logged = ("loss", "teacher_entropy", "teacher_kl", "image_information")

    def __init__(
        self,
        encoder,
        *,
        num_outputs=65_536,
        temperature=0.1,
        teacher_temperature=0.04,
        teacher_temperature_start=None,
        teacher_warmup_epochs=0,
        momentum=0.996,
        total_steps=None,
        center_momentum=0.9,
        freeze_epochs=1.0,
        steps_per_epoch=None,
        norm_last_layer=True,
        projection_layers=3,
        projection_hidden=2048,
        projection_dim=256,
        head_norm=False,
        norm_statistics="global",
        norm_replica_groups=1,
        name=None,
    ):
        super().__init__(
            encoder,
            name=name,
            num_outputs=num_outputs,
            temperature=temperature,
            teacher_temperature=teacher_temperature,
            teacher_temperature_start=(
                _START
                if teacher_warmup_epochs and teacher_temperature_start is None
                else teacher_temperature_start
            ),
            teacher_warmup_epochs=teacher_warmup_epochs,
            momentum=momentum,
            total_steps=total_steps,
            center_momentum=center_momentum,
            freeze_epochs=freeze_epochs,
            steps_per_epoch=steps_per_epoch,
            norm_last_layer=norm_last_layer,
            projection_layers=projection_layers,
            projection_hidden=projection_hidden,
            projection_dim=projection_dim,
            head_norm=head_norm,
            norm_statistics=norm_statistics,
            norm_replica_groups=norm_replica_groups,
        )
        self.freeze_steps = round(freeze_epochs * (steps_per_epoch or 0))
        self.projector = heads.mlp(
            self.feature_dim,
            (projection_hidden,) * (projection_layers - 1) + (projection_dim,),
            hidden_norm=head_norm,
            activation="gelu",
            hidden_bias=True,
            kernel_initializer={
                "class_name": "RandomNormal",
                "config": {"stddev": 0.02},
            },
            norm_statistics=norm_statistics,
            norm_replica_groups=norm_replica_groups,
            name="projector",
        )
        self.outputs_layer = keras.Sequential(
            [
                keras.Input((projection_dim,)),
                heads.Cosines(num_outputs, scaled=not norm_last_layer, name="cosines"),
            ],
            name="last_layer",
        )
        self.target = ema.TargetNetwork(
            self.encoder, self.projector, self.outputs_layer
        )
        dropout.switch_off(self.target)
        self.center = self.add_weight(
            name="center",
            shape=(num_outputs,),
            initializer="zeros",
            dtype="float32",
            autocast=False,
            trainable=False,
            aggregation="none",
        )

    @classmethod
    def check_settings(cls, given):
        checks.whole(given, "num_outputs", least=2)
        checks.whole(given, "projection_layers", "projection_hidden", "projection_dim")
        checks.positive(given, "temperature", "teacher_temperature")
        checks.whole(given, "teacher_warmup_epochs", least=0)
        start = given["teacher_temperature_start"]
        checks.positive(given, "teacher_temperature_start", optional=True)
        if start is not None and not given["teacher_warmup_epochs"]:
            raise ValueError(
                f"teacher_temperature_start={start} received with "
                "teacher_warmup_epochs=0, in which nothing rises; give "
                "teacher_warmup_epochs as well, or leave it out."
            )
        checks.not_negative(given, "freeze_epochs")
        checks.share(given, "center_momentum")
        checks.whole(given, "steps_per_epoch", optional=True)
        ema.check_momentum(given["momentum"], given["total_steps"])
        waits = given["freeze_epochs"] or given["teacher_warmup_epochs"]
        if waits and not given["steps_per_epoch"]:
            raise ValueError(
                f"freeze_epochs={given['freeze_epochs']:g}, "
                f"teacher_warmup_epochs={given['teacher_warmup_epochs']} received "
                "without steps_per_epoch; pass steps_per_epoch (images // batch size), "
                "or 0 epochs."
            )

    @classmethod
    def check_recipe(cls, recipe):
        super().check_recipe(recipe)
        sizes = [view.size for view in recipe]
        if sizes[0] != sizes[1] or max(sizes) > sizes[0]:
            raise ValueError(
                f"views of {', '.join(map(str, sizes))} pixels received, but the first "
                "two, which the teacher sees, must be of one size, and none larger; "
                "put the large views first."
            )

    def train_step(self, batch):
        momentum = ema.momentum_at(self.step, self.momentum, self.total_steps)
        frozen = self.step.value < self.freeze_steps
        last = self.outputs_layer.trainable_variables if self.freeze_steps else []
        before = [tf.identity(variable.value) for variable in last]
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)
        for variable, value in zip(last, before):
            variable.assign(tf.where(frozen, value, variable.value))
        self.target.update(momentum)
        self.center.assign(
            self.center_momentum * self.center.value
            + (1 - self.center_momentum) * values["mean_logits"]
        )

    def image_losses(self, batch, training):
        views = self.views(batch)
        shape = (-1, tf.shape(views[0])[0], self.num_outputs)
        features = multicrop.encode(self.encoder, views, training)
        z = self.projector(features, training=training)
        student = tf.reshape(self.outputs_layer(z), (len(views), *shape[1:]))
        large = tf.concat(views[:_TEACHERS], axis=0)
        teacher = self.target(large, training=training)
        teacher = tf.reshape(teacher, (_TEACHERS, *shape[1:]))
        losses, entropies = soft_targets.self_distillation(
            teacher,
            student,
            center=self.center.value,
            teacher_temperature=self.teacher_temperature_now(),
            temperature=self.temperature,
        )
        return {
            "loss": losses,
            "teacher_entropy": entropies,
            "teacher_kl": tf.stop_gradient(losses) - entropies,
            "image_information": self._information(teacher),
            "mean_logits": replicas.mean_over_replicas(
                tf.reduce_mean(teacher, axis=[0, 1])
            ),
        }

    def teacher_temperature_now(self):
        """The teacher's temperature of this step, a float32 scalar tensor."""
        end = tf.constant(self.teacher_temperature, tf.float32)
        if not self.teacher_warmup_epochs:
            return end
        epoch = tf.cast(self.step.value // self.steps_per_epoch, tf.float32)
        share = tf.minimum(epoch / max(self.teacher_warmup_epochs - 1, 1), 1.0)
        start = self.teacher_temperature_start
        return start + share * (end - start)

    def _information(self, teacher):
        """Of the global batch: entropy of the mean output less the mean entropy."""
        logits = (teacher[0] - self.center.value) / self.teacher_temperature_now()
        log_q = tf.nn.log_softmax(logits)
        q = tf.exp(log_q)
        means = [
            tf.reduce_mean(q, axis=0),
            tf.reduce_mean(-tf.reduce_sum(q * log_q, 1)),
        ]
        of_all, entropy = replicas.mean_of_each(means)
        return -tf.reduce_sum(tf.math.xlogy(of_all, of_all)) - entropy

    def product(self):
        """The teacher's encoder and projector."""
        encoder, projector, _ = self.target.networks
        return encoder, projector

    @property
    def head(self):
        """The projector up to the bottleneck, without the last layer."""
        return self.projector

    def collapse(self, logs):
        """Says so if the teacher has one output for all images."""
        if logs["image_information"] >= _LEAST_INFORMATION:
            return None
        entropy, most = logs["teacher_entropy"], math.log(self.num_outputs)
        uniform = entropy > most / 2
        advice = (
            "lower the teacher's temperature"
            if uniform
            else "raise the teacher's temperature, or lower center_momentum"
        )
        return (
            f"The outputs have collapsed to {'uniform' if uniform else 'constant'} "
            "ones, the same for all images: "
            f"image_information {logs['image_information']:.1e} nats (alarm below "
            f"{_LEAST_INFORMATION}), teacher_entropy {entropy:.3f} of {most:.3f}, "
            f"teacher_kl {logs['teacher_kl']:.3f}. Lower the learning rate, freeze the "
            f"last layer for longer, or {advice}."
        )

    def chance_loss(self, global_batch):
        """`ln(num_outputs)`: predictions that say nothing."""
        return math.log(self.num_outputs)

    def check_run(self, global_batch, source):
        why = "tells the images of a batch apart to see a collapse"
        batch_checks.of_several(self, global_batch, why)

    def notes(self, global_batch, num_images):
        lines = [
            f"last layer frozen for {self.freeze_steps:,} steps "
            f"({self.freeze_epochs:g} epochs)"
        ]
        if self.teacher_warmup_epochs:
            lines.append(
                f"teacher's temperature {self.teacher_temperature_start:g} to "
                f"{self.teacher_temperature:g} over {self.teacher_warmup_epochs} epochs"
            )
        return lines
