"""Where a patch of an image is: what a vision transformer is told of it.

Everything here takes grids of any size, and is computed from static shapes: XLA
compiles it, and one network takes crops of several sizes.
"""

import math

import keras
import numpy as np
from keras import ops

from tfssl.models import feature_maps

KINDS = ("learned", "sincos", "none")
RELATIVE = ("none", "shared", "blocks")
_WAVELENGTH = 10_000.0


def _cubic(x):
    """Keys' kernel, a = -0.5, as PIL's bicubic filter has it."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _weights(places, length):
    """float32 `(n, length)`: the weight of each of `length` values at each place."""
    weights = _cubic(np.asarray(places)[:, None] - np.arange(length))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def offset_weights(side, number):
    """Weights `(2 number - 1, 2 side - 1)` between tables of offsets along a side.

    An offset by one patch stays one by one patch, since patches keep their size when
    an image is larger: the old offsets are laid out at distances that grow
    geometrically to the new largest one, and values between them are bicubic.

    Args:
        side: int, patches of a side that the table has the offsets of.
        number: int, patches of a side now.

    Returns:
        float32 array.

    Reference:
        The finetuning code of BEiT (microsoft/unilm), which has SciPy's splines at the
        same places.
    """
    offsets = np.arange(1 - number, number)
    if side == number or side == 1:
        return _weights(np.clip(offsets, 1 - side, side - 1) + side - 1, 2 * side - 1)
    if number == 1 or side == 2:
        found = np.abs(offsets) * ((side - 1) / max(number - 1, 1))
    else:
        ratio = _ratio(side - 1, number - 1)
        found = np.log1p(np.abs(offsets) * (ratio - 1)) / np.log(ratio)
    return _weights(np.sign(offsets) * found + side - 1, 2 * side - 1)


def _ratio(count, total):
    """q, not 1, of `1 + q + … + q^(count - 1) = total`, by halving."""
    low, high = (1e-6, 1.0) if total < count else (1.0, float(total))
    for _ in range(100):
        middle = (low + high) / 2
        if sum(middle**k for k in range(count)) < total:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _bicubic(side, number):
    return feature_maps.resize_weights(side, number, "bicubic")


def _resampled(table, grid, size, weights):
    """A table for a grid as one for another, float32.

    `weights`: function of a side before and now, `offset_weights` or its like.
    """
    table = ops.cast(table, "float32")
    for axis, (side, number) in enumerate(zip(grid, size)):
        if side != number:
            along = ops.tensordot(weights(side, number), table, axes=(1, axis))
            table = ops.moveaxis(along, 0, axis)
    return table


def sine_cosine(rows, columns, dim):
    """Fixed positions of a grid: float32 `(rows, columns, dim)`.

    A quarter of the numbers each: sines and cosines of the column, then of the row, at
    `dim / 4` frequencies from 1 to 1 / 10,000.

    Reference:
        Chen et al., 2021, https://arxiv.org/abs/2104.02057. Their code names the first
        half after the column and gives it the row; that is the transpose of this.
    """
    frequencies = _WAVELENGTH ** (-np.arange(dim // 4) / (dim // 4))

    def waves(count):
        angles = np.arange(count)[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    across = np.broadcast_to(waves(columns), (rows, columns, dim // 2))
    down = np.broadcast_to(waves(rows)[:, None], (rows, columns, dim // 2))
    return np.concatenate([across, down], axis=2).astype(np.float32)


@keras.saving.register_keras_serializable(package="tfssl")
class Tokens(keras.layers.Layer):
    """A map of patches to a row of tokens that know their places.

    Args:
        grid: `(rows, columns)` that learned positions are for. A map of another size
            gets them resized (bicubic, antialiased).
        positions: `"learned"`, added; `"sincos"`, fixed ones, added; or `"none"`.
        class_token: whether a learned token without a place comes first.
        class_std: float, the standard deviation that it starts with.
        distillation_token: whether another one comes behind it.
        relative: whether attention has a `RelativeBias` for this grid, which knows of
            another map only the number of its patches.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self,
        grid,
        *,
        positions="learned",
        class_token=True,
        class_std=0.02,
        distillation_token=False,
        relative=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.grid = tuple(grid)
        self.positions = positions
        self.class_token = class_token
        self.class_std = class_std
        self.distillation_token = distillation_token
        self.relative = relative

    def build(self, input_shape):
        dim = input_shape[-1]
        if self.class_token:
            self.first = self._token("class_token", dim)
        if self.distillation_token:
            self.second = self._token("distillation_token", dim)
        if self.positions == "learned":
            self.table = self.add_weight(
                name="positions",
                shape=(*self.grid, dim),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
            )

    def _token(self, name, dim):
        start = keras.initializers.RandomNormal(stddev=self.class_std)
        return self.add_weight(name=name, shape=(1, 1, dim), initializer=start)

    def call(self, maps):
        """`(batch, rows, columns, dim)` -> `(batch, tokens, dim)`.

        Raises:
            ValueError: for positions of a map of unknown size, and relative ones of a
                map that they would be misread for.
        """
        _, rows, columns, dim = maps.shape
        unknown = rows is None or columns is None
        if self.relative and not unknown:
            check_relative(self.grid, (rows, columns))
        count = ops.shape(maps)[1] * ops.shape(maps)[2] if unknown else rows * columns
        x = ops.reshape(maps, (-1, count, dim))
        if self.positions != "none":
            if unknown:
                raise ValueError(
                    f"Patches of unknown size received ({tuple(maps.shape)}), whose "
                    "positions cannot be interpolated; give images of a known size."
                )
            places = ops.reshape(self._places(rows, columns, dim), (1, -1, dim))
            x = x + ops.cast(places, x.dtype)
        if self.distillation_token:
            x = _behind(self.second, x)
        if self.class_token:
            x = _behind(self.first, x)
        return x

    def _places(self, rows, columns, dim):
        if self.positions == "sincos":
            return ops.convert_to_tensor(sine_cosine(rows, columns, dim))
        return _resampled(self.table, self.grid, (rows, columns), _bicubic)

    def compute_output_shape(self, input_shape):
        batch, rows, columns, dim = input_shape
        if rows is None or columns is None:
            return (batch, None, dim)
        own = int(self.class_token) + int(self.distillation_token)
        return (batch, rows * columns + own, dim)

    def get_config(self):
        return {
            **super().get_config(),
            "grid": self.grid,
            "positions": self.positions,
            "class_token": self.class_token,
            "class_std": self.class_std,
            "distillation_token": self.distillation_token,
            "relative": self.relative,
        }


