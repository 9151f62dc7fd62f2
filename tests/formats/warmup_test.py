import numpy as np
import pytest
import tensorflow as tf

from tfssl.data import preprocessing as preprocessing_lib
from tfssl.formats import warmup


def fields(data):
    """A protocol-buffer message as a list of (number, payload), by the wire format."""
    found, at = [], 0

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        assert key & 7 == 2  # Everything we write is length-delimited.
        length = varint()
        found.append((key >> 3, data[at : at + length]))
        at += length
        assert at <= len(data)
    return found


def parsed(log):
    """(model name, signature, {input: array}) of a PredictionLog."""
    ((number, predict_log),) = fields(log)
    assert number == 6
    ((number, request),) = fields(predict_log)
    assert number == 1
    inputs, spec = {}, None
    for number, payload in fields(request):
        if number == 1:
            spec = dict(fields(payload))
        else:
            assert number == 2
            entry = dict(fields(payload))
            proto = tf.make_tensor_proto(0)
            proto.ParseFromString(entry[2])
            inputs[entry[1].decode()] = tf.make_ndarray(proto)
    assert set(spec) == {1, 3}
    return spec[1].decode(), spec[3].decode(), inputs


def test_prediction_log_follows_the_wire_format():
    big = np.arange(1000, dtype=np.float32).reshape(1, 10, 100)  # Long lengths.
    log = warmup.prediction_log("digits", "float_images", {"images": big})
    name, signature, inputs = parsed(log)
    assert (name, signature) == ("digits", "float_images")
    np.testing.assert_array_equal(inputs["images"], big)


def test_bytes_keep_their_trailing_zeros():
    images = [b"ab\x00\x00", b"\x00"]
    log = warmup.prediction_log("m", "serving_default", {"encoded_images": images})
    assert parsed(log)[2]["encoded_images"].tolist() == images


def test_golden_bytes():
    # By hand: inputs {"x": float 1.0 scalar}; TensorProto: dtype 1 (08 01), empty
    # shape (12 00), float_val packed (2a 04 00 00 80 3f) = 10 bytes.
    tensor = bytes.fromhex("080112002a040000803f")
    entry = b"\x0a\x01x" + b"\x12\x0a" + tensor  # Key 1, value 2: 15 bytes.
    spec = b"\x0a\x01m" + b"\x1a\x01s"  # Name 1, signature_name 3: 6 bytes.
    request = b"\x0a\x06" + spec + b"\x12\x0f" + entry  # 25 bytes.
    expected = b"\x32\x1b" + b"\x0a\x19" + request  # predict_log 6, request 1.
    found = warmup.prediction_log("m", "s", {"x": np.float32(1.0)})
    assert found == expected


@pytest.fixture
def preprocessing():
    return preprocessing_lib.Preprocessing(size=4, channels=3)


def png(value):
    return tf.io.encode_png(tf.fill([5, 6, 3], tf.cast(value, tf.uint8))).numpy()


def test_requests_cover_every_signature(tmp_path, preprocessing):
    images = [png(10), png(200)]
    records = warmup.requests(images, preprocessing)
    warmup.write(tmp_path, "digits", records)
    path = tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    logs = [parsed(r.numpy()) for r in tf.data.TFRecordDataset([str(path)])]
    assert {name for name, _, _ in logs} == {"digits"}
    found = [(s, next(iter(inputs.values()))) for _, s, inputs in logs]
    assert [s for s, _ in found] == ["serving_default"] * 3 + [
        "uint8_images", "float_images",
    ]  # fmt: skip
    assert [v.tolist() for _, v in found[:3]] == [[images[0]], [images[1]], images]
    np.testing.assert_array_equal(found[3][1], np.full((1, 5, 6, 3), 10, np.uint8))
    assert found[3][1].dtype == np.uint8
    np.testing.assert_allclose(found[4][1], np.full((1, 4, 4, 3), 10 / 255), rtol=1e-6)


def test_bad_images_are_refused_before_anything_is_written(preprocessing):
    with pytest.raises(ValueError, match="Warm-up image 1 cannot be decoded"):
        warmup.requests([png(1), b"no image"], preprocessing)
    with pytest.raises(ValueError, match="image 0 is of type ndarray"):
        warmup.requests([np.zeros(3)], preprocessing)
    for images in ([], [png(1)] * 1000):
        with pytest.raises(ValueError, match=f"1 to 997 images, got {len(images)}"):
            warmup.requests(images, preprocessing)
