"""Batch normalization on the fused TensorFlow kernel, with a choice of statistics.

Keras 3 computes batch normalization from separate operations; TensorFlow has one
kernel for it, three to five times as fast. A training step of ResNet-50 on a CPU
becomes 1.2 (float32) to 2 (bfloat16) times as fast (`benchmarks/train_step.py`).
This layer calls the kernel and keeps Keras's meaning of every argument.
"""

import keras
import tensorflow as tf
from keras import ops

from tfssl import internals, replicas

_STATISTICS = ("local", "global", "split", "shuffle")
# What encoders call it -> `statistics` of `BatchNorm`.
STATISTICS = {"batch": "local", "batch_global": "global", "batch_split": "split"}
_FUSED_DTYPES = ("float16", "bfloat16", "float32")


def _fused_training(x, gamma, beta, epsilon):
    """Normalizes `(batch, h, w, c)` by its own moments.

    Returns the output in the dtype of `x`, and float32 mean and biased variance.
    """
    fused = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=epsilon,
        is_training=True,
    )
    # The kernel returns the unbiased variance n / (n - 1) * biased; Keras's
    # moving variance is the biased one.
    count = tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)
    variance = fused.batch_variance * (tf.maximum(count - 1, 1) / count)
    return fused.y, fused.batch_mean, variance


def _fused_inference(x, gamma, beta, mean, variance, epsilon):
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    ).y


def _combine_moments(mean, variance):
    """Moments of the union of all replicas' equally large batches."""
    gathered, _ = replicas.gather_rows(tf.stack([mean, variance])[tf.newaxis])
    means, variances = gathered[:, 0], gathered[:, 1]  # Each (replicas, c).
    total = tf.reduce_mean(means, axis=0)
    between = tf.reduce_mean(tf.square(means - total), axis=0)
    return total, tf.reduce_mean(variances, axis=0) + between


