"""What values an encoder takes for black and white, and how its images get there.

Views are in [0, 1], or normalised by a recipe's mean and std. Networks that bring
their own rescaling, as many of `keras.applications` do, want pixels from 0 to 255, and
pretrained weights want what they were trained on.
"""

import inspect
import sys

import keras
import numpy as np

from tfssl import internals

# Black and white are not to reach the first weights closer together than this.
_DIM = 0.1
_WHITES = (1, 255, 65535)
_NAME = "input_range"
_SIDE = 32


def white(model):
    """The value that a model takes for white, if 0 is black: 1, 255 or 65535.

    Told by the dtype of its input, and by how far apart black and white are where they
    reach the first layer with weights. A model that is no graph of layers (a subclass
    with a `call` of its own) does not tell: 1. Inside of a graph it counts as a layer.
    Nor does one with a layer of plain images: the colours behind `models.Lab` do not
    tell black from white.
    """
    if not getattr(model, "inputs", None) or _plain(model):
        return 1
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    if "int" in dtype:
        return 65535 if dtype == "uint16" else 255
    contrast = _contrast(model)
    return next((w for w in _WHITES if contrast * w >= _DIM), 1)


def _contrast(model):
    """How far apart 0 and 1 are for the first layer with weights."""
    images = np.stack([_flat(model, 0.0), _flat(model, 1.0)])
    for part in _before_weights(model):
        images = part(images)
    black, white = keras.ops.convert_to_numpy(images)
    return float(np.abs(white - black).max())


def _before_weights(model):
    """What stands before the first weights, models to call one after the other."""
    while _is_graph(model):
        # A Sequential model hides its graph.
        graph = keras.Model(model.inputs, model.outputs)
        model = next((o for o in graph.operations if _has_weights(o)), None)
        part = _up_to(graph, model)
        if part is None:
            return
        yield part


def _up_to(graph, operation):
    """The part of a graph that ends where an operation begins, None without one."""
    for node in getattr(operation, "_inbound_nodes", ()):
        try:
            return keras.Model(graph.inputs[0], node.input_tensors[0])
        except ValueError:
            continue  # It was called in another graph too.
    return None


def _is_graph(operation):
    """Whether this is a graph of layers, that can be looked into."""
    # Subclasses have layers too, and no inputs; so may layers, by a name of their own.
    return isinstance(operation, keras.Model) and bool(
        getattr(operation, "inputs", None)
    )


def _has_weights(operation):
    """Whether there are weights in it, other than fixed statistics."""
    if not isinstance(operation, keras.Layer):
        return False
    fixed = [
        id(weight)
        for layer in internals.layers_of(operation)
        if isinstance(layer, keras.layers.Normalization)
        for weight in layer.weights
    ]
    return any(id(weight) not in fixed for weight in operation.weights)


def check_plain(model, mean=0.0, std=1.0):
    """Raises `ValueError` where a layer wants plain images, and these are normalised.

    A layer says so itself: `plain_images = True`, as `models.Lab` does.

    Args:
        model: a Keras model.
        mean: per channel or one number, what images in [0, 1] are normalised by.
        std: the same.
    """
    if not np.any(mean) and np.all(np.equal(std, 1)):
        return
    for layer in _plain(model):
        raise ValueError(
            f"The layer {layer.name!r} ({type(layer).__name__}) of the encoder "
            f"{model.name!r} takes images in [0, 1], but the recipe normalises "
            f"them (mean {mean}, std {std}); take a recipe without mean and std, "
            "as cmc_lab."
        )


def _plain(model):
    """The layers that want images in [0, 1]."""
    return [x for x in internals.layers_of(model) if getattr(x, "plain_images", False)]


def with_pixels(model, white, mean=0.0, std=1.0):
    """A model of normalised images that hands pixels to the given one.

    Args:
        model: a built Keras model, images -> features, whose input is to be from 0 to
            `white`.
        white: see `white`.
        mean: per channel or one number, what images in [0, 1] were normalised by.
        std: the same.

    Returns:
        A Keras model of the same name, whose weights are those of `model`. Where
        `model` takes whole numbers, pixels are rounded to them.
    """
    images = keras.Input(model.inputs[0].shape[1:])
    x = _rescaled(images, (mean, std), (0.0, 1.0 / white))
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    if "int" in dtype:
        x = keras.ops.cast(keras.ops.round(keras.ops.clip(x, 0, white)), dtype)
    return keras.Model(images, model(x), name=model.name)


