"""Linear and MLP classifiers trained side by side: many penalties, one pass."""

import math

import numpy as np
import tensorflow as tf

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class Networks:
    """`H` classifiers of the same features, each with its own penalty.

    Each is `units` ReLU layers and a linear one, or a linear one alone. The loss of
    one is `mean cross-entropy + l2 / 2 * sum(kernels ** 2)`; biases are free. Adam
    with betas 0.9 and 0.999; the rate of a layer is `rate / sqrt(its inputs)`, so that
    one rate serves 64 features and 10,000. Hidden kernels start normal with variance
    `2 / inputs`, the last one and the biases at zero.

    Args:
        l2s: float `(H,)`.
        dim: features.
        units: ints, sizes of the hidden layers.
        num_classes: int >= 2.
        rate: float, see above.
        seed: int, of the hidden kernels. All networks start alike.
    """

    def __init__(self, l2s, dim, units, num_classes, *, rate, seed=0):
        self.l2s = np.asarray(l2s, np.float32)
        sizes = (dim, *units, num_classes)
        self.variables, self._rates = [], []
        for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
            kernel = tf.zeros([len(l2s), inputs, outputs])
            if i < len(units):
                kernel += tf.random.stateless_normal(
                    [1, inputs, outputs], [seed, i], stddev=math.sqrt(2 / inputs)
                )
            bias = tf.zeros([len(l2s), 1, outputs])
            self.variables += [tf.Variable(kernel), tf.Variable(bias)]
            self._rates += 2 * [rate / math.sqrt(inputs)]
        self._slots = [
            [tf.Variable(tf.zeros_like(variable)) for _ in range(2)]
            for variable in self.variables
        ]

    def logits(self, x):
        """`(rows, dim)` -> `(H, rows, classes)`."""
        x = x[tf.newaxis]
        for i in range(0, len(self.variables), 2):
            x = tf.nn.relu(x) if i else x
            kernel, bias = self.variables[i : i + 2]
            x = tf.matmul(x, kernel) + bias
        return x

    def cross_entropy(self, x, labels):
        """`(rows, dim)` and int `(rows,)` -> the loss of each row, `(H, rows)`."""
        logits = self.logits(x)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            tf.broadcast_to(labels, tf.shape(logits)[:2]), logits
        )

    def loss(self, x, labels):
        """The loss with its penalty of each network, `(H,)`."""
        penalty = tf.add_n(
            [tf.reduce_sum(tf.square(k), [1, 2]) for k in self.variables[::2]]
        )
        mean = tf.reduce_mean(self.cross_entropy(x, labels), axis=1)
        return mean + self.l2s / 2 * penalty

    def update(self, x, labels, step, factor):
        """One step of Adam for all networks.

        Args:
            x: float32 `(batch, dim)`.
            labels: int `(batch,)` in `[0, num_classes)`.
            step: float scalar, how many updates this makes.
            factor: float scalar, what the schedule makes of the rates.
        """
        with tf.GradientTape() as tape:
            # No network has a part in another's loss: the sum gives each its own.
            loss = tf.reduce_sum(self.loss(x, labels))
        gradients = tape.gradient(loss, self.variables)
        for variable, slots, rate, gradient in zip(
            self.variables, self._slots, self._rates, gradients
        ):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=slots[0].handle,
                v=slots[1].handle,
                beta1_power=tf.pow(_BETAS[0], step),
                beta2_power=tf.pow(_BETAS[1], step),
                lr=rate * factor,
                beta1=_BETAS[0],
                beta2=_BETAS[1],
                epsilon=_EPSILON,
                grad=gradient,
            )
