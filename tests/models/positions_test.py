"""Positions of patches: at their own grid, at another one, relative ones."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl.models import positions


def _maps(rows, columns, dim=8):
    return np.zeros((1, rows, columns, dim), "float32")


def test_sines_and_cosines_by_hand():
    made = positions.sine_cosine(3, 4, 8)
    for row in range(3):
        for column in range(4):
            angles = np.array([1.0, 0.01])
            expected = np.concatenate(
                [
                    np.sin(column * angles),
                    np.cos(column * angles),
                    np.sin(row * angles),
                    np.cos(row * angles),
                ]
            )
            np.testing.assert_allclose(made[row, column], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["learned", "sincos", "none"])
def test_tokens_are_patches_at_their_places(kind):
    layer = positions.Tokens((2, 3), positions=kind)
    maps = np.random.default_rng(0).normal(size=(2, 2, 3, 8)).astype("float32")
    tokens = np.array(layer(maps))
    places = {
        "learned": lambda: np.array(layer.table),
        "sincos": lambda: positions.sine_cosine(2, 3, 8),
        "none": lambda: np.zeros((2, 3, 8)),
    }[kind]()
    np.testing.assert_allclose(tokens[:, 0], np.tile(layer.first[0], (2, 1)))
    expected = (maps + places).reshape(2, 6, 8)
    np.testing.assert_allclose(tokens[:, 1:], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["learned", "sincos", "none"])
def test_the_number_of_tokens_is_known_of_batches_of_any_size(kind):
    layer = positions.Tokens((2, 3), positions=kind)
    layer.build((None, None, None, 8))

    @tf.function(input_signature=[tf.TensorSpec((None, 2, 3, 8))])
    def run(maps):
        tokens = layer(maps)
        assert tokens.shape[1] == 7
        return tokens

    np.testing.assert_array_equal(run(_maps(2, 3)), layer(_maps(2, 3)))


def test_learned_positions_of_another_grid_are_a_bicubic_resize():
    layer = positions.Tokens((6, 4), class_token=False)
    layer.build((None, None, None, 8))
    layer.table.assign(np.random.default_rng(0).normal(size=(6, 4, 8)))
    for size in ((3, 2), (9, 7), (6, 5)):
        expected = tf.image.resize(
            np.array(layer.table)[None], size, "bicubic", antialias=True
        )
        made = np.array(layer(_maps(*size))).reshape(1, *size, 8)
        np.testing.assert_allclose(made, expected, atol=1e-5)


def test_positions_of_an_unknown_grid_are_refused():
    layer = positions.Tokens((2, 2))
    layer.build((None, None, None, 8))

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 8))])
    def run(maps):
        return layer(maps)

    with pytest.raises(ValueError, match="cannot be interpolated; give images of a"):
        run(_maps(2, 2))


def _table(layer):
    random = np.random.default_rng(0)
    layer.build()
    for variable in layer.variables:
        variable.assign(random.normal(size=variable.shape))
    return np.array(layer.table)


@pytest.mark.parametrize("class_token", [True, False])
def test_relative_bias_depends_on_the_offset_alone(class_token):
    layer = positions.RelativeBias((3, 4), 2, class_token=class_token)
    table, first = _table(layer), int(class_token)
    bias = np.array(layer.bias(12 + first))
    assert bias.shape == (1, 2, 12 + first, 12 + first)
    for i in range(12):
        for j in range(12):
            down, right = i // 4 - j // 4, i % 4 - j % 4
            expected = table[down + 2, right + 3]
            np.testing.assert_allclose(bias[0, :, i + first, j + first], expected)
    if class_token:
        itself, seen, sees = np.array(layer.of_class)
        np.testing.assert_allclose(bias[0, :, 0, 0], itself)
        np.testing.assert_allclose(bias[0, :, 5, 0], seen)
        np.testing.assert_allclose(bias[0, :, 0, 5], sees)


@pytest.mark.parametrize("side, number", [(4, 6), (4, 7), (6, 4), (8, 3), (2, 5)])
def test_offsets_of_another_grid_keep_their_middle_and_ends(side, number):
    weights = positions.offset_weights(side, number)
    assert weights.shape == (2 * number - 1, 2 * side - 1)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)
    own = np.eye(2 * side - 1)
    np.testing.assert_allclose(weights[number - 1], own[side - 1], atol=1e-6)
    np.testing.assert_allclose(weights[-1], own[-1], atol=1e-5)
    if number > side > 2:  # The nearest offset stays what it is.
        np.testing.assert_allclose(weights[number], own[side], atol=1e-5)


def test_offsets_lie_at_distances_that_grow_geometrically():
    # 1 + q + q² = 7 for q = 2: offsets 0, 1, 2, 3 go to 0, 1, 3, 7.
    weights = positions.offset_weights(4, 8)
    for old, new in enumerate((0, 1, 3, 7)):
        expected = np.eye(7)[old + 3]
        np.testing.assert_allclose(weights[new + 7], expected, atol=1e-5)


def test_relative_bias_takes_another_square_grid_and_no_other():
    layer = positions.RelativeBias((2, 2), 3)
    _table(layer)
    assert layer.bias(17).shape == (1, 3, 17, 17)
    with pytest.raises(ValueError, match="12 patches.*2 x 2.*square"):
        layer.bias(13)
    with pytest.raises(ValueError, match="An unknown number of patches"):
        layer.bias(None)


def test_relative_positions_are_not_misread():
    """Of 8 x 2 patches there are as many as of 4 x 4."""
    layer = positions.Tokens((4, 4), positions="none", relative=True)
    for grid in ((4, 4), (6, 6)):
        assert layer(_maps(*grid)).shape[1] == math.prod(grid) + 1
    with pytest.raises(ValueError, match="8 x 2 patches received by .* 4 x 4 patches"):
        layer(_maps(8, 2))
    positions.check_relative((2, 8), (2, 8))
    for grid in ((4, 4), (8, 2), (2, 4)):
        with pytest.raises(ValueError, match="interpolated to squares of another num"):
            positions.check_relative((2, 8), grid)


def test_layers_are_rebuilt_from_their_configs():
    for layer in (
        positions.Tokens((2, 3), positions="sincos", class_std=1e-6),
        positions.Tokens((2, 3), distillation_token=True),
        positions.Tokens((2, 3), relative=True),
        positions.RelativeBias((2, 3), 4, class_token=False),
    ):
        again = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(layer)
        )
        assert again.get_config() == layer.get_config()
