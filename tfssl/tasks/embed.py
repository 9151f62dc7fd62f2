"""Features of any images, with a trained encoder."""

import io
import os

import numpy as np

from tfssl import checks, files
from tfssl import data as data_lib
from tfssl.evaluation import features
from tfssl.tasks import resolve, runs


def embed(
    encoder,
    data,
    out=None,
    *,
    split=None,
    labels="auto",
    channels=None,
    bit_depth=8,
    data_dir=None,
    data_args=None,
    preprocessing=None,
    batch_size=256,
    progress=True,
):
    """Embeds images and, if asked, writes them to an `.npz` file.

    Args:
        encoder: an encoder of `tfssl.load`, the path of a run or `.keras` file, or
            any Keras model together with `preprocessing`.
        data: where the images are, see `data.open_source`.
        out: path of the `.npz` file, or None. It holds `features` float32
            `(n, dim)`, `names` (n,) and `labels` int64 (n,), -1 where unknown.
        split: part of the data.
        labels: `"auto"`, `"none"` or `"folders"`.
        channels: int or None for what the encoder takes.
        bit_depth: 8 or 16, of image files.
        data_dir: folder of prepared TFDS data.
        data_args: dict, further arguments of `data.open_source`.
        preprocessing: `data.Preprocessing`; None takes the encoder's own.
        batch_size: int, images per forward pass.
        progress: show a progress bar.

    Returns:
        `features.Features`: `values` float32 `(n, dim)`, `labels`, `index`.

    Raises:
        ValueError: if no preprocessing is known, or the data cannot be read.
    """
    checks.whole({"batch_size": batch_size}, "batch_size")
    if isinstance(encoder, str | os.PathLike):
        encoder = runs.load(encoder)
    preprocessing = preprocessing or getattr(encoder, "preprocessing", None)
    if preprocessing is None:
        raise ValueError(
            "This encoder carries no preprocessing; load it with tfssl.load, or "
            "pass preprocessing=tfssl.data.Preprocessing(...)."
        )
    source = resolve.source(
        data,
        data_args=data_args,
        split=split,
        labels=labels,
        channels=channels or preprocessing.channels,
        bit_depth=bit_depth,
        data_dir=data_dir,
    )
    out = files.expanded(out)
    if out is not None:
        files.check_writable(out)
    # Unreadable files are logged and left out: `names` says what is there.
    dataset = data_lib.labeled(
        source,
        preprocessing,
        batch_size=batch_size,
        bad_files=data_lib.pipeline.BadFiles(max_fraction=1.0),
    )
    found = features.extract(encoder, dataset, progress=progress)
    if out is not None:
        names = np.array([source.describe(int(i)) for i in found.index])
        content = io.BytesIO()
        np.savez(content, features=found.values, names=names, labels=found.labels)
        files.write_bytes(out, content.getvalue())
    return found
