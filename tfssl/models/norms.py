"""Batch normalization on the fused TensorFlow kernel, local or over all replicas.

Keras 3 computes batch normalization from separate operations; TensorFlow has one
kernel for it, three to five times as fast. A training step of ResNet-50 on a CPU
becomes 1.2 (float32) to 2 (bfloat16) times as fast (`benchmarks/train_step.py`).
This layer calls the kernel and keeps Keras's meaning of every argument.
"""

import keras
import tensorflow as tf
from keras import ops

from tfssl import replicas

_STATISTICS = ("local", "global")
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
        statistics: `"local"`, the moments of this replica's batch, or
            `"global"`, those of the batch of all replicas (often called
            synchronized), whose gradients flow through the moments of all
            replicas. Replicas must hold equally large batches. Equal on one
            replica.
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
        With `"local"` statistics on several replicas the moving moments are the
        mean over the replicas' moments. All copies of the variables thus stay
        equal; the moving variance leaves out the variance between replicas.

    Reference:
        Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, Algorithm 1.
    """

    def __init__(
        self,
        momentum=0.9,
        epsilon=1e-5,
        statistics="local",
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
        self.momentum = momentum
        self.epsilon = epsilon
        self.statistics = statistics
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

    def _update_moving(self, mean, variance):
        mean, variance = ops.stop_gradient(mean), ops.stop_gradient(variance)
        if self.statistics == "local" and replicas.num_replicas() > 1:
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
