"""Heads that methods put on an encoder: projectors and predictors.

A head is scaffolding: it is trained with the encoder, kept in the same file of a run,
and left out of the export. Its first layers can go along, see `first_layers`.
"""

import keras
from keras import ops

from tfssl.models import norms

# The default of PyTorch's linear layers: uniform up to 1 / sqrt(fan_in).
UNIFORM_FAN_IN = {
    "class_name": "VarianceScaling",
    "config": {"scale": 1 / 3, "mode": "fan_in", "distribution": "uniform"},
}
_LAST_NORMS = {
    "none": None,
    "batch": {"center": True, "scale": True},
    "batch_no_offset": {"center": False, "scale": True},
    "batch_no_affine": {"center": False, "scale": False},
}


def mlp(
    input_dim,
    dims,
    *,
    hidden_norm=True,
    activation="relu",
    last_norm="none",
    hidden_bias=None,
    last_bias=None,
    kernel_initializer=None,
    norm_statistics="local",
    norm_replica_groups=1,
    dtype=None,
    name="mlp",
):
    """Builds dense layers with normalization and ReLU between them.

    Each entry of `dims` but the last gives dense, batch norm, ReLU; the last
    gives dense and `last_norm`, without ReLU. All variables exist when the
    function returns. Layers are called `hidden_0_dense`, `hidden_0_norm`,
    `hidden_0_relu` (by their activation), …, `last_dense`, `last_norm`.

    Args:
        input_dim: int > 0, the width of the encoder's features.
        dims: ints > 0, the width of every layer, last one included: SimCLR v1 on
            a ResNet-50 is `(2048, 128)`, SimCLR v2 `(2048, 2048, 128)`.
        hidden_norm: whether hidden layers have a batch norm.
        activation: of the hidden layers, `"relu"` or `"gelu"` (DINO).
        last_norm: the norm behind the last layer: `"none"` (BYOL, MoCo, SwAV),
            `"batch"`, `"batch_no_offset"` (SimCLR's code: scale, no offset) or
            `"batch_no_affine"` (SimSiam, MoCo v3: neither).
        hidden_bias: whether hidden dense layers have a bias. `None`: only where
            no norm follows, which would take the bias out again.
        last_bias: the same for the last dense layer.
        kernel_initializer: name of a Keras initializer of all kernels, drawn
            anew for every layer. `None`: normal with standard deviation 0.01,
            as in SimCLR's code.
        norm_statistics: `statistics` of every `norms.BatchNorm`.
        norm_replica_groups: their `replica_groups`.
        dtype: Keras dtype policy of every layer. `None`: the global policy.
        name: name of the head.

    Returns:
        A built `keras.Sequential`: `(batch, input_dim)` to `(batch, dims[-1])`.

    Raises:
        ValueError: if a width is not a positive integer, `dims` is empty, or
            `activation` or `last_norm` is unknown.
    """
    dims = tuple(dims)
    if not dims:
        raise ValueError("dims is empty; give the width of at least one layer.")
    for width in (input_dim, *dims):
        if not isinstance(width, int) or width < 1:
            raise ValueError(
                "input_dim and dims must be positive integers, got "
                f"input_dim={input_dim!r}, dims={dims!r}."
            )
    if activation not in ("relu", "gelu"):
        raise ValueError(f"activation must be 'relu' or 'gelu', got {activation!r}.")
    if last_norm not in _LAST_NORMS:
        raise ValueError(
            f"last_norm must be one of {tuple(_LAST_NORMS)}, got {last_norm!r}."
        )

    def dense(width, use_bias, part):
        return keras.layers.Dense(
            width,
            use_bias=use_bias,
            # One object per layer: a shared one would repeat its values.
            kernel_initializer=kernel_initializer
            or keras.initializers.RandomNormal(stddev=0.01),
            dtype=dtype,
            name=f"{part}_dense",
        )

    def norm(part, **kwargs):
        return norms.BatchNorm(
            statistics=norm_statistics,
            replica_groups=norm_replica_groups,
            dtype=dtype,
            name=f"{part}_norm",
            **kwargs,
        )

    hidden_bias = not hidden_norm if hidden_bias is None else hidden_bias
    last_bias = last_norm == "none" if last_bias is None else last_bias
    layers = [keras.Input((input_dim,))]
    for i, width in enumerate(dims[:-1]):
        part = f"hidden_{i}"
        layers.append(dense(width, hidden_bias, part))
        if hidden_norm:
            layers.append(norm(part))
        if activation == "relu":
            layers.append(keras.layers.ReLU(dtype=dtype, name=f"{part}_relu"))
        else:
            layers.append(
                keras.layers.Activation("gelu", dtype=dtype, name=f"{part}_gelu")
            )
    layers.append(dense(dims[-1], last_bias, "last"))
    if last_norm != "none":
        layers.append(norm("last", **_LAST_NORMS[last_norm]))
    return keras.Sequential(layers, name=name)


