"""The public weights of DALL-E's tokenizer, from a file with its two state dicts.

OpenAI's `encoder.pkl` and `decoder.pkl` are pickled PyTorch modules, which PyTorch and
the `dall_e` package open. Where these are at hand, one line makes plain arrays of them:

    import numpy, torch; numpy.savez("dall_e.npz", **{f"{part}.{name}": tensor.numpy()
        for part in ("encoder", "decoder")
        for name, tensor in torch.load(
            f"{part}.pkl", map_location="cpu", weights_only=False
        ).state_dict().items()})
"""

import math
import re
import zipfile

import numpy as np
import tensorflow as tf

from tfssl import checks, files, models

# A convolution of a block, by the name of its layer here.
_BLOCK = re.compile(r"(group_\d+)_(block_\d+)_(id_path|conv_\d)$")


def load(path):
    """A tokenizer with the weights of a file.

    Its sizes are those of the weights: the vocabulary, the widths, the groups (and with
    them `downsampling`) and the blocks.

    Args:
        path: an `.npz` file with the arrays of `encoder.…` and `decoder.…`, named as in
            the state dicts of openai/DALL-E: kernels `….w` `(out, in, height, width)`
            and biases `….b`, of any float type.

    Returns:
        A `models.Tokenizer` named `"dall_e"`. Its `usage` is not known.

    Raises:
        ValueError: if there is no such file, or its arrays are not exactly those of
            such a tokenizer.

    Reference:
        openai/DALL-E, `dall_e/encoder.py`, `dall_e/decoder.py`, `dall_e/utils.py`.
    """
    arrays = _read(path)
    tokenizer = models.Tokenizer(**_settings(arrays, path), name="dall_e")
    assign(tokenizer, arrays, path)
    return tokenizer


def names(tokenizer):
    """Where every variable of a tokenizer lies in DALL-E's state dicts.

    Args:
        tokenizer: a `models.Tokenizer`.

    Returns:
        Dict of the name of an array, as `"encoder.blocks.input.w"`, to the variable.
    """
    found = {}
    for part in (tokenizer.encoder, tokenizer.decoder):
        for layer in part.layers:
            if layer.weights:
                place = f"{part.name}.blocks.{_theirs(layer.name)}"
                found[f"{place}.w"], found[f"{place}.b"] = layer.kernel, layer.bias
    return found


def assign(tokenizer, arrays, path):
    """Gives a tokenizer the weights of DALL-E's state dicts.

    Args:
        tokenizer: a `models.Tokenizer`.
        arrays: dict of name to array, as for `load`.
        path: where they come from, for messages.

    Raises:
        ValueError: unless there is one array for every variable, of its shape, and no
            other; nothing is changed then.
    """
    known = names(tokenizer)
    missing, more = sorted(set(known) - set(arrays)), sorted(set(arrays) - set(known))
    if missing or more:
        told = f"{missing[0]!r} is missing" if missing else f"{more[0]!r} is not known"
        raise ValueError(
            f"{path!r} does not hold exactly the arrays of this tokenizer: {told} "
            f"({len(missing)} missing, {len(more)} others); make it of both state "
            "dicts of openai/DALL-E, see tfssl.formats.dall_e."
        )
    values = {}
    for name, variable in known.items():
        value = np.asarray(arrays[name], np.float32)
        # (out, in, height, width) -> (height, width, in, out).
        values[name] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        if values[name].shape != tuple(variable.shape):
            raise ValueError(
                f"{name} in {path!r} has the shape {value.shape}, which makes "
                f"{values[name].shape}, expected {tuple(variable.shape)}."
            )
    for name, variable in known.items():
        variable.assign(values[name])


def _theirs(name):
    """The name of one of our layers there, without `.w` and `.b`."""
    inside = _BLOCK.match(name)
    if not inside:
        return {"input": "input", "output_conv": "output.conv"}[name]
    group, block, conv = inside.groups()
    conv = conv if conv == "id_path" else f"res_path.{conv}"
    return f"{group}.{block}.{conv}"


def _read(path):
    checks.path({"path": path}, "path")
    path = files.expanded(path)
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
        raise ValueError(f"There is no file of weights at {path!r}.")
    try:
        with tf.io.gfile.GFile(path, "rb") as file, np.load(file) as archive:
            return {name: archive[name] for name in archive.files}
    except (AttributeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path!r} is no .npz file of plain arrays; make it of the state dicts of "
            "openai/DALL-E, see tfssl.formats.dall_e."
        ) from error


def _settings(arrays, path):
    """The arguments of the tokenizer that has weights of these shapes."""

    def shape(name):
        if name not in arrays or np.ndim(arrays[name]) != 4:
            raise ValueError(
                f"{path!r} has no kernel {name!r}; make it of both state dicts of "
                "openai/DALL-E, see tfssl.formats.dall_e."
            )
        return np.shape(arrays[name])

    width, channels = shape("encoder.blocks.input.w")[:2]
    outputs = shape("decoder.blocks.output.conv.w")[0]
    inside = re.compile(r"encoder\.blocks\.group_(\d+)\.block_(\d+)\.")
    places = [found.groups() for found in map(inside.match, arrays) if found]
    if not places:
        raise ValueError(f"{path!r} has no blocks (encoder.blocks.group_1.block_1.…).")
    groups, blocks = (max(map(int, numbers)) for numbers in zip(*places))
    return {
        "vocabulary": shape("encoder.blocks.output.conv.w")[0],
        "downsampling": int(math.pow(2, groups - 1)),
        "width": width,
        "blocks": blocks,
        "decoder_width": shape("decoder.blocks.input.w")[0],
        "channels": channels,
        "likelihood": "mse" if outputs == channels else "logit_laplace",
    }
