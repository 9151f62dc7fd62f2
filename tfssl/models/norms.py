"""Batch normalization on the fused TensorFlow kernel, with a choice of statistics.

Keras 3 computes batch normalization from separate operations; TensorFlow has one
kernel for it, three to five times as fast. A training step of ResNet-50 on a CPU
became 1.2 (float32) to 2 (bfloat16) times as fast, by `benchmarks/train_step.py` of
commit 468f09a: SGD on 16 images of 224 pixels (today `--stock_norm`). This
layer calls the kernel and keeps Keras's meaning of every argument.
"""

import keras
import tensorflow as tf
from keras import ops

from tfssl import internals, replicas
from tfssl.models import moments

_STATISTICS = ("local", "global", "split", "shuffle")
# Those that an encoder may have.
OF_ENCODERS = ("local", "global", "split")
# What files from before `norm_statistics` say in its place.
_FORMER = {
    ("norm", "batch"): "local",
    ("norm", "batch_global"): "global",
    ("norm", "batch_split"): "split",
    ("batch_norm", "local"): "local",
    ("batch_norm", "global"): "global",
}
_FUSED_DTYPES = ("float16", "bfloat16", "float32")
# What an encoder may be normalized by: its batch, each pixel of a map over the channels
# by itself, or each map as a whole.
KINDS = ("batch", "layer", "layer_map")
_EPSILON = 1e-5


def maker(kind, policy, **batch):
    """A function that makes the norms of a network: name, start of the scales -> layer.

    Args:
        kind: one of `KINDS`. Those of layers know of no other image, and have no moving
            statistics: scale and offset per channel, epsilon 1e-5.
        policy: Keras dtype policy.
        **batch: further arguments of `BatchNorm`, for `"batch"`.
    """

    def make(name, gamma_initializer="ones"):
        settings = dict(
            gamma_initializer=gamma_initializer, epsilon=_EPSILON, dtype=policy
        )
        if kind == "batch":
            return BatchNorm(**batch, **settings, name=f"{name}_bn")
        if kind == "layer":
            return keras.layers.LayerNormalization(**settings, name=f"{name}_ln")
        return keras.layers.GroupNormalization(1, **settings, name=f"{name}_ln")

    return make


def renamed(config):
    """Saved arguments, with `norm_statistics` by its name of today.

    Args:
        config: dict. In older files encoders call it `norm`, methods `batch_norm`; one
            that says `norm_statistics` is none of them.

    Returns:
        dict.
    """
    config = dict(config)
    if "norm_statistics" in config:
        return config
    for (name, value), statistics in _FORMER.items():
        if config.get(name) == value:
            del config[name]
            config["norm_statistics"] = statistics
    return config


def shuffle_statistics(model):
    """Turns the `local` and `split` norms of a model into `shuffle`, in place.

    For a key encoder, whose groups must not be those of the query encoder.

    Returns:
        list of the norms that were changed.
    """
    found = [
        layer
        for layer in internals.layers_of(model)
        if isinstance(layer, BatchNorm) and layer.statistics in ("local", "split")
    ]
    for layer in found:
        layer.statistics = "shuffle"
    return found


