import keras
import numpy as np
import pytest
import tensorflow as tf

from tfssl import models

# scikit-image 0.26.0 (skimage.color.rgb2lab, rgb2ycbcr) of these, in float64.
_RGB = [
    [0.0, 0.0, 0.0],
    [1.0, 1.0, 1.0],
    [1.0, 0.0, 0.0],
    [0.0, 1.0, 0.0],
    [0.0, 0.0, 1.0],
    [0.5, 0.5, 0.5],
    [0.04, 0.03, 0.002],
    [0.2, 0.6, 0.9],
    [0.04045, 0.0405, 0.09],
]
_LAB = [
    [0.0, 0.0, 0.0],
    [100.0, -2.45493786e-03, 4.65342115e-03],
    [53.2405879, 80.0923082, 67.2027510],
    [87.7350995, -86.1830297, 83.1797032],
    [32.2956726, 79.1855909, -107.857300],
    [53.3889647, -1.46849652e-03, 2.78358687e-03],
    [2.10483662, -0.326082796, 2.93714976],
    [60.9295320, -3.06015532, -46.8376536],
    [3.18322480, 2.47271469, -6.74035633],
]
_YCBCR = [
    [16.0, 128.0, 128.0],
    [235.0, 128.0, 128.0],
    [81.481, 90.203, 240.0],
    [144.553, 53.797, 34.214],
    [40.966, 240.0, 109.786],
    [125.5, 128.0, 128.0],
    [22.525762, 124.48603, 129.629992],
    [128.6974, 176.7188, 77.7358],
    [26.10204295, 133.54588985, 127.092807],
]


def _plain_lab(red, green, blue):
    """One pixel, as the standards have it: sRGB, XYZ, CIE 1976."""
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
        for v in (red, green, blue)
    ]
    rows = (
        (0.412453, 0.357580, 0.180423),
        (0.212671, 0.715160, 0.072169),
        (0.019334, 0.119193, 0.950227),
    )
    f = []
    for row, white in zip(rows, (0.95047, 1.0, 1.08883)):
        t = sum(w * v for w, v in zip(row, linear)) / white
        f.append(t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116)
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@pytest.mark.parametrize(
    "function, expected", [(models.rgb_to_lab, _LAB), (models.rgb_to_ycbcr, _YCBCR)]
)
def test_values_are_scikit_images(function, expected):
    np.testing.assert_allclose(function(np.array(_RGB)), expected, rtol=1e-8, atol=1e-8)
    found = function(np.array(_RGB, np.float32))
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert function(np.array(_RGB, np.float16)).dtype == "float32"


def test_lab_of_any_pixel_is_the_plain_form():
    pixels = np.random.default_rng(0).uniform(size=(4, 5, 3)) ** 2
    expected = np.array([_plain_lab(*pixel) for pixel in pixels.reshape(-1, 3)])
    found = np.array(models.rgb_to_lab(pixels))
    np.testing.assert_allclose(found.reshape(-1, 3), expected, rtol=1e-9, atol=1e-9)


def test_black_has_a_finite_gradient():
    black = tf.zeros((1, 1, 1, 3))
    with tf.GradientTape() as tape:
        tape.watch(black)
        lab = models.rgb_to_lab(black)
    assert np.isfinite(tape.gradient(lab, black)).all()


@pytest.mark.parametrize(
    "layer, plain, mean, std",
    [
        (models.Lab, _LAB, (50, 6.025, -6.6895), (50, 92.208, 101.1675)),
        (
            models.YCbCr,
            _YCBCR,
            (116.151, 121.08, 132.342),
            (109.5, 111.855, 111.964),
        ),
    ],
)
def test_layers_normalise_and_leave_further_channels(layer, plain, mean, std):
    more = np.linspace(0, 1, 18).reshape(1, 3, 3, 2)
    images = np.concatenate([np.reshape(_RGB, (1, 3, 3, 3)), more], -1)
    colors = (np.reshape(plain, (1, 3, 3, 3)) - mean) / std
    found = layer()(images.astype(np.float32)).numpy()
    np.testing.assert_allclose(found[..., :3], colors, atol=1e-5)
    np.testing.assert_array_equal(found[..., 3:], more.astype(np.float32))
    assert layer().variables == []
    with pytest.raises(ValueError, match=r"1 channel\(s\) received for .* red, green"):
        layer()(np.zeros((1, 4, 4, 1), np.float32))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_leaves_colours_wide(policy, tmp_path):
    keras.mixed_precision.set_global_policy(policy)
    try:
        inputs = keras.Input((3, 3, 3))
        model = keras.Model(inputs, models.Lab(name="lab")(inputs))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    images = np.reshape(_RGB, (1, 3, 3, 3)).astype(np.float32)
    found = model(images)
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, models.Lab()(images))
    model.save(tmp_path / "lab.keras")
    again = keras.saving.load_model(tmp_path / "lab.keras")
    np.testing.assert_array_equal(again(images), found)


def test_it_compiles_as_one_function_of_a_saved_model(tmp_path):
    inputs = keras.Input((3, 3, 3))
    model = keras.Model(inputs, models.Lab()(inputs))
    images = np.reshape(_RGB, (1, 3, 3, 3)).astype(np.float32)
    model.export(tmp_path / "lab", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "lab")).serve(images)
    np.testing.assert_allclose(served, model(images), atol=1e-6)
    compiled = tf.function(model, jit_compile=True)(tf.constant(images))
    np.testing.assert_allclose(compiled, model(images), atol=1e-5)
