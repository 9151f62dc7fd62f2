"""The arithmetic of batch normalization: TensorFlow's kernel and Keras's operations.

Functions of `norms.BatchNorm`: an output, and the mean and biased variance that made
it. `together` is how many neighbouring replicas share them.
"""

import tensorflow as tf
from keras import ops

from tfssl import replicas


def fused_training(x, gamma, beta, epsilon):
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


def fused_inference(x, gamma, beta, mean, variance, epsilon):
    """Normalizes `(batch, h, w, c)` by given moments."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    ).y


def _of_neighbours(values, count):
    """`values` of the `count` neighbouring replicas with this one, stacked."""
    rows, mine = replicas.gather_rows(values[tf.newaxis])
    return _neighbours(rows, mine, count)


def _neighbours(of_replicas, mine, count):
    """The `count` rows of the group of neighbours that row `mine` is one of."""
    groups = tf.reshape(of_replicas, [-1, count, *of_replicas.shape[1:]])
    return tf.gather(groups, mine // count)


def _mean_of_neighbours(values, count):
    if count == replicas.num_replicas():
        return replicas.mean_over_replicas(values)
    return tf.reduce_mean(_of_neighbours(values, count), axis=0)


def _combine_moments(mean, variance, count):
    """Moments of the union of `count` replicas' equally large batches."""
    return _union(_of_neighbours(tf.stack([mean, variance]), count))


def _union(moments):
    """Mean and variance of the union of equally large batches: `(batches, 2, c)`."""
    means, variances = moments[:, 0], moments[:, 1]
    total = tf.reduce_mean(means, axis=0)
    between = tf.reduce_mean(tf.square(means - total), axis=0)
    return total, tf.reduce_mean(variances, axis=0) + between


def fused_global_training(x, gamma, beta, epsilon, together):
    """`fused_training` with the moments of the batch of `together` replicas.

    The kernel has no gradient towards given moments, so the gradient is written
    here: with `n` the count over these replicas and `u` the normalized input,
    `dx = gamma / std * (dy - sum(dy) / n - u * sum(dy * u) / n)`, both sums over
    these replicas. The gradients of `gamma` and `beta` stay local: the optimizer
    sums them.
    """

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        _, mean, variance = fused_training(x, gamma, beta, epsilon)
        mean, variance = _combine_moments(mean, variance, together)
        y = fused_inference(x, gamma, beta, mean, variance, epsilon)

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
            sums = _mean_of_neighbours(tf.stack([dgamma, dbeta]), together) / count
            inverse = tf.math.rsqrt(variance + epsilon)
            through_moments = (
                sums[0] * inverse * (tf.cast(x, tf.float32) - mean) + sums[1]
            ) * (gamma * inverse)
            dx = tf.cast(local.x_backprop, tf.float32) - through_moments
            return tf.cast(dx, x.dtype), dgamma, dbeta

        return (y, mean, variance), gradient

    return normalize(x, gamma, beta)


