import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfssl.data import preprocessing


def _image(height, width, channels=3, dtype=np.uint8, seed=0):
    top = {np.uint8: 256, np.uint16: 65536}.get(dtype)
    rng = np.random.default_rng(seed)
    shape = (height, width, channels)
    if top:
        return rng.integers(0, top, shape).astype(dtype)
    return rng.uniform(size=shape).astype(dtype)


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _bilinear(image, size):
    """Half-pixel bilinear resize, one output pixel after the other, in float64."""
    image = image.astype(np.float64)
    height, width, channels = image.shape
    out = np.zeros((size, size, channels))

    def taps(i, extent):
        place = (i + 0.5) * extent / size - 0.5
        low = int(np.floor(place))
        part = place - low
        return [
            (min(max(low, 0), extent - 1), 1 - part),
            (min(max(low + 1, 0), extent - 1), part),
        ]

    for y in range(size):
        for x in range(size):
            for row, a in taps(y, height):
                for column, b in taps(x, width):
                    out[y, x] += a * b * image[row, column]
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int32])
@pytest.mark.parametrize("shape, size", [((7, 11), 5), ((6, 4), 9), ((8, 8), 8)])
def test_apply_resizes_bilinearly_at_half_pixels(dtype, shape, size):
    values = {np.uint16: np.uint16, np.float32: np.float32}.get(dtype, np.uint8)
    white = {np.uint16: 65535.0, np.float32: 1.0}.get(dtype, 255.0)
    image = _image(*shape, dtype=values).astype(dtype)
    one = preprocessing.Preprocessing(size=size, max_value=white)
    out = one.apply(tf.constant(image))
    assert out.dtype == tf.float32 and out.shape == (size, size, 3)
    np.testing.assert_allclose(out, _bilinear(image, size) / white, atol=1e-5)


@pytest.mark.parametrize(
    "method, pil", [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)]
)
def test_antialiased_shrinking_is_that_of_pil(method, pil):
    image = _image(24, 18)
    one = preprocessing.Preprocessing(size=7, resize=method, antialias=True)
    out = one.apply(tf.constant(image))
    # PIL in float mode, channel by channel: no rounding to whole values between.
    planes = [
        np.asarray(
            Image.fromarray(image[..., c].astype(np.float32)).resize((7, 7), pil)
        )
        for c in range(3)
    ]
    expected = np.clip(np.stack(planes, -1) / 255, 0, 1)
    np.testing.assert_allclose(out, expected, atol=1e-4)
    plain = preprocessing.Preprocessing(size=7, resize=method).apply(tf.constant(image))
    assert np.abs(plain - expected).max() > 0.02


def test_bicubic_stays_in_range():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    one = preprocessing.Preprocessing(size=16, resize="bicubic")
    out = one.apply(tf.constant(image)).numpy()
    assert out.min() == 0.0 and out.max() == 1.0
    assert len(np.unique(out.round(4))) > 2  # It did resample.


# 0.875 of the shorter side, 16, is 14; 0.5 of 9 is 4.5, rounded to even, 4.
@pytest.mark.parametrize(
    "shape, crop, box",
    [
        ((16, 24), 0.875, (1, 5, 14)),
        ((25, 16), 0.875, (5, 1, 14)),
        ((9, 9), 0.5, (2, 2, 4)),
        ((3, 5), 0.01, (1, 2, 1)),
    ],
)
def test_apply_keeps_the_central_square(shape, crop, box):
    image = _image(*shape)
    top, left, side = box
    square = image[top : top + side, left : left + side]
    out = preprocessing.Preprocessing(size=side, crop=crop).apply(tf.constant(image))
    np.testing.assert_allclose(out, square / 255.0, atol=1e-6)


