"""Arrays in `.npz` files, as `numpy.load` reads them, on any storage."""

import zipfile

import numpy as np

from tfssl import files


def write(path, **arrays):
    """Writes arrays as `numpy.savez` does, in pieces: none of them is copied whole.

    Args:
        path: of the file, which is replaced when all is written.
        **arrays: by their names in it.
    """
    files.write_in_pieces(path, lambda file: _write(file, arrays))


def _write(file, arrays):
    with zipfile.ZipFile(_Sink(file), "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


class _Sink:
    """A file that is written from its beginning to its end, as remote ones are."""

    def __init__(self, file):
        self._file = file

    def write(self, piece):
        self._file.write(piece)
        return len(piece)

    def flush(self):
        """Nothing: the file is whole when it is closed."""