def of_replica(x, kind):
    """Mean and biased variance of `(…, c)`, stacked: `(2, c)` of dtype `kind`.

    What keeps least where a compiler takes both passes: `x` and the mean alone.
    """
    axes = list(range(len(x.shape) - 1))

    @tf.custom_gradient
    def moments(x):
        wide = tf.cast(x, kind)
        mean = tf.reduce_mean(wide, axis=axes)
        variance = tf.reduce_mean(tf.square(wide - mean), axis=axes)

        def gradient(d):
            count = tf.cast(tf.size(x) // tf.shape(x)[-1], kind)
            dx = (d[0] + 2 * d[1] * (tf.cast(x, kind) - mean)) / count
            return tf.cast(dx, x.dtype)

        return tf.stack([mean, variance]), gradient

    return moments(x)


def union_of_neighbours(of_replicas, mine, count):
    """Those of the batch of `count` neighbouring replicas.

    Args:
        of_replicas: `(replicas, 2, c)`, `of_replica` of each.
        mine: int32 scalar tensor, the number of this replica.
        count: int.

    Returns:
        `(2, c)`.
    """
    return tf.stack(_union(_neighbours(of_replicas, mine, count)))


def normalized(x, moments, gamma, beta, epsilon):
    """Normalizes `(…, c)` by moments `(2, c)`, through which gradients flow.

    The same dtype comes back; of large tensors only `x` is kept for the gradient.
    """
    axes = list(range(len(x.shape) - 1))
    kind = gamma.dtype

    @tf.custom_gradient
    def normalize(x, moments, gamma, beta):
        mean, inverse = moments[0], tf.math.rsqrt(moments[1] + epsilon)
        y = (tf.cast(x, kind) - mean) * (gamma * inverse) + beta

        def gradient(dy):
            dy = tf.cast(dy, kind)
            dbeta = tf.reduce_sum(dy, axis=axes)
            dgamma = tf.reduce_sum(dy * (tf.cast(x, kind) - mean), axis=axes) * inverse
            scale = gamma * inverse
            dmoments = tf.stack([-scale * dbeta, -0.5 * scale * inverse * dgamma])
            return tf.cast(dy * scale, x.dtype), dmoments, dgamma, dbeta

        return tf.cast(y, x.dtype), gradient

    return normalize(x, moments, gamma, beta)


def ops_training(x, gamma, beta, epsilon, together):
    """The training form in Keras operations, for any backend and float64."""
    wide = ops.cast(x, gamma.dtype)
    axes = tuple(range(len(x.shape) - 1))
    mean = ops.mean(wide, axis=axes)
    variance = ops.mean(ops.square(wide - mean), axis=axes)
    if together > 1:
        mean, variance = _combine_moments(mean, variance, together)
    y = ops_inference(x, gamma, beta, mean, variance, epsilon)
    return y, mean, variance


def ops_inference(x, gamma, beta, mean, variance, epsilon):
    """Normalizes `(…, c)` by given moments in Keras operations."""
    wide = ops.cast(x, gamma.dtype)
    y = (wide - mean) * (gamma * ops.rsqrt(variance + epsilon)) + beta
    return ops.cast(y, x.dtype)


def grouped_training(x, gamma, beta, epsilon, group_size, shuffled):
    """Normalizes each group of rows by its own moments, in Keras operations.

    Groups are runs of `group_size` rows of this replica; if `shuffled`, the rows of
    all replicas are dealt to the groups in turn, like cards. Only moments per row
    travel between replicas, never images or activations.

    Returns the output and the mean of the groups' means and biased variances.
    """
    moments, rows = of_rows(x, gamma.dtype), ops.shape(x)[0]
    everywhere = shuffled and replicas.num_replicas() > 1
    if everywhere:
        moments, first = replicas.gather_rows(moments)
    of_groups, *means = dealt(moments, group_size or rows, shuffled)
    if everywhere:
        of_groups = of_groups[first : first + rows]
    return rows_normalized(x, of_groups, gamma, beta, epsilon), *means


def of_rows(x, kind):
    """Mean and biased variance over the pixels of each row: `(rows, 2, c)`."""
    wide = ops.cast(x, kind)
    axes = tuple(range(1, len(x.shape) - 1))
    means = ops.mean(wide, axis=axes) if axes else wide  # A vector is its own mean.
    centred = wide - _per_row(means, wide)
    variances = ops.mean(ops.square(centred), axis=axes) if axes else means * 0
    return ops.stack([means, variances], axis=1)


def dealt(moments, group_size, shuffled):
    """Moments of each row's group, of those of the rows; see `grouped_training`.

    Args:
        moments: `(rows, 2, c)`, `of_rows`; if `shuffled` of all replicas.
        group_size: int, rows of a group.
        shuffled: bool.

    Returns:
        `(moments, mean, variance)`: `(rows, 2, c)`, and the mean of the groups' means
        and biased variances, `(c,)`.
    """
    means, variances = moments[:, 0], moments[:, 1]
    total = ops.shape(moments)[0]
    groups = ops.maximum(total // group_size, 1)
    numbers = ops.arange(total)
    group_of = numbers % groups if shuffled else numbers * groups // total
    member = ops.cast(
        ops.expand_dims(group_of, 1) == ops.expand_dims(ops.arange(groups), 0),
        moments.dtype,
    )  # (rows, groups)
    share = ops.transpose(member / ops.sum(member, axis=0))
    group_mean = ops.matmul(share, means)  # (groups, c)
    spread = ops.square(means - ops.matmul(member, group_mean))
    group_variance = ops.matmul(share, variances + spread)
    both = ops.matmul(member, group_mean), ops.matmul(member, group_variance)
    of_groups = ops.mean(group_mean, axis=0), ops.mean(group_variance, axis=0)
    return ops.stack(both, axis=1), *of_groups


def rows_normalized(x, moments, gamma, beta, epsilon):
    """Normalizes each row of `x` by its own moments, `(rows, 2, c)`."""
    wide = ops.cast(x, gamma.dtype)
    mean, scale = moments[:, 0], gamma * ops.rsqrt(moments[:, 1] + epsilon)
    y = (wide - _per_row(mean, wide)) * _per_row(scale, wide) + beta
    return ops.cast(y, x.dtype)


def _per_row(values, like):
    """`(rows, c)` as `(rows, 1, …, 1, c)`, to be broadcast over pixels."""
    for _ in range(len(like.shape) - 2):
        values = ops.expand_dims(values, 1)
    return values


def as_images(inputs):
    """`inputs` as `(rows, h, w, c)`, the kernel's only rank, and its old shape."""
    if len(inputs.shape) == 4:
        return inputs, None
    return tf.reshape(inputs, [-1, 1, 1, inputs.shape[-1]]), tf.shape(inputs)


def as_before(outputs, inputs, shape):
    """The outputs for what `as_images` gave, in the shape of the inputs."""
    if shape is None:
        return outputs
    return tf.ensure_shape(tf.reshape(outputs, shape), inputs.shape)
