"""Context networks over a grid of features: each row knows of those above it only."""

import keras
from keras import layers


def pixel_cnn(dim, out_dim, *, blocks=5, hidden=256, dtype=None, name="context"):
    """Builds the masked network of CPC, and what it predicts of rows below.

    A block is a 1x1 convolution to `hidden` filters, ReLU, a 1x3 convolution along the
    row, a 2x1 convolution of the row and the one above it, ReLU, and a 1x1 convolution
    back to `dim`, added to the block's input. A ReLU follows the last block, then a 1x1
    convolution to `out_dim`. Above the first row are zeros; a row sees all columns of
    its own row and of as many rows above it as there are blocks.

    Args:
        dim: int, width of the features.
        out_dim: int, width of the predictions of a place.
        blocks: int >= 1.
        hidden: int, filters inside of a block.
        dtype: Keras dtype policy of every layer. None: the global policy.
        name: name of the model.

    Returns:
        A built Keras model `(batch, rows, columns, dim)` -> `(batch, rows, columns,
        out_dim)`.

    Reference:
        Hénaff et al., 2019, https://arxiv.org/abs/1905.09272, its pseudo-code.
    """

    def conv(x, filters, size, padding, part):
        return layers.Conv2D(filters, size, padding=padding, dtype=dtype, name=part)(x)

    def relu(x, part):
        return layers.ReLU(dtype=dtype, name=part)(x)

    x = features = keras.Input((None, None, dim), name="features")
    for number in range(blocks):
        part = f"block{number}"
        y = relu(conv(x, hidden, 1, "valid", f"{part}_in"), f"{part}_in_relu")
        y = conv(y, hidden, (1, 3), "same", f"{part}_row")
        # On top only: a row of zeros below would let a row see the next one.
        y = layers.ZeroPadding2D(((1, 0), (0, 0)), dtype=dtype, name=f"{part}_pad")(y)
        y = relu(conv(y, hidden, (2, 1), "valid", f"{part}_up"), f"{part}_up_relu")
        y = conv(y, dim, 1, "valid", f"{part}_out")
        x = layers.Add(dtype=dtype, name=f"{part}_add")([x, y])
    x = relu(x, "out_relu")
    return keras.Model(features, conv(x, out_dim, 1, "valid", "predict"), name=name)


def turned(grid, quarters):
    """A grid of features turned counter-clockwise by a number of quarters.

    Or an image of pixels, as `np.rot90`; by reversals, which XLA compiles to reads.

    Args:
        grid: tensor `(batch, rows, columns, …)`.
        quarters: int from 0 to 3. One brings the last column to the top.

    Returns:
        The same, turned: `(batch, columns, rows, …)` for an odd number.
    """
    if quarters % 2:
        grid = keras.ops.swapaxes(grid, 1, 2)
        return grid[:, ::-1] if quarters == 1 else grid[:, :, ::-1]
    return grid[:, ::-1, ::-1] if quarters == 2 else grid