def test_without_crop_the_whole_image_is_squeezed():
    image = _image(4, 8)
    out = preprocessing.Preprocessing(size=4).apply(tf.constant(image))
    # Half as wide: each output pixel is the mean of two neighbours.
    expected = (image[:, ::2] / 255.0 + image[:, 1::2] / 255.0) / 2
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_mean_and_std_come_after_scaling():
    image = _image(5, 5)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    one = preprocessing.Preprocessing(size=5, mean=mean, std=std)
    expected = (image / 255.0 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(one.apply(tf.constant(image)), expected, atol=1e-5)
    batch = np.stack([image, image[::-1]]) / np.float32(255)
    normal = one.normalize(tf.constant(batch, tf.float32))
    np.testing.assert_allclose(normal[1], expected[::-1], atol=1e-5)
    one_number = preprocessing.Preprocessing(size=5, mean=0.5, std=(0.5,))
    assert one_number.mean == (0.5,) * 3 and one_number.std == (0.5,) * 3
    np.testing.assert_allclose(
        one_number.apply(tf.constant(image)), image / 127.5 - 1, atol=1e-5
    )


def test_raw_gives_pixel_values_back():
    image = _image(6, 6)
    one = preprocessing.Preprocessing(size=6, mean=0.4, std=0.2)
    np.testing.assert_allclose(one.raw().apply(tf.constant(image)), image, atol=1e-3)
    deep = _image(6, 6, dtype=np.uint16)
    one = preprocessing.Preprocessing(size=6, max_value=65535.0, mean=0.4)
    np.testing.assert_allclose(one.raw().apply(tf.constant(deep)), deep, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_other_numbers_of_channels(channels):
    image = _image(6, 9, channels)
    one = preprocessing.Preprocessing(size=4, channels=channels)
    np.testing.assert_allclose(
        one.apply(tf.constant(image)), _bilinear(image, 4) / 255, atol=1e-5
    )


def test_apply_encoded_is_decode_then_apply():
    image = _image(9, 6)
    one = preprocessing.Preprocessing(size=5, crop=0.8)
    out = one.apply_encoded(tf.constant(_png(image)))
    np.testing.assert_array_equal(out, one.apply(tf.constant(image)))


def test_sixteen_bit_png_keeps_its_depth():
    # Levels that 8 bits cannot tell apart.
    deep = (np.arange(36, dtype=np.uint16) * 3 + 30000).reshape(6, 6)
    file = _png(deep)
    one = preprocessing.Preprocessing(size=6, channels=1, max_value=65535.0)
    decoded = one.decode(tf.constant(file))
    assert decoded.dtype == tf.uint16
    np.testing.assert_array_equal(decoded[..., 0], deep)
    out = one.apply_encoded(tf.constant(file))
    np.testing.assert_allclose(out[..., 0], deep / 65535.0, atol=1e-7)
    # An 8-bit file means the same light in a 16-bit encoder: 255 is white.
    shallow = _image(6, 6, 1)[..., 0]
    out = one.apply_encoded(tf.constant(_png(shallow)))
    np.testing.assert_allclose(out[..., 0], shallow / 255.0, atol=1e-6)


def test_files_for_an_encoder_of_floating_images():
    image = _image(5, 5)
    one = preprocessing.Preprocessing(size=5, max_value=1.0)
    decoded = one.decode(tf.constant(_png(image)))
    assert decoded.dtype == tf.float32
    np.testing.assert_allclose(decoded, image / 255.0, atol=1e-6)
    out = one.apply_encoded(tf.constant(_png(image)))
    np.testing.assert_allclose(out, image / 255.0, atol=1e-6)


def test_runs_in_a_graph_on_images_of_any_size():
    one = preprocessing.Preprocessing(size=5, crop=0.9)
    spec = tf.TensorSpec([None, None, 3], tf.uint8)
    graph = tf.function(one.apply, input_signature=[spec])
    for shape in [(8, 12), (13, 7)]:
        image = tf.constant(_image(*shape))
        out = graph(image)
        assert out.shape == (5, 5, 3)
        np.testing.assert_allclose(out, one.apply(image), atol=1e-6)
        np.testing.assert_array_equal(one.apply(image.numpy()), one.apply(image))


def test_config_round_trip_through_json():
    one = preprocessing.Preprocessing(
        size=24,
        channels=4,
        max_value=65535.0,
        crop=0.875,
        resize="bicubic",
        antialias=True,
        mean=(0.1, 0.2, 0.3, 0.4),
        std=0.5,
    )
    config = json.loads(json.dumps(one.get_config()))
    again = preprocessing.Preprocessing.from_config(config)
    assert again == one
    assert config["std"] == [0.5] * 4 and config["crop"] == 0.875
    with pytest.raises(ValueError, match="does not know the settings sise"):
        preprocessing.Preprocessing.from_config({"sise": 3})


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"size": 0}, "size=0"),
        ({"size": 4, "channels": 0}, "channels=0"),
        ({"size": 4, "crop": 0.0}, "crop=0.0"),
        ({"size": 4, "crop": 1.1}, "crop=1.1"),
        ({"size": 4, "max_value": 0}, "max_value=0"),
        ({"size": 4, "resize": "area"}, "resize='area'"),
        ({"size": 4, "mean": (0.1, 0.2)}, "2 values of mean for 3 channels"),
        ({"size": 4, "mean": "0.5"}, "mean='0.5' received, expected one number"),
        ({"size": 4, "std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"size": 4, "mean": 123.7}, "mean=.123.7.* divide mean and std"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(ValueError, match=message):
        preprocessing.Preprocessing(**fields)


def test_numbers_of_numpy_are_numbers():
    plain = preprocessing.Preprocessing(size=4, mean=0.5, std=(0.25, 0.5, 1.0))
    std = np.array([0.25, 0.5, 1.0], np.float32)
    given = preprocessing.Preprocessing(size=4, mean=np.float32(0.5), std=std)
    assert given == plain


def test_other_channels_than_promised():
    one = preprocessing.Preprocessing(size=4)
    with pytest.raises(ValueError, match="3 channels got an image of 1"):
        one.apply(tf.zeros([6, 6, 1], tf.uint8))


@pytest.mark.parametrize("dtype, max_value", [("uint16", 255), ("uint8", 65535)])
def test_another_depth_than_promised(dtype, max_value):
    one = preprocessing.Preprocessing(size=4, max_value=max_value)
    bits = 16 if max_value > 255 else 8
    message = f"up to {max_value} got an image of {dtype}; .*bit_depth={bits}"
    with pytest.raises(ValueError, match=message):
        one.apply(tf.zeros([6, 6, 3], dtype))


@pytest.mark.parametrize(
    "dtype, max_value",
    [("uint8", 1.0), ("uint16", 1.0), ("int64", 1.0), ("uint8", 100), ("uint16", 4095)],
)
def test_integers_of_another_range_than_promised(dtype, max_value):
    one = preprocessing.Preprocessing(size=4, max_value=max_value)
    message = (
        f"up to {max_value:g} got an image of {dtype}; convert it to floats from 0 to "
        rf"{max_value:g}\.$"
    )
    with pytest.raises(ValueError, match=message):
        one.apply(tf.ones([6, 6, 3], dtype))
    pixels = one.apply(tf.fill([6, 6, 3], max_value / 2))
    np.testing.assert_allclose(pixels, np.full((4, 4, 3), 0.5))


def test_an_image_without_pixels():
    one = preprocessing.Preprocessing(size=4)
    with pytest.raises(ValueError, match=r"shape \(0, 6, 3\) has no pixels"):
        one.apply(tf.zeros([0, 6, 3], tf.uint8))


def test_bytes_that_are_no_image():
    one = preprocessing.Preprocessing(size=4)
    for encoded in (b"", b"hello", _png(_image(9, 9))[:40]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            one.apply_encoded(tf.constant(encoded))


def test_a_batch_is_refused():
    with pytest.raises(
        ValueError, match="takes one image .* got the shape .2, 4, 4, 3"
    ):
        preprocessing.Preprocessing(size=4).apply(np.zeros((2, 4, 4, 3), np.uint8))