def check_relative(table, grid):
    """Raises `ValueError` for a grid that relative positions are not made for.

    Args:
        table: `(rows, columns)` of their table.
        grid: `(rows, columns)` of an image's patches.
    """
    (rows, columns), patches = grid, math.prod(grid)
    if grid == tuple(table) or (rows == columns and patches != math.prod(table)):
        return
    raise ValueError(
        f"{rows} x {columns} patches received by relative positions of {table[0]} x "
        f"{table[1]} patches, which are interpolated to squares of another number of "
        "patches only; give square images, or some of that grid."
    )


def _behind(token, x):
    """Tokens `(batch, tokens, dim)` behind one that all images have."""
    first = ops.cast(token, x.dtype)
    first = ops.broadcast_to(first, (ops.shape(x)[0], 1, x.shape[-1]))
    return ops.concatenate([first, x], axis=1)


@keras.saving.register_keras_serializable(package="tfssl")
class RelativeBias(keras.layers.Layer):
    """What attention adds for how far two patches are apart, a number per head.

    Args:
        grid: `(rows, columns)` that the table is for. Another grid, which has to be
            square, gets it interpolated, see `offset_weights`.
        heads: int, heads of the attention.
        class_token: whether the first token is none of the patches. It has three
            numbers per head: for itself, as seen by patches, and for how it sees them.
        **kwargs: of `keras.layers.Layer`.

    Reference:
        Bao et al., 2022, https://arxiv.org/abs/2106.08254 (microsoft/unilm, beit).
    """

    def __init__(self, grid, heads, *, class_token=True, **kwargs):
        super().__init__(**kwargs)
        self.grid = tuple(grid)
        self.heads = heads
        self.class_token = class_token

    def build(self, input_shape=None):
        rows, columns = (2 * side - 1 for side in self.grid)
        self.table = self.add_weight(
            name="offsets", shape=(rows, columns, self.heads), initializer="zeros"
        )
        if self.class_token:
            self.of_class = self.add_weight(
                name="class_offsets", shape=(3, self.heads), initializer="zeros"
            )
        self.built = True

    def bias(self, tokens):
        """float32 `(1, heads, tokens, tokens)`: added to the scores of attention.

        Args:
            tokens: int, how many there are.

        Raises:
            ValueError: for a number of tokens that is no grid.
        """
        rows, columns = self._grid_of(tokens)
        table = _resampled(self.table, self.grid, (rows, columns), offset_weights)
        bias = ops.take(
            ops.reshape(table, (-1, self.heads)), _pairs(rows, columns), axis=0
        )
        if self.class_token:
            itself, seen, sees = ops.unstack(ops.cast(self.of_class, "float32"), 3)
            patches = rows * columns
            left = ops.broadcast_to(seen, (patches, 1, self.heads))
            top = ops.broadcast_to(sees, (1, patches, self.heads))
            corner = ops.reshape(itself, (1, 1, self.heads))
            bias = ops.concatenate(
                [
                    ops.concatenate([corner, top], axis=1),
                    ops.concatenate([left, bias], axis=1),
                ],
                axis=0,
            )
        return ops.transpose(bias, (2, 0, 1))[None]

    def _grid_of(self, tokens):
        patches = None if tokens is None else tokens - int(self.class_token)
        if patches == math.prod(self.grid):
            return self.grid
        side = math.isqrt(patches or 0)
        if not patches or side * side != patches:
            raise ValueError(
                f"{patches or 'An unknown number of'} patches received by relative "
                f"positions of {self.grid[0]} x {self.grid[1]} patches, which cannot "
                "be interpolated to a grid that is not square; give square images of "
                "a known size."
            )
        return side, side

    def get_config(self):
        return {
            **super().get_config(),
            "grid": self.grid,
            "heads": self.heads,
            "class_token": self.class_token,
        }


def _pairs(rows, columns):
    """int32 `(patches, patches)`: the row of the flat table for patch i seeing j."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    down = row[:, None] - row + rows - 1
    right = column[:, None] - column + columns - 1
    return (down * (2 * columns - 1) + right).astype(np.int32)
