import re

import keras
import numpy as np
import pytest

from tests.methods.cases import tiny_tokenizer
from tfssl import models
from tfssl.formats import dall_e


def state_dict(width=8, blocks=1, groups=3, first=8, codes=12, seed=0):
    """Arrays as the classes of openai/DALL-E name and shape them, written by hand."""
    rng = np.random.default_rng(seed)
    found = {}

    def conv(name, inputs, outputs, kernel):
        scale = 1 / np.sqrt(inputs * kernel**2)
        found[f"{name}.w"] = rng.normal(size=(outputs, inputs, kernel, kernel)) * scale
        found[f"{name}.b"] = rng.normal(size=outputs) * 0.1

    def block(name, inputs, outputs, kernels):
        if inputs != outputs:
            conv(f"{name}.id_path", inputs, outputs, 1)
        hidden = outputs // 4
        ends = [inputs, hidden, hidden, hidden, outputs]
        for i, kernel in enumerate(kernels):
            conv(f"{name}.res_path.conv_{i + 1}", ends[i], ends[i + 1], kernel)

    widths = [width * 2**i for i in range(groups)]
    conv("encoder.blocks.input", 3, width, 7)
    conv("encoder.blocks.output.conv", widths[-1], codes, 1)
    conv("decoder.blocks.input", codes, first, 1)
    conv("decoder.blocks.output.conv", width, 6, 1)
    for part, sizes, before, kernels in (
        ("encoder", widths, width, (3, 3, 3, 1)),
        ("decoder", widths[::-1], first, (1, 3, 3, 3)),
    ):
        for g, size in enumerate(sizes, start=1):
            for b in range(1, blocks + 1):
                name = f"{part}.blocks.group_{g}.block_{b}"
                block(name, before, size, kernels)
                before = size
    return found


def slow_conv(x, kernel, bias):
    """`(h, w, c)` by `(out, in, k, k)`, zeros around, as PyTorch does it."""
    side = kernel.shape[-1] // 2
    padded = np.pad(x, [(side, side), (side, side), (0, 0)])
    height, width = x.shape[:2]
    out = np.zeros((height, width, len(kernel))) + bias
    for row in range(kernel.shape[2]):
        for column in range(kernel.shape[3]):
            part = padded[row : row + height, column : column + width]
            out += part @ kernel[:, :, row, column].T
    return out


def slow_pass(arrays, part, x, groups=3, blocks=1):
    """The networks of openai/DALL-E, in plain numbers."""

    def conv(name, x):
        place = f"{part}.blocks.{name}"
        return slow_conv(x, arrays[f"{place}.w"], arrays[f"{place}.b"])

    x = conv("input", x)
    for g in range(1, groups + 1):
        if g > 1 and part == "encoder":
            height, width, channels = x.shape
            halves = x.reshape(height // 2, 2, width // 2, 2, channels)
            x = halves.max(axis=(1, 3))
        elif g > 1:
            x = x.repeat(2, axis=0).repeat(2, axis=1)
        for b in range(1, blocks + 1):
            name = f"group_{g}.block_{b}"
            has_path = f"{part}.blocks.{name}.id_path.w" in arrays
            straight = conv(f"{name}.id_path", x) if has_path else x
            for i in range(1, 5):
                x = conv(f"{name}.res_path.conv_{i}", np.maximum(x, 0))
            x = straight + x / (groups * blocks) ** 2
    return conv("output.conv", np.maximum(x, 0))


def saved(folder, arrays):
    path = str(folder / "dall_e.npz")
    np.savez(path, **arrays)
    return path


def test_both_networks_compute_what_theirs_do(tmp_path):
    arrays = state_dict()
    tokenizer = dall_e.load(saved(tmp_path, arrays))
    assert tokenizer.settings == tiny_tokenizer().settings
    image = np.random.default_rng(1).uniform(size=(8, 8, 3))
    logits = np.array(tokenizer.logits(image[np.newaxis].astype("float32")))[0]
    expected = slow_pass(arrays, "encoder", 0.1 + 0.8 * image)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    tokens = expected.argmax(-1)
    outputs = slow_pass(arrays, "decoder", np.eye(12)[tokens])
    picture = np.clip((1 / (1 + np.exp(-outputs[..., :3])) - 0.1) / 0.8, 0, 1)
    np.testing.assert_allclose(
        np.array(tokenizer.images(tokens[np.newaxis]))[0], picture, atol=1e-5
    )
    assert tokenizer.perplexity is None


def test_names_of_the_public_weights_account_for_every_variable():
    with keras.StatelessScope(initialize_variables=False):
        tokenizer = models.Tokenizer()
    found = dall_e.names(tokenizer)
    wanted = state_dict(width=4, blocks=2, groups=4, first=4, codes=4)
    assert set(found) == set(wanted)  # Names do not depend on widths.
    assert len(found) == 2 * (2 + 8 * 4 + 3) + 2 * (2 + 8 * 4 + 4)
    variables = [id(v) for v in found.values()]
    weights = tokenizer.encoder.weights + tokenizer.decoder.weights
    assert sorted(variables) == sorted(map(id, weights))


def test_files_that_do_not_fit(tmp_path):
    arrays = state_dict()
    name = "decoder.blocks.group_2.block_1.res_path.conv_2.w"
    less = {k: v for k, v in arrays.items() if k != name}
    with pytest.raises(ValueError, match=re.escape(f"{name!r} is missing (1 missing")):
        dall_e.load(saved(tmp_path, less))
    with pytest.raises(ValueError, match="'other' is not known"):
        dall_e.load(saved(tmp_path, arrays | {"other": np.zeros(2)}))
    wrong = arrays | {name: np.zeros((3, 3, 3, 3))}
    with pytest.raises(ValueError, match=r"has the shape \(3, 3, 3, 3\)"):
        dall_e.load(saved(tmp_path, wrong))
    encoder = {k: v for k, v in arrays.items() if k.startswith("encoder")}
    with pytest.raises(ValueError, match="has no kernel 'decoder"):
        dall_e.load(saved(tmp_path, encoder))
    (tmp_path / "weights.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is no .npz file"):
        dall_e.load(str(tmp_path / "weights.npz"))
    with pytest.raises(ValueError, match="There is no file of weights"):
        dall_e.load(str(tmp_path / "nowhere.npz"))
