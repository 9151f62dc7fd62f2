"""The blocks of a vision transformer: attention and two dense layers, norms first."""

import math

import keras
from keras import ops

from tfssl.models import dropout

EPSILON = 1e-6  # Of layer norm.


@ops.custom_gradient
def gelu(x):
    """`x Φ(x)`, where `Φ` is the distribution function of the normal distribution.

    In float32 also of narrower numbers, whose own operations are slower on a CPU, and
    with a gradient that keeps `x` alone of all that lies between.

    Args:
        x: floating point tensor.

    Returns:
        Tensor of the shape and dtype of `x`.

    Reference:
        Hendrycks and Gimpel, 2016, https://arxiv.org/abs/1606.08415, without their
        approximation by tanh.
    """

    def gradient(*args, upstream=None):
        # PyTorch also passes the inputs.
        upstream = args[-1] if upstream is None else upstream
        wide = _wide(x)
        density = ops.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
        slope = _distribution(wide) + wide * density
        return upstream * ops.cast(slope, x.dtype)

    wide = _wide(x)
    return ops.cast(wide * _distribution(wide), x.dtype), gradient


def _distribution(x):
    """`Φ(x)`."""
    return 0.5 * ops.erf(x * math.sqrt(0.5)) + 0.5


def _wide(x):
    dtype = keras.backend.standardize_dtype(x.dtype)
    return ops.cast(x, keras.backend.result_type(dtype, "float32"))


@keras.saving.register_keras_serializable(package="tfssl")
class Attention(keras.layers.Layer):
    """Multi-head self-attention.

    The bias of the keys, which the papers' codes have or leave out, changes nothing: it
    adds the same number to all scores of a query.

    Args:
        heads: int, divides the width.
        kernel_initializer: of the output's kernel.
        kernels_initializer: of queries, keys and values, three kernels in one.
        relative: `positions.RelativeBias`, or None.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self, heads, *, kernel_initializer, kernels_initializer, relative, **kwargs
    ):
        super().__init__(**kwargs)
        self.heads = heads
        self.relative = relative
        self._initializers = kernels_initializer, kernel_initializer

    def build(self, input_shape):
        dim = input_shape[-1]
        of_three, of_one = self._initializers
        self.qkv = keras.layers.Dense(
            3 * dim, kernel_initializer=of_three, dtype=self.dtype_policy, name="qkv"
        )
        self.projection = keras.layers.Dense(
            dim, kernel_initializer=of_one, dtype=self.dtype_policy, name="projection"
        )
        self.qkv.build(input_shape)
        self.projection.build(input_shape)
        if self.relative is not None and not self.relative.built:
            self.relative.build()

    def call(self, x):
        """`(batch, tokens, dim)` -> the same shape."""
        _, tokens, dim = x.shape
        query, key, value = self._split(x)
        bias = None if self.relative is None else self.relative.bias(tokens)
        x = ops.dot_product_attention(
            query,
            key,
            value,
            bias=None if bias is None else ops.cast(bias, query.dtype),
            scale=(dim // self.heads) ** -0.5,
        )
        return self.projection(ops.reshape(x, (-1, ops.shape(x)[1], dim)))

    def _split(self, x):
        """Queries, keys and values, each `(batch, tokens, heads, dim / heads)`."""
        dim = x.shape[-1]
        shape = (-1, ops.shape(x)[1], 3, self.heads, dim // self.heads)
        return ops.unstack(ops.reshape(self.qkv(x), shape), 3, axis=2)

    def probabilities(self, x):
        """What each token looks at: float32 `(batch, heads, tokens, tokens)`.

        Rows sum to 1. For pictures: `call` does not use it.
        """
        query, key, _ = self._split(x)
        query, key = ops.cast(query, "float32"), ops.cast(key, "float32")
        scores = ops.einsum("bqhd,bkhd->bhqk", query, key)
        scores = scores * (x.shape[-1] // self.heads) ** -0.5
        if self.relative is not None:
            scores = scores + self.relative.bias(x.shape[1])
        return ops.softmax(scores, axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="tfssl")
class Block(keras.layers.Layer):
    """`x + γ1 attention(norm(x))`, then `x + γ2 mlp(norm(x))`.

    Args:
        heads: int, of the attention.
        mlp_ratio: float, width of the hidden layer over that of the tokens.
        layer_scale: float, what γ1 and γ2 start with, one number per unit; None for
            branches without them.
        drop_path: float in [0, 1), how often an image skips a branch in training.
        inits: dict of initializers `"one"`, `"three"` (of queries, keys and values in
            one kernel) and `"last"` (of the layer that ends a branch), see `vit`.
        relative: `positions.RelativeBias`, or None.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self, heads, *, mlp_ratio, layer_scale, drop_path, inits, relative, **kwargs
    ):
        super().__init__(**kwargs)
        self.layer_scale = layer_scale
        policy = self.dtype_policy
        self.attention = Attention(
            heads,
            kernel_initializer=inits["last"](),
            kernels_initializer=inits["three"](),
            relative=relative,
            dtype=policy,
            name="attention",
        )
        self.norms = [
            keras.layers.LayerNormalization(epsilon=EPSILON, dtype=policy, name=name)
            for name in ("attention_norm", "mlp_norm")
        ]
        self.drops = [
            dropout.Dropout(
                drop_path, noise_shape=(None, 1, 1), dtype=policy, name=name
            )
            for name in ("attention_drop", "mlp_drop")
            if drop_path
        ]
        self._mlp_ratio = mlp_ratio
        self._inits = inits

    def build(self, input_shape):
        dim = input_shape[-1]
        policy = self.dtype_policy
        self.hidden = keras.layers.Dense(
            int(dim * self._mlp_ratio),
            kernel_initializer=self._inits["one"](),
            dtype=policy,
            name="hidden",
        )
        self.output_layer = keras.layers.Dense(
            dim, kernel_initializer=self._inits["last"](), dtype=policy, name="output"
        )
        for layer in (self.attention, *self.norms, self.hidden):
            layer.build(input_shape)
        self.output_layer.build((*input_shape[:-1], self.hidden.units))
        self.scales = []
        if self.layer_scale is not None:
            self.scales = [
                self.add_weight(
                    name=name,
                    shape=(dim,),
                    initializer=keras.initializers.Constant(self.layer_scale),
                )
                for name in ("attention_scale", "mlp_scale")
            ]

    def call(self, x, training=False):
        """`(batch, tokens, dim)` -> the same shape."""
        y = self.attention(self.norms[0](x))
        x = x + self._branch(y, 0, training)
        y = self.hidden(self.norms[1](x))
        y = self.output_layer(gelu(y))
        return x + self._branch(y, 1, training)

    def _branch(self, y, number, training):
        if self.scales:
            y = y * ops.cast(self.scales[number], y.dtype)
        if self.drops:
            y = self.drops[number](y, training=training)
        return y

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="tfssl")
class AsMap(keras.layers.Layer):
    """Tokens of patches as a map again; a class token in front is left out."""

    def call(self, inputs):
        """`[tokens, map]` -> the tokens of the map's places, in its shape."""
        tokens, maps = inputs
        shape = ops.shape(maps)
        patches = shape[1] * shape[2]
        return ops.reshape(tokens[:, -patches:], (*shape[:3], tokens.shape[-1]))

    def compute_output_shape(self, input_shape):
        return (*input_shape[1][:3], input_shape[0][-1])