def _fused_global_training(x, gamma, beta, epsilon):
    """`_fused_training` with the moments of the batch of all replicas.

    The kernel has no gradient towards given moments, so the gradient is written
    here: with `n` the count over all replicas and `u` the normalized input,
    `dx = gamma / std * (dy - sum(dy) / n - u * sum(dy * u) / n)`, both sums over
    all replicas. The gradients of `gamma` and `beta` stay local: the optimizer
    sums them.
    """

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        _, mean, variance = _fused_training(x, gamma, beta, epsilon)
        mean, variance = _combine_moments(mean, variance)
        y = _fused_inference(x, gamma, beta, mean, variance, epsilon)

        def gradient(dy, *unused_moments):
            local = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros([0]),
                epsilon=epsilon,
                is_training=False,
            )
            dgamma, dbeta = local.scale_backprop, local.offset_backprop
            count = tf.cast(tf.size(x) // tf.shape(x)[-1], tf.float32)
            sums = replicas.mean_over_replicas(tf.stack([dgamma, dbeta])) / count
            inverse = tf.math.rsqrt(variance + epsilon)
            through_moments = (
                sums[0] * inverse * (tf.cast(x, tf.float32) - mean) + sums[1]
            ) * (gamma * inverse)
            dx = tf.cast(local.x_backprop, tf.float32) - through_moments
            return tf.cast(dx, x.dtype), dgamma, dbeta

        return (y, mean, variance), gradient

    return normalize(x, gamma, beta)


def _ops_training(x, gamma, beta, epsilon, over_replicas):
    """The training form in Keras operations, for any backend and float64."""
    wide = ops.cast(x, gamma.dtype)
    axes = tuple(range(len(x.shape) - 1))
    mean = ops.mean(wide, axis=axes)
    variance = ops.mean(ops.square(wide - mean), axis=axes)
    if over_replicas:
        mean, variance = _combine_moments(mean, variance)
    y = _ops_inference(x, gamma, beta, mean, variance, epsilon)
    return y, mean, variance


def _ops_inference(x, gamma, beta, mean, variance, epsilon):
    wide = ops.cast(x, gamma.dtype)
    y = (wide - mean) * (gamma * ops.rsqrt(variance + epsilon)) + beta
    return ops.cast(y, x.dtype)


def _grouped_training(x, gamma, beta, epsilon, group_size, shuffled):
    """Normalizes each group of rows by its own moments, in Keras operations.

    Groups are runs of `group_size` rows of this replica; if `shuffled`, the rows of
    all replicas are dealt to the groups in turn, like cards. Only moments per row
    travel between replicas, never images or activations.

    Returns the output and the mean of the groups' means and biased variances.
    """
    wide = ops.cast(x, gamma.dtype)
    axes = tuple(range(1, len(x.shape) - 1))
    # Moments over the pixels of each row, (rows, c); a vector is its own mean.
    means = ops.mean(wide, axis=axes) if axes else wide
    centred = wide - _per_row(means, wide)
    variances = ops.mean(ops.square(centred), axis=axes) if axes else means * 0
    rows = ops.shape(x)[0]
    replica_count = replicas.num_replicas() if shuffled else 1
    offset, first = 0, (means, variances)
    if replica_count > 1:
        both, offset = replicas.gather_rows(ops.stack(first, axis=1))
        means, variances = both[:, 0], both[:, 1]
    total = rows * replica_count
    per_group = group_size or rows
    groups = ops.maximum(total // per_group, 1)
    numbers = ops.arange(total)
    group_of = numbers % groups if shuffled else numbers * groups // total
    member = ops.cast(
        ops.expand_dims(group_of, 1) == ops.expand_dims(ops.arange(groups), 0),
        gamma.dtype,
    )  # (total rows, groups)
    share = ops.transpose(member / ops.sum(member, axis=0))
    group_mean = ops.matmul(share, means)  # (groups, c)
    spread = ops.square(means - ops.matmul(member, group_mean))
    group_variance = ops.matmul(share, variances + spread)
    if replica_count > 1:
        member = member[offset : offset + rows]
    mean = ops.matmul(member, group_mean)  # Of each row's group, (rows, c).
    variance = ops.matmul(member, group_variance)
    scale = gamma * ops.rsqrt(variance + epsilon)
    y = (wide - _per_row(mean, wide)) * _per_row(scale, wide) + beta
    moments = ops.mean(group_mean, axis=0), ops.mean(group_variance, axis=0)
    return ops.cast(y, x.dtype), *moments


def _per_row(values, like):
    """`(rows, c)` as `(rows, 1, …, 1, c)`, to be broadcast over pixels."""
    for _ in range(len(like.shape) - 2):
        values = ops.expand_dims(values, 1)
    return values


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
            `"global"`: those of the batch of all replicas (often called
            synchronized); gradients flow through the moments of all replicas.
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
        center: whether to add `beta`.
        scale: whether to multiply with `gamma`.
        gamma_initializer: Keras initializer of `gamma`; `"zeros"` makes a
            residual branch start as nothing.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Input shape:
        `(batch, …, channels)` of any rank from 2, channels last.

    Raises:
        ValueError: if an argument is out of range, the input has rank 1, or
            its last dimension is unknown.

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
        self.momentum = momentum
        self.epsilon = epsilon
        self.statistics = statistics
        self.group_size = group_size
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
        gamma, beta = ops.ones_like(mean), ops.zeros_like(mean)
        if self.scale:
            gamma = ops.convert_to_tensor(self.gamma)
        if self.center:
            beta = ops.convert_to_tensor(self.beta)
        fused = (
            keras.backend.backend() == "tensorflow"
            and kind == "float32"
            and self.compute_dtype in _FUSED_DTYPES
        )
        if not (training and self.trainable):
            infer = self._fused_inference if fused else _ops_inference
            return infer(inputs, gamma, beta, mean, variance, self.epsilon)
        if self.statistics in ("split", "shuffle"):
            train = self._grouped_training
        else:
            train = self._fused_training if fused else self._ops_training
        outputs, mean, variance = train(inputs, gamma, beta)
        self._update_moving(mean, variance)
        return outputs

    def _over_replicas(self):
        return self.statistics == "global" and replicas.num_replicas() > 1

    def _fused_training(self, inputs, gamma, beta):
        train = _fused_global_training if self._over_replicas() else _fused_training
        x, shape = _as_images(inputs)
        y, mean, variance = train(x, gamma, beta, self.epsilon)
        return _as_before(y, inputs, shape), mean, variance

    def _fused_inference(self, inputs, *args):
        x, shape = _as_images(inputs)
        return _as_before(_fused_inference(x, *args), inputs, shape)

    def _ops_training(self, inputs, gamma, beta):
        return _ops_training(inputs, gamma, beta, self.epsilon, self._over_replicas())

    def _grouped_training(self, inputs, gamma, beta):
        shuffled = self.statistics == "shuffle"
        return _grouped_training(
            inputs, gamma, beta, self.epsilon, self.group_size, shuffled
        )

    def _update_moving(self, mean, variance):
        mean, variance = ops.stop_gradient(mean), ops.stop_gradient(variance)
        of_replica = self.statistics in ("local", "split")
        if of_replica and replicas.num_replicas() > 1:
            both = replicas.mean_over_replicas(tf.stack([mean, variance]))
            mean, variance = tf.unstack(both)
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
            "center": self.center,
            "scale": self.scale,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }


def _as_images(inputs):
    """`inputs` as `(rows, h, w, c)`, the kernel's only rank, and its old shape."""
    if len(inputs.shape) == 4:
        return inputs, None
    return tf.reshape(inputs, [-1, 1, 1, inputs.shape[-1]]), tf.shape(inputs)


def _as_before(outputs, inputs, shape):
    if shape is None:
        return outputs
    return tf.ensure_shape(tf.reshape(outputs, shape), inputs.shape)
