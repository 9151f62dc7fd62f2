import tracemalloc

import numpy as np
import pytest

from tfssl.tasks import npz


def test_numpy_reads_what_is_written(tmp_path):
    arrays = {
        "features": np.arange(12, dtype=np.float32).reshape(3, 4),
        "turned": np.arange(6).reshape(2, 3).T,
        "names": np.array(["a", "bé", "c"]),
        "none": np.zeros((0, 5), np.float32),
    }
    path = tmp_path / "deep" / "x.npz"
    npz.write(path, **arrays)
    with np.load(path) as stored:
        assert set(stored) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(stored[name], array)
            assert stored[name].dtype == array.dtype
    assert [file.name for file in path.parent.iterdir()] == ["x.npz"]


def test_arrays_are_not_copied_whole(tmp_path):
    many = np.zeros(30_000_000, np.float32)
    tracemalloc.start()
    npz.write(tmp_path / "x.npz", features=many)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < many.nbytes / 2
    with np.load(tmp_path / "x.npz") as stored:
        assert stored["features"].shape == many.shape


def test_what_fails_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "x.npz"
    npz.write(path, features=np.ones(3))
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        npz.write(path, features=np.zeros(2), names=np.array([object()]))
    with np.load(path) as stored:
        np.testing.assert_array_equal(stored["features"], np.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]
