"""Features of any images, with a trained encoder."""

from typing import Any

import numpy as np

from tfssl import data as data_lib
from tfssl import files
from tfssl.evaluation import features
from tfssl.tasks import arguments, groups, npz, resolve, runs
from tfssl.tasks.arguments import Path


@arguments.task
def embed(
    run: Path | Any,
    data: Any,
    out: Path | None = None,
    *,
    images: groups.Images,
    preprocessing: Any = None,
    batch_size: groups.Count = 256,
    verbose: groups.Verbose = 1,
):
    """Embeds images and, if asked, writes them to an `.npz` file.

    Args:
        run: folder of a run, or a `.keras` file. In Python also a `formats.Encoder`, as
            `tfssl.load` gives, or any Keras model together with `preprocessing`.
        data: where the images are, given as for `tfssl.pretrain`.
        out: path of the `.npz` file, or None. It holds `features` float32
            `(n, dim)`, `names` (n,) and `labels` int64 (n,), -1 where unknown.
        images: see `groups.Images`; without `channels` files are decoded to what the
            encoder takes, and with 16 bits for one of such images.
        preprocessing: `data.Preprocessing`; None takes the encoder's own.
        batch_size: images per forward pass.
        verbose: 0 silent, 1 progress.

    Returns:
        `features.Features`: `values` float32 `(n, dim)`, `labels`, `index`.

    Raises:
        ValueError: if no preprocessing is known, or the data cannot be read.
    """
    encoder, preprocessing = runs.encoder_of(run, preprocessing)
    source = images.open(
        data,
        channels=images.channels or preprocessing.channels,
        bit_depth=resolve.bit_depth(images.bit_depth, preprocessing),
    )
    if out is not None:
        files.check_writable(out)
    # Unreadable files are logged and left out: `names` says what is there.
    dataset = data_lib.labeled(
        source,
        preprocessing,
        batch_size=batch_size,
        bad_files=data_lib.pipeline.BadFiles(max_fraction=1.0),
    )
    found = features.extract(
        encoder,
        dataset,
        progress=bool(verbose),
        batches=-(-source.num_images // batch_size),
    )
    if out is not None:
        names = np.array([source.describe(int(i)) for i in found.index])
        npz.write(out, features=found.values, names=names, labels=found.labels)
    return found