@keras.saving.register_keras_serializable(package="tfssl")
class BatchNorm(keras.layers.Layer):
    """Batch normalization over all axes but the last.

    Training: `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta` with the
    moments of the batch, and `moving = momentum * moving + (1 - momentum) *
    moment` for mean and (biased) variance. Inference: the same with the moving
    moments. As in Keras, the layer is in training mode only if it is called with
    `training=True` and `trainable` is true: a frozen layer uses its moving
    moments and never changes them.

    Under mixed precision the input and output have the compute dtype, while
    moments, `gamma` and `beta` stay float32. On the JAX and PyTorch backends,
    and for float64, Keras operations take the place of the kernel.

    Args:
        momentum: float in [0, 1], the share of the moving moments that is kept
            each step. 0.9 is the value of the SimCLR code (Keras: 0.99;
            PyTorch writes it as 0.1).
        epsilon: float > 0, added to the variance. 1e-5 as in PyTorch and the
            SimCLR code (Keras: 1e-3).
        statistics: whose moments normalize a row in training.
            `"local"`: those of this replica's batch.
            `"global"`: those of the batch of all replicas, or of each of
            `replica_groups` groups of them (often called synchronized); gradients
            flow through the moments of these replicas.
            `"split"`: those of a group of `group_size` neighbouring rows, as if
            each group were a device with local statistics.
            `"shuffle"`: those of a group of as many rows, dealt in turn from the
            batch of all replicas. A key encoder with it and a query encoder with
            `"split"` (or `"local"`) share no groups, so statistics do not betray
            the positive: MoCo's shuffling BN without moving images.
            Replicas must hold equally large batches.
        group_size: int >= 1, rows of a group of `"split"` and `"shuffle"`; None
            is the batch of one replica. A batch that it does not divide is cut
            into `batch // group_size` (at least 1) nearly equal groups.
        replica_groups: int >= 1, into how many groups of neighbours `"global"`
            divides the replicas, each with statistics of its own. With 64 replicas 8
            makes groups of 8, as apex with `syncbn_process_group_size=8` in SwAV's
            code; with 8 replicas or fewer each stands alone.
        center: whether to add `beta`.
        scale: whether to multiply with `gamma`.
        gamma_initializer: Keras initializer of `gamma`; `"zeros"` makes a
            residual branch start as nothing.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Input shape:
        `(batch, …, channels)` of any rank from 2, channels last.

    Raises:
        ValueError: if an argument is out of range, the input has rank 1, or
            its last dimension is unknown, or if there are more replicas than
            `replica_groups` and not a multiple of it.

    Note:
        With `"local"` statistics on several replicas, and with groups, the moving
        moments are the mean over the replicas' or groups' moments. All copies of
        the variables thus stay equal; the moving variance leaves out the variance
        between replicas or groups.

        MoCo's code permutes the key images at random at every step. Here rows
        keep their places and the groups are fixed; as the order of the images is
        random, who meets whom is random as well. A key shares its group with
        `group_size / groups` of the rows that its query met, the mean of the
        random form.

    Reference:
        Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, Algorithm 1.
        He et al., 2020, https://arxiv.org/abs/1911.05722, section 3.3 (shuffling
        BN); split statistics are those of facebookresearch/moco's CIFAR-10 demo.
    """

    def __init__(
        self,
        momentum=0.9,
        epsilon=1e-5,
        statistics="local",
        group_size=None,
        replica_groups=1,
        center=True,
        scale=True,
        gamma_initializer="ones",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {momentum}.")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be greater than 0, got {epsilon}.")
        if statistics not in _STATISTICS:
            raise ValueError(
                f"statistics must be one of {_STATISTICS}, got {statistics!r}."
            )
        if group_size is not None and group_size < 1:
            raise ValueError(
                f"group_size must be at least 1, or None for the rows of one "
                f"replica, got {group_size}."
            )
        if replica_groups < 1:
            raise ValueError(
                f"replica_groups must be at least 1, got {replica_groups}."
            )
        self.momentum = momentum
        self.epsilon = epsilon
        self.statistics = statistics
        self.group_size = group_size
        self.replica_groups = replica_groups
        self.center = center
        self.scale = scale
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        """Makes `gamma`, `beta` and the moving moments, each `(channels,)`."""
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(
                "BatchNorm needs an input (batch, …, channels) with known channels, "
                f"got shape {tuple(input_shape)}; give the model a full input shape."
            )
        self._together()
        shape = (input_shape[-1],)
        # autocast=False: statistics and scales stay float32 in mixed precision.
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_weight(
                name="gamma",
                shape=shape,
                initializer=self.gamma_initializer,
                autocast=False,
            )
        if self.center:
            self.beta = self.add_weight(
                name="beta", shape=shape, initializer="zeros", autocast=False
            )
        self.moving_mean = self.add_weight(
            name="moving_mean",
            shape=shape,
            initializer="zeros",
            trainable=False,
            autocast=False,
        )
        self.moving_variance = self.add_weight(
            name="moving_variance",
            shape=shape,
            initializer="ones",
            trainable=False,
            autocast=False,
        )

    def call(self, inputs, training=False):
        """Normalizes `inputs`; the same shape and dtype come back."""
        mean, variance = self.moving_mean, self.moving_variance
        kind = mean.dtype
        mean, variance = ops.convert_to_tensor(mean), ops.convert_to_tensor(variance)
        gamma, beta = self._scales()
        fused = (
            keras.backend.backend() == "tensorflow"
            and kind == "float32"
            and self.compute_dtype in _FUSED_DTYPES
        )
        if not (training and self.trainable):
            infer = self._fused_inference if fused else moments.ops_inference
            return infer(inputs, gamma, beta, mean, variance, self.epsilon)
        if self.statistics in ("split", "shuffle"):
            train = self._grouped_training
        else:
            train = self._fused_training if fused else self._ops_training
        outputs, mean, variance = train(inputs, gamma, beta)
        self._update_moving(mean, variance)
        return outputs

    def _scales(self):
        """`gamma` and `beta` as tensors; ones and zeros where there are none."""
        like = ops.convert_to_tensor(self.moving_mean)
        gamma, beta = ops.ones_like(like), ops.zeros_like(like)
        if self.scale:
            gamma = ops.convert_to_tensor(self.gamma)
        if self.center:
            beta = ops.convert_to_tensor(self.beta)
        return gamma, beta

    @property
    def meets_replicas(self):
        """Whether its outputs in training depend on other replicas' batches.

        Such a layer's call is also made of three parts, `own_moments`,
        `shared_moments` and `normalized`. Replicas meet between the first two, so that
        XLA can compile what is before and behind (`stretches`).
        """
        return self.statistics in ("global", "shuffle") and self.trainable

    def own_moments(self, inputs):
        """What all replicas need of this one: its means and biased variances.

        Returns:
            `(2, channels)` of `"global"`, `(rows, 2, channels)` of `"shuffle"`.
        """
        kind = self.moving_mean.dtype
        if self.statistics == "shuffle":
            return moments.of_rows(inputs, kind)
        return moments.of_replica(inputs, kind)

    def shared_moments(self, of_replicas, mine):
        """The moments that normalize this replica's inputs; moves the moving ones.

        Args:
            of_replicas: `(replicas, …)`, the `own_moments` of all.
            mine: int32 scalar tensor, the number of this replica.

        Returns:
            Tensor in the form of `own_moments`.
        """
        count = of_replicas.shape[0]
        if self.statistics == "shuffle":
            rows = tf.shape(of_replicas)[1]
            of_rows = tf.reshape(of_replicas, [-1, *of_replicas.shape[2:]])
            dealt, *means = moments.dealt(of_rows, self.group_size or rows, True)
            # Not a slice, which XLA would have to know.
            shared = tf.gather(tf.reshape(dealt, tf.shape(of_replicas)), mine)
        else:
            together = self._together(count)
            shared = moments.union_of_neighbours(of_replicas, mine, together)
            means = shared[0], shared[1]
        self._move(*means)
        return shared

    def normalized(self, inputs, shared):
        """`inputs` normalized by `shared_moments`: the same shape and dtype."""
        by_rows = self.statistics == "shuffle"
        normalize = moments.rows_normalized if by_rows else moments.normalized
        return normalize(inputs, shared, *self._scales(), self.epsilon)

    def _together(self, count=None):
        """How many replicas of `count`, this one among them, share statistics."""
        if self.statistics != "global":
            return 1
        count = replicas.num_replicas() if count is None else count
        if count > self.replica_groups and count % self.replica_groups:
            raise ValueError(
                f"replica_groups={self.replica_groups} received with {count} replicas, "
                "expected a number that divides them, or one that is not smaller."
            )
        return max(1, count // self.replica_groups)

    def _fused_training(self, inputs, gamma, beta):
        x, shape = moments.as_images(inputs)
        together = self._together()
        if together > 1:
            made = moments.fused_global_training(x, gamma, beta, self.epsilon, together)
        else:
            made = moments.fused_training(x, gamma, beta, self.epsilon)
        y, mean, variance = made
        return moments.as_before(y, inputs, shape), mean, variance

    def _fused_inference(self, inputs, *args):
        x, shape = moments.as_images(inputs)
        return moments.as_before(moments.fused_inference(x, *args), inputs, shape)

    def _ops_training(self, inputs, gamma, beta):
        return moments.ops_training(inputs, gamma, beta, self.epsilon, self._together())

    def _grouped_training(self, inputs, gamma, beta):
        shuffled = self.statistics == "shuffle"
        return moments.grouped_training(
            inputs, gamma, beta, self.epsilon, self.group_size, shuffled
        )

    def _update_moving(self, mean, variance):
        mean, variance = ops.stop_gradient(mean), ops.stop_gradient(variance)
        count = replicas.num_replicas()
        alike = self.statistics == "shuffle" or self._together() == count
        if not alike:
            both = replicas.mean_over_replicas(tf.stack([mean, variance]))
            mean, variance = tf.unstack(both)
        self._move(mean, variance)

    def _move(self, mean, variance):
        for moving, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            kept = ops.convert_to_tensor(moving) * self.momentum
            moving.assign(kept + value * (1 - self.momentum))

    def compute_output_shape(self, input_shape):
        """Same shape as the input."""
        return input_shape

    def get_config(self):
        """Every constructor argument."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "statistics": self.statistics,
            "group_size": self.group_size,
            "replica_groups": self.replica_groups,
            "center": self.center,
            "scale": self.scale,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }
