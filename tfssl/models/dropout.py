"""Dropout whose replicas differ."""

import keras
import tensorflow as tf

from tfssl import internals, replicas


@keras.saving.register_keras_serializable(package="tfssl")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout` with masks of its own on every replica.

    Keras draws from a seed and a counter that are the same on all replicas: rows at
    the same place of their replica's batch would lose the same units. Here the
    replica's number is folded into the seed. Seed and counter are one variable,
    among the model's `variables` and so in every checkpoint; a run that is resumed
    draws what it would have drawn. Without `seed`, it comes from Python's `random`,
    which `keras.utils.set_random_seed` seeds.

    On the JAX and PyTorch backends it is Keras's layer.

    Args:
        rate: float in [0, 1), the probability of a unit to become 0. The others are
            divided by `1 - rate`.
        seed: int, or None.
        noise_shape: tuple, the shape of the masks, 1 where units fall together, None
            where it is that of the inputs: `(None, 1, 1)` drops all of an image, the
            stochastic depth of a residual branch. None: each unit by itself.
        **kwargs: further arguments of `keras.layers.Dropout`.

    Raises:
        ValueError: if `rate` is out of range.
    """

    def __init__(self, rate, seed=None, *, noise_shape=None, **kwargs):
        if not 0 <= rate < 1:
            raise ValueError(f"dropout must be in [0, 1), got {rate!r}.")
        super().__init__(rate, seed=seed, noise_shape=noise_shape, **kwargs)

    def call(self, inputs, training=False):
        """Drops units of `inputs` if `training`; the same shape and dtype."""
        if not training or not self.rate or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training)
        seed = tf.random.experimental.stateless_fold_in(
            tf.cast(self.seed_generator.next(), tf.int32), replicas.replica_index()
        )
        # Drawn in float32: bfloat16 has too few values between 0 and 1.
        shape = tf.shape(inputs)
        if self.noise_shape is not None:
            sides = zip(tf.unstack(shape), self.noise_shape, strict=True)
            shape = tf.stack([here if n is None else n for here, n in sides])
        kept = tf.random.stateless_uniform(shape, seed) >= self.rate
        return tf.where(kept, inputs / (1 - self.rate), tf.zeros_like(inputs))


_DROPOUTS = (
    keras.layers.Dropout,  # Those of whole maps are made of it.
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
)


def switch_off(network):
    """Lets no layer of a network drop units or add noise any more, in training neither.

    For a teacher that runs in training mode, as batch norm wants it, and is not to be
    thinned like its student. Layers that augment images (`keras.layers.RandomFlip`)
    stay as they are: they make a view.

    Args:
        network: Keras layer or model.
    """
    for layer in internals.layers_of(network):
        if isinstance(layer, _DROPOUTS):
            layer.rate = 0.0
        elif isinstance(layer, keras.layers.GaussianNoise):
            layer.stddev = 0.0
