import base64
import io

import numpy as np
import pytest
from PIL import Image

from tfssl.evaluation import pictures


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3)])
def test_pixels_arrive_unchanged(shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    kind, _, data = pictures.data_url(image).partition(",")
    assert kind == "data:image/png;base64"
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    np.testing.assert_array_equal(found, image)


def test_png_bytes_are_taken_as_they_are():
    assert pictures.data_url(b"png") == "data:image/png;base64,cG5n"


def test_floats_are_refused():
    with pytest.raises(ValueError, match="uint8 or uint16, got float32"):
        pictures.data_url(np.zeros((2, 2), np.float32))