def application(builder, input_shape, mean=0.0, std=1.0, **options):
    """A network of `keras.applications` that gets the values it was made for.

    What those are, its own `preprocess_input` tells. Where the network holds its
    preprocessing, they are pixels, with any weights. Elsewhere only pretrained weights
    are particular; without them the images stay as they are.

    Args:
        builder: such as `keras.applications.EfficientNetB0`.
        input_shape: `(height, width, channels)`.
        mean: per channel or one number, what images in [0, 1] were normalised by.
        std: the same.
        **options: of the builder; `weights` are None unless given.

    Raises:
        ValueError: for pretrained weights without the preprocessing that belongs to
            them.
    """
    options = {"weights": None, "pooling": "avg", "include_top": False} | options
    weights = options["weights"]
    black, contrast, reverse = _preprocessing(builder)
    inside = bool(np.all(contrast == 255) and not black.any())
    if inside and not options.get("include_preprocessing", True):
        if weights:
            raise ValueError(
                f"include_preprocessing=False received with weights={weights!r}, which "
                "expect that preprocessing; leave include_preprocessing out."
            )
        inside = False
    if not inside and not weights:
        return builder(input_shape=input_shape, **options)
    images = keras.Input(input_shape)
    if inside:  # Any number of channels, where the network takes it.
        x = _rescaled(images, (mean, std), (0.0, 1 / 255))
    else:
        x = keras.ops.flip(images, axis=-1) if reverse else images
        mean, std = (np.flip(v) if reverse else v for v in (mean, std))
        x = _rescaled(x, (mean, std), (-black / contrast, 1 / contrast))
    network = builder(input_shape=input_shape, input_tensor=x, **options)
    # The builder's own model takes a list of inputs, and warns of a single one.
    return keras.Model(images, network.outputs[0], name=network.name)


def _preprocessing(builder):
    """`(black, white - black, reversed)`: what the preprocessing of a network makes.

    The first two are per channel, in the order of the network.
    """
    prepare = sys.modules[inspect.unwrap(builder).__module__].preprocess_input
    black, white, red = (
        np.ravel(prepare(np.array(pixel, "float32").reshape(1, 1, 1, 3)))
        for pixel in ([0, 0, 0], [255, 255, 255], [255, 0, 0])
    )
    return black, white - black, bool(red[0] == black[0])


def _rescaled(images, given, wanted):
    """Images normalised by `given` (mean, std), normalised by `wanted` instead."""
    (mean, std), (new_mean, new_std) = given, wanted
    scale = np.divide(std, new_std)
    offset = np.subtract(mean, new_mean) / new_std
    layer = keras.layers.Rescaling(
        np.asarray(scale, "float32").tolist(),
        np.asarray(offset + 0 * scale, "float32").tolist(),
        # bfloat16 has too few digits for pixels.
        dtype="float32",
        name=_NAME,
    )
    return layer(images)


def ends(model, mean=0.0, std=1.0):
    """The values that black and white have for a network, `(lowest, highest)`.

    Args:
        model: made by `with_pixels` or `application`, or any other.
        mean: per channel or one number, what images in [0, 1] were normalised by.
        std: the same.
    """
    images = np.stack([_flat(model, 0.0), _flat(model, 1.0)])
    images = ((images - mean) / std).astype("float32")
    layer = next((x for x in getattr(model, "layers", ()) if x.name == _NAME), None)
    if layer is not None:
        images = keras.ops.convert_to_numpy(
            keras.Model(model.inputs[0], layer.output)(images)
        )
    return float(images.min()), float(images.max())


def _flat(model, value):
    """One image of this value that the model takes, float32 `(h, w, channels)`."""
    *sides, channels = (None, None, None)
    if getattr(model, "inputs", None):
        *sides, channels = model.inputs[0].shape[1:]
    return np.full([*(s or _SIDE for s in sides), channels or 1], value, "float32")
