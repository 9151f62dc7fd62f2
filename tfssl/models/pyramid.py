"""A pyramid of feature maps, and a head on it that judges every pixel."""

import keras
from keras import layers, ops

from tfssl import checks
from tfssl.models import encoders, feature_maps

_LEVELS = 4
# Blocks of a transformer, as shares of its depth: the 4th, 6th, 8th and 12th of 12.
_SHARES = (1 / 3, 1 / 2, 2 / 3, 1)
_GROUP = 16  # Channels that are normalised together.


def maps(network, image_shape, *, features=False):
    """The feature maps of an encoder that a head is put on.

    Of every size the last stage, of the four smallest sizes: `res2` to `res5` of a
    ResNet. Where all stages have one size, as in a transformer, those behind a third,
    half, two thirds and all of its blocks.

    Args:
        network: a functional Keras model with `stage_outputs`.
        image_shape: `(height, width, channels)`, all known.
        features: whether the model gives the network's own output, too, first.

    Returns:
        Keras model, images -> list of `(batch, rows, columns, channels)`, the finest
        first. It shares the layers of the network.

    Raises:
        ValueError: for a network without stages, or images that it does not take.
    """
    stages = list(feature_maps.stages_of(network).values())
    encoders.check_images(network, *image_shape[:2])
    # For images of one size, so that all maps have one.
    sized = keras.models.clone_model(
        keras.Model(network.inputs[0], [network.outputs[0], *stages]),
        input_tensors=keras.Input(image_shape),
        clone_function=lambda layer: layer,
    )
    own, *stages = sized.outputs
    chosen = _chosen(stages)
    return keras.Model(
        sized.inputs[0], [own, *chosen] if features else chosen, name="maps"
    )


def _chosen(stages):
    sizes = [tuple(stage.shape[1:3]) for stage in stages]
    if len(set(sizes)) > 1:
        last = dict(zip(sizes, stages))
        return list(last.values())[-_LEVELS:]
    blocks = stages[1:] or stages  # The first is what comes before the blocks.
    return [blocks[max(1, round(share * len(blocks))) - 1] for share in _SHARES]


def head(shapes, outputs, size, *, width=128, dtype=None, name="head"):
    """Builds a small feature pyramid network that gives numbers for every pixel.

    Every map becomes `width` channels by a 1x1 convolution and gets the sum of the next
    coarser one, enlarged. A 3x3 convolution, a norm and GELU follow on each level; all
    are enlarged to the finest and added up, a 1x1 convolution gives the outputs, and
    these are enlarged to the pixels. Enlarging is bilinear.

    Maps of one size first become a pyramid, 4 and 2 times finer by transposed
    convolutions, as they are, and half as fine by a max-pool, as BEiT's do.

    Args:
        shapes: list of `(rows, columns, channels)` of the maps, the finest first.
        outputs: int, numbers for a pixel.
        size: `(height, width)` of the pixels.
        width: int, channels of the pyramid, a multiple of 16.
        dtype: Keras dtype policy; None is the global one.
        name: name of the model.

    Returns:
        Keras model, list of maps -> `(batch, height, width, outputs)`, float32 under
        mixed precision too.

    Raises:
        ValueError: for a width that is no multiple of 16.

    Reference:
        Kirillov et al., 2019, https://arxiv.org/abs/1901.02446 (Panoptic FPN, section
        3.2), and Bao et al., 2022, https://arxiv.org/abs/2106.08254, whose
        segmentation has UPerNet on these four levels. Differences: one convolution a
        level, whatever its size; GELU; group norm of 16 channels a group.
    """
    checks.whole({"width": width}, "width")
    if width % _GROUP:
        raise checks.refused("width", width, f"a multiple of {_GROUP}")
    parts = _Parts(keras.dtype_policies.get(dtype), width)
    inputs = [keras.Input(shape, name=f"map_{i}") for i, shape in enumerate(shapes)]
    levels = inputs
    if len(inputs) == _LEVELS and len({tuple(shape[:2]) for shape in shapes}) == 1:
        levels = parts.spread(inputs)
    finest = levels[0].shape[1:3]
    x, judged = None, []
    for number, level in reversed(list(enumerate(levels))):
        lateral = parts.convolution(level, 1, f"lateral_{number}")
        if x is None:
            x = lateral
        else:
            coarser = parts.resized(x, lateral.shape[1:3], f"from_{number + 1}")
            x = parts.sum([lateral, coarser], f"level_{number}")
        said = parts.convolution(x, 3, f"judge_{number}", use_bias=False)
        said = parts.normalised(said, f"judge_{number}")
        judged.append(parts.resized(said, finest, f"judged_{number}"))
    x = parts.sum(judged, "judged") if len(judged) > 1 else judged[0]
    wide = "float64" if parts.policy.compute_dtype == "float64" else "float32"
    x = layers.Conv2D(
        outputs,
        1,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        dtype=wide,
        name="outputs",
    )(x)
    pixels = Resized(size, dtype=wide, name="pixels")(x)
    return keras.Model(inputs, pixels, name=name)


class _Parts:
    """The layers of a head."""

    def __init__(self, policy, width):
        self.policy = policy
        self.width = width

    def spread(self, same):
        """Maps of one size as a pyramid of four."""
        finest, fine, as_it_is, coarse = same
        finest = self.enlarged(finest, "finest_1")
        finest = self.enlarged(self.normalised(finest, "finest"), "finest_2")
        if min(coarse.shape[1:3]) > 1:
            pool = layers.MaxPooling2D(2, dtype=self.policy, name="coarse")
            coarse = pool(coarse)
        return [finest, self.enlarged(fine, "fine"), as_it_is, coarse]

    def enlarged(self, x, name):
        """Twice as many rows and columns, learned."""
        return layers.Conv2DTranspose(
            self.width, 2, strides=2, dtype=self.policy, name=name
        )(x)

    def convolution(self, x, kernel, name, **options):
        return layers.Conv2D(
            self.width, kernel, padding="same", dtype=self.policy, name=name, **options
        )(x)

    def normalised(self, x, name):
        x = layers.GroupNormalization(
            self.width // _GROUP, dtype=self.policy, name=f"{name}_norm"
        )(x)
        return layers.Activation("gelu", dtype=self.policy, name=f"{name}_gelu")(x)

    def resized(self, x, size, name):
        return Resized(size, dtype=self.policy, name=name)(x)

    def sum(self, maps, name):
        return layers.Add(dtype=self.policy, name=name)(maps)


@keras.saving.register_keras_serializable(package="tfssl")
class Resized(layers.Layer):
    """Maps in other rows and columns, bilinear (`feature_maps.resized`).

    Args:
        size: `(rows, columns)`.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, found):
        """`(batch, rows, columns, channels)`, of known rows and columns."""
        return ops.cast(feature_maps.resized(found, self.size), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.size, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "size": list(self.size)}
