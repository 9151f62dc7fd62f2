"""Target networks: copies that follow the trained networks as a moving average."""

import keras
import tensorflow as tf

from tfssl import pieces
from tfssl.models import copying
from tfssl.optimizers import schedules


class TargetNetwork(keras.layers.Layer):
    """An exponential moving average of networks, applied one after the other.

    The copy has the architecture and, at first, the weights of the online
    networks. `update` moves its trainable variables; batch-norm statistics are not
    averaged unless asked for, as in MoCo's and BYOL's code: in training mode the copy
    normalizes by its own batch, and keeps moving statistics of its own. No gradient
    comes out.

    The copy stays "trainable" for Keras, since a frozen batch norm would ignore
    `training=True`; as a `follower`, which `Method.learned_variables` leaves out, no
    optimizer touches it. What of the networks is frozen when it is made stays as it is
    in the copy; `fit` refuses to train it afterwards, see `check`.

    Args:
        *networks: built Keras models, the output of one the input of the next
            (encoder, projector).
        statistics: whether `update` moves all variables of floats: for a copy that is
            called in inference mode only.
        name: optional name.

    Raises:
        ValueError: if a network cannot be copied from its config.
    """

    follower = True

    def __init__(self, *networks, statistics=False, name="target"):
        super().__init__(name=name)
        with keras.name_scope(name):
            self.networks = [
                copying.copied(network, "a target network") for network in networks
            ]
        pairs = [
            (online, target)
            for original, copied in zip(networks, self.networks)
            for online, target in zip(
                _moving(original, statistics), _moving(copied, statistics), strict=True
            )
        ]
        # Functions, not attributes: Keras would take the online networks for parts
        # of this layer.
        self._pairs = lambda: pairs
        self._online = lambda: networks
        self.built = True

    def reset(self):
        """Starts again from the online networks, statistics included.

        For weights that were loaded into the online networks after this layer was
        made.
        """
        for online, target in zip(self._online(), self.networks):
            target.set_weights(online.get_weights())

    def update(self, momentum):
        """`target = momentum * target + (1 - momentum) * online`, per variable.

        Args:
            momentum: float or float scalar tensor in [0, 1]. Papers write it `m`
                (MoCo) or `tau` (BYOL).
        """
        share = 1.0 - tf.cast(momentum, tf.float32)
        onlines, targets = zip(*self._pairs())
        values = [
            [tf.convert_to_tensor(v.value) for v in x] for x in (onlines, targets)
        ]
        moved = pieces.compiled(_moved) if pieces.wanted() else _moved
        for target, value in zip(targets, moved(*values, share)):
            target.assign(value)

    def check(self):
        """Raises `ValueError` if online variables are trained that nothing follows.

        Those were frozen when this layer was made, and its copies of them still are.
        """
        followed = {id(online) for online, _ in self._pairs()}
        for online in self._online():
            left = [v for v in online.trainable_variables if id(v) not in followed]
            if left:
                raise ValueError(
                    f"{len(left)} variables of {online.name!r} are trainable now and "
                    "were frozen when its target network was made, which would not "
                    "follow them; make the method anew from the trainable network."
                )

    def call(self, inputs, training=False):
        outputs = inputs
        with pieces.without_gradient():
            for network in self.networks:
                outputs = network(outputs, training=training)
        return tf.stop_gradient(outputs)


def _moved(onlines, targets, share):
    """The targets, by a share nearer to the online values."""
    return [
        old + tf.cast(share, old.dtype) * (tf.cast(online, old.dtype) - old)
        for online, old in zip(onlines, targets)
    ]


def _moving(network, statistics):
    if not statistics:
        return network.trainable_variables
    return [v for v in network.variables if "float" in v.dtype]


def momentum_at(step, base, total_steps=None):
    """The momentum of a step: constant, or rising to 1 along half a cosine.

    Args:
        step: int, or integer scalar tensor or variable.
        base: float in [0, 1], the momentum of step 0.
        total_steps: int, the step at which it is 1; None keeps `base`.

    Returns:
        float32 scalar tensor: `1 - (1 - base) * (cos(pi * step / total) + 1) / 2`.

    Reference:
        Grill et al., 2020, https://arxiv.org/abs/2006.07733, section 3.3.
    """
    if total_steps is None:
        return tf.constant(base, tf.float32)
    return schedules.cosine(step, base, 1.0, total_steps)


def check_momentum(momentum, total_steps):
    """Refuses what cannot be a target network's schedule."""
    if not 0 <= momentum <= 1:
        raise ValueError(
            f"momentum={momentum} received, expected a number from 0 to 1 (0.99 to "
            "0.999 in the papers)."
        )
    if total_steps is not None and total_steps < 1:
        raise ValueError(
            f"total_steps={total_steps} received, expected 1 or more, or None for a "
            "constant momentum."
        )