@keras.saving.register_keras_serializable(package="tfssl")
class Cosines(keras.layers.Layer):
    """Cosines of a vector with directions that are learned, perhaps scaled.

    `g_k <v_k, z> / (|v_k| |z|)`: a dense layer without bias and with weight
    normalization, behind a division of its input by its length. In float32 under mixed
    precision too: a small temperature may follow, which enlarges rounding.

    Args:
        units: int, number of directions.
        scaled: whether the factors `g` are learned. Else they stay 1.
        **kwargs: of `keras.layers.Layer`.

    Reference:
        Salimans & Kingma, 2016, https://arxiv.org/abs/1602.07868; the last layer of
        facebookresearch/dino, `DINOHead` of vision_transformer.py, and where it starts.
    """

    def __init__(self, units, *, scaled=False, **kwargs):
        super().__init__(**{"dtype": "float32"} | kwargs)
        self.units = units
        self.scaled = scaled

    def build(self, input_shape):
        self.directions = self.add_weight(
            name="directions",
            shape=(self.units, input_shape[-1]),
            # By the length of a direction, the second axis, as PyTorch's linear layer.
            initializer=keras.initializers.RandomUniform(
                -(input_shape[-1] ** -0.5), input_shape[-1] ** -0.5
            ),
        )
        self.scales = None
        if self.scaled:
            self.scales = self.add_weight(
                name="scales", shape=(self.units,), initializer="ones"
            )

    def call(self, x):
        """`(batch, dim)` -> `(batch, units)`."""
        directions = _unit(self.directions)
        found = ops.matmul(_unit(x), ops.transpose(directions))
        return found if self.scales is None else found * self.scales

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "scaled": self.scaled}


def _unit(rows):
    """Rows divided by their length; of those shorter than 1e-6 by 1e-6."""
    square = ops.sum(ops.square(rows), axis=-1, keepdims=True)
    inverse = ops.where(square > 0, ops.rsqrt(ops.maximum(square, 1e-12)), 0.0)
    return rows * inverse


def layers_of(head):
    """The layers of a head as the papers count them.

    A layer is a dense one and all that follows it until the next: batch norm, ReLU. The
    last one has no ReLU. What comes before the first dense one belongs to the first.

    Args:
        head: a Keras model; one that is no `keras.Sequential` is a single layer.

    Returns:
        List of lists of Keras layers.
    """
    if not isinstance(head, keras.Sequential):
        return [[head]]
    found, dense = [], False
    for layer in head.layers:
        starts = isinstance(layer, keras.layers.Dense)
        if not found or (starts and dense):
            found.append([])
        dense |= starts
        found[-1].append(layer)
    return found


def first_layers(head, count, *, name=None):
    """The first layers of a head.

    Args:
        head: a Keras model, as for `layers_of`.
        count: int from 1 to the number of its layers.
        name: name of the part.

    Returns:
        `keras.Sequential`, which shares the layers of the head; its output is float32
        (float64 of a head that computes so) also in mixed precision.
    """
    layers = [layer for some in layers_of(head)[:count] for layer in some]
    wide = "float64" if layers[-1].compute_dtype == "float64" else "float32"
    layers.append(keras.layers.Activation("linear", dtype=wide, name="features"))
    return keras.Sequential(layers, name=name)


@keras.saving.register_keras_serializable(package="tfssl")
class TwoTokens(keras.layers.Layer):
    """A dense layer on each half of the features; what they say is averaged.

    The classifier of a `ViT` with a distillation token. All numbers start at zero.

    Args:
        units: int, classes.
        **kwargs: of `keras.layers.Layer`.

    Attributes:
        of_class: `keras.layers.Dense`, on the first half, the class token's.
        of_teacher: the same on the second, the distillation token's.

    Reference:
        Touvron et al., 2021, https://arxiv.org/abs/2012.12877 (facebookresearch/deit,
        models.py): the mean of the logits.
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.of_class, self.of_teacher = (
            keras.layers.Dense(
                units, kernel_initializer="zeros", dtype=self.dtype_policy, name=name
            )
            for name in ("of_class", "of_teacher")
        )

    def build(self, input_shape):
        half = (*input_shape[:-1], input_shape[-1] // 2)
        self.of_class.build(half)
        self.of_teacher.build(half)

    def both(self, features):
        """What the layers say by themselves: two tensors `(batch, units)`."""
        first, second = ops.split(features, 2, axis=-1)
        return self.of_class(first), self.of_teacher(second)

    def call(self, features):
        """`(batch, dim)` -> `(batch, units)`."""
        return self.mean(*self.both(features))

    def mean(self, of_class, of_teacher):
        """What `both` gives -> what counts."""
        return (of_class + of_teacher) / 2

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}
