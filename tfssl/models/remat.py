"""Activations that are computed again in the backward pass instead of kept.

A training step keeps what every layer put out until its gradient is taken: for wide
and deep networks on large images that is most of the memory. A network that is run
block by block keeps the input of each block only, and computes a block's inside once
more when its gradient is due (Chen et al., 2016, https://arxiv.org/abs/1604.06174).

Keras's own `RematScope` takes one layer at a time, whose input is still kept.
`keras.remat` and `tf.recompute_grad` call a function twice that changes variables, so
moving statistics would move twice, and dropout's masks would be drawn anew. Here a
block is a function of its input and the values of its variables, and what it changes
is written once.
"""

import functools

import keras
import tensorflow as tf

from tfssl import internals, pieces, replicas
from tfssl.models import freezing, passes, stretches


class Blockwise(keras.Model):
    """Base of the functional networks that can be run block by block.

    A subclass is a chain of blocks, and says where each ends.

    Attributes:
        block_ends: list of Keras tensors, the outputs of the blocks in order; all of a
            block's inside depends on its input alone. What follows the last one is
            kept as ever.
        remat: bool, whether training computes a block's inside anew for its gradient.
            It may be set at any time before the step is traced. A setting of training,
            not of the network: no config and no file has it.
    """

    block_ends = ()
    _blocks = None
    _passes = None

    def __init__(self, *args, trainable=True, **kwargs):
        super().__init__(*args, **kwargs)
        freezing.begin(self, trainable)

    @property
    def remat(self):
        return self._blocks is not None

    @remat.setter
    def remat(self, wanted):
        if not wanted:
            self._blocks = None
            return
        starts = [self.inputs[0], *self.block_ends]
        ends = [*self.block_ends, self.outputs[0]]
        blocks = [keras.Model(start, end) for start, end in zip(starts, ends)]
        for block in blocks:
            block.dtype_policy = self.dtype_policy
        # A function, not an attribute: Keras would take the blocks for further parts.
        self._blocks = lambda: blocks

    def call(self, inputs, training=None, mask=None):
        """The network, block by block where `remat` is set and it trains."""
        again = training and self.remat
        if pieces.wanted():
            meeting = passes.meeting(self) if training else ()
            if not meeting or (not again and stretches.can_be_cut(self, meeting)):
                return self._compiled(bool(training), meeting)(inputs)
        if not again:
            return super().call(inputs, training=training, mask=mask)
        *inner, last = self._blocks()
        x = inputs
        for block in inner:
            x = _recomputed(block, x)
        return last(x, training=True)

    def _compiled(self, training, meeting):
        if self._passes is None:
            self._passes = functools.cache(self._made)  # A function, as above.
        return self._passes(training, meeting)

    def _made(self, training, meeting):
        if meeting:
            return stretches.Stretches(self)
        return passes.compiled(self, training)


def switch_on(network):
    """Has a network, or what is inside of it, computed again block by block.

    Args:
        network: Keras model, one of ours or one that holds one (`Headed`).

    Raises:
        ValueError: for a network without blocks that we know.
    """
    found = [x for x in internals.layers_of(network) if isinstance(x, Blockwise)]
    if not found:
        raise ValueError(
            f"remat=True received with the encoder {network.name!r}, whose blocks are "
            "not known; take an encoder of models.ENCODERS, as 'resnet50', or leave "
            "remat out."
        )
    for part in found:
        part.remat = True


def _recomputed(block, inputs):
    """What a block makes of its inputs in training, computed again for the gradient."""
    learned = block.trainable_variables
    variables = learned + block.non_trainable_variables
    changed, as_here = [], replicas.as_here()

    def made(x, values):
        return passes.stateless(lambda: block(x, training=True), variables, values)

    @tf.custom_gradient
    def output_and_changes(x, *values):
        y, changes = made(x, values)
        changed.extend(variables[place] for place in changes)

        def gradient(dy, *_):
            sources = [_behind(dy, x), *values[: len(learned)]]
            with as_here(), tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                again, _ = made(sources[0], values)
            found = tape.gradient(again, sources, output_gradients=dy)
            return *found, *[None] * (len(values) - len(learned))

        return (y, *changes.values()), gradient

    y, *changes = output_and_changes(inputs, *map(tf.convert_to_tensor, variables))
    for variable, value in zip(changed, changes, strict=True):
        variable.assign(value)
    return y


def _behind(dy, x):
    """`x`, which is not there before `dy` is.

    Else the block would be computed again at once, or its first computation taken for
    the second. XLA knows no control dependencies, so that it has to be a sum, of a zero
    that no compiler can know: of NaN it is NaN.
    """
    first = tf.reshape(dy, [-1])[:1]
    zero = tf.reduce_sum(tf.minimum(tf.abs(first), 0))
    return x + tf.cast(zero, x.dtype)
